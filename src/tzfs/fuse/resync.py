"""Telling the kernel what changed without a request of its own.

The kernel keeps names, attributes and pages of the live tree for a day, because as a rule nothing changes
behind it. A rollback does, and a change through the API. Three things are told, in this order, from a
thread, since each can wait for requests that the event loop must answer meanwhile:

1. Names that came, went or name something else, and the names of what changed, are dropped. An inode that
   nobody has open goes with its last name, and the next lookup brings it anew.
2. Attributes and pages of the inodes that stay are dropped.
3. With the writeback cache the kernel believes nobody about the size and the times of a regular file that is
   open. It believes its own truncate and utimensat. So these are made here, on the mount, with the values
   that hold already; the handler knows this thread and answers without doing anything.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import threading
from collections.abc import Iterable
from typing import NamedTuple

import pyfuse3

from tzfs.errors import NoEntry
from tzfs.filesystem import Filesystem
from tzfs.history import Paths, Restored
from tzfs.records import Inode

log = logging.getLogger(__name__)


class StaleCaches(NamedTuple):
    """What to tell: entries as (parent, name), inode numbers, and regular files with their paths."""

    entries: list[tuple[int, bytes]]
    inodes: list[int]
    files: list[tuple[bytes, Inode]]


def collect(fs: Filesystem, restored: Restored, known: Iterable[int], *, names: bool = True) -> StaleCaches:
    """Return what the kernel must be told of; `known` are the restored inodes that it knows.

    names: drop the names of what changed as well. Where only a few files changed that is too much: a shell
    in a directory whose name is dropped has lost its working directory. To be called where operations of the
    core are: it reads the live tree.
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
        path = paths.of(inode)
        if names and name is not None:
            entries.add((inode.parent, name))
        if inode.is_regular and path is not None:
            files.append((path, inode))
    return StaleCaches(sorted(entries), inodes, files)


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


class Resync:
    """Tells the kernel; `thread_id` is the thread that does so, 0 when none does."""

    def __init__(self, mountpoint: str) -> None:
        self._mountpoint = os.fsencode(mountpoint)
        self.thread_id = 0

    def run(self, stale: StaleCaches) -> None:
        """Tell the kernel all of `stale`. Blocks: in a thread only."""
        self.thread_id = threading.get_native_id()
        try:
            for parent, name in stale.entries:
                # FileNotFoundError: the kernel did not know it, so there is nothing to forget.
                with contextlib.suppress(FileNotFoundError):
                    pyfuse3.invalidate_entry(parent, name)
            for number in stale.inodes:
                with contextlib.suppress(FileNotFoundError):
                    pyfuse3.invalidate_inode(number)
            for path, inode in stale.files:
                self._restate(os.path.join(self._mountpoint, path), inode)  # noqa: PTH118 - bytes
        finally:
            self.thread_id = 0

    def _restate(self, path: bytes, inode: Inode) -> None:
        """Make the kernel take over size and times of one file."""
        try:
            if os.lstat(path).st_ino != inode.number:
                return
            os.truncate(path, inode.size)
            os.utime(path, ns=(inode.atime_ns, inode.mtime_ns), follow_symlinks=False)
        except OSError as error:
            log.info("the kernel was not told of %r: %s", path, error)
