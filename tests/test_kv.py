"""One suite for every engine behind `Store`, then what RocksDB promises on top."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support.faults import Instead
from tzfs import tuning
from tzfs.errors import StoreCorrupt, StoreError, StoreLocked, StoreMissing
from tzfs.keys import DATA, HEAD, LOG, META, PAST, SPACES
from tzfs.kv import MemoryStore, Store
from tzfs.rocks import RocksStore
from tzfs.versions import Batch


def everything(store: Store) -> dict[bytes, bytes]:
    """Return the whole content, space by space."""
    return {k: v for space in SPACES for k, v in store.scan(space, space + b"\xff" * 40, 10_000)}


# ------------------------------------------------------------------------- every engine: the contract


def test_a_key_that_was_never_written_has_no_value(store: Store) -> None:
    assert store.get(b"hnone") is None


def test_a_written_value_is_visible_at_once(store: Store) -> None:
    store.write({b"ha": b"1"})
    assert store.get(b"ha") == b"1"


def test_an_empty_value_is_a_value(store: Store) -> None:
    store.write({b"ha": b""})
    assert store.get(b"ha") == b""
    assert store.scan(b"h", b"i", 9) == [(b"ha", b"")]
    store.write({b"ha": None})
    assert store.get(b"ha") is None
    assert everything(store) == {}


def test_an_empty_batch_changes_nothing(store: Store) -> None:
    store.write({})
    assert everything(store) == {}


def test_writing_again_replaces_the_value(store: Store) -> None:
    store.write({b"ha": b"1"})
    store.write({b"ha": b"2"})
    assert store.scan(b"h", b"i", 9) == [(b"ha", b"2")]


def test_none_deletes_and_deleting_nothing_is_no_error(store: Store) -> None:
    store.write({b"ha": b"1", b"hb": b"2"})
    store.write({b"ha": None, b"hnever": None})
    assert everything(store) == {b"hb": b"2"}


@pytest.mark.parametrize(
    ("lower", "upper", "limit", "expected"),
    [
        (b"hb", b"hd", 9, [b"hb", b"hc"]),
        (b"hb\0", b"hd\0", 9, [b"hc", b"hd"]),
        (b"h", b"i", 9, [b"ha", b"hb", b"hc", b"hd"]),
        (b"h", b"i", 2, [b"ha", b"hb"]),
        (b"h", b"i", 0, []),
        (b"he", b"i", 9, []),
        (b"hb", b"hb", 9, []),
        (b"hc", b"hb", 9, []),
    ],
    ids=["half-open", "between", "all", "limit", "limit 0", "behind the last", "empty", "upside down"],
)
def test_a_scan_is_half_open_ascending_and_limited(
    store: Store, lower: bytes, upper: bytes, limit: int, expected: list[bytes]
) -> None:
    store.write({key: key[::-1] for key in (b"hd", b"hb", b"ha", b"hc")})
    assert store.scan(lower, upper, limit) == [(key, key[::-1]) for key in expected]


def test_keys_sort_as_unsigned_bytes_and_a_prefix_comes_first(store: Store) -> None:
    ordered = [b"h", b"h\0", b"h\0\0", b"h\x01", b"h\x7f", b"h\x80", b"h\xff", b"h\xff\xff"]
    store.write(dict.fromkeys(reversed(ordered), b"v"))
    assert [key for key, _ in store.scan(b"h", b"i", 99)] == ordered


def test_spaces_do_not_mix(store: Store) -> None:
    store.write({space + b"k": space for space in SPACES})
    for space in SPACES:
        assert store.get(space + b"k") == space
        assert store.scan(space, bytes((space[0] + 1,)), 9) == [(space + b"k", space)]
    store.write({HEAD + b"k": None})
    assert sorted(everything(store)) == sorted(space + b"k" for space in (PAST, LOG, DATA, META))


def test_one_batch_may_write_and_delete_in_many_spaces(store: Store) -> None:
    store.write({b"ha": b"old", b"da": b"old", b"ma": b"old"})
    store.write({b"ha": None, b"pa": b"new", b"da": b"new", b"la": b"new"})
    assert everything(store) == {b"pa": b"new", b"la": b"new", b"da": b"new", b"ma": b"old"}


def test_a_big_value_comes_back_whole(store: Store) -> None:
    value = bytes(range(256)) * 8192
    store.write({b"dbig": value})
    assert store.get(b"dbig") == value


def test_sync_can_be_called_at_any_time(store: Store) -> None:
    store.sync()
    store.write({b"ha": b"1"})
    store.sync()
    assert store.get(b"ha") == b"1"


keys_close = st.tuples(st.sampled_from(SPACES), st.binary(max_size=3)).map(b"".join)
batches = st.lists(st.dictionaries(keys_close, st.none() | st.binary(max_size=5), max_size=8), max_size=6)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(batches=batches, probes=st.lists(keys_close, min_size=2, max_size=4), limit=st.integers(0, 5))
def test_any_batches_leave_what_a_dictionary_would_hold(
    store: Store, batches: list[dict[bytes, bytes | None]], probes: list[bytes], limit: int
) -> None:
    store.write(dict.fromkeys(everything(store)))
    model: dict[bytes, bytes] = {}
    for batch in batches:
        store.write(batch)
        model = {k: v for k, v in (model | batch).items() if v is not None}
    assert everything(store) == model
    for lower in probes:
        same_space = [probe for probe in probes if probe[0] == lower[0]]
        assert [store.get(probe) for probe in same_space] == [model.get(probe) for probe in same_space]
        for upper in same_space:
            expected = sorted(item for item in model.items() if lower <= item[0] < upper)
            assert store.scan(lower, upper, limit) == expected[:limit]


# ------------------------------------------------------------------------------------------ Batch


def test_a_batch_is_read_back_through_but_written_only_by_commit(store: Store) -> None:
    store.write({b"ha": b"old", b"hb": b"old"})
    batch = Batch(store)
    batch.put_raw(b"ha", b"new")
    batch.delete_raw(b"hb")
    assert (batch.get_raw(b"ha"), batch.get_raw(b"hb"), batch.get_raw(b"hc")) == (b"new", None, None)
    assert everything(store) == {b"ha": b"old", b"hb": b"old"}
    batch.commit()
    assert everything(store) == {b"ha": b"new"}


def test_what_is_staged_last_for_a_key_counts(store: Store) -> None:
    store.write({b"hb": b"old"})
    batch = Batch(store)
    batch.put_raw(b"ha", b"1")
    batch.delete_raw(b"ha")
    batch.delete_raw(b"hb")
    batch.put_raw(b"hb", b"2")
    batch.commit()
    assert everything(store) == {b"hb": b"2"}


def test_a_dropped_batch_leaves_no_trace(store: Store) -> None:
    batch = Batch(store)
    batch.put_raw(b"ha", b"1")
    del batch
    assert everything(store) == {}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    stored=st.dictionaries(keys_close, st.binary(max_size=3), max_size=12),
    staged=st.dictionaries(keys_close, st.none() | st.binary(max_size=3), max_size=12),
    bounds=st.tuples(keys_close, keys_close),
    limit=st.integers(0, 6),
)
def test_a_batch_scans_what_the_store_will_hold(
    store: Store,
    stored: dict[bytes, bytes],
    staged: dict[bytes, bytes | None],
    bounds: tuple[bytes, bytes],
    limit: int,
) -> None:
    store.write({**dict.fromkeys(everything(store)), **stored})
    batch = Batch(store)
    batch.staged.update(staged)
    lower, upper = bounds[0], bounds[0][:1] + bounds[1][1:]
    foretold = batch.scan_raw(lower, upper, limit)
    batch.commit()
    assert foretold == store.scan(lower, upper, limit)


# ---------------------------------------------------------------------------------- RocksDB alone


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """Return the directory of a closed database that holds three keys."""
    with closing(RocksStore.open(tmp_path / "db", create=True)) as store:
        store.write({b"ha": b"1", b"mB": b"2", b"dx": b"3" * 70_000})
    return tmp_path / "db"


CONTENT = {b"ha": b"1", b"mB": b"2", b"dx": b"3" * 70_000}


@pytest.fixture
def in_another_process() -> Iterator[Callable[[str, Path], subprocess.Popen[str]]]:
    """Return a function that runs lines of Python on the store at a path, elsewhere.

    The other process has opened `store` when the function returns, and lives until its standard input ends.
    """
    started: list[subprocess.Popen[str]] = []

    def start(lines: str, path: Path) -> subprocess.Popen[str]:
        program = (
            "import os, sys; from pathlib import Path; from tzfs.rocks import RocksStore\n"
            f"store = RocksStore.open(Path({str(path)!r}), create=True)\n{lines}\n"
            "print('ready', flush=True); sys.stdin.read(); os._exit(0)\n"
        )
        process = subprocess.Popen(
            [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process

    yield start
    for process in started:
        process.communicate(timeout=20)


def test_a_database_keeps_its_content_over_close_and_open(database: Path) -> None:
    for _ in range(2):
        with closing(RocksStore.open(database)) as store:
            assert everything(store) == CONTENT


def test_a_second_close_does_nothing(database: Path) -> None:
    store = RocksStore.open(database)
    store.close()
    store.close()


def test_what_was_written_survives_the_end_of_the_process_without_sync_or_close(
    tmp_path: Path, in_another_process: Callable[[str, Path], subprocess.Popen[str]]
) -> None:
    process = in_another_process("store.write({b'ha': b'1', b'da': b'2'})", tmp_path / "db")
    process.kill()
    process.wait(20)
    with closing(RocksStore.open(tmp_path / "db")) as store:
        assert everything(store) == {b"ha": b"1", b"da": b"2"}


def test_what_is_written_over_many_logs_survives_the_process_and_a_checkpoint(
    tmp_path: Path, in_another_process: Callable[[str, Path], subprocess.Popen[str]]
) -> None:
    """Old logs are not written over: see `tzfs.tuning` for why."""
    lines = (
        "for n in range(12):\n"
        "    store.write({b'ha': b'%d' % n, b'h%d' % n: bytes(5000)})\n"
        "    store.write({b'h%d' % n: None})\n"
        "    store.flush()\n"
        "store.write({b'ha': b'last'})\n"
        f"store.checkpoint(Path({str(tmp_path / 'copy')!r}))\n"
    )
    process = in_another_process(lines, tmp_path / "db")
    process.kill()
    process.wait(20)
    assert "from recycle list" not in (tmp_path / "db" / "LOG").read_text()
    for path in (tmp_path / "db", tmp_path / "copy"):
        with closing(RocksStore.open(path)) as store:
            assert everything(store) == {b"ha": b"last"}


def test_a_database_open_in_another_process_is_locked(
    database: Path, in_another_process: Callable[[str, Path], subprocess.Popen[str]]
) -> None:
    in_another_process("", database)
    with pytest.raises(StoreLocked):
        RocksStore.open(database)


def test_a_database_open_in_this_process_is_locked(database: Path) -> None:
    with closing(RocksStore.open(database)), pytest.raises(StoreLocked):
        RocksStore.open(database)


def test_a_read_only_store_reads_beside_a_writer_and_writes_nothing(database: Path) -> None:
    with (
        closing(RocksStore.open(database)),
        closing(RocksStore.open(database, read_only=True)) as reader,
    ):
        assert everything(reader) == CONTENT
        with pytest.raises(StoreError):
            reader.write({b"ha": b"changed"})
        assert reader.get(b"ha") == b"1"


@pytest.mark.parametrize("read_only", [False, True])
def test_where_there_is_no_database_the_store_is_missing(tmp_path: Path, read_only: bool) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_bytes(b"no database")
    for name in ("nothing", "empty", "file"):
        with pytest.raises(StoreMissing):
            RocksStore.open(tmp_path / name, read_only=read_only)
    assert not (tmp_path / "nothing").exists()
    assert list((tmp_path / "empty").iterdir()) == []


@pytest.mark.parametrize("name", ["CURRENT", "MANIFEST"])
def test_a_damaged_catalogue_of_the_database_is_a_store_error(database: Path, name: str) -> None:
    next(database.glob(f"{name}*")).write_bytes(b"nothing that an engine wrote\n")
    with pytest.raises(StoreError):
        RocksStore.open(database)


def test_a_damaged_block_is_reported_with_its_key_and_never_returned(database: Path) -> None:
    with closing(RocksStore.open(database)) as store:
        store.write({b"dx": random.randbytes(50_000), b"dy": random.randbytes(50_000)})
        store.flush()
    biggest = max(database.glob("*.sst"), key=lambda path: path.stat().st_size)
    stored = bytearray(biggest.read_bytes())
    for at in range(0, 90_000, 1000):
        stored[at] ^= 0xFF
    biggest.write_bytes(stored)
    with closing(RocksStore.open(database)) as store:
        for key in (b"dx", b"dy"):
            with pytest.raises(StoreCorrupt, match=key.hex()):
                store.get(key)
        with pytest.raises(StoreCorrupt):
            store.scan(b"d", b"e", 9)
        assert store.get(b"ha") == b"1"


def test_flush_and_compact_keep_the_content(database: Path) -> None:
    with closing(RocksStore.open(database)) as store:
        store.flush()
        assert everything(store) == CONTENT
        store.write({b"ha": None})
        store.compact()
        assert everything(store) == {k: v for k, v in CONTENT.items() if k != b"ha"}


def test_who_comes_after_a_sync_has_no_need_of_another(
    database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flush_wal(*, sync: bool) -> None:
        synced.append(sync)
        if errors:
            raise errors.pop()
        engine.flush_wal(sync=sync)

    synced: list[bool] = []
    errors: list[OSError] = []
    with closing(RocksStore.open(database)) as store:
        engine = store._database
        store.sync()
        monkeypatch.setattr(store, "_database", Instead(engine, flush_wal=flush_wal))
        store.sync()
        assert synced == []
        store.write({b"ha": b"1"})
        for _ in range(3):
            store.sync()
            assert store.sync_at_once()
        assert synced == [True]
        store.write({b"ha": b"2"})
        errors.append(OSError("the disk is gone"))
        for _ in range(2):
            with pytest.raises(StoreError, match="gone"):
                store.sync()
        monkeypatch.undo()
        store.reopen()
        assert store._unsynced_bytes, "what could not be synced still is not"


def test_a_sync_at_once_is_refused_when_it_may_take_long(
    database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(RocksStore.open(database)) as store:
        synced: list[None] = []
        monkeypatch.setattr(store, "sync", lambda: synced.append(RocksStore.sync(store)))
        assert store.sync_at_once()
        store.write({b"da": bytes(tuning.SYNC_AT_ONCE_BYTES)})
        assert not store.sync_at_once(), "much was written"
        store.sync()
        assert store.sync_at_once()
        held, done = threading.Event(), threading.Event()

        def compact() -> None:
            with store._attached:  # as a compaction does
                held.set()
                assert done.wait(20)

        compaction = threading.Thread(target=compact)
        compaction.start()
        assert held.wait(20)
        assert not store.sync_at_once(), "the database is compacted"
        done.set()
        compaction.join()
        assert store.sync_at_once()
        assert len(synced) == 4


def test_a_checkpoint_is_a_database_of_its_own(database: Path, tmp_path: Path) -> None:
    with closing(RocksStore.open(database)) as store:
        store.write({b"hb": b"before"})
        store.checkpoint(tmp_path / "copy")
        store.write({b"hb": b"after", b"ha": None})
        with closing(RocksStore.open(tmp_path / "copy")) as copy:
            assert everything(copy) == CONTENT | {b"hb": b"before"}
            copy.write({b"dx": None})
        assert store.get(b"dx") == CONTENT[b"dx"]


def test_a_destroyed_database_is_gone(database: Path) -> None:
    RocksStore.destroy(database)
    assert not database.exists()


def test_a_batch_with_a_key_of_no_space_writes_nothing_at_all(database: Path) -> None:
    with closing(RocksStore.open(database)) as store:
        with pytest.raises(KeyError):
            store.write({b"ha": b"changed", b"?": b"no such space"})
        assert everything(store) == CONTENT


def test_a_memory_store_keeps_its_content_over_close() -> None:
    store = MemoryStore()
    store.write({b"ha": b"1"})
    store.close()
    assert store.get(b"ha") == b"1"
