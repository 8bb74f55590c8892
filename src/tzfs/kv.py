"""The engine's seam: an ordered map of bytes with atomic batches, and the smallest engine behind it.

`Store` is all that the core knows of an engine. It is synchronous, because what must be atomic in tzfs is
what stands between reading and writing with no suspension in between. An engine whose reads may have to
wait (an object store) raises `Miss` from `get` or `scan`; the adapter awaits what the miss carries and
runs the whole operation again, which is sound because the core reads everything first and writes once, at
the end. `MemoryStore` and `tzfs.rocks.RocksStore` never miss.

The first byte of a key is its space (`tzfs.keys`); a scan never leaves one.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence


class Store(Protocol):
    """An ordered map of bytes. Errors are `StoreError`s; a failed write has changed nothing."""

    def get(self, key: bytes) -> bytes | None:
        """Return the value of `key`, None where there is none."""

    def scan(self, lower: bytes, upper: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        """Return at most `limit` pairs with lower <= key < upper, ascending; both bounds lie in one space."""

    def write(self, batch: Mapping[bytes, bytes | None]) -> None:
        """Put every key of `batch`, delete where the value is None: all or nothing, visible at once.

        Survives the end of this process at once, and a power cut after the next `sync`.
        """

    def sync(self) -> None:
        """Return when every earlier write survives a power cut. Blocks, so an event loop needs a thread."""

    def close(self) -> None:
        """Sync and let go of the database; the store is of no use afterwards."""


Pairs = list[tuple[bytes, bytes]]
"""Keys and values, the keys ascending."""


class TableStore(Store, Protocol):
    """A `Store` that takes new keys as whole tables, beside its log: an optional capability.

    For keys that were never written, or whose values nobody asks for: a table is not in the order of the
    log, so after a power cut it is there and the batch just before it may not be.
    """

    def build_tables(self, runs: Sequence[Pairs]) -> list[Path]:
        """Write each run of pairs, all of space DATA, into a durable table that is not of the store yet.

        Blocks, so an event loop needs a thread. Runs do not overlap. Raises `StoreError`.
        """

    def drop_tables(self, tables: Iterable[Path]) -> None:
        """Remove tables that were not taken."""

    def make_way(self) -> None:
        """Write out keys of space DATA that stand in the way of `take_tables`. Blocks, as `build_tables`."""

    def take_tables(self, tables: Sequence[Path]) -> None:
        """Make tables part of the store, at once and durably, in a few milliseconds; they are used up.

        Raises `StoreError`, and then has taken none: also when the store holds keys between theirs that it
        would have to write out first.
        """


class MemoryStore:
    """A `Store` in memory: the smallest engine that keeps the contract, for tests and trials."""

    def __init__(self) -> None:
        self._values: dict[bytes, bytes] = {}
        self._keys: list[bytes] = []
        self._tables: dict[Path, Pairs] = {}

    def get(self, key: bytes) -> bytes | None:
        """See `Store.get`."""
        return self._values.get(key)

    def scan(self, lower: bytes, upper: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        """See `Store.scan`."""
        start = bisect_left(self._keys, lower)
        stop = min(bisect_left(self._keys, upper, start), start + limit)
        return [(key, self._values[key]) for key in self._keys[start:stop]]

    def write(self, batch: Mapping[bytes, bytes | None]) -> None:
        """See `Store.write`."""
        for key, value in batch.items():
            if value is None:
                if self._values.pop(key, None) is not None:
                    del self._keys[bisect_left(self._keys, key)]
            else:
                if key not in self._values:
                    insort(self._keys, key)
                self._values[key] = value

    def build_tables(self, runs: Sequence[Pairs]) -> list[Path]:
        """See `TableStore.build_tables`: what is built are the pairs, kept under a name."""
        names = [Path(str(len(self._tables) + at)) for at in range(len(runs))]
        self._tables.update(zip(names, runs, strict=True))
        return names

    def take_tables(self, tables: Sequence[Path]) -> None:
        """See `TableStore.take_tables`."""
        for table in tables:
            self.write(dict(self._tables.pop(table)))

    def drop_tables(self, tables: Iterable[Path]) -> None:
        """See `TableStore.drop_tables`."""
        for table in tables:
            self._tables.pop(table, None)

    def make_way(self) -> None:
        """See `TableStore.make_way`: nothing does."""

    def sync(self) -> None:
        """See `Store.sync`: memory survives nothing, so there is nothing to wait for."""

    def close(self) -> None:
        """See `Store.close`; the content stays, so that a test can open a filesystem on it again."""
