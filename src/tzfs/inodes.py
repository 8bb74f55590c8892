"""Inodes: how they are loaded and saved, born, and lose their last name."""

from __future__ import annotations

import stat
import time
from typing import TYPE_CHECKING, Final

from tzfs import keys
from tzfs.errors import CorruptRecord, NoEntry, StoreCorrupt
from tzfs.records import Inode, decode_inode, decode_mark, encode_inode, encode_mark, head_payload

if TYPE_CHECKING:
    from tzfs.versions import Reader
    from tzfs.volume import Transaction

_CLOCK_REALTIME_COARSE: Final = 5
"""clock_gettime(2); the `time` module has no name for it."""


def now_ns() -> int:
    """Return the time that stamps a change: the kernel's own coarse clock, so that both agree."""
    return time.clock_gettime_ns(_CLOCK_REALTIME_COARSE)


def load(reader: Reader, number: int) -> Inode:
    """Return inode `number` at the reader's moment. Raises `NoEntry`, `CorruptRecord`."""
    k = keys.inode(number)
    head = reader.head(k)
    if head is None:
        raise NoEntry(f"inode {number}")
    inode: Inode | None = reader.decoded.get(k, head)
    if inode is None:
        inode = decode_inode(number, head_payload(head))
        reader.decoded.put(k, head, inode)
    return inode


def load_or_damaged(reader: Reader, number: int) -> Inode:
    """Return an inode, or what stands for one that cannot be read: mode 0, which no inode has.

    For listings and differences, which name it and go on; whoever asks for the inode itself gets the error.
    """
    try:
        return load(reader, number)
    except (CorruptRecord, NoEntry, StoreCorrupt):
        return damaged(number)


def damaged(number: int) -> Inode:
    """Return what stands for an inode that cannot be read."""
    return Inode(number, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, b"")


def save(txn: Transaction, inode: Inode) -> None:
    """Stage the attributes of an inode."""
    k = keys.inode(inode.number)
    txn.decoded.put(k, txn.save(k, encode_inode(inode)), inode)


def create(txn: Transaction, parent: Inode, mode: int, *, rdev: int = 0, target: bytes = b"") -> Inode:
    """Return a new inode, counted but not saved, as the caller makes one in directory `parent`.

    Group and set-group-ID bit follow a set-group-ID parent (inode(7)). nlink is that of one name.
    """
    now = now_ns()
    number = txn.allocate_number()
    txn.expect_new(keys.inode(number))
    gid = txn.caller.gid
    if parent.mode & stat.S_ISGID:
        gid = parent.gid
        if stat.S_ISDIR(mode):
            mode |= stat.S_ISGID
    directory = stat.S_ISDIR(mode)
    txn.inodes += 1
    return Inode(
        number=number,
        mode=mode,
        nlink=2 if directory else 1,
        uid=txn.caller.uid,
        gid=gid,
        rdev=rdev,
        size=len(target),
        stored_bytes=0,
        atime_ns=now,
        mtime_ns=now,
        ctime_ns=now,
        btime_ns=now,
        generation=1,
        parent=parent.number,
        cookie=0,
        content=number,
        chunk0_birth=0,
        chunk0_length=0,
        target=target,
    )


def bury(txn: Transaction, inode: Inode) -> None:
    """Stage an inode whose last name goes: nlink 0, and the mark by which reclaim finds it.

    It counts no more in the live totals, but it can be read and written until nobody holds it.
    """
    txn.inodes -= 1
    txn.live_bytes -= inode.stored_bytes
    save(txn, inode._replace(nlink=0, ctime_ns=now_ns(), parent=0, cookie=0))
    txn.put_raw(keys.orphan(inode.number), encode_mark(txn.txn))


def buried_in(txn: Transaction, number: int) -> int | None:
    """Return the txn in which an inode lost its last name, None when it has one."""
    mark = txn.get_raw(keys.orphan(number))
    return None if mark is None else decode_mark(mark)
