"""A long life: mixed load, a snapshot every second, the oldest deleted beyond a number; figures all along.

Writers keep a bounded set of files: they make, overwrite, append to, rename, read and remove them. Each
minute has one line of figures, and in the end each figure is judged by its slope over the run, once the first
snapshots are deleted and caches are full. Latencies are wall time and follow what else the machine does; the
processor time of the daemon per request is the same cost without that.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import random
import select
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from soak.mounted import Mounted
from soak.trend import slope_percent, verdict
from tzfs.control import Client

DESCRIPTION = (
    "mixed load with a snapshot every second and retention: memory, store and latency must stay flat"
)
FILES: Final = 200
LIMITS: Final = {
    "memory MiB": 10.0,
    "store MiB": 25.0,
    "stored MiB": 25.0,
    "backlog": 100.0,
    "cpu us/request": 15.0,
    "snapshot ms": 50.0,
    "stat us": 50.0,
    "create us": 50.0,
}
"""By figure: percent that it may grow over the judged part of a run. The store goes up and down as the engine
compacts; latencies follow the load of the machine. What else is reported is for information."""
Figures = dict[str, float]


class Usage(NamedTuple):
    """What the daemon had used and done at a moment."""

    cpu_s: float
    requests: int
    at_s: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--seconds", type=float, default=3600)
    parser.add_argument("--snapshots", type=int, default=100, help="how many are kept")
    parser.add_argument("--writers", type=int, default=2)
    parser.add_argument("--pause-ms", type=float, default=1, help="of a writer between two operations")
    parser.add_argument("--interval", type=float, default=60, help="seconds that a line of figures is about")
    parser.add_argument("--json", type=Path, help="also write all figures and verdicts to this file")
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
        try:
            minutes = list(_minutes(mounted, arguments))
        finally:
            end.set()
            for writer in writers:
                writer.join(60)
        failed = [writer.exitcode for writer in writers if writer.exitcode]
        findings = mounted.check()
        slopes = _judge(mounted, minutes, arguments)
        grown = [name for name, limit in LIMITS.items() if slopes[name] > limit]
        mounted.report(f"writers failed: {failed}; check: {findings}; grown: {grown or 'nothing'}")
        if arguments.json is not None:
            result = {"seconds": arguments.seconds, "minutes": minutes, "slopes": slopes, "grown": grown}
            arguments.json.write_text(json.dumps(result, indent=2))
        return int(bool(failed or grown or findings != "clean"))


def _judge(mounted: Mounted, minutes: list[Figures], arguments: argparse.Namespace) -> dict[str, float]:
    """Report each figure's slope in percent, and whether that is flat; return the slopes.

    What comes before the first deletion of a snapshot, and the time as long again in which reclaim and
    compaction find their pace, is no part of it; but never more than half of a run.
    """
    warmup = min(len(minutes) // 2, int(2 * arguments.snapshots / arguments.interval) + 1)
    judged = minutes[warmup:]
    mounted.report(f"slopes over {len(judged)} lines, without the first {warmup}:")
    slopes = {name: slope_percent([figures[name] for figures in judged]) for name in minutes[0]}
    for name, percent in slopes.items():
        middle = statistics.median(figures[name] for figures in judged)
        means = verdict(percent, LIMITS[name]) if name in LIMITS else "for information"
        limit = f" (flat: within {LIMITS[name]:.0f} %)" if name in LIMITS else ""
        mounted.report(f"  {name:<15} median {middle:>9.1f}  slope {percent:>+7.1f} %  {means}{limit}")
    return slopes


def _minutes(mounted: Mounted, arguments: argparse.Namespace) -> Iterator[Figures]:
    """Take and delete snapshots once a second; report and yield the figures of each interval."""
    pid = mounted.pid
    directory = Path(mounted.info()["path"])
    began = time.monotonic()
    seconds: list[Figures] = []
    before = _usage(directory, pid)
    while time.monotonic() - began < arguments.seconds:
        started = time.perf_counter()
        seconds.append(_second(mounted, directory, pid, arguments.snapshots))
        now = _usage(directory, pid)
        if now.at_s - before.at_s >= arguments.interval:
            yield _report(mounted, seconds, before, now, time.monotonic() - began)
            seconds, before = [], _usage(directory, pid)
        select.select([], [], [], max(0.0, started + 1 - time.perf_counter()))
    # A rest of half an interval and more is a line of its own.
    if len(seconds) >= arguments.interval / 2:
        yield _report(mounted, seconds, before, _usage(directory, pid), time.monotonic() - began)


def _report(mounted: Mounted, seconds: list[Figures], before: Usage, now: Usage, elapsed_s: float) -> Figures:
    """Return the figures of an interval: medians of its seconds, and the daemon's use of the processor."""
    figures = {name: statistics.median(at[name] for at in seconds) for name in seconds[0]}
    requests = now.requests - before.requests
    figures["cpu us/request"] = (now.cpu_s - before.cpu_s) * 1e6 / max(requests, 1)
    figures["requests/s"] = requests / (now.at_s - before.at_s)
    figures["load"] = os.getloadavg()[0]
    told = ", ".join(f"{name} {value:.1f}" for name, value in figures.items())
    mounted.report(f"{elapsed_s:.0f} s: {told}")
    return figures


def _second(mounted: Mounted, directory: Path, pid: int, kept: int) -> Figures:
    """Take a snapshot, delete those that are too many, and measure."""
    started = time.perf_counter()
    with Client(directory) as client:
        client.call("snapshot")
        snapshot_ms = (time.perf_counter() - started) * 1000
        txns = [row["txn"] for row in client.call("snapshots")["snapshots"]]
        if len(txns) > kept:
            client.call("snapshot_delete", names=[str(txn) for txn in txns[: len(txns) - kept]])
        info = client.call("info")
    probe = mounted.mountpoint / "probe"
    return {
        "memory MiB": _resident_bytes(pid) / 2**20,
        "store MiB": _size(directory / "db") / 2**20,
        "stored MiB": info["usage"]["stored_bytes"] / 2**20,
        "snapshot ms": snapshot_ms,
        "stat us": _latency_us(probe.with_name("none").stat),
        "create us": _latency_us(probe.touch, probe.unlink),
        "backlog": info["reclaim_backlog"] + 1,
    }


def _usage(directory: Path, pid: int) -> Usage:
    """Return the processor time of all threads of the daemon, and the requests it has answered."""
    with Client(directory) as client:
        requests = client.call("statistics")["requests"]
    # The clock of another process: clock_getcpuclockid(3) makes its number like this on Linux.
    cpu_s = time.clock_gettime(~pid << 3 | 2)
    return Usage(cpu_s, sum(sum(counts) for counts in requests.values()), time.monotonic())


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
