"""The command line: `python -m benchmarks --help`."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import click
from rich.console import Console

from benchmarks import data, history, measuring, metadata, plot, report, scale, targets, work
from benchmarks.measuring import Book, Case, Part, Sizes
from benchmarks.targets import Target

PARTS = (*metadata.PARTS, *data.PARTS, *work.PARTS, *history.PARTS, *scale.PARTS)
WIDTH_PIPED = 200
"""Columns of the tables when the output is no terminal."""


def _selected(names: tuple[str, ...]) -> list[Part]:
    """Return the parts that `--families` names: a family, or one part of it."""
    wanted = [name for text in names for name in text.split(",") if name]
    for name in wanted:
        if not any(name in (part.family, part.title) for part in PARTS):
            known = ", ".join(dict.fromkeys(part.title for part in PARTS))
            raise click.BadParameter(f"{name!r} is none of: {known}", param_hint="--families")
    return [part for part in PARTS if not wanted or part.family in wanted or part.title in wanted]


def _against(texts: tuple[str, ...]) -> dict[str, Path]:
    """Take `LABEL=DIR` apart."""
    found = {}
    for text in texts:
        label, equals, path = text.partition("=")
        if not equals or not label or not Path(path).is_dir():
            raise click.BadParameter(f"{text!r} is not LABEL=DIR of a directory", param_hint="--against")
        found[label] = Path(path)
    return found


@contextlib.contextmanager
def _targets(part: Part, against: dict[str, Path], sizes: Sizes) -> Iterator[list[Target]]:
    """Make the targets of a part, fresh, and take them away."""
    with contextlib.ExitStack() as stack:
        if part.title == "history/behind":
            made: list[Target] = []
            for count in sizes.snapshots_behind:
                target = stack.enter_context(targets.tzfs(history.label_of(count)))
                history.take_many(target, count)
                made.append(target)
            # The most snapshots first: it is what ratios compare with the others.
            yield made[::-1]
            return
        made = [stack.enter_context(targets.tzfs())]
        if not part.on_tzfs_only:
            made.append(stack.enter_context(targets.empty()))
            made.append(stack.enter_context(targets.directory("host", Path(tempfile.gettempdir()))))
            for label, path in against.items():
                made.append(stack.enter_context(targets.directory(label, path)))
        yield made


def _measure(
    part: Part, against: dict[str, Path], sizes: Sizes, rounds: int, progress: Console
) -> tuple[dict[str, Case], list[str]]:
    """Run one part; return what was measured, and the labels in the order of the tables."""
    cases: dict[str, Case] = {}
    labels: list[str] = []
    for number in range(rounds if part.is_fresh else 1):
        progress.print(f"{part.title}: round {number + 1}" if part.is_fresh else part.title, style="dim")
        with _targets(part, against, sizes) as made:
            labels = [target.label for target in made]
            measuring.run(part, made, sizes, 1 if part.is_fresh else rounds, cases)
    return cases, labels


@click.command()
@click.option(
    "--against", multiple=True, metavar="LABEL=DIR", help="Measure another mounted directory beside."
)
@click.option("--families", multiple=True, metavar="NAME,...", help="A family or family/part. [default: all]")
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True)
@click.option("--quick", is_flag=True, help="Small sizes: about two minutes, good for a first look.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write all samples there.")
@click.option("--plot", "plot_path", type=click.Path(path_type=Path), help="Draw ratios: .png or .svg.")
def main(
    against: tuple[str, ...],
    families: tuple[str, ...],
    json_path: Path | None,
    plot_path: Path | None,
    *,
    rounds: int,
    quick: bool,
) -> None:
    """Run the same work on tzfs, on empty handlers, on the host's disk and on other directories in turn.

    The host's directory is in $TMPDIR, and so is the store of tzfs: set it to choose the disk. Root may drop
    the kernel's caches, which the cold cases need.
    """
    # Ended by a signal or by Ctrl-C, nothing must stay mounted.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    parts, peers = _selected(families), _against(against)
    sizes = measuring.QUICK if quick else Sizes()
    progress = Console(stderr=True)
    console = Console() if os.isatty(1) else Console(width=WIDTH_PIPED)
    book: Book = {}
    labels: dict[str, list[str]] = {}
    try:
        for part in parts:
            book[part.title], labels[part.title] = _measure(part, peers, sizes, rounds, progress)
            report.show(console, part.title, book[part.title], labels[part.title])
            # After each part: a long run that is cut short has not been for nothing.
            if json_path is not None:
                report.write_json(json_path, report.document(book, labels, sizes, rounds))
    finally:
        work.clean()
    if plot_path is not None:
        plot.draw(plot_path, book, labels)


if __name__ == "__main__":
    main()
