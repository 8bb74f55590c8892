"""report, top."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from tzfs.cli import output
from tzfs.cli.base import State, pass_state

if TYPE_CHECKING:
    from tzfs.report import Report


@click.command()
@click.argument("name")
@click.argument("out", metavar="OUT.html", type=click.Path(path_type=Path, dir_okay=False))
@pass_state
def report(state: State, name: str, out: Path) -> None:
    """Write one HTML page that shows every snapshot: the tree, what changed, any file as it was.

    It needs no network, and can be sent to somebody who has no tzfs.
    """
    from tzfs.report import render  # noqa: PLC0415 the page is read from disk, and --help needs none

    out.write_text(render(_report(state, name)), encoding="utf-8")


def _report(state: State, name: str) -> Report:
    """Return what the page shows of one filesystem."""
    from tzfs.api import Store  # noqa: PLC0415
    from tzfs.report import Blobs, Card, Report, collect  # noqa: PLC0415

    blobs = Blobs()
    with Store(state.open_store()).open_filesystem(name) as fs:
        info = fs.info()
        history = collect(fs, blobs)
    usage = info["usage"]
    quota = output.size(usage["quota_bytes"]) if usage["quota_bytes"] else "none"
    cards = [
        Card(str(info["snapshots"]), "snapshots"),
        Card(str(usage["inodes"]), "files and directories"),
        Card(output.size(usage["live_bytes"]), "live"),
        Card(output.size(usage["stored_bytes"]), "stored, history included"),
        Card(quota, "quota"),
    ]
    return Report(
        title=f"{history['name']}: history",
        subtitle=f"As of {output.moment(time.time_ns())}",
        cards=cards,
        filesystems=[history],
        blobs=blobs.contents,
    )


@click.command()
@click.argument("name", required=False)
@click.option(
    "--json", "as_json", is_flag=True, help="Print the figures since the mount, once, for programs."
)
@click.option(
    "--interval",
    type=click.FloatRange(0.1, 3600),
    default=1.0,
    show_default=True,
    help="Seconds between looks.",
)
@click.option("--count", type=click.IntRange(1), help="Stop after so many looks.  [default: Ctrl-C]")
@pass_state
def top(state: State, name: str | None, interval: float, count: int | None, *, as_json: bool) -> None:
    """Show what mounted filesystems do: operations per second, latencies, bytes, snapshots, backlog.

    Latencies are the daemon's own, from a request's arrival to its answer, to within a factor of two.

    What is counted are requests that the kernel's caches did not answer: a name, an attribute or a page that
    it has costs no request, and is seen by nobody.
    """
    from tzfs import top as tops  # noqa: PLC0415

    store = state.open_store()
    if as_json:
        output.print_json(tops.look(store, name))
        return
    before: list[dict[str, Any]] = tops.look(store, name)
    looks = 0
    # Ctrl-C is the way to end this, and nothing that failed.
    with contextlib.suppress(KeyboardInterrupt):
        while count is None or looks < count:
            time.sleep(interval)
            now = tops.look(store, name)
            _show(tops.lines(before, now))
            before = now
            looks += 1


def _show(lines: Iterable[str]) -> None:
    """Print one look: a terminal is cleared before, and a line that is too long for it is cut."""
    width = None
    if sys.stdout.isatty():
        width = output.terminal_width()
        if os.environ.get("TERM", "dumb") != "dumb":
            click.clear()
    for line in lines:
        click.echo(output.escape(line)[:width])


COMMANDS: Final = (report, top)
