"""Reading chunks: which records of the store that takes, and what is told when one is not there."""

from __future__ import annotations

import stat
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tzfs import keys
from tzfs.errors import CorruptRecord, StoreCorrupt
from tzfs.filesystem import Filesystem
from tzfs.kv import MemoryStore
from tzfs.records import NOBODY, AttributeChanges, SlotMap
from tzfs.volume import CHUNK_SIZE_DEFAULT

CHUNK = 512
COUNT = 40
"""Chunks of the file: more than one scan brings."""


class CountingStore(MemoryStore):
    """Counts what is read of space DATA, and fails where it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()
        self.bad: bytes | None = None

    def get(self, key: bytes) -> bytes | None:
        """See `Store.get`."""
        if key[:1] == keys.DATA:
            self.calls["get"] += 1
            if key == self.bad:
                raise StoreCorrupt(f"bad block (key {key.hex()})")
        return super().get(key)

    def scan(self, lower: bytes, upper: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        """See `Store.scan`."""
        pairs = super().scan(lower, upper, limit)
        if lower[:1] == keys.DATA:
            self.calls["scan"] += 1
            if self.bad is not None and lower <= self.bad < upper:
                raise StoreCorrupt("bad block (scan)")
        return pairs

    @contextmanager
    def counted(self, **calls: int) -> Iterator[None]:
        """Assert how many calls are made within."""
        self.calls.clear()
        yield
        assert self.calls == Counter(calls)


def content(fill: int, count: int = COUNT) -> bytes:
    """Return bytes of that many chunks, each another."""
    return b"".join(bytes((fill, at)) * (CHUNK // 2) for at in range(count))


@pytest.fixture
def store() -> CountingStore:
    store = CountingStore()
    Filesystem.format(store, chunk_size=CHUNK)
    return store


@pytest.fixture
def fs(store: CountingStore) -> Filesystem:
    fs = Filesystem(store)
    number = fs.mknod(1, b"a", stat.S_IFREG | 0o644, 0, NOBODY).number
    assert number == 2
    fs.write(number, 0, content(1), NOBODY, stamp=False)
    return fs


def test_the_default_chunk_is_what_adr_008_says() -> None:
    store = MemoryStore()
    Filesystem.format(store)
    assert Filesystem(store).chunk_size == CHUNK_SIZE_DEFAULT == 16384


def test_many_chunks_of_one_txn_are_read_by_scans_and_few_by_gets(
    fs: Filesystem, store: CountingStore
) -> None:
    expected = content(1)
    with store.counted(scan=3):
        assert fs.read(2, 0, len(expected)) == expected
    with store.counted(scan=1):
        assert fs.read(2, 5 * CHUNK + 7, 4 * CHUNK) == expected[5 * CHUNK + 7 : 9 * CHUNK + 7]
    with store.counted(get=2):
        assert fs.read(2, 5 * CHUNK + 7, CHUNK) == expected[5 * CHUNK + 7 : 6 * CHUNK + 7]
    with store.counted(scan=1):
        assert fs.read(2, 17 * CHUNK, 4 * CHUNK) == expected[17 * CHUNK : 21 * CHUNK]


@pytest.mark.parametrize("change", ["overwritten", "hole", "short"])
def test_a_run_that_something_interrupts_is_read_as_it_is(
    fs: Filesystem, store: CountingStore, change: str
) -> None:
    expected = bytearray(content(1))
    if change == "overwritten":
        fs.snapshot()
        fs.write(2, 20 * CHUNK + 9, b"new", NOBODY, stamp=False)
        expected[20 * CHUNK + 9 : 20 * CHUNK + 12] = b"new"
    elif change == "hole":
        fs.setattr(2, AttributeChanges(size=8 * CHUNK), NOBODY)
        fs.write(2, 12 * CHUNK, bytes(expected[12 * CHUNK :]), NOBODY, stamp=False)
        expected[8 * CHUNK : 12 * CHUNK] = bytes(4 * CHUNK)
    else:
        fs.setattr(2, AttributeChanges(size=8 * CHUNK + 100), NOBODY)
        fs.write(2, 9 * CHUNK, bytes(expected[9 * CHUNK :]), NOBODY, stamp=False)
        expected[8 * CHUNK + 100 : 9 * CHUNK] = bytes(CHUNK - 100)
    assert fs.read(2, 0, 1 << 20) == bytes(expected)
    for first in (0, 6, 8, 19):
        offset = first * CHUNK + 3
        assert fs.read(2, offset, 7 * CHUNK) == bytes(expected[offset : offset + 7 * CHUNK])


def test_older_chunks_between_are_not_taken_for_lost_ones(fs: Filesystem, store: CountingStore) -> None:
    """As many records as chunks, each as long as it should be, the last the right one; yet one is lost."""
    fs.snapshot()
    fs.write(2, 0, content(2), NOBODY, stamp=False)
    assert fs.read(2, 0, 1 << 20) == content(2)
    assert fs.read(2, 0, 1 << 20, at=1) == content(1)
    birth = fs.txn
    store.write({keys.chunk(2, index, 1): None for index in range(COUNT) if index != 7})
    assert fs.read(2, 16 * CHUNK, 16 * CHUNK) == content(2)[16 * CHUNK : 32 * CHUNK]
    store.write({keys.chunk(2, 5, birth): None})
    with pytest.raises(CorruptRecord, match="chunk 5 of content 2: missing"):
        fs.read(2, 0, 16 * CHUNK)


def test_a_damaged_chunk_in_a_run_is_told_by_its_key(fs: Filesystem, store: CountingStore) -> None:
    store.bad = keys.chunk(2, 6, 1)
    with pytest.raises(StoreCorrupt, match=store.bad.hex()):
        fs.read(2, 0, 1 << 20)
    assert fs.read(2, 7 * CHUNK, 1 << 20) == content(1)[7 * CHUNK :]


@pytest.mark.parametrize(("found", "told"), [(None, "missing"), (b"x" * 100, "100 bytes, not 512")])
def test_a_lost_or_wrong_chunk_in_a_run_is_told_and_moves_no_other(
    fs: Filesystem, store: CountingStore, found: bytes | None, told: str
) -> None:
    store.write({keys.chunk(2, 6, 1): found})
    with pytest.raises(CorruptRecord, match=f"chunk 6 of content 2: {told}"):
        fs.read(2, 0, 1 << 20)


def test_chunks_of_several_txns_are_not_scanned_in_vain(fs: Filesystem, store: CountingStore) -> None:
    fs.snapshot()
    fs.write(2, 20 * CHUNK, b"new", NOBODY, stamp=False)
    with store.counted(get=16):
        fs.read(2, 16 * CHUNK, 16 * CHUNK)


def test_a_map_of_holes_only_is_no_record(fs: Filesystem, store: CountingStore) -> None:
    k = keys.HEAD + keys.chunk_map(2, 0)
    assert store.get(k) is not None
    fs.setattr(2, AttributeChanges(size=CHUNK), NOBODY)
    assert store.get(k) is None
    assert SlotMap().is_empty
