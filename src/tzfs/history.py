"""What the change log gives: the difference between two moments, and the way back to one.

Both read the changes of the txns in between and nothing else, so both cost what changed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from tzfs import failpoints, inodes, keys
from tzfs.errors import CorruptRecord, NoEntry, StoreCorrupt
from tzfs.records import (
    NOBODY,
    Inode,
    LogRecord,
    decode_entry,
    decode_inode,
    decode_log,
    decode_mark,
    encode_inode,
    encode_mark,
    encode_superblock,
)
from tzfs.versions import Live, scan_all
from tzfs.volume import ROOT, Transaction

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tzfs.directories import Directories
    from tzfs.versions import Reader
    from tzfs.volume import Volume

ADDED: Final = "added"
REMOVED: Final = "removed"
CHANGED: Final = "changed"
RENAMED: Final = "renamed"


class Change(NamedTuple):
    """One line of a difference.

    kind: `ADDED`, `REMOVED`, `CHANGED` or `RENAMED`. path: from the root, without a leading slash, as it is
    at the later moment (of what was removed: as it was). old_path: of what was renamed. inode: as it is at
    the later moment, or was. writer: who made the first change in the last txn that touched it.
    """

    kind: str
    path: bytes
    old_path: bytes | None
    inode: Inode
    writer: LogRecord


class Paths:
    """Paths of inodes at one moment, each directory looked up once."""

    def __init__(self, reader: Reader, directories: Directories) -> None:
        self._reader = reader
        self._directories = directories
        self._known: dict[int, bytes | None] = {ROOT: b""}

    def of_directory(self, number: int) -> bytes | None:
        """Return the path of a directory, None where no way leads to it."""
        if number not in self._known:
            self._known[number] = None
            try:
                self._known[number] = self.of(inodes.load(self._reader, number))
            except NoEntry:
                pass
            except (CorruptRecord, StoreCorrupt):
                # Where it stands is lost; what is in it has changed nevertheless.
                self._known[number] = b"#%d" % number
        return self._known[number]

    def of(self, inode: Inode) -> bytes | None:
        """Return a path of an inode: of a file with several names one of them, None where none is known."""
        if inode.number == ROOT:
            return b""
        name = self._directories.name_of(self._reader, inode) if inode.parent else None
        return None if name is None else self.join(inode.parent, name)

    def join(self, parent: int, name: bytes) -> bytes | None:
        """Return the path of an entry."""
        directory = self.of_directory(parent)
        if directory is None:
            return None
        return directory + b"/" + name if directory else name


def touched(volume: Volume, first: int, last: int) -> dict[bytes, LogRecord]:
    """Return every K that changed in the txns `first` to `last`, and its last log record there."""
    return {
        keys.split_log(key)[1]: decode_log(value)
        for key, value in scan_all(volume.store, *keys.log_range(first, last))
    }


def diff(volume: Volume, directories: Directories, old: int, new: int | None) -> list[Change]:
    """Return what differs at snapshot `new` (None: now) from snapshot `old`, ordered by path.

    A directory counts as changed when its own attributes are, not for what is in it.
    """
    log = touched(volume, old + 1, volume.versions.txn if new is None else new)
    before = volume.versions.at(old)
    after = volume.versions.live if new is None else volume.versions.at(new)
    changes = list(_entry_changes(log, before, after, directories))
    told = {change.inode.number for change in changes if change.kind != REMOVED}
    changes += _inode_changes(log, before, after, directories, told)
    return sorted(_without_replaced(changes), key=lambda change: change.path)


def _without_replaced(changes: list[Change]) -> list[Change]:
    """Return changes in which a path that lost one inode and got another has one line.

    Programs replace a file by renaming a new one over it; to a person that file has changed.
    """
    removed = {change.path for change in changes if change.kind == REMOVED}
    there = {change.path for change in changes if change.kind != REMOVED}
    return [
        change._replace(kind=CHANGED) if change.kind == ADDED and change.path in removed else change
        for change in changes
        if change.kind != REMOVED or change.path not in there
    ]


def _entry_changes(
    log: dict[bytes, LogRecord], before: Reader, after: Reader, directories: Directories
) -> Iterator[Change]:
    """Yield what was added, removed and renamed; an inode that left one name for another was renamed."""
    gone = _places(log, before, after, Paths(before, directories))
    come = _places(log, after, before, Paths(after, directories))
    for number, places in come.items():
        left = gone.get(number, [])
        inode = inodes.load_or_damaged(after, number)
        for path, record in places:
            if left:
                yield Change(RENAMED, path, left.pop()[0], inode, record)
            else:
                yield Change(ADDED, path, None, inode, record)
    for number, left in gone.items():
        for path, record in left:
            yield Change(REMOVED, path, None, inodes.load_or_damaged(before, number), record)


def _places(
    log: dict[bytes, LogRecord], here: Reader, there: Reader, paths: Paths
) -> dict[int, list[tuple[bytes, LogRecord]]]:
    """Return where each inode stands `here` and not `there`: paths, with the log record of the entry."""
    places: dict[int, list[tuple[bytes, LogRecord]]] = {}
    for k, record in log.items():
        payload = here.load(k) if k[:1] == keys.ENTRY else None
        if payload is None or payload == there.load(k):
            continue
        parent, _, name = keys.split_entry(k)
        path = paths.join(parent, name)
        if path is not None:
            places.setdefault(decode_entry(payload), []).append((path, record))
    return places


def _inode_changes(
    log: dict[bytes, LogRecord], before: Reader, after: Reader, directories: Directories, told: set[int]
) -> Iterator[Change]:
    """Yield the inodes that exist at both moments and differ, unless they are `told` already.

    A file of several names that has lost the one it is known by is looked for in the whole tree.
    """
    paths = Paths(after, directories)
    lost: dict[int, Change] = {}
    attributes = {keys.number_of(k) for k in log if k[:1] == keys.XATTR and before.load(k) != after.load(k)}
    for k, record in log.items():
        number = keys.number_of(k)
        if k[:1] != keys.INODE or number in told:
            continue
        if not _exists(before, k) or not _exists(after, k):
            continue
        old, new = inodes.load_or_damaged(before, number), inodes.load_or_damaged(after, number)
        if not new.mode:
            # A damaged one stands where it did, if that is known.
            yield Change(CHANGED, paths.of(old) or b"#%d" % number, None, new, record)
            continue
        if new.nlink == 0 or (_essence(old) == _essence(new) and number not in attributes):
            continue
        path = paths.of(new)
        if path is None:
            lost[number] = Change(CHANGED, b"", None, new, record)
        else:
            yield Change(CHANGED, path, None, new, record)
    if lost:
        for k, payload in scan_all(after, *keys.kind_range(keys.ENTRY)):
            number = decode_entry(payload)
            parent, _, name = keys.split_entry(k)
            path = paths.join(parent, name) if number in lost else None
            if path is not None:
                yield lost.pop(number)._replace(path=path)


def _exists(reader: Reader, k: bytes) -> bool:
    """Tell whether K has a record, readable or not."""
    try:
        return reader.load(k) is not None
    except (CorruptRecord, StoreCorrupt):
        return True


def _essence(inode: Inode) -> Inode:
    """Return an inode without what changes when only its surroundings do."""
    inode = inode._replace(atime_ns=0, ctime_ns=0, nlink=0, parent=0, cookie=0)
    return inode._replace(size=0, mtime_ns=0) if inode.is_directory else inode


class Restored(NamedTuple):
    """What a rollback changed, for caches above: inode numbers, and entries as (parent, name)."""

    inodes: set[int]
    entries: set[tuple[int, bytes]]


KEYS_A_STEP: Final = 65536
"""Keys restored in one transaction: some 30 MB. A rollback that needs no more is one atomic write."""


KEY_BYTES: Final = 512
"""What a restored key takes on the disk, with its past and its line in the log; most take less."""


class Rollback:
    """The way back to a snapshot, in one step or in several that survive a crash between any two.

    The present must be sealed: then every record that goes is kept for the snapshot of the present, and
    the rollback can itself be rolled back. Each step restores keys in one transaction with its counters; all
    but the last leave a mark that says where it goes, and doing a step again changes nothing.
    """

    def __init__(self, volume: Volume, goal: int) -> None:
        self._volume = volume
        self.goal = goal
        self.is_half_done = False
        """Some steps are done and some are not: the live tree is shut, for it is a mixture."""
        self._past = volume.versions.at(goal)
        self._live = Live(volume.store, volume.versions.decoded)
        self.restored = Restored(set(), set())

    @staticmethod
    def unfinished(volume: Volume) -> Rollback | None:
        """Return the rollback that a crash interrupted, if any; the live tree is shut until it is done."""
        value = volume.store.get(keys.ROLLBACK)
        if value is None:
            return None
        rollback = Rollback(volume, decode_mark(value))
        rollback._shut()
        return rollback

    def _shut(self) -> None:
        self.is_half_done = True
        self._volume.versions.shut(
            f"a rollback to snapshot {self.goal} is half done: it goes on when the disk has room, or at the "
            "next mount"
        )

    def finish(self) -> Restored:
        """Restore everything, and let the live tree be seen.

        What a crash leaves undone after the first step is done at the next opening. When the disk refuses a
        step, `finish` may be called again: doing a step again changes nothing. `NoSpace` before the first.
        """
        ks = sorted(touched(self._volume, self.goal + 1, self._volume.versions.txn - 1))
        ks = self._without_nameless(ks)
        if not self.is_half_done:
            self._volume.require_room(len(ks) * KEY_BYTES)
        for start in range(0, len(ks) or 1, KEYS_A_STEP):
            self._step(ks[start : start + KEYS_A_STEP], is_last=start + KEYS_A_STEP >= len(ks))
        return self.restored

    @failpoints.point("rollback_step")
    def _step(self, ks: list[bytes], *, is_last: bool) -> None:
        volume = self._volume
        txn = Transaction(volume, NOBODY)
        txn.is_limited = False
        superblock = volume.superblock._replace(rollback_txn=volume.versions.txn - 1)
        txn.put_raw(keys.SUPERBLOCK, encode_superblock(superblock))
        if is_last:
            txn.delete_raw(keys.ROLLBACK)
        else:
            txn.put_raw(keys.ROLLBACK, encode_mark(self.goal))
        for k in ks:
            self._restore(txn, k)
        txn.commit()
        volume.superblock = superblock
        volume.versions.rollback_txn = superblock.rollback_txn
        if not is_last:
            self._shut()
        elif self.is_half_done:
            self.is_half_done = False
            volume.versions.open()

    def _without_nameless(self, ks: list[bytes]) -> list[bytes]:
        """Leave out what belongs to inodes without a name at the goal, but for taking the names of those.

        Their attributes and content stay as they are: a program may have one open, as after unlink(2), and
        of others the goal still has records of when they were open, whose maps belong to nobody by now.
        """
        gone: set[int] = set()
        nameless: set[int] = set()
        contents: set[int] = set()
        for k in ks:
            if k[:1] != keys.INODE:
                continue
            number = keys.number_of(k)
            was, now = (_decoded(number, payload) for payload in (self._past.load(k), self._live.load(k)))
            if was is not None and was.nlink:
                continue
            nameless.add(number)
            contents.update(inode.content for inode in (was, now) if inode is not None)
            if now is None or not now.nlink:
                gone.add(number)
        skipped = {keys.INODE: gone, keys.XATTR: nameless, keys.MAP: contents}
        return [k for k in ks if keys.number_of(k) not in skipped.get(k[:1], ())]

    def _restore(self, txn: Transaction, k: bytes) -> None:
        was, now = self._past.load(k), txn.load(k)
        if was == now:
            return
        kind = k[:1]
        if kind == keys.INODE:
            self._restore_inode(txn, keys.number_of(k), was, now)
            return
        if kind == keys.ENTRY:
            parent, _, name = keys.split_entry(k)
            self.restored.entries.add((parent, name))
        elif kind == keys.XATTR:
            self.restored.inodes.add(keys.number_of(k))
        if was is None:
            txn.remove(k)
        else:
            txn.save(k, was)

    def _restore_inode(self, txn: Transaction, number: int, was: bytes | None, now: bytes | None) -> None:
        """Restore attributes and totals; what has no name at the goal loses it, as by unlink(2)."""
        old, new = _decoded(number, was), _decoded(number, now)
        self.restored.inodes.add(number)
        if old is None or not old.nlink:
            if new is not None and new.nlink:
                # Of a directory the entries are restored too, which is: there are none.
                inodes.bury(txn, new._replace(size=0) if new.is_directory else new)
            return
        if new is not None and new.nlink:
            txn.inodes -= 1
            txn.live_bytes -= new.stored_bytes
        txn.inodes += 1
        txn.live_bytes += old.stored_bytes
        txn.delete_raw(keys.orphan(number))
        txn.save(keys.inode(number), encode_inode(old))
        txn.unmark_dead(old.content)


def _decoded(number: int, payload: bytes | None) -> Inode | None:
    """Return the inode of a record, None where there is none."""
    return None if payload is None else decode_inode(number, payload)
