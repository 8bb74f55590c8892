"""The engine's logs as files: where they have a hole, and whether bytes of them were lost to bit rot.

RocksDB ends its recovery at the first record that is damaged. Two things it does not see (9.8):

- A log that was cut exactly between two records, while the log after it is there: a power cut may leave that,
  as the older one is synced only some time after the younger one was begun. The younger would be replayed,
  and the tree have a hole. So before the engine opens, the sequence numbers of all batches are followed, and
  where one is missing a damaged record is put (`close_gaps`): there it stops, unless it needs no such log.
  A table that the engine took in may use up numbers without a batch; the batch after it says so (`skip`).
- Whether the damage is at the end of a log, as after any power cut, or in its middle (`lost_behind`).

The format: blocks of 32 KiB; fragments that never cross one, each with checksum, length and type; a record of
one or several fragments is a batch, which begins with its sequence number and its count. (`log_format.h`,
`write_batch.cc` of RocksDB, and its wiki, "Write Ahead Log File Format".)
"""

from __future__ import annotations

import mmap
import os
import re
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from tzfs import failpoints
from tzfs.closing import Closing

if TYPE_CHECKING:
    from collections.abc import Iterator

SKIP_KEY: Final = b"mG"
"""The key of a batch of its own that explains a gap before it."""
BLOCK_BYTES: Final = 32 << 10
_HEADER: Final = struct.Struct("<IHB")
_BATCH: Final = struct.Struct("<QI")
_FULL, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4
_CANDIDATES_MAX: Final = 64
"""Batches whose checksum is verified to find a sound one. Python does a MiB in 0.1 s."""


class LoggedBatch(NamedTuple):
    """A batch in a log. start: of its first fragment. fragments: (start, end) of each, headers included."""

    sequence: int
    changes: int
    start: int
    fragments: tuple[tuple[int, int], ...]


class Logs(Closing):
    """The logs of a database as they were before it was opened; a context manager.

    They stay readable after the engine has removed them, because they are held open.
    """

    def __init__(self, database: Path) -> None:
        """Hold the logs in directory `database`, which may not exist."""
        self._files = [path.open("rb+") for path in sorted(database.glob("*.log"), key=_number)]

    def close(self) -> None:
        """Let go of the files."""
        for file in self._files:
            file.close()

    @failpoints.point("close_gaps")
    def close_gaps(self) -> bool:
        """Let the engine's recovery stop where a batch is missing; tell whether one is.

        Nothing promised can be behind: a sync writes the logs in their order.
        """
        found = False
        expected: int | None = None
        before: int | None = None
        for file in self._files:
            with _mapped(file.fileno()) as data:
                first = True
                for batch in batches(data):
                    if batch.sequence == expected or (expected and expected == _skipped_from(data, batch)):
                        pass
                    elif first:
                        if before is not None:
                            _append_damage(before)
                            found = True
                    else:
                        os.pwrite(file.fileno(), bytes(4), batch.start)
                        found = True
                        break
                    first = False
                    expected = batch.sequence + batch.changes
            before = file.fileno()
        return found

    def lost_behind(self, sequence: int) -> bool:
        """Tell whether a sound batch later than `sequence` is there, which recovery did not get at."""
        tried = 0
        for file in self._files:
            with _mapped(file.fileno()) as data:
                for batch in batches(data):
                    if batch.sequence <= sequence:
                        continue
                    if all(_is_sound(data, *fragment) for fragment in batch.fragments):
                        return True
                    tried += 1
                    if tried == _CANDIDATES_MAX:
                        return False
        return False


def _number(path: Path) -> int:
    return int(path.stem) if path.stem.isdecimal() else 0


def _mapped(descriptor: int) -> mmap.mmap | memoryview:
    """Return the bytes of a file, as a context manager; an empty one cannot be mapped."""
    if not os.fstat(descriptor).st_size:
        return memoryview(b"")
    return mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)


@failpoints.point("append_damage")
def _append_damage(descriptor: int) -> None:
    """Put a record whose checksum is wrong at the end of a log, at the start of a block: never overlooked."""
    end = -(-os.fstat(descriptor).st_size // BLOCK_BYTES) * BLOCK_BYTES
    os.pwrite(descriptor, _HEADER.pack(0, 1, _FULL) + b"\xff", end)
    os.fsync(descriptor)


def batches(data: mmap.mmap | memoryview) -> Iterator[LoggedBatch]:
    """Yield the batches that a log holds from first fragment to last, without a look at their checksums."""
    parts: list[tuple[int, int]] = []
    unpack, header_bytes = _HEADER.unpack_from, _HEADER.size
    at, size = 0, len(data)
    while at + header_bytes <= size:
        block_end = (at // BLOCK_BYTES + 1) * BLOCK_BYTES
        if at + header_bytes > block_end:
            at = block_end
            continue
        _, length, kind = unpack(data, at)
        end = at + header_bytes + length
        if not _FULL <= kind <= _LAST or end > min(block_end, size):
            # Zeros to the end of the block, or damage: the next block begins with a header again.
            parts = []
            at = block_end
            continue
        if kind in (_FULL, _FIRST):
            parts = []
        elif not parts:
            at = end
            continue
        parts.append((at, end))
        if kind in (_FULL, _LAST):
            # A first fragment may be as short as the rest of its block was.
            head = b"".join(
                bytes(data[start + header_bytes : min(stop, start + header_bytes + _BATCH.size)])
                for start, stop in parts[:3]
            )
            if len(head) >= _BATCH.size:
                sequence, count = _BATCH.unpack_from(head)
                yield LoggedBatch(sequence, count, parts[0][0], tuple(parts))
            parts = []
        at = end


def skip(sequence: int) -> dict[bytes, bytes]:
    """Return the batch to write after something used up numbers beyond `sequence` without a batch."""
    return {SKIP_KEY: _SEQUENCE.pack(sequence)}


def _skipped_from(data: mmap.mmap | memoryview, batch: LoggedBatch) -> int | None:
    """Return the first number that was used up without a batch before this one, if it says so."""
    body = b"".join(bytes(data[start + _HEADER.size : end]) for start, end in batch.fragments[:3])
    found = _SKIP_RECORD.fullmatch(body[_BATCH.size :])
    if batch.changes != 1 or found is None:
        return None
    sequence: int = _SEQUENCE.unpack(found[1])[0]
    return sequence + 1


_SEQUENCE: Final = struct.Struct(">Q")
_SKIP_RECORD: Final = re.compile(b"\\x05.\\x02" + SKIP_KEY + b"\\x08(.{8})", re.DOTALL)
"""A put into a column family: its number below 128, and the lengths of key and value before these."""


def _is_sound(data: mmap.mmap | memoryview, start: int, end: int) -> bool:
    """Tell whether the checksum of a fragment is that of its type and its bytes."""
    (stored, _, _) = _HEADER.unpack_from(data, start)
    crc = crc32c(bytes(data[start + _HEADER.size - 1 : end]))
    # Stored checksums are rotated and shifted, for the CRC of bytes that contain their CRC is a bad one.
    return bool(stored == ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def _crc_table() -> list[int]:
    table = []
    for value in range(256):
        crc = value
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
        table.append(crc)
    return table


_TABLE: Final = _crc_table()


def crc32c(data: bytes) -> int:
    """Return the CRC-32C (Castagnoli, RFC 3720) of some bytes."""
    crc, table = 0xFFFFFFFF, _TABLE
    for byte in data:
        crc = crc >> 8 ^ table[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF
