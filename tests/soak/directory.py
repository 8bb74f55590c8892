"""One directory with very many names: made, listed, kept, removed, with the daemon's memory meanwhile."""

from __future__ import annotations

import argparse
import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from soak.mounted import Mounted
from support.syscalls import DirectoryStream

DESCRIPTION = "one directory with very many names, and the daemon's memory meanwhile"

GROWTH_MAX_MB: Final = 200
"""What all of it may add to the daemon's memory, whatever the number of names."""

POSITION_EVERY: Final = 5000
"""Names between two positions that are tried again: going to one reads a whole buffer of names."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--names", type=int, default=1_000_000)


def run(arguments: argparse.Namespace) -> int:
    """Make, list, snapshot, remove, list the snapshot; 0 when all came once and the memory stayed flat."""
    count = arguments.names
    with Mounted("directory") as mounted:
        directory = mounted.mountpoint / "directory"
        directory.mkdir()
        _step(mounted, "make names", lambda: _fill(directory, count))
        mounted.remount()
        before = memory_mb(mounted.pid)
        mounted.report(f"after a remount: the daemon has {before:.0f} MB")
        listed = [_step(mounted, "list, and go to positions", lambda: _list(directory)) for _ in range(2)]
        peaks = [memory_mb(mounted.pid)]
        _step(mounted, "stat 10,000", lambda: _stat(directory, count))
        (directory / ".snapshots" / "full").mkdir()
        removed = _step(mounted, "remove all while listing", lambda: _remove(directory))
        peaks.append(memory_mb(mounted.pid))
        left = len(os.listdir(directory))  # noqa: PTH208 - the call that is tried here
        kept = _step(mounted, "list the snapshot", lambda: _list(directory / ".snapshots" / "full"))
        peaks.append(memory_mb(mounted.pid))
        findings = mounted.check()
        counts = f"listed {listed}, removed {removed}, left {left}, in the snapshot {kept}"
        growth = max(peaks) - before
        mounted.report(f"{counts}, grew {growth:.0f} MB, {findings}")
        good = [*listed, removed, kept, left] == [count] * 4 + [0]
        return int(not (good and growth < GROWTH_MAX_MB and findings == "clean"))


def _step(mounted: Mounted, what: str, work: Callable[[], int]) -> int:
    """Run a step, report its time and the daemon's memory after it, and return the count it gives."""
    started = time.monotonic()
    count = work()
    seconds = time.monotonic() - started
    mounted.report(f"{what}: {count}, {seconds:.1f} s; the daemon has {memory_mb(mounted.pid):.0f} MB")
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
    """Return how many names there are, each of which must come once.

    Then seekdir(3) goes to some of the positions on the way, in any order: the name that followed follows.
    """
    seen = bytearray()
    count = 0
    followers: dict[int, bytes] = {}
    with DirectoryStream(directory) as stream:
        position = stream.tell()
        while (name := stream.read()) is not None:
            if count % POSITION_EVERY == 0:
                followers[position] = name
            position = stream.tell()
            if name in {b".", b".."}:
                continue
            number = int(name[5:])
            if number >= len(seen):
                seen.extend(bytes(number + 1 - len(seen)))
            assert not seen[number], f"{name!r} came twice"
            seen[number] = 1
            count += 1
        positions = list(followers)
        random.Random(1).shuffle(positions)
        for position in positions:
            stream.seek(position)
            assert stream.read() == followers[position]
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
