"""The engine's logs: holes between them, and damage in their middle told from their end."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from support.scenarios import new
from tzfs import cli, damage, failpoints, rocks, stand_in, wal
from tzfs.cli.base import REFUSED
from tzfs.errors import StoreError
from tzfs.rocks import RocksStore
from tzfs.session import connect
from tzfs.store import Store

WRITES = 60


def written(store: RocksStore) -> list[int]:
    """Return the numbers that are there."""
    return [int(key[1:]) for key, _ in store.scan(b"h", b"i", 1000)]


@pytest.fixture
def crashed(tmp_path: Path) -> Path:
    """Return a database as a killed process left it, with several batches in one log."""
    path = tmp_path / "db"
    store = RocksStore.open(path, create=True)
    for number in range(WRITES):
        store.write({b"h%03d" % number: random.Random(number).randbytes(2000)})
    store.sync()
    copy = tmp_path / "fs" / "db"
    copy.parent.mkdir()
    shutil.copytree(path, copy)
    store.close()
    return copy


def log_of(database: Path) -> Path:
    """Return the log that has something in it."""
    return max(database.glob("*.log"), key=lambda path: path.stat().st_size)


def test_crc32c_is_that_of_rfc_3720() -> None:
    assert wal.crc32c(bytes(32)) == 0x8A9136AA
    assert wal.crc32c(b"123456789") == 0xE3069283


def test_batches_are_found_with_their_numbers_and_their_checksums_hold(crashed: Path) -> None:
    data = memoryview(log_of(crashed).read_bytes())
    found = list(wal.batches(data))
    assert len(found) == WRITES
    assert [batch.changes for batch in found] == [1] * WRITES
    first = found[0].sequence
    assert [batch.sequence for batch in found] == list(range(first, first + WRITES))
    assert any(len(batch.fragments) > 1 for batch in found), "one crosses a block"
    assert all(wal._is_sound(data, *fragment) for batch in found for fragment in batch.fragments)


def end_in_nothing(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:50_000])


def end_in_zeros(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:50_000] + bytes(3000))


def end_in_rubbish(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:50_000] + random.Random(1).randbytes(3000))


@pytest.mark.parametrize("tear", [end_in_nothing, end_in_zeros, end_in_rubbish])
def test_a_torn_end_is_no_damage(crashed: Path, tear: Callable[[Path], None]) -> None:
    tear(log_of(crashed))
    with contextlib.closing(RocksStore.open(crashed)) as store:
        found = written(store)
        assert found == list(range(len(found)))
        assert 10 < len(found) < WRITES
    assert damage.notes(crashed.parent) == []


def test_after_kill_9_nothing_is_damaged(crashed: Path) -> None:
    with contextlib.closing(RocksStore.open(crashed)) as store:
        assert written(store) == list(range(WRITES))
    assert damage.notes(crashed.parent) == []


def test_a_flipped_bit_in_the_middle_is_damage_and_noted_once(crashed: Path) -> None:
    path = log_of(crashed)
    data = bytearray(path.read_bytes())
    data[50_000] ^= 4
    path.write_bytes(data)
    for _ in range(2):
        with contextlib.closing(RocksStore.open(crashed)) as store:
            found = written(store)
            assert found == list(range(len(found)))
            assert 10 < len(found) < WRITES
        assert [note.text for note in damage.notes(crashed.parent)] == [rocks.LOG_DAMAGED]


def two_logs(crashed: Path, first: int, second: int) -> None:
    """Share the batches of a log between two: as many as `first` in the older, those from `second` behind."""
    path = log_of(crashed)
    data = path.read_bytes()
    found = list(wal.batches(memoryview(data)))
    younger = path.with_name(f"{int(path.stem) + 1:06}.log")
    path.write_bytes(b"".join(_record(data, batch) for batch in found[:first]))
    younger.write_bytes(b"".join(_record(data, batch) for batch in found[second:]))


def _record(data: bytes, batch: wal.LoggedBatch) -> bytes:
    """Return a batch as one fragment; few enough of them fit into a block."""
    payload = b"".join(data[start + 7 : end] for start, end in batch.fragments)
    crc = wal.crc32c(b"\x01" + payload)
    masked = ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
    return struct.pack("<IHB", masked, len(payload), 1) + payload


@pytest.mark.parametrize(
    ("first", "second", "kept"),
    [(8, 50, 8), (8, 52, 8), (0, 50, 0), (10, 50, 10)],
    ids=["hole", "longer hole", "empty log", "another"],
)
def test_behind_a_hole_between_two_logs_nothing_comes_back(
    crashed: Path, first: int, second: int, kept: int
) -> None:
    two_logs(crashed, first, second)
    for _ in range(2):
        with contextlib.closing(RocksStore.open(crashed)) as store:
            assert written(store) == list(range(kept))


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("point", ["close_gaps", "append_damage"])
def test_a_crash_while_a_hole_is_closed_leaves_it_to_the_next_opening(
    crashed: Path, point: str, when: str
) -> None:
    two_logs(crashed, 8, 50)
    script = (
        "import sys, pathlib; from tzfs.rocks import RocksStore; RocksStore.open(pathlib.Path(sys.argv[1]))"
    )
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", script, crashed],
            env={**os.environ, failpoints.VARIABLE: f"{point}.{when}=crash"},
            check=False,
        )
        assert done.returncode == -signal.SIGKILL
    with contextlib.closing(RocksStore.open(crashed)) as store:
        assert written(store) == list(range(8))


def test_logs_without_a_hole_are_replayed_whole(crashed: Path) -> None:
    path = log_of(crashed)
    found = list(wal.batches(memoryview(path.read_bytes())))
    data = path.read_bytes()
    path.write_bytes(b"".join(_record(data, batch) for batch in found[:8]))
    younger = path.with_name(f"{int(path.stem) + 1:06}.log")
    younger.write_bytes(b"".join(_record(data, batch) for batch in found[8:20]))
    with contextlib.closing(RocksStore.open(crashed)) as store:
        assert written(store) == list(range(20))


def test_a_database_that_cannot_be_written_is_read_through_links_and_stays_as_it_is(
    crashed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    two_logs(crashed, 8, 50)
    before = {path.name: path.read_bytes() for path in crashed.iterdir()}
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(stand_in, "is_needed", lambda _: True)
    with contextlib.closing(RocksStore.open(crashed, read_only=True)) as store:
        assert written(store) == list(range(8)), "nothing from behind the hole"
        assert store.dropped() == []
        store.checkpoint(tmp_path / "copy")
    with contextlib.closing(RocksStore.open(tmp_path / "copy", read_only=True)) as store:
        assert written(store) == list(range(8))
    assert {path.name: path.read_bytes() for path in crashed.iterdir()} == before
    assert not list(tmp_path.glob("tzfs-reading-*"))


def test_links_are_gone_when_what_they_lead_to_cannot_be_opened(
    crashed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(stand_in, "is_needed", lambda _: True)
    next(crashed.glob("MANIFEST-*")).unlink()
    with pytest.raises(StoreError):
        RocksStore.open(crashed, read_only=True)
    assert not list(tmp_path.glob("tzfs-reading-*"))


def test_links_that_a_killed_reader_left_are_removed_by_the_next(
    crashed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(stand_in, "is_needed", lambda _: True)
    killed, young, used = (tmp_path / f"tzfs-reading-{name}" for name in ("killed", "young", "used"))
    for path in (killed, young):
        path.mkdir()
        (path / "CURRENT").symlink_to(crashed / "CURRENT")
    stand_in.fill(used, crashed)
    for path in (killed, used):
        os.utime(path, (0, 0))
    try:
        descriptors = len(list(Path("/proc/self/fd").iterdir()))
        RocksStore.open(crashed, read_only=True).close()
        assert sorted(tmp_path.glob("tzfs-reading-*")) == [used, young]
        assert len(list(Path("/proc/self/fd").iterdir())) == descriptors
    finally:
        stand_in.remove(used)
    assert (crashed / "CURRENT").exists(), "the link went, not what it leads to"


def test_a_lost_page_that_the_engine_takes_for_padding_ends_the_log(crashed: Path) -> None:
    path = log_of(crashed)
    data = path.read_bytes()
    records = [_record(data, batch) for batch in wal.batches(memoryview(data))]
    # The second block is zeros, and the third begins with a record: nothing looks damaged.
    first, third = b"".join(records[:10]), b"".join(records[30:40])
    path.write_bytes(first.ljust(2 * wal.BLOCK_BYTES, b"\0") + third)
    with contextlib.closing(RocksStore.open(crashed)) as store:
        assert written(store) == list(range(10))


def test_what_was_lost_is_told_by_info_and_for_the_last_time_by_check(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "store", create=True)
    row = store.create("lab")
    with connect(store, row) as session:
        new(session.filesystem, "kept", b"x" * 10_000)  # type: ignore[attr-defined]
        session.call("snapshot")
        for number in range(40):
            new(session.filesystem, f"file{number}", b"x" * 2000)  # type: ignore[attr-defined]
        shutil.copytree(store.database(row), tmp_path / "crashed")
    shutil.rmtree(store.database(row))
    shutil.copytree(tmp_path / "crashed", store.database(row))
    path = log_of(store.database(row))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)

    def run(*arguments: str) -> tuple[int, str]:
        result = CliRunner().invoke(cli.tzfs, ["--store", str(store.path), *arguments])
        return result.exit_code, result.stdout + result.stderr

    for _ in range(2):
        status, told = run("info", "lab")
        assert status == 0
        assert rocks.LOG_DAMAGED in told
    assert json.loads(run("info", "lab", "--json")[1])["damage"][0]["text"] == rocks.LOG_DAMAGED
    status, told = run("check", "lab")
    assert status == REFUSED
    assert rocks.LOG_DAMAGED in told
    assert run("check", "lab") == (0, "lab is clean\n")
    assert rocks.LOG_DAMAGED not in run("info", "lab")[1]


def test_a_note_that_was_cut_short_still_counts(tmp_path: Path) -> None:
    damage.note(tmp_path, "one")
    path = tmp_path / damage.NAME
    path.write_text(path.read_text() + '{"found')
    assert [note.text for note in damage.notes(tmp_path)] == ["one", '{"found']
    damage.acknowledge(tmp_path)
    damage.acknowledge(tmp_path)
    assert damage.notes(tmp_path) == []
