"""System calls on a tree, each as one operation with an outcome that compares.

An outcome is ("ok", value) or ("error", the errno's name). Values hold nothing that is one filesystem's own:
no inode numbers, devices or absolute times.
"""

# These are the system calls themselves, by their names, on paths of bytes.
# ruff: noqa: PTH101, PTH102, PTH106, PTH108, PTH115, PTH116, PTH208, PTH211

from __future__ import annotations

import errno
import mmap
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final

from support import syscalls
from support.observe import read_all
from support.users import ROOT, User, acting_as

Outcome = tuple[str, object]

LOOKED_AT_BYTES: Final = 1 << 20
"""Bytes of a file that a read returns at most."""


class Tree:
    """One side of a comparison: a directory, and the files that the operations opened in it, by number."""

    def __init__(self, top: bytes) -> None:
        self.top = top
        self.files: dict[int, int] = {}

    def close_all(self) -> None:
        """Close what is open."""
        for descriptor in self.files.values():
            os.close(descriptor)
        self.files.clear()

    def run(self, user: User, umask: int, operation: str, *arguments: object) -> Outcome:
        """Run one operation as a user, and return what came of it."""
        work: Callable[..., object] = getattr(self, operation)
        old_umask = os.umask(umask)
        try:
            with acting_as(user):
                return "ok", work(*arguments)
        except OSError as error:
            return "error", errno.errorcode[error.errno or 0]
        finally:
            os.umask(old_umask)

    def _at(self, path: bytes) -> bytes:
        return self.top + b"/" + path if path else b""

    # ------------------------------------------------------------------------------- names

    def mkdir(self, path: bytes, mode: int) -> None:
        """mkdir(2)."""
        os.mkdir(self._at(path), mode)

    def mknod(self, path: bytes, mode: int, device: int) -> None:
        """mknod(2): regular files, FIFOs, sockets, devices."""
        os.mknod(self._at(path), mode, device)

    def symlink(self, target: bytes, path: bytes) -> None:
        """symlink(2)."""
        os.symlink(target, self._at(path))

    def link(self, old: bytes, new: bytes, follow: bool) -> None:
        """linkat(2)."""
        syscalls.link(self._at(old), self._at(new), follow=follow)

    def unlink(self, path: bytes) -> None:
        """unlink(2)."""
        os.unlink(self._at(path))

    def rmdir(self, path: bytes) -> None:
        """rmdir(2)."""
        os.rmdir(self._at(path))

    def rename(self, old: bytes, new: bytes, flags: int) -> None:
        """renameat2(2)."""
        syscalls.renameat2(self._at(old), self._at(new), flags)

    def listdir(self, path: bytes) -> list[bytes]:
        """readdir(3), sorted: order is each filesystem's own."""
        descriptor = os.open(self._at(path), os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            return sorted(os.fsencode(name) for name in os.listdir(descriptor))
        finally:
            os.close(descriptor)

    def list_changing(self, path: bytes, gone: bytes, made: bytes) -> tuple[list[bytes], list[bytes]]:
        """Begin a listing, remove and make a name, end it, rewind; return what stood, and then what is there.

        Whether a listing shows what comes or goes meanwhile is each filesystem's own; once rewound it must.
        """
        with syscalls.DirectoryStream(self._at(path)) as stream:
            begun = stream.read()
            with suppress(OSError):
                os.unlink(self._at(path) + b"/" + gone)
            with suppress(OSError):
                os.mkdir(self._at(path) + b"/" + made)
            listed = [begun or b"", *stream.names()]
            stood = [name for name in listed if name not in {b".", b"..", gone, made}]
            stream.rewind()
            return sorted(stood), sorted(stream.names())

    # ------------------------------------------------------------------------------- attributes

    def stat(self, path: bytes, follow: bool) -> tuple[int, ...]:
        """stat(2), lstat(2)."""
        return _comparable(os.stat(self._at(path), follow_symlinks=follow))

    def readlink(self, path: bytes) -> bytes:
        """readlink(2)."""
        return os.readlink(self._at(path))

    def access(self, path: bytes, mode: int) -> bool:
        """faccessat2(2) with the effective ids."""
        return os.access(self._at(path), mode, effective_ids=True)

    def chmod(self, path: bytes, mode: int) -> None:
        """chmod(2)."""
        os.chmod(self._at(path), mode)

    def chown(self, path: bytes, uid: int, gid: int, follow: bool) -> None:
        """chown(2), lchown(2)."""
        os.chown(self._at(path), uid, gid, follow_symlinks=follow)

    def truncate(self, path: bytes, size: int) -> None:
        """truncate(2)."""
        os.truncate(self._at(path), size)

    def utimens(self, path: bytes, atime: int, mtime: int, follow: bool) -> tuple[int | None, int | None]:
        """utimensat(2), and the times that follow where they were named."""
        syscalls.utimensat(self._at(path), atime, mtime, follow=follow)
        status = os.stat(self._at(path), follow_symlinks=follow)
        special = (syscalls.NOW, syscalls.OMIT)
        return (
            None if atime in special else status.st_atime_ns,
            None if mtime in special else status.st_mtime_ns,
        )

    # ------------------------------------------------------------------------------- attributes, extended

    def setxattr(self, path: bytes, name: bytes, value: bytes, flags: int, follow: bool) -> None:
        """setxattr(2), lsetxattr(2)."""
        os.setxattr(self._at(path), name, value, flags, follow_symlinks=follow)

    def getxattr(self, path: bytes, name: bytes, follow: bool = True) -> bytes:
        """getxattr(2), lgetxattr(2)."""
        return os.getxattr(self._at(path), name, follow_symlinks=follow)

    def listxattr(self, path: bytes) -> list[str]:
        """listxattr(2), sorted."""
        return sorted(os.listxattr(self._at(path)))

    def removexattr(self, path: bytes, name: bytes) -> None:
        """removexattr(2)."""
        os.removexattr(self._at(path), name)

    # ------------------------------------------------------------------------------- open files

    def open(self, number: int, path: bytes, flags: int, mode: int) -> tuple[int, ...]:
        """open(2); the file stays open under `number`."""
        descriptor = os.open(self._at(path), flags | os.O_NONBLOCK, mode)
        self.files[number] = descriptor
        return _comparable(os.fstat(descriptor))

    def close(self, number: int) -> None:
        """close(2)."""
        os.close(self.files.pop(number))

    def tmpfile(self, path: bytes) -> None:
        """open(2) with O_TMPFILE."""
        os.close(os.open(self._at(path), syscalls.O_TMPFILE | os.O_RDWR, 0o600))

    def fstat(self, number: int) -> tuple[int, ...]:
        """fstat(2)."""
        return _comparable(os.fstat(self.files[number]))

    def write(self, number: int, data: bytes) -> tuple[int, int]:
        """write(2), and where it ended."""
        descriptor = self.files[number]
        return os.write(descriptor, data), os.lseek(descriptor, 0, os.SEEK_CUR)

    def pwrite(self, number: int, offset: int, data: bytes) -> int:
        """pwrite(2)."""
        return os.pwrite(self.files[number], data, offset)

    def read(self, number: int, size: int) -> bytes:
        """read(2)."""
        return os.read(self.files[number], size)

    def pread(self, number: int, offset: int, size: int) -> bytes:
        """pread(2)."""
        return os.pread(self.files[number], size, offset)

    def seek(self, number: int, offset: int, whence: int) -> int:
        """lseek(2)."""
        return os.lseek(self.files[number], offset, whence)

    def ftruncate(self, number: int, size: int) -> None:
        """ftruncate(2)."""
        os.ftruncate(self.files[number], size)

    def fchmod(self, number: int, mode: int) -> None:
        """fchmod(2)."""
        os.fchmod(self.files[number], mode)

    def fsync(self, number: int) -> None:
        """fsync(2)."""
        os.fsync(self.files[number])

    def fchown(self, number: int, uid: int, gid: int) -> None:
        """fchown(2)."""
        os.fchown(self.files[number], uid, gid)

    def futimens(self, number: int, atime: int, mtime: int) -> None:
        """futimens(3)."""
        syscalls.futimens(self.files[number], atime, mtime)

    def fsetxattr(self, number: int, name: bytes, value: bytes, flags: int) -> None:
        """fsetxattr(2)."""
        os.setxattr(self.files[number], name, value, flags)

    def fgetxattr(self, number: int, name: bytes) -> bytes:
        """fgetxattr(2)."""
        return os.getxattr(self.files[number], name)

    def flistxattr(self, number: int) -> list[str]:
        """flistxattr(2), sorted."""
        return sorted(os.listxattr(self.files[number]))

    def fremovexattr(self, number: int, name: bytes) -> None:
        """fremovexattr(2)."""
        os.removexattr(self.files[number], name)

    def reopen(self, number: int, flags: int) -> tuple[int, ...]:
        """open(2) of what is open already, by /proc/self/fd: it may have no name any more."""
        descriptor = os.open(self._descriptor_path(number), flags | os.O_NONBLOCK)
        try:
            return _comparable(os.fstat(descriptor))
        finally:
            os.close(descriptor)

    def relink(self, number: int, new: bytes) -> None:
        """linkat(2) of what is open, which may have no name any more."""
        syscalls.link(self._descriptor_path(number), self._at(new), follow=True)

    def _descriptor_path(self, number: int) -> bytes:
        return b"/proc/self/fd/%d" % self.files[number]

    # ------------------------------------------------------------------------------- open directories

    def mkdirat(self, number: int, name: bytes, mode: int) -> None:
        """mkdirat(2)."""
        os.mkdir(name, mode, dir_fd=self.files[number])

    def openat(self, number: int, name: bytes, flags: int, mode: int) -> tuple[int, ...]:
        """openat(2), and close(2)."""
        descriptor = os.open(name, flags | os.O_NONBLOCK, mode, dir_fd=self.files[number])
        try:
            return _comparable(os.fstat(descriptor))
        finally:
            os.close(descriptor)

    def unlinkat(self, number: int, name: bytes) -> None:
        """unlinkat(2)."""
        os.unlink(name, dir_fd=self.files[number])

    def renameat(self, number: int, old: bytes, new: bytes) -> None:
        """renameat(2) within one directory."""
        descriptor = self.files[number]
        os.rename(old, new, src_dir_fd=descriptor, dst_dir_fd=descriptor)

    def fdlist(self, number: int) -> list[str]:
        """fdopendir(3), readdir(3), sorted."""
        return sorted(os.listdir(self.files[number]))

    # ------------------------------------------------------------------------------- content by other ways

    def content(self, path: bytes) -> bytes:
        """open(2), read(2), close(2), without moving the access time."""
        descriptor = os.open(self._at(path), os.O_RDONLY | os.O_NONBLOCK)
        try:
            return os.read(descriptor, LOOKED_AT_BYTES)
        finally:
            os.close(descriptor)

    def touch(self, path: bytes, flags: int, mode: int) -> tuple[int, ...]:
        """open(2) and close(2)."""
        descriptor = os.open(self._at(path), flags | os.O_NONBLOCK, mode)
        try:
            return _comparable(os.fstat(descriptor))
        finally:
            os.close(descriptor)

    def map_write(self, number: int, offset: int, data: bytes, shared: bool) -> bytes:
        """Write into a mapping, and return what the file holds after it is unmapped."""
        descriptor = self.files[number]
        with _mapped(descriptor, shared=shared) as mapped:
            end = min(len(mapped), offset + len(data))
            if offset < end:
                mapped[offset:end] = data[: end - offset]
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            return read_all(descriptor)[:LOOKED_AT_BYTES]
        return b""

    def copy_range(self, source: int, target: int, count: int) -> int:
        """copy_file_range(2) at offsets of its own."""
        return os.copy_file_range(self.files[source], self.files[target], count, 0, 3)

    def sendfile(self, source: int, target: int, count: int) -> int:
        """sendfile(2)."""
        return os.sendfile(self.files[target], self.files[source], 0, count)


@contextmanager
def _mapped(descriptor: int, *, shared: bool) -> Iterator[mmap.mmap]:
    status = os.fstat(descriptor)
    size = status.st_size if stat.S_ISREG(status.st_mode) else mmap.PAGESIZE
    if size == 0:
        raise OSError(errno.EINVAL, "nothing to map")
    flags = mmap.MAP_SHARED if shared else mmap.MAP_PRIVATE
    with mmap.mmap(descriptor, size, flags=flags, prot=mmap.PROT_READ | mmap.PROT_WRITE) as mapped:
        yield mapped


def _comparable(status: os.stat_result) -> tuple[int, ...]:
    """Return mode, nlink, uid, gid, size and rdev; a directory's size is each filesystem's own."""
    size = 0 if stat.S_ISDIR(status.st_mode) else status.st_size
    return status.st_mode, status.st_nlink, status.st_uid, status.st_gid, size, status.st_rdev


def run_as_root(tree: Tree, operation: str, *arguments: object) -> Outcome:
    """Run an operation as root with no umask."""
    return tree.run(ROOT, 0, operation, *arguments)
