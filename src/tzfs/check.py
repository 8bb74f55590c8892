"""The numbered invariants of docs/format.md, one function for each number.

`check` reads the whole database and holds the attributes of every live inode in memory while it runs. It
changes nothing, and it may run on a mounted filesystem between two operations.
"""

from __future__ import annotations

import stat
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Final, NamedTuple

from tzfs import keys
from tzfs.errors import CorruptRecord
from tzfs.filedata import is_named, named_chunks
from tzfs.keys import SEGMENT_CHUNKS
from tzfs.records import (
    NOBODY,
    Inode,
    Slot,
    SlotMap,
    decode_entry,
    decode_head,
    decode_inode,
    decode_log,
    decode_xattr,
)
from tzfs.snapshots import require_label
from tzfs.versions import scan_all
from tzfs.volume import ROOT, Transaction

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tzfs.filesystem import Filesystem

    Invariant = Callable[["Filesystem", "_Scan"], Iterator[str]]

_CHUNKS_A_PAGE: Final = 64
"""Chunks read at once: 64 MiB at the largest chunk size."""


class Finding(NamedTuple):
    """One violation: the number of the invariant in docs/format.md, and what is wrong where."""

    invariant: int
    text: str


class _Scan(NamedTuple):
    """What one pass over the heads brought together."""

    inodes: dict[int, Inode]
    entries: dict[int, list[keys.EntryKey]]
    """By the inode that they name."""
    listed: Counter[int]
    """Entries of each directory."""
    maps: dict[int, dict[int, Slot]]
    """By content: the slots beyond the first chunk."""
    xattrs: Counter[int]
    births: dict[bytes, int]
    stored: dict[tuple[int, int, int], int]
    """Bytes of each chunk, by (content, index, birth)."""
    undecodable: list[str]


def check(fs: Filesystem) -> list[Finding]:
    """Return every violation of an invariant, ordered by number; a sound filesystem has none."""
    scan = _scan(fs)
    findings = []
    for number, (_, invariant) in INVARIANTS.items():
        findings += [Finding(number, text) for text in _violations(fs, scan, invariant)]
    return findings


def _violations(fs: Filesystem, scan: _Scan, invariant: Invariant) -> Iterator[str]:
    """Yield the violations of one invariant; a record that does not decode is one, and ends its search."""
    try:
        yield from invariant(fs, scan)
    except CorruptRecord as error:
        yield str(error)


def _space(space: bytes) -> tuple[bytes, bytes]:
    """Return [lower, upper): all keys of a space."""
    return space, bytes((space[0] + 1,))


def _scan(fs: Filesystem) -> _Scan:
    scan = _Scan({}, defaultdict(list), Counter(), defaultdict(dict), Counter(), {}, {}, [])
    for key, value in scan_all(fs.store, *_space(keys.DATA), page=_CHUNKS_A_PAGE):
        scan.stored[keys.split_chunk(key)] = len(value)
    for key, value in scan_all(fs.store, *_space(keys.HEAD)):
        k = key[1:]
        try:
            birth, _, payload = decode_head(value)
            scan.births[k] = birth
            _collect(scan, k, payload)
        except CorruptRecord as error:
            scan.undecodable.append(f"{key.hex()}: {error}")
    for chunk in _unsettled(fs, scan):
        del scan.stored[chunk]
    return scan


def _unsettled(fs: Filesystem, scan: _Scan) -> list[tuple[int, int, int]]:
    """Return the chunks that a large write stored and that nothing came to name: reclaim knows of them."""
    marks, txn = fs.volume.tables, Transaction(fs.volume, NOBODY)
    return [
        (content, index, birth)
        for content, index, birth in scan.stored
        if content in marks
        and marks[content].birth == birth
        and marks[content].first <= index <= marks[content].last
        and not is_named(txn, content, index, birth)
    ]


def _collect(scan: _Scan, k: bytes, payload: bytes) -> None:
    kind = k[:1]
    if kind == keys.INODE:
        number = keys.number_of(k)
        scan.inodes[number] = decode_inode(number, payload)
    elif kind == keys.ENTRY:
        entry = keys.split_entry(k)
        scan.entries[decode_entry(payload)].append(entry)
        scan.listed[entry.parent] += 1
    elif kind == keys.MAP:
        content, segment = keys.split_chunk_map(k)
        first = segment * SEGMENT_CHUNKS
        for at, slot in enumerate(SlotMap(payload)):
            if slot.birth:
                scan.maps[content][first + at] = slot
    elif kind == keys.XATTR:
        decode_xattr(payload)
        scan.xattrs[keys.number_of(k)] += 1
    else:
        raise CorruptRecord(f"kind {kind!r}")


def _heads_decode(fs: Filesystem, scan: _Scan) -> Iterator[str]:
    yield from scan.undecodable
    for k, birth in scan.births.items():
        if birth > fs.txn:
            yield f"head {k.hex()} was born in txn {birth}, after the open one"


def _entries_name_inodes(fs: Filesystem, scan: _Scan) -> Iterator[str]:
    for number, entries in scan.entries.items():
        inode = scan.inodes.get(number)
        if inode is None:
            parent, _, name = entries[0]
            yield f"{name!r} in directory {parent} names inode {number}, which is missing"
        for parent, cookie, name in entries:
            directory = scan.inodes.get(parent)
            if directory is None or not directory.is_directory or directory.nlink == 0:
                yield f"{name!r} stands in inode {parent}, which is no directory"
            if cookie != fs.directories.cookie(name):
                yield f"{name!r} in directory {parent} has cookie {cookie}"


def _links_are_counted(_fs: Filesystem, scan: _Scan) -> Iterator[str]:
    subdirectories = Counter(
        entries[0].parent
        for number, entries in scan.entries.items()
        if number in scan.inodes and scan.inodes[number].is_directory
    )
    for number, inode in scan.inodes.items():
        names = len(scan.entries.get(number, ()))
        if not inode.is_directory:
            expected = names
        else:
            if names != (0 if number == ROOT or inode.nlink == 0 else 1):
                yield f"directory {number} has {names} names"
            expected = 2 + subdirectories[number] if names or number == ROOT else 0
        if inode.nlink != expected:
            yield f"inode {number} has nlink {inode.nlink}, not {expected}"


def _directories_are_a_tree(_fs: Filesystem, scan: _Scan) -> Iterator[str]:
    for number, inode in scan.inodes.items():
        entries = scan.entries.get(number, [])
        if inode.is_directory:
            if inode.size != scan.listed[number]:
                yield f"directory {number} counts {inode.size} entries and has {scan.listed[number]}"
            if entries and (inode.parent, inode.cookie) != (entries[0].parent, entries[0].cookie):
                yield f"directory {number} does not know its place"
        elif inode.parent and not any(entry[:2] == (inode.parent, inode.cookie) for entry in entries):
            yield f"inode {number} knows a place where it does not stand"
    for number in _unreachable(scan):
        yield f"directory {number} cannot be reached from the root"


def _unreachable(scan: _Scan) -> Iterator[int]:
    """Yield the directories with a name whose way up does not end at the root."""
    reached = {ROOT}
    for start, inode in scan.inodes.items():
        if not inode.is_directory or inode.nlink == 0:
            continue
        way = []
        number = start
        while number not in reached and number not in way and number in scan.inodes:
            way.append(number)
            number = scan.inodes[number].parent
        if number in reached:
            reached.update(way)
        else:
            yield start


def _orphans_are_marked(fs: Filesystem, scan: _Scan) -> Iterator[str]:
    marked = {keys.meta_number(key) for key, _ in scan_all(fs.store, *keys.meta_range(b"O"))}
    orphans = {number for number, inode in scan.inodes.items() if inode.nlink == 0}
    for number in orphans ^ marked:
        yield f"inode {number} is {'an orphan without a mark' if number in orphans else 'marked as orphan'}"


def _slots_have_their_bytes(fs: Filesystem, scan: _Scan) -> Iterator[str]:
    for number, inode in scan.inodes.items():
        slots = dict(scan.maps.get(inode.content, {})) if inode.is_regular else {}
        if inode.chunk0_birth:
            slots[0] = Slot(inode.chunk0_birth, inode.chunk0_length)
        for index, (birth, length) in slots.items():
            if scan.stored.get((inode.content, index, birth)) != length:
                yield f"chunk {index} of inode {number} (content {inode.content}, txn {birth}) is not there"
            if index * fs.chunk_size + length > inode.size:
                yield f"chunk {index} of inode {number} reaches beyond its size"
        total = sum(length for _, length in slots.values())
        if inode.stored_bytes != total:
            yield f"inode {number} counts {inode.stored_bytes} stored bytes and has {total}"


def _maps_belong(fs: Filesystem, scan: _Scan) -> Iterator[str]:
    used = {inode.content for inode in scan.inodes.values() if inode.is_regular}
    for content in scan.maps:
        if content not in used and content not in fs.volume.dead:
            yield f"content {content} has maps and belongs to nobody"
    for content in used & fs.volume.dead.keys():
        yield f"content {content} is marked dead and in use"


def _past_is_ordered(fs: Filesystem, scan: _Scan) -> Iterator[str]:
    pruned = not any(True for _ in scan_all(fs.store, *keys.meta_range(b"P")))
    previous_k, previous_until = b"", 0
    for key, value in scan_all(fs.store, *_space(keys.PAST)):
        k, until = keys.split_past(key)
        birth, _, payload = decode_head(value)
        named_chunks(k, payload)
        if not birth <= until < fs.txn:
            yield f"past {key.hex()} holds from {birth} to {until}"
        if pruned and not fs.versions.sees(birth, until):
            yield f"past {key.hex()} is seen by no snapshot"
        if k == previous_k and birth <= previous_until:
            yield f"past {key.hex()} begins before the one before it ends"
        if scan.births.get(k, fs.txn) <= until:
            yield f"past {key.hex()} ends after the head begins"
        previous_k, previous_until = k, until


def _chunks_are_named(fs: Filesystem, scan: _Scan) -> Iterator[str]:
    named = set()
    for space in (keys.HEAD, keys.PAST):
        for key, value in scan_all(fs.store, *_space(space)):
            k = key[1:] if space == keys.HEAD else keys.split_past(key)[0]
            for content, index, slot in named_chunks(k, decode_head(value).payload):
                named.add((content, index, slot.birth, slot.length))
    found = {(*chunk, length) for chunk, length in scan.stored.items()}
    for content, index, birth, length in sorted(found - named):
        yield f"chunk {index} of content {content} (txn {birth}, {length} bytes) is named by no record"
    for content, index, birth, _ in sorted(named - found):
        yield f"chunk {index} of content {content} (txn {birth}) is named and missing"


def _counters_are_exact(fs: Filesystem, scan: _Scan) -> Iterator[str]:
    counters = fs.volume.counters
    live = [inode for inode in scan.inodes.values() if inode.nlink]
    live_bytes = sum(inode.stored_bytes for inode in live)
    stored = sum(scan.stored.values())
    if counters.inodes != len(live):
        yield f"{counters.inodes} inodes are counted, {len(live)} are there"
    if counters.live_bytes != live_bytes:
        yield f"{counters.live_bytes} live bytes are counted, {live_bytes} are there"
    if counters.stored_bytes != stored:
        yield f"{counters.stored_bytes} stored bytes are counted, {stored} are there"
    highest = max((max(inode.number, inode.content) for inode in scan.inodes.values()), default=0)
    if counters.next_number <= highest:
        yield f"the next number is {counters.next_number}, and {highest} is in use"


def _changes_are_logged(fs: Filesystem, scan: _Scan) -> Iterator[str]:
    oldest = fs.versions.sealed[0] if fs.versions.sealed else fs.txn
    logged = set()
    for key, value in scan_all(fs.store, *_space(keys.LOG)):
        decode_log(value)
        txn, k = keys.split_log(key)
        logged.add((txn, k))
        if txn > fs.txn:
            yield f"the change log knows txn {txn}, after the open one"
    for k, birth in scan.births.items():
        if birth >= oldest and (birth, k) not in logged:
            yield f"the change of {k.hex()} in txn {birth} is not logged"


def _xattrs_belong(_fs: Filesystem, scan: _Scan) -> Iterator[str]:
    for number in scan.xattrs:
        if number not in scan.inodes:
            yield f"inode {number} is missing and has extended attributes"


def _snapshots_are_sound(fs: Filesystem, _heads: _Scan) -> Iterator[str]:
    labels: Counter[bytes] = Counter()
    for row in fs.snapshots():
        if not 0 < row.txn < fs.txn:
            yield f"snapshot {row.txn} lies outside the sealed txns"
        for label in row.labels:
            require_label(label)
            labels[label] += 1
    for label, count in labels.items():
        if count > 1:
            yield f"label {label!r} is given {count} times"


def _past_entries_name_inodes(fs: Filesystem, _heads: _Scan) -> Iterator[str]:
    """Look at each superseded entry from the last snapshot that sees it, and at the inode it names there."""
    lower, upper = keys.kind_range(keys.ENTRY)
    for key, value in scan_all(fs.store, keys.PAST + lower, keys.PAST + upper):
        k, until = keys.split_past(key)
        birth, _, payload = decode_head(value)
        snapshot = fs.versions.before(until + 1)
        if snapshot < birth:
            continue
        found = fs.versions.at(snapshot).load(keys.inode(decode_entry(payload)))
        if found is None or decode_inode(0, found).nlink == 0:
            name = keys.split_entry(k).name
            yield f"{name!r} of snapshot {snapshot} names an inode that is missing there"


def _types_fit(_fs: Filesystem, scan: _Scan) -> Iterator[str]:
    for number, inode in scan.inodes.items():
        special = stat.S_ISCHR(inode.mode) or stat.S_ISBLK(inode.mode)
        if inode.rdev and not special:
            yield f"inode {number} is no device and has rdev {inode.rdev}"
        if inode.chunk0_birth and not inode.is_regular:
            yield f"inode {number} is no regular file and has content"


INVARIANTS: dict[int, tuple[str, Invariant]] = {
    1: ("every head decodes and was born by now", _heads_decode),
    2: ("every entry names an inode and stands in a directory", _entries_name_inodes),
    3: ("nlink counts the names, and the subdirectories", _links_are_counted),
    4: ("directories count their entries and form one tree", _directories_are_a_tree),
    5: ("an inode without a name is marked as an orphan", _orphans_are_marked),
    6: ("every slot has its bytes, within the size, and they are counted", _slots_have_their_bytes),
    7: ("every map belongs to one inode, or to a dead content", _maps_belong),
    8: ("past records follow each other, end before the head, and some snapshot sees each", _past_is_ordered),
    9: ("every chunk is named by a record, and every named chunk is there", _chunks_are_named),
    10: ("the counters are exact", _counters_are_exact),
    11: ("every head since the oldest snapshot is in the change log", _changes_are_logged),
    12: ("extended attributes belong to inodes", _xattrs_belong),
    13: ("snapshots are sealed txns with labels of their own", _snapshots_are_sound),
    14: ("past entries name inodes that their snapshots see", _past_entries_name_inodes),
    15: ("types and fields of an inode fit each other", _types_fit),
}
"""By number: what must hold, and the function that yields each violation."""
