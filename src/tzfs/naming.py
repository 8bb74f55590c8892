"""Operations on names: attach, detach, rename, exchange.

Each takes the transaction and stages everything that a name's coming or going moves: the entry, the
inode's links and times, the directory's size, links and times. The inodes of directories that one
operation touches twice (a rename within one directory) are held in a `Parents`, and saved once.
"""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING

from tzfs import inodes, xattrs
from tzfs.directories import Directories, changed, require_name
from tzfs.errors import (
    Exists,
    Invalid,
    IsDirectory,
    NameTooLong,
    NoEntry,
    NotDirectory,
    NotEmpty,
    NotPermitted,
    TooManyLinks,
)
from tzfs.records import LINK_MAX, NAME_MAX, Inode
from tzfs.volume import ROOT

if TYPE_CHECKING:
    from tzfs.versions import Reader
    from tzfs.volume import Transaction

NOREPLACE = 1
"""renameat2(2): fail with EEXIST rather than replace."""
EXCHANGE = 2
"""renameat2(2): swap two names; both must exist."""
WHITEOUT = 4
"""renameat2(2): leave a whiteout under the old name, by which overlayfs hides a name of a lower layer."""
_FLAGS = {0, NOREPLACE, EXCHANGE, WHITEOUT, NOREPLACE | WHITEOUT}


def load_directory(reader: Reader, number: int) -> Inode:
    """Return a directory's inode. Raises `NoEntry`, `NotDirectory`."""
    inode = inodes.load(reader, number)
    if not inode.is_directory:
        raise NotDirectory(f"inode {number}")
    return inode


class Parents:
    """The directories that one operation looks at, each loaded once, and saved once if it was changed."""

    def __init__(self, txn: Transaction) -> None:
        self._txn = txn
        self._inodes: dict[int, Inode] = {}
        self._changed: set[int] = set()

    def get(self, number: int) -> Inode:
        """Return a directory as it is by now. Raises `NoEntry` for one that was removed, `NotDirectory`."""
        inode = self._inodes.get(number)
        if inode is None:
            inode = load_directory(self._txn, number)
            if inode.nlink == 0:
                raise NoEntry(f"directory {number} was removed")
            self._inodes[number] = inode
        return inode

    def change(self, number: int, *, entries: int, subdirectories: int = 0) -> None:
        """Count entries and subdirectories that come or go, and stamp the directory."""
        parent = self.get(number)
        self._inodes[number] = changed(parent, entries=entries, subdirectories=subdirectories)
        self._changed.add(number)

    def save(self) -> None:
        """Stage those that were changed."""
        for number in self._changed:
            inodes.save(self._txn, self._inodes[number])


class Naming:
    """The names of one filesystem."""

    def __init__(self, directories: Directories) -> None:
        self._directories = directories

    def child(self, txn: Transaction, parent: Inode, name: bytes) -> Inode:
        """Return what `name` names in a directory. Raises `NoEntry`, `NameTooLong`."""
        inode = self._find(txn, parent, name)
        if inode is None:
            raise NoEntry(f"{name!r} in directory {parent.number}")
        return inode

    def _find(self, txn: Transaction, parent: Inode, name: bytes) -> Inode | None:
        if len(name) > NAME_MAX:
            raise NameTooLong(f"{len(name)} bytes, at most {NAME_MAX}")
        number = self._directories.find(txn, parent.number, name)
        return None if number is None else inodes.load(txn, number)

    def require_free(self, txn: Transaction, parent: Inode, name: bytes) -> None:
        """Refuse a name that cannot be or is taken: `NameTooLong`, `Invalid`, `Exists`."""
        require_name(name)
        if self._directories.find(txn, parent.number, name) is not None:
            raise Exists(f"{name!r} in directory {parent.number}")

    def attach(self, txn: Transaction, parents: Parents, parent: int, name: bytes, inode: Inode) -> Inode:
        """Stage a free name for an inode whose nlink counts it already; saves and returns the inode."""
        inode = self._directories.add(txn, parents.get(parent), name, inode)
        inodes.save(txn, inode)
        parents.change(parent, entries=1, subdirectories=int(inode.is_directory))
        return inode

    def link(self, txn: Transaction, parents: Parents, number: int, parent: int, name: bytes) -> Inode:
        """Stage another name for a file, see link(2). `NotPermitted` for a directory, `TooManyLinks`."""
        inode = inodes.load(txn, number)
        if inode.is_directory:
            raise NotPermitted("a directory has one name only")
        if inode.nlink == 0:
            raise NoEntry(f"inode {number} has no name left")
        if inode.nlink >= LINK_MAX:
            raise TooManyLinks(f"{inode.nlink} names")
        self.require_free(txn, parents.get(parent), name)
        inode = inode._replace(nlink=inode.nlink + 1, ctime_ns=inodes.now_ns())
        return self.attach(txn, parents, parent, name, inode)

    def unlink(self, txn: Transaction, parents: Parents, parent: int, name: bytes) -> None:
        """Stage the end of a file's name, see unlink(2). Raises `IsDirectory`."""
        inode = self.child(txn, parents.get(parent), name)
        if inode.is_directory:
            raise IsDirectory(f"{name!r}")
        self._detach(txn, parents, parent, name, inode)

    def rmdir(self, txn: Transaction, parents: Parents, parent: int, name: bytes) -> None:
        """Stage the end of an empty directory, see rmdir(2). Raises `NotDirectory`, `NotEmpty`."""
        inode = self.child(txn, parents.get(parent), name)
        if not inode.is_directory:
            raise NotDirectory(f"{name!r}")
        if inode.size:
            raise NotEmpty(f"{name!r} has {inode.size} entries")
        self._detach(txn, parents, parent, name, inode)

    def _detach(self, txn: Transaction, parents: Parents, parent: int, name: bytes, inode: Inode) -> None:
        """Stage the end of one name, and of the inode's standing when it was the last."""
        self._directories.drop(txn, parent, name)
        if inode.is_directory or inode.nlink == 1:
            inodes.bury(txn, inode)
        else:
            if self._directories.stands_at(inode, parent, name):
                inode = inode._replace(parent=0, cookie=0)
            inodes.save(txn, inode._replace(nlink=inode.nlink - 1, ctime_ns=inodes.now_ns()))
        parents.change(parent, entries=-1, subdirectories=-int(inode.is_directory))

    def rename(
        self,
        txn: Transaction,
        parents: Parents,
        *,
        old_parent: int,
        old_name: bytes,
        new_parent: int,
        new_name: bytes,
        flags: int,
    ) -> None:
        """Stage a rename, see renameat2(2); raises `Invalid` for flags that do not go together."""
        if flags not in _FLAGS:
            raise Invalid(f"rename flags {flags:#x}")
        moved = self.child(txn, parents.get(old_parent), old_name)
        require_name(new_name)
        target = self._find(txn, parents.get(new_parent), new_name)
        if flags & NOREPLACE and target is not None:
            raise Exists(f"{new_name!r}")
        self._require_no_loop(txn, moved, new_parent)
        if flags == EXCHANGE:
            if target is None:
                raise NoEntry(f"{new_name!r}")
            self._require_no_loop(txn, target, old_parent)
        if target is not None and target.number == moved.number:
            return
        self._directories.drop(txn, old_parent, old_name)
        parents.change(old_parent, entries=-1, subdirectories=-int(moved.is_directory))
        if target is not None and flags == EXCHANGE:
            self._directories.drop(txn, new_parent, new_name)
            parents.change(new_parent, entries=-1, subdirectories=-int(target.is_directory))
            self._move(txn, parents, target, old_parent, old_name)
        elif target is not None:
            _require_replaceable(moved, target, new_name)
            self._detach(txn, parents, new_parent, new_name, target)
        self._move(txn, parents, moved, new_parent, new_name)
        if flags & WHITEOUT:
            directory = parents.get(old_parent)
            whiteout = xattrs.inherit(txn, directory, inodes.create(txn, directory, stat.S_IFCHR))
            self.attach(txn, parents, old_parent, old_name, whiteout)

    def _move(self, txn: Transaction, parents: Parents, inode: Inode, parent: int, name: bytes) -> None:
        """Attach an inode under its new name, with the change of status that POSIX allows and ext4 makes."""
        self.attach(txn, parents, parent, name, inode._replace(ctime_ns=inodes.now_ns()))

    def _require_no_loop(self, txn: Transaction, moved: Inode, new_parent: int) -> None:
        """Refuse to move a directory below itself (`Invalid`): walks up, at the cost of the depth."""
        if not moved.is_directory:
            return
        number = new_parent
        while number != ROOT:
            if number == moved.number:
                raise Invalid("a directory cannot move below itself")
            number = inodes.load(txn, number).parent


def _require_replaceable(moved: Inode, target: Inode, name: bytes) -> None:
    if moved.is_directory and not target.is_directory:
        raise NotDirectory(f"{name!r}")
    if target.is_directory and not moved.is_directory:
        raise IsDirectory(f"{name!r}")
    if target.is_directory and target.size:
        raise NotEmpty(f"{name!r} has {target.size} entries")
