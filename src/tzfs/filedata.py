"""File content: chunks, the maps that name them, and what may be thrown away.

A file is cut into chunks of one size. A chunk's bytes lie under (content, index, birth) and are never
changed outside the txn of their birth; the *slot* of a chunk, its birth and length, says which bytes count.
The slot of chunk 0 is in the inode, so that a small file is two records; the others are in *maps* of 64,
versioned like everything else. A hole has no chunk. A chunk ends where its data ends, the rest reads as
zeros, and no chunk holds a byte beyond the file's size: that is why shrinking cuts the last one.

Who may still see chunk c of some slot when the slot moves on? Records that name it follow upon each other
from its birth to the change, so exactly the snapshots in between; that is one bisection. Only a rollback
breaks this, for it makes an old record live again: for chunks older than the last rollback, the past
records of that key are looked through instead.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tzfs import keys
from tzfs.errors import CorruptRecord, FileTooBig, StoreError
from tzfs.keys import SEGMENT_CHUNKS
from tzfs.records import (
    FILE_SIZE_MAX,
    HOLE,
    Inode,
    Slot,
    SlotMap,
    decode_head,
    decode_inode,
    head_payload,
)
from tzfs.versions import scan_all

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from tzfs.versions import Reader
    from tzfs.volume import Transaction


_RUN_MIN: Final = 4
_RUN_MAX: Final = 16
"""Chunks that one scan reads. Where chunks of another txn turn up in it, that many were read in vain."""


def named_chunks(k: bytes, payload: bytes) -> list[tuple[int, int, Slot]]:
    """Return (content, index, slot) of every chunk that a record names: inodes and maps name chunks."""
    kind = k[:1]
    if kind == keys.INODE:
        inode = decode_inode(keys.number_of(k), payload)
        if inode.chunk0_birth:
            return [(inode.content, 0, Slot(inode.chunk0_birth, inode.chunk0_length))]
    elif kind == keys.MAP:
        content, segment = keys.split_chunk_map(k)
        first = segment * SEGMENT_CHUNKS
        return [(content, first + at, slot) for at, slot in enumerate(SlotMap(payload)) if slot.birth]
    return []


def release(txn: Transaction, k: bytes, content: int, index: int, slot: Slot) -> None:
    """Stage the end of a chunk that the head of `k` names no more, unless a past record still does.

    Those are exactly the snapshots in between, but for a rollback, and but for snapshots that are deleted and
    not pruned yet: their past records still stand, and reclaim frees a chunk with the last that names it.
    """
    versions, last = txn.versions, txn.txn - 1
    seen = versions.sees(slot.birth, last)
    if seen and slot.birth > versions.rollback_txn:
        return
    if seen or txn.volume.awaits_pruning(slot.birth, last):
        chunk = (content, index, slot.birth)
        if _named_by_old_head(txn, k, chunk) or named_in_past(txn, k, *chunk):
            return
    txn.delete_raw(keys.chunk(content, index, slot.birth))
    txn.stored_bytes -= slot.length


def _named_by_old_head(txn: Transaction, k: bytes, chunk: tuple[int, int, int]) -> bool:
    """Tell whether the head of `k` before this transaction names a chunk and is going to be past."""
    value = txn.store.get(keys.head(k))
    if value is None:
        return False
    head = decode_head(value)
    if not txn.versions.sees(head.birth, txn.txn - 1):
        return False
    return any((named[0], named[1], named[2].birth) == chunk for named in named_chunks(k, head.payload))


def named_in_past(txn: Transaction, k: bytes, content: int, index: int, birth: int) -> bool:
    """Tell whether any past record of `k` names that chunk. Costs the length of that key's history."""
    lower, upper = keys.past_from(k, 0)
    while page := txn.scan_raw(lower, upper, 64):
        for _, value in page:
            for named in named_chunks(k, head_payload(value)):
                if named[0] == content and named[1] == index and named[2].birth == birth:
                    return True
        lower = page[-1][0] + b"\0"
    return False


def is_named(txn: Transaction, content: int, index: int, birth: int) -> bool:
    """Tell whether any record, live or past, names a chunk beyond the first."""
    k = keys.chunk_map(content, index // SEGMENT_CHUNKS)
    slots = _load_map(txn, content, index // SEGMENT_CHUNKS)
    return slots[index % SEGMENT_CHUNKS].birth == birth or named_in_past(txn, k, content, index, birth)


def _owner(inode: Inode, index: int) -> bytes:
    """Return the K whose record holds the slot of chunk `index`."""
    if index == 0:
        return keys.inode(inode.number)
    return keys.chunk_map(inode.content, index // SEGMENT_CHUNKS)


class _Slots:
    """The slots of one inode, edited within a transaction; maps are loaded when first needed."""

    def __init__(self, txn: Transaction, inode: Inode) -> None:
        self.txn = txn
        self.inode = inode
        self.chunk0 = Slot(inode.chunk0_birth, inode.chunk0_length)
        self.stored_bytes = inode.stored_bytes
        self.maps: dict[int, SlotMap] = {}
        self.touched: set[int] = set()
        txn.volume.undisturbed.discard(inode.content)

    def _map(self, segment: int) -> SlotMap:
        slots = self.maps.get(segment)
        if slots is None:
            slots = self.maps[segment] = _load_map(self.txn, self.inode.content, segment)
        return slots

    def get(self, index: int) -> Slot:
        if index == 0:
            return self.chunk0
        return self._map(index // SEGMENT_CHUNKS)[index % SEGMENT_CHUNKS]

    def _set(self, index: int, old: Slot, new: Slot) -> None:
        """Exchange a slot, with the totals, and let go of the old chunk unless it was written over."""
        txn = self.txn
        if old.birth and (new.birth != old.birth):
            release(txn, _owner(self.inode, index), self.inode.content, index, old)
            txn.stored_bytes += new.length
        else:
            txn.stored_bytes += new.length - old.length
        self.stored_bytes += new.length - old.length
        if index == 0:
            self.chunk0 = new
        else:
            segment = index // SEGMENT_CHUNKS
            self.maps[segment][index % SEGMENT_CHUNKS] = new
            self.touched.add(segment)

    def put(self, index: int, data: bytes) -> None:
        """Stage new bytes for a chunk, in place when it was born in this txn."""
        self.txn.put_raw(keys.chunk(self.inode.content, index, self.txn.txn), data)
        self.name(index, len(data))

    def name(self, index: int, length: int) -> None:
        """Stage that a chunk's bytes of this txn count, which are there already."""
        self._set(index, self.get(index), Slot(self.txn.txn, length))

    def clear(self, index: int) -> None:
        """Stage a hole."""
        old = self.get(index)
        if old.birth:
            self._set(index, old, HOLE)

    def clear_from(self, index: int) -> None:
        """Stage holes for chunk `index` and all beyond; index is at least 1."""
        lower, upper = keys.chunk_maps(self.inode.content, index // SEGMENT_CHUNKS)
        # Collected before anything is staged: a scan merges with all that is staged already.
        for k, payload in list(scan_all(self.txn, lower, upper)):
            _, segment = keys.split_chunk_map(k)
            if segment not in self.maps:
                self.maps[segment] = SlotMap(payload)
            base = segment * SEGMENT_CHUNKS
            for at in range(max(index - base, 0), SEGMENT_CHUNKS):
                self.clear(base + at)

    def finish(self, size: int) -> Inode:
        """Stage the maps and return the inode with its slot, its bytes and a size; the caller saves it."""
        for segment in self.touched:
            k = keys.chunk_map(self.inode.content, segment)
            if self.maps[segment].is_empty:
                self.txn.remove(k)
            else:
                self.txn.save(k, self.maps[segment].encode())
        if self.inode.nlink:
            self.txn.live_bytes += self.stored_bytes - self.inode.stored_bytes
        birth, length = self.chunk0
        return self.inode._replace(
            chunk0_birth=birth, chunk0_length=length, stored_bytes=self.stored_bytes, size=size
        )


class FileData:
    """The content of the files of one filesystem; `chunk_size` in bytes, a power of two."""

    def __init__(self, chunk_size: int) -> None:
        self.chunk_size = chunk_size

    def _pieces(self, offset: int, size: int) -> Iterator[tuple[int, int, int]]:
        """Yield (index, start, stop) within each chunk that [offset, offset + size) touches."""
        chunk_size = self.chunk_size
        end = offset + size
        for index in range(offset // chunk_size, -(-end // chunk_size)):
            base = index * chunk_size
            yield index, max(offset - base, 0), min(end - base, chunk_size)

    def read(self, reader: Reader, inode: Inode, offset: int, size: int) -> bytes:
        """Return the bytes of [offset, offset + size), shorter only at the end of the file."""
        size = min(size, inode.size - offset)
        if size <= 0:
            return b""
        chunk_size, end = self.chunk_size, offset + size
        first = offset // chunk_size
        slots = _load_slots(reader, inode, first, (end - 1) // chunk_size)
        parts = _load_chunks(reader, inode.content, first, slots)
        for at, part in enumerate(parts):
            wanted = min(chunk_size, end - (first + at) * chunk_size)
            if len(part) != wanted:
                parts[at] = part[:wanted].ljust(wanted, b"\0")
        parts[0] = parts[0][offset - first * chunk_size :]
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def fresh_pieces(
        self, reader: Reader, inode: Inode, offset: int, data: bytes, txn: int
    ) -> Iterator[tuple[int, bytes]]:
        """Yield (index, bytes) of the chunks of a write that need nothing of what is there.

        They replace all that counts of the old chunk, and no bytes of this txn are there yet. Never chunk 0.
        """
        maps: dict[int, SlotMap] = {}
        for index, start, stop in self._pieces(offset, len(data)):
            segment = index // SEGMENT_CHUNKS
            if index == 0 or start:
                continue
            if segment not in maps:
                maps[segment] = _load_map(reader, inode.content, segment)
            birth, length = maps[segment][index % SEGMENT_CHUNKS]
            if birth != txn and length <= stop:
                at = index * self.chunk_size - offset
                yield index, data[at : at + stop]

    def write(
        self, txn: Transaction, inode: Inode, offset: int, data: bytes, stored: Collection[int] = ()
    ) -> Inode:
        """Stage `data` at `offset` and return the inode with its new size; the caller stamps and saves it.

        stored: indexes of the `fresh_pieces` whose bytes the store has already, so they are only named.
        Raises `FileTooBig`.
        """
        end = offset + len(data)
        if end > FILE_SIZE_MAX:
            raise FileTooBig(f"{end} bytes")
        slots = _Slots(txn, inode)
        view = memoryview(data)
        for index, start, stop in self._pieces(offset, len(data)):
            if index in stored:
                slots.name(index, stop)
                continue
            at = index * self.chunk_size + start - offset
            piece = bytes(view[at : at + stop - start])
            slot = slots.get(index)
            if slot.birth and (start > 0 or stop < slot.length):
                old = _chunk(txn, inode.content, index, slot)
                piece = old[:start].ljust(start, b"\0") + piece + old[stop:]
            elif start:
                piece = bytes(start) + piece
            slots.put(index, piece)
        return slots.finish(max(end, inode.size))

    def truncate(self, txn: Transaction, inode: Inode, size: int) -> Inode:
        """Stage a new size and return the inode with it; the caller stamps and saves it.

        To zero costs the same whatever the size was: a file of more than one chunk gets a new, empty
        content, and reclaim takes the old one apart.
        """
        if size > FILE_SIZE_MAX:
            raise FileTooBig(f"{size} bytes")
        if size == 0 and has_maps(inode):
            inode = abandon_content(txn, inode)
        elif size < inode.size and inode.stored_bytes:
            return self._cut(txn, inode, size)
        return inode._replace(size=size)

    def _cut(self, txn: Transaction, inode: Inode, size: int) -> Inode:
        slots = _Slots(txn, inode)
        last, keep = divmod(size, self.chunk_size)
        if keep:
            slot = slots.get(last)
            if slot.length > keep:
                slots.put(last, _chunk(txn, inode.content, last, slot)[:keep])
            last += 1
        elif last == 0:
            slots.clear(0)
        if has_maps(inode):
            slots.clear_from(max(last, 1))
        return slots.finish(size)


def _load_map(reader: Reader, content: int, segment: int) -> SlotMap:
    """Return the slots of a segment, holes where there is no map."""
    return SlotMap(reader.load(keys.chunk_map(content, segment)))


def _load_slots(reader: Reader, inode: Inode, first: int, last: int) -> list[Slot]:
    """Return the slots of chunks `first` to `last`."""
    slots = [Slot(inode.chunk0_birth, inode.chunk0_length)] if first == 0 else []
    index = first + len(slots)
    while index <= last:
        segment, start = divmod(index, SEGMENT_CHUNKS)
        stop = min(SEGMENT_CHUNKS, last + 1 - segment * SEGMENT_CHUNKS)
        slots += _load_map(reader, inode.content, segment).slots(start, stop)
        index += stop - start
    return slots


def _load_chunks(reader: Reader, content: int, first: int, slots: list[Slot]) -> list[bytes]:
    """Return the bytes that slots of consecutive chunks name, nothing for a hole."""
    chunks: list[bytes] = []
    while len(slots) - len(chunks) >= _RUN_MIN:
        run = _load_run(reader, content, first + len(chunks), slots[len(chunks) : len(chunks) + _RUN_MAX])
        if not run:
            break
        chunks += run
    for at in range(len(chunks), len(slots)):
        chunks.append(_chunk(reader, content, first + at, slots[at]) if slots[at].birth else b"")
    return chunks


def _load_run(reader: Reader, content: int, first: int, slots: list[Slot]) -> list[bytes]:
    """Return the bytes of consecutive chunks in one scan, or nothing where that does not bring just those.

    It does for a file that was written in one txn and not again since. A scan costs a third less than as many
    gets, and reads ahead.
    """
    birth = slots[0].birth
    if not birth or any(slot.birth != birth for slot in slots):
        return []
    last = keys.chunk(content, first + len(slots) - 1, birth)
    try:
        pairs = reader.scan_raw(keys.chunk(content, first, birth), last + b"\0", len(slots))
    except StoreError:
        return []  # a get says which chunk it is
    sizes = [slot.length for slot in slots]
    if [len(data) for _, data in pairs] != sizes or any(key[-8:] != last[-8:] for key, _ in pairs):
        return []
    return [data for _, data in pairs]


def has_maps(inode: Inode) -> bool:
    """Tell whether the inode's content has chunks beyond the first, and so at least one map."""
    return inode.stored_bytes > inode.chunk0_length


def _chunk(reader: Reader, content: int, index: int, slot: Slot) -> bytes:
    """Return the bytes that a slot names. Raises `CorruptRecord` when the store has not just these."""
    data = reader.get_raw(keys.chunk(content, index, slot.birth))
    if data is None or len(data) != slot.length:
        found = "missing" if data is None else f"{len(data)} bytes"
        key = keys.chunk(content, index, slot.birth).hex()
        raise CorruptRecord(f"chunk {index} of content {content}: {found}, not {slot.length} (key {key})")
    return data


def abandon_content(txn: Transaction, inode: Inode) -> Inode:
    """Return the inode with a new, empty content, and stage the mark by which reclaim finds the old."""
    if inode.chunk0_birth:
        slot = Slot(inode.chunk0_birth, inode.chunk0_length)
        release(txn, keys.inode(inode.number), inode.content, 0, slot)
    txn.volume.undisturbed.discard(inode.content)
    txn.mark_dead(inode.content)
    if inode.nlink:
        txn.live_bytes -= inode.stored_bytes
    return inode._replace(content=txn.allocate_number(), chunk0_birth=0, chunk0_length=0, stored_bytes=0)


def remove_inode(txn: Transaction, inode: Inode) -> None:
    """Stage the end of an orphan: its attributes, its first chunk, and the mark for the rest of its content.

    The transaction is as of the txn in which the last name went. The orphan's mark goes too.
    """
    k = keys.inode(inode.number)
    if inode.chunk0_birth:
        release(txn, k, inode.content, 0, Slot(inode.chunk0_birth, inode.chunk0_length))
    if has_maps(inode):
        txn.mark_dead(inode.content)
    txn.remove(k)
    for attribute, _ in list(txn.scan(*keys.xattrs(inode.number), 1 << 20)):
        txn.remove(attribute)
    txn.delete_raw(keys.orphan(inode.number))
