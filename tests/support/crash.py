"""A program that crashes tzfs at every failpoint of every operation, and looks at what is left.

    TZFS_FAILPOINTS= python tests/support/crash.py DIRECTORY {filesystem|store} [OPERATION...]

Run by tests/test_failpoints.py. Every step that touches a database runs in a forked child, so that a crash is
the real one, SIGKILL, and no child inherits the engine's threads. One line of JSON is printed for each
operation: how many crashes it had, and what was wrong after them.
"""

from __future__ import annotations

import json
import os
import pickle
import random
import shutil
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from support import scenarios
from support.dump import history, tree
from tzfs import failpoints
from tzfs import history as history_module
from tzfs.check import check
from tzfs.errors import StoreError
from tzfs.filesystem import Filesystem
from tzfs.fork import fork
from tzfs.rocks import RocksStore
from tzfs.session import connect
from tzfs.store import Store

POINTS_MAX = int(os.environ.get("TZFS_TEST_POINTS", "2"))
"""Crashes of one operation at one point; where it is passed more often, some are drawn."""


Look = tuple[list[str], Any, Any]


def in_child(function: Callable[[], Any]) -> tuple[int, Any]:
    """Run a function in a forked child; return its status (-9: killed) and what it returned."""
    readable, writable = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.close(readable)
            result = function()
            with os.fdopen(writable, "wb") as pipe:
                pickle.dump(result, pipe)
            status = 0
        except BaseException:  # noqa: BLE001 - the parent must hear of it
            traceback.print_exc()
        finally:
            os._exit(status)
    os.close(writable)
    with os.fdopen(readable, "rb") as pipe:
        answer = pipe.read()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return status, pickle.loads(answer) if answer else None


def look(path: Path) -> Look:
    """Open a database as the next mount would; return findings, tree and history."""
    engine = RocksStore.open(path)
    try:
        fs = Filesystem(engine)
        return [finding.text for finding in check(fs)], tree(fs), history(fs)
    finally:
        engine.close()


def look_at_store(path: Path) -> Look:
    """Return findings, rows, and the tree of every filesystem."""
    store = Store.open(path)
    store.sweep()
    findings, trees = [], {}
    rows = {str(row.full_name): row.status for row in store.list()}
    for row in store.list():
        if row.status != "deleted":
            with connect(store, row) as session:
                findings += session.call("check")["findings"]
                trees[str(row.full_name)] = tree(session.filesystem)  # type: ignore[attr-defined]
    return findings, rows, trees


def drawn(passed: dict[str, int], rng: random.Random) -> Iterator[tuple[str, int]]:
    """Yield the points to crash at, as (name, nth)."""
    for name, count in sorted(passed.items()):
        every = range(1, count + 1)
        for nth in every if count <= POINTS_MAX else sorted(rng.sample(every, POINTS_MAX)):
            yield name, nth


class Filesystems:
    """Crashes operations of the core, on RocksDB."""

    def __init__(self, directory: Path, seed: int) -> None:
        self.directory = directory
        self.seed = seed
        self.origin = directory / "origin"
        status, _ = in_child(self._prepare)
        assert status == 0
        self.operations = scenarios.OPERATIONS

    def _prepare(self) -> None:
        engine = RocksStore.open(self.origin, create=True)
        scenarios.prepare(engine)
        engine.close()

    def _copy(self) -> Path:
        copy = self.directory / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(self.origin, copy)
        return copy

    def operate(self, path: Path, name: str, arming: str) -> dict[str, int]:
        """Run one operation to its end; return the points it passed."""
        engine = RocksStore.open(path)
        fs = Filesystem(engine)
        history_module.KEYS_A_STEP = 16  # type: ignore[misc] - several steps, for a rollback of some 100 keys
        failpoints.arm(arming)
        self.operations[name](fs)
        passed = dict(failpoints.hits)
        failpoints.arm("")
        engine.close()
        return passed

    def run(self, name: str) -> dict[str, Any]:
        """Crash one operation everywhere."""
        rng = random.Random(self.seed)
        before = in_child(lambda: look(self._copy()))[1]
        copy = self._copy()
        status, passed = in_child(partial(self.operate, copy, name, ""))
        assert status == 0, f"{name} fails without a crash"
        after = in_child(partial(look, copy))[1]
        wrong = [f"without a crash: {after[0]}"] if after[0] else []
        crashes = 0
        for point, nth in drawn(passed, rng):
            copy = self._copy()
            status, _ = in_child(partial(self.operate, copy, name, f"{point}=crash:{nth}"))
            crashes += status == -signal.SIGKILL
            status, found = in_child(partial(look, copy))
            wrong += [f"{point}:{nth}: {text}" for text in self.judge(found, before, after)]
        return {
            "operation": name, "seed": self.seed, "points": sorted(passed), "crashes": crashes, "wrong": wrong
        }  # fmt: skip

    def refuse(self, name: str) -> dict[str, Any]:
        """Let one operation fail before each point, as when the disk fails there."""
        rng = random.Random(self.seed)
        before = in_child(lambda: look(self._copy()))[1]
        copy = self._copy()
        _, passed = in_child(partial(self.operate, copy, name, ""))
        after = in_child(partial(look, copy))[1]
        errors, wrong = 0, []
        for point, nth in drawn(passed, rng):
            if not point.endswith(".before"):
                continue
            copy = self._copy()
            status, is_refused = in_child(partial(self._is_refused, copy, name, f"{point}=error:{nth}"))
            errors += bool(is_refused)
            found = None if status else in_child(partial(look, copy))[1]
            wrong += [f"{point}:{nth}: {text}" for text in self.judge(found, before, after)]
        return {"operation": name, "seed": self.seed, "errors": errors, "wrong": wrong}

    def _is_refused(self, path: Path, name: str, arming: str) -> bool:
        """Run one operation; tell whether it failed, after which the database is closed in good order."""
        engine = RocksStore.open(path)
        fs = Filesystem(engine)
        history_module.KEYS_A_STEP = 16  # type: ignore[misc]
        failpoints.arm(arming)
        try:
            self.operations[name](fs)
        except StoreError:
            return True
        finally:
            failpoints.arm("")
            engine.close()
        return False

    def judge(self, found: Look | None, before: Look, after: Look) -> Iterator[str]:
        """Yield what is wrong after a crash."""
        if found is None:
            yield "it cannot be opened any more"
            return
        findings, live, past = found
        yield from findings
        if live not in (before[1], after[1]):
            yield "the tree is neither the one before nor the one after"
        for txn, content in past.items():
            known = [moment[2][txn] for moment in (before, after) if txn in moment[2]]
            if content not in known and content[1] not in (before[1], after[1]):
                yield f"snapshot {txn} is another one"
        for txn in set(before[2]) & set(after[2]):
            if txn not in past:
                yield f"snapshot {txn} is gone"


class Stores:
    """Crashes commands on a store: its rows and its filesystems."""

    def __init__(self, directory: Path, seed: int) -> None:
        self.directory = directory
        self.seed = seed
        self.origin = directory / "origin"
        assert in_child(self._prepare)[0] == 0
        self.operations: dict[str, Callable[[Store], Any]] = {
            "create": lambda store: store.create("new"),
            "rename": lambda store: store.rename("lab", "other/name"),
            "archive": lambda store: store.archive("lab"),
            "delete": lambda store: store.delete("lab"),
            "purge": lambda store: store.purge("old"),
            "undelete": lambda store: store.undelete("old"),
            "fork": lambda store: fork(store, "lab", None, "new"),
            "fork-of-a-snapshot": lambda store: fork(store, "lab", "one", "new"),
            "recover": self._recover,
        }

    def _prepare(self) -> None:
        store = Store.open(self.origin, create=True)
        for name in ("lab", "old", "lost"):
            row = store.create(name)
            engine = RocksStore.open(store.database(row))
            scenarios.fill(Filesystem(engine))
            engine.close()
        store.delete("old")
        store.catalog.remove(store.get("lost").id)

    @staticmethod
    def _recover(store: Store) -> None:
        (lost,) = store.unknown()
        store.recover(lost, "found")

    def _copy(self) -> Path:
        copy = self.directory / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(self.origin, copy)
        return copy

    def operate(self, path: Path, name: str, arming: str) -> dict[str, int]:
        """Run one command to its end; return the points it passed."""
        store = Store.open(path)
        failpoints.arm(arming)
        self.operations[name](store)
        passed = dict(failpoints.hits)
        failpoints.arm("")
        return passed

    def run(self, name: str) -> dict[str, Any]:
        """Crash one command everywhere."""
        before = in_child(lambda: look_at_store(self._copy()))[1]
        copy = self._copy()
        status, passed = in_child(partial(self.operate, copy, name, ""))
        assert status == 0, f"{name} fails without a crash"
        after = in_child(partial(look_at_store, copy))[1]
        crashes, wrong = 0, [f"without a crash: {after[0]}"] if after[0] else []
        for point, nth in drawn(passed, random.Random(self.seed)):
            copy = self._copy()
            status, _ = in_child(partial(self.operate, copy, name, f"{point}=crash:{nth}"))
            crashes += status == -signal.SIGKILL
            _, found = in_child(partial(look_at_store, copy))
            if found is None or found[0]:
                wrong.append(f"{point}:{nth}: {found and found[0]}")
            elif found[1:] not in (before[1:], after[1:]):
                wrong.append(f"{point}:{nth}: neither before nor after: {found[1]}")
        return {
            "operation": name, "seed": self.seed, "points": sorted(passed), "crashes": crashes, "wrong": wrong
        }  # fmt: skip


def main() -> None:
    """Run the operations named, or all."""
    directory, kind, *names = sys.argv[1:]
    seed = int(os.environ.get("TZFS_TEST_SEED", "1"))
    runner = (Stores if kind == "store" else Filesystems)(Path(directory), seed)
    do = runner.refuse if kind == "refusals" and isinstance(runner, Filesystems) else runner.run
    for name in names or runner.operations:
        print(json.dumps(do(name)), flush=True)  # noqa: T201 (its output)


if __name__ == "__main__":
    main()
