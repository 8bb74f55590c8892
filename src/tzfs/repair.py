"""Repair: deriving again what can be derived, and gathering in lost+found what cannot be put back.

Inodes, entries and chunks are the truth; link counts, sizes of directories, marks, totals follow from them.
Everything is decided in memory and written as one atomic batch: a crash in between changes nothing. What is
done to a live record goes through the versions: a snapshot from before shows it as it was.
"""

from __future__ import annotations

import stat
from collections import Counter, defaultdict
from typing import Final

from tzfs import inodes, keys
from tzfs.errors import CorruptRecord
from tzfs.filedata import named_chunks
from tzfs.filesystem import Filesystem
from tzfs.keys import SEGMENT_CHUNKS, EntryKey
from tzfs.records import (
    CHANGED,
    HOLE,
    NOBODY,
    Counters,
    Inode,
    LogRecord,
    Slot,
    SlotMap,
    decode_entry,
    decode_head,
    decode_inode,
    encode_counters,
    encode_head,
    encode_inode,
    encode_log,
    encode_mark,
)
from tzfs.versions import scan_all
from tzfs.volume import ROOT, Transaction

LOST_AND_FOUND: Final = b"lost+found"


def repair(fs: Filesystem) -> list[str]:
    """Mend what can be mended, and return what was done, a line each. The caller opens the store anew."""
    return _Repair(fs).run()


class _Repair:
    """The live tree as it is found, and as it will be."""

    def __init__(self, fs: Filesystem) -> None:
        self._fs = fs
        self._txn = Transaction(fs.volume, NOBODY)
        self._done: list[str] = []
        self._inodes: dict[int, Inode] = {}
        self._entries: dict[EntryKey, int] = {}
        self._maps: dict[int, dict[int, SlotMap]] = defaultdict(dict)
        self._stored: dict[tuple[int, int, int], int] = {}
        self._lost: set[int] = set()

    def run(self) -> list[str]:
        """Do everything."""
        self._load()
        self._require_root()
        self._drop_bad_entries()
        self._drop_lost_chunks()
        self._gather()
        self._settle()
        self._drop_loose()
        self._log_changes()
        self._count()
        self._fs.store.write(self._txn.staged)
        return self._done

    def _say(self, text: str) -> None:
        self._done.append(text)

    def _load(self) -> None:
        store = self._fs.store
        for key, value in scan_all(store, keys.DATA, bytes((keys.DATA[0] + 1,)), page=64):
            self._stored[keys.split_chunk(key)] = len(value)
        for key, value in scan_all(store, keys.HEAD, bytes((keys.HEAD[0] + 1,))):
            k = key[1:]
            try:
                self._collect(k, decode_head(value).payload)
            except CorruptRecord as error:
                self._txn.delete_raw(key)
                self._say(f"record {k.hex()} was removed: {error}")

    def _collect(self, k: bytes, payload: bytes) -> None:
        kind = k[:1]
        if kind == keys.INODE:
            self._inodes[keys.number_of(k)] = decode_inode(keys.number_of(k), payload)
        elif kind == keys.ENTRY:
            self._entries[keys.split_entry(k)] = decode_entry(payload)
        elif kind == keys.MAP:
            content, segment = keys.split_chunk_map(k)
            self._maps[content][segment] = SlotMap(payload)

    def _require_root(self) -> None:
        root = self._inodes.get(ROOT)
        if root is None or not root.is_directory:
            blank = Inode(0, stat.S_IFDIR, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, b"")
            root = inodes.create(self._txn, blank, stat.S_IFDIR | 0o755)
            self._inodes[ROOT] = root._replace(number=ROOT, parent=ROOT, content=ROOT)
            self._say("the root directory was lost and is a new one")

    def _drop_bad_entries(self) -> None:
        """Remove entries that name nothing or stand nowhere, and all names of a directory but one."""
        named: set[int] = set()
        for entry, number in sorted(self._entries.items()):
            directory, inode = self._inodes.get(entry.parent), self._inodes.get(number)
            if inode is None:
                reason = f"inode {number} is lost"
            elif directory is None or not directory.is_directory:
                reason = f"its directory {entry.parent} is lost"
            elif number == ROOT or (inode.is_directory and number in named):
                reason = "a directory has one name"
            elif entry.cookie != self._fs.directories.cookie(entry.name):
                reason = "it stands where nobody finds it"
            else:
                named.add(number)
                continue
            self._remove_entry(entry)
            self._say(f"the name {entry.name!r} in directory {entry.parent} was removed: {reason}")

    def _remove_entry(self, entry: EntryKey) -> None:
        del self._entries[entry]
        self._txn.remove(keys.entry(*entry))

    def _drop_lost_chunks(self) -> None:
        """Make holes of chunks whose bytes are gone; such a file belongs into lost+found."""
        for number, inode in list(self._inodes.items()):
            if not inode.is_regular:
                continue
            slot = Slot(inode.chunk0_birth, inode.chunk0_length)
            if slot.birth and not self._is_stored(inode, 0, slot):
                self._inodes[number] = inode._replace(chunk0_birth=0, chunk0_length=0)
                self._lose(number, 0)
            for segment, slots in self._maps.get(inode.content, {}).items():
                for at, slot in enumerate(slots):
                    index = segment * SEGMENT_CHUNKS + at
                    if slot.birth and not self._is_stored(inode, index, slot):
                        slots[at] = HOLE
                        self._txn.save(keys.chunk_map(inode.content, segment), slots.encode())
                        self._lose(number, index)

    def _is_stored(self, inode: Inode, index: int, slot: Slot) -> bool:
        stored = self._stored.get((inode.content, index, slot.birth))
        return stored == slot.length and index * self._fs.chunk_size + slot.length <= inode.size

    def _lose(self, number: int, index: int) -> None:
        self._lost.add(number)
        offset = index * self._fs.chunk_size
        self._say(f"inode {number} has lost its bytes from {offset} on, one chunk: they read as zeros")

    def _gather(self) -> None:
        """Give those that cannot be reached, or have lost content, a name in lost+found."""
        places: dict[int, list[EntryKey]] = defaultdict(list)
        for entry, number in self._entries.items():
            places[number].append(entry)
        gone = set()
        for number, inode in self._inodes.items():
            was_orphan = inode.nlink == 0 and not places[number]
            if (
                number != ROOT
                and not was_orphan
                and (number in self._lost or not self._is_rooted(number, places))
            ):
                gone.add(number)
        for number in sorted(gone):
            parents = [entry.parent for entry in places[number]]
            if number not in self._lost and parents and not gone.isdisjoint(parents):
                continue  # comes along with its directory
            for entry in places[number]:
                self._remove_entry(entry)
            names = [entry.name for entry in places[number]]
            self._enter(
                self._lost_and_found(), number, b"#%d%s" % (number, b"." + names[0] if names else b"")
            )

    def _is_rooted(self, number: int, places: dict[int, list[EntryKey]]) -> bool:
        """Tell whether a way up leads from an inode to the root."""
        seen = set()
        waiting = [number]
        while waiting:
            at = waiting.pop()
            if at == ROOT:
                return True
            if at not in seen:
                seen.add(at)
                waiting += [entry.parent for entry in places.get(at, [])]
        return False

    def _enter(self, parent: int, number: int, name: bytes) -> None:
        name = name[:255]
        self._entries[EntryKey(parent, self._fs.directories.cookie(name), name)] = number
        self._fs.directories.add(self._txn, self._inodes[parent], name, self._inodes[number])
        if parent != ROOT:
            self._say(
                f"inode {number} is {LOST_AND_FOUND.decode()}/{name.decode(errors='backslashreplace')} now"
            )

    def _lost_and_found(self) -> int:
        """Return the directory, made when it is first needed."""
        entry = EntryKey(ROOT, self._fs.directories.cookie(LOST_AND_FOUND), LOST_AND_FOUND)
        number = self._entries.get(entry)
        if number is None or not self._inodes[number].is_directory:
            self._txn.next_number = max(self._txn.next_number, *self._inodes, *self._maps) + 1
            inode = inodes.create(self._txn, self._inodes[ROOT], stat.S_IFDIR | 0o700)
            number = inode.number
            self._inodes[number] = inode
            self._enter(ROOT, number, LOST_AND_FOUND)
        return number

    def _settle(self) -> None:
        """Let nlink, sizes, places, stored bytes and marks follow from the entries and chunks."""
        places: dict[int, list[EntryKey]] = defaultdict(list)
        listed: Counter[int] = Counter()
        subdirectories: Counter[int] = Counter()
        for entry, number in sorted(self._entries.items()):
            places[number].append(entry)
            listed[entry.parent] += 1
            subdirectories[entry.parent] += self._inodes[number].is_directory
        for key, _ in scan_all(self._fs.store, *keys.meta_range(b"O")):
            if keys.meta_number(key) not in self._inodes:
                self._txn.delete_raw(key)
                self._say(f"inode {keys.meta_number(key)} is lost and was left to reclaim")
        for number, inode in self._inodes.items():
            found = self._settled(inode, places[number], listed[number], subdirectories[number])
            self._inodes[number] = found
            if found.nlink == 0 and self._fs.store.get(keys.orphan(number)) is None:
                self._txn.put_raw(keys.orphan(number), encode_mark(self._txn.txn))
                self._say(f"inode {number} has no name and is left to reclaim")
            elif found.nlink:
                self._txn.delete_raw(keys.orphan(number))
            if self._txn.load(keys.inode(number)) is None or found != inodes.load(self._txn, number):
                inodes.save(self._txn, found)
                if found.nlink != inode.nlink:
                    self._say(f"inode {number} has nlink {found.nlink} and not {inode.nlink}")
                else:
                    self._say(f"inode {number} counts itself anew")

    def _settled(self, inode: Inode, places: list[EntryKey], listed: int, subdirectories: int) -> Inode:
        if inode.is_directory:
            is_named = bool(places) or inode.number == ROOT
            place = (places[0].parent, places[0].cookie) if places else (inode.parent, inode.cookie)
            return inode._replace(
                nlink=2 + subdirectories if is_named else 0, size=listed, parent=place[0], cookie=place[1]
            )
        if not any(entry[:2] == (inode.parent, inode.cookie) for entry in places):
            inode = inode._replace(parent=0, cookie=0)
        stored = inode.chunk0_length
        for slots in self._maps.get(inode.content, {}).values() if inode.is_regular else ():
            stored += sum(slot.length for slot in slots)
        special = stat.S_ISCHR(inode.mode) or stat.S_ISBLK(inode.mode)
        rdev = inode.rdev if special else 0
        return inode._replace(nlink=len(places), stored_bytes=stored, rdev=rdev)

    def _drop_loose(self) -> None:
        """Remove what belongs to nothing: attributes, maps, past records that no snapshot sees, chunks."""
        txn, store = self._txn, self._fs.store
        for key, _ in scan_all(store, keys.HEAD + keys.XATTR, keys.HEAD + bytes((keys.XATTR[0] + 1,))):
            if keys.number_of(key[1:]) not in self._inodes:
                txn.remove(key[1:])
                self._say(f"an extended attribute of the lost inode {keys.number_of(key[1:])} was removed")
        used = {inode.content for inode in self._inodes.values() if inode.is_regular}
        for content in self._maps.keys() - used - self._fs.volume.dead.keys():
            txn.mark_dead(content)
            self._say(f"content {content} belongs to nobody and is left to reclaim")
        for content in used & self._fs.volume.dead.keys():
            txn.unmark_dead(content)
            self._say(f"content {content} is in use, and was marked as dead")
        named = self._named_in_past()
        for inode in self._inodes.values():
            named.update((c, at, slot.birth) for c, at, slot in self._named_by(inode))
        for content, maps in self._maps.items():
            for segment, slots in maps.items():
                first = segment * SEGMENT_CHUNKS
                named.update((content, first + at, slot.birth) for at, slot in enumerate(slots))
        for chunk in self._stored.keys() - named:
            txn.delete_raw(keys.chunk(*chunk))
            del self._stored[chunk]
            self._say(f"chunk {chunk[1]} of content {chunk[0]} was named by no record and removed")

    def _named_by(self, inode: Inode) -> list[tuple[int, int, Slot]]:
        slot = Slot(inode.chunk0_birth, inode.chunk0_length)
        return [(inode.content, 0, slot)] if slot.birth else []

    def _named_in_past(self) -> set[tuple[int, int, int]]:
        """Mend the past, that which this repair supersedes included; return the chunks that it names."""
        named: set[tuple[int, int, int]] = set()
        past = dict(scan_all(self._fs.store, keys.PAST, bytes((keys.PAST[0] + 1,))))
        past |= {
            key: old for key, old in self._txn.staged.items() if key[:1] == keys.PAST and old is not None
        }
        for key, value in past.items():
            k, until = keys.split_past(key)
            try:
                mended = self._mended_past(k, until, value)
            except CorruptRecord as error:
                mended = None
                self._say(f"past record {key.hex()} was removed: {error}")
            if mended is None:
                self._txn.delete_raw(key)
                continue
            if mended != value:
                self._txn.put_raw(key, mended)
                self._say(f"past record {key.hex()} has lost bytes: they read as zeros")
            chunks = named_chunks(k, decode_head(mended).payload)
            named.update((content, index, slot.birth) for content, index, slot in chunks)
        return named

    def _mended_past(self, k: bytes, until: int, value: bytes) -> bytes | None:
        """Return a past record without chunks that are lost; None if no snapshot can use it."""
        head = decode_head(value)
        versions = self._fs.versions
        if not head.birth <= until < self._fs.txn or not versions.sees(head.birth, until):
            return None
        if k[:1] == keys.ENTRY:
            snapshot = versions.at(versions.before(until + 1))
            found = snapshot.load(keys.inode(decode_entry(head.payload)))
            if found is None or decode_inode(0, found).nlink == 0:
                raise CorruptRecord(f"{keys.split_entry(k).name!r} names an inode that is lost")
        lost = {
            index
            for content, index, slot in named_chunks(k, head.payload)
            if self._stored.get((content, index, slot.birth)) != slot.length
        }
        if not lost:
            return value
        if k[:1] == keys.INODE:
            inode = decode_inode(keys.number_of(k), head.payload)
            payload = encode_inode(inode._replace(chunk0_birth=0, chunk0_length=0))
        else:
            slots = SlotMap(head.payload)
            first = keys.split_chunk_map(k)[1] * SEGMENT_CHUNKS
            for at in range(SEGMENT_CHUNKS):
                if first + at in lost:
                    slots[at] = HOLE
            payload = slots.encode()
        return encode_head(head._replace(payload=payload))

    def _log_changes(self) -> None:
        """Log the changes that the log does not know, so that diff and rollback see them."""
        sealed = self._fs.versions.sealed
        oldest = sealed[0] if sealed else self._fs.txn
        for key, value in scan_all(self._fs.store, keys.HEAD, bytes((keys.HEAD[0] + 1,))):
            if key in self._txn.staged:
                continue
            birth = decode_head(value).birth
            line = keys.log(birth, key[1:])
            if birth >= oldest and self._txn.get_raw(line) is None:
                self._txn.put_raw(line, encode_log(LogRecord(CHANGED, 0, 0, NOBODY.program)))
                self._say(f"the change of {key.hex()} in txn {birth} is logged now")

    def _count(self) -> None:
        live = [inode for inode in self._inodes.values() if inode.nlink]
        numbers = [*self._inodes, *(inode.content for inode in self._inodes.values()), *self._maps]
        counted = Counters(
            max(self._txn.next_number, max(numbers) + 1),
            len(live),
            sum(inode.stored_bytes for inode in live),
            sum(self._stored.values()),
        )
        if counted != self._fs.volume.counters:
            self._say(f"the totals are {counted._asdict()} and were {self._fs.volume.counters._asdict()}")
        self._txn.put_raw(keys.COUNTERS, encode_counters(counted))
