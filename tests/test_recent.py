"""Records kept above the engine: never an old one, never too many, and the last ones always."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.faults import Instead
from tzfs import keys as table
from tzfs import tuning
from tzfs.errors import FsError, StoreError
from tzfs.filesystem import Filesystem
from tzfs.kv import MemoryStore
from tzfs.recent import UNKNOWN, Decoded, Recent
from tzfs.records import NOBODY, AttributeChanges
from tzfs.rocks import RocksStore

SIZE = 3
keys = st.sampled_from([b"h%d" % n for n in range(12)])
values = st.none() | st.binary(max_size=2)


@given(st.lists(st.tuples(keys, values) | keys, min_size=20, max_size=60))
def test_what_is_known_is_what_was_put_last_and_the_last_are_known(steps: list[object]) -> None:
    recent, put, order = Recent(SIZE), {}, []
    for step in steps:
        if isinstance(step, tuple):
            key, put[key] = step
            recent.put(*step)
        else:
            key, found = step, recent.get(step)
            assert found is UNKNOWN or found == put[key]
            assert found is not UNKNOWN or key not in order[:SIZE]
            if found is UNKNOWN:
                continue
        order = [key, *(other for other in order if other != key)]
    known = [key for key in put if recent.get(key) is not UNKNOWN]
    assert len(known) <= 2 * SIZE + 1
    recent.clear()
    assert all(recent.get(key) is UNKNOWN for key in put)


def test_hits_and_misses_are_counted() -> None:
    recent = Recent(SIZE)
    recent.get(b"ha")
    recent.put(b"ha", None)
    recent.get(b"ha")
    recent.get(b"hb")
    assert (recent.hits, recent.misses) == (1, 2)


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RocksStore:
    """Return a store that keeps few records."""
    monkeypatch.setattr(tuning, "RECENT_HEADS", SIZE)
    return RocksStore.open(tmp_path / "db", create=True)


def test_the_engine_and_what_is_kept_above_it_never_differ(small: RocksStore) -> None:
    """Each key is read when it is absent, written, overwritten and removed, in turns with the others."""
    keys_in_turn = [b"h%d" % n for n in range(2 * SIZE + 1)]
    truth: dict[bytes, bytes | None] = {}
    for round_number in range(4):
        for n, key in enumerate(keys_in_turn):
            assert small.get(key) == truth.get(key)
            other = keys_in_turn[(n * 3 + round_number) % len(keys_in_turn)]
            change = {key: b"%d-%d" % (round_number, n), other: None if (n + round_number) % 2 else b"other"}
            small.write(change)
            truth.update(change)
            assert {k: small.get(k) for k in change} == change
    assert dict(small.scan(b"h", b"i", 99)) == {k: v for k, v in truth.items() if v is not None}
    small.close()


def test_after_an_error_of_the_engine_the_engine_is_asked(
    small: RocksStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a failed write has done is for the engine to say, once it is opened anew."""

    def write(batch: object) -> None:
        database.write(batch)
        raise OSError("made, and reported as failed")

    database = small._database
    small.write({b"ha": b"1"})
    monkeypatch.setattr(small, "_database", Instead(database, write=write))
    with pytest.raises(StoreError):
        small.write({b"ha": b"2"})
    assert small.get(b"ha") == b"2"
    monkeypatch.undo()
    with pytest.raises(StoreError, match="reported as failed"):
        small.close()


def test_only_heads_are_kept(small: RocksStore) -> None:
    for key in (b"ha", b"da", b"la", b"pa", b"ma"):
        small.write({key: b"1"})
        small.get(key)
    assert [small._recent.get(key) is UNKNOWN for key in (b"ha", b"da", b"la", b"pa", b"ma")] == [
        False
    ] + 4 * [True]
    small.close()


def test_a_decoded_head_counts_for_the_very_bytes_it_came_from() -> None:
    decoded, head = Decoded(SIZE), b"a head"
    decoded.put(b"k", head, "value")
    assert decoded.get(b"k", head) == "value"
    assert decoded.get(b"k", bytes(bytearray(head))) is None, "as it says the same, but nobody has looked"
    assert decoded.get(b"other", head) is None
    for number in range(10 * SIZE):
        decoded.put(b"k%d" % number, head, number)
        assert len(decoded._known) <= SIZE
        assert decoded.get(b"k%d" % number, head) == number


def test_an_inode_is_the_same_object_until_its_record_changes_by_whatever_way() -> None:
    engine = MemoryStore()
    Filesystem.format(engine)
    fs = Filesystem(engine)
    made = fs.mknod(1, b"a", stat.S_IFREG | 0o644, 0, NOBODY)
    assert fs.getattr(made.number) is fs.lookup(1, b"a") is made
    changed = fs.setattr(made.number, AttributeChanges(mode=0o600), NOBODY)
    assert fs.getattr(made.number) is changed
    fs.setattr(made.number, AttributeChanges(mode=0o4755), NOBODY)
    key = table.HEAD + table.inode(made.number)
    fs.snapshot(b"one")
    fs.unlink(1, b"a", NOBODY)
    assert fs.getattr(made.number).nlink == 0
    fs.rollback(b"one")
    assert fs.getattr(made.number) == fs.getattr(made.number, at=1)
    assert stat.S_IMODE(fs.getattr(made.number).mode) == 0o4755
    engine.write({key: None})
    with pytest.raises(FsError):
        fs.getattr(made.number)


def test_a_refused_change_is_not_taken_for_the_state(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = MemoryStore()
    Filesystem.format(engine)
    fs = Filesystem(engine)
    made = fs.mknod(1, b"a", stat.S_IFREG | 0o644, 0, NOBODY)

    def refuse(_batch: object) -> None:
        raise StoreError("full")

    with monkeypatch.context() as patched:
        patched.setattr(engine, "write", refuse)
        with pytest.raises(StoreError):
            fs.setattr(made.number, AttributeChanges(mode=0o600), NOBODY)
    assert fs.getattr(made.number) == made
