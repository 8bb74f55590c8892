"""What a filesystem ought to do, said with dictionaries: the other side of tests/test_filesystem_model.py.

Each operation comes in two halves: its `refusals` are every error that the arguments deserve (POSIX leaves
open which one is reported when there are several), and the operation itself, called when there are none,
changes the dictionaries. Inode numbers are the filesystem's own: the model is told them.
"""

from __future__ import annotations

import stat
from dataclasses import dataclass, field
from typing import NamedTuple

from tzfs import errors
from tzfs.records import Caller

ROOT = 1
NOREPLACE, EXCHANGE, WHITEOUT = 1, 2, 4
Refusals = set[type[errors.FsError]]


@dataclass
class Node:
    """One inode. `parent` counts for a directory, `data` for a regular file."""

    mode: int
    uid: int
    gid: int
    nlink: int = 1
    rdev: int = 0
    parent: int = 0
    target: bytes = b""
    data: bytearray = field(default_factory=bytearray)
    entries: dict[bytes, int] = field(default_factory=dict)
    xattrs: dict[bytes, bytes] = field(default_factory=dict)

    @property
    def is_directory(self) -> bool:
        """Tell whether this is a directory."""
        return stat.S_ISDIR(self.mode)

    @property
    def is_regular(self) -> bool:
        """Tell whether this is a regular file."""
        return stat.S_ISREG(self.mode)

    @property
    def size(self) -> int:
        """Return st_size as tzfs defines it: bytes, or the number of entries, or the target's length."""
        return len(self.entries) if self.is_directory else len(self.data) or len(self.target)


class Frozen(NamedTuple):
    """A node as it was: what the tree at some moment must read as."""

    mode: int
    uid: int
    gid: int
    nlink: int
    rdev: int
    size: int
    target: bytes
    data: bytes
    entries: dict[bytes, int]
    xattrs: dict[bytes, bytes]


Tree = dict[int, Frozen]


class Model:
    """The live tree, and the inodes without a name that somebody still holds (nlink 0)."""

    def __init__(self, inodes_max: int = 0) -> None:
        self.inodes_max = inodes_max
        self.nodes: dict[int, Node] = {ROOT: Node(stat.S_IFDIR | 0o755, 0, 0, nlink=2, parent=ROOT)}

    def freeze(self) -> Tree:
        """Return the live tree as it is now, without orphans."""
        return {
            number: Frozen(
                n.mode,
                n.uid,
                n.gid,
                n.nlink,
                n.rdev,
                n.size,
                n.target,
                bytes(n.data),
                dict(n.entries),
                dict(n.xattrs),
            )
            for number, n in self.nodes.items()
            if n.nlink
        }

    def restore(self, tree: Tree) -> list[int]:
        """Make the live tree what it was; return the inodes that lose their names by it.

        What has no name then stays as it is, for somebody holds it; a directory is empty. The order is that
        of numbers and names, not of a listing, which differs from run to run.
        """
        lost = [number for number, node in self.nodes.items() if node.nlink and number not in tree]
        for number in lost:
            self.nodes[number].nlink = 0
            self.nodes[number].entries.clear()
        for number, was in sorted(tree.items()):
            self.nodes[number] = Node(
                was.mode,
                was.uid,
                was.gid,
                was.nlink,
                was.rdev,
                target=was.target,
                data=bytearray(was.data),
                entries=dict(sorted(was.entries.items())),
                xattrs=dict(was.xattrs),
            )
        self.nodes[ROOT].parent = ROOT
        for number in tree:
            for child in tree[number].entries.values():
                self.nodes[child].parent = number
        return lost

    def orphans(self) -> list[int]:
        """Return the inodes without a name."""
        return [number for number, node in self.nodes.items() if not node.nlink]

    # names

    def place_refusals(self, parent: int, name: bytes) -> Refusals:
        """Return why `name` in `parent` cannot even be looked for."""
        found: Refusals = set()
        node = self.nodes[parent]
        if not node.is_directory:
            found.add(errors.NotDirectory)
        elif not node.nlink:
            found.add(errors.NoEntry)
        if len(name) > 255:
            found.add(errors.NameTooLong)
        return found

    def new_name_refusals(self, parent: int, name: bytes) -> Refusals:
        """Return why `name` cannot be made in `parent`."""
        found = self.place_refusals(parent, name)
        if name in {b"", b".", b".."} or b"/" in name or b"\0" in name:
            found.add(errors.Invalid)
        if name in self.nodes[parent].entries:
            found.add(errors.Exists)
        return found

    def make_refusals(self, parent: int, name: bytes) -> Refusals:
        """Return why no inode can be made there."""
        found = self.new_name_refusals(parent, name)
        if self._is_full():
            found.add(errors.NoSpace)
        return found

    def _is_full(self) -> bool:
        return bool(self.inodes_max) and len(self.nodes) - len(self.orphans()) >= self.inodes_max

    def make(self, number: int, parent: int, name: bytes, node: Node) -> None:
        """Put a new node under `name`; group and set-group-ID bit follow a set-group-ID parent."""
        directory = self.nodes[parent]
        if directory.mode & stat.S_ISGID:
            node.gid = directory.gid
            if node.is_directory:
                node.mode |= stat.S_ISGID
        if node.is_directory:
            node.nlink = 2
        self.nodes[number] = node
        self._attach(number, parent, name)

    def _attach(self, number: int, parent: int, name: bytes) -> None:
        self.nodes[parent].entries[name] = number
        if self.nodes[number].is_directory:
            self.nodes[number].parent = parent
            self.nodes[parent].nlink += 1

    def _take(self, parent: int, name: bytes) -> int:
        number = self.nodes[parent].entries.pop(name)
        if self.nodes[number].is_directory:
            self.nodes[parent].nlink -= 1
        return number

    def _drop(self, number: int) -> None:
        """Take one link from a node whose name is gone."""
        node = self.nodes[number]
        node.nlink = 0 if node.is_directory else node.nlink - 1

    def lookup_refusals(self, parent: int, name: bytes) -> Refusals:
        """Return why `name` in `parent` names nothing."""
        found = self.place_refusals(parent, name)
        if name not in self.nodes[parent].entries:
            found.add(errors.NoEntry)
        return found

    def link_refusals(self, number: int, parent: int, name: bytes) -> Refusals:
        """Return why link(2) is refused."""
        found = self.new_name_refusals(parent, name)
        if self.nodes[number].is_directory:
            found.add(errors.NotPermitted)
        if not self.nodes[number].nlink:
            found.add(errors.NoEntry)
        return found

    def link(self, number: int, parent: int, name: bytes) -> None:
        """Give a file another name."""
        self.nodes[number].nlink += 1
        self._attach(number, parent, name)

    def unlink_refusals(self, parent: int, name: bytes) -> Refusals:
        """Return why unlink(2) is refused."""
        found = self.lookup_refusals(parent, name)
        if not found and self.nodes[self.nodes[parent].entries[name]].is_directory:
            found.add(errors.IsDirectory)
        return found

    def rmdir_refusals(self, parent: int, name: bytes) -> Refusals:
        """Return why rmdir(2) is refused."""
        found = self.lookup_refusals(parent, name)
        if not found:
            node = self.nodes[self.nodes[parent].entries[name]]
            if not node.is_directory:
                found.add(errors.NotDirectory)
            elif node.entries:
                found.add(errors.NotEmpty)
        return found

    def remove(self, parent: int, name: bytes) -> None:
        """Take a name away, as unlink(2) and rmdir(2) do."""
        self._drop(self._take(parent, name))

    def _is_below(self, number: int, ancestor: int) -> bool:
        """Tell whether a directory is another one or stands below it; a removed one stands nowhere."""
        while number not in {ROOT, ancestor} and number in self.nodes:
            number = self.nodes[number].parent
        return number == ancestor

    def rename_refusals(
        self, old_parent: int, old_name: bytes, new_parent: int, new_name: bytes, flags: int
    ) -> Refusals:
        """Return why renameat2(2) is refused."""
        found = self.lookup_refusals(old_parent, old_name) | self.place_refusals(new_parent, new_name)
        together = flags not in {NOREPLACE | EXCHANGE, EXCHANGE | WHITEOUT} and 0 <= flags <= 5
        if not together or new_name in {b"", b".", b".."} or b"/" in new_name:
            found.add(errors.Invalid)
        moved = self.nodes[old_parent].entries.get(old_name)
        target = self.nodes[new_parent].entries.get(new_name)
        if flags == EXCHANGE and target is None:
            found.add(errors.NoEntry)
        if flags & NOREPLACE and target is not None:
            found.add(errors.Exists)
        if moved is None:
            return found
        if self._is_below(new_parent, moved):
            found.add(errors.Invalid)
        if target == moved:
            return found
        frees = target is not None and (self.nodes[target].is_directory or self.nodes[target].nlink == 1)
        if flags & WHITEOUT and self._is_full() and not frees:
            found.add(errors.NoSpace)
        if target is None:
            return found
        if flags == EXCHANGE:
            return found | ({errors.Invalid} if self._is_below(old_parent, target) else set())
        return found | self._replace_refusals(self.nodes[moved], self.nodes[target])

    def _replace_refusals(self, moved: Node, target: Node) -> Refusals:
        found: Refusals = {errors.NotEmpty} if target.entries else set()
        if moved.is_directory != target.is_directory:
            found.add(errors.IsDirectory if target.is_directory else errors.NotDirectory)
        return found

    def rename(self, old_parent: int, old_name: bytes, new_parent: int, new_name: bytes, flags: int) -> None:
        """Move a name, replacing or exchanging; two names of one inode stay as they are.

        A whiteout under the old name is the caller's to `make`: it is a new inode.
        """
        moved = self.nodes[old_parent].entries[old_name]
        if self.nodes[new_parent].entries.get(new_name) == moved:
            return
        self._take(old_parent, old_name)
        if new_name in self.nodes[new_parent].entries:
            target = self._take(new_parent, new_name)
            if flags == EXCHANGE:
                self._attach(target, old_parent, old_name)
            else:
                self._drop(target)
        self._attach(moved, new_parent, new_name)

    # content and attributes

    def write(self, number: int, offset: int, data: bytes) -> None:
        """Write, with zeros in a gap before it."""
        content = self.nodes[number].data
        if data and offset > len(content):
            content.extend(bytes(offset - len(content)))
        content[offset : offset + len(data)] = data

    def resize_refusals(self, number: int) -> Refusals:
        """Return why the size of an inode cannot be set."""
        node = self.nodes[number]
        if node.is_regular:
            return set()
        return {errors.IsDirectory if node.is_directory else errors.Invalid}

    def resize(self, number: int, size: int) -> None:
        """Cut, or extend with zeros."""
        content = self.nodes[number].data
        del content[size:]
        content.extend(bytes(size - len(content)))

    def drop_set_id(self, number: int, caller: Caller) -> None:
        """Do what a write by `caller` does to set-ID bits; the caller has its one group."""
        node = self.nodes[number]
        if caller.uid == 0:
            return
        node.mode &= ~stat.S_ISUID
        if node.mode & stat.S_IXGRP or caller.gid != node.gid:
            node.mode &= ~stat.S_ISGID
