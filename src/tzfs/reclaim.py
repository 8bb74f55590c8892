"""Reclaim: the background work that removes what no reader can reach.

Four kinds of work, each left behind as a mark by the operation that caused it, so that a crash forgets
none: orphans (inodes without a name that nobody holds), dead contents (what a file held before it was
emptied or removed), deleted snapshots, and chunks that a large write stored and did not come to name. Each
slice is one or a few small transactions; nothing is lost if it stops between any two of them.

Pruning deleted snapshot u reads the change log behind it: a record that u alone saw ended before the next
snapshot n, so its key changed in (u, n]. The cost is what changed, never the tree. All that wait for the same
n are pruned in one pass, behind the first of them.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

from tzfs import failpoints, filedata, inodes, keys
from tzfs.errors import NoEntry, StoreError
from tzfs.keys import SEGMENT_CHUNKS
from tzfs.records import (
    NOBODY,
    Head,
    Slot,
    SlotMap,
    TableMark,
    decode_head,
    encode_table_mark,
    head_payload,
)
from tzfs.versions import SCAN_PAGE, scan_all
from tzfs.volume import Transaction

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tzfs.volume import Volume

_MAPS_A_STEP: Final = 4
"""Maps taken apart in one transaction: up to 256 chunks, about a millisecond of work."""
_ROOM_SLICE: Final = 1024
"""Budget of a slice for which somebody waits."""
_CHUNKS_A_STEP: Final = 32
"""Chunks of a table looked at in one transaction; looking reads their bytes."""

_SEARCH_COST: Final = 8
"""What looking for the past records of one K costs, in records of a slice's budget."""


class Reclaim:
    """What is left to reclaim on one volume, and how."""

    def __init__(self, volume: Volume) -> None:
        self._volume = volume
        self._ready: deque[int] = deque(
            keys.meta_number(key) for key, _ in scan_all(volume.store, *keys.meta_range(b"O"))
        )
        self._prunings = deque(sorted(volume.unpruned))
        self._passing: list[int] = []
        """Deleted snapshots behind which a pass is under way; one deleted meanwhile waits for another."""
        self._cursor = b""
        self._trim_from = 0

    def release(self, numbers: Iterable[int]) -> None:
        """Let those of the inodes go that have no name; nobody holds them any more."""
        get = self._volume.store.get
        self._ready.extend(number for number in numbers if get(keys.orphan(number)) is not None)

    def prune(self, txn: int) -> None:
        """Take up a snapshot that was just deleted."""
        self._prunings.append(txn)

    def backlog(self) -> int:
        """Return how many orphans, dead contents, deleted snapshots and tables wait."""
        volume = self._volume
        return len(self._ready) + len(volume.dead) + len(self._prunings) + len(volume.tables)

    @failpoints.point("reclaim_slice")
    def run_slice(self, budget: int) -> bool:
        """Work off about `budget` records (a few microseconds each); tell whether work is left."""
        if self._volume.versions.is_shut:
            return False
        while budget > 0:
            if self._ready:
                budget -= self._take_orphan()
            elif self._volume.dead:
                budget -= self._take_apart(*next(iter(self._volume.dead.items())))
            elif self._volume.tables:
                budget -= self._drop_unnamed(*next(iter(self._volume.tables.items())))
            elif self._prunings:
                budget -= self._prune_step(budget)
            else:
                return self._trim_log(budget)
        return True

    def run_all(self) -> None:
        """Work off everything, in one go."""
        while self.run_slice(_ROOM_SLICE):
            pass

    def make_room(self, size: int) -> None:
        """Run ahead of its time when the quota would refuse bytes that removed files still hold."""
        volume = self._volume
        quota = volume.superblock.quota_bytes
        while quota and volume.counters.stored_bytes + size > quota and self.run_slice(_ROOM_SLICE):
            pass

    def _take_orphan(self) -> int:
        """Remove the next orphan. One whose removal the store refused waits for its next turn."""
        number = self._ready.popleft()
        try:
            return self._remove_orphan(number)
        except StoreError:
            self._ready.append(number)
            raise

    def _remove_orphan(self, number: int) -> int:
        """Remove an inode without a name; return the records touched."""
        as_of = inodes.buried_in(Transaction(self._volume, NOBODY), number)
        if as_of is None:
            return 1
        txn = Transaction(self._volume, NOBODY, as_of)
        try:
            filedata.remove_inode(txn, inodes.load(txn, number))
        except NoEntry:
            txn.delete_raw(keys.orphan(number))
        txn.commit()
        return len(txn.staged)

    def _take_apart(self, content: int, as_of: int) -> int:
        """Remove some maps of a dead content with their chunks; return the records touched."""
        txn = Transaction(self._volume, NOBODY, as_of)
        page = txn.scan(*keys.chunk_maps(content), _MAPS_A_STEP)
        for k, payload in page:
            _, segment = keys.split_chunk_map(k)
            txn.remove(k)
            for at, slot in enumerate(SlotMap(payload)):
                if slot.birth:
                    filedata.release(txn, k, content, segment * SEGMENT_CHUNKS + at, slot)
        if len(page) < _MAPS_A_STEP:
            txn.unmark_dead(content)
        txn.commit()
        return len(txn.staged)

    def _drop_unnamed(self, content: int, mark: TableMark) -> int:
        """Remove some chunks of a table, those that no record names; return the records touched.

        They are in no total: those are moved by the record that names a chunk.
        """
        txn = Transaction(self._volume, NOBODY)
        rest = mark._replace(first=mark.first + _CHUNKS_A_STEP)
        for index in range(mark.first, min(rest.first, mark.last + 1)):
            key = keys.chunk(content, index, mark.birth)
            if txn.get_raw(key) is not None and not filedata.is_named(txn, content, index, mark.birth):
                txn.delete_raw(key)
        if rest.first > mark.last:
            txn.delete_raw(keys.table(content))
            txn.commit()
            del self._volume.tables[content]
        else:
            txn.put_raw(keys.table(content), encode_table_mark(rest))
            txn.commit()
            self._volume.tables[content] = rest
        return _CHUNKS_A_STEP + len(txn.staged)

    def _prune_step(self, budget: int) -> int:
        """Prune behind deleted snapshots for some of the change log; return the records touched.

        A K costs what it is looked for with, and what goes with it: of a map up to 64 chunks. So it is K by K
        that the budget decides whether another one is begun.
        """
        versions = self._volume.versions
        if not self._passing:
            following = versions.after(self._prunings[0])
            self._passing = [txn for txn in self._prunings if versions.after(txn) == following]
        gone = min(self._passing)
        following = versions.after(gone)
        lower, upper = keys.log_range(gone + 1, following or versions.txn)
        txn = Transaction(self._volume, NOBODY)
        limit = min(SCAN_PAGE // 4, max(1, budget // _SEARCH_COST))
        page = self._volume.store.scan(max(lower, self._cursor), upper, limit)
        # A K that several txns touched is met several times, and what is staged cannot be seen by the search.
        searched: set[bytes] = set()
        done = cost = 0
        while done < len(page) and cost < budget:
            k = keys.split_log(page[done][0])[1]
            if k not in searched:
                self._drop_unseen(txn, k, gone, following)
                searched.add(k)
            done += 1
            cost = done * _SEARCH_COST + len(txn.staged)
        if done == len(page) < limit:
            for pruned in self._passing:
                txn.delete_raw(keys.pruning(pruned))
            self._cursor = b""
            txn.commit()
            self._volume.unpruned.difference_update(self._passing)
            self._prunings = deque(txn for txn in self._prunings if txn in self._volume.unpruned)
            self._passing = []
        else:
            txn.commit()
            self._cursor = page[done - 1][0] + b"\0"
        return cost + 1

    def _drop_unseen(self, txn: Transaction, k: bytes, gone: int, following: int) -> None:
        """Stage the end of the past records of K around `gone` that no snapshot sees any more."""
        lower, upper = keys.past_from(k, gone)
        if following:
            upper = keys.past(k, following)
        for key, value in scan_all(self._volume.store, lower, upper):
            head = decode_head(value)
            _, until = keys.split_past(key)
            if not txn.versions.sees(head.birth, until):
                txn.delete_raw(key)
                self._drop_chunks(txn, k, head, until)

    def _drop_chunks(self, txn: Transaction, k: bytes, dropped: Head, until: int) -> None:
        """Stage the end of the chunks that the dropped record alone named."""
        named = filedata.named_chunks(k, dropped.payload)
        if not named:
            return
        versions = txn.versions
        oldest = min(slot.birth for _, _, slot in named)
        kept = self._named(txn, k, 0 if oldest <= versions.rollback_txn else until + 1)
        for content, index, slot in named:
            if (content, index, slot.birth) in kept:
                continue
            if slot.birth > versions.rollback_txn and versions.sees(slot.birth, dropped.birth - 1):
                continue
            if self._volume.awaits_pruning(slot.birth, dropped.birth - 1) and filedata.named_in_past(
                txn, k, content, index, slot.birth
            ):
                continue
            txn.delete_raw(keys.chunk(content, index, slot.birth))
            txn.stored_bytes -= slot.length

    def _named(self, txn: Transaction, k: bytes, from_txn: int) -> set[tuple[int, int, int]]:
        """Return (content, index, birth) of the chunks that later records of K name.

        That is the next record alone when none can be skipped, and all of them from txn 0.
        """
        lower, upper = keys.past_from(k, from_txn)
        everything = from_txn == 0
        payloads = [
            head_payload(value) for _, value in txn.scan_raw(lower, upper, 1 << 20 if everything else 1)
        ]
        if everything or not payloads:
            live = txn.load(k)
            if live is not None:
                payloads.append(live)
        chunks: set[tuple[int, int, int]] = set()
        for payload in payloads:
            slots: list[tuple[int, int, Slot]] = filedata.named_chunks(k, payload)
            chunks.update((content, index, slot.birth) for content, index, slot in slots)
        return chunks

    def _trim_log(self, budget: int) -> bool:
        """Remove the change log of txns older than the oldest snapshot; tell whether some is left.

        Nothing asks for it any more: diff and rollback begin at a snapshot, pruning behind one.
        """
        versions = self._volume.versions
        oldest = versions.sealed[0] if versions.sealed else versions.txn
        if self._trim_from >= oldest:
            return False
        lower, upper = keys.log_range(self._trim_from, oldest - 1)
        page = self._volume.store.scan(lower, upper, budget)
        if page:
            self._volume.store.write({key: None for key, _ in page})
            self._trim_from = keys.split_log(page[-1][0])[0]
        if len(page) < budget:
            self._trim_from = oldest
            return False
        return True
