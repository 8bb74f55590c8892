"""The request handlers of pyfuse3: each translates one kernel request into one call of the core.

Live inodes, nearly all of the traffic, go straight to the core: their kernel number is the core's number.
All other numbers belong to `.snapshots` and go through `Views`. Nothing here awaits between the core's call
and the bookkeeping of its answer, so handlers need no locks; those that await at all (fsync, snapshots) do
it before or instead of their core call.

What the kernel is told to keep: names, missing names and attributes for a day, and file contents over close
and open (keep_cache), because the live tree changes only by requests; but see `Handles.has_reliable_pages`.
Names under `.snapshots` come and go by commands too, so it must ask for them every time.

Closing a file needs no handler: `flush` is answered with ENOSYS once and then never sent. With the writeback
cache close(2) has written the dirty pages before, without it each write(2) has, and every write is in the
store's log before it is answered, which a killed daemon does not lose.
"""

from __future__ import annotations

import errno
import logging
import os
import stat
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import pyfuse3
from pyfuse3 import EntryAttributes, FileInfo, FUSEError, RequestContext

from tzfs.bulk import Write
from tzfs.errors import NoEntry, NoSpace, ReadOnly, Stale
from tzfs.fuse.attributes import (
    CACHED_S,
    LiveAttributes,
    attributes,
    changes,
    kept_times,
    no_entry,
    statistics,
)
from tzfs.fuse.boundary import notice, request
from tzfs.fuse.bulk import BulkWriter
from tzfs.fuse.commands import Commands
from tzfs.fuse.counters import COUNTERS
from tzfs.fuse.handles import Handle, Handles, LookupCounts, Programs
from tzfs.fuse.losses import Losses
from tzfs.fuse.resync import Resync
from tzfs.fuse.views import (
    LIVE,
    SNAPSHOTS_NAME,
    SNAPSHOTS_VIEW,
    VIEW_SHIFT,
    Seen,
    Views,
    refuse_change,
    refuse_leaving,
    refuse_new_name,
    refuse_old_name,
    view_of,
)
from tzfs.records import INODE_MAX, NOBODY, Caller, Inode, Snapshot

if TYPE_CHECKING:
    from tzfs.filesystem import Filesystem

_log = logging.getLogger("tzfs.fuse")

Ctx = RequestContext

_Line = tuple[int, bytes, Seen, float]
"""One line of a listing: cookie, name, what it names, and how long the kernel may keep the name (seconds)."""


class Operations(pyfuse3.Operations):
    """What the kernel may ask of a mounted filesystem.

    sync: makes all earlier changes durable. flush: writes out the kernel's dirty pages of this mount.
    host_free: (free, total) bytes of the disk under the store. writeback: let the kernel's writeback cache
    collect writes; it then owns the times of regular files. resync: tells the kernel what a rollback changed.
    bulk: does large writes, if they are to go past the log.
    """

    supports_dot_lookup = True
    enable_acl = True

    def __init__(
        self,
        fs: Filesystem,
        *,
        sync: Callable[[], Awaitable[None]],
        flush: Callable[[], Awaitable[None]],
        host_free: Callable[[], tuple[int, int]],
        writeback: bool = True,
        resync: Resync | None = None,
        bulk: BulkWriter | None = None,
    ) -> None:
        super().__init__()
        self.enable_writeback_cache = writeback
        self._fs = fs
        self._sync = sync
        self._flush = flush
        self._host_free = host_free
        self._stamp = not writeback
        self._views = Views(fs)
        self._known = LookupCounts()
        self._handles = Handles()
        self.losses = Losses(self._handles)
        self._programs = Programs()
        self._attributes = LiveAttributes()
        self.commands = Commands(
            fs,
            flush=flush,
            known=self._known,
            handles=self._handles,
            attributes=self._attributes,
            resync=resync,
        )
        self._bulk = bulk
        self._no_entry = no_entry()

    # --------------------------------------------------------------- helpers

    def _caller(self, ctx: Ctx) -> Caller:
        return Caller(ctx.uid, ctx.gid, ctx.pid, self._programs.name(ctx.pid))

    def _live_entry(self, inode: Inode) -> EntryAttributes:
        """Return an answer that makes the kernel know a live inode (once more), and count that."""
        self._known.add(inode.number)
        return self._attributes.of(inode)

    def _entry(self, inode: Inode, view: int, entry_timeout: float) -> EntryAttributes:
        """Do so for an inode in any view."""
        if view == LIVE:
            return self._live_entry(inode)
        self._views.hold(view)
        return attributes(inode, view, entry_timeout=entry_timeout)

    def _count(self, number: int, view: int) -> None:
        if view == LIVE:
            self._known.add(number)
        else:
            self._views.hold(view)

    async def take_snapshot(self, label: bytes | None, caller: Caller = NOBODY) -> Snapshot:
        """Take a snapshot that holds every write that returned before, those in the page cache included.

        Raises `Exists` and `Invalid` for the label, `ReadOnly`.
        """
        await self._flush()
        snapshot = self._fs.snapshot(label)
        _log.info("snapshot %d for %s, pid %d, uid %d", snapshot.txn, caller.program, caller.pid, caller.uid)
        return snapshot

    def open_for_writing(self) -> set[int]:
        """Return the inodes that the kernel may hold dirty pages of. Safe in any thread.

        Closing a file writes out its pages, and so does unmapping it; until both are done, the kernel keeps
        the handle. So there are none but those of open handles.
        """
        return self._handles.open_for_writing()

    # ----------------------------------------------------- names and attributes

    @request
    async def lookup(self, parent_inode: int, name: bytes, ctx: Ctx) -> EntryAttributes:
        """Find a name. That it is missing is remembered by the kernel too, except under `.snapshots`."""
        if parent_inode <= INODE_MAX and name != SNAPSHOTS_NAME:
            try:
                inode = self._fs.lookup(parent_inode, name)
            except NoEntry:
                return self._no_entry
            if not inode.nlink:
                # "." finds an orphan too, but who knows only a number comes too late (open_by_handle_at).
                raise Stale(f"inode {inode.number} has no name any more")
            return self._live_entry(inode)
        view, inode = self._views.lookup(parent_inode, name)
        return self._entry(inode, view, 0.0 if view_of(parent_inode) == SNAPSHOTS_VIEW else CACHED_S)

    @notice
    async def forget(self, inode_list: Sequence[tuple[int, int]]) -> None:
        """Take back lookup counts; orphans among what the kernel knows no more may be reclaimed.

        No handle is open then: the kernel holds an inode until the release of its last file was answered
        (`fuse_release_end` in fs/fuse/file.c). The core ignores numbers that still have a name.
        """
        gone = []
        for st_ino, lookups in inode_list:
            if st_ino > INODE_MAX:
                self._views.forget(view_of(st_ino), lookups)
            elif self._known.subtract(st_ino, lookups):
                self.losses.forget(st_ino)
                self._handles.forget(st_ino)
                self._attributes.forget(st_ino)
                gone.append(st_ino)
        if gone and not self._fs.read_only:
            self._fs.release(gone)

    @request
    async def getattr(self, inode: int, ctx: Ctx) -> EntryAttributes:
        """Return attributes; the kernel learns no name by it, so nothing is counted."""
        if inode <= INODE_MAX:
            self.losses.tell(inode, ctx.pid)
            return self._attributes.of(self._fs.getattr(inode))
        return attributes(self._views.getattr(inode), view_of(inode))

    @request
    async def setattr(
        self, inode: int, attr: EntryAttributes, fields: pyfuse3.SetattrFields, fh: int | None, ctx: Ctx
    ) -> EntryAttributes:
        """Change attributes: chmod, chown, truncate, utimensat, and the times of the writeback cache."""
        refuse_change(inode)
        asked = changes(attr, fields)
        if (kept := kept_times(asked)) is not None:
            return self._attributes.of(self._fs.settle_times(inode, *kept, self._caller(ctx)))
        if await self.commands.claims(ctx.pid, inode, asked):
            return self._attributes.of(self.commands.shown(inode))
        if asked.size is not None and asked.mtime_ns is None and not self._stamp:
            # The kernel, which keeps the times, sends them with every size but the one that a file has.
            now = self._fs.getattr(inode)
            asked = asked._replace(mtime_ns=now.mtime_ns, ctime_ns=now.ctime_ns)
        return self._attributes.of(self._fs.setattr(inode, asked, self._caller(ctx)))

    @request
    async def readlink(self, inode: int, ctx: Ctx) -> bytes:
        """Return a symlink's target."""
        number, at = self._views.place(inode)
        return self._fs.readlink(number, at=at)

    @request
    async def access(self, inode: int, mode: int, ctx: Ctx) -> bool:
        """Allow: with default_permissions the kernel has checked."""
        return True

    # --------------------------------------------------------- making and removing

    @request
    async def mknod(self, parent_inode: int, name: bytes, mode: int, rdev: int, ctx: Ctx) -> EntryAttributes:
        """Make a file of any type but a directory or a symlink."""
        refuse_new_name(parent_inode, name)
        return self._live_entry(self._fs.mknod(parent_inode, name, mode, rdev, self._caller(ctx)))

    @request
    async def create(
        self, parent_inode: int, name: bytes, mode: int, flags: int, ctx: Ctx
    ) -> tuple[FileInfo, EntryAttributes]:
        """Make a regular file and open it."""
        refuse_new_name(parent_inode, name)
        caller = self._caller(ctx)
        inode = self._fs.mknod(parent_inode, name, stat.S_IFREG | stat.S_IMODE(mode), 0, caller)
        fh = self._handles.open(inode.number, LIVE, None, caller, writable=True)
        if flags & os.O_DIRECT:
            self._handles.note_direct(inode.number)
        return FileInfo(fh=fh), self._live_entry(inode)

    @request
    async def mkdir(self, parent_inode: int, name: bytes, mode: int, ctx: Ctx) -> EntryAttributes:
        """Make a directory; in `.snapshots`, take a snapshot with that label and show it."""
        if view_of(parent_inode) == SNAPSHOTS_VIEW:
            await self.take_snapshot(name, self._caller(ctx))
            view, inode = self._views.lookup(parent_inode, name)
            return self._entry(inode, view, 0.0)
        refuse_new_name(parent_inode, name)
        return self._live_entry(self._fs.mkdir(parent_inode, name, mode, self._caller(ctx)))

    @request
    async def symlink(self, parent_inode: int, name: bytes, target: bytes, ctx: Ctx) -> EntryAttributes:
        """Make a symlink."""
        refuse_new_name(parent_inode, name)
        return self._live_entry(self._fs.symlink(parent_inode, name, target, self._caller(ctx)))

    @request
    async def link(self, inode: int, new_parent_inode: int, new_name: bytes, ctx: Ctx) -> EntryAttributes:
        """Give a file another name; not to one of a snapshot, which is on another device, so to speak."""
        refuse_new_name(new_parent_inode, new_name)
        refuse_leaving(inode)
        return self._live_entry(self._fs.link(inode, new_parent_inode, new_name, self._caller(ctx)))

    @request
    async def unlink(self, parent_inode: int, name: bytes, ctx: Ctx) -> None:
        """Remove a name; the inode stays while it has another, or the kernel holds it."""
        refuse_old_name(parent_inode, name)
        self._fs.unlink(parent_inode, name, self._caller(ctx))

    @request
    async def rmdir(self, parent_inode: int, name: bytes, ctx: Ctx) -> None:
        """Remove an empty directory; in `.snapshots`, delete a snapshot."""
        if view_of(parent_inode) == SNAPSHOTS_VIEW:
            self._views.remove(parent_inode, name, self._caller(ctx))
            return
        refuse_old_name(parent_inode, name)
        self._fs.rmdir(parent_inode, name, self._caller(ctx))

    @request
    async def rename(
        self,
        parent_inode_old: int,
        name_old: bytes,
        parent_inode_new: int,
        name_new: bytes,
        flags: int,
        ctx: Ctx,
    ) -> None:
        """Move a name. Out of a snapshot is EXDEV, so that `mv` copies; into one, or within, is EROFS."""
        refuse_change(parent_inode_new)
        refuse_leaving(parent_inode_old)
        refuse_old_name(parent_inode_old, name_old)
        refuse_old_name(parent_inode_new, name_new)
        self._fs.rename(
            old_parent=parent_inode_old,
            old_name=name_old,
            new_parent=parent_inode_new,
            new_name=name_new,
            flags=flags,
            caller=self._caller(ctx),
        )

    # --------------------------------------------------------------------- files

    @request
    async def open(self, inode: int, flags: int, ctx: Ctx) -> FileInfo:
        """Open a file; O_TRUNC is ours to do, the kernel leaves it to us in the same request."""
        number, at = self._views.place(inode)
        if inode > INODE_MAX and (flags & os.O_ACCMODE != os.O_RDONLY or flags & os.O_TRUNC):
            raise ReadOnly("history does not change")
        caller = self._caller(ctx)
        if flags & os.O_TRUNC:
            self._fs.truncate_on_open(number, caller)
        writable = flags & os.O_ACCMODE != os.O_RDONLY
        fh = self._handles.open(number, view_of(inode), at, caller, writable=writable)
        if writable and flags & os.O_DIRECT:
            self._handles.note_direct(number)
        kept = inode > INODE_MAX or self._handles.has_reliable_pages(number)
        return FileInfo(fh=fh, keep_cache=kept)

    @request
    async def read(self, fh: int, off: int, size: int) -> bytes:
        """Read; files opened for writing only are read too, by the writeback cache."""
        handle = self._handles[fh]
        data = self._fs.read(handle.number, off, size, at=handle.at)
        COUNTERS.bytes_read += len(data)
        return data

    @request
    async def write(self, fh: int, off: int, buf: bytes) -> int:
        """Write; the writer in the change log is who opened the file."""
        handle = self._handles[fh]
        try:
            if self._bulk is not None and self._bulk.is_due(handle.number, len(buf)):
                large = Write(handle.number, off, buf, handle.caller, self._stamp)
                written = await self._bulk.write(large)
            else:
                written = self._fs.write(handle.number, off, buf, handle.caller, stamp=self._stamp)
        except NoSpace:
            if self.enable_writeback_cache:
                self.losses.note(handle.number)
            raise
        COUNTERS.bytes_written += written
        return written

    async def flush(self, fh: int) -> None:
        """Decline for good; see the module's text."""
        raise FUSEError(errno.ENOSYS)

    @request
    async def fsync(self, fh: int, datasync: bool) -> None:  # noqa: FBT001 - pyfuse3's signature
        """Make the file durable, and with it everything done before."""
        await self._sync()

    @request
    async def release(self, fh: int) -> None:
        """Close a handle."""
        self._handles.close(fh)

    # --------------------------------------------------------------- directories

    @request
    async def opendir(self, inode: int, ctx: Ctx) -> int:
        """Open a directory. Nothing but its number is kept, however many names it has."""
        number, at = self._views.place(inode)
        return self._handles.open(number, view_of(inode), at, Caller(ctx.uid, ctx.gid, ctx.pid, b""))

    @request
    async def readdir(self, fh: int, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        """List a directory from a cookie on, with attributes, as far as the kernel's buffer goes.

        "." and ".." have cookies 1 and 2; the kernel does not count them as lookups.
        """
        handle = self._handles[fh]
        accepted = 0
        for cookie, name, (view, inode), timeout in self._listing(handle, start_id):
            if view == LIVE:
                entry = self._attributes.build(inode, entry_timeout=timeout)
            else:
                entry = attributes(inode, view, entry_timeout=timeout)
            if not pyfuse3.readdir_reply(token, name, entry, cookie):
                self._views.forget(view, 0)
                break
            if cookie > _DOTDOT:
                self._count(inode.number, view)
                accepted += 1
        handle.batch = max(_BATCH_MIN, accepted + 1)

    def _listing(self, handle: Handle, after: int) -> Iterator[_Line]:
        """Yield the lines of a directory after a cookie."""
        view, number = handle.view, handle.number
        st_ino = view << VIEW_SHIFT | number
        if after < _DOT:
            yield _DOT, b".", self._seen(st_ino, b"."), 0.0
        if after < _DOTDOT:
            yield _DOTDOT, b"..", self._seen(st_ino, b".."), 0.0
        after = max(after, _DOTDOT)
        if view == SNAPSHOTS_VIEW:
            for cookie, name, seen in self._views.snapshots(number, after):
                yield cookie, name, seen, 0.0
            return
        while True:
            entries = self._fs.readdir(number, after, handle.batch, at=handle.at)
            for after, name, inode in entries:
                yield after, name, Seen(view, inode), CACHED_S
            if len(entries) < handle.batch:
                return

    def _seen(self, st_ino: int, name: bytes) -> Seen:
        if st_ino > INODE_MAX:
            return self._views.lookup(st_ino, name)
        return Seen(LIVE, self._fs.lookup(st_ino, name))

    @request
    async def fsyncdir(self, fh: int, datasync: bool) -> None:  # noqa: FBT001 - pyfuse3's signature
        """Make the directory durable, and with it everything done before."""
        await self._sync()

    @request
    async def releasedir(self, fh: int) -> None:
        """Close a handle."""
        self._handles.close(fh)

    @request
    async def statfs(self, ctx: Ctx) -> pyfuse3.StatvfsData:
        """Tell how much is used and free."""
        return statistics(self._fs.usage(), self._host_free()[0])

    # -------------------------------------------------------- extended attributes

    @request
    async def getxattr(self, inode: int, name: bytes, ctx: Ctx) -> bytes:
        """Return an attribute. The kernel asks for `security.capability` before every write."""
        if inode > INODE_MAX:
            return self._views.getxattr(inode, name)
        return self._fs.getxattr(inode, name)

    @request
    async def setxattr(self, inode: int, name: bytes, value: bytes, ctx: Ctx) -> None:
        """Set an attribute. Who may use which namespace, the kernel has checked (xattr(7))."""
        refuse_change(inode)
        self._fs.setxattr(inode, name, value, self._caller(ctx))

    @request
    async def listxattr(self, inode: int, ctx: Ctx) -> list[bytes]:
        """Return the names of attributes; `trusted` ones only to root, as every filesystem does itself."""
        names = self._fs.listxattr(inode) if inode <= INODE_MAX else self._views.listxattr(inode)
        return [name for name in names if ctx.uid == 0 or not name.startswith(b"trusted.")]

    @request
    async def removexattr(self, inode: int, name: bytes, ctx: Ctx) -> None:
        """Remove an attribute."""
        refuse_change(inode)
        self._fs.removexattr(inode, name, self._caller(ctx))


_DOT = 1
_DOTDOT = 2
_BATCH_MIN = 8
"""A buffer that a few long names fill says little about the next one."""
