"""Telling the kernel what changed without a request of its own.

The kernel keeps names, attributes and pages of the live tree for a day, because as a rule nothing changes
behind it. A rollback does, and a change through the API. Three things are told, in this order, from a
thread, since each can wait for requests that the event loop must answer meanwhile:

1. Names that came, went or name something else, and the names of what changed, are dropped. An inode that
   nobody has open goes with its last name, and the next lookup brings it anew.
2. Attributes, and pages if they changed, of the inodes that stay are dropped.
3. With the writeback cache the kernel believes nobody about the size and the times of a regular file that it
   knows. It believes its own truncate, utimensat and chmod. So these are made here, on the mount, with the
   values that hold already. The handler knows them (`Resync.expects`).
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import stat
import threading
import time
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

import pyfuse3

from tzfs.errors import NoEntry
from tzfs.files import entry_of
from tzfs.filesystem import Filesystem
from tzfs.history import Paths, Restored
from tzfs.records import AttributeChanges, Inode

log = logging.getLogger(__name__)

NOW: Final = -(2**63)
"""As the mtime_ns of a step: whatever it is when the step is made."""


class StaleCaches(NamedTuple):
    """What to tell: entries as (parent, name), inode numbers, and regular files with their paths.

    content: not only attributes of the inodes changed, but pages, sizes and times.
    """

    entries: list[tuple[int, bytes]]
    inodes: list[int]
    files: list[tuple[bytes, Inode]]
    content: bool


def collect(
    fs: Filesystem,
    restored: Restored,
    known: Iterable[int],
    names: Mapping[int, tuple[int, bytes]] = MappingProxyType({}),
    *,
    content: bool = True,
) -> StaleCaches:
    """Return what the kernel must be told of; `known` are the restored inodes that it knows.

    names: entries of inodes that do not know their own.

    content: drop all of them, and their names as well. Where only a few files changed that is too much: a
    shell in a directory whose name is dropped has lost its working directory. To be called where operations
    of the core are: it reads the live tree.
    """
    paths = Paths(fs.versions.live, fs.directories)
    entries, inodes, files = set(restored.entries), [], []
    for number in known:
        inodes.append(number)
        try:
            inode = fs.getattr(number)
        except NoEntry:
            continue
        name = fs.directories.name_of(fs.versions.live, inode) if inode.parent else None
        entry = names.get(number) if name is None else (inode.parent, name)
        path = paths.of(inode) if entry is None else paths.join(*entry)
        if content and entry is not None:
            entries.add(entry)
        if inode.is_regular and path is not None:
            files.append((path, inode))
    return StaleCaches(sorted(entries), inodes, files, content)


def path_of(fs: Filesystem, inode: Inode, asked: str | None) -> bytes | None:
    """Return a path of a live inode, by the name that it knows or by the path that somebody `asked` for.

    An inode knows one of its names. When that goes, the others still lead to it. None: no way is known.
    """
    paths = Paths(fs.versions.live, fs.directories)
    path = paths.of(inode)
    if path is None and asked is not None:
        entry = entry_of(fs, asked, inode.number)
        path = None if entry is None else paths.join(*entry)
    return path


def write_out(numbers: Iterable[int]) -> None:
    """Have the kernel write its dirty pages of these inodes, and return when it has. In a thread only.

    Invalidating pages writes those that are dirty first, see `Daemon._wait_for_writing`.
    """
    for number in numbers:
        try:
            pyfuse3.invalidate_inode(number)
        except OSError as error:
            # EBUSY: written, but dirty again at once. ENOENT: the kernel has dropped the inode.
            if error.errno not in (errno.EBUSY, errno.ENOENT):
                raise


def store(number: int, offset: int, data: bytes) -> None:
    """Put content into the kernel's pages of an inode, and make it as large as that needs. In a thread only.

    Pages that a program has dirtied stay dirty and keep what else they hold.
    """
    try:
        pyfuse3.notify_store(number, offset, data)
    except FileNotFoundError:
        pass  # the kernel has dropped the inode
    except OSError as error:
        log.info("the kernel did not take content of inode %d: %s", number, error)
        write_out([number])


class Resync:
    """Tells the kernel. `thread_id` is the thread that does so, 0 when none does."""

    def __init__(self, mountpoint: str) -> None:
        self._mountpoint = os.fsencode(mountpoint)
        self._step: tuple[int, AttributeChanges] | None = None
        self.thread_id = 0
        self.unlocked = 0
        """The inode that the kernel is to take for one that its owner may write, 0 for none."""

    def run(self, stale: StaleCaches) -> None:
        """Tell the kernel all of `stale`. Blocks: in a thread only."""
        for parent, name in stale.entries:
            # FileNotFoundError: the kernel did not know it, so there is nothing to forget.
            with contextlib.suppress(FileNotFoundError):
                pyfuse3.invalidate_entry(parent, name)
        for number in stale.inodes:
            with contextlib.suppress(FileNotFoundError):
                pyfuse3.invalidate_inode(number, attr_only=not stale.content)
        for path, inode in stale.files:
            steps = [AttributeChanges(mode=inode.mode)]  # for the sake of ctime
            if stale.content:
                times = AttributeChanges(atime_ns=inode.atime_ns, mtime_ns=inode.mtime_ns)
                steps = [AttributeChanges(size=inode.size), times]
            try:
                self.make(path, inode.number, steps)
            except OSError as error:
                log.info("the kernel was not told of %r: %s", path, error)

    def make(self, path: bytes, number: int, steps: list[AttributeChanges]) -> bool:
        """Make setattrs on the mount; tell whether the path led to the inode. Blocks: in a thread only.

        A step has a size, or a mode, or atime_ns and mtime_ns. Raises OSError for one that is refused.
        """
        self.thread_id = threading.get_native_id()
        try:
            # A descriptor of this kind opens nothing, so it needs no permission, and it stays with its inode.
            descriptor = os.open(
                os.path.join(self._mountpoint, path),  # noqa: PTH118 - bytes
                os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC,
            )
            try:
                if os.fstat(descriptor).st_ino != number:
                    return False
                for step in steps:
                    self._make(f"/proc/self/fd/{descriptor}", number, step)
            finally:
                os.close(descriptor)
        except FileNotFoundError:
            return False
        finally:
            self.thread_id, self._step = 0, None
        return True

    def _make(self, file: str, number: int, step: AttributeChanges) -> None:
        if step.mtime_ns == NOW:
            step = step._replace(mtime_ns=time.time_ns())
        self._step = number, step
        if step.size is not None:
            try:
                os.truncate(file, step.size)
            except PermissionError:
                self._truncate_unwritable(file, number, step)
        elif step.mode is not None:
            os.chmod(file, step.mode & 0o7777)  # noqa: PTH101 - not a path, a descriptor
        else:
            assert step.atime_ns is not None
            assert step.mtime_ns is not None
            os.utime(file, ns=(step.atime_ns, step.mtime_ns))

    def _truncate_unwritable(self, file: str, number: int, step: AttributeChanges) -> None:
        """Give another size to a file that its owner may not write: only root is let past its mode.

        The owner may always change the mode, so a daemon of this user asks for that, and the kernel is told
        that it was done; the file itself keeps the mode that it has.
        """
        assert step.size is not None
        mode = stat.S_IMODE(os.stat(file).st_mode)  # noqa: PTH116 - not a path, a descriptor
        if mode & stat.S_IWUSR:
            raise PermissionError(errno.EPERM, "the file is of another user")
        try:
            self.unlocked, self._step = number, (number, AttributeChanges(mode=mode))
            os.chmod(file, mode | stat.S_IWUSR)  # noqa: PTH101 - not a path, a descriptor
            self._step = number, step
            os.truncate(file, step.size)
        finally:
            self.unlocked, self._step = 0, (number, AttributeChanges(mode=mode))
            os.chmod(file, mode)  # noqa: PTH101 - not a path, a descriptor

    def expects(self, number: int, asked: AttributeChanges) -> bool:
        """Tell whether a setattr of our thread is the step under way.

        The kernel does other things in its name as well: before most setattrs it writes what it holds dirty,
        pages and times.
        """
        if self._step is None or self._step[0] != number:
            return False
        step = self._step[1]
        if step.size is not None:
            return asked.size == step.size
        if step.mode is not None:
            return asked.mode is not None
        return asked.mtime_ns == step.mtime_ns
