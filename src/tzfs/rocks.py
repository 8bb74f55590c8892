"""The engine: a `Store` on RocksDB. No type of RocksDB and no exception of it leaves this module."""

from __future__ import annotations

import contextlib
import shutil
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Final

import rocksdict

from tzfs import damage, diagnosis, failpoints, stand_in, tuning, wal
from tzfs.errors import StoreCorrupt, StoreError, StoreFull, StoreMissing, StoreUnreadable
from tzfs.keys import DATA, HEAD, SPACES
from tzfs.recent import UNKNOWN, Recent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from tzfs.kv import Pairs

LOG_DAMAGED: Final = (
    "a part of the engine's log was damaged: what was written behind it is lost, and the tree an earlier one"
)
_TABLE_SUFFIX: Final = ".tzfs-table"
"""Tables that are being built, in the database's directory; the engine leaves alone what it does not know."""
_HEAD: Final = HEAD[0]
_DATA: Final = DATA[0]
_MEMTABLES: Final = "rocksdb.cur-size-all-mem-tables"


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    """Turn the engine's bare exceptions into store errors."""
    try:
        yield
    except StoreError:
        raise
    except Exception as error:
        raise diagnosis.store_error(str(error)) from error


class RocksStore:
    """A `Store` on RocksDB: one database directory, one process at a time, one column family a space."""

    def __init__(self, path: Path, *, create: bool, read_only: bool) -> None:
        self._path = path
        self._opened_at = path
        self._read_only = read_only
        self._closed = False
        self._attached = threading.RLock()
        self._failure: StoreError | None = None
        self._refused: Mapping[bytes, bytes | None] = {}
        self._is_diverged = False
        self.compacts = True
        """False after a compaction met a damaged table: it would again, and end all writing again."""
        self._tables_built = 0
        self._unsynced_bytes = 0
        self._recent = Recent(tuning.RECENT_HEADS)
        self.rescue: Callable[[], bool] | None = None
        """Called when the host's disk was full; tells whether it made room and called `reopen`."""
        try:
            self._attach(create=create, read_only=read_only)
        except BaseException:
            self._leave_stand_in()
            raise

    @property
    def is_failed(self) -> bool:
        """Tell whether the engine takes no writes before `reopen`. What is there can be read."""
        return self._failure is not None

    @property
    def is_full(self) -> bool:
        """Tell whether it failed because the host's disk was full."""
        return isinstance(self._failure, StoreFull)

    @property
    def failure(self) -> StoreError | None:
        """Why it takes no writes, None as a rule."""
        return self._failure

    @property
    def is_recoverable(self) -> bool:
        """Tell whether it failed and `reopen` may help: not when writes were lost that were made."""
        return self._failure is not None and not self._is_diverged

    def _attach(self, *, create: bool, read_only: bool) -> None:
        """Open the database, where its disk is read-only through links."""
        self._recent.clear()
        cache = rocksdict.Cache.new_hyper_clock_cache(tuning.BLOCK_CACHE_BYTES, tuning.INDEX_BLOCK_BYTES)
        families = {space.decode(): tuning.family_options(space, cache) for space in SPACES}
        for options in families.values():
            options.set_disable_auto_compactions(not self.compacts)
        access = rocksdict.AccessType.read_only() if read_only else rocksdict.AccessType.read_write()
        if read_only and stand_in.is_needed(self._path):
            self._opened_at = stand_in.make(self._path)
        with _translated(), wal.Logs(self._opened_at) as logs:
            if not read_only or self._opened_at != self._path:  # a reader may be beside a writer
                logs.close_gaps()
            place = str(self._opened_at)
            database = rocksdict.Rdict(place, tuning.database_options(create=create), families, access)
            self._database = database
            if not read_only and self.dropped() and logs.lost_behind(database.latest_sequence_number()):
                damage.note(self._path.parent, LOG_DAMAGED)
            self._families = {space[0]: database.get_column_family(space.decode()) for space in SPACES}
            self._handles = {space[0]: database.get_column_family_handle(space.decode()) for space in SPACES}
        self._table_options = tuning.family_options(DATA, cache)
        if not read_only:
            self.drop_tables(self._path.glob(f"*{_TABLE_SUFFIX}"))

    @classmethod
    def open(cls, path: Path, *, create: bool = False, read_only: bool = False) -> RocksStore:
        """Open the database in directory `path`; `create` makes one where there is none.

        Raises `StoreMissing` (no database there), `StoreLocked` (a process, this one included, has it
        open), `StoreUnreadable`, `StoreFull`, `StoreError`. A read-only store takes no lock.
        """
        try:
            if not create and not (path / "CURRENT").exists():
                raise StoreMissing(f"{path}: no database")
            return cls(path, create=create, read_only=read_only)
        except StoreError as error:
            told = diagnosis.explain(path, str(error))
            if told is None:
                raise
            raise StoreUnreadable(told) from error

    def reopen(self) -> None:
        """Open the database anew, after an error that the engine does not forgive by itself.

        Nothing is lost by it: a batch that was refused is not in the log, all others are. Opening writes them
        to tables that are synced, so an earlier sync that failed is made good. Should the disk have kept
        another state than what is in memory above, writing ends until the next mount. Where it cannot be
        opened for writing, it is opened for reading and the error raised; `is_failed` is true as long.
        Raises `StoreFull`, `StoreError`.
        """
        with self._attached:
            if self._is_diverged:
                raise self._failure or StoreError("the disk has lost writes")
            if isinstance(self._failure, StoreCorrupt):
                self.compacts = False
            last = self._database.latest_sequence_number() - len(self._refused)
            self._detach()
            try:
                self._attach(create=False, read_only=False)
            except StoreError as error:
                self._failure = error
                self._attach(create=False, read_only=True)
                raise
            self._require_same(last)
            self._failure = None
            self._refused = {}

    def _require_same(self, last: int) -> None:
        """Raise `StoreError` if writes up to `last` are missing after an opening, or a refused one is there.

        What ran out of room is written again by who was refused; all else was told that it failed.
        """
        is_lost = self._database.latest_sequence_number() < last
        refused = {} if self.is_full else self._refused
        is_there = bool(refused) and all(self.get(key) == value for key, value in refused.items())
        if is_lost or is_there:
            self._is_diverged = True
            self._failure = StoreError("the disk has lost writes, or made one that failed: mount it again")
            raise self._failure

    def dropped(self) -> list[str]:
        """Return what the engine left out of its log when it was opened, because its checksum was wrong.

        After a power cut that is the end of the log, which nobody was promised. Where sound writes stand
        behind it, the disk has lost bytes: that is in `tzfs.damage`. One opened for reading says nothing.
        """
        if self._read_only:
            return []
        lines = (self._path / "LOG").read_text(errors="replace").splitlines()
        return [line.rpartition("] ")[2] for line in lines if "dropping" in line and "Corruption" in line]

    def unflushed_bytes(self) -> int:
        """Return what is in memory (and in the log), and needs as much room on the disk once more."""
        sizes = (family.property_int_value(_MEMTABLES) for family in self._families.values())
        return sum(size or 0 for size in sizes)

    def cached(self) -> dict[str, int]:
        """Return how often a head was asked for and known, and in bytes what else answers without the disk.

        That is blocks of SST files, and what is unflushed. Hits in those the engine would count only together
        with a look at the clock for each read.
        """
        family = next(iter(self._families.values()))  # they share one cache
        return {
            "hits": self._recent.hits,
            "misses": self._recent.misses,
            "blocks_bytes": family.property_int_value("rocksdb.block-cache-usage") or 0,
            "blocks_bytes_max": tuning.BLOCK_CACHE_BYTES,
            "unflushed_bytes": self.unflushed_bytes(),
        }

    @staticmethod
    def destroy(path: Path) -> None:
        """Remove the database in directory `path`, and the directory."""
        shutil.rmtree(path, ignore_errors=True)

    def get(self, key: bytes) -> bytes | None:
        """See `Store.get`."""
        is_head = key[0] == _HEAD
        if is_head and (known := self._recent.get(key)) is not UNKNOWN:
            return known
        try:
            value: bytes | None = self._families[key[0]].get(key)
        except Exception as error:
            raise diagnosis.store_error(f"{error} (key {key.hex()})") from error
        if is_head:
            self._recent.put(key, value)
        return value

    def scan(self, lower: bytes, upper: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        """See `Store.scan`.

        The upper bound goes into the engine's iterator: without it a scan that ends next to freshly
        deleted keys walks all their tombstones before it can say so. A damaged block ends an iteration as
        the last key does, and only `status` tells the two apart (it raises), which `items` never asks for:
        the price is 0.3 us a record instead of 0.2.
        """
        try:
            bounds = rocksdict.ReadOptions()
            bounds.set_iterate_upper_bound(upper)
            if lower[0] == _DATA and limit > 1:
                # What was read is in the kernel's pages. (rocksdict's stub forgets the argument.)
                bounds.fill_cache(False)  # type: ignore[call-arg]  # noqa: FBT003
                bounds.set_readahead_size(tuning.DATA_READAHEAD_BYTES)
            iterator = self._families[lower[0]].iter(bounds)
            iterator.seek(lower)
            pairs: list[tuple[bytes, bytes]] = []
            valid, key, value, advance = iterator.valid, iterator.key, iterator.value, iterator.next
            while len(pairs) < limit and valid():
                pairs.append((key(), value()))
                advance()
            iterator.status()
        except Exception as error:
            raise diagnosis.store_error(f"{error} (scan from {lower.hex()})") from error
        return pairs

    @failpoints.point("write")
    def write(self, batch: Mapping[bytes, bytes | None]) -> None:
        """See `Store.write`. Never with the engine's own sync option: that holds the GIL over the fsync."""
        if self._failure is not None and not self._is_rescued():
            raise self._failure
        rocks = rocksdict.WriteBatch(raw_mode=True)
        put, delete, handles = rocks.put, rocks.delete, self._handles
        for key, value in batch.items():
            if value is None:
                delete(key, handles[key[0]])
            else:
                put(key, value, handles[key[0]])
        size = rocks.size_in_bytes()
        try:
            self._database.write(rocks)
        except Exception as error:
            self._recent.clear()
            self._failure, self._refused = diagnosis.store_error(str(error)), batch
            if not self._is_rescued():
                raise self._failure from error
            self.write(batch)
            return
        self._unsynced_bytes += size
        for key, value in batch.items():
            if key[0] == _HEAD:
                self._recent.put(key, value)

    @failpoints.point("build_tables")
    def build_tables(self, runs: Sequence[Pairs]) -> list[Path]:
        """See `TableStore.build_tables`."""
        tables = []
        for run in runs:
            self._tables_built += 1
            path = self._path / f"{self._tables_built}{_TABLE_SUFFIX}"
            tables.append(path)
            with _translated():
                writer = rocksdict.SstFileWriter(self._table_options)
                writer.open(str(path))
                for key, value in run:
                    writer[key] = value
                writer.finish()
        return tables

    @failpoints.point("make_way")
    def make_way(self) -> None:
        """See `TableStore.make_way`."""
        with self._attached, _translated():
            self._families[DATA[0]].flush()

    @failpoints.point("take_tables")
    def take_tables(self, tables: Sequence[Path]) -> None:
        """See `TableStore.take_tables`. Tables are moved, not copied: both names are in one directory."""
        options = rocksdict.IngestExternalFileOptions()
        options.set_move_files(True)
        options.set_allow_blocking_flush(False)
        if self._failure is not None:
            raise self._failure
        with self._attached, _translated():
            before = self._database.latest_sequence_number()
            self._families[DATA[0]].ingest_external_file([str(path) for path in tables], options)
            is_skipped = self._database.latest_sequence_number() != before
        if is_skipped:
            self.write(wal.skip(before))

    def drop_tables(self, tables: Iterable[Path]) -> None:
        """See `TableStore.drop_tables`."""
        for path in tables:
            path.unlink(missing_ok=True)

    def _is_rescued(self) -> bool:
        """Tell whether a failed engine takes writes again, because somebody made room for it."""
        return isinstance(self._failure, StoreFull) and self.rescue is not None and self.rescue()

    @failpoints.point("sync")
    def sync(self) -> None:
        """See `Store.sync`. Releases the GIL. A reader has nothing to sync, and the engine refuses it."""
        if self._read_only:
            return
        with self._attached:
            if self._failure is not None:
                raise self._failure
            # Of many who ask one after the other, the first has synced for all. What is written while a sync
            # runs is for the next one.
            unsynced, self._unsynced_bytes = self._unsynced_bytes, 0
            if not unsynced:
                return
            try:
                self._database.flush_wal(sync=True)
            except Exception as error:
                self._unsynced_bytes += unsynced
                self._failure = diagnosis.store_error(str(error))
                raise self._failure from error

    def sync_at_once(self) -> bool:
        """Do what `sync` does if that is likely to be short, and tell whether it was done.

        It is not when much was written since the last one, or while the database is compacted or copied.
        """
        if self._unsynced_bytes > tuning.SYNC_AT_ONCE_BYTES or not self._attached.acquire(blocking=False):
            return False
        try:
            self.sync()
        finally:
            self._attached.release()
        return True

    @failpoints.point("flush")
    def flush(self) -> None:
        """Write all memtables to SST files. Blocks, releases the GIL."""
        with self._attached, _translated():
            for family in self._families.values():
                family.flush()

    @failpoints.point("compact")
    def compact(self) -> None:
        """Flush and rewrite the whole database without what was deleted. Blocks, releases the GIL."""
        self.flush()
        with self._attached, _translated():
            for family in self._families.values():
                family.compact_range(None, None)

    @failpoints.point("checkpoint")
    def checkpoint(self, path: Path) -> None:
        """Make a copy of the database, as it is now, in the new directory `path`.

        SST files are hard links where `path` is on the same disk, so the cost is that of the WAL alone. On a
        read-only disk all are symlinks: nothing changes there.
        """
        if self._opened_at != self._path:
            stand_in.fill(path, self._path)
            return
        with self._attached, _translated():
            rocksdict.Checkpoint(self._database).create_checkpoint(str(path))

    def close(self) -> None:
        """See `Store.close`. A second call does nothing."""
        if self._closed:
            return
        self._closed = True
        try:
            self.sync()
        finally:
            self._detach()

    def _detach(self) -> None:
        """Let go of the database, also of one that cannot write what it should: its log has it."""
        self._handles.clear()
        for family in self._families.values():
            with contextlib.suppress(Exception):
                family.close()
        self._families.clear()
        with contextlib.suppress(Exception):
            self._database.close()
        del self._database
        self._leave_stand_in()

    def _leave_stand_in(self) -> None:
        """Remove the links that the database was opened through, if it was."""
        if self._opened_at != self._path:
            stand_in.remove(self._opened_at)
            self._opened_at = self._path
