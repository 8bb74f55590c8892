"""Samples, sizes, and the run that alternates between targets.

A part of a family is a generator: each step does one thing on one target and yields what it took. The run
takes one step of each target in turn, then the next step, so that two figures to compare were measured
seconds apart, under the same load of the machine; from round to round another target begins. What is
compared are medians over the rounds, and ratios of those of one run, never single figures of two.
"""

from __future__ import annotations

import contextlib
import gc
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from benchmarks.targets import Target, Unmeasurable

STEP_TIMEOUT_S = 900.0
"""After this, the daemon of a target that does not come back is killed."""

RATES = ("MiB/s",)
"""Units of which more is better; of all others, less is."""


class Sample(NamedTuple):
    """One measurement. value: None if it could not be taken, then note says why.

    keeps_turn: the next step needs what this one left in the caches, so no other target may come between
    (dropping caches is for the whole machine).
    """

    case: str
    value: float | None
    unit: str
    note: str = ""
    keeps_turn: bool = False


@dataclass(frozen=True)
class Sizes:
    """How much work each case is. Sizes are in bytes where they end so, else in numbers of things."""

    files: int = 4000
    listings: tuple[int, ...] = (1_000, 100_000)
    file_bytes: int = 64 << 20
    large_bytes: int = 4 << 30
    blocks_bytes: tuple[int, ...] = (4 << 10, 64 << 10, 1 << 20)
    random_accesses: int = 4000
    appends: int = 20_000
    fsyncs: int = 200
    library_files: int = 8_000
    sources: int = 60
    transactions: int = 300
    trees: tuple[int, ...] = (10, 10_000, 1_000_000)
    snapshots_behind: tuple[int, ...] = (0, 100, 10_000)
    snapshots_deleted: int = 1_000
    past_files: int = 5_000
    idle_s: float = 10.0


QUICK = Sizes(
    files=400,
    listings=(1_000, 4_000),
    file_bytes=16 << 20,
    large_bytes=128 << 20,
    random_accesses=400,
    appends=4_000,
    fsyncs=25,
    library_files=600,
    sources=8,
    transactions=30,
    trees=(10, 1_000, 5_000),
    snapshots_behind=(0, 20, 200),
    snapshots_deleted=100,
    past_files=500,
    idle_s=2.0,
)

Steps = Iterator[Sample]

_REST = "what comes after"
"""The case of which a target's note says why it has no further ones in a round."""


@dataclass(frozen=True)
class Part:
    """A part of a family. run: the steps on one target. on_tzfs_only: it asks for snapshots or a daemon.

    settles: after each step what is dirty is written out, so that the next target does not pay for it.
    is_fresh: each round wants new targets, as what it measures grows.
    """

    family: str
    name: str
    run: Callable[[Target, Sizes], Steps]
    on_tzfs_only: bool = False
    settles: bool = True
    is_fresh: bool = False

    @property
    def title(self) -> str:
        """Return what selects it on the command line."""
        return f"{self.family}/{self.name}"


@dataclass
class Case:
    """All that was measured of one case: samples and notes by target."""

    unit: str
    samples: dict[str, list[float]] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)

    def median(self, label: str) -> float | None:
        """Return the median of a target, None if it has none."""
        found = self.samples.get(label)
        return statistics.median(found) if found else None

    def best(self, label: str) -> float | None:
        """Return the best sample of a target: what the load of the machine has spoilt least."""
        found = self.samples.get(label)
        if not found:
            return None
        return max(found) if self.unit in RATES else min(found)

    def ratio(self, label: str, other: str, *, of_best: bool = False) -> float | None:
        """Return how many times as long `label` takes as `other`: below 1, it is ahead."""
        take = self.best if of_best else self.median
        mine, theirs = take(label), take(other)
        if not mine or not theirs:
            return None
        return theirs / mine if self.unit in RATES else mine / theirs


Book = dict[str, dict[str, Case]]
"""What was measured: part title -> case -> samples."""


def timed(case: str, unit: str, work: Callable[[], object], per: int = 1) -> Sample:
    """Run `work` and return its time: in seconds, or in microseconds for each of `per` things."""
    gc.disable()
    try:
        start = time.perf_counter()
        work()
        elapsed = time.perf_counter() - start
    except (OSError, Unmeasurable) as error:
        return Sample(case, None, unit, str(error))
    finally:
        gc.enable()
    return Sample(case, elapsed * {"us": 1e6, "ms": 1e3, "s": 1.0}[unit] / per, unit)


def rate(case: str, work: Callable[[], object], size_bytes: int) -> Sample:
    """Run `work`, which moves `size_bytes`, and return MiB/s."""
    sample = timed(case, "s", work)
    if not sample.value:
        return sample._replace(unit="MiB/s")
    return Sample(case, size_bytes / (1 << 20) / sample.value, "MiB/s")


@contextlib.contextmanager
def _watched(target: Target) -> Iterator[None]:
    """Kill the target's daemon if a step takes too long."""
    timer = threading.Timer(STEP_TIMEOUT_S, target.abort)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def run_round(part: Part, targets: list[Target], sizes: Sizes, cases: dict[str, Case]) -> None:
    """Run a part once on each target, a step of each in turn."""
    going = [(target, part.run(target, sizes)) for target in targets]
    while going:
        for pair in list(going):
            if not _take_turn(part, *pair, cases):
                going.remove(pair)


def _take_turn(part: Part, target: Target, steps: Steps, cases: dict[str, Case]) -> bool:
    """Take the next step on one target, or those that belong together; False when there is none left."""
    keeps_turn = True
    while keeps_turn:
        with _watched(target):
            try:
                sample = next(steps, None)
            except OSError as error:
                # A target that cannot do the work must not end the run of all others.
                cases.setdefault(_REST, Case("")).notes[target.label] = str(error)
                return False
            if part.settles:
                target.settle()
        if sample is None:
            return False
        keeps_turn = sample.keeps_turn
        case = cases.setdefault(sample.case, Case(sample.unit))
        if sample.value is None:
            case.notes[target.label] = sample.note
        else:
            case.samples.setdefault(target.label, []).append(sample.value)
    return True


def run(part: Part, targets: list[Target], sizes: Sizes, rounds: int, cases: dict[str, Case]) -> None:
    """Run a part on all targets, `rounds` times; what is measured goes into `cases`."""
    for number in range(rounds):
        first = number % len(targets)
        run_round(part, targets[first:] + targets[:first], sizes, cases)
