"""A disk that remembers: a FUSE filesystem in memory that records what is written and synced, in order.

    python tests/support/recorder.py MOUNTPOINT TRACE     in a process of its own, until it is unmounted

What a power cut at any moment leaves is then replayed from the trace (tests/support/powercut.py), which is a
row of pickled tuples, see `Event`. Making a directory `mark.TEXT` in the root makes none but leaves a mark in
the trace: by it the program that is watched tells where it is.
"""

# ruff: noqa: ANN001, ANN201 the signatures are pyfuse3's

from __future__ import annotations

import errno
import os
import pickle
import stat
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyfuse3
import trio
from pyfuse3 import FUSEError

Event = tuple[Any, ...]
"""("make", number, is_directory), ("enter", parent, name, number), ("leave", parent, name),
("rename", parent, name, parent, name), ("write", number, offset, data), ("truncate", number, size),
("sync", number), ("mark", text)."""

MARK = b"mark."


@dataclass
class Node:
    """A file or a directory."""

    mode: int
    data: bytearray = field(default_factory=bytearray)
    entries: dict[bytes, int] = field(default_factory=dict)
    nlink: int = 1


class Recorder(pyfuse3.Operations):
    """The filesystem. Handles are inode numbers; what has no name stays, as it is a short run."""

    enable_writeback_cache = False

    def __init__(self, trace: Path) -> None:
        super().__init__()
        self._nodes = {pyfuse3.ROOT_INODE: Node(stat.S_IFDIR | 0o755)}
        self._next = pyfuse3.ROOT_INODE + 1
        self._trace = trace.open("wb")

    def record(self, *event: object) -> None:
        """Add to the trace."""
        pickle.dump(event, self._trace)

    def close(self) -> None:
        """End the trace."""
        self._trace.close()

    def _attributes(self, number: int) -> pyfuse3.EntryAttributes:
        node = self._nodes[number]
        entry = pyfuse3.EntryAttributes()
        entry.st_ino = number
        entry.st_mode = node.mode
        entry.st_nlink = node.nlink
        entry.st_uid, entry.st_gid = os.getuid(), os.getgid()
        entry.st_size = len(node.data)
        entry.st_blksize = 4096
        entry.st_blocks = (len(node.data) + 511) // 512
        entry.st_atime_ns = entry.st_mtime_ns = entry.st_ctime_ns = time.time_ns()
        return entry

    def _find(self, parent: int, name: bytes) -> int:
        number = self._nodes[parent].entries.get(name)
        if number is None:
            raise FUSEError(errno.ENOENT)
        return number

    def _enter(self, parent: int, name: bytes, mode: int) -> int:
        if name in self._nodes[parent].entries:
            raise FUSEError(errno.EEXIST)
        number, self._next = self._next, self._next + 1
        self._nodes[number] = Node(mode)
        self._nodes[parent].entries[name] = number
        self.record("make", number, stat.S_ISDIR(mode))
        self.record("enter", parent, name, number)
        return number

    async def lookup(self, parent_inode, name, ctx):
        return self._attributes(self._find(parent_inode, name))

    async def getattr(self, inode, ctx):
        return self._attributes(inode)

    async def setattr(self, inode, attr, fields, fh, ctx):
        node = self._nodes[inode]
        if fields.update_size:
            size = attr.st_size
            del node.data[size:]
            node.data.extend(bytes(size - len(node.data)))
            self.record("truncate", inode, size)
        if fields.update_mode:
            node.mode = stat.S_IFMT(node.mode) | stat.S_IMODE(attr.st_mode)
        return self._attributes(inode)

    async def create(self, parent_inode, name, mode, flags, ctx):
        number = self._enter(parent_inode, name, stat.S_IFREG | stat.S_IMODE(mode))
        return pyfuse3.FileInfo(fh=number), self._attributes(number)

    async def mkdir(self, parent_inode, name, mode, ctx):
        if parent_inode == pyfuse3.ROOT_INODE and name.startswith(MARK):
            self.record("mark", name[len(MARK) :].decode())
            raise FUSEError(errno.EPERM)
        return self._attributes(self._enter(parent_inode, name, stat.S_IFDIR | stat.S_IMODE(mode)))

    async def link(self, inode, new_parent_inode, new_name, ctx):
        self._nodes[new_parent_inode].entries[new_name] = inode
        self._nodes[inode].nlink += 1
        self.record("enter", new_parent_inode, new_name, inode)
        return self._attributes(inode)

    async def unlink(self, parent_inode, name, ctx):
        self._nodes[self._find(parent_inode, name)].nlink -= 1
        del self._nodes[parent_inode].entries[name]
        self.record("leave", parent_inode, name)

    async def rmdir(self, parent_inode, name, ctx):
        if self._nodes[self._find(parent_inode, name)].entries:
            raise FUSEError(errno.ENOTEMPTY)
        await self.unlink(parent_inode, name, ctx)

    async def rename(
        self,
        parent_inode_old,
        name_old,
        parent_inode_new,
        name_new,
        flags,
        ctx,
    ):
        number = self._find(parent_inode_old, name_old)
        del self._nodes[parent_inode_old].entries[name_old]
        self._nodes[parent_inode_new].entries[name_new] = number
        self.record("rename", parent_inode_old, name_old, parent_inode_new, name_new)

    async def open(self, inode, flags, ctx):
        if flags & os.O_TRUNC:
            self._nodes[inode].data.clear()
            self.record("truncate", inode, 0)
        return pyfuse3.FileInfo(fh=inode)

    async def read(self, fh, off, size):
        return bytes(self._nodes[fh].data[off : off + size])

    async def write(self, fh, off, buf):
        data = self._nodes[fh].data
        data.extend(bytes(max(0, off - len(data))))
        data[off : off + len(buf)] = buf
        self.record("write", fh, off, bytes(buf))
        return len(buf)

    async def flush(self, fh):
        pass

    async def release(self, fh):
        pass

    async def fsync(self, fh, datasync):
        self.record("sync", fh)

    async def fsyncdir(self, fh, datasync):
        self.record("sync", fh)

    async def opendir(self, inode, ctx):
        return inode

    async def releasedir(self, fh):
        pass

    async def readdir(self, fh, start_id, token):
        for at, (name, number) in enumerate(sorted(self._nodes[fh].entries.items()), start=1):
            if at > start_id and not pyfuse3.readdir_reply(token, name, self._attributes(number), at):
                return

    async def statfs(self, ctx):
        data = pyfuse3.StatvfsData()
        data.f_bsize = data.f_frsize = 4096
        data.f_blocks = data.f_bfree = data.f_bavail = 1 << 20
        data.f_files = data.f_ffree = data.f_favail = 1 << 20
        data.f_namemax = 255
        return data


def main() -> None:
    """Serve until unmounted."""
    mountpoint, trace = sys.argv[1:]
    recorder = Recorder(Path(trace))
    pyfuse3.init(recorder, mountpoint, {"fsname=recorder", "default_permissions"})
    try:
        trio.run(pyfuse3.main)
    finally:
        pyfuse3.close(unmount=True)
        recorder.close()


if __name__ == "__main__":
    main()
