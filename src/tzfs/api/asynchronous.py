"""The API for trio: the same classes, each call made in a thread and awaited.

    async with await tzfs.AsyncStore.open() as store:
        async with await store.open_filesystem("lab") as fs:
            await fs.write_text("a", "hello")

The methods are made from those of `Store`, `Tree` and `Filesystem`: arguments, results, errors, what is
atomic and what is durable are theirs. Written out is only what gives something that must be awaited in turn.

Cancelled before it has begun, a call does nothing; once begun it is carried out, and the cancellation comes
after it. So none is half done, and none goes on unseen. What closes is carried out in any case.
"""

from __future__ import annotations

import functools
import os
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import IO, TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, TypeVar

import trio

from tzfs.api.filesystem import Filesystem, Snapshot, SnapshotName
from tzfs.api.store import Store
from tzfs.api.tree import Entry, PathLike, Tree

if TYPE_CHECKING:
    from trio._file_io import AsyncIOWrapper  # what `trio.open_file` returns; it has no public name

P = ParamSpec("P")
R = TypeVar("R")
T_co = TypeVar("T_co", covariant=True)
TreeT_co = TypeVar("TreeT_co", bound=Tree, covariant=True)


class _Twin(trio.abc.AsyncResource, Generic[T_co]):
    """Has the object whose methods it runs in threads, one at a time: more would wait for its lock."""

    def __init__(self, inner: T_co, limiter: trio.CapacityLimiter | None = None) -> None:
        """Run the methods of `inner`, as many at a time as `limiter` lets, by default one."""
        self._inner = inner
        self._limiter = limiter or trio.CapacityLimiter(1)

    async def _run(self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        call = functools.partial(function, *args, **kwargs)
        return await trio.to_thread.run_sync(call, limiter=self._limiter)

    async def aclose(self) -> None:
        """Do nothing: there is nothing to let go of."""
        await trio.lowlevel.checkpoint()

    def __repr__(self) -> str:
        """Return what the object itself says, marked."""
        return f"<Async{repr(self._inner).removeprefix('<')}"


def _twin(
    method: Callable[Concatenate[T_co, P], R],
) -> Callable[Concatenate[_Twin[T_co], P], Coroutine[Any, Any, R]]:
    """Return a method that runs `method` in a thread."""

    async def run(self: _Twin[T_co], /, *args: P.args, **kwargs: P.kwargs) -> R:
        return await self._run(method, self._inner, *args, **kwargs)

    functools.update_wrapper(run, method)
    return run


class AsyncTree(_Twin[TreeT_co]):
    """What can be read, see `Tree`: as atomic and as durable. `scandir` gives a list."""

    stat = _twin(Tree.stat)
    lstat = _twin(Tree.lstat)
    exists = _twin(Tree.exists)
    is_dir = _twin(Tree.is_dir)
    is_file = _twin(Tree.is_file)
    is_symlink = _twin(Tree.is_symlink)
    readlink = _twin(Tree.readlink)
    listdir = _twin(Tree.listdir)
    read_bytes = _twin(Tree.read_bytes)
    read_text = _twin(Tree.read_text)
    getxattr = _twin(Tree.getxattr)
    listxattr = _twin(Tree.listxattr)

    async def scandir(self, path: PathLike = "/") -> list[Entry]:
        """Return the entries of a directory, see `Tree.scandir`: 1,000 of them are one look."""
        return await self._run(lambda: list(self._inner.scandir(path)))

    async def walk(self, top: PathLike = "/") -> AsyncIterator[tuple[str, list[str], list[str]]]:
        """Yield what `Tree.walk` yields, one look for each directory."""
        steps = self._inner.walk(top)
        while (step := await self._run(next, steps, None)) is not None:
            yield step

    async def open(
        self,
        path: PathLike,
        mode: str = "r",
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
    ) -> AsyncIOWrapper[IO[Any]]:
        """Open a file, see `Tree.open`; what comes back is as `trio.open_file` has it."""
        return trio.wrap_file(
            await self._run(self._inner.open, path, mode, buffering, encoding, errors, newline)
        )


class AsyncSnapshot(AsyncTree[Snapshot]):
    """The tree as it was, atomic and durable, see `Snapshot`. An `async with` leaves it where it is."""

    def __init__(self, inner: Snapshot, limiter: trio.CapacityLimiter) -> None:
        """Use `AsyncFilesystem.snapshot`, `snapshots` or `at`. `txn` is what `diff` and the like take."""
        super().__init__(inner, limiter)
        self.txn, self.labels = inner.txn, inner.labels
        self.created, self.created_ns = inner.created, inner.created_ns


class AsyncFilesystem(AsyncTree[Filesystem]):
    """One filesystem, see `Filesystem`: as atomic and as durable. From `AsyncStore.open_filesystem`."""

    info = _twin(Filesystem.info)
    check = _twin(Filesystem.check)
    sync = _twin(Filesystem.sync)
    write_bytes = _twin(Filesystem.write_bytes)
    write_text = _twin(Filesystem.write_text)
    touch = _twin(Filesystem.touch)
    truncate = _twin(Filesystem.truncate)
    mkdir = _twin(Filesystem.mkdir)
    symlink = _twin(Filesystem.symlink)
    link = _twin(Filesystem.link)
    rename = _twin(Filesystem.rename)
    exchange = _twin(Filesystem.exchange)
    remove = _twin(Filesystem.remove)
    rmdir = _twin(Filesystem.rmdir)
    rmtree = _twin(Filesystem.rmtree)
    copy_in = _twin(Filesystem.copy_in)
    chmod = _twin(Filesystem.chmod)
    chown = _twin(Filesystem.chown)
    utime = _twin(Filesystem.utime)
    setxattr = _twin(Filesystem.setxattr)
    removexattr = _twin(Filesystem.removexattr)
    delete_snapshot = _twin(Filesystem.delete_snapshot)
    diff = _twin(Filesystem.diff)
    fork = _twin(Filesystem.fork)

    @property
    def name(self) -> str:
        """Its name in the store, as it was when it was opened."""
        return self._inner.name

    async def snapshot(self, label: str | None = None) -> AsyncSnapshot:
        """Keep the tree as it is now, see `Filesystem.snapshot`."""
        return self._of(await self._run(self._inner.snapshot, label))

    async def snapshots(self) -> list[AsyncSnapshot]:
        """Return all snapshots, oldest first."""
        return [self._of(found) for found in await self._run(self._inner.snapshots)]

    async def at(self, name: SnapshotName) -> AsyncSnapshot:
        """Return the snapshot of a number, a label, or "latest". `SnapshotMissing`."""
        return self._of(await self._run(self._inner.at, name))

    async def rollback(self, name: SnapshotName) -> AsyncSnapshot:
        """Make the tree what it was, see `Filesystem.rollback`; return the snapshot that undoes it."""
        return self._of(await self._run(self._inner.rollback, name))

    def _of(self, found: Snapshot) -> AsyncSnapshot:
        return AsyncSnapshot(found, self._limiter)

    async def aclose(self) -> None:
        """Sync and let go of the filesystem, even when cancelled; see `Filesystem.close`."""
        with trio.CancelScope(shield=True):
            await self._run(self._inner.close)
        await trio.lowlevel.checkpoint_if_cancelled()


class AsyncStore(_Twin[Store]):
    """The filesystems of one directory, see `Store`: changes are as atomic and as durable."""

    get = _twin(Store.get)
    list = _twin(Store.list)
    create = _twin(Store.create)
    fork = _twin(Store.fork)
    rename = _twin(Store.rename)
    archive = _twin(Store.archive)
    unarchive = _twin(Store.unarchive)
    delete = _twin(Store.delete)
    undelete = _twin(Store.undelete)
    purge = _twin(Store.purge)
    sweep = _twin(Store.sweep)

    @classmethod
    async def open(cls, path: str | os.PathLike[str] | None = None, *, create: bool = False) -> AsyncStore:
        """Open the store in directory `path`, see `Store.open`."""
        return cls(await trio.to_thread.run_sync(functools.partial(Store.open, path, create=create)))

    async def open_filesystem(self, name: str) -> AsyncFilesystem:
        """Open a filesystem, see `Store.open_filesystem`."""
        return AsyncFilesystem(await self._run(self._inner.open_filesystem, name))
