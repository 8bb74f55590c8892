"""The `.snapshots` tree: which inode of which snapshot a kernel inode number means.

The kernel knows an inode by 64 bits, in which we put a *view* above the inode's own number:

    st_ino = view << 40 | number

    view                   means
    0                      the live tree
    1 .. 2^23 - 1          the snapshot of that txn, entered by its number at the root
    2^23 .. 2^24 - 2       a snapshot entered otherwise: by a label, `latest`, or in a directory further down
    2^24 - 1               the directory `.snapshots` itself, of the live directory `number`

One view per entrance, because a directory inode can have one name only in the kernel, and `.snapshots/7` and
`.snapshots/before-rm` may show the same. Views of the third kind are handed out at lookup and dropped when
the kernel has forgotten every inode that it saw through them, so the table is never longer than the kernel's
own caches. A view means one txn for ever: when `latest` moves on, its next lookup gets another view.

`.snapshots` is found in every live directory and shown by none. It is not found in a snapshot: the history
of a directory is looked at from the present. Its links are not counted (`st_nlink` 1, as btrfs has it),
because that would cost a look into every snapshot.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final, NamedTuple

from tzfs.errors import (
    CrossDevice,
    Exists,
    NameTooLong,
    NoAttribute,
    NoEntry,
    NotDirectory,
    NotPermitted,
    ReadOnly,
    SnapshotMissing,
    Stale,
)
from tzfs.records import INODE_MAX, NAME_MAX, Caller, Inode, Snapshot

if TYPE_CHECKING:
    from tzfs.filesystem import Filesystem

LIVE: Final = 0
VIEW_SHIFT: Final = 40
ALLOCATED_FIRST: Final = 2**23
SNAPSHOTS_VIEW: Final = 2**24 - 1

SNAPSHOTS_NAME: Final = b".snapshots"
LATEST: Final = b"latest"

assert INODE_MAX == (1 << VIEW_SHIFT) - 1, "an inode number must leave room for the view above it"

_COOKIE_SHIFT: Final = 16
_COOKIE_LATEST: Final = 2**62
"""Where `latest` stands in a listing: after txn << 16 plus the place of a label, for every txn below 2^46."""

_DOTS: Final = (b".", b"..")


class Entrance(NamedTuple):
    """A name under the `.snapshots` of a live directory, and the txn that it led to."""

    txn: int
    directory: int
    name: bytes


class Seen(NamedTuple):
    """An inode, and the view through which it was found."""

    view: int
    inode: Inode


class Line(NamedTuple):
    """One line of a listing of `.snapshots`; `cookie` is the position after which it stands."""

    cookie: int
    name: bytes
    seen: Seen


def number_of(st_ino: int) -> int:
    """Return the inode's own number."""
    return st_ino & INODE_MAX


def view_of(st_ino: int) -> int:
    """Return the view of a kernel inode number."""
    return st_ino >> VIEW_SHIFT


class Views:
    """The part of the tree that is not live: all methods take kernel inode numbers."""

    def __init__(self, fs: Filesystem) -> None:
        self._fs = fs
        self._entrances: dict[int, Entrance] = {}
        self._views: dict[Entrance, int] = {}
        self._lookups: dict[int, int] = {}
        self._next = ALLOCATED_FIRST

    def __len__(self) -> int:
        return len(self._entrances)

    # ------------------------------------------------------------- which view

    def _view(self, entrance: Entrance) -> int:
        """Return the view of an entrance, a new one if it has none."""
        by_number = entrance.name == b"%d" % entrance.txn
        if entrance.directory == self._fs.ROOT and by_number and entrance.txn < ALLOCATED_FIRST:
            return entrance.txn
        view = self._views.get(entrance)
        if view is None:
            while self._next in self._entrances:
                self._advance()
            view = self._next
            self._advance()
            self._entrances[view] = entrance
            self._views[entrance] = view
            self._lookups[view] = 0
        return view

    def _advance(self) -> None:
        """Move on to the next number, so that one just dropped is the last to be used again."""
        self._next = self._next + 1 if self._next + 1 < SNAPSHOTS_VIEW else ALLOCATED_FIRST

    def _entrance(self, view: int) -> Entrance:
        if view < ALLOCATED_FIRST:
            return Entrance(view, self._fs.ROOT, b"%d" % view)
        try:
            return self._entrances[view]
        except KeyError:
            raise Stale(f"view {view} was forgotten") from None

    def hold(self, view: int) -> None:
        """Count one lookup of an inode of this view by the kernel."""
        if view in self._lookups:
            self._lookups[view] += 1

    def forget(self, view: int, lookups: int) -> None:
        """Take back `lookups` (0 after a new view was refused); a view without any is dropped."""
        count = self._lookups.get(view)
        if count is None:
            return
        if count > lookups:
            self._lookups[view] = count - lookups
            return
        del self._lookups[view]
        del self._views[self._entrances.pop(view)]

    def place(self, st_ino: int) -> tuple[int, int | None]:
        """Return (number, txn) of an inode: txn is None for the live tree and `.snapshots` itself. Stale."""
        view = view_of(st_ino)
        if view in (LIVE, SNAPSHOTS_VIEW):
            return number_of(st_ino), None
        return number_of(st_ino), self._entrance(view).txn

    # ---------------------------------------------------------------- reading

    def lookup(self, parent: int, name: bytes) -> Seen:
        """Find `name` in a directory of a snapshot, in `.snapshots`, or `.snapshots` in a live directory.

        NoEntry, NotDirectory, NameTooLong, Stale. "." and ".." lead out again the way that led in.
        """
        view, number = view_of(parent), number_of(parent)
        if view == LIVE:
            return Seen(SNAPSHOTS_VIEW, self._snapshots_directory(number))
        if view == SNAPSHOTS_VIEW:
            return self._lookup_snapshot(number, name)
        entrance = self._entrance(view)
        if name == b".." and number == entrance.directory:
            return Seen(SNAPSHOTS_VIEW, self._snapshots_directory(number))
        return Seen(view, self._fs.lookup(number, name, at=entrance.txn))

    def _lookup_snapshot(self, directory: int, name: bytes) -> Seen:
        if name == b".":
            return Seen(SNAPSHOTS_VIEW, self._snapshots_directory(directory))
        if name == b"..":
            return Seen(LIVE, self._fs.getattr(directory))
        if len(name) > NAME_MAX:
            raise NameTooLong(f"{len(name)} bytes, at most {NAME_MAX}")
        snapshot = self._fs.find_snapshot(name)
        inode = self._directory_at(directory, snapshot.txn)
        if inode is None:
            raise NoEntry(f"directory {directory} did not exist in snapshot {snapshot.txn}")
        return Seen(self._view(Entrance(snapshot.txn, directory, name)), inode)

    def _directory_at(self, number: int, txn: int) -> Inode | None:
        """Return a directory as it was in a snapshot, or None where it had no name."""
        try:
            inode = self._fs.getattr(number, at=txn)
        except NoEntry:
            return None
        return inode if inode.is_directory and inode.nlink else None

    def _snapshots_directory(self, directory: int) -> Inode:
        """Return the attributes of `.snapshots` of a live directory.

        Who may read the directory may read its history; only its owner may make snapshots in there.
        """
        inode = self._fs.getattr(directory)
        if not inode.is_directory:
            raise NotDirectory(f"inode {directory}")
        try:
            time_ns = self._fs.find_snapshot(LATEST).created_ns
        except SnapshotMissing:
            time_ns = inode.btime_ns
        mode = stat.S_IFDIR | inode.mode & 0o555 | stat.S_IWUSR
        return inode._replace(
            mode=mode, nlink=1, size=0, stored_bytes=0, atime_ns=time_ns, mtime_ns=time_ns, ctime_ns=time_ns
        )

    def getattr(self, st_ino: int) -> Inode:
        """Return the attributes of an inode of a snapshot or of `.snapshots`."""
        if view_of(st_ino) == SNAPSHOTS_VIEW:
            return self._snapshots_directory(number_of(st_ino))
        number, txn = self.place(st_ino)
        return self._fs.getattr(number, at=txn)

    def snapshots(self, directory: int, after: int) -> Iterator[Line]:
        """List `.snapshots` of a live directory: the snapshots that have it, each by number and labels.

        A view is allocated for every line taken; `hold` it or `forget` it.
        """
        newest: Snapshot | None = None
        for snapshot in self._fs.snapshots():
            newest = snapshot
            names = (b"%d" % snapshot.txn, *snapshot.labels)
            first = snapshot.txn << _COOKIE_SHIFT
            if first + len(names) <= after:
                continue
            inode = self._directory_at(directory, snapshot.txn)
            if inode is None:
                continue
            for cookie, name in enumerate(names, first):
                if cookie > after:
                    yield Line(cookie, name, self._seen(snapshot.txn, directory, name, inode))
        if newest is not None and after < _COOKIE_LATEST:
            inode = self._directory_at(directory, newest.txn)
            if inode is not None:
                yield Line(_COOKIE_LATEST, LATEST, self._seen(newest.txn, directory, LATEST, inode))

    def _seen(self, txn: int, directory: int, name: bytes, inode: Inode) -> Seen:
        return Seen(self._view(Entrance(txn, directory, name)), inode)

    def getxattr(self, st_ino: int, name: bytes) -> bytes:
        """Return an extended attribute as it was; `.snapshots` itself has none. NoAttribute."""
        if view_of(st_ino) == SNAPSHOTS_VIEW:
            raise NoAttribute(".snapshots has no attributes")
        number, txn = self.place(st_ino)
        return self._fs.getxattr(number, name, at=txn)

    def listxattr(self, st_ino: int) -> list[bytes]:
        """Return the names of the extended attributes as they were."""
        if view_of(st_ino) == SNAPSHOTS_VIEW:
            return []
        number, txn = self.place(st_ino)
        return self._fs.listxattr(number, at=txn)

    # --------------------------------------------------------------- changing

    def remove(self, parent: int, name: bytes, caller: Caller) -> None:
        """Delete the snapshot that `rmdir .snapshots/NAME` names; its labels go with it.

        Only the owner of the whole filesystem may: a snapshot is everybody's, whoever owns the directory in
        whose `.snapshots` it is seen. `latest` is no snapshot of its own. NotPermitted, SnapshotMissing.
        """
        self._lookup_snapshot(number_of(parent), name)
        if name == LATEST:
            raise NotPermitted("latest is a view of another snapshot: remove that one")
        if caller.uid not in (0, self._fs.getattr(self._fs.ROOT).uid):
            raise NotPermitted("only the owner of the filesystem's root deletes snapshots")
        self._fs.delete_snapshot(name)


def refuse_change(st_ino: int) -> None:
    """Raise ReadOnly unless an inode is live."""
    if st_ino > INODE_MAX:
        raise ReadOnly("history does not change")


def refuse_leaving(st_ino: int) -> None:
    """Raise CrossDevice for what would make a file of a snapshot live."""
    if st_ino > INODE_MAX:
        raise CrossDevice("a snapshot's file cannot be moved or linked: copy it")


def refuse_new_name(parent: int, name: bytes) -> None:
    """Raise ReadOnly in history, and Exists for `.snapshots` itself: it is there, although hidden."""
    refuse_change(parent)
    if name == SNAPSHOTS_NAME:
        raise Exists(".snapshots is there, although hidden")


def refuse_old_name(parent: int, name: bytes) -> None:
    """Raise ReadOnly in history, and NotPermitted for removing or moving `.snapshots` itself."""
    refuse_change(parent)
    if name == SNAPSHOTS_NAME:
        raise NotPermitted(".snapshots cannot be removed or moved")
