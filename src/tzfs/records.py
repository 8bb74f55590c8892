"""The values of the key table, as NamedTuples with their bytes beside them.

Every stored value begins with a version byte of its own kind of record; 0 is never one. Every decoder
takes exactly the bytes that some encoder made and raises `CorruptRecord` for all others: too short, too
long, an unknown version, a field out of its range. Integers are big-endian; times are signed
nanoseconds since 1970.
"""

from __future__ import annotations

import stat
import struct
from typing import TYPE_CHECKING, Final, NamedTuple

from tzfs.errors import CorruptRecord
from tzfs.keys import SEGMENT_CHUNKS

if TYPE_CHECKING:
    from collections.abc import Iterator

NAME_MAX: Final = 255
"""Bytes of a file name, as everywhere on Linux (limits.h)."""
SYMLINK_MAX: Final = 4095
"""Bytes of a symlink's target: PATH_MAX less the NUL (symlink(2) ENAMETOOLONG beyond)."""
XATTR_NAME_MAX: Final = 255
XATTR_SIZE_MAX: Final = 65536
"""Bytes of an extended attribute's value (limits.h; E2BIG beyond)."""
FILE_SIZE_MAX: Final = 2**63 - 1
"""Bytes of a file: `off_t` is signed (EFBIG beyond)."""
LINK_MAX: Final = 2**31 - 1
TIME_MIN_NS: Final = -(2**63)
TIME_MAX_NS: Final = 2**63 - 1
INODE_MAX: Final = 2**40 - 1
"""Inode and content numbers stay below 2^40, because `st_ino` carries a view above them."""

VERSION: Final = 1


class Caller(NamedTuple):
    """Who asks: the credentials of a request, and the writer that the change log names."""

    uid: int
    gid: int
    pid: int
    program: bytes


NOBODY: Final = Caller(0, 0, 0, b"tzfs")
"""The filesystem itself: background work and commands without a requesting process."""


class Inode(NamedTuple):
    """Attributes of one inode. `number` comes from the key and is not stored in the value.

    size: bytes; of a directory the number of its entries. stored_bytes: bytes of chunks that this
    inode's content holds in the store. parent, cookie: where its directory entry stands, so that a path
    can be told from an inode; exact for directories, and for other files with several names one of them
    or, when just that one went, 0 (unknown). cookie is the position of `tzfs.keys.name_cookie`.
    content: under which number chunks and maps are kept; it is exchanged when the file is emptied.
    chunk0_birth, chunk0_length: the slot of chunk 0, kept here so that a small file needs no map;
    birth 0 is a hole. target: of a symlink, what it points to; else empty.
    """

    number: int
    mode: int
    nlink: int
    uid: int
    gid: int
    rdev: int
    size: int
    stored_bytes: int
    atime_ns: int
    mtime_ns: int
    ctime_ns: int
    btime_ns: int
    generation: int
    parent: int
    cookie: int
    content: int
    chunk0_birth: int
    chunk0_length: int
    target: bytes

    @property
    def is_directory(self) -> bool:
        """Tell whether this is a directory."""
        return stat.S_ISDIR(self.mode)

    @property
    def is_regular(self) -> bool:
        """Tell whether this is a regular file."""
        return stat.S_ISREG(self.mode)


_INODE = struct.Struct(">BIIIIQQQqqqqIQQQQI")


def encode_inode(inode: Inode) -> bytes:
    """Return the payload of an I record."""
    return _INODE.pack(VERSION, *inode[1:-1]) + inode.target


def decode_inode(number: int, payload: bytes) -> Inode:
    """Return the inode that `encode_inode` stored under `number`."""
    try:
        version, *fields = _INODE.unpack_from(payload)
    except struct.error:
        raise CorruptRecord(f"inode {number}: {len(payload)} bytes") from None
    target = payload[_INODE.size :]
    if version != VERSION:
        raise CorruptRecord(f"inode {number}: version {version}")
    inode = Inode._make((number, *fields, target))
    if bool(target) != stat.S_ISLNK(inode.mode) or stat.S_IFMT(inode.mode) == 0:
        raise CorruptRecord(f"inode {number}: mode {inode.mode:o} with a target of {len(target)} bytes")
    return inode


_ENTRY = struct.Struct(">BQ")


def encode_entry(number: int) -> bytes:
    """Return the payload of an E record: the inode that the entry names."""
    return _ENTRY.pack(VERSION, number)


def decode_entry(payload: bytes) -> int:
    """Return the inode that an E record names."""
    try:
        version, number = _ENTRY.unpack(payload)
    except struct.error:
        raise CorruptRecord(f"directory entry: {len(payload)} bytes") from None
    if version != VERSION or number == 0:
        raise CorruptRecord(f"directory entry: version {version}, inode {number}")
    return int(number)


def encode_xattr(value: bytes) -> bytes:
    """Return the payload of an X record."""
    return bytes((VERSION,)) + value


def decode_xattr(payload: bytes) -> bytes:
    """Return the value of an X record."""
    if not payload or payload[0] != VERSION:
        raise CorruptRecord("extended attribute: no version")
    return payload[1:]


class Slot(NamedTuple):
    """Where the bytes of one chunk are: the txn of their key, and their length. Birth 0: a hole."""

    birth: int
    length: int


HOLE: Final = Slot(0, 0)

_SLOT = struct.Struct(">QI")
_MAP_SIZE: Final = 1 + SEGMENT_CHUNKS * _SLOT.size


class SlotMap:
    """The slots of an M record, in its own bytes: one is read or changed without a look at the others."""

    __slots__ = ("_payload",)

    def __init__(self, payload: bytes | None = None) -> None:
        """Take the payload of an M record, or none for one of holes only."""
        if payload is None:
            payload = _EMPTY_MAP
        elif len(payload) != _MAP_SIZE or payload[0] != VERSION:
            raise CorruptRecord(f"chunk map: {len(payload)} bytes")
        self._payload = bytearray(payload)

    def __getitem__(self, at: int) -> Slot:
        return Slot._make(_SLOT.unpack_from(self._payload, 1 + at * _SLOT.size))

    def __setitem__(self, at: int, slot: Slot) -> None:
        _SLOT.pack_into(self._payload, 1 + at * _SLOT.size, *slot)

    def __iter__(self) -> Iterator[Slot]:
        return iter(self.slots())

    def slots(self, start: int = 0, stop: int = SEGMENT_CHUNKS) -> list[Slot]:
        """Return the slots of [start, stop)."""
        part = memoryview(self._payload)[1 + start * _SLOT.size : 1 + stop * _SLOT.size]
        return [Slot._make(fields) for fields in _SLOT.iter_unpack(part)]

    @property
    def is_empty(self) -> bool:
        """Tell whether all slots are holes: then there is no need for a record."""
        return self._payload == _EMPTY_MAP

    def encode(self) -> bytes:
        """Return the payload of an M record."""
        return bytes(self._payload)


_EMPTY_MAP: Final = bytes((VERSION,)).ljust(_MAP_SIZE, b"\0")


class Head(NamedTuple):
    """A versioned record: when it was written and what it says.

    birth: the txn that wrote it. fresh: nothing stood under its key before that txn, so removing it in
    the same txn leaves no trace. payload: the record of its kind.
    """

    birth: int
    fresh: bool
    payload: bytes


_HEAD = struct.Struct(">BQ")
_FRESH: Final = 0x80
"""The top bit of a head's version byte says `fresh`."""


HEAD_SIZE: Final = _HEAD.size
"""Bytes of a head before its payload."""


def head_header(birth: int, *, fresh: bool) -> bytes:
    """Return the first `HEAD_SIZE` bytes of a head or a past record; the payload follows."""
    return _HEAD.pack(VERSION | (_FRESH if fresh else 0), birth)


def is_same_birth(head: bytes, other: bytes) -> bool:
    """Tell whether two heads, or their headers, were born in one txn, without decoding them."""
    return head[1:HEAD_SIZE] == other[1:HEAD_SIZE]


def head_payload(value: bytes) -> bytes:
    """Return the payload of a head or past record: `decode_head` for those who need no more."""
    if len(value) < HEAD_SIZE or value[0] & ~_FRESH != VERSION:
        raise CorruptRecord(f"head: {len(value)} bytes, version {value[:1].hex()}")
    return value[HEAD_SIZE:]


def encode_head(head: Head) -> bytes:
    """Return the value of a head or a past record."""
    return head_header(head.birth, fresh=head.fresh) + head.payload


def decode_head(value: bytes) -> Head:
    """Return the record that `encode_head` made."""
    try:
        version, birth = _HEAD.unpack_from(value)
    except struct.error:
        raise CorruptRecord(f"head: {len(value)} bytes") from None
    if version & ~_FRESH != VERSION or birth == 0:
        raise CorruptRecord(f"head: version {version}, birth {birth}")
    return Head(birth, bool(version & _FRESH), value[_HEAD.size :])


CREATED: Final = b"+"
CHANGED: Final = b"~"
REMOVED: Final = b"-"


class LogRecord(NamedTuple):
    """How a key changed in a txn (`CREATED`, `CHANGED` or `REMOVED`), and who changed it first."""

    kind: bytes
    uid: int
    pid: int
    program: bytes


_LOG = struct.Struct(">BcII")


def encode_log(record: LogRecord) -> bytes:
    """Return the value of a change log record."""
    return _LOG.pack(VERSION, record.kind, record.uid, record.pid) + record.program


def decode_log(value: bytes) -> LogRecord:
    """Return the record that `encode_log` made."""
    try:
        version, kind, uid, pid = _LOG.unpack_from(value)
    except struct.error:
        raise CorruptRecord(f"change log: {len(value)} bytes") from None
    if version != VERSION or kind not in (CREATED, CHANGED, REMOVED):
        raise CorruptRecord(f"change log: version {version}, kind {kind!r}")
    return LogRecord(kind, uid, pid, value[_LOG.size :])


FORMAT_VERSION: Final = 1
"""Of the database as a whole; a superblock with a greater one is refused (`NewerFormat`)."""
SALT_SIZE: Final = 16


class Superblock(NamedTuple):
    """What a filesystem is, and its open txn.

    format: version of the whole layout. chunk_size: bytes, a power of two. txn: the open one.
    rollback_txn: the last txn that a rollback opened, 0 for none; chunks of that age or older can be named
    by records that do not follow upon each other. quota_bytes, inodes_max: limits, 0 for none. salt: key
    of the name hash, `SALT_SIZE` bytes.
    """

    format: int
    chunk_size: int
    txn: int
    rollback_txn: int
    quota_bytes: int
    inodes_max: int
    salt: bytes


_SUPERBLOCK = struct.Struct(">8sHIQQQQ16s")
_MAGIC: Final = b"tzfs\r\n\x1a\n"


def encode_superblock(superblock: Superblock) -> bytes:
    """Return the value of the superblock."""
    return _SUPERBLOCK.pack(_MAGIC, *superblock)


def decode_superblock(value: bytes) -> Superblock:
    """Return the superblock; one of a later format comes back with its version and must be refused."""
    if value[:8] != _MAGIC or len(value) < 10:
        raise CorruptRecord("superblock: not one of tzfs")
    version = int.from_bytes(value[8:10], "big")
    if version > FORMAT_VERSION:
        return Superblock(version, 0, 0, 0, 0, 0, b"")
    try:
        _, *fields = _SUPERBLOCK.unpack(value)
    except struct.error:
        raise CorruptRecord(f"superblock: {len(value)} bytes") from None
    superblock = Superblock(*fields)
    if superblock.format == 0 or superblock.txn == 0 or superblock.chunk_size.bit_count() != 1:
        raise CorruptRecord(f"superblock: {superblock}")
    return superblock


class Counters(NamedTuple):
    """Exact totals, part of every batch that changes them.

    next_number: the next inode or content number. inodes: inodes of the live tree. live_bytes: chunk
    bytes that live inodes name. stored_bytes: all chunk bytes in the store, history included.
    """

    next_number: int
    inodes: int
    live_bytes: int
    stored_bytes: int


_COUNTERS = struct.Struct(">BQQQQ")


def encode_counters(counters: Counters) -> bytes:
    """Return the value of the counters."""
    return _COUNTERS.pack(VERSION, *counters)


def decode_counters(value: bytes) -> Counters:
    """Return the counters."""
    try:
        version, *fields = _COUNTERS.unpack(value)
    except struct.error:
        raise CorruptRecord(f"counters: {len(value)} bytes") from None
    if version != VERSION:
        raise CorruptRecord(f"counters: version {version}")
    return Counters(*fields)


class Snapshot(NamedTuple):
    """A row of the snapshot table: a sealed txn, when it was sealed, and the labels it bears."""

    txn: int
    created_ns: int
    labels: tuple[bytes, ...]


_SNAPSHOT = struct.Struct(">Bq")


def encode_snapshot(snapshot: Snapshot) -> bytes:
    """Return the value of a snapshot's row; labels hold no newline."""
    return _SNAPSHOT.pack(VERSION, snapshot.created_ns) + b"\n".join(snapshot.labels)


def decode_snapshot(txn: int, value: bytes) -> Snapshot:
    """Return the snapshot `txn`."""
    try:
        version, created_ns = _SNAPSHOT.unpack_from(value)
    except struct.error:
        raise CorruptRecord(f"snapshot {txn}: {len(value)} bytes") from None
    if version != VERSION:
        raise CorruptRecord(f"snapshot {txn}: version {version}")
    labels = tuple(value[_SNAPSHOT.size :].split(b"\n")) if len(value) > _SNAPSHOT.size else ()
    if b"" in labels:
        raise CorruptRecord(f"snapshot {txn}: an empty label")
    return Snapshot(txn, created_ns, labels)


_MARK = struct.Struct(">BQ")


def encode_mark(txn: int) -> bytes:
    """Return the value of an orphan or dead-content mark, or of a rollback under way: a txn."""
    return _MARK.pack(VERSION, txn)


def decode_mark(value: bytes) -> int:
    """Return the txn of a mark."""
    try:
        version, txn = _MARK.unpack(value)
    except struct.error:
        raise CorruptRecord(f"mark: {len(value)} bytes") from None
    if version != VERSION:
        raise CorruptRecord(f"mark: version {version}")
    return int(txn)


class TableMark(NamedTuple):
    """Which chunks of a content went into a table before they were named: indexes `first` to `last`."""

    birth: int
    first: int
    last: int


_TABLE = struct.Struct(">BQQQ")


def encode_table_mark(mark: TableMark) -> bytes:
    """Return the value of a T record."""
    return _TABLE.pack(VERSION, *mark)


def decode_table_mark(value: bytes) -> TableMark:
    """Return the mark that `encode_table_mark` made."""
    try:
        version, *fields = _TABLE.unpack(value)
    except struct.error:
        raise CorruptRecord(f"table mark: {len(value)} bytes") from None
    if version != VERSION:
        raise CorruptRecord(f"table mark: version {version}")
    return TableMark(*fields)


class AttributeChanges(NamedTuple):
    """What a setattr asks for; None leaves a field alone. Times are nanoseconds."""

    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    size: int | None = None
    atime_ns: int | None = None
    mtime_ns: int | None = None
    ctime_ns: int | None = None


class Entry(NamedTuple):
    """One line of a listing; `cookie` is the position after which it stands."""

    cookie: int
    name: bytes
    inode: Inode


class Usage(NamedTuple):
    """What a filesystem holds and may hold; a limit of 0 is none.

    live_bytes: chunk bytes of the live tree. stored_bytes: those and the history's, which the quota limits.
    """

    inodes: int
    live_bytes: int
    stored_bytes: int
    inodes_max: int
    quota_bytes: int
