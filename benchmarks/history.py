"""What snapshots cost: to take, to have, to read, to delete; and to get back what was removed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import cast

from benchmarks import metadata
from benchmarks.measuring import Part, Sample, Sizes, Steps, timed
from benchmarks.targets import Target, TzfsTarget, Unmeasurable

_TAKEN = 20
"""Snapshots of which the median is the time of one."""

_FILES_EACH = 1_000
"""Files of a directory of the large tree."""


def grow(top: Path, first: int, last: int) -> None:
    """Make the files from number `first` up to `last`, a thousand each directory."""
    for number in range(first, last):
        directory = top / f"{number // _FILES_EACH:05d}"
        if number == first or not number % _FILES_EACH:
            directory.mkdir(exist_ok=True)
        os.close(os.open(f"{directory}/{number:07d}", os.O_CREAT | os.O_WRONLY, 0o644))


def take(target: Target, sizes: Sizes) -> Steps:
    """Yield the milliseconds of a snapshot of ever larger trees, through `mkdir .snapshots/LABEL`.

    Nothing is dirty but one name: each snapshot has a change to hold.
    """
    tzfs = cast("TzfsTarget", target)
    top = target.directory("tree")
    files = 0
    for size in sizes.trees:
        if size > files:
            grow(top, files, size)
            files = size
        target.settle()
        times = []
        for number in range(_TAKEN):
            (target.root / "changing").touch()
            (target.root / "changing").unlink()
            times.append(tzfs.snapshot(f"of-{size}-{number}-{files}-{os.urandom(4).hex()}"))
        yield Sample(f"snapshot of {size:,} files", sorted(times)[_TAKEN // 2] * 1e3, "ms")


def take_many(target: TzfsTarget, count: int) -> None:
    """Take snapshots, each with a change: a file of a hundred is written anew, a name comes and goes."""
    top = target.directory("changing")
    for number in range(count):
        (top / f"file-{number % 100}").write_bytes(b"%d" % number)
        target.snapshot(f"s{number}")


def _read_all(top: Path) -> int:
    """Read every file below `top`, names from listings, and return how many there are."""
    count = 0
    for directory, _, names in os.walk(top):
        for name in names:
            with Path(directory, name).open("rb", buffering=0) as file:
                file.read()
            count += 1
    return count


def _make_files(top: Path, count: int, content: bytes) -> None:
    for number in range(count):
        (top / f"file-{number:05d}").write_bytes(content)


def past(target: Target, sizes: Sizes) -> Steps:
    """Yield what it takes to reclaim, to read a snapshot of which every file has changed, and to delete."""
    tzfs = cast("TzfsTarget", target)
    count = sizes.past_files
    top = target.directory("removed")
    _make_files(top, count, os.urandom(16384))
    yield timed("rm -rf, a file of 16 KiB", "us", lambda: _remove(top), count)
    yield Sample("reclaim after rm -rf, a file", tzfs.wait_for_reclaim() * 1e6 / count, "us")
    top = target.directory("read")
    _make_files(top, count, os.urandom(4096))
    label = f"then-{os.urandom(4).hex()}"
    tzfs.snapshot(label)
    _make_files(top, count, os.urandom(4096))
    for name, where in (("live tree", top), ("snapshot", target.root / ".snapshots" / label / "read")):
        for how in ("cold", "warm"):
            case = f"read a file of 4 KiB, {name}, {how}"
            if how == "cold":
                try:
                    target.drop_caches()
                except Unmeasurable as error:
                    yield Sample(case, None, "us", str(error))
                    continue
            sample = timed(case, "us", lambda where=where: _read_all(where), count)
            yield sample._replace(keeps_turn=how == "cold")
    _remove(top)
    (target.root / ".snapshots" / label).rmdir()
    yield from _delete(tzfs, sizes.snapshots_deleted)


def _delete(target: TzfsTarget, count: int) -> Steps:
    """Yield the time of deleting snapshots, and until all that only they saw is reclaimed."""
    target.wait_for_reclaim()  # of what was done before
    take_many(target, count)
    labels = [target.root / ".snapshots" / f"s{number}" for number in range(count)]

    def delete() -> None:
        for label in labels:
            label.rmdir()

    yield timed(f"delete one of {count:,} snapshots", "us", delete, count)
    yield Sample("reclaim after that, a snapshot", target.wait_for_reclaim() * 1e6 / count, "us")


def _remove(top: Path) -> None:
    for path in top.iterdir():
        path.unlink()
    top.rmdir()


def behind(target: Target, sizes: Sizes) -> Steps:
    """Yield the metadata family again; the run gives targets with ever more snapshots."""
    yield from metadata.files(target, sizes)


def label_of(snapshots: int) -> str:
    """Return the label of the target with that many snapshots."""
    return f"{snapshots:,} snapshots"


PARTS = (
    Part("history", "take", take, on_tzfs_only=True, is_fresh=True),
    Part("history", "past", past, on_tzfs_only=True),
    Part("history", "behind", behind, on_tzfs_only=True, settles=False),
)
