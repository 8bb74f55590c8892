"""The records' laws: golden bytes both ways, round trips, and nothing but an encoder's bytes decodes."""

from __future__ import annotations

import stat
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tzfs import records
from tzfs.errors import CorruptRecord
from tzfs.keys import SEGMENT_CHUNKS
from tzfs.records import Counters, Head, Inode, LogRecord, Slot, SlotMap, Snapshot, Superblock

u32s = st.integers(0, 2**32 - 1)
u64s = st.integers(0, 2**64 - 1)
i64s = st.integers(-(2**63), 2**63 - 1)
txns = st.integers(1, 2**64 - 1)
sizes = st.integers(0, records.FILE_SIZE_MAX)
kinds = st.sampled_from(
    [stat.S_IFREG, stat.S_IFDIR, stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFLNK]
)


@st.composite
def inodes(draw: st.DrawFn) -> Inode:
    """Draw an inode of any kind; only symlinks have a target."""
    kind = draw(kinds)
    return Inode(
        number=draw(st.integers(1, records.INODE_MAX)),
        mode=kind | draw(st.integers(0, 0o7777)),
        nlink=draw(st.integers(0, records.LINK_MAX)),
        uid=draw(u32s),
        gid=draw(u32s),
        rdev=draw(u32s),
        size=draw(sizes),
        stored_bytes=draw(u64s),
        atime_ns=draw(i64s),
        mtime_ns=draw(i64s),
        ctime_ns=draw(i64s),
        btime_ns=draw(i64s),
        generation=draw(u32s),
        parent=draw(u64s),
        cookie=draw(u64s),
        content=draw(u64s),
        chunk0_birth=draw(u64s),
        chunk0_length=draw(u32s),
        target=draw(st.binary(min_size=1, max_size=records.SYMLINK_MAX)) if kind == stat.S_IFLNK else b"",
    )


slots = st.lists(st.builds(Slot, txns, u32s) | st.just(records.HOLE), min_size=64, max_size=64)


def encode_map(given: list[Slot]) -> bytes:
    """Return the payload of a map that was set slot by slot."""
    found = SlotMap()
    for at, slot in enumerate(given):
        found[at] = slot
    return found.encode()


def decode_map(payload: bytes) -> list[Slot]:
    """Return all slots of a map, which are the same one by one."""
    found = SlotMap(payload)
    assert [found[at] for at in range(SEGMENT_CHUNKS)] == list(found)
    assert found.is_empty == (set(found.slots()) == {records.HOLE})
    return found.slots()


labels = st.lists(st.text("abzAZ019._-", min_size=1, max_size=9).map(str.encode), max_size=3).map(tuple)
programs = st.binary(max_size=32)


@dataclass(frozen=True)
class Codec:
    """How one kind of record is made, read and drawn.

    fixed: the size of the part before its tail, or of all of it when there is no tail.
    """

    encode: Callable[[Any], bytes]
    decode: Callable[[bytes], Any]
    values: st.SearchStrategy[Any]
    fixed: int
    tail: bool


NUMBER = 77
"""Of the inode, and of the snapshot, whose key is not part of the value."""

CODECS = {
    "inode": Codec(
        records.encode_inode,
        lambda payload: records.decode_inode(NUMBER, payload),
        inodes().map(lambda inode: inode._replace(number=NUMBER)),
        113,
        tail=True,
    ),
    "entry": Codec(records.encode_entry, records.decode_entry, txns, 9, tail=False),
    "xattr": Codec(records.encode_xattr, records.decode_xattr, st.binary(max_size=300), 1, tail=True),
    "map": Codec(encode_map, decode_map, slots, 1 + 12 * SEGMENT_CHUNKS, tail=False),
    "head": Codec(
        records.encode_head,
        records.decode_head,
        st.builds(Head, txns, st.booleans(), st.binary(max_size=99)),
        9,
        tail=True,
    ),
    "log": Codec(
        records.encode_log,
        records.decode_log,
        st.builds(LogRecord, st.sampled_from([b"+", b"~", b"-"]), u32s, u32s, programs),
        10,
        tail=True,
    ),
    "superblock": Codec(
        records.encode_superblock,
        records.decode_superblock,
        st.builds(
            Superblock,
            st.just(records.FORMAT_VERSION),
            st.integers(9, 24).map(lambda bits: 1 << bits),
            txns,
            u64s,
            u64s,
            u64s,
            st.binary(min_size=records.SALT_SIZE, max_size=records.SALT_SIZE),
        ),
        62,
        tail=False,
    ),
    "counters": Codec(
        records.encode_counters,
        records.decode_counters,
        st.builds(Counters, u64s, u64s, u64s, u64s),
        33,
        tail=False,
    ),
    "snapshot": Codec(
        records.encode_snapshot,
        lambda value: records.decode_snapshot(NUMBER, value),
        st.builds(Snapshot, st.just(NUMBER), i64s, labels),
        9,
        tail=True,
    ),
    "mark": Codec(records.encode_mark, records.decode_mark, txns, 9, tail=False),
}

every_codec = pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)


GOLDEN_INODE = Inode(
    number=NUMBER,
    mode=stat.S_IFLNK | 0o777,
    nlink=1,
    uid=1000,
    gid=100,
    rdev=0,
    size=3,
    stored_bytes=0,
    atime_ns=-1,
    mtime_ns=1,
    ctime_ns=2,
    btime_ns=3,
    generation=4,
    parent=5,
    cookie=6,
    content=7,
    chunk0_birth=8,
    chunk0_length=9,
    target=b"a/b",
)

GOLDEN = [
    (
        "inode",
        GOLDEN_INODE,
        (
            "01 0000a1ff 00000001 000003e8 00000064 0000000000000000 0000000000000003 0000000000000000"
            "ffffffffffffffff 0000000000000001 0000000000000002 0000000000000003 00000004"
            "0000000000000005 0000000000000006 0000000000000007 0000000000000008 00000009 612f62"
        ),
    ),
    ("entry", 258, "01 0000000000000102"),
    ("xattr", b"v\0", "01 7600"),
    ("xattr", b"", "01"),
    (
        "map",
        [Slot(9, 65536), *[records.HOLE] * 62, Slot(1, 1)],
        "01 0000000000000009 00010000" + "00" * 12 * 62 + "0000000000000001 00000001",
    ),
    ("head", Head(3, fresh=False, payload=b"p"), "01 0000000000000003 70"),
    ("head", Head(3, fresh=True, payload=b""), "81 0000000000000003"),
    ("log", LogRecord(b"+", 1000, 42, b"cp"), "01 2b 000003e8 0000002a 6370"),
    ("log", LogRecord(b"-", 0, 0, b""), "01 2d 00000000 00000000"),
    (
        "superblock",
        Superblock(1, 65536, 2, 9, 10, 11, bytes(range(16))),
        (
            "747a66730d0a1a0a 0001 00010000 0000000000000002 0000000000000009"
            "000000000000000a 000000000000000b 000102030405060708090a0b0c0d0e0f"
        ),
    ),
    (
        "counters",
        Counters(1, 2, 3, 4),
        "01 0000000000000001 0000000000000002 0000000000000003 0000000000000004",
    ),
    ("snapshot", Snapshot(NUMBER, 5, ()), "01 0000000000000005"),
    ("snapshot", Snapshot(NUMBER, 5, (b"a", b"b.c")), "01 0000000000000005 610a622e63"),
    ("mark", 6, "01 0000000000000006"),
]


@pytest.mark.parametrize(
    ("kind", "value", "hexadecimal"), GOLDEN, ids=[f"{row[0]} {at}" for at, row in enumerate(GOLDEN)]
)
def test_a_record_is_made_of_exactly_these_bytes(kind: str, value: object, hexadecimal: str) -> None:
    golden = bytes.fromhex(hexadecimal)
    assert CODECS[kind].encode(value) == golden
    assert CODECS[kind].decode(golden) == value


def test_every_kind_of_record_has_a_golden_row() -> None:
    assert {kind for kind, _, _ in GOLDEN} == set(CODECS)


@every_codec
@given(data=st.data())
def test_what_was_encoded_decodes_to_the_same(codec: Codec, data: st.DataObject) -> None:
    value = data.draw(codec.values)
    assert codec.decode(codec.encode(value)) == value


@every_codec
@given(data=st.data())
def test_every_truncation_is_corrupt(codec: Codec, data: st.DataObject) -> None:
    stored = codec.encode(data.draw(codec.values))
    assert len(stored) >= codec.fixed
    for length in range(codec.fixed):
        with pytest.raises(CorruptRecord):
            codec.decode(stored[:length])


@pytest.mark.parametrize("kind", [kind for kind, codec in CODECS.items() if not codec.tail])
@given(data=st.data(), trailing=st.binary(min_size=1, max_size=9))
def test_any_trailing_byte_is_corrupt(kind: str, data: st.DataObject, trailing: bytes) -> None:
    codec = CODECS[kind]
    stored = codec.encode(data.draw(codec.values))
    with pytest.raises(CorruptRecord):
        codec.decode(stored + trailing)


@given(inodes(), st.binary(min_size=1, max_size=9))
def test_a_target_belongs_to_a_symlink_and_to_nothing_else(inode: Inode, trailing: bytes) -> None:
    stored = records.encode_inode(inode)
    damaged = stored[: -len(inode.target)] if stat.S_ISLNK(inode.mode) else stored + trailing
    with pytest.raises(CorruptRecord):
        records.decode_inode(inode.number, damaged)


@every_codec
def test_zeroed_bytes_never_decode(codec: Codec) -> None:
    for length in {0, 1, codec.fixed, codec.fixed + 1, codec.fixed + 100}:
        with pytest.raises(CorruptRecord):
            codec.decode(bytes(length))


@every_codec
@given(data=st.data(), version=st.integers(0, 255))
def test_an_unknown_version_is_corrupt(codec: Codec, data: st.DataObject, version: int) -> None:
    stored = codec.encode(data.draw(codec.values))
    # The top bit is a head's `fresh`; a superblock begins with its magic, one byte of which is no version.
    assume(version & 0x7F != records.VERSION and version != stored[0])
    with pytest.raises(CorruptRecord):
        codec.decode(bytes((version,)) + stored[1:])


@every_codec
@given(data=st.data())
def test_whatever_decodes_is_what_an_encoder_makes(codec: Codec, data: st.DataObject) -> None:
    # Damage anywhere is either found, or gives another valid record with exactly these bytes: there is one
    # way to write each value, so a comparison of records is one of bytes.
    stored = bytearray(codec.encode(data.draw(codec.values)))
    at = data.draw(st.integers(0, len(stored) - 1))
    stored[at] = data.draw(st.integers(0, 255))
    try:
        value = codec.decode(bytes(stored))
    except CorruptRecord:
        return
    if isinstance(value, Superblock) and value.format > records.FORMAT_VERSION:
        return
    assert codec.encode(value) == bytes(stored)


def test_a_snapshot_has_no_empty_label() -> None:
    stored = records.encode_snapshot(Snapshot(NUMBER, 5, (b"a",)))
    for damaged in (stored + b"\n", stored[:-1] + b"\na", stored + b"\n\nb"):
        with pytest.raises(CorruptRecord):
            records.decode_snapshot(NUMBER, damaged)


@pytest.mark.parametrize("chunk_size", [0, 3, 65535, 65537])
def test_a_chunk_size_that_is_no_power_of_two_is_corrupt(chunk_size: int) -> None:
    stored = records.encode_superblock(Superblock(1, chunk_size, 1, 0, 0, 0, bytes(16)))
    with pytest.raises(CorruptRecord):
        records.decode_superblock(stored)


def test_a_superblock_of_a_later_format_tells_its_version_whatever_follows() -> None:
    stored = records.encode_superblock(Superblock(1, 65536, 1, 0, 0, 0, bytes(16)))
    later = stored[:8] + (records.FORMAT_VERSION + 1).to_bytes(2, "big")
    for tail in (b"", stored[10:], stored[10:] + b"more"):
        assert records.decode_superblock(later + tail).format == records.FORMAT_VERSION + 1


def test_an_entry_never_names_inode_0() -> None:
    with pytest.raises(CorruptRecord):
        records.decode_entry(records.encode_entry(0))


def test_a_head_is_never_born_in_txn_0() -> None:
    with pytest.raises(CorruptRecord):
        records.decode_head(records.encode_head(Head(0, fresh=True, payload=b"p")))


@given(CODECS["head"].values)
def test_head_payload_is_the_payload_that_decode_head_gives(head: Head) -> None:
    assert records.head_payload(records.encode_head(head)) == head.payload


@pytest.mark.parametrize("value", [b"", bytes(9), b"\x01" + bytes(7), b"\x02" + bytes(8)])
def test_head_payload_refuses_what_is_no_head(value: bytes) -> None:
    with pytest.raises(CorruptRecord):
        records.head_payload(value)


def test_a_log_record_is_one_of_three_kinds() -> None:
    with pytest.raises(CorruptRecord):
        records.decode_log(records.encode_log(LogRecord(b"?", 0, 0, b"")))


@pytest.mark.parametrize("mode", [0, 0o644])
def test_an_inode_without_a_type_is_corrupt(mode: int) -> None:
    with pytest.raises(CorruptRecord):
        records.decode_inode(1, records.encode_inode(GOLDEN_INODE._replace(mode=mode, target=b"")))
