"""Contents of files: sequential, at random, in small pieces, and made durable."""

from __future__ import annotations

import functools
import os
import random
import statistics
import threading
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.measuring import Part, Sample, Sizes, Steps, rate, timed
from benchmarks.targets import Target, TzfsTarget, Unmeasurable

_NOISE = os.urandom(1 << 20)
"""Nothing that compresses: what a filesystem saves by compression is not what is compared here."""

WRITERS = (1, 8)


def _size(size_bytes: int) -> str:
    for unit, shift in (("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if size_bytes >= 1 << shift:
            return f"{size_bytes >> shift} {unit}"
    return f"{size_bytes} bytes"


def _write(path: Path, size_bytes: int, block_bytes: int) -> None:
    block = _NOISE[:block_bytes]
    descriptor = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o644)
    try:
        for _ in range(size_bytes // block_bytes):
            os.write(descriptor, block)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read(path: Path, block_bytes: int) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        while os.read(descriptor, block_bytes):
            pass
    finally:
        os.close(descriptor)


def _sequential(target: Target, size_bytes: int, blocks_bytes: tuple[int, ...]) -> Steps:
    """Yield rates of writing (with one fsync) and of reading, cold and warm; for tzfs, bytes to disk too."""
    path = target.root / "sequential"
    for block_bytes in blocks_bytes:
        what = f"{_size(size_bytes)} by {_size(block_bytes)}"
        if size_bytes > target.capacity_bytes:
            return
        before = target.written_bytes() if isinstance(target, TzfsTarget) else 0
        yield rate(f"write {what}", lambda size=block_bytes: _write(path, size_bytes, size), size_bytes)
        for how in ("cold", "warm"):
            case = f"read {what}, {how}"
            try:
                if how == "cold":
                    target.drop_caches()
            except Unmeasurable as error:
                yield Sample(case, None, "MiB/s", str(error))
                continue
            sample = rate(case, lambda size=block_bytes: _read(path, size), size_bytes)
            yield sample._replace(keeps_turn=how == "cold")
        if isinstance(target, TzfsTarget):
            written = target.written_bytes() - before
            yield Sample(f"bytes to disk per byte, {what}", written / size_bytes, "bytes")
        path.unlink()
        if isinstance(target, TzfsTarget):
            target.wait_for_reclaim()


def sequential(target: Target, sizes: Sizes) -> Steps:
    """Yield the figures of a file that fits into caches."""
    yield from _sequential(target, sizes.file_bytes, sizes.blocks_bytes)


def large(target: Target, sizes: Sizes) -> Steps:
    """Yield the figures of a file that is larger than what caches are for."""
    yield from _sequential(target, sizes.large_bytes, sizes.blocks_bytes)


def _at_random(path: Path, offsets: list[int], *, is_write: bool) -> None:
    descriptor = os.open(path, os.O_RDWR)
    try:
        for offset in offsets:
            if is_write:
                os.pwrite(descriptor, _NOISE[:4096], offset)
            else:
                os.pread(descriptor, 4096, offset)
        if is_write:
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def small(target: Target, sizes: Sizes) -> Steps:
    """Yield microseconds of reads and overwrites of 4 KiB at random (fsync at the end), and of appends."""
    path = target.root / "small"
    _write(path, sizes.file_bytes, 1 << 20)
    # The same places on every target and in every round.
    chance = random.Random(7)
    offsets = [chance.randrange(sizes.file_bytes // 4096) * 4096 for _ in range(sizes.random_accesses)]
    try:
        target.drop_caches()
        yield timed(
            "random read 4 KiB, cold", "us", lambda: _at_random(path, offsets, is_write=False), len(offsets)
        )
    except Unmeasurable as error:
        yield Sample("random read 4 KiB, cold", None, "us", str(error))
    before = target.written_bytes() if isinstance(target, TzfsTarget) else 0
    yield timed(
        "random overwrite 4 KiB", "us", lambda: _at_random(path, offsets, is_write=True), len(offsets)
    )
    if isinstance(target, TzfsTarget):
        written = target.written_bytes() - before
        yield Sample(
            "bytes to disk per byte, random overwrite 4 KiB", written / (4096 * len(offsets)), "bytes"
        )
    path.unlink()

    def append() -> None:
        with path.open("ab", buffering=0) as log:
            for _ in range(sizes.appends):
                log.write(b"twenty bytes a line\n")

    yield timed("append 20 bytes", "us", append, sizes.appends)
    path.unlink()


def _fsync_latencies(path: Path, count: int, found: list[float]) -> None:
    """Append a page and make it durable, again and again; what each time took goes into `found`."""
    descriptor = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o644)
    try:
        for _ in range(count):
            os.write(descriptor, _NOISE[:4096])
            start = time.perf_counter()
            os.fsync(descriptor)
            found.append(time.perf_counter() - start)
    finally:
        os.close(descriptor)


def _in_threads(works: list[Callable[[], None]]) -> None:
    threads = [threading.Thread(target=work) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def fsync(target: Target, sizes: Sizes) -> Steps:
    """Yield the mean microseconds of an fsync after 4 KiB, with one writer and with several at once."""
    for writers in WRITERS:
        found: list[float] = []
        paths = [target.root / f"fsync-{number}" for number in range(writers)]
        _in_threads([functools.partial(_fsync_latencies, path, sizes.fsyncs, found) for path in paths])
        yield Sample(
            f"fsync after 4 KiB, {writers} writer{'s' * (writers > 1)}", statistics.mean(found) * 1e6, "us"
        )
        for path in paths:
            path.unlink()


PARTS = (
    Part("data", "sequential", sequential),
    Part("data", "large", large),
    Part("data", "small", small),
    Part("data", "fsync", fsync),
)
