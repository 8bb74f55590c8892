"""Many processes on one mount: no update lost, no read torn, no listing wrong, snapshots in order."""

import fcntl
import multiprocessing
import os
import random
import time
from pathlib import Path

import pytest

from soak.mounted import Mounted

pytestmark = pytest.mark.mount

PROCESSES = 64
SECONDS = 4.0
STABLE = 150
LINE = 40


def append(root: Path, number: int, end: float) -> None:
    """Append lines to a file that all append to."""
    done = 0
    while time.monotonic() < end:
        with (root / "appended").open("ab", buffering=0) as file:
            file.write(f"{number:6} {done:8}".ljust(LINE - 1, ".").encode() + b"\n")
        done += 1
    (root / "told" / str(number)).write_text(str(done))


def count(root: Path, number: int, end: float) -> None:
    """Increment a counter under a lock, in place."""
    done = 0
    with (root / "counter").open("r+b", buffering=0) as file:
        while time.monotonic() < end:
            fcntl.flock(file, fcntl.LOCK_EX)
            value = int(os.pread(file.fileno(), 20, 0))
            os.pwrite(file.fileno(), b"%020d" % (value + 1), 0)
            fcntl.flock(file, fcntl.LOCK_UN)
            done += 1
    (root / "told" / str(number)).write_text(str(done))


def replace(root: Path, number: int, end: float) -> None:
    """Replace a file by rename, again and again, and read the files of others: whole, always."""
    rng = random.Random(number)
    while time.monotonic() < end:
        fresh = root / f"whole.{number}.new"
        fresh.write_bytes(bytes([rng.randrange(1, 256)]) * 70_000)
        fresh.rename(root / f"whole{rng.randrange(4)}")
        seen = (root / f"whole{rng.randrange(4)}").read_bytes()
        assert len(seen) == 70_000, "a read is short"
        assert len(set(seen)) == 1, "a read is torn"


def listing(root: Path, number: int, end: float) -> None:
    """Make and remove names in a directory, and list it: what stays is there, once."""
    directory = root / "listed"
    stable = {f"stable{at}" for at in range(STABLE)}
    at = 0
    while time.monotonic() < end:
        at += 1
        path = directory / f"coming{number}.{at}"
        path.touch()
        if at % 4 == 0:
            found = os.listdir(directory)  # noqa: PTH208 (pathlib would hide a name that comes twice)
            assert len(found) == len(set(found)), "a name comes twice"
            assert stable <= set(found), "a name is missing"
        path.unlink()


def in_order(root: Path, number: int, end: float) -> None:
    """Write a file, close it, then a second one: nobody may ever see the second without the first."""
    directory = root / "ordered" / str(number)
    directory.mkdir()
    at = 0
    while time.monotonic() < end:
        at += 1
        for name in ("first", "second"):
            (directory / name).write_bytes(b"%010d" % at * 100)


def test_sixty_four_processes_lose_nothing_and_snapshots_are_in_order() -> None:
    roles = [append, count, replace, listing, in_order]
    with Mounted("many") as mounted:
        root = mounted.mountpoint
        for name in ("told", "listed", "ordered"):
            (root / name).mkdir()
        (root / "counter").write_bytes(b"%020d" % 0)
        for at in range(4):
            (root / f"whole{at}").write_bytes(b"x" * 70_000)
        for at in range(STABLE):
            (root / "listed" / f"stable{at}").touch()
        end = time.monotonic() + SECONDS
        workers = [
            multiprocessing.Process(target=roles[at % len(roles)], args=(root, at, end))
            for at in range(PROCESSES)
        ]
        for worker in workers:
            worker.start()
        labels = 0
        while time.monotonic() < end:
            (root / ".snapshots" / f"during{labels}").mkdir()
            labels += 1
        for worker in workers:
            worker.join(60)
        assert [worker.exitcode for worker in workers] == [0] * PROCESSES
        told = {int(path.name): int(path.read_text()) for path in (root / "told").iterdir()}
        _judge_appended(root, {at: done for at, done in told.items() if roles[at % len(roles)] is append})
        counted = sum(done for at, done in told.items() if roles[at % len(roles)] is count)
        assert int((root / "counter").read_bytes()) == counted
        assert labels > 1
        for label in range(labels):
            _judge_order(root / ".snapshots" / f"during{label}" / "ordered")
        assert mounted.check() == "clean"


def _judge_appended(root: Path, told: dict[int, int]) -> None:
    data = (root / "appended").read_bytes()
    lines = [data[at : at + LINE] for at in range(0, len(data), LINE)]
    found = sorted(tuple(map(int, line.rstrip(b".\n").split())) for line in lines)
    assert found == sorted((at, done) for at, total in told.items() for done in range(total))


def _judge_order(directory: Path) -> None:
    for place in directory.iterdir():
        # Rewriting a file begins by emptying it: an empty one is a write under way.
        values = {path.name: path.read_bytes()[:10] for path in place.iterdir()}
        if values.get("second"):
            first, second = values["first"], int(values["second"])
            assert not first or int(first) >= second, f"{place}: {values}"
