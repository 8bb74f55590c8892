"""The key table's laws: golden bytes, round trips, order, and ranges that hold exactly their keys."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from tzfs import keys

numbers = st.integers(1, 2**40 - 1)
near = st.integers(1, 4)
"""Small numbers that meet often, and the edges of every byte, so that neighbours are tried."""
numbers_close = near | st.sampled_from([255, 256, 65535, 65536, 2**32 - 1, 2**32, 2**40 - 2, 2**40 - 1])
txns = numbers_close | st.integers(1, keys.U64_MAX)
cookies = st.integers(keys.COOKIE_FIRST, keys.COOKIE_MAX) | st.sampled_from(
    [keys.COOKIE_FIRST, keys.COOKIE_FIRST + 1, 256, keys.COOKIE_MAX - 1, keys.COOKIE_MAX]
)
# Names of every byte but NUL and "/"; short ones of extreme bytes, so that one is often the other's prefix.
names = st.one_of(
    st.lists(st.sampled_from(b"\x01\x02a\xfe\xff"), min_size=1, max_size=4).map(bytes),
    st.binary(min_size=1, max_size=255).map(lambda b: b.replace(b"\0", b"\x01").replace(b"/", b".")),
)
segments = st.integers(0, 2**40) | near

k_inodes = st.builds(keys.inode, numbers_close)
k_entries = st.builds(keys.entry, numbers_close, cookies, names)
k_xattrs = st.builds(keys.xattr, numbers_close, names)
k_maps = st.builds(keys.chunk_map, numbers_close, segments)
ks = st.one_of(k_inodes, k_entries, k_xattrs, k_maps)


def within(bounds: tuple[bytes, bytes], key: bytes) -> bool:
    """Tell whether `key` lies in [lower, upper)."""
    return bounds[0] <= key < bounds[1]


def u64(number: int) -> bytes:
    """Return eight big-endian bytes."""
    return number.to_bytes(8, "big")


GOLDEN = {
    "inode": (keys.inode(1), b"I" + u64(1)),
    "entry": (keys.entry(1, 3, b"a"), b"E" + u64(1) + u64(3) + b"a"),
    "xattr": (keys.xattr(258, b"user.x"), b"X\0\0\0\0\0\0\x01\x02user.x"),
    "chunk map": (keys.chunk_map(5, 6), b"M" + u64(5) + u64(6)),
    "head": (keys.head(keys.inode(1)), b"hI" + u64(1)),
    "past": (keys.past(keys.inode(1), 7), b"pI" + u64(1) + b"\0" + u64(7)),
    "log": (keys.log(9, keys.inode(1)), b"l" + u64(9) + b"I" + u64(1)),
    "chunk": (keys.chunk(2, 3, 4), b"d" + u64(2) + u64(3) + u64(4)),
    "superblock": (keys.SUPERBLOCK, b"mB"),
    "counters": (keys.COUNTERS, b"mC"),
    "rollback": (keys.ROLLBACK, b"mR"),
    "snapshot": (keys.snapshot(8), b"mS" + u64(8)),
    "orphan": (keys.orphan(8), b"mO" + u64(8)),
    "dead content": (keys.dead_content(8), b"mD" + u64(8)),
}


@pytest.mark.parametrize(("built", "golden"), GOLDEN.values(), ids=GOLDEN)
def test_a_key_is_made_of_exactly_these_bytes(built: bytes, golden: bytes) -> None:
    assert built == golden


def test_golden_keys_come_apart_again() -> None:
    assert keys.split_entry(b"E" + u64(1) + u64(3) + b"a") == keys.EntryKey(1, 3, b"a")
    assert keys.split_xattr(b"X" + u64(258) + b"user.x") == (258, b"user.x")
    assert keys.split_chunk_map(b"M" + u64(5) + u64(6)) == (5, 6)
    assert keys.split_past(b"pI" + u64(1) + b"\0" + u64(7)) == (b"I" + u64(1), 7)
    assert keys.split_log(b"l" + u64(9) + b"I" + u64(1)) == (9, b"I" + u64(1))
    assert keys.split_chunk(b"d" + u64(2) + u64(3) + u64(4)) == (2, 3, 4)
    assert keys.meta_number(b"mS" + u64(8)) == 8


def test_kinds_and_spaces_are_distinct_and_never_zero() -> None:
    kinds = (keys.INODE, keys.ENTRY, keys.XATTR, keys.MAP)
    assert len(set(kinds)) == len(kinds)
    assert len(set(keys.SPACES)) == len(keys.SPACES)
    assert all(len(byte) == 1 and byte != b"\0" for byte in (*kinds, *keys.SPACES))


@given(numbers_close, cookies, names)
def test_entry_keys_come_apart_again(parent: int, cookie: int, name: bytes) -> None:
    assert keys.split_entry(keys.entry(parent, cookie, name)) == (parent, cookie, name)


@given(numbers_close, names)
def test_xattr_keys_come_apart_again(number: int, name: bytes) -> None:
    assert keys.split_xattr(keys.xattr(number, name)) == (number, name)


@given(numbers_close, segments)
def test_map_keys_come_apart_again(content: int, segment: int) -> None:
    assert keys.split_chunk_map(keys.chunk_map(content, segment)) == (content, segment)


@given(ks, txns)
def test_past_and_log_keys_come_apart_again(k: bytes, txn: int) -> None:
    assert keys.split_past(keys.past(k, txn)) == (k, txn)
    assert keys.split_log(keys.log(txn, k)) == (txn, k)


@given(numbers_close, segments, txns)
def test_chunk_keys_come_apart_again(content: int, index: int, birth: int) -> None:
    assert keys.split_chunk(keys.chunk(content, index, birth)) == (content, index, birth)


@given(numbers_close)
def test_every_k_tells_its_number(number: int) -> None:
    for k in (
        keys.inode(number),
        keys.entry(number, 3, b"n"),
        keys.xattr(number, b"n"),
        keys.chunk_map(number, 0),
    ):
        assert keys.number_of(k) == number


# ------------------------------------------------------------------------------------------ order


@pytest.mark.parametrize(
    ("build", "fields"),
    [
        (keys.inode, st.tuples(numbers_close)),
        (keys.entry, st.tuples(numbers_close, cookies, names)),
        (keys.xattr, st.tuples(numbers_close, names)),
        (keys.chunk_map, st.tuples(numbers_close, segments)),
        (keys.chunk, st.tuples(numbers_close, segments, txns)),
        (keys.snapshot, st.tuples(txns)),
        (keys.orphan, st.tuples(numbers_close)),
        (keys.dead_content, st.tuples(numbers_close)),
    ],
    ids=["inode", "entry", "xattr", "map", "chunk", "snapshot", "orphan", "dead content"],
)
@given(data=st.data())
def test_keys_sort_as_their_fields(
    build: Callable[..., bytes], fields: st.SearchStrategy[tuple[object, ...]], data: st.DataObject
) -> None:
    a, b = data.draw(fields), data.draw(fields)
    assert (a < b) == (build(*a) < build(*b))
    assert (a == b) == (build(*a) == build(*b))


@given(ks, txns, txns)
def test_the_past_of_one_key_sorts_by_txn(k: bytes, a: int, b: int) -> None:
    assert (a < b) == (keys.past(k, a) < keys.past(k, b))


@given(txns, ks, txns, ks)
def test_the_change_log_sorts_by_txn_first(txn_a: int, a: bytes, txn_b: int, b: bytes) -> None:
    assert ((txn_a, a) < (txn_b, b)) == (keys.log(txn_a, a) < keys.log(txn_b, b))


@given(ks, ks)
def test_different_fields_never_share_a_head(a: bytes, b: bytes) -> None:
    assert (a == b) == (keys.head(a) == keys.head(b))


# ----------------------------------------------------------------------------------------- ranges


@given(numbers_close, st.just(0) | cookies, k_entries | ks)
def test_entries_after_holds_exactly_the_entries_behind_a_cookie(parent: int, after: int, k: bytes) -> None:
    belongs = (
        k[:1] == keys.ENTRY and keys.split_entry(k).parent == parent and keys.split_entry(k).cookie > after
    )
    assert within(keys.entries_after(parent, after), k) == belongs


@given(numbers_close, k_xattrs | ks)
def test_xattrs_holds_exactly_the_attributes_of_an_inode(number: int, k: bytes) -> None:
    assert within(keys.xattrs(number), k) == (k[:1] == keys.XATTR and keys.number_of(k) == number)


@given(numbers_close, segments, k_maps | ks)
def test_chunk_maps_holds_exactly_the_maps_from_a_segment_on(content: int, segment: int, k: bytes) -> None:
    belongs = k[:1] == keys.MAP and keys.number_of(k) == content and keys.split_chunk_map(k)[1] >= segment
    assert within(keys.chunk_maps(content, segment), k) == belongs


@given(ks, st.sampled_from([keys.INODE, keys.ENTRY, keys.XATTR, keys.MAP]))
def test_kind_range_holds_exactly_one_kind(k: bytes, kind: bytes) -> None:
    assert within(keys.kind_range(kind), k) == (k[:1] == kind)


@given(ks, txns, ks, txns)
def test_past_from_holds_exactly_the_past_of_one_key(k: bytes, txn: int, other: bytes, until: int) -> None:
    belongs = other == k and until >= txn
    assert within(keys.past_from(k, txn), keys.past(other, until)) == belongs


@given(numbers_close, cookies, names, names, txns, txns)
@example(1, 3, b"a", b"\x01", 1, 1)
@example(1, 3, b"\xff", b"\xff", 1, keys.U64_MAX)
def test_the_past_of_a_name_never_meets_that_of_a_longer_name(
    parent: int, cookie: int, name: bytes, tail: bytes, txn: int, until: int
) -> None:
    short, long = keys.entry(parent, cookie, name), keys.entry(parent, cookie, name + tail)
    assert not within(keys.past_from(short, txn), keys.past(long, until))
    assert not within(keys.past_from(long, txn), keys.past(short, until))


@given(txns, txns, txns, ks)
def test_log_range_holds_exactly_its_txns(first: int, last: int, txn: int, k: bytes) -> None:
    assume(last < keys.U64_MAX)
    assert within(keys.log_range(first, last), keys.log(txn, k)) == (first <= txn <= last)


@given(numbers_close, numbers_close, segments, txns)
def test_chunks_holds_exactly_the_chunks_of_a_content(
    content: int, other: int, index: int, birth: int
) -> None:
    assert within(keys.chunks(content), keys.chunk(other, index, birth)) == (other == content)


@given(txns, st.sampled_from([b"B", b"C", b"R", b"S", b"O", b"D"]))
def test_meta_range_holds_exactly_its_letter(number: int, letter: bytes) -> None:
    rows = {b"S": keys.snapshot(number), b"O": keys.orphan(number), b"D": keys.dead_content(number)}
    rows |= {b"B": keys.SUPERBLOCK, b"C": keys.COUNTERS, b"R": keys.ROLLBACK}
    assert [row for row in rows.values() if within(keys.meta_range(letter), row)] == [rows[letter]]


@given(ks, txns)
def test_keys_of_each_space_begin_with_it(k: bytes, txn: int) -> None:
    assert keys.head(k)[:1] == keys.HEAD
    assert keys.past(k, txn)[:1] == keys.PAST
    assert keys.log(txn, k)[:1] == keys.LOG
    assert keys.chunk(1, 0, txn)[:1] == keys.DATA
    assert keys.snapshot(txn)[:1] == keys.META


# ----------------------------------------------------------------------------------------- cookies


@given(names, st.binary(min_size=16, max_size=16))
def test_a_cookie_is_a_valid_listing_position_and_stays_the_same(name: bytes, salt: bytes) -> None:
    cookie = keys.name_cookie(name, salt)
    assert keys.COOKIE_FIRST <= cookie <= keys.COOKIE_MAX
    assert cookie == keys.name_cookie(name, salt)


def test_cookies_are_part_of_the_format() -> None:
    """A change of the hash would lose every directory of every store, so three are written down."""
    salt = bytes(range(16))
    assert [keys.name_cookie(name, salt) for name in (b"a", b"b", b"\xff" * 255)] == [
        318453211652288557,
        7363131798924998454,
        8883729667417515978,
    ]


def test_the_salt_decides_the_order_of_a_listing() -> None:
    listing = [b"%d" % number for number in range(50)]
    orders = {
        tuple(sorted(listing, key=lambda name: keys.name_cookie(name, salt)))
        for salt in (b"\0" * 16, b"\1" * 16, b"\2" * 16)
    }
    assert len(orders) == 3
