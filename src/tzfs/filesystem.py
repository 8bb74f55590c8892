"""The filesystem: POSIX operations as synchronous methods, one transaction each.

Every method that changes something reads all that it needs, stages everything and commits once. There is no
suspension inside, so a caller on one event loop or under one lock sees each operation whole or not at all;
so does a crash. What it commits is visible at once, survives the end of the process, and survives a power
cut after the store's next `sync`.

`at` chooses the moment of a reading: None is the live tree, a txn is the snapshot of that number. Names are
bytes, times nanoseconds, sizes bytes. Whether a caller may do a thing is not asked here: the kernel
checks permissions (`default_permissions`), and a program that opens a store owns it.
"""

from __future__ import annotations

import stat
from collections import Counter
from typing import TYPE_CHECKING, Final

from tzfs import inodes, xattrs
from tzfs.directories import Directories
from tzfs.errors import (
    Invalid,
    IsDirectory,
    NameTooLong,
    NoAttribute,
    NoEntry,
    ReadOnly,
    SnapshotMissing,
)
from tzfs.filedata import FileData
from tzfs.history import Change, Restored, Rollback, diff
from tzfs.naming import Naming, Parents, load_directory
from tzfs.reclaim import Reclaim
from tzfs.records import (
    NAME_MAX,
    NOBODY,
    SYMLINK_MAX,
    AttributeChanges,
    Caller,
    Entry,
    Inode,
    Snapshot,
    Usage,
)
from tzfs.snapshots import Snapshots
from tzfs.versions import Reader
from tzfs.volume import CHUNK_SIZE_DEFAULT, ROOT, Transaction, Volume

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from tzfs.kv import Store


class Filesystem:
    """One filesystem on one store. Not for use from several threads at once."""

    ROOT: Final = ROOT

    def __init__(self, store: Store, *, read_only: bool = False) -> None:
        """Open a formatted store. Raises `NotFormatted`, `NewerFormat`, `CorruptRecord`, `StoreError`."""
        self.store = store
        self.read_only = read_only
        self.volume = Volume(store)
        self.versions = self.volume.versions
        self.directories = Directories(self.volume.superblock.salt)
        self.data = FileData(self.volume.superblock.chunk_size)
        self._naming = Naming(self.directories)
        self._snapshots = Snapshots(self.volume)
        self._reclaim = Reclaim(self.volume)
        self.held: Counter[int] = Counter()
        """How often `openfiles` holds an inode, which keeps one without a name."""
        self._returning = Rollback.unfinished(self.volume)
        if not read_only:
            self._reclaim.release(self.finish_rollback().inodes)

    @staticmethod
    def format(
        store: Store,
        *,
        chunk_size: int = CHUNK_SIZE_DEFAULT,
        quota_bytes: int = 0,
        inodes_max: int = 0,
        uid: int = 0,
        gid: int = 0,
        mode: int = 0o755,
    ) -> None:
        """Make an empty store a filesystem with a root directory; limits of 0 are none. Raises `Invalid`."""
        volume = Volume.format(store, chunk_size=chunk_size, quota_bytes=quota_bytes, inodes_max=inodes_max)
        txn = Transaction(volume, NOBODY._replace(uid=uid, gid=gid))
        root = Inode(0, stat.S_IFDIR, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, b"")
        root = inodes.create(txn, root, stat.S_IFDIR | mode)
        inodes.save(txn, root._replace(parent=ROOT))
        txn.commit()

    @property
    def chunk_size(self) -> int:
        """Bytes of a chunk."""
        return self.data.chunk_size

    @property
    def txn(self) -> int:
        """The open txn: the number that the next snapshot will have."""
        return self.versions.txn

    def _reader(self, at: int | None) -> Reader:
        if at is None:
            return self.versions.live
        if not self.versions.exists(at):
            raise SnapshotMissing(f"there is no snapshot {at}")
        return self.versions.at(at)

    def _begin(self, caller: Caller) -> Transaction:
        self._require_changeable()
        return Transaction(self.volume, caller)

    def _require_changeable(self) -> None:
        if self.read_only:
            raise ReadOnly("the filesystem is read-only")
        self.versions.require_open()

    def _begin_on(self, number: int, caller: Caller) -> tuple[Transaction, Inode]:
        """Begin a change of one inode that may be an orphan: then as of the txn in which it became one."""
        txn = self._begin(caller)
        inode = inodes.load(txn, number)
        if inode.nlink == 0:
            txn = Transaction(self.volume, caller, inodes.buried_in(txn, number))
        return txn, inode

    # Reading

    def getattr(self, number: int, at: int | None = None) -> Inode:
        """Return an inode. Raises `NoEntry`."""
        return inodes.load(self._reader(at), number)

    def lookup(self, parent: int, name: bytes, at: int | None = None) -> Inode:
        """Return what `name` names in a directory; "." and ".." too.

        Raises `NoEntry`, `NotDirectory`, `NameTooLong`.
        "." works on an inode of any type, for who knows an inode by its number alone (open_by_handle_at(2)).
        """
        reader = self._reader(at)
        if name == b".":
            return inodes.load(reader, parent)
        if len(name) > NAME_MAX:
            raise NameTooLong(f"{len(name)} bytes, at most {NAME_MAX}")
        number = self.directories.find(reader, parent, name)
        if number is not None:
            return inodes.load(reader, number)
        directory = load_directory(reader, parent)
        if name == b"..":
            return inodes.load(reader, directory.parent or ROOT)
        raise NoEntry(f"{name!r} in directory {parent}")

    def readdir(self, number: int, after: int, limit: int, at: int | None = None) -> list[Entry]:
        """Return up to `limit` entries with cookies beyond `after`, in their order, without "." and "..".

        A name that stands the whole time comes exactly once, whatever comes and goes beside it.
        """
        return self.directories.list(self._reader(at), number, after, limit)

    def readlink(self, number: int, at: int | None = None) -> bytes:
        """Return a symlink's target. Raises `Invalid` for anything else."""
        inode = inodes.load(self._reader(at), number)
        if not stat.S_ISLNK(inode.mode):
            raise Invalid(f"inode {number} is no symlink")
        return inode.target

    def read(self, number: int, offset: int, size: int, at: int | None = None) -> bytes:
        """Return the bytes of [offset, offset + size), shorter only at the end.

        Raises `IsDirectory`, `CorruptRecord`.
        """
        reader = self._reader(at)
        inode = inodes.load(reader, number)
        if inode.is_directory:
            raise IsDirectory(f"inode {number}")
        return self.data.read(reader, inode, offset, size)

    def getxattr(self, number: int, name: bytes, at: int | None = None) -> bytes:
        """Return the value of an extended attribute. Raises `NoAttribute`, `NotSupported`."""
        xattrs.require_name(name)
        return xattrs.require(self._reader(at), number, name)

    def listxattr(self, number: int, at: int | None = None) -> list[bytes]:
        """Return the names of an inode's extended attributes, in byte order."""
        return xattrs.names(self._reader(at), number)

    def usage(self) -> Usage:
        """Return what the filesystem holds and may hold."""
        return self.volume.usage()

    # Names

    def mknod(self, parent: int, name: bytes, mode: int, rdev: int, caller: Caller) -> Inode:
        """Make a file, FIFO, socket or device, see mknod(2). Raises `Exists`, `NoEntry`, `NoSpace`."""
        return self._make(parent, name, mode, caller, rdev=rdev)

    def mkdir(self, parent: int, name: bytes, mode: int, caller: Caller) -> Inode:
        """Make a directory, see mkdir(2); `mode` needs no type. Raises as `mknod`."""
        return self._make(parent, name, stat.S_IFDIR | stat.S_IMODE(mode), caller)

    def symlink(self, parent: int, name: bytes, target: bytes, caller: Caller) -> Inode:
        """Make a symlink, see symlink(2). Raises as `mknod`, and `NameTooLong` for the target."""
        if len(target) > SYMLINK_MAX:
            raise NameTooLong(f"a target of {len(target)} bytes, at most {SYMLINK_MAX}")
        if not target:
            raise NoEntry("an empty target")
        return self._make(parent, name, stat.S_IFLNK | 0o777, caller, target=target)

    def _make(
        self, parent: int, name: bytes, mode: int, caller: Caller, *, rdev: int = 0, target: bytes = b""
    ) -> Inode:
        self.volume.require_room(len(target))
        txn = self._begin(caller)
        parents = Parents(txn)
        directory = parents.get(parent)
        self._naming.require_free(txn, directory, name)
        inode = inodes.create(txn, directory, mode, rdev=rdev, target=target)
        inode = xattrs.inherit(txn, directory, inode)
        inode = self._naming.attach(txn, parents, parent, name, inode)
        parents.save()
        txn.commit()
        return inode

    def link(self, number: int, parent: int, name: bytes, caller: Caller) -> Inode:
        """Give a file another name, see link(2).

        Raises `Exists`, `NotPermitted`, `NoEntry`, `TooManyLinks`.
        """
        txn = self._begin(caller)
        parents = Parents(txn)
        inode = self._naming.link(txn, parents, number, parent, name)
        parents.save()
        txn.commit()
        return inode

    def unlink(self, parent: int, name: bytes, caller: Caller) -> None:
        """Take a file's name away, see unlink(2). Raises `NoEntry`, `IsDirectory`."""
        txn = self._begin(caller)
        parents = Parents(txn)
        self._naming.unlink(txn, parents, parent, name)
        parents.save()
        txn.commit()

    def rmdir(self, parent: int, name: bytes, caller: Caller) -> None:
        """Remove an empty directory, see rmdir(2). Raises `NoEntry`, `NotDirectory`, `NotEmpty`."""
        txn = self._begin(caller)
        parents = Parents(txn)
        self._naming.rmdir(txn, parents, parent, name)
        parents.save()
        txn.commit()

    def rename(
        self,
        *,
        old_parent: int,
        old_name: bytes,
        new_parent: int,
        new_name: bytes,
        flags: int = 0,
        caller: Caller,
    ) -> None:
        """Rename, see renameat2(2); flags 1 (RENAME_NOREPLACE), 2 (RENAME_EXCHANGE), 4 (RENAME_WHITEOUT).

        Raises `NoEntry`, `Exists`, `NotEmpty`, `IsDirectory`, `NotDirectory`, `Invalid`.
        """
        txn = self._begin(caller)
        parents = Parents(txn)
        self._naming.rename(
            txn,
            parents,
            old_parent=old_parent,
            old_name=old_name,
            new_parent=new_parent,
            new_name=new_name,
            flags=flags,
        )
        parents.save()
        txn.commit()

    # Inodes

    def setattr(self, number: int, changes: AttributeChanges, caller: Caller) -> Inode:
        """Change attributes, see chmod(2), chown(2), truncate(2), utimensat(2), and return the inode.

        A new size stamps mtime, any change stamps ctime, where `changes` does not give them. A new size or
        owner takes what a caller other than root must not leave behind: set-ID bits.
        """
        txn, inode = self._begin_on(number, caller)
        now = inodes.now_ns()
        fields = {field: value for field, value in changes._asdict().items() if value is not None}
        fields.setdefault("ctime_ns", now)
        if changes.size is not None:
            inode = self._resize(txn, inode, changes.size)
            del fields["size"]
            fields.setdefault("mtime_ns", now)
        if changes.mode is not None:
            fields["mode"] = stat.S_IFMT(inode.mode) | stat.S_IMODE(changes.mode)
            if fields["mode"] != inode.mode:
                xattrs.chmod(txn, number, fields["mode"])
        resized_or_given = (changes.size, changes.uid, changes.gid) != (None, None, None)
        if resized_or_given and caller.uid != 0 and not inode.is_directory:
            fields["mode"] = xattrs.without_set_id(fields.get("mode", inode.mode), inode.gid, caller)
        inode = inode._replace(**fields)
        inodes.save(txn, inode)
        txn.commit()
        return inode

    def settle_times(self, number: int, mtime_ns: int, ctime_ns: int, caller: Caller) -> Inode:
        """Take over the times that the kernel kept for a regular file, and return the inode with them.

        The kernel hands them over after whatever moved them, so as a rule they are those that the operation
        itself has stamped, by the same clock; and of a file without a name it goes on keeping them, until
        nobody can ask any more. In both cases nothing is written. Raises `NoEntry`.
        """
        inode = self.getattr(number)
        if (inode.mtime_ns, inode.ctime_ns) == (mtime_ns, ctime_ns):
            return inode
        settled = inode._replace(mtime_ns=mtime_ns, ctime_ns=ctime_ns)
        if inode.nlink:
            txn = self._begin(caller)
            inodes.save(txn, settled)
            txn.commit()
        return settled

    def _resize(self, txn: Transaction, inode: Inode, size: int) -> Inode:
        if inode.is_directory:
            raise IsDirectory(f"inode {inode.number}")
        if not inode.is_regular:
            raise Invalid(f"inode {inode.number} is no regular file")
        return self.data.truncate(txn, inode, size)

    def truncate_on_open(self, number: int, caller: Caller) -> Inode:
        """Empty a file as open(2) with O_TRUNC does, and return its inode.

        For a caller other than root the set-ID bits and the file capabilities go: the kernel leaves that to
        us here, while for write and truncate it asks by itself.
        """
        txn, inode = self._begin_on(number, caller)
        inode = self._resize(txn, inode, 0)
        if caller.uid != 0:
            inode = inode._replace(mode=xattrs.without_set_id(inode.mode, inode.gid, caller))
            xattrs.drop(txn, number, xattrs.CAPABILITY)
        now = inodes.now_ns()
        inode = inode._replace(mtime_ns=now, ctime_ns=now)
        inodes.save(txn, inode)
        txn.commit()
        return inode

    def write(
        self,
        number: int,
        offset: int,
        data: bytes,
        caller: Caller,
        *,
        stamp: bool,
        stored: Collection[int] = (),
    ) -> int:
        """Write `data` at `offset`, see pwrite(2); return its length: there are no short writes.

        Nothing to write changes nothing, neither the size nor the times.
        stamp: set mtime and ctime; False when the kernel's writeback cache keeps them.
        stored: indexes of chunks whose bytes are in the store already, see `tzfs.bulk`.
        Raises `NoSpace`, `FileTooBig`, `CorruptRecord` (a chunk that is written in part cannot be read).
        """
        self.volume.require_room(len(data))
        self._reclaim.make_room(len(data))
        txn, inode = self._begin_on(number, caller)
        if not data:
            return 0
        inode = self.data.write(txn, inode, offset, data, stored)
        if stamp:
            now = inodes.now_ns()
            inode = inode._replace(mtime_ns=now, ctime_ns=now)
        inodes.save(txn, inode)
        txn.commit()
        return len(data)

    def put(self, parent: int, name: bytes, data: bytes, mode: int, caller: Caller) -> Inode:
        """Make `data` the whole content of the file `name`, which is made if need be, and return its inode.

        One transaction: whoever looks, after a crash too, finds the old content or the new, never a part.
        mode: of a new file. Raises as `mknod` and `write`, and `Invalid` for what is no regular file.
        """
        self._reclaim.make_room(len(data))
        txn = self._begin(caller)
        parents = Parents(txn)
        directory = parents.get(parent)
        number = self.directories.find(txn, parent, name)
        if number is None:
            self._naming.require_free(txn, directory, name)
            inode = inodes.create(txn, directory, stat.S_IFREG | stat.S_IMODE(mode))
            inode = xattrs.inherit(txn, directory, inode)
            inode = self._naming.attach(txn, parents, parent, name, self.data.write(txn, inode, 0, data))
            parents.save()
        else:
            inode = self.data.write(txn, self._resize(txn, inodes.load(txn, number), 0), 0, data)
            now = inodes.now_ns()
            inode = inode._replace(mtime_ns=now, ctime_ns=now)
            inodes.save(txn, inode)
        txn.commit()
        return inode

    def setxattr(self, number: int, name: bytes, value: bytes, caller: Caller) -> None:
        """Set an extended attribute, see setxattr(2). Raises `NotSupported`, `AttributeTooBig`, `Invalid`."""
        xattrs.require_name(name)
        self.volume.require_room(len(value))
        txn, inode = self._begin_on(number, caller)
        if name == xattrs.ACCESS_ACL:
            inode = xattrs.put_access_acl(txn, inode, value)
        elif name == xattrs.DEFAULT_ACL:
            xattrs.put_default_acl(txn, inode, value)
        else:
            xattrs.put(txn, number, name, value)
        inodes.save(txn, inode._replace(ctime_ns=inodes.now_ns()))
        txn.commit()

    def removexattr(self, number: int, name: bytes, caller: Caller) -> None:
        """Remove an extended attribute, see removexattr(2). Raises `NoAttribute`; an ACL may be absent."""
        xattrs.require_name(name)
        txn, inode = self._begin_on(number, caller)
        if xattrs.get(txn, number, name) is None:
            if name in {xattrs.ACCESS_ACL, xattrs.DEFAULT_ACL}:
                return
            raise NoAttribute(f"{name!r} of inode {number}")
        xattrs.drop(txn, number, name)
        inodes.save(txn, inode._replace(ctime_ns=inodes.now_ns()))
        txn.commit()

    # Orphans, snapshots, background

    def release(self, numbers: Iterable[int]) -> None:
        """Say that the kernel holds these inodes no more: those without name and holder may be reclaimed."""
        self._reclaim.release(number for number in numbers if not self.held[number])

    def snapshot(self, label: bytes | None = None) -> Snapshot:
        """Take a snapshot, and label it: O(1), atomic.

        An unchanged tree gives the last snapshot again. Raises `Exists`, `Invalid` for the label.
        """
        self._require_changeable()
        return self._snapshots.take(label)

    def snapshots(self) -> list[Snapshot]:
        """Return all snapshots, oldest first."""
        return self._snapshots.list()

    def find_snapshot(self, name: bytes) -> Snapshot:
        """Return the snapshot that a txn in digits, a label or `latest` names. Raises `SnapshotMissing`."""
        return self._snapshots.find(name)

    def delete_snapshot(self, name: bytes) -> int:
        """Delete a snapshot with all its labels, and return its txn; reclaim frees its bytes later."""
        self._require_changeable()
        txn = self._snapshots.delete(name)
        self._reclaim.prune(txn)
        return txn

    def diff(self, old: bytes, new: bytes | None = None) -> list[Change]:
        """Return what differs at snapshot `new` (None: now) from snapshot `old`. Raises `SnapshotMissing`."""
        later = None if new is None else self.find_snapshot(new).txn
        return diff(self.volume, self.directories, self.find_snapshot(old).txn, later)

    def rollback(self, name: bytes) -> tuple[Snapshot, Restored]:
        """Make the tree what it was at a snapshot; return the snapshot of the present, and what changed.

        The present is sealed first, so a rollback can be rolled back; later snapshots stay. What a crash cuts
        short is finished at the next opening, what the disk refuses (`StoreError`) by `finish_rollback`.
        """
        self._require_changeable()
        goal = self.find_snapshot(name)
        self._reclaim.run_all()
        present = self._snapshots.take(None)
        if present.txn != goal.txn:
            self._returning = Rollback(self.volume, goal.txn)
        return present, self.finish_rollback()

    @property
    def returning_to(self) -> int | None:
        """The goal of a rollback that the disk stopped half done: until `finish_rollback` all else is EIO."""
        return self._returning.goal if self._returning is not None and self._returning.is_half_done else None

    def finish_rollback(self) -> Restored:
        """Go on with a rollback where it was stopped; `StoreError` as long as the disk refuses it."""
        restored = self._returning.finish() if self._returning is not None else Restored(set(), set())
        self._returning = None
        return restored

    def reclaim(self, budget: int = 256) -> bool:
        """Run one slice of reclaim, about `budget` records; tell whether work is left."""
        if self.read_only:
            return False
        return self._reclaim.run_slice(budget)

    def reclaim_backlog(self) -> int:
        """Return how many orphans, dead contents and deleted snapshots wait for reclaim."""
        return self._reclaim.backlog()
