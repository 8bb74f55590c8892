"""Large writes: chunks that go into tables of their own instead of through the log.

What goes through the log is written to the disk twice, there and in the table that the engine makes of it
later. For a few MiB at once it is cheaper to write the table straight away and to let the engine take it in:

    begin     note which chunks of which contents (a T mark), choose those that need nothing of the old ones
    build     write and sync the tables, then sync the log; slow, so in a thread, while other operations run
    finish    let the store take the tables, then commit each write, which names the chunks; drop the mark

A table is durable at once, out of the log's order. That is sound because nothing names its keys: they are of
the open txn, whose chunks of these indexes nobody has written yet, as far as the log goes that is durable
before the store takes the table. So after a power cut each write is whole or not there, as ever. Whatever
edits the slots of a content meanwhile, or seals the txn, makes the writes to it go through the log after all.
The mark tells the next opening, or reclaim, where chunks may lie that nothing came to name.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from typing import TYPE_CHECKING, Final, NamedTuple

from tzfs import keys
from tzfs.errors import FsError, NoEntry, StoreError
from tzfs.records import Caller, TableMark, encode_table_mark

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from pathlib import Path

    from tzfs.filesystem import Filesystem
    from tzfs.kv import Pairs, TableStore

BULK_BYTES_MIN: Final = 4 << 20
"""Writes of fewer bytes together go through the log: building and taking a table costs about 5 ms."""
_SPAN_BYTES: Final = 64 << 20
"""How far apart the chunks of one mark may lie: reclaim looks at each index in between."""


class Write(NamedTuple):
    """One write(2), see `Filesystem.write`."""

    number: int
    offset: int
    data: bytes
    caller: Caller
    stamp: bool


class Run(NamedTuple):
    """Writes to one file that follow upon each other, as one.

    places: which of the writes, in order. content: of the inode, 0 where there is none.
    stored: the chunk indexes that a table will hold.
    """

    write: Write
    places: list[int]
    content: int
    stored: set[int]


class Pending(NamedTuple):
    """Writes between `begin` and `finish`. tables: by content, what goes into its table."""

    txn: int
    writes: Sequence[Write]
    runs: list[Run]
    tables: dict[int, Pairs]

    def mark(self, content: int) -> TableMark:
        """Return where chunks of a content may lie that nothing names."""
        pairs = self.tables[content]
        return TableMark(self.txn, keys.split_chunk(pairs[0][0])[1], keys.split_chunk(pairs[-1][0])[1])


class Bulk:
    """The large writes of one filesystem; one group of them at a time."""

    def __init__(self, fs: Filesystem, store: TableStore, bytes_min: int = BULK_BYTES_MIN) -> None:
        self._fs = fs
        self._store = store
        self._bytes_min = bytes_min
        self._is_refused = False

    def begin(self, writes: Sequence[Write]) -> Pending | None:
        """Choose what goes into tables and mark that; None if it is not worth it, or there is no room."""
        volume = self._fs.volume
        size = sum(len(write.data) for write in writes)
        quota = volume.superblock.quota_bytes
        if size < self._bytes_min or (quota and volume.counters.stored_bytes + size > quota):
            return None
        joined = _join(writes)
        pending = None if joined is None else self._choose(writes, joined)
        if pending is None or sum(map(_size, pending.tables.values())) < self._bytes_min:
            return None
        marks = {keys.table(content): encode_table_mark(pending.mark(content)) for content in pending.tables}
        try:
            volume.require_room(size)
            volume.store.write(marks)
        except (FsError, StoreError):
            return None
        volume.undisturbed = set(pending.tables)
        return pending

    def _choose(self, writes: Sequence[Write], joined: list[list[int]]) -> Pending:
        fs, txn = self._fs, self._fs.txn
        span = _SPAN_BYTES // fs.chunk_size
        chosen: defaultdict[int, dict[bytes, bytes]] = defaultdict(dict)
        runs = []
        for places in joined:
            first = writes[places[0]]
            write = first._replace(data=b"".join([writes[at].data for at in places]))
            run = Run(write, places, 0, set())
            with contextlib.suppress(NoEntry):
                inode = fs.getattr(write.number)
                if inode.nlink and inode.content not in fs.volume.tables:
                    run = run._replace(content=inode.content)
                    pairs = chosen[inode.content]
                    for index, piece in fs.data.fresh_pieces(
                        fs.versions.live, inode, write.offset, write.data, txn
                    ):
                        key = keys.chunk(inode.content, index, txn)
                        if abs(index - keys.split_chunk(next(iter(pairs), key))[1]) < span:
                            pairs[key] = piece
                            run.stored.add(index)
            runs.append(run)
        tables = {content: sorted(pairs.items()) for content, pairs in chosen.items() if pairs}
        return Pending(txn, writes, runs, tables)

    def build(self, pending: Pending) -> dict[int, Path]:
        """Write and sync the tables, one for each content, and sync the log. Safe in any thread; blocks.

        Raises `StoreError`; `finish` is due then, too, without tables.
        """
        if self._is_refused:
            self._store.make_way()
        tables = self._store.build_tables(list(pending.tables.values()))
        self._store.sync()
        return dict(zip(pending.tables, tables, strict=True))

    def finish(self, pending: Pending, tables: dict[int, Path]) -> list[Exception | None]:
        """Do the writes, and return for each what it raised: `FsError`, `StoreError` or None.

        Those that follow upon each other are one transaction, which names what is in a table and writes all
        else itself; if that fails, each is one.
        """
        taken = self._take(pending, tables)
        results: list[Exception | None] = [None] * len(pending.writes)
        unsettled = set()
        for run in pending.runs:
            stored = run.stored if run.content in taken else ()
            if self._write(run.write, stored) is not None:
                unsettled.add(run.content)
                for at in run.places:
                    results[at] = self._write(pending.writes[at])
        self._unmark(pending, taken & unsettled)
        return results

    def _write(self, write: Write, stored: Collection[int] = ()) -> Exception | None:
        number, offset, data, caller, stamp = write
        try:
            self._fs.write(number, offset, data, caller, stamp=stamp, stored=stored)
        except (FsError, StoreError) as error:
            return error
        return None

    def _take(self, pending: Pending, tables: dict[int, Path]) -> set[int]:
        """Let the store take the tables of contents that are as they were; return these contents."""
        volume = self._fs.volume
        taken = volume.undisturbed & tables.keys() if volume.versions.txn == pending.txn else set()
        volume.undisturbed = set()
        try:
            if taken:
                self._store.take_tables([tables[content] for content in taken])
            self._is_refused = False
        except StoreError:
            taken = set()
            self._is_refused = True
        self._store.drop_tables([path for content, path in tables.items() if content not in taken])
        return taken

    def _unmark(self, pending: Pending, unsettled: set[int]) -> None:
        """Drop the marks, but for contents of which chunks are left to reclaim."""
        volume = self._fs.volume
        volume.tables.update({content: pending.mark(content) for content in unsettled})
        settled: dict[bytes, bytes | None] = {
            keys.table(content): None for content in pending.tables if content not in unsettled
        }
        try:
            if settled:
                volume.store.write(settled)
        except StoreError:
            # The writes are done. What is left of the marks costs reclaim a look.
            volume.tables.update({content: pending.mark(content) for content in pending.tables})


def _size(pairs: Pairs) -> int:
    """Return how many bytes of chunks that are."""
    return sum(len(data) for _, data in pairs)


def _join(writes: Sequence[Write]) -> list[list[int]] | None:
    """Return the places of writes that follow upon each other, file by file; None if any two overlap.

    The kernel cuts what it writes back where it likes, and a chunk that is cut would go through the log.
    """
    joined: list[list[int]] = []
    end = 0
    for at in sorted(range(len(writes)), key=lambda at: (writes[at].number, writes[at].offset)):
        write = writes[at]
        last = writes[joined[-1][-1]] if joined else None
        if last is not None and last.number == write.number:
            if write.offset < end:
                return None
            if write.offset == end and last.caller == write.caller:
                joined[-1].append(at)
                end += len(write.data)
                continue
        joined.append([at])
        end = write.offset + len(write.data)
    return joined
