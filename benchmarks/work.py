"""Real work: programs that everybody runs, from the outside."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks import inputs
from benchmarks.measuring import Part, Sample, Sizes, Steps, timed
from benchmarks.targets import COMMAND_TIMEOUT_S, Target


def _run(*command: str | Path) -> None:
    """Run a command; OSError with its words if it fails."""
    done = subprocess.run(
        command,
        check=False,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=inputs.ENVIRONMENT,
        timeout=COMMAND_TIMEOUT_S,
    )
    # grep says with 1 that it found nothing.
    if done.returncode not in ({0, 1} if command[0] == "grep" else {0}):
        raise OSError(f"{command[0]}: {done.stderr.decode(errors='replace')[-200:]}")


def _transactions(path: Path, count: int) -> None:
    connection = sqlite3.connect(path)
    try:
        connection.execute("create table t(a integer, b text)")
        for number in range(count):
            connection.execute("insert into t values(?, ?)", (number, "x" * 100))
            connection.commit()
    except sqlite3.Error as error:
        raise OSError(f"SQLite: {error}") from error
    finally:
        connection.close()


def _commands(top: Path, given: inputs.Inputs, sizes: Sizes) -> list[tuple[str, Callable[[], None]]]:
    """Return (case, what to run) in an order in which each finds what it needs."""
    clone = top / "clone"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--ignore-installed"]
    # To /dev/null itself, tar would not read the files.
    archive = 'tar cf - -C "$1" library | cat > /dev/null'
    return [
        ("cp -a", lambda: _run("cp", "-a", given.library, top / "library")),
        ("tar x", lambda: _run("tar", "xf", given.archive, "-C", top / "unpacked")),
        ("tar c", lambda: _run("sh", "-c", archive, "sh", top)),
        ("grep -r", lambda: _run("grep", "-rc", "no such words", top / "library")),
        ("git clone", lambda: _run("git", "clone", "--quiet", "--no-local", given.repository, clone)),
        ("git status", lambda: _run("git", "-C", clone, "status")),
        (
            "git checkout",
            lambda: _run("git", "-C", clone, "checkout", "--quiet", f"origin/{inputs.OTHER_BRANCH}"),
        ),
        ("pip install", lambda: _run(*pip, "--prefix", top / "prefix", given.wheel)),
        ("make -j2", lambda: _run("make", "-s", "-j2", "-C", top / "sources")),
        ("SQLite transactions", lambda: _transactions(top / "t.db", sizes.transactions)),
        ("rm -rf", lambda: _run("rm", "-rf", top / "library")),
    ]


def programs(target: Target, sizes: Sizes) -> Steps:
    """Yield the seconds of each program; for SQLite, milliseconds a transaction."""
    given = inputs.make(Path(tempfile.gettempdir(), f"tzfs-bench-inputs-{os.getpid()}"), sizes)
    top = target.directory("work")
    try:
        (top / "unpacked").mkdir()
        shutil.copytree(given.sources, top / "sources")
        for case, command in _commands(top, given, sizes):
            sample = timed(case, "s", command)
            if case.startswith("SQLite") and sample.value is not None:
                sample = Sample(case, sample.value * 1e3 / sizes.transactions, "ms")
            yield sample
    finally:
        shutil.rmtree(top, ignore_errors=True)


def clean() -> None:
    """Remove the inputs."""
    shutil.rmtree(Path(tempfile.gettempdir(), f"tzfs-bench-inputs-{os.getpid()}"), ignore_errors=True)


PARTS = (Part("work", "programs", programs),)
