"""System calls that `os` does not offer, or offers only in part: each raises OSError with the errno."""

from __future__ import annotations

import ctypes
import os
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple, Self

_libc: Final = ctypes.CDLL(None, use_errno=True)

AT_FDCWD: Final = -100
AT_SYMLINK_NOFOLLOW: Final = 0x100
AT_SYMLINK_FOLLOW: Final = 0x400
AT_EMPTY_PATH: Final = 0x1000

RENAME_NOREPLACE: Final = 1
RENAME_EXCHANGE: Final = 2
RENAME_WHITEOUT: Final = 4

UTIME_NOW: Final = (1 << 30) - 1
UTIME_OMIT: Final = (1 << 30) - 2
"""utimensat(2): values of tv_nsec."""

O_TMPFILE: Final = os.O_TMPFILE

FALLOC_FL_KEEP_SIZE: Final = 1

CLOCK_REALTIME_COARSE: Final = 5
"""The clock by which the kernel stamps files; it moves some hundred times a second."""

F_OFD_SETLK: Final = 37

MS_RDONLY: Final = 1
MS_REMOUNT: Final = 32
MS_BIND: Final = 4096
MS_REC: Final = 16384
MS_PRIVATE: Final = 1 << 18
MNT_DETACH: Final = 2
CLONE_NEWNS: Final = 0x00020000

Path_ = bytes | str | Path


def _checked(result: int, what: object = None) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)
    return result


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


def renameat2(old: Path_, new: Path_, flags: int) -> None:
    """Rename with flags."""
    _checked(
        _libc.renameat2(AT_FDCWD, os.fsencode(old), AT_FDCWD, os.fsencode(new), ctypes.c_uint(flags)), old
    )


def link(old: Path_, new: Path_, *, follow: bool) -> None:
    """Make a link; where `os.link` may follow a symlink it leaves that to link(2), which does not."""
    flags = AT_SYMLINK_FOLLOW if follow else 0
    _checked(_libc.linkat(AT_FDCWD, os.fsencode(old), AT_FDCWD, os.fsencode(new), flags), old)


def utimensat(path: Path_, atime: int, mtime: int, *, follow: bool = True) -> None:
    """Set times: nanoseconds since 1970, or `NOW`, or `OMIT`."""
    times = (_Timespec * 2)(_timespec(atime), _timespec(mtime))
    flags = 0 if follow else AT_SYMLINK_NOFOLLOW
    _checked(_libc.utimensat(AT_FDCWD, os.fsencode(path), times, flags), path)


def futimens(descriptor: int, atime: int, mtime: int) -> None:
    """Set the times of an open file, as `utimensat` does."""
    _checked(_libc.futimens(descriptor, (_Timespec * 2)(_timespec(atime), _timespec(mtime))))


NOW: Final = -(1 << 80)
OMIT: Final = NOW - 1
"""For `utimensat`: numbers that are no time."""


def _timespec(value: int) -> _Timespec:
    if value == NOW:
        return _Timespec(0, UTIME_NOW)
    if value == OMIT:
        return _Timespec(0, UTIME_OMIT)
    return _Timespec(value // 10**9, value % 10**9)


def fallocate(descriptor: int, mode: int, offset: int, length: int) -> None:
    """Allocate by the system call: posix_fallocate(3) would write zeros where it is missing."""
    _checked(_libc.fallocate(descriptor, mode, ctypes.c_long(offset), ctypes.c_long(length)))


def wait_for_tick() -> None:
    """Return when the clock that stamps files is beyond this moment: what is changed next gets another time.

    One step of it is not enough: a file of ext4 that was looked at gets a finer stamp, and until the clock is
    beyond that one, the kernel stamps files of all filesystems with it (multigrain timestamps, Linux 6.13).
    """
    now = time.time_ns()
    while time.clock_gettime_ns(CLOCK_REALTIME_COARSE) <= now:
        pass


# ------------------------------------------------------------------------------------ file handles

_HANDLE_BYTES: Final = 128


class FileHandle(NamedTuple):
    """What name_to_handle_at(2) returns: the way by which an NFS server finds a file again."""

    type: int
    body: bytes


class _RawHandle(ctypes.Structure):
    _fields_ = (
        ("size", ctypes.c_uint),
        ("type", ctypes.c_int),
        ("body", ctypes.c_ubyte * _HANDLE_BYTES),
    )


def name_to_handle_at(path: Path_) -> FileHandle:
    """Return the handle of a file."""
    raw = _RawHandle(size=_HANDLE_BYTES)
    mount = ctypes.c_int()
    path_ = os.fsencode(path)
    _checked(_libc.name_to_handle_at(AT_FDCWD, path_, ctypes.byref(raw), ctypes.byref(mount), 0), path)
    return FileHandle(raw.type, bytes(raw.body[: raw.size]))


def open_by_handle_at(mountpoint: Path_, handle: FileHandle, flags: int) -> int:
    """Open a file by its handle, on the filesystem that is mounted there; return the descriptor."""
    raw = _RawHandle(size=len(handle.body), type=handle.type)
    raw.body[: len(handle.body)] = list(handle.body)
    mount = os.open(mountpoint, os.O_RDONLY | os.O_DIRECTORY)
    try:
        return _checked(_libc.open_by_handle_at(mount, ctypes.byref(raw), flags))
    finally:
        os.close(mount)


# ------------------------------------------------------------------------------------ directories

_libc.opendir.restype = ctypes.c_void_p
_libc.readdir.restype = ctypes.c_void_p
_libc.telldir.restype = ctypes.c_long
_D_NAME: Final = 19
"""Where the name stands in glibc's struct dirent of 64-bit Linux."""


class DirectoryStream:
    """opendir(3) and what goes with it."""

    def __init__(self, path: Path_) -> None:
        self._stream = ctypes.c_void_p(_libc.opendir(os.fsencode(path)))
        if not self._stream:
            _checked(-1, path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        _libc.closedir(self._stream)

    def read(self) -> bytes | None:
        """Return the next name, None at the end."""
        ctypes.set_errno(0)
        entry = _libc.readdir(self._stream)
        if not entry:
            if ctypes.get_errno():
                _checked(-1)
            return None
        return ctypes.string_at(entry + _D_NAME)

    def names(self) -> Iterator[bytes]:
        """Yield the names that are left, without "." and ".."."""
        while (name := self.read()) is not None:
            if name not in {b".", b".."}:
                yield name

    def tell(self) -> int:
        """Return the position."""
        return int(_libc.telldir(self._stream))

    def seek(self, position: int) -> None:
        """Go back to a position that `tell` returned."""
        _libc.seekdir(self._stream, ctypes.c_long(position))

    def rewind(self) -> None:
        """Start again."""
        _libc.rewinddir(self._stream)


# ------------------------------------------------------------------------------------ inotify

IN_MODIFY: Final = 0x2
IN_CLOSE_WRITE: Final = 0x8
IN_MOVED_FROM: Final = 0x40
IN_MOVED_TO: Final = 0x80
IN_CREATE: Final = 0x100
IN_DELETE: Final = 0x200
_EVENT: Final = struct.Struct("iIII")


class Inotify:
    """Watches one directory."""

    def __init__(self, path: Path_, mask: int) -> None:
        self._descriptor = _checked(_libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
        _checked(_libc.inotify_add_watch(self._descriptor, os.fsencode(path), ctypes.c_uint32(mask)), path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        os.close(self._descriptor)

    def events(self) -> list[tuple[int, bytes]]:
        """Return what has happened so far: (mask, name)."""
        found = []
        try:
            buffer = os.read(self._descriptor, 65536)
        except BlockingIOError:
            return []
        while buffer:
            _, mask, _, length = _EVENT.unpack_from(buffer)
            name = buffer[_EVENT.size : _EVENT.size + length].rstrip(b"\0")
            found.append((mask, name))
            buffer = buffer[_EVENT.size + length :]
        return found


# ------------------------------------------------------------------------------------ mounts


def mount(source: Path_, target: Path_, kind: str, flags: int, options: str = "") -> None:
    """Mount."""
    data = options.encode() if options else None
    _checked(
        _libc.mount(os.fsencode(source), os.fsencode(target), kind.encode(), ctypes.c_ulong(flags), data),
        target,
    )


def umount(target: Path_) -> None:
    """Unmount, lazily."""
    _checked(_libc.umount2(os.fsencode(target), MNT_DETACH), target)


def unshare_mounts() -> None:
    """Give this process a mount namespace of its own, of which the others see nothing."""
    _checked(_libc.unshare(CLONE_NEWNS))
    mount("none", "/", "", MS_REC | MS_PRIVATE)


@contextmanager
def mounted_at(source: Path_, target: Path_, kind: str, flags: int, options: str = "") -> Iterator[None]:
    """Have something mounted for a while."""
    mount(source, target, kind, flags, options)
    try:
        yield
    finally:
        umount(target)
