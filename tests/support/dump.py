"""What can be seen of a filesystem, as plain values: to compare two moments, or two engines."""

from __future__ import annotations

import stat
from typing import Any

from tzfs.errors import NoAttribute
from tzfs.filesystem import Filesystem
from tzfs.records import Inode

Tree = dict[bytes, tuple[Any, ...]]
"""By path: everything but the times and the inode number."""


def tree(fs: Filesystem, at: int | None = None) -> Tree:
    """Return the tree at a moment."""
    found: Tree = {}
    _walk(fs, fs.getattr(fs.ROOT, at), b"", at, found)
    return found


def _walk(fs: Filesystem, inode: Inode, path: bytes, at: int | None, found: Tree) -> None:
    data = fs.read(inode.number, 0, inode.size, at) if inode.is_regular else inode.target
    xattrs = []
    for name in fs.listxattr(inode.number, at):
        try:
            xattrs.append((name, fs.getxattr(inode.number, name, at)))
        except NoAttribute:
            xattrs.append((name, None))
    found[path] = (inode.mode, inode.nlink, inode.uid, inode.gid, inode.rdev, inode.size, data, tuple(xattrs))
    if stat.S_ISDIR(inode.mode):
        for entry in fs.readdir(inode.number, 0, 1 << 20, at):
            _walk(fs, entry.inode, path + b"/" + entry.name, at, found)


def history(fs: Filesystem) -> dict[int, tuple[tuple[bytes, ...], Tree]]:
    """Return labels and tree of each snapshot, by txn."""
    return {row.txn: (row.labels, tree(fs, row.txn)) for row in fs.snapshots()}
