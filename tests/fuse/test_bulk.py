"""Large writes that arrive at once, over a filesystem in memory: who waits for whom, and who hears what."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from support.adapter import CTX, ROOT
from support.scenarios import pattern
from tzfs.bulk import Bulk, Pending, Write
from tzfs.check import check
from tzfs.errors import NoSpace, StoreError
from tzfs.filesystem import Filesystem
from tzfs.fuse.bulk import BulkWriter
from tzfs.kv import MemoryStore
from tzfs.records import Caller

MIB = 1 << 20
CALLER = Caller(CTX.uid, CTX.gid, CTX.pid, b"test")


class Bench:
    """A filesystem with a bulk writer, whose building of tables takes as long as the test says."""

    def __init__(self, quota_bytes: int = 0) -> None:
        self.store = MemoryStore()
        Filesystem.format(self.store, quota_bytes=quota_bytes)
        self.fs = Filesystem(self.store)
        self.bulk = Bulk(self.fs, self.store)
        self.writer = BulkWriter(self.fs, self.bulk, self._build)
        self.number = self.fs.mknod(ROOT, b"f", 0o100644, 0, CALLER).number
        self.builds: list[int] = []
        self.gate: trio.Event | None = None
        self.begun = trio.Event()

    async def _build(self, pending: Pending) -> dict[int, Path]:
        self.builds.append(len(pending.writes))
        self.begun.set()
        if self.gate is not None:
            await self.gate.wait()
        return self.bulk.build(pending)

    async def write(self, at: int, size: int = MIB, salt: int = 0) -> None:
        write = Write(self.number, at, pattern(size, salt), CALLER, stamp=True)
        assert await self.writer.write(write) == size

    def content(self) -> bytes:
        return self.fs.read(self.number, 0, 1 << 30)


async def test_writes_that_come_at_once_share_one_table(autojump_clock: trio.testing.MockClock) -> None:
    bench = Bench()
    async with trio.open_nursery() as nursery:
        for at in range(12):
            nursery.start_soon(bench.write, at * MIB, MIB, at)
    assert bench.builds == [12]
    assert bench.content() == b"".join(pattern(MIB, at) for at in range(12))
    assert check(bench.fs) == []


async def test_one_write_at_a_time_goes_through_the_log(autojump_clock: trio.testing.MockClock) -> None:
    bench = Bench()
    for at in range(6):
        await bench.write(at * MIB)
    assert bench.builds == []
    assert bench.content() == pattern(MIB) * 6


async def test_who_comes_while_a_table_is_built_is_in_the_next_round(
    autojump_clock: trio.testing.MockClock,
) -> None:
    bench = Bench()
    bench.gate = trio.Event()
    async with trio.open_nursery() as nursery:
        for at in range(8):
            nursery.start_soon(bench.write, at * MIB)
        await bench.begun.wait()
        for at in range(8, 13):
            nursery.start_soon(bench.write, at * MIB)
        # The small end of the file would disturb what is under way, so it waits, too.
        assert bench.writer.is_due(bench.number, 100)
        assert not bench.writer.is_due(bench.number + 1, 100)
        nursery.start_soon(bench.write, 13 * MIB, 100)
        await trio.testing.wait_all_tasks_blocked()
        assert bench.content() == b""
        bench.gate.set()
    assert bench.builds == [8, 6]
    assert bench.content() == pattern(MIB) * 13 + pattern(100)
    assert not bench.writer.is_due(bench.number, 100)


async def test_each_writer_hears_of_its_own_error(autojump_clock: trio.testing.MockClock) -> None:
    bench = Bench(quota_bytes=9 * MIB)
    bench.gate = trio.Event()
    refused: list[int] = []

    async def write(at: int) -> None:
        try:
            await bench.write(at * MIB)
        except NoSpace:
            refused.append(at)

    async with trio.open_nursery() as nursery:
        for at in range(6):
            nursery.start_soon(write, at)
        await bench.begun.wait()
        other = bench.fs.mknod(ROOT, b"other", 0o100644, 0, CALLER).number
        bench.fs.write(other, 0, pattern(5 * MIB), CALLER, stamp=True)
        bench.gate.set()
    assert sorted(refused) == [4, 5]
    assert bench.content() == pattern(MIB) * 4
    assert bench.fs.usage().stored_bytes == 9 * MIB
    assert check(bench.fs) == []


async def test_tables_that_cannot_be_built_cost_nothing_but_time(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench()

    def fail(runs: object) -> None:
        raise StoreError("the test has no disk for this")

    monkeypatch.setattr(bench.store, "build_tables", fail)
    async with trio.open_nursery() as nursery:
        for at in range(5):
            nursery.start_soon(bench.write, at * MIB)
    assert bench.builds == [5]
    assert bench.content() == pattern(MIB) * 5
    assert check(bench.fs) == []
