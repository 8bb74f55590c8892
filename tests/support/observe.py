"""What can be seen of a tree through system calls, as values that compare.

`record` walks a tree and returns, per path, everything that a program can learn of it. Two records of the
same tree compare exactly; those of two filesystems do after `alike`, which leaves out what is each one's own.
"""

# These are the system calls themselves, by their names, on paths of bytes.
# ruff: noqa: PTH115, PTH118, PTH208

from __future__ import annotations

import errno
import os
import stat
from typing import Final, NamedTuple

from support.syscalls import Path_


class Seen(NamedTuple):
    """One file as programs see it.

    inode: which of the tree's files it is, counted in the order of the walk: equal for names of one file.
    content: of a regular file its bytes, of a directory the sorted names, of a symlink its target.
    """

    mode: int
    nlink: int
    uid: int
    gid: int
    size: int
    rdev: int
    atime_ns: int
    mtime_ns: int
    ctime_ns: int
    inode: int
    content: bytes | tuple[bytes, ...]
    xattrs: tuple[tuple[bytes, bytes], ...]


Record = dict[bytes, Seen]
"""By path from the top, which itself is b"."."""

HIDDEN_XATTRS: Final = frozenset({b"security.selinux"})
"""Set by a security module of the host, not by us."""


def record(top: Path_) -> Record:
    """Return everything below a directory, read as root without moving access times."""
    found: Record = {}
    inodes: dict[int, int] = {}
    _walk(os.fsencode(top), b".", found, inodes)
    return found


def _walk(top: bytes, path: bytes, found: Record, inodes: dict[int, int]) -> None:
    here = os.path.join(top, path)
    status = os.lstat(here)
    content = _content(here, status.st_mode)
    inode = inodes.setdefault(status.st_ino, len(inodes))
    found[path] = Seen(
        status.st_mode,
        status.st_nlink,
        status.st_uid,
        status.st_gid,
        status.st_size,
        status.st_rdev,
        status.st_atime_ns,
        status.st_mtime_ns,
        status.st_ctime_ns,
        inode,
        content,
        _xattrs(here),
    )
    if stat.S_ISDIR(status.st_mode):
        assert isinstance(content, tuple)
        for name in content:
            _walk(top, name if path == b"." else path + b"/" + name, found, inodes)


def _content(path: bytes, mode: int) -> bytes | tuple[bytes, ...]:
    if stat.S_ISLNK(mode):
        return os.readlink(path)
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        return b""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOATIME | os.O_NOFOLLOW)
    try:
        if stat.S_ISDIR(mode):
            return tuple(sorted(os.fsencode(name) for name in os.listdir(descriptor)))
        return read_all(descriptor)
    finally:
        os.close(descriptor)


def read_all(descriptor: int) -> bytes:
    """Return a file's content, whatever the position: sparse ones are short enough here."""
    parts = []
    offset = 0
    while part := os.pread(descriptor, 1 << 20, offset):
        parts.append(part)
        offset += len(part)
    return b"".join(parts)


def _xattrs(path: bytes) -> tuple[tuple[bytes, bytes], ...]:
    names = sorted(os.fsencode(name) for name in os.listxattr(path, follow_symlinks=False))
    return tuple((name, _value(path, name)) for name in names if name not in HIDDEN_XATTRS)


def _value(path: bytes, name: bytes) -> bytes:
    """Return an attribute's value, or the errno that it has instead: an empty capability gives EINVAL."""
    try:
        return os.getxattr(path, name, follow_symlinks=False)
    except OSError as error:
        return f"({errno.errorcode[error.errno or 0]})".encode()


def alike(found: Record) -> Record:
    """Return a record without what each filesystem has its own way with, so that those of two compare.

    Directory sizes (ext4 counts blocks, tzfs names) and the times, of which `moved` tells which were changed.
    """
    return {
        path: seen._replace(
            size=0 if stat.S_ISDIR(seen.mode) else seen.size, atime_ns=0, mtime_ns=0, ctime_ns=0
        )
        for path, seen in found.items()
    }


def moved(before: Record, after: Record) -> dict[bytes, tuple[bool, bool]]:
    """Return whose (mtime, ctime) differ between two records, for the paths that are in both."""
    changed = {}
    for path, seen in after.items():
        was = before.get(path)
        if was is not None and (was.mtime_ns, was.ctime_ns) != (seen.mtime_ns, seen.ctime_ns):
            changed[path] = (was.mtime_ns != seen.mtime_ns, was.ctime_ns != seen.ctime_ns)
    return changed


def describe(left: object, right: object) -> str:
    """Return where two records (or other dictionaries) differ, a line each."""
    assert isinstance(left, dict)
    assert isinstance(right, dict)
    lines = []
    for path in sorted(left.keys() | right.keys()):
        one, other = left.get(path), right.get(path)
        if one == other:
            continue
        if isinstance(one, Seen) and isinstance(other, Seen):
            pairs = zip(Seen._fields, one, other, strict=True)
            detail = ", ".join(f"{name} {a!r} / {b!r}" for name, a, b in pairs if a != b)
        else:
            detail = f"{one!r} / {other!r}"
        lines.append(f"{path!r}: {detail}")
    return "\n".join(lines)
