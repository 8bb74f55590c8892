"""A crash at every failpoint of every operation: what is found is the state before or after, and sound.

tests/support/crash.py does it, in processes of its own: the points exist only where the environment asked
for them before tzfs was imported. The seed draws where there are too many; the same seed is the same run:
TZFS_TEST_SEED=7 pytest tests/test_failpoints.py.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import tzfs
from support import scenarios
from support.dump import tree
from tzfs import failpoints
from tzfs.catalog import Catalog
from tzfs.check import check
from tzfs.errors import StoreError
from tzfs.kv import MemoryStore
from tzfs.rocks import RocksStore
from tzfs.volume import Transaction
from tzfs.wal import Logs

SOURCES = Path(tzfs.__file__).parents[1]
TESTS = Path(__file__).parent


@pytest.fixture
def place() -> Iterator[Path]:
    """Return a directory in memory if there is one: a sync is free there, and a kill loses no page of it."""
    memory = Path("/dev/shm")
    parent = memory if os.access(memory, os.W_OK) else None
    path = Path(tempfile.mkdtemp(prefix="tzfs-crash-", dir=parent))
    yield path
    shutil.rmtree(path)


def crash_everywhere(place: Path, kind: str) -> dict[str, dict[str, object]]:
    seed = os.environ.get("TZFS_TEST_SEED", "1")
    print(f"seed {seed}")  # noqa: T201 (shown when it fails)
    done = subprocess.run(
        [sys.executable, TESTS / "support" / "crash.py", place, kind],
        env={
            **os.environ,
            failpoints.VARIABLE: "",
            "TZFS_TEST_SEED": seed,
            "PYTHONPATH": f"{TESTS}:{SOURCES}",
        },
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return {line["operation"]: line for line in map(json.loads, done.stdout.splitlines())}


def test_after_a_crash_at_any_point_an_operation_is_done_or_not_begun(place: Path) -> None:
    results = crash_everywhere(place, "filesystem")
    assert results.keys() == scenarios.OPERATIONS.keys()
    assert passed(results) == OF_A_FILESYSTEM
    for result in results.values():
        assert result["wrong"] == []
        assert result["crashes"]


def test_after_a_crash_at_any_point_a_store_has_the_filesystem_or_not(place: Path) -> None:
    results = crash_everywhere(place, "store")
    assert len(results) == 9
    assert passed(results) >= OF_A_STORE
    for result in results.values():
        assert result["wrong"] == []
        assert result["crashes"]


def test_after_an_error_at_any_point_an_operation_is_done_or_not_begun(place: Path) -> None:
    results = crash_everywhere(place, "refusals")
    assert results.keys() == scenarios.OPERATIONS.keys()
    for result in results.values():
        assert result["wrong"] == []
        assert result["errors"]


OF_A_FILESYSTEM = {
    "build_tables", "checkpoint", "commit", "compact", "flush", "make_way", "reclaim_slice", "rollback_step",
    "seal", "snapshot_delete", "sync", "take_tables", "write",
}  # fmt: skip
OF_A_STORE = {"catalog_insert", "catalog_recover", "catalog_remove", "catalog_update", "close_gaps"}
ELSEWHERE = {"append_damage", "handler.{name}", "task.{name}"}
"""Tested in tests/test_wal.py and tests/mount/test_bugs.py."""


def passed(results: dict[str, dict[str, object]]) -> set[str]:
    """Return the points at which the operations crashed."""
    points = {point for result in results.values() for point in result["points"]}  # type: ignore[attr-defined]
    return {point.rpartition(".")[0] for point in points}


def test_every_point_in_the_sources_is_one_that_a_test_crashes_at() -> None:
    found = re.findall(
        r'failpoints\.point\(f?"(.*?)"\)',
        "".join(path.read_text() for path in Path(tzfs.__file__).parent.rglob("*.py")),
    )
    assert set(found) == OF_A_FILESYSTEM | OF_A_STORE | ELSEWHERE


_ENGINES_OWN = {"make-way", "flush", "compact", "checkpoint", "sync"}
_SEVERAL = {"rollback", "snapshot-delete"}
"""Of several transactions: what of them was done before the refusal stays done."""


class Refusing(MemoryStore):
    """A store of which one write fails, as on a full disk."""

    countdown = 0

    def write(self, batch: object) -> None:
        self.countdown -= 1
        if self.countdown == 0:
            raise StoreError("the test refuses this write")
        super().write(batch)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", [name for name in scenarios.OPERATIONS if name not in _ENGINES_OWN])
def test_an_operation_that_the_engine_refuses_leaves_the_filesystem_in_use_as_it_was(name: str) -> None:
    whole = scenarios.prepare(Refusing())
    before = tree(whole)
    scenarios.OPERATIONS[name](whole)
    after = tree(whole)
    for nth in (1, 2, 3, 5, 1000):
        engine = Refusing()
        fs = scenarios.prepare(engine)
        engine.countdown = nth
        try:
            scenarios.OPERATIONS[name](fs)
        except StoreError:
            assert tree(fs) in (before, after)
            assert check(fs) == []
            if name not in _SEVERAL:
                scenarios.OPERATIONS[name](fs)
                assert tree(fs) == after
        else:
            break
    assert check(fs) == []
    assert tree(fs) == after


def test_points_do_not_exist_unless_the_environment_asks_for_them() -> None:
    assert not failpoints.IS_COMPILED

    def function() -> None:
        pass

    assert failpoints.point("name")(function) is function
    for decorated in (RocksStore.write, RocksStore.sync, Transaction.commit, Catalog.insert, Logs.close_gaps):
        assert not hasattr(decorated, "__wrapped__")


def test_the_variable_is_a_list_of_points_and_actions() -> None:
    assert failpoints.parse("") == {}
    assert failpoints.parse("a.before=crash:3,b.after=error") == {
        "a.before": failpoints.Armed("crash", 3),
        "b.after": failpoints.Armed("error", 0),
    }
    for text in ("a", "a=", "a=explode", "a=crash:x", "a=crash:-1"):
        with pytest.raises(ValueError, match="TZFS_FAILPOINTS"):
            failpoints.parse(text)


def test_a_rollback_leaves_alone_what_is_open_and_has_no_name() -> None:
    fs = scenarios.prepare(MemoryStore())
    data = scenarios.pattern(50_000, 5)
    number = scenarios.new(fs, "held", data)
    fs.setxattr(number, b"user.a", b"1", scenarios.ALICE)
    fs.unlink(1, b"held", scenarios.ALICE)
    fs.rollback(b"one")
    assert fs.read(number, 0, 60_000) == data
    assert fs.getxattr(number, b"user.a") == b"1"
    assert check(fs) == []
    fs.release([number])
    while fs.reclaim():
        pass
    assert check(fs) == []
