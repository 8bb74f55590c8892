"""The key table: every key of a filesystem's database is built here and nowhere else.

The first byte of a key is its *space*; the engine keeps each space apart (a column family each in
RocksDB), because they live differently: heads are point-read all day, data is big, the past is
cold. Integers are big-endian, so byte order is numeric order; names come last and hold no NUL.

    space  key after the space byte            value
    h      K                                   head: the live record of K
    p      K, 0x00, until:8                    past: a superseded record of K, seen by snapshots <= until
    l      txn:8, K                            change log: how K changed in txn, and who changed it
    d      content:8, index:8, birth:8         bytes of one chunk; index counts chunks, birth is a txn
    m      one letter, then fields             what is not versioned, see below

    K (kind byte first)                        payload
    I      inode:8                             attributes, symlink target, first chunk's slot
    E      parent:8, cookie:8, name            directory entry: the inode it names
    X      inode:8, name                       extended attribute: its value
    M      content:8, segment:8                chunk map: the slots of 64 chunks

    m letter                                   value
    B                                          superblock: format version, properties, open txn
    C                                          counters: next number, inodes, bytes
    S, txn:8                                   snapshot: time and labels
    O, inode:8                                 orphan: the txn in which its last name went
    D, content:8                               dead content: the txn in which its last user let go
    P, txn:8                                   a deleted snapshot whose records are not pruned yet
    G                                          the engine's own, see `tzfs.wal`: numbers without a batch
    T, content:8                               a table of chunks that may not all be named: which
    R                                          a rollback under way: its goal

A directory's entries share (E, parent), so one bounded scan lists it, in the order of the cookie:
63 bits of a keyed hash of the name. The hash is what makes `telldir` positions that survive any
change of the directory without a second index; see docs/adr/003. An inode's attributes and its
extended attributes are apart, so `stat` never reads a value of 64 KiB.

Kind bytes stand in the first position of K and in no other, and 0 is never one, so zeroed bytes
never parse. `past` ends in a NUL and the txn because names hold no NUL: a scan of one K's past can
never run into the past of a longer name.
"""

from __future__ import annotations

import hashlib
import struct
from typing import Final, NamedTuple

HEAD: Final = b"h"
PAST: Final = b"p"
LOG: Final = b"l"
DATA: Final = b"d"
META: Final = b"m"
SPACES: Final = (HEAD, PAST, LOG, DATA, META)

INODE: Final = b"I"
ENTRY: Final = b"E"
XATTR: Final = b"X"
MAP: Final = b"M"

SUPERBLOCK: Final = b"mB"
COUNTERS: Final = b"mC"
ROLLBACK: Final = b"mR"

SEGMENT_CHUNKS: Final = 64
"""Slots of one chunk map. 64 slots of 12 bytes keep a map record below 1 KiB, and cover 1 MiB of file at the
default chunk size, which is what a sequential writer sends at once."""

COOKIE_FIRST: Final = 3
"""Cookies 0, 1 and 2 are the start of a listing, "." and ".."."""
COOKIE_MAX: Final = 2**63 - 1
"""`off_t` is signed, and the kernel hands cookies back as one."""

_U64 = struct.Struct(">Q")
_TAGGED = struct.Struct(">cQ")
_TAGGED_PAIR = struct.Struct(">cQQ")
_META = struct.Struct(">2sQ")
_CHUNK = struct.Struct(">cQQQ")

U64_MAX: Final = 2**64 - 1


class EntryKey(NamedTuple):
    """The fields of an E key."""

    parent: int
    cookie: int
    name: bytes


def name_cookie(name: bytes, salt: bytes) -> int:
    """Return the listing position of `name`: `COOKIE_FIRST` to `COOKIE_MAX`, the same for ever.

    The hash is keyed with the filesystem's `salt`, so that nobody can choose names that collide; two
    names of a million share a cookie with a chance of 5 in 10^8, and then still have keys of their own.
    """
    digest = hashlib.blake2b(name, digest_size=8, key=salt).digest()
    cookie: int = _U64.unpack(digest)[0] & COOKIE_MAX
    return max(cookie, COOKIE_FIRST)


def inode(number: int) -> bytes:
    """K of an inode's attributes."""
    return _TAGGED.pack(INODE, number)


def entry(parent: int, cookie: int, name: bytes) -> bytes:
    """K of the directory entry `name` in `parent`."""
    return _TAGGED_PAIR.pack(ENTRY, parent, cookie) + name


def entries_after(parent: int, cookie: int) -> tuple[bytes, bytes]:
    """Return [lower, upper) of K: the entries of `parent` with a cookie greater than `cookie`."""
    lower = _TAGGED_PAIR.pack(ENTRY, parent, cookie + 1)
    return lower, _TAGGED.pack(ENTRY, parent + 1)


def split_entry(k: bytes) -> EntryKey:
    """Take an E key apart; the inverse of `entry`."""
    _, parent, cookie = _TAGGED_PAIR.unpack_from(k)
    return EntryKey(parent, cookie, k[_TAGGED_PAIR.size :])


def xattr(number: int, name: bytes) -> bytes:
    """K of the extended attribute `name` of an inode."""
    return _TAGGED.pack(XATTR, number) + name


def xattrs(number: int) -> tuple[bytes, bytes]:
    """Return [lower, upper) of K: all extended attributes of an inode, by name."""
    return _TAGGED.pack(XATTR, number), _TAGGED.pack(XATTR, number + 1)


def split_xattr(k: bytes) -> tuple[int, bytes]:
    """Take an X key apart into (inode, name)."""
    return _TAGGED.unpack_from(k)[1], k[_TAGGED.size :]


def chunk_map(content: int, segment: int) -> bytes:
    """K of the chunk map that covers chunks [64 * segment, 64 * segment + 64) of `content`."""
    return _TAGGED_PAIR.pack(MAP, content, segment)


def chunk_maps(content: int, segment: int = 0) -> tuple[bytes, bytes]:
    """Return [lower, upper) of K: the maps of `content` from `segment` on."""
    return _TAGGED_PAIR.pack(MAP, content, segment), _TAGGED.pack(MAP, content + 1)


def split_chunk_map(k: bytes) -> tuple[int, int]:
    """Take an M key apart into (content, segment)."""
    _, content, segment = _TAGGED_PAIR.unpack(k)
    return content, segment


def number_of(k: bytes) -> int:
    """Return the first field of any K: an inode, the parent of an entry, or a content."""
    number: int = _TAGGED.unpack_from(k)[1]
    return number


def kind_range(kind: bytes) -> tuple[bytes, bytes]:
    """Return [lower, upper) of K: everything of one kind."""
    return kind, bytes((kind[0] + 1,))


def head(k: bytes) -> bytes:
    """Return the key of the live record of K."""
    return HEAD + k


def past(k: bytes, until: int) -> bytes:
    """Return the key of the record of K that snapshots up to `until` see."""
    return PAST + k + b"\0" + _U64.pack(until)


def past_from(k: bytes, txn: int) -> tuple[bytes, bytes]:
    """Return [lower, upper): the past records of K whose `until` is `txn` or later."""
    return PAST + k + b"\0" + _U64.pack(txn), PAST + k + b"\1"


def split_past(key: bytes) -> tuple[bytes, int]:
    """Take a past key apart into (K, until)."""
    return key[1:-9], _U64.unpack(key[-8:])[0]


def log(txn: int, k: bytes) -> bytes:
    """Return the key of the change of K in `txn`."""
    return _TAGGED.pack(LOG, txn) + k


def log_range(first: int, last: int) -> tuple[bytes, bytes]:
    """Return [lower, upper): the change log of the txns `first` to `last`, both included."""
    return _TAGGED.pack(LOG, first), _TAGGED.pack(LOG, last + 1)


def split_log(key: bytes) -> tuple[int, bytes]:
    """Take a log key apart into (txn, K)."""
    return _TAGGED.unpack_from(key)[1], key[_TAGGED.size :]


def chunk(content: int, index: int, birth: int) -> bytes:
    """Return the key of the bytes of chunk `index`, as written in txn `birth`."""
    return _CHUNK.pack(DATA, content, index, birth)


def chunks(content: int) -> tuple[bytes, bytes]:
    """Return [lower, upper): the bytes of all chunks of `content`."""
    return _TAGGED.pack(DATA, content), _TAGGED.pack(DATA, content + 1)


def split_chunk(key: bytes) -> tuple[int, int, int]:
    """Take a data key apart into (content, index, birth)."""
    _, content, index, birth = _CHUNK.unpack(key)
    return content, index, birth


def snapshot(txn: int) -> bytes:
    """Return the key of a row of the snapshot table."""
    return _META.pack(b"mS", txn)


def orphan(number: int) -> bytes:
    """Return the key of the mark of an inode without a name."""
    return _META.pack(b"mO", number)


def dead_content(content: int) -> bytes:
    """Return the key of the mark of a content that no live inode uses."""
    return _META.pack(b"mD", content)


def pruning(txn: int) -> bytes:
    """Return the key of the mark of a deleted snapshot that reclaim has yet to prune."""
    return _META.pack(b"mP", txn)


def table(content: int) -> bytes:
    """Return the key of the mark of chunks of a content that went into a table before they were named."""
    return _META.pack(b"mT", content)


def meta_range(letter: bytes) -> tuple[bytes, bytes]:
    """Return [lower, upper): all meta keys of one letter."""
    return META + letter, META + bytes((letter[0] + 1,))


def meta_number(key: bytes) -> int:
    """Return the field of an S, O, D, P or T key."""
    number: int = _META.unpack(key)[1]
    return number
