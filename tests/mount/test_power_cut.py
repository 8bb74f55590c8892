"""A power cut at any moment: what was promised is there, with its name, and the rest is a prefix.

The store stands on a disk of our own (tests/support/recorder.py) that records every write and sync. From one
run the state of the disk after a cut at any moment is replayed, in five variants of what a disk may do with
what was not synced (tests/support/powercut.py). Then the store is opened as the next mount would.

TZFS_TEST_SEED chooses the operations and the cuts; TZFS_TEST_CUTS how many cuts there are.
"""

import contextlib
import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import tzfs
from support import machine, powercut
from support.recorder import Event
from support.watched import digest, see
from tzfs import damage
from tzfs.check import check
from tzfs.errors import TzfsError
from tzfs.filesystem import Filesystem
from tzfs.rocks import RocksStore
from tzfs.store import Store

pytestmark = pytest.mark.mount

TESTS = Path(__file__).parents[1]
SEED = int(os.environ.get("TZFS_TEST_SEED", "1"))
CUTS = int(os.environ.get("TZFS_TEST_CUTS", "12"))


class Run(NamedTuple):
    """What happened, and what could be seen after each step."""

    events: list[Event]
    seen: list[Any]
    scratch: Path


@pytest.fixture
def workspace() -> Iterator[Path]:
    place = machine.make_workspace()
    yield place
    machine.remove_workspace(place)


def record(workspace: Path, kind: str, *without: str) -> Run:
    """Let a program work on the recording disk, and return the trace."""
    disk, trace, report = workspace / "disk", workspace / "trace", workspace / "report"
    disk.mkdir()
    environment = {**os.environ, "PYTHONPATH": f"{TESTS}:{Path(tzfs.__file__).parents[1]}"}
    support = TESTS / "support"
    with subprocess.Popen(
        [sys.executable, support / "recorder.py", disk, trace], env=environment
    ) as recorder:
        try:
            machine.wait_until(lambda: os.path.ismount(disk) or recorder.poll() is not None)
            subprocess.run(
                [sys.executable, support / "watched.py", kind, disk, report, str(SEED), *without],
                env=environment,
                check=True,
                timeout=100,
            )
        finally:
            subprocess.run(["fusermount3", "-uz", disk], check=False, timeout=30)
            recorder.wait(30)
    memory = Path("/dev/shm")
    scratch = memory / workspace.name if os.access(memory, os.W_OK) else workspace / "scratch"
    return Run(powercut.read_trace(trace), json.loads(report.read_text()), scratch)


def cuts(run: Run, kind: str) -> Iterator[tuple[int, int, str, Path]]:
    """Yield (synced step, last step, description, disk after the cut) for some moments and all variants."""
    rng = random.Random(SEED)
    marks = [at for at, event in enumerate(run.events) if event[0] == "mark"]
    promises = [at for at in marks if run.events[at][1].startswith("synced.")]
    # Right after a promise is where a missing sync shows; in between is where a mixture would.
    switches = list(_after_switches(run, rng))
    few = CUTS // 4 if kind == "switching" else CUTS
    chosen = sorted(
        {
            *rng.sample(promises, min(few, len(promises))),
            *rng.sample(range(len(run.events)), few),
            *rng.sample(switches, min(few, len(switches))),
        }
    )
    disk, synced, done, at = powercut.Disk(), -1, 0, 0
    for cut in chosen:
        for event in run.events[at : cut + 1]:
            disk.apply(event)
            if event[0] == "mark":
                what, _, number = event[1].partition(".")
                done = max(done, int(number))
                synced = int(number) if what == "synced" else synced
        at = cut + 1
        for variant in powercut.VARIANTS:
            shutil.rmtree(run.scratch, ignore_errors=True)
            disk.survive(variant, rng, run.scratch)
            yield synced, done, f"seed {SEED}, cut after event {cut}, {variant}", run.scratch
    shutil.rmtree(run.scratch, ignore_errors=True)


def _after_switches(run: Run, rng: random.Random) -> Iterator[int]:
    """Yield moments soon after the engine began a log, by which time the one before need not be synced."""
    for at, event in enumerate(run.events):
        name = event[2] if event[0] == "enter" else event[4] if event[0] == "rename" else b""
        if name.endswith(b".log"):
            yield min(at + rng.randrange(1, 40), len(run.events) - 1)


def judge_operations(run: Run, kind: str = "operations") -> Iterator[str]:
    """Yield what is wrong after each cut."""
    for synced, done, where, disk in cuts(run, kind):
        if synced < 0:
            continue
        try:
            engine = RocksStore.open(disk / "db")
        except TzfsError as error:
            yield f"{where}: {error}"
            continue
        try:
            fs = Filesystem(engine)
            found = digest(fs)
            states = [at for at, seen in enumerate(run.seen) if seen == found]
            if not states:
                yield f"{where}: a state that never was"
            elif not any(synced <= state <= done + 1 for state in states):
                yield f"{where}: the state after {states}, but {synced} was promised"
            yield from (f"{where}: {finding.text}" for finding in check(fs))
            if where.endswith(("forget", "keep")) and damage.notes(disk):
                yield f"{where}: taken for bit rot"
        except TzfsError as error:
            yield f"{where}: {error}"
        finally:
            engine.close()


def judge_commands(run: Run) -> Iterator[str]:
    """Yield what is wrong after each cut."""
    for synced, done, where, disk in cuts(run, "commands"):
        try:
            store = Store.open(disk / "deep" / "store", create=True)
            store.sweep()
            found = see(store)
        except (TzfsError, OSError) as error:
            yield f"{where}: {type(error).__name__}: {error}"
            continue
        allowed = [seen for at, seen in enumerate(run.seen) if max(synced, 0) <= at <= done + 1]
        if found.keys() not in [seen.keys() for seen in allowed]:
            yield f"{where}: {sorted(found)}, and {synced} was promised"
        # In the second step the filesystem is filled, which is several operations.
        elif found not in allowed and done != 1:
            yield f"{where}: another content"


def test_after_a_power_cut_what_was_synced_is_there_and_the_rest_is_a_prefix(workspace: Path) -> None:
    run = record(workspace, "operations")
    assert "\n".join(judge_operations(run)) == ""


def test_a_power_cut_while_the_engine_goes_from_log_to_log_leaves_no_hole(workspace: Path) -> None:
    run = record(workspace, "switching")
    assert len(list(_after_switches(run, random.Random(SEED)))) > 5
    assert "\n".join(judge_operations(run, "switching")) == ""


def test_after_a_power_cut_a_store_has_all_that_a_command_promised(workspace: Path) -> None:
    run = record(workspace, "commands")
    assert "\n".join(judge_commands(run)) == ""


@pytest.mark.parametrize(
    ("kind", "without"),
    [("operations", "rocks.RocksStore.sync"), ("commands", "store._sync_directory")],
)
def test_without_a_sync_the_power_cut_is_noticed(workspace: Path, kind: str, without: str) -> None:
    run = record(workspace, kind, without)
    # For commands the engine's sync is not the one that counts: closing a database flushes it.
    judge = {"operations": judge_operations, "commands": judge_commands}[kind]
    with contextlib.closing(judge(run)) as wrong:  # type: ignore[type-var]
        assert next(wrong, None) is not None
    shutil.rmtree(run.scratch, ignore_errors=True)
