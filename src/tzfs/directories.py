"""Directories: names, and which inode each names.

An entry's key holds its listing position, a keyed hash of its name (`tzfs.keys`), so one scan lists a
directory in an order that no change of it can disturb, and one get finds a name.
"""

from __future__ import annotations

from functools import lru_cache, partial
from typing import TYPE_CHECKING, Final

from tzfs import inodes, keys
from tzfs.errors import CorruptRecord, Invalid, NameTooLong
from tzfs.records import INODE_MAX, NAME_MAX, Entry, Inode, decode_entry, encode_entry

if TYPE_CHECKING:
    from tzfs.versions import Reader
    from tzfs.volume import Transaction

_COOKIES_MAX: Final = 4096


def require_name(name: bytes) -> None:
    """Refuse what can be no new entry's name: `NameTooLong`, `Invalid`."""
    if len(name) > NAME_MAX:
        raise NameTooLong(f"{len(name)} bytes, at most {NAME_MAX}")
    if name in {b"", b".", b".."} or b"/" in name or b"\0" in name:
        raise Invalid(f"{name!r} cannot be a file's name")


class Directories:
    """The directories of one filesystem; `salt` keys the hash of names."""

    def __init__(self, salt: bytes) -> None:
        self.cookie = lru_cache(_COOKIES_MAX)(partial(keys.name_cookie, salt=salt))
        """Returns the listing position of a name. A name is looked up, and looked up again to be made,
        changed or removed: the hash of one that was just asked for is at hand."""

    def find(self, reader: Reader, parent: int, name: bytes) -> int | None:
        """Return the number of the inode that `name` names in directory `parent`, or None."""
        payload = reader.load(keys.entry(parent, self.cookie(name), name))
        return None if payload is None else decode_entry(payload)

    def add(self, txn: Transaction, parent: Inode, name: bytes, inode: Inode) -> Inode:
        """Stage entry `name` for `inode`, and return `inode` knowing where it stands. Saves neither inode."""
        cookie = self.cookie(name)
        txn.save(keys.entry(parent.number, cookie, name), encode_entry(inode.number))
        return inode._replace(parent=parent.number, cookie=cookie)

    def drop(self, txn: Transaction, parent: int, name: bytes) -> None:
        """Stage the end of entry `name`."""
        txn.remove(keys.entry(parent, self.cookie(name), name))

    def stands_at(self, inode: Inode, parent: int, name: bytes) -> bool:
        """Tell whether that entry is the one by which the inode knows its place."""
        return inode.parent == parent and inode.cookie == self.cookie(name)

    def list(self, reader: Reader, parent: int, after: int, limit: int) -> list[Entry]:
        """Return up to `limit` entries with cookies beyond `after`, in their order, with their inodes.

        An inode that cannot be read has mode 0 there (`inodes.damaged`): one lost record hides no other name.
        """
        if after >= keys.COOKIE_MAX:
            return []
        pairs = reader.scan(*keys.entries_after(parent, after), limit)
        entries = []
        for k, payload in pairs:
            _, cookie, name = keys.split_entry(k)
            try:
                inode = inodes.load_or_damaged(reader, decode_entry(payload))
            except CorruptRecord:
                inode = inodes.damaged(INODE_MAX)
            entries.append(Entry(cookie, name, inode))
        return entries

    def name_of(self, reader: Reader, inode: Inode) -> bytes | None:
        """Return the name under which the inode stands in its `parent`, None where that is not known."""
        lower = keys.entry(inode.parent, inode.cookie, b"")
        upper = keys.entry(inode.parent, inode.cookie + 1, b"")
        for k, payload in reader.scan(lower, upper, 16):
            if decode_entry(payload) == inode.number:
                return keys.split_entry(k).name
        return None


def changed(parent: Inode, *, entries: int, subdirectories: int = 0) -> Inode:
    """Return a directory after that many entries more or less: size, nlink, mtime and ctime."""
    now = inodes.now_ns()
    return parent._replace(
        size=parent.size + entries, nlink=parent.nlink + subdirectories, mtime_ns=now, ctime_ns=now
    )
