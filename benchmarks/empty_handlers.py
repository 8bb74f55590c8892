"""The limit of the stack: a filesystem in memory whose handlers do next to nothing, but answer rightly.

Same pyfuse3, same request loop, same timeouts, same writeback cache, same permissions as tzfs: what tzfs
takes longer than this is tzfs's own. Attributes are built once an inode, and nothing is kept on disk.

    python -m benchmarks.empty_handlers DIR    mounts on DIR and stays until it is unmounted
"""

from __future__ import annotations

import errno
import gc
import itertools
import os
import stat
import sys
import time
from collections.abc import Sequence

import pyfuse3
import trio
from pyfuse3 import EntryAttributes, FileInfo, FUSEError, RequestContext

from tzfs.fuse import loop

POLL_US = 60
CACHED_S = 86400.0
_RENAME_EXCHANGE = 2


class Node:
    """An inode: the kernel's struct, made once, and what is in it."""

    __slots__ = ("data", "entry", "names", "parent", "target", "xattrs")

    def __init__(self, number: int, mode: int, ctx: RequestContext | None) -> None:
        entry = EntryAttributes()
        entry.st_ino = number
        entry.st_mode = mode
        entry.st_nlink = 2 if stat.S_ISDIR(mode) else 1
        entry.st_uid = ctx.uid if ctx else os.getuid()
        entry.st_gid = ctx.gid if ctx else os.getgid()
        entry.st_blksize = 4096
        entry.st_atime_ns = entry.st_mtime_ns = entry.st_ctime_ns = time.time_ns()
        entry.entry_timeout = entry.attr_timeout = CACHED_S
        self.entry = entry
        self.parent = self
        self.names: dict[bytes, Node] = {}
        self.data = bytearray()
        self.target = b""
        self.xattrs: dict[bytes, bytes] = {}

    def resize(self, size: int) -> None:
        """Cut or fill up with zeros."""
        missing = size - len(self.data)
        if missing > 0:
            self.data.extend(bytes(missing))
        else:
            del self.data[size:]
        self.entry.st_size = size
        self.entry.st_blocks = (size + 511) // 512


class EmptyHandlers(pyfuse3.Operations):
    """The handlers. What is unlinked stays until the kernel forgets it."""

    enable_writeback_cache = True

    def __init__(self) -> None:
        super().__init__()
        self._numbers = itertools.count(pyfuse3.ROOT_INODE)
        self._nodes: dict[int, Node] = {}
        self._make(stat.S_IFDIR | 0o755, None)
        self._handles: dict[int, Node] = {}
        self._listings: dict[int, list[tuple[bytes, Node]]] = {}
        self._next_handle = itertools.count(1)
        self._missing = EntryAttributes()
        self._missing.st_ino = 0
        self._missing.entry_timeout = CACHED_S

    def _make(self, mode: int, ctx: RequestContext | None) -> Node:
        node = Node(next(self._numbers), mode, ctx)
        self._nodes[node.entry.st_ino] = node
        return node

    def _add(self, parent_inode: int, name: bytes, mode: int, ctx: RequestContext) -> Node:
        parent = self._nodes[parent_inode]
        if name in parent.names:
            raise FUSEError(errno.EEXIST)
        node = parent.names[name] = self._make(mode, ctx)
        if stat.S_ISDIR(mode):
            node.parent = parent
            parent.entry.st_nlink += 1
        return node

    def _drop(self, parent: Node, name: bytes) -> None:
        node = parent.names.pop(name)
        node.entry.st_nlink -= 1
        if stat.S_ISDIR(node.entry.st_mode):
            node.entry.st_nlink = 0
            parent.entry.st_nlink -= 1

    def _child(self, parent_inode: int, name: bytes) -> tuple[Node, Node]:
        parent = self._nodes[parent_inode]
        node = parent.names.get(name)
        if node is None:
            raise FUSEError(errno.ENOENT)
        return parent, node

    # ------------------------------------------------------------ names and attributes

    async def lookup(self, parent_inode: int, name: bytes, ctx: RequestContext) -> EntryAttributes:
        node = self._nodes[parent_inode].names.get(name)
        return self._missing if node is None else node.entry

    async def forget(self, inode_list: Sequence[tuple[int, int]]) -> None:
        for number, _ in inode_list:
            node = self._nodes.get(number)
            if node is not None and not node.entry.st_nlink:
                del self._nodes[number]

    async def getattr(self, inode: int, ctx: RequestContext) -> EntryAttributes:
        return self._nodes[inode].entry

    async def setattr(
        self,
        inode: int,
        attr: EntryAttributes,
        fields: pyfuse3.SetattrFields,
        fh: int | None,
        ctx: RequestContext,
    ) -> EntryAttributes:
        node = self._nodes[inode]
        entry = node.entry
        if fields.update_size:
            node.resize(attr.st_size)
        if fields.update_mode:
            entry.st_mode = stat.S_IFMT(entry.st_mode) | stat.S_IMODE(attr.st_mode)
        if fields.update_uid:
            entry.st_uid = attr.st_uid
        if fields.update_gid:
            entry.st_gid = attr.st_gid
        if fields.update_atime:
            entry.st_atime_ns = attr.st_atime_ns
        if fields.update_mtime:
            entry.st_mtime_ns = attr.st_mtime_ns
        entry.st_ctime_ns = attr.st_ctime_ns if fields.update_ctime else time.time_ns()
        return entry

    async def readlink(self, inode: int, ctx: RequestContext) -> bytes:
        return self._nodes[inode].target

    async def access(self, inode: int, mode: int, ctx: RequestContext) -> bool:
        return True

    # ------------------------------------------------------------ making and removing

    async def mknod(
        self, parent_inode: int, name: bytes, mode: int, rdev: int, ctx: RequestContext
    ) -> EntryAttributes:
        return self._add(parent_inode, name, mode, ctx).entry

    async def create(
        self, parent_inode: int, name: bytes, mode: int, flags: int, ctx: RequestContext
    ) -> tuple[FileInfo, EntryAttributes]:
        node = self._add(parent_inode, name, stat.S_IFREG | stat.S_IMODE(mode), ctx)
        return self._open(node), node.entry

    async def mkdir(self, parent_inode: int, name: bytes, mode: int, ctx: RequestContext) -> EntryAttributes:
        return self._add(parent_inode, name, stat.S_IFDIR | stat.S_IMODE(mode), ctx).entry

    async def symlink(
        self, parent_inode: int, name: bytes, target: bytes, ctx: RequestContext
    ) -> EntryAttributes:
        node = self._add(parent_inode, name, stat.S_IFLNK | 0o777, ctx)
        node.target = target
        node.entry.st_size = len(target)
        return node.entry

    async def link(
        self, inode: int, new_parent_inode: int, new_name: bytes, ctx: RequestContext
    ) -> EntryAttributes:
        names = self._nodes[new_parent_inode].names
        if new_name in names:
            raise FUSEError(errno.EEXIST)
        node = names[new_name] = self._nodes[inode]
        node.entry.st_nlink += 1
        return node.entry

    async def unlink(self, parent_inode: int, name: bytes, ctx: RequestContext) -> None:
        self._drop(self._child(parent_inode, name)[0], name)

    async def rmdir(self, parent_inode: int, name: bytes, ctx: RequestContext) -> None:
        parent, node = self._child(parent_inode, name)
        if node.names:
            raise FUSEError(errno.ENOTEMPTY)
        self._drop(parent, name)

    async def rename(
        self,
        parent_inode_old: int,
        name_old: bytes,
        parent_inode_new: int,
        name_new: bytes,
        flags: int,
        ctx: RequestContext,
    ) -> None:
        source, node = self._child(parent_inode_old, name_old)
        goal = self._nodes[parent_inode_new]
        there = goal.names.get(name_new)
        if flags == _RENAME_EXCHANGE and there is not None:
            source.names[name_old], goal.names[name_new] = there, node
            return
        if there is node:
            return
        if there is not None:
            if flags:
                raise FUSEError(errno.EEXIST)
            if there.names:
                raise FUSEError(errno.ENOTEMPTY)
            self._drop(goal, name_new)
        goal.names[name_new] = source.names.pop(name_old)
        if stat.S_ISDIR(node.entry.st_mode):
            node.parent = goal
            source.entry.st_nlink -= 1
            goal.entry.st_nlink += 1

    # ------------------------------------------------------------ files

    def _open(self, node: Node) -> FileInfo:
        fh = next(self._next_handle)
        self._handles[fh] = node
        return FileInfo(fh=fh, keep_cache=True)

    async def open(self, inode: int, flags: int, ctx: RequestContext) -> FileInfo:
        node = self._nodes[inode]
        if flags & os.O_TRUNC:
            node.resize(0)
        return self._open(node)

    async def read(self, fh: int, off: int, size: int) -> bytes:
        return bytes(memoryview(self._handles[fh].data)[off : off + size])

    async def write(self, fh: int, off: int, buf: bytes) -> int:
        node = self._handles[fh]
        if off > len(node.data):
            node.resize(off)
        node.data[off : off + len(buf)] = buf
        node.entry.st_size = len(node.data)
        node.entry.st_blocks = (len(node.data) + 511) // 512
        return len(buf)

    async def flush(self, fh: int) -> None:
        raise FUSEError(errno.ENOSYS)

    async def fsync(self, fh: int, datasync: bool) -> None:  # noqa: FBT001 - pyfuse3's signature
        return None

    async def release(self, fh: int) -> None:
        del self._handles[fh]

    # ------------------------------------------------------------ directories

    async def opendir(self, inode: int, ctx: RequestContext) -> int:
        fh = next(self._next_handle)
        node = self._nodes[inode]
        self._listings[fh] = [(b".", node), (b"..", node.parent), *node.names.items()]
        return fh

    async def readdir(self, fh: int, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        listing = self._listings[fh]
        for position in range(start_id, len(listing)):
            name, node = listing[position]
            if not pyfuse3.readdir_reply(token, name, node.entry, position + 1):
                return

    async def releasedir(self, fh: int) -> None:
        del self._listings[fh]

    async def fsyncdir(self, fh: int, datasync: bool) -> None:  # noqa: FBT001 - pyfuse3's signature
        return None

    async def statfs(self, ctx: RequestContext) -> pyfuse3.StatvfsData:
        data = pyfuse3.StatvfsData()
        data.f_bsize = data.f_frsize = 4096
        data.f_blocks = data.f_bfree = data.f_bavail = 1 << 30
        data.f_files = data.f_ffree = data.f_favail = 1 << 30
        data.f_namemax = 255
        return data

    # ------------------------------------------------------------ extended attributes

    async def getxattr(self, inode: int, name: bytes, ctx: RequestContext) -> bytes:
        value = self._nodes[inode].xattrs.get(name)
        if value is None:
            raise FUSEError(pyfuse3.ENOATTR)
        return value

    async def setxattr(self, inode: int, name: bytes, value: bytes, ctx: RequestContext) -> None:
        self._nodes[inode].xattrs[name] = value

    async def listxattr(self, inode: int, ctx: RequestContext) -> list[bytes]:
        return list(self._nodes[inode].xattrs)

    async def removexattr(self, inode: int, name: bytes, ctx: RequestContext) -> None:
        if self._nodes[inode].xattrs.pop(name, None) is None:
            raise FUSEError(pyfuse3.ENOATTR)


def main(directory: str) -> None:
    """Mount on `directory` and serve until it is unmounted."""
    loop.install(POLL_US)
    pyfuse3.init(EmptyHandlers(), directory, {"fsname=empty", "subtype=empty", "default_permissions"})
    gc.collect()
    gc.freeze()
    try:
        trio.run(pyfuse3.main)
    finally:
        pyfuse3.close(unmount=True)


if __name__ == "__main__":
    main(sys.argv[1])
