"""What a disk holds after a power cut: replays a trace of `tests/support/recorder.py` up to any moment.

The model is the strictest that POSIX allows: the content of a file is durable when the file was synced, a
name when its directory was synced, and nothing else is. What was not synced is then lost, or kept in part:

    forget      all of it is lost
    keep        none is lost, as when only the process dies
    subset      of each file's writes any are lost, of each directory's changes the later ones
    torn        the later writes are lost and the last that is left ends in the middle, with zeros to the end
                of its page or not; RocksDB's MANIFEST only without: there it takes zeros for bit rot, and no
                journaling filesystem lets a file grow before its bytes (but ext4 with data=writeback)
    reordered   the earlier writes are lost and the later ones kept
    mixed       of each file either all of it is lost, or none
"""

from __future__ import annotations

import pickle
import random
from collections.abc import Iterator
from pathlib import Path

from support.recorder import Event

VARIANTS = ("forget", "keep", "subset", "torn", "reordered", "mixed")
ROOT = 1
PAGE = 4096

Change = tuple[str, bytes, int]
"""Of a directory: ("enter", name, number) or ("leave", name, 0)."""


def read_trace(path: Path) -> list[Event]:
    """Return all events."""
    events = []
    with path.open("rb") as trace:
        while True:
            try:
                events.append(pickle.load(trace))
            except EOFError:
                return events


class Disk:
    """Files and directories, each as it was at its last sync, and what was done to it since."""

    def __init__(self) -> None:
        self.is_directory = {ROOT: True}
        self.content: dict[int, bytes] = {}
        self.writes: dict[int, list[Event]] = {}
        self.entries: dict[int, dict[bytes, int]] = {ROOT: {}}
        self.changes: dict[int, list[Change]] = {ROOT: []}
        self.now: dict[int, dict[bytes, int]] = {ROOT: {}}

    def apply(self, event: Event) -> None:
        """Do what an event of the trace says."""
        kind = event[0]
        if kind == "make":
            number = event[1]
            self.is_directory[number] = event[2]
            self.content[number], self.writes[number] = b"", []
            self.entries[number], self.changes[number], self.now[number] = {}, [], {}
        elif kind == "enter":
            self._change(event[1], ("enter", event[2], event[3]))
        elif kind == "leave":
            self._change(event[1], ("leave", event[2], 0))
        elif kind == "rename":
            _, old_parent, old_name, new_parent, new_name = event
            self._change(new_parent, ("enter", new_name, self.now[old_parent][old_name]))
            self._change(old_parent, ("leave", old_name, 0))
        elif kind in {"write", "truncate"}:
            self.writes[event[1]].append(event)
        elif kind == "sync":
            self._sync(event[1])

    def _change(self, parent: int, change: Change) -> None:
        self.changes[parent].append(change)
        _enter(self.now[parent], change)

    def _sync(self, number: int) -> None:
        if self.is_directory[number]:
            for change in self.changes[number]:
                _enter(self.entries[number], change)
            self.changes[number] = []
        else:
            self.content[number] = _written(self.content[number], self.writes[number])
            self.writes[number] = []

    def survive(self, variant: str, rng: random.Random, target: Path) -> None:
        """Make in the new directory `target` what a variant of the power cut leaves."""
        self._restore(ROOT, target, variant, rng)

    def _restore(self, number: int, target: Path, variant: str, rng: random.Random) -> None:
        target.mkdir()
        entries = dict(self.entries[number])
        for change in self._kept_changes(number, variant, rng):
            _enter(entries, change)
        for name, child in sorted(entries.items()):
            path = target / name.decode()
            if self.is_directory[child]:
                self._restore(child, path, variant, rng)
            else:
                zeros = not name.startswith(b"MANIFEST")
                writes = list(kept_writes(self.writes[child], variant, rng, zeros=zeros))
                path.write_bytes(_written(self.content[child], writes))

    def _kept_changes(self, number: int, variant: str, rng: random.Random) -> list[Change]:
        changes = self.changes[number]
        if variant == "forget":
            return []
        if variant in {"keep", "reordered", "mixed"}:
            return changes
        return changes[: rng.randint(0, len(changes))]


def _enter(entries: dict[bytes, int], change: Change) -> None:
    kind, name, number = change
    if kind == "enter":
        entries[name] = number
    else:
        entries.pop(name, None)


def kept_writes(
    writes: list[Event], variant: str, rng: random.Random, *, zeros: bool = True
) -> Iterator[Event]:
    """Yield those of a file's writes since its last sync that survive.

    zeros: what is torn may have zeros to the end of the page, where the file grew before its bytes arrived.
    """
    if variant == "keep" or (variant == "mixed" and rng.random() < 0.5):
        yield from writes
    elif variant == "subset":
        yield from (write for write in writes if rng.random() < 0.5)
    elif variant == "reordered":
        yield from writes[rng.randint(0, len(writes)) :]
    elif variant == "torn" and writes:
        last = rng.randrange(len(writes))
        yield from writes[:last]
        event = writes[last]
        if event[0] == "write":
            length = rng.randint(0, len(event[3]))
            # The rest of the page came from the disk's cache as zeros, or never.
            rest = (
                bytes(min(PAGE - length % PAGE, len(event[3]) - length))
                if zeros and rng.random() < 0.5
                else b""
            )
            yield ("write", event[1], event[2], event[3][:length] + rest)


def _written(content: bytes, writes: list[Event]) -> bytes:
    data = bytearray(content)
    for event in writes:
        if event[0] == "truncate":
            del data[event[2] :]
            data.extend(bytes(event[2] - len(data)))
        else:
            _, _, offset, written = event
            data.extend(bytes(max(0, offset - len(data))))
            data[offset : offset + len(written)] = written
    return bytes(data)
