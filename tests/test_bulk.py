"""Large writes past the log: the content is what was written, whatever happens on the way."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support.scenarios import ALICE, CHUNK, new, pattern
from tzfs import keys, wal
from tzfs.bulk import Bulk, Pending, Write
from tzfs.check import check
from tzfs.errors import NoSpace, StoreError
from tzfs.filesystem import Filesystem
from tzfs.kv import MemoryStore
from tzfs.records import AttributeChanges
from tzfs.rocks import RocksStore
from tzfs.versions import scan_all

ROOT = Filesystem.ROOT
Engine = MemoryStore | RocksStore


@pytest.fixture(params=["memory", "rocksdb"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    engine: Engine = (
        MemoryStore() if request.param == "memory" else RocksStore.open(tmp_path / "db", create=True)
    )
    yield engine
    engine.close()


@pytest.fixture
def fs(engine: Engine) -> Iterator[Filesystem]:
    Filesystem.format(engine, chunk_size=CHUNK)
    fs = Filesystem(engine)
    yield fs
    assert check(fs) == []
    reclaimed(fs)


def reclaimed(fs: Filesystem) -> None:
    """Reclaim everything; then there is no chunk that nothing names, and no mark."""
    fs.release([entry.inode.number for entry in fs.readdir(ROOT, 0, 1000)])
    while fs.reclaim():
        pass
    assert not list(scan_all(fs.store, *keys.meta_range(b"T")))
    assert fs.volume.tables == {}
    assert check(fs) == []


def cut(number: int, offset: int, data: bytes, piece: int) -> list[Write]:
    return [
        Write(number, offset + at, data[at : at + piece], ALICE, stamp=True)
        for at in range(0, len(data), piece)
    ]


def bulk_of(fs: Filesystem) -> Bulk:
    return Bulk(fs, fs.store, bytes_min=1)  # type: ignore[arg-type] - both engines take tables


def content(fs: Filesystem, number: int, at: int | None = None) -> bytes:
    return fs.read(number, 0, 1 << 30, at)


def begun(fs: Filesystem, writes: list[Write]) -> tuple[Bulk, Pending]:
    bulk = bulk_of(fs)
    pending = bulk.begin(writes)
    assert pending is not None
    return bulk, pending


def test_what_is_written_is_there_at_any_offset_and_in_any_order(fs: Filesystem) -> None:
    rng = random.Random(1)
    expected = bytearray()
    number = new(fs, "f")
    for turn in range(40):
        offset, size = rng.randrange(60_000), rng.randrange(1, 40_000)
        data = pattern(size, turn)
        writes = cut(number, offset, data, rng.choice((CHUNK, 700, 5000, 40_000)))
        rng.shuffle(writes)
        bulk = bulk_of(fs)
        pending = bulk.begin(writes)
        if pending is None:
            for write in writes:
                fs.write(write.number, write.offset, write.data, ALICE, stamp=True)
        else:
            assert bulk.finish(pending, bulk.build(pending)) == [None] * len(writes)
        expected.extend(bytes(max(0, offset + size - len(expected))))
        expected[offset : offset + size] = data
        assert content(fs, number) == expected
        if rng.random() < 0.4:
            fs.snapshot()
        if rng.random() < 0.2:
            fs.setattr(number, AttributeChanges(size=rng.randrange(50_000)), ALICE)
            expected = bytearray(content(fs, number))


def test_chunks_that_need_nothing_of_the_old_ones_are_in_a_table_and_not_in_a_batch(
    fs: Filesystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = new(fs, "f")
    bulk, pending = begun(fs, cut(number, 0, pattern(20 * CHUNK), 3 * CHUNK))
    assert len(pending.runs) == 1
    tables = bulk.build(pending)
    batches: list[dict[bytes, bytes | None]] = []
    write = fs.store.write
    if isinstance(fs.store, RocksStore):
        monkeypatch.setattr(fs.store, "write", lambda batch: (batches.append(dict(batch)), write(batch)))
    assert set(bulk.finish(pending, tables)) == {None}
    chunks = [key for batch in batches for key in batch if key[:1] == keys.DATA]
    assert [keys.split_chunk(key)[1] for key in chunks] in ([0], [])
    assert content(fs, number) == pattern(20 * CHUNK)


def overwrite(fs: Filesystem, number: int) -> None:
    fs.write(number, 3 * CHUNK, b"by another", ALICE, stamp=True)


def extend(fs: Filesystem, number: int) -> None:
    fs.write(number, 20 * CHUNK + 50, b"y" * 100, ALICE, stamp=True)


def cut_off(fs: Filesystem, number: int) -> None:
    fs.setattr(number, AttributeChanges(size=2 * CHUNK), ALICE)


def empty(fs: Filesystem, number: int) -> None:
    fs.truncate_on_open(number, ALICE)


def seal(fs: Filesystem, number: int) -> None:
    fs.mkdir(ROOT, b"d", 0o755, ALICE)
    fs.snapshot()


def roll_back(fs: Filesystem, number: int) -> None:
    fs.mkdir(ROOT, b"d", 0o755, ALICE)
    fs.rollback(b"begin")


def nothing(fs: Filesystem, number: int) -> None:
    pass


@pytest.mark.parametrize("disturb", [nothing, overwrite, extend, cut_off, empty, seal, roll_back])
def test_what_comes_in_between_counts_as_before_the_write(
    fs: Filesystem, disturb: Callable[[Filesystem, int], None]
) -> None:
    number, twin = new(fs, "f", pattern(5 * CHUNK)), new(fs, "twin", pattern(5 * CHUNK))
    fs.snapshot(b"begin")
    data = pattern(20 * CHUNK, 5)
    bulk, pending = begun(fs, cut(number, 100, data, 7 * CHUNK))
    disturb(fs, number)
    tables = bulk.build(pending)
    assert set(bulk.finish(pending, tables)) == {None}
    if disturb not in (seal, roll_back):
        disturb(fs, twin)
    fs.write(twin, 100, data, ALICE, stamp=True)
    assert content(fs, number) == content(fs, twin)
    assert content(fs, number, at=1) == pattern(5 * CHUNK)


def test_a_file_that_is_removed_meanwhile_takes_the_write_and_leaves_nothing(fs: Filesystem) -> None:
    number = new(fs, "f")
    bulk, pending = begun(fs, cut(number, 0, pattern(20 * CHUNK), CHUNK))
    tables = bulk.build(pending)
    fs.unlink(ROOT, b"f", ALICE)
    assert set(bulk.finish(pending, tables)) == {None}
    assert content(fs, number) == pattern(20 * CHUNK)
    fs.release([number])
    reclaimed(fs)
    assert fs.usage().stored_bytes == 0


def test_two_files_at_once_and_one_that_is_gone(fs: Filesystem) -> None:
    one, two, gone = new(fs, "one"), new(fs, "two"), new(fs, "gone")
    fs.unlink(ROOT, b"gone", ALICE)
    fs.release([gone])
    while fs.reclaim():
        pass
    writes = [
        write
        for number in (one, gone, two)
        for write in cut(number, CHUNK, pattern(9 * CHUNK, number), 2 * CHUNK)
    ]
    bulk, pending = begun(fs, writes)
    results = bulk.finish(pending, bulk.build(pending))
    assert [result is None for result in results] == [True] * 5 + [False] * 5 + [True] * 5
    for number in (one, two):
        assert content(fs, number)[CHUNK:] == pattern(9 * CHUNK, number)


def test_writes_that_overlap_are_done_one_by_one(fs: Filesystem) -> None:
    number = new(fs, "f")
    writes = cut(number, 0, pattern(8 * CHUNK), 4 * CHUNK) + cut(
        number, CHUNK, pattern(8 * CHUNK, 1), 4 * CHUNK
    )
    assert bulk_of(fs).begin(writes) is None


def test_what_a_refused_table_should_have_held_goes_through_the_log(
    fs: Filesystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = new(fs, "f")

    def refuse(tables: object) -> None:
        raise StoreError("the test refuses this table")

    bulk, pending = begun(fs, cut(number, 0, pattern(20 * CHUNK), CHUNK))
    with monkeypatch.context() as patch:
        patch.setattr(fs.store, "take_tables", refuse)
        assert set(bulk.finish(pending, bulk.build(pending))) == {None}
    assert content(fs, number) == pattern(20 * CHUNK)
    # The next one first writes out what may have been in the way.
    pending = bulk.begin(cut(number, 20 * CHUNK, pattern(20 * CHUNK), CHUNK))
    assert pending is not None
    assert set(bulk.finish(pending, bulk.build(pending))) == {None}
    assert content(fs, number) == pattern(20 * CHUNK) * 2


def test_the_quota_is_met_exactly_and_leaves_no_chunk_behind(engine: Engine) -> None:
    Filesystem.format(engine, chunk_size=CHUNK, quota_bytes=30 * CHUNK)
    fs = Filesystem(engine)
    number, other = new(fs, "f"), new(fs, "other")
    bulk, pending = begun(fs, cut(number, 0, pattern(20 * CHUNK), 5 * CHUNK))
    tables = bulk.build(pending)
    fs.write(other, 0, pattern(15 * CHUNK), ALICE, stamp=True)
    results = bulk.finish(pending, tables)
    assert [type(result) for result in results] == [type(None)] * 3 + [NoSpace]
    assert content(fs, number) == pattern(15 * CHUNK)
    assert check(fs) == []
    reclaimed(fs)
    assert bulk_of(fs).begin(cut(number, 0, pattern(20 * CHUNK), CHUNK)) is None


def test_a_crash_between_the_table_and_its_names_leaves_work_for_reclaim(tmp_path: Path) -> None:
    engine = RocksStore.open(tmp_path / "db", create=True)
    Filesystem.format(engine, chunk_size=CHUNK)
    fs = Filesystem(engine)
    number = new(fs, "f", pattern(3 * CHUNK))
    bulk, pending = begun(fs, cut(number, 0, pattern(40 * CHUNK, 1), CHUNK))
    tables = bulk.build(pending)
    engine.take_tables(list(tables.values()))
    # Here the process ends. Closing writes nothing that would not be there after a crash, too.
    engine.close()
    engine = RocksStore.open(tmp_path / "db")
    fs = Filesystem(engine)
    assert content(fs, number) == pattern(3 * CHUNK)
    assert check(fs) == []
    assert fs.reclaim_backlog() == 1
    # What is written meanwhile goes through the log, for the marked chunks are not settled, and stays.
    assert bulk_of(fs).begin(cut(number, 10 * CHUNK, pattern(5 * CHUNK, 2), CHUNK)) is None
    fs.write(number, 10 * CHUNK, pattern(5 * CHUNK, 2), ALICE, stamp=True)
    reclaimed(fs)
    assert content(fs, number)[10 * CHUNK :] == pattern(5 * CHUNK, 2)
    chunks = [keys.split_chunk(key)[1] for key, _ in scan_all(engine, b"d", b"e")]
    assert sorted(chunks) == [0, 1, 2, 10, 11, 12, 13, 14]
    engine.close()


def test_tables_that_a_crash_left_unfinished_are_removed(tmp_path: Path) -> None:
    engine = RocksStore.open(tmp_path / "db", create=True)
    left = engine.build_tables([[(keys.chunk(1, at, 1), b"x") for at in range(10)]])
    assert left[0].exists()
    engine.close()
    RocksStore.open(tmp_path / "db").close()
    assert not left[0].exists()


@pytest.mark.parametrize("is_switched", [False, True])
def test_a_table_that_uses_up_sequence_numbers_leaves_no_gap_in_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_switched: bool
) -> None:
    engine = RocksStore.open(tmp_path / "db", create=True)
    Filesystem.format(engine, chunk_size=CHUNK)
    fs = Filesystem(engine)
    number = new(fs, "f", pattern(30 * CHUNK))
    fs.snapshot()
    engine.flush()
    write = engine.write

    def switch_logs_first(batch: dict[bytes, bytes | None]) -> None:
        if is_switched and wal.SKIP_KEY in batch:
            engine._families[keys.META[0]].flush()
        skips.append(wal.SKIP_KEY in batch)
        write(batch)

    skips: list[bool] = []
    monkeypatch.setattr(engine, "write", switch_logs_first)
    # Between the chunks of this txn stand those of the snapshot: the engine has to number the table.
    bulk, pending = begun(fs, cut(number, 0, pattern(30 * CHUNK, 1), 5 * CHUNK))
    assert set(bulk.finish(pending, bulk.build(pending))) == {None}
    assert True in skips
    new(fs, "later", pattern(100))
    crashed = tmp_path / "crashed"
    shutil.copytree(tmp_path / "db", crashed)
    engine.close()
    with wal.Logs(crashed) as logs:
        assert not logs.close_gaps()
    engine = RocksStore.open(crashed)
    fs = Filesystem(engine)
    assert content(fs, number) == pattern(30 * CHUNK, 1)
    assert content(fs, number, at=1) == pattern(30 * CHUNK)
    assert fs.lookup(ROOT, b"later").size == 100
    assert check(fs) == []
    engine.close()
