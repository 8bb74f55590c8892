"""Versions of keys: the head, the past and the change log, generic over keys and ignorant of files.

Live speed must not depend on the length of history, so the live record of a key K, its *head*, stands
alone and is read by one point get. Time is a number, the open *txn*; a snapshot seals it and opens the
next. A head says in which txn it was born. The first change of K in a txn T moves the old head to the
*past*, under the last txn that still sees it, T-1, but only when a snapshot lies in between; further
changes in T happen in place. The *change log* of T then holds K once: created, changed or removed, and
by whom.

So a snapshot s sees of K:

    the head                 when its birth <= s; nothing newer than it exists
    a past record            the first whose `until` >= s, when its birth <= s
    nothing                  otherwise: K did not exist

Taking a snapshot writes two small records, whatever the size of the tree. Rollback, diff and deletion
of a snapshot read the change log and cost what changed, never what exists.

An operation on something that died in an earlier txn (an orphan that is still open, a content that
reclaim takes apart slice by slice) is made *as of* that txn: for every snapshot since, the thing was
already gone, so its changes need no past there.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from typing import TYPE_CHECKING, Final, Protocol

from tzfs import keys
from tzfs.errors import InputOutput
from tzfs.recent import Decoded
from tzfs.records import (
    CHANGED,
    CREATED,
    HEAD_SIZE,
    REMOVED,
    Caller,
    LogRecord,
    decode_head,
    decode_log,
    encode_log,
    head_header,
    head_payload,
    is_same_birth,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from tzfs.kv import Store

DECODED_HEADS: Final = 2048
"""Inodes that are kept as they were decoded, of some 500 bytes each."""
SCAN_PAGE: Final = 512
"""Records that one engine scan brings when a whole range is wanted: bounded memory, few calls."""


_PAST_PAGE_MIN: Final = 16
"""Records that a snapshot's scan reads at first: a listing asks for what fits into the kernel's buffer, and
as a rule most of what stands there is seen. Where little is, the pages grow."""


class Reader(Protocol):
    """A tree of keys at one moment: the live one, a snapshot, or the live one within a transaction.

    decoded: what records were decoded to last, for whoever decodes those of `head`.
    """

    decoded: Decoded

    def head(self, k: bytes) -> bytes | None:
        """Return the whole record of K at that moment, None where it does not exist."""

    def load(self, k: bytes) -> bytes | None:
        """Return the payload of K at that moment, None where it does not exist."""

    def scan(self, lower: bytes, upper: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        """Return at most `limit` pairs (K, payload) with lower <= K < upper, ascending."""

    def get_raw(self, key: bytes) -> bytes | None:
        """Return the bytes under a key that is not versioned (a chunk)."""

    def scan_raw(self, lower: bytes, upper: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        """Return at most `limit` pairs with lower <= key < upper, ascending; keys as `get_raw` takes them."""


class Scannable(Protocol):
    """What can be scanned: a store by its keys, a reader by K."""

    def scan(self, lower: bytes, upper: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        """See `Store.scan` and `Reader.scan`."""


def scan_all(
    source: Scannable, lower: bytes, upper: bytes, page: int = SCAN_PAGE
) -> Iterator[tuple[bytes, bytes]]:
    """Yield every pair of a range, `page` at a time; what changes behind the cursor is not seen."""
    while True:
        pairs = source.scan(lower, upper, page)
        yield from pairs
        if len(pairs) < page:
            return
        lower = pairs[-1][0] + b"\0"


class Live:
    """The live tree: a `Reader` of heads."""

    __slots__ = ("decoded", "get_raw", "scan_raw", "store")

    def __init__(self, store: Store, decoded: Decoded) -> None:
        self.store = store
        self.decoded = decoded
        self.get_raw = store.get
        self.scan_raw = store.scan

    def head(self, k: bytes) -> bytes | None:
        """See `Reader.head`."""
        return self.store.get(keys.HEAD + k)

    def load(self, k: bytes) -> bytes | None:
        """See `Reader.load`."""
        value = self.store.get(keys.HEAD + k)
        return None if value is None else head_payload(value)

    def scan(self, lower: bytes, upper: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        """See `Reader.scan`."""
        pairs = self.store.scan(keys.HEAD + lower, keys.HEAD + upper, limit)
        return [(key[1:], head_payload(value)) for key, value in pairs]


class Shut:
    """A `Reader` of a live tree that nobody may see, as it is neither what it was nor what it will be."""

    __slots__ = ("_reason", "decoded")

    def __init__(self, reason: str, decoded: Decoded) -> None:
        self._reason = reason
        self.decoded = decoded

    def head(self, _k: bytes) -> bytes | None:
        """Raise `InputOutput`."""
        raise InputOutput(self._reason)

    def load(self, _k: bytes) -> bytes | None:
        """Raise `InputOutput`."""
        raise InputOutput(self._reason)

    def scan(self, _lower: bytes, _upper: bytes, _limit: int) -> list[tuple[bytes, bytes]]:
        """Raise `InputOutput`."""
        raise InputOutput(self._reason)

    def get_raw(self, _key: bytes) -> bytes | None:
        """Raise `InputOutput`."""
        raise InputOutput(self._reason)

    def scan_raw(self, _lower: bytes, _upper: bytes, _limit: int) -> list[tuple[bytes, bytes]]:
        """Raise `InputOutput`."""
        raise InputOutput(self._reason)


_NOTHING: Final = Decoded(1)
"""For snapshots: what a scan of the past brings is other bytes each time, and drives out what is of use."""


class Past:
    """The tree as snapshot `txn` sees it: a `Reader` that never changes while that snapshot exists."""

    __slots__ = ("decoded", "get_raw", "scan_raw", "store", "txn")

    def __init__(self, store: Store, txn: int) -> None:
        self.store = store
        self.decoded = _NOTHING
        self.txn = txn
        self.get_raw = store.get
        self.scan_raw = store.scan

    def head(self, k: bytes) -> bytes | None:
        """See `Reader.head`. One get for what has not changed since, one bounded seek for what has."""
        value = self.store.get(keys.HEAD + k)
        if value is not None and decode_head(value).birth <= self.txn:
            return value
        found = self.store.scan(*keys.past_from(k, self.txn), 1)
        return found[0][1] if found and decode_head(found[0][1]).birth <= self.txn else None

    def load(self, k: bytes) -> bytes | None:
        """See `Reader.load`."""
        value = self.head(k)
        return None if value is None else head_payload(value)

    def scan(self, lower: bytes, upper: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        """See `Reader.scan`: the heads and the past records of the range that this snapshot sees.

        Both are read in pages; only what lies below the shorter page's end is known completely.
        """
        found: list[tuple[bytes, bytes]] = []
        page = max(limit, _PAST_PAGE_MIN)
        while len(found) < limit:
            heads = self.store.scan(keys.HEAD + lower, keys.HEAD + upper, page)
            pasts = self.store.scan(keys.PAST + lower, keys.PAST + upper, page)
            known: dict[bytes, bytes] = {}
            ends = [upper]
            if len(heads) == page:
                ends.append(heads[-1][0][1:] + b"\0")
            if len(pasts) == page:
                ends.append(keys.split_past(pasts[-1][0])[0])
            # A page of nothing but one key's past ends where it began; go on behind it in a wider one.
            end = min(ends)
            if end <= lower and end != upper:
                page *= 2
                continue
            self._collect(heads, pasts, end, known)
            found.extend(sorted(known.items()))
            if end == upper:
                break
            lower = end
            page = max(page, min(2 * page, SCAN_PAGE))
        return found[:limit]

    def _collect(
        self,
        heads: Iterable[tuple[bytes, bytes]],
        pasts: Iterable[tuple[bytes, bytes]],
        end: bytes,
        known: dict[bytes, bytes],
    ) -> None:
        """Put into `known` what this snapshot sees of both pages below `end`."""
        txn = self.txn
        for key, value in heads:
            birth, _, payload = decode_head(value)
            if birth <= txn and key[1:] < end:
                known[key[1:]] = payload
        for key, value in pasts:
            k, until = keys.split_past(key)
            if until >= txn and k < end:
                birth, _, payload = decode_head(value)
                if birth <= txn:
                    known[k] = payload


class Versions:
    """The clock of a filesystem: the open txn and the snapshots that exist.

    It is the one place that answers whether a snapshot lies between two txns; the table of snapshots
    and the superblock that persist it are `tzfs.snapshots`' and the filesystem's.
    """

    def __init__(self, store: Store, txn: int, snapshots: Iterable[int], rollback_txn: int) -> None:
        self.store = store
        self.txn = txn
        self.sealed = sorted(snapshots)
        self.rollback_txn = rollback_txn
        self.decoded = Decoded(DECODED_HEADS)
        self.live: Reader = Live(store, self.decoded)

    def shut(self, reason: str) -> None:
        """Let every look at the live tree, and every change, be refused with `InputOutput`."""
        self.live = Shut(reason, self.decoded)

    def open(self) -> None:
        """Let the live tree be seen (again)."""
        self.live = Live(self.store, self.decoded)

    @property
    def is_shut(self) -> bool:
        """Whether the live tree is refused to everybody."""
        return type(self.live) is Shut

    def require_open(self) -> None:
        """Raise `InputOutput` while the live tree is shut."""
        if type(self.live) is Shut:
            self.live.load(b"")

    def sees(self, first: int, last: int) -> bool:
        """Tell whether a snapshot s with first <= s <= last exists."""
        sealed = self.sealed
        at = bisect_left(sealed, first)
        return at < len(sealed) and sealed[at] <= last

    def at(self, txn: int) -> Reader:
        """Return the tree as snapshot `txn` sees it."""
        return Past(self.store, txn)

    def exists(self, txn: int) -> bool:
        """Tell whether snapshot `txn` exists."""
        return self.sees(txn, txn)

    def before(self, txn: int) -> int:
        """Return the last snapshot before `txn`, 0 where there is none."""
        at = bisect_left(self.sealed, txn)
        return self.sealed[at - 1] if at else 0

    def after(self, txn: int) -> int:
        """Return the first snapshot after `txn`, 0 where there is none."""
        at = bisect_left(self.sealed, txn + 1)
        return self.sealed[at] if at < len(self.sealed) else 0

    def seal(self) -> int:
        """Make the open txn a snapshot and open the next; the caller has persisted both."""
        sealed = self.txn
        insort(self.sealed, sealed)
        self.txn = sealed + 1
        return sealed

    def drop(self, txn: int) -> None:
        """Forget snapshot `txn`; the caller has persisted that."""
        self.sealed.remove(txn)


class Batch:
    """The changes of one operation: staged here, read back through here, written at once by `commit`.

    A batch is begun, filled and committed without a suspension in between, and it writes nothing before:
    dropping one undoes all. What it has read it keeps, for an operation that looks a record up and later
    changes it would else ask the store twice.
    """

    __slots__ = ("_seen", "staged", "store")

    def __init__(self, store: Store) -> None:
        self.store = store
        self.staged: dict[bytes, bytes | None] = {}
        self._seen: dict[bytes, bytes | None] = {}

    def get_raw(self, key: bytes) -> bytes | None:
        """Return what `key` will hold after the commit."""
        if key in self.staged:
            return self.staged[key]
        if key in self._seen:
            return self._seen[key]
        value = self._seen[key] = self.store.get(key)
        return value

    def assume_absent(self, key: bytes) -> None:
        """Take the caller's word that the store has no `key`, as for a number that was never used."""
        self._seen[key] = None

    def put_raw(self, key: bytes, value: bytes) -> None:
        """Stage a value."""
        self.staged[key] = value

    def delete_raw(self, key: bytes) -> None:
        """Stage a deletion."""
        self.staged[key] = None

    def scan_raw(self, lower: bytes, upper: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        """Scan what the store will hold after the commit; as `Store.scan`.

        Deletions that are staged in the range can hide that many stored keys, so that many more are read.
        """
        touched = {key: value for key, value in self.staged.items() if lower <= key < upper}
        stored = self.store.scan(lower, upper, limit + len(touched))
        if not touched:
            return stored
        merged: dict[bytes, bytes | None] = dict(stored)
        merged.update(touched)
        live = sorted((key, value) for key, value in merged.items() if value is not None)
        return live[:limit]

    def commit(self) -> None:
        """Write what was staged, as one atomic batch. Raises `StoreError`; then nothing has changed."""
        if self.staged:
            self.store.write(self.staged)


class VersionedBatch(Batch):
    """The changes of one operation to versioned keys: a `Reader` of the live tree with them applied.

    txn is the one in which they count: the open one, or an earlier one for what died then (*as of*). A head
    begins with a header that says its birth, so that most changes compare and join bytes and decode nothing.
    """

    __slots__ = ("_header", "_log_prefix", "caller", "decoded", "txn", "versions")

    def __init__(self, versions: Versions, caller: Caller, as_of: int | None = None) -> None:
        super().__init__(versions.store)
        self.versions = versions
        self.decoded = versions.decoded
        self.caller = caller
        self.txn = txn = versions.txn if as_of is None else as_of
        self._header = head_header(txn, fresh=False)
        self._log_prefix = keys.log(txn, b"")

    def head(self, k: bytes) -> bytes | None:
        """See `Reader.head`."""
        return self.get_raw(keys.HEAD + k)

    def load(self, k: bytes) -> bytes | None:
        """See `Reader.load`."""
        value = self.get_raw(keys.HEAD + k)
        return None if value is None else head_payload(value)

    def scan(self, lower: bytes, upper: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        """See `Reader.scan`."""
        pairs = self.scan_raw(keys.HEAD + lower, keys.HEAD + upper, limit)
        return [(key[1:], head_payload(value)) for key, value in pairs]

    def expect_new(self, k: bytes) -> None:
        """Take the caller's word that K never existed."""
        self.assume_absent(keys.HEAD + k)
        self.assume_absent(self._log_prefix + k)

    def save(self, k: bytes, payload: bytes) -> bytes:
        """Make `payload` the live record of K, and return its head."""
        key = keys.HEAD + k
        value = self.get_raw(key)
        if value is None:
            fresh = self._log_created(k)
            header = head_header(self.txn, fresh=True) if fresh else self._header
            head = header + payload
        elif is_same_birth(value, self._header):
            head = value[:HEAD_SIZE] + payload
        else:
            self._supersede(k, value)
            head = self._header + payload
            self._log(k, CHANGED)
        self.staged[key] = head
        return head

    def remove(self, k: bytes) -> None:
        """Let K exist no more. Nothing happens where it does not."""
        key = keys.HEAD + k
        value = self.get_raw(key)
        if value is None:
            return
        self.staged[key] = None
        if not is_same_birth(value, self._header):
            self._supersede(k, value)
            self._log(k, REMOVED)
        elif decode_head(value).fresh:
            self.staged[self._log_prefix + k] = None
        else:
            self._relog(k, REMOVED)

    def _supersede(self, k: bytes, value: bytes) -> None:
        """Keep the old head for the snapshots that see it, if any."""
        if self.versions.sees(decode_head(value).birth, self.txn - 1):
            self.staged[keys.past(k, self.txn - 1)] = value

    def _log(self, k: bytes, kind: bytes) -> None:
        uid, _, pid, program = self.caller
        self.staged[self._log_prefix + k] = encode_log(LogRecord(kind, uid, pid, program))

    def _log_created(self, k: bytes) -> bool:
        """Log that K came into being; tell whether it is fresh: never there before in this txn either."""
        if self.get_raw(self._log_prefix + k) is None:
            self._log(k, CREATED)
            return True
        self._relog(k, CHANGED)
        return False

    def _relog(self, k: bytes, kind: bytes) -> None:
        """Change the kind of what is logged of K already; the first writer stays the one named."""
        key = self._log_prefix + k
        value = self.get_raw(key)
        if value is None:
            self._log(k, kind)
        else:
            self.staged[key] = encode_log(decode_log(value)._replace(kind=kind))
