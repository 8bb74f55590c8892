"""One directory with very many names: made, listed, found and removed, with the daemon's memory meanwhile."""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

from soak.mounted import Mounted
from support.syscalls import DirectoryStream

DESCRIPTION = "one directory with very many names, and the daemon's memory meanwhile"

GROWTH_MAX_MB = 200
"""What listing may add to the daemon's memory, whatever the number of names."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--names", type=int, default=1_000_000)


def run(arguments: argparse.Namespace) -> int:
    """Make, list twice, look up, remove; 0 when each name came once and the memory stayed flat."""
    with Mounted("directory") as mounted:
        directory = mounted.mountpoint / "directory"
        directory.mkdir()
        _timed(mounted, f"make {arguments.names} names", lambda: _fill(directory, arguments.names))
        mounted.remount()
        before = memory_mb(mounted.pid)
        mounted.report(f"after a remount: the daemon has {before:.0f} MB")
        listed = [_timed(mounted, "list", lambda: _list(directory)) for _ in range(2)]
        growth = memory_mb(mounted.pid) - before
        _timed(mounted, "stat 10,000", lambda: _stat(directory, arguments.names))
        removed = _timed(mounted, "remove all while listing", lambda: _remove(directory))
        left = len(os.listdir(directory))  # noqa: PTH208 - the call that is tried here
        findings = mounted.check()
        mounted.report(f"listed {listed}, removed {removed}, left {left}, grew {growth:.0f} MB, {findings}")
        good = listed == [arguments.names] * 2 and removed == arguments.names and left == 0
        return int(not (good and growth < GROWTH_MAX_MB and findings == "clean"))


def _timed(mounted: Mounted, what: str, work: object) -> int:
    """Run a step, report its time and the daemon's memory after it, and return the count it gives."""
    assert callable(work)
    started = time.monotonic()
    count = int(work())
    seconds = time.monotonic() - started
    mounted.report(f"{what}: {seconds:.1f} s; the daemon has {memory_mb(mounted.pid):.0f} MB")
    return count


def memory_mb(pid: int) -> float:
    """Return the resident memory of a process in megabytes."""
    pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def _fill(directory: Path, count: int) -> int:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        for number in range(count):
            os.close(os.open(f"name-{number:07}", os.O_CREAT | os.O_EXCL | os.O_WRONLY, dir_fd=descriptor))
    finally:
        os.close(descriptor)
    return count


def _list(directory: Path) -> int:
    """Return how many names there are, each of which must come once."""
    seen = bytearray()
    count = 0
    with DirectoryStream(directory) as stream:
        for name in stream.names():
            number = int(name[5:])
            if number >= len(seen):
                seen.extend(bytes(number + 1 - len(seen)))
            assert not seen[number], f"{name!r} came twice"
            seen[number] = 1
            count += 1
    return count


def _stat(directory: Path, count: int) -> int:
    for number in range(0, count, max(1, count // 10_000)):
        (directory / f"name-{number:07}").stat()
    return count


def _remove(directory: Path) -> int:
    count = 0
    with DirectoryStream(directory) as stream:
        for name in stream.names():
            (directory / os.fsdecode(name)).unlink()
            count += 1
    return count
