"""What grows with the tree: memory, the store, what is written to disk, the time to start."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import cast

from benchmarks import history
from benchmarks.measuring import Part, Sample, Sizes, Steps, timed
from benchmarks.targets import Target, TzfsTarget

_MIB = 1 << 20
_CONTENT_BYTES = 1000
"""Of every hundredth file, so that bytes written by the program have something to count."""


def _walk(top: Path) -> None:
    """Ask for the attributes of every name below `top`."""
    history_stack = [top]
    while history_stack:
        with os.scandir(history_stack.pop()) as entries:
            for entry in entries:
                entry.stat(follow_symlinks=False)
                if entry.is_dir(follow_symlinks=False):
                    history_stack.append(Path(entry.path))


def tree(target: Target, sizes: Sizes) -> Steps:
    """Yield figures of the daemon and the store as the tree grows."""
    tzfs = cast("TzfsTarget", target)
    top = target.directory("tree")
    files = 0
    for size in sizes.trees:
        start = time.perf_counter()
        history.grow(top, files, size)
        elapsed = time.perf_counter() - start
        yield Sample(f"create up to {size:,} files", elapsed * 1e6 / max(1, size - files), "us")
        files = size
        yield Sample(f"memory after creating {size:,} files", tzfs.resident_bytes() / _MIB, "MiB")
        tzfs.unmount()
        yield Sample(f"store of {size:,} empty files, a file", tzfs.store_bytes() / size, "bytes")
        yield Sample(f"start-up with {size:,} files", tzfs.mount(), "s")
        yield timed(f"walk over {size:,} files", "us", lambda: _walk(top), size)
        yield Sample(f"memory after a walk over {size:,} files", tzfs.resident_bytes() / _MIB, "MiB")
    yield _idle(tzfs, sizes.idle_s)
    yield from _written(tzfs)


def _idle(target: TzfsTarget, idle_s: float) -> Sample:
    """Return the part of a processor, in percent, that a daemon takes of which nobody wants anything."""
    time.sleep(1)
    before = target.processor_s()
    time.sleep(idle_s)
    return Sample("idle daemon, processor", (target.processor_s() - before) * 100 / idle_s, "%")


def _written(target: TzfsTarget) -> Steps:
    """Yield bytes to disk per byte that a program wrote, for small files, all of it flushed at the end."""
    top = target.directory("written")
    for size_bytes, count in ((_CONTENT_BYTES, 4_000), (64 << 10, 1_000)):
        before = target.written_bytes()
        content = os.urandom(size_bytes)
        for number in range(count):
            (top / f"of-{size_bytes}-{number}").write_bytes(content)
        target.settle()
        time.sleep(1)
        written = target.written_bytes() - before
        yield Sample(
            f"bytes to disk per byte, files of {size_bytes:,} bytes", written / (size_bytes * count), "bytes"
        )


PARTS = (Part("scale", "tree", tree, on_tzfs_only=True, is_fresh=True),)
