"""The command line: python -m examples.research_agent run, report, browse, temporal."""

from __future__ import annotations

import logging
import sys
import tempfile
from pathlib import Path

import click

from tzfs.errors import TzfsError
from tzfs.mountpoint import require_fuse

DEFAULT_WORKDIR = Path(tempfile.gettempdir()) / "tzfs-research"

workdir_option = click.option(
    "--workdir",
    type=click.Path(path_type=Path, file_okay=False),
    default=DEFAULT_WORKDIR,
    show_default=True,
    help="Where the store, the mounts, the manifest and the log are.",
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Research agents that fail, retry and lose nothing."""


@main.command()
@click.option("--workflows", default=200, show_default=True, type=click.IntRange(1))
@click.option("--concurrency", default=50, show_default=True, type=click.IntRange(1, 500))
@click.option("--failure-rate", default=0.3, show_default=True, type=click.FloatRange(0, 1))
@click.option("--seed", default=1, show_default=True)
@click.option("--backend", type=click.Choice(["mount", "api"]), default="mount", show_default=True)
@click.option("--continuous", is_flag=True, help="Go on until Ctrl-C.")
@click.option(
    "--kill-daemon-every", "kill_every_s", type=click.FloatRange(0.1), metavar="S", help="kill -9 one."
)
@workdir_option
def run(workdir: Path, kill_every_s: float | None, **fields: object) -> None:
    """Run the workflows; the exit status is 0 only when every one is done and verified.

    A run begins afresh: what an earlier one left in the work directory must be removed first.
    """
    from .dashboard import line, watch  # noqa: PLC0415
    from .runner import Options, Runner  # noqa: PLC0415

    if kill_every_s and fields["backend"] != "mount":
        raise click.UsageError(
            "--kill-daemon-every needs --backend mount: without a mount there is no daemon"
        )
    if fields["backend"] == "mount":
        try:
            require_fuse()
        except TzfsError as error:
            raise click.ClickException(f"{error}; or use --backend api, which mounts nothing") from None
    if (workdir / "store").exists():
        raise click.UsageError(f"{workdir} holds an earlier run: remove it, or name another --workdir")
    workdir.mkdir(parents=True, exist_ok=True)
    logging.basicConfig(
        filename=workdir / "run.log", level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s"
    )
    runner = Runner(Options(workdir=workdir.resolve(), kill_every_s=kill_every_s, **fields))  # type: ignore[arg-type]
    try:
        watch(runner)
    finally:
        runner.manifest.close()
    print(line(runner.progress))
    print(
        f"{runner.progress.compared} files compared with what the generator says; log: {workdir / 'run.log'}"
    )
    print(f"next: python -m examples.research_agent report OUT.html --workdir {workdir}")
    sys.exit(0 if runner.is_success else 1)


@main.command()
@click.argument("out", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--limit", default=200, show_default=True, help="Workflows whose files are in the page.")
@workdir_option
def report(out: Path, limit: int, workdir: Path) -> None:
    """Write one HTML page about the last run."""
    if not (workdir / "manifest.db").exists():
        raise click.ClickException(f"{workdir} holds no run: `run` makes one, --workdir names it")
    from .page import write  # noqa: PLC0415

    write(workdir, out, limit)
    print(f"{out}: {out.stat().st_size / 1e6:.1f} MB, needs no network")


@main.command()
@click.argument("workflow", type=int)
@click.argument("snapshot", required=False)
@workdir_option
def browse(workflow: int, snapshot: str | None, workdir: Path) -> None:
    """Mount a workflow's filesystem and open a shell in SNAPSHOT, or in the present.

    WORKFLOW is its number in the run. SNAPSHOT is a number or a label, such as 3-fact-check; all are listed
    first.
    """
    from .browse import shell  # noqa: PLC0415

    try:
        sys.exit(shell(workdir, workflow, snapshot))
    except (TzfsError, LookupError) as error:
        raise click.ClickException(str(error)) from None


@main.command()
@click.option("--address", default="localhost:7233", show_default=True, help="Of the Temporal server.")
@click.option("--workflows", default=5, show_default=True, type=click.IntRange(1))
@click.option("--failure-rate", default=0.3, show_default=True, type=click.FloatRange(0, 1))
@click.option("--seed", default=1, show_default=True)
@workdir_option
def temporal(address: str, workflows: int, failure_rate: float, seed: int, workdir: Path) -> None:
    """Run the same activities under Temporal, which does the retries."""
    try:
        from .temporal import run_all  # noqa: PLC0415
    except ImportError:
        raise click.ClickException("temporalio is missing: pip install 'tzfs[temporal]'") from None
    sys.exit(run_all(address, workdir.resolve(), workflows, failure_rate, seed))


if __name__ == "__main__":
    main(prog_name="python -m examples.research_agent")
