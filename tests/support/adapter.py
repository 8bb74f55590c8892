"""The handlers over a filesystem in memory, as the tests of the adapter call them."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable

import pyfuse3
from pyfuse3 import FUSEError

from support.faults import Instead
from support.kernel import Context, ReaddirBuffer
from tzfs.filesystem import Filesystem
from tzfs.fuse.operations import Operations
from tzfs.fuse.views import SNAPSHOTS_VIEW, VIEW_SHIFT
from tzfs.kv import MemoryStore

ROOT = pyfuse3.ROOT_INODE
SNAPSHOTS = SNAPSHOTS_VIEW << VIEW_SHIFT | ROOT
CTX = Context(uid=1000, gid=1000, pid=os.getpid())


class Mount:
    """Operations over a filesystem, with what a daemon would give them."""

    def __init__(self, *, writeback: bool = True, read_only: bool = False) -> None:
        self.store = MemoryStore()
        Filesystem.format(self.store, uid=1000, gid=1000)
        self.fs = Filesystem(self.store, read_only=read_only)
        self.calls: list[str] = []
        self.ops = Operations(
            self.fs,
            sync=self._sync,
            flush=self._flush,
            host_free=lambda: (4096000, 8192000),
            writeback=writeback,
        )

    def replace(self, **methods: Callable[..., object]) -> None:
        """Let the handlers call other methods than the filesystem's own."""
        self.ops._fs = Instead(self.fs, **methods)

    async def _sync(self) -> None:
        self.calls.append("sync")

    async def _flush(self) -> None:
        self.calls.append(f"flush in txn {self.fs.txn}")

    async def create(self, name: bytes, data: bytes = b"", parent: int = ROOT) -> int:
        """Make a closed file and return its inode."""
        info, entry = await self.ops.create(parent, name, 0o644, os.O_WRONLY, CTX)
        if data:
            await self.ops.write(info.fh, 0, data)
        await self.ops.release(info.fh)
        return entry.st_ino

    async def content(self, st_ino: int) -> bytes:
        """Read a file whole."""
        info = await self.ops.open(st_ino, os.O_RDONLY, CTX)
        data = await self.ops.read(info.fh, 0, 1 << 20)
        await self.ops.release(info.fh)
        return data

    async def snapshot(self) -> int:
        """Take a snapshot and return the inode of its entrance at the root."""
        txn = (await self.ops.take_snapshot(None)).txn
        return (await self.ops.lookup(SNAPSHOTS, b"%d" % txn, CTX)).st_ino


class refused:  # noqa: N801 - reads as `pytest.raises`
    """Expect FUSEError with an errno."""

    def __init__(self, code: int) -> None:
        self._code = code

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        assert isinstance(error, FUSEError), f"not refused: {error!r}"
        assert errno.errorcode[error.errno] == errno.errorcode[self._code]
        return True


async def lines(mount: Mount, st_ino: int, buffer: ReaddirBuffer) -> list[bytes]:
    """List a directory as the kernel does, buffer by buffer, and return the names."""
    fh = await mount.ops.opendir(st_ino, CTX)
    names, after = [], 0
    while True:
        await mount.ops.readdir(fh, after, pyfuse3.ReaddirToken())
        taken = buffer.take()
        if not taken:
            break
        names += [line.name for line in taken]
        after = taken[-1].cookie
    await mount.ops.releasedir(fh)
    return names
