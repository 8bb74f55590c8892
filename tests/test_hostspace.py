"""An engine that took no more writes: opened anew where that is sound, a few times, with its state shown."""

from __future__ import annotations

import logging
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.logs import assert_logs
from tzfs import hostspace
from tzfs.errors import StoreCorrupt, StoreError
from tzfs.hostspace import HostSpace
from tzfs.rocks import RocksStore

EIO = "IO error: While appending to file: 000012.log: Input/output error"


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[RocksStore]:
    """Return an engine with two keys, one of them in its log alone."""
    store = RocksStore.open(tmp_path / "db", create=True)
    store.write({b"ha": b"1"})
    store.flush()
    store.write({b"hb": b"2"})
    yield store
    store.close()


@pytest.fixture
def space(engine: RocksStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> HostSpace:
    monkeypatch.setattr(hostspace, "RECOVER_AFTER_S", 0)
    return HostSpace(tmp_path, engine)


class Failing:
    """A database whose writes and syncs fail; all else is the real one's."""

    def __init__(self, database: Any, *, is_written: bool = False) -> None:  # noqa: ANN401 - the engine's type
        self._database = database
        self._is_written = is_written

    def write(self, batch: object) -> None:
        """Fail, and have written it nevertheless if `is_written`."""
        if self._is_written:
            self._database.write(batch)
        raise Exception(EIO)  # noqa: TRY002 as the engine does

    def flush_wal(self, *, sync: bool) -> None:
        """Fail."""
        raise Exception(EIO)  # noqa: TRY002

    def __getattr__(self, name: str) -> object:
        """Return what the real one has."""
        return getattr(self._database, name)


def fail(engine: RocksStore, *, is_written: bool = False) -> None:
    """Let a write fail as on a disk with an error."""
    engine._database = Failing(engine._database, is_written=is_written)  # type: ignore[assignment]
    with pytest.raises(StoreError, match="Input/output"):
        engine.write({b"hc": b"3"})
    assert engine.is_failed
    with pytest.raises(StoreError):
        engine.write({b"hd": b"4"})
    assert engine.get(b"hb") == b"2"


def test_after_an_error_of_the_disk_writing_goes_on_with_nothing_lost(
    engine: RocksStore, space: HostSpace
) -> None:
    fail(engine)
    assert "Input/output" in str(space.describe()["failure"])
    with assert_logs("opened anew"):
        space.look()
    assert space.describe() == {"failure": None, "compacts": True, "reopened": 1, "disk_full": False}
    assert engine.scan(b"h", b"i", 9) == [(b"ha", b"1"), (b"hb", b"2")]
    engine.write({b"hc": b"3"})
    engine.sync()


def test_a_sync_that_failed_is_made_good_by_opening_anew(engine: RocksStore, space: HostSpace) -> None:
    engine._database = Failing(engine._database)  # type: ignore[assignment]
    with pytest.raises(StoreError):
        engine.sync()
    with assert_logs("opened anew"):
        space.look()
    engine.sync()
    assert engine.get(b"hb") == b"2"


def test_a_disk_that_goes_on_failing_is_given_up(engine: RocksStore, space: HostSpace) -> None:
    for _ in range(hostspace.RECOVERIES_MAX):
        fail(engine)
        with assert_logs("opened anew"):
            space.look()
    fail(engine)
    space.look()
    assert engine.is_failed
    assert engine.get(b"hb") == b"2"
    engine._failure = None
    engine._database = engine._database._database


def test_a_write_that_was_told_to_have_failed_and_is_there_ends_writing(
    engine: RocksStore, space: HostSpace
) -> None:
    fail(engine, is_written=True)
    with assert_logs("opened anew"), assert_logs("cannot be opened", level=logging.ERROR):
        space.look()
    space.look()
    assert engine.is_failed
    assert not engine.is_recoverable
    assert engine.get(b"hb") == b"2"
    engine._failure = None


def test_a_disk_that_has_lost_writes_ends_writing_and_not_reading(
    engine: RocksStore, space: HostSpace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(tmp_path / "db", tmp_path / "earlier")
    for number in range(5):
        engine.write({b"hlost%d" % number: b"x"})
    fail(engine)
    detach = engine._detach

    def detach_and_lose() -> None:
        detach()
        shutil.rmtree(tmp_path / "db")
        shutil.copytree(tmp_path / "earlier", tmp_path / "db")

    monkeypatch.setattr(engine, "_detach", detach_and_lose)
    with assert_logs("opened anew"), assert_logs("cannot be opened", level=logging.ERROR):
        space.look()
    assert engine.is_failed
    assert not engine.is_recoverable
    assert "lost writes" in str(space.describe()["failure"])
    with pytest.raises(StoreError, match="lost writes"):
        engine.write({b"hd": b"4"})
    assert engine.get(b"hb") == b"2"
    engine._failure = None


def test_between_two_openings_anew_the_disk_gets_some_time(
    engine: RocksStore, space: HostSpace, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail(engine)
    with assert_logs("opened anew"):
        space.look()
    monkeypatch.setattr(hostspace, "RECOVER_AFTER_S", 3600)
    fail(engine)
    space.look()
    assert engine.is_failed
    assert space.describe()["reopened"] == 1
    monkeypatch.setattr(hostspace, "RECOVER_AFTER_S", 0)
    with assert_logs("opened anew"):
        space.look()
    assert space.describe()["failure"] is None


class Full(Failing):
    """A database whose disk is full."""

    def write(self, batch: object) -> None:
        """Fail."""
        raise Exception("IO error: No space left on device: While appending to file")  # noqa: TRY002


def test_a_write_that_meets_a_full_disk_is_made_at_once_from_the_reserve(
    engine: RocksStore, space: HostSpace, tmp_path: Path
) -> None:
    space.make_reserve()
    engine._database = Full(engine._database)  # type: ignore[assignment]
    with assert_logs("is full"):
        engine.write({b"hc": b"3"})
    assert engine.scan(b"h", b"i", 9) == [(b"ha", b"1"), (b"hb", b"2"), (b"hc", b"3")]
    assert not engine.is_failed
    assert space.is_full
    assert not (tmp_path / hostspace.RESERVE_NAME).exists()


def test_a_damaged_table_met_by_a_compaction_ends_compaction_and_not_writing(tmp_path: Path) -> None:
    path = tmp_path / "db"
    rng = random.Random(1)
    store = RocksStore.open(path, create=True)
    for part in range(3):
        store.write({b"d%02d%d" % (at, part): rng.randbytes(5000) for at in range(20)})
        store.flush()
    store.close()
    victim = max(path.glob("*.sst"), key=lambda table: table.stat().st_size)
    data = bytearray(victim.read_bytes())
    data[2000] ^= 1
    victim.write_bytes(data)
    store = RocksStore.open(path)
    space = HostSpace(tmp_path, store)
    store.compact()
    with pytest.raises(StoreCorrupt):
        store.write({b"ha": b"1"})
    with assert_logs("opened anew"):
        space.look()
    for _ in range(3):
        store.write({b"ha": b"2", b"dnew": rng.randbytes(5000)})
        store.flush()
    store.sync()
    assert space.describe()["compacts"] is False
    found = 0
    for part in range(3):
        for at in range(20):
            try:
                found += store.get(b"d%02d%d" % (at, part)) is not None
            except StoreCorrupt:
                continue
    assert 50 < found < 60
    store.close()
