"""Who has a filesystem open right now: its lock and its mount record.

Two files in the filesystem's directory. `lock` carries two advisory locks that the kernel drops
when their process ends, however it ends:

    byte 0    held by the one process that may open the database
    byte 1    held by a daemon from the moment its mount answers: `mount.json` is true

On a read-only disk, which nobody can write in, the lock of byte 0 is a shared one, and nothing is announced.

So a `mount.json` left by a killed daemon is never believed, and no test of a pid is needed, which
another process may have by now. The locks belong to the open file description (F_OFD_SETLK,
fcntl(2)): a second look from the same process neither drops nor hides them, as POSIX locks would,
and the look itself (F_OFD_GETLK) takes nothing.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

from tzfs.closing import Closing

LOCK_NAME: Final = "lock"
MOUNT_NAME: Final = "mount.json"
RETRY_S: Final = 0.02
"""Between two tries at a lock that somebody holds; the kernel can wait, but not with a deadline."""

_OPENED: Final = 0
_MOUNTED: Final = 1
_FLOCK = struct.Struct("hhqqi4x")
"""struct flock of 64-bit Linux: type, whence, start, len, pid."""


class MountRecord(NamedTuple):
    """Where a filesystem is mounted, and by whom. started_ns: since 1970."""

    mountpoint: str
    pid: int
    started_ns: int
    read_only: bool


def _request(kind: int, byte: int) -> bytes:
    """Return a struct flock for one byte; an OFD lock wants pid 0."""
    return _FLOCK.pack(kind, os.SEEK_SET, byte, 1, 0)


class DirectoryLock(Closing):
    """The right to open a filesystem's database; held until `close` or the end of the process.

    read_only: the disk is, and so must the database be opened; others may have it open in the same way.
    """

    def __init__(self, directory: Path, descriptor: int, *, read_only: bool = False) -> None:
        """Use `try_lock` or `lock`."""
        self.directory = directory
        self.read_only = read_only
        self._descriptor = descriptor

    def announce(self, record: MountRecord) -> None:
        """Publish that the mount answers; others see it until `withdraw` or the end of the process."""
        if self.read_only:
            return
        path = self.directory / MOUNT_NAME
        fresh = path.with_suffix(".new")
        fresh.write_text(json.dumps(record._asdict()) + "\n")
        fresh.replace(path)
        fcntl.fcntl(self._descriptor, fcntl.F_OFD_SETLK, _request(fcntl.F_WRLCK, _MOUNTED))

    def withdraw(self) -> None:
        """Take the announcement back."""
        if self.read_only:
            return
        fcntl.fcntl(self._descriptor, fcntl.F_OFD_SETLK, _request(fcntl.F_UNLCK, _MOUNTED))
        (self.directory / MOUNT_NAME).unlink(missing_ok=True)

    def close(self) -> None:
        """Let the next process have it; a second call does nothing."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def try_lock(directory: Path) -> DirectoryLock | None:
    """Lock the filesystem in `directory`, or return None because another process has it."""
    try:
        descriptor = os.open(directory / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno != errno.EROFS:
            raise
        return _try_shared_lock(directory)
    try:
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, _request(fcntl.F_WRLCK, _OPENED))
    except (BlockingIOError, PermissionError):  # EAGAIN or EACCES, fcntl(2)
        os.close(descriptor)
        return None
    # Whose it is, for the message to those who wait; not relied upon.
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, b"%d\n" % os.getpid(), 0)
    return DirectoryLock(directory, descriptor)


def _try_shared_lock(directory: Path) -> DirectoryLock | None:
    """Do as `try_lock` on a read-only disk; a writer who reaches the same file elsewhere is kept out, too."""
    descriptor = os.open(directory / LOCK_NAME, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, _request(fcntl.F_RDLCK, _OPENED))
    except (BlockingIOError, PermissionError):
        os.close(descriptor)
        return None
    return DirectoryLock(directory, descriptor, read_only=True)


def lock(
    directory: Path, *, wait_s: float, give_up: Callable[[], bool] = lambda: False
) -> DirectoryLock | None:
    """Lock the filesystem, waiting up to `wait_s` seconds while another process has it.

    umount(8) returns before the daemon has exited, so whoever comes next must be ready to wait.
    None: the time is over, or `give_up` said that waiting is pointless.
    """
    deadline = time.monotonic() + wait_s
    while (held := try_lock(directory)) is None:
        if give_up() or time.monotonic() >= deadline:
            return None
        time.sleep(RETRY_S)
    return held


def _is_held(directory: Path, byte: int) -> bool:
    """Tell whether somebody holds a byte of the lock, without touching it."""
    try:
        descriptor = os.open(directory / LOCK_NAME, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        answer = fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, _request(fcntl.F_WRLCK, byte))
    finally:
        os.close(descriptor)
    return bool(_FLOCK.unpack(answer)[0] != fcntl.F_UNLCK)


def is_open(directory: Path) -> bool:
    """Tell whether some process has the filesystem open."""
    return _is_held(directory, _OPENED)


def holder_pid(directory: Path) -> int | None:
    """Return the pid that the last holder of the lock wrote: a hint for messages, no more."""
    try:
        return int((directory / LOCK_NAME).read_text())
    except (OSError, ValueError):
        return None


def last_mount(directory: Path) -> MountRecord | None:
    """Return the mount record, true or left behind."""
    try:
        return MountRecord(**json.loads((directory / MOUNT_NAME).read_text()))
    except (OSError, ValueError, TypeError):
        return None


def current_mount(directory: Path) -> MountRecord | None:
    """Return where the filesystem is mounted, or None if no living daemon says that it is."""
    return last_mount(directory) if _is_held(directory, _MOUNTED) else None
