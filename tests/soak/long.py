"""A long life: mixed load, a snapshot every second, the oldest deleted beyond a number; figures all along.

Writers keep a bounded set of files: they make, overwrite, append to, rename, read and remove them. Memory of
the daemon, size of the store and latency must not grow once the first snapshots are deleted.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import random
import select
import statistics
import time
from pathlib import Path

from soak.mounted import Mounted
from tzfs.control import Client

DESCRIPTION = (
    "mixed load with a snapshot every second and retention: memory, store and latency must stay flat"
)
GROWTH_MAX = 1.5
"""How much greater the last third of a run may be than the middle one, of each figure."""
FILES = 200


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--seconds", type=float, default=3600)
    parser.add_argument("--snapshots", type=int, default=100, help="how many are kept")
    parser.add_argument("--writers", type=int, default=2)
    parser.add_argument("--pause-ms", type=float, default=1, help="of a writer between two operations")
    parser.add_argument("--seed", type=int, default=1)


def run(arguments: argparse.Namespace) -> int:
    """Run for the given time; 0 when nothing grew and the filesystem is clean."""
    with Mounted("long") as mounted:
        end = multiprocessing.Event()
        writers = [
            multiprocessing.Process(
                target=_work,
                args=(
                    mounted.mountpoint / str(at),
                    f"{arguments.seed} {at}",
                    arguments.pause_ms / 1000,
                    end,
                ),
            )
            for at in range(arguments.writers)
        ]
        for writer in writers:
            writer.start()
        figures = _watch(mounted, arguments.seconds, arguments.snapshots)
        end.set()
        for writer in writers:
            writer.join(60)
        failed = [writer.exitcode for writer in writers if writer.exitcode]
        findings = mounted.check()
        grown = [name for name in figures[0] if _growth(figures, name) > GROWTH_MAX]
        mounted.report(f"writers failed: {failed}; check: {findings}; grown: {grown or 'nothing'}")
        return int(bool(failed or grown or findings != "clean"))


def _growth(figures: list[dict[str, float]], name: str) -> float:
    """Return the median of the last third of a run over that of the middle one."""
    third = max(1, len(figures) // 3)
    middle, last = figures[third : 2 * third] or figures, figures[-third:]
    before = statistics.median(at[name] for at in middle)
    return statistics.median(at[name] for at in last) / max(before, 1e-9)


def _watch(mounted: Mounted, seconds: float, kept: int) -> list[dict[str, float]]:
    """Take and delete snapshots, measure, and report ten times."""
    pid = mounted.pid
    directory = Path(mounted.info()["path"])
    figures: list[dict[str, float]] = []
    began = time.monotonic()
    probe = mounted.mountpoint / "probe"
    while (now := time.monotonic() - began) < seconds:
        started = time.perf_counter()
        with Client(directory) as client:
            client.call("snapshot")
            snapshot_ms = (time.perf_counter() - started) * 1000
            txns = [row["txn"] for row in client.call("snapshots")["snapshots"]]
            if len(txns) > kept:
                client.call("snapshot_delete", names=[str(txn) for txn in txns[: len(txns) - kept]])
            info = client.call("info")
        figures.append(
            {
                "memory MiB": _resident_bytes(pid) / 2**20,
                "store MiB": _size(directory / "db") / 2**20,
                "stored MiB": info["usage"]["stored_bytes"] / 2**20,
                "snapshot ms": snapshot_ms,
                "stat us": _latency_us(probe.with_name("none").stat),
                "create us": _latency_us(probe.touch, probe.unlink),
                "backlog": info["reclaim_backlog"] + 1,
            }
        )
        if len(figures) % max(1, int(seconds) // 10) == 0:
            last = ", ".join(f"{name} {value:.1f}" for name, value in figures[-1].items())
            mounted.report(f"{now:.0f} s, {len(txns)} snapshots: {last}")
        select.select([], [], [], max(0.0, started + 1 - time.perf_counter()))
    return figures


def _latency_us(*actions: object) -> float:
    """Return the median time of a few rounds of calls."""
    times = []
    for _ in range(20):
        started = time.perf_counter()
        for action in actions:
            with contextlib.suppress(FileNotFoundError):
                action()  # type: ignore[operator]
        times.append((time.perf_counter() - started) * 1e6)
    return statistics.median(times)


def _resident_bytes(pid: int) -> int:
    """Return the memory that a process holds alone and shares."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _size(directory: Path) -> int:
    """Return the bytes of the files of a directory; one that goes meanwhile counts no more."""
    total = 0
    for path in directory.iterdir():
        with contextlib.suppress(FileNotFoundError):
            total += path.stat().st_size
    return total


def _work(directory: Path, seed: str, pause_s: float, end: object) -> None:
    rng = random.Random(seed)
    directory.mkdir()
    data = rng.randbytes(300_000)
    while not end.wait(pause_s):  # type: ignore[attr-defined]
        path = directory / f"f{rng.randrange(FILES)}"
        choice = rng.random()
        if choice < 0.4:
            path.write_bytes(data[: rng.choice((100, 4096, 20_000, 200_000))])
        elif not path.exists():
            continue
        elif choice < 0.6:
            with path.open("r+b" if path.stat().st_size < 300_000 else "wb") as file:
                file.seek(rng.randrange(100_000))
                file.write(data[: rng.choice((10, 5000))])
        elif choice < 0.7:
            path.rename(directory / f"f{rng.randrange(FILES)}")
        elif choice < 0.8:
            path.unlink()
        else:
            path.read_bytes()
