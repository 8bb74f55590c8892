"""What can go wrong, as classes: each knows its one errno.

    TzfsError                  anything tzfs raises on purpose
    ├── FsError                a file operation was refused: the errno goes to the program that asked
    │   ├── NoEntry            ENOENT        ├── NotDirectory       ENOTDIR
    │   │   └── SnapshotMissing              ├── IsDirectory        EISDIR
    │   ├── Stale              ESTALE        ├── NotEmpty           ENOTEMPTY
    │   ├── Exists             EEXIST        ├── NameTooLong        ENAMETOOLONG
    │   ├── NotPermitted       EPERM         ├── TooManyLinks       EMLINK
    │   ├── AccessDenied       EACCES        ├── FileTooBig         EFBIG
    │   ├── ReadOnly           EROFS         ├── NoSpace            ENOSPC
    │   ├── CrossDevice        EXDEV         ├── NoAttribute        ENODATA
    │   ├── Invalid            EINVAL        ├── NotSupported       EOPNOTSUPP
    │   ├── Busy               EBUSY         ├── AttributeTooBig    E2BIG
    │   ├── AttributeRange     ERANGE        ├── BadHandle          EBADF
    │   ├── TooManySymlinks    ELOOP         │
    │   └── InputOutput        EIO
    │       └── CorruptRecord  bytes in the store that cannot be what was written
    ├── StoreError             the store itself cannot serve: open, lock, disk
    │   ├── StoreLocked        another process has the database open
    │   ├── StoreMissing       there is no database where one was expected
    │   ├── StoreCorrupt       the engine found bytes that fail their checksum        EIO
    │   │   └── StoreUnreadable    a file without which it does not open: the text says what to do
    │   ├── StoreFull          the host's disk is full                                ENOSPC
    │   ├── NotFormatted       a database without a superblock
    │   └── NewerFormat        written by a later tzfs
    ├── CatalogError           a command on a store or a filesystem of it was refused
    │   ├── NotAStore          a directory that tzfs did not make, or none            ENOENT
    │   ├── NewerCatalog       a store of a later tzfs
    │   ├── CatalogBroken      the catalog cannot be read or written                  EIO
    │   ├── ReadOnlyDisk       the store cannot be changed where it lies              EROFS
    │   ├── InvalidName        not [NAMESPACE/]NAME
    │   ├── UnknownFilesystem  no filesystem has that name                            ENOENT
    │   ├── NameTaken          another filesystem has it                              EEXIST
    │   ├── WrongStatus        running, archived or deleted: not the one this needs
    │   ├── Mounted            this needs an unmounted filesystem, or a mounted one   EBUSY
    │   └── CheckFailed        an invariant does not hold                             EIO
    ├── MountError             the mount itself failed
    │   ├── MountpointMissing  the directory is not there                             ENOENT
    │   ├── MountpointBusy     not empty, or something is mounted there               EBUSY
    │   └── FuseMissing        no /dev/fuse, no right to it, or no fusermount3        ENODEV
    └── ControlError           a daemon was asked and gave no usable answer
        └── DaemonGone         nobody listens on the control socket (any more)        ENOTCONN

The texts of the last three families are for a person: what is wrong, and what to do.

A bug is none of these: it surfaces as whatever Python raises, is logged with its traceback, and
becomes EIO at the one boundary in `tzfs.fuse.operations`.
"""

from __future__ import annotations

import errno as _errno
from typing import ClassVar


class TzfsError(Exception):
    """Anything that tzfs raises on purpose; `errno` is what a system call would report."""

    errno: ClassVar[int] = _errno.EIO


class FsError(TzfsError):
    """A file operation that was refused; nothing was changed."""


class NoEntry(FsError):
    errno = _errno.ENOENT


class SnapshotMissing(NoEntry):
    """No snapshot has that txn or label (any more)."""


class Stale(FsError):
    errno = _errno.ESTALE


class Exists(FsError):
    errno = _errno.EEXIST


class NotPermitted(FsError):
    errno = _errno.EPERM


class AccessDenied(FsError):
    errno = _errno.EACCES


class ReadOnly(FsError):
    errno = _errno.EROFS


class CrossDevice(FsError):
    errno = _errno.EXDEV


class Invalid(FsError):
    errno = _errno.EINVAL


class Busy(FsError):
    errno = _errno.EBUSY


class NotDirectory(FsError):
    errno = _errno.ENOTDIR


class IsDirectory(FsError):
    errno = _errno.EISDIR


class NotEmpty(FsError):
    errno = _errno.ENOTEMPTY


class NameTooLong(FsError):
    errno = _errno.ENAMETOOLONG


class TooManyLinks(FsError):
    errno = _errno.EMLINK


class TooManySymlinks(FsError):
    errno = _errno.ELOOP


class FileTooBig(FsError):
    errno = _errno.EFBIG


class NoSpace(FsError):
    """The quota, the inode limit or the host's disk is exhausted."""

    errno = _errno.ENOSPC


class NoAttribute(FsError):
    errno = _errno.ENODATA


class NotSupported(FsError):
    errno = _errno.EOPNOTSUPP


class AttributeTooBig(FsError):
    errno = _errno.E2BIG


class AttributeRange(FsError):
    errno = _errno.ERANGE


class BadHandle(FsError):
    errno = _errno.EBADF


class InputOutput(FsError):
    errno = _errno.EIO


class CorruptRecord(InputOutput):
    """Stored bytes that no version of tzfs can have written under that key."""


class StoreError(TzfsError):
    """The engine below cannot do what was asked; `errno` is what a file operation then reports."""


class StoreLocked(StoreError):
    errno = _errno.EBUSY


class StoreMissing(StoreError):
    errno = _errno.ENOENT


class StoreCorrupt(StoreError):
    errno = _errno.EIO


class StoreUnreadable(StoreCorrupt):
    pass


class StoreFull(StoreError):
    errno = _errno.ENOSPC


class NotFormatted(StoreError):
    errno = _errno.EINVAL


class NewerFormat(StoreError):
    errno = _errno.EINVAL


class CatalogError(TzfsError):
    """A command was refused and changed nothing; the text says what to do instead."""

    errno = _errno.EINVAL


class NotAStore(CatalogError):
    errno = _errno.ENOENT


class NewerCatalog(CatalogError):
    pass


class CatalogBroken(CatalogError):
    errno = _errno.EIO


class ReadOnlyDisk(CatalogError):
    errno = _errno.EROFS


class InvalidName(CatalogError):
    pass


class UnknownFilesystem(CatalogError):
    errno = _errno.ENOENT


class NameTaken(CatalogError):
    errno = _errno.EEXIST


class WrongStatus(CatalogError):
    pass


class Mounted(CatalogError):
    errno = _errno.EBUSY


class CheckFailed(CatalogError):
    errno = _errno.EIO


class MountError(TzfsError):
    """A filesystem could not be mounted, or unmounted."""


class MountpointMissing(MountError):
    errno = _errno.ENOENT


class MountpointBusy(MountError):
    errno = _errno.EBUSY


class FuseMissing(MountError):
    errno = _errno.ENODEV


class ControlError(TzfsError):
    """The daemon's answer is not one, or it refused the question as such."""


class DaemonGone(ControlError):
    errno = _errno.ENOTCONN


def describe_os_error(error: OSError) -> str:
    """Return what a system call's error says to a person: the file if there is one, and the reason."""
    reason = error.strerror or str(error)
    if error.errno == _errno.ENOSPC:
        reason = "the disk under the store is full, make room there"
    return f"{error.filename}: {reason}" if error.filename else reason
