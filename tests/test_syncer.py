"""Group commit: who shares a sync with whom, and which are done on the spot."""

import functools
import threading
from types import SimpleNamespace

import pytest
import trio

from tzfs.errors import StoreFull
from tzfs.syncer import QUICK_S, Syncer

TIMEOUT_S = 20


class SlowSync:
    """A sync that runs until it is told to end, and records how much had been written when it began."""

    def __init__(self) -> None:
        self.written = 0
        self.covered: list[int] = []
        self.may_end = threading.Semaphore(0)
        self.error: Exception | None = None
        self._begins = threading.Semaphore(0)
        self._awaited = 0

    def __call__(self) -> None:
        self.covered.append(self.written)
        self._begins.release()
        assert self.may_end.acquire(timeout=TIMEOUT_S)
        if self.error is not None:
            raise self.error

    async def begun(self, times: int) -> None:
        """Wait until so many syncs have begun; they run in threads, which trio knows nothing of."""
        while self._awaited < times:
            assert await trio.to_thread.run_sync(functools.partial(self._begins.acquire, timeout=TIMEOUT_S))
            self._awaited += 1


async def settled() -> None:
    """Let every task go as far as it gets without a thread's help."""
    for _ in range(20):
        await trio.lowlevel.checkpoint()


def never() -> bool:
    return False


async def test_callers_that_arrive_during_a_sync_share_the_next_one() -> None:
    slow = SlowSync()
    syncer = Syncer(slow, never)
    durable: dict[int, int] = {}

    async def caller(number: int) -> None:
        slow.written = number
        await syncer.sync()
        durable[number] = slow.covered[-1]

    async with trio.open_nursery() as nursery:
        nursery.start_soon(caller, 1)
        await slow.begun(1)
        for number in range(2, 12):
            nursery.start_soon(caller, number)
            await settled()
        assert slow.covered == [1]
        slow.may_end.release()
        await slow.begun(2)
        assert slow.covered == [1, 11]
        slow.may_end.release()
    assert syncer.syncs == 2
    assert durable == {1: 1} | dict.fromkeys(range(2, 12), 11)


async def test_a_failed_sync_fails_all_who_shared_it_and_none_after() -> None:
    slow = SlowSync()
    syncer = Syncer(slow, never)
    refused: list[int] = []

    async def caller(number: int) -> None:
        try:
            await syncer.sync()
        except StoreFull:
            refused.append(number)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(caller, 1)
        await slow.begun(1)
        nursery.start_soon(caller, 2)
        nursery.start_soon(caller, 3)
        await settled()
        slow.may_end.release()
        await slow.begun(2)
        slow.error = StoreFull("full")
        slow.may_end.release()
    assert sorted(refused) == [2, 3]
    slow.error = None
    slow.may_end.release()
    await syncer.sync()


async def test_a_cancelled_leader_leaves_its_followers_their_sync() -> None:
    slow = SlowSync()
    syncer = Syncer(slow, never)
    done: list[str] = []

    async def first(scope: trio.CancelScope) -> None:
        with scope:
            await syncer.sync()

    async def follower(name: str) -> None:
        await syncer.sync()
        done.append(name)

    scopes = [trio.CancelScope(), trio.CancelScope()]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(first, scopes[0])
        await slow.begun(1)
        nursery.start_soon(first, scopes[1])
        await settled()
        nursery.start_soon(follower, "follower")
        await settled()
        scopes[0].cancel()
        await settled()
        scopes[1].cancel()
        await settled()
        assert done == []
        slow.may_end.release(2)
    assert done == ["follower"]
    assert syncer.syncs == 2


@pytest.mark.parametrize("callers", [1, 2, 50])
async def test_callers_one_after_the_other_get_a_sync_each(callers: int) -> None:
    syncer = Syncer(lambda: None, never)
    for _ in range(callers):
        await syncer.sync()
    assert syncer.syncs == callers


class Disk:
    """A disk with a clock of its own: a sync takes as long as it is told. Records where each ran."""

    def __init__(self) -> None:
        self.takes_s = 0.0
        self.now_s = 0.0
        self.is_free = True
        self.error: Exception | None = None
        self.ran: list[str] = []

    def sync(self) -> None:
        """Sync, in whatever thread this is."""
        self.ran.append("loop" if threading.current_thread() is threading.main_thread() else "thread")
        self.now_s += self.takes_s
        if self.error is not None:
            raise self.error

    def at_once(self) -> bool:
        """Sync, unless somebody else has the database."""
        if self.is_free:
            self.sync()
        return self.is_free

    async def used(self, syncer: Syncer, times: int) -> list[str]:
        """Sync so often, one after the other, and return where that was done."""
        self.ran.clear()
        for _ in range(times):
            await syncer.sync()
        return self.ran


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    disk = Disk()
    monkeypatch.setattr("tzfs.syncer.time", SimpleNamespace(perf_counter=lambda: disk.now_s))
    return disk


async def test_a_quick_disk_is_synced_on_the_spot_after_a_while(disk: Disk) -> None:
    syncer = Syncer(disk.sync, disk.at_once)
    disk.takes_s = QUICK_S / 2
    assert await disk.used(syncer, 8) == ["thread"] * 8
    assert await disk.used(syncer, 3) == ["loop"] * 3
    disk.is_free = False
    assert await disk.used(syncer, 2) == ["thread"] * 2
    assert syncer.syncs == 13


async def test_one_slow_sync_sends_the_next_ones_back_to_threads(disk: Disk) -> None:
    syncer = Syncer(disk.sync, disk.at_once)
    disk.takes_s = QUICK_S / 2
    await disk.used(syncer, 10)
    disk.takes_s = QUICK_S * 100
    assert await disk.used(syncer, 20) == ["loop"] + ["thread"] * 19
    disk.takes_s = QUICK_S / 2
    assert await disk.used(syncer, 10) == ["thread"] * 8 + ["loop"] * 2


async def test_a_sync_on_the_spot_that_fails_says_so_to_its_caller(disk: Disk) -> None:
    syncer = Syncer(disk.sync, disk.at_once)
    await disk.used(syncer, 8)
    disk.error = StoreFull("full")
    with pytest.raises(StoreFull):
        await syncer.sync()
    assert disk.ran[8:] == ["loop"]


async def test_who_comes_while_a_sync_runs_in_a_thread_waits_for_the_next(disk: Disk) -> None:
    slow = SlowSync()
    syncer = Syncer(slow, disk.at_once)
    slow.may_end.release(8)
    await disk.used(syncer, 8)
    disk.is_free = False
    async with trio.open_nursery() as nursery:
        nursery.start_soon(syncer.sync)
        await slow.begun(9)
        disk.is_free = True
        nursery.start_soon(syncer.sync)
        await settled()
        assert disk.ran == []
        slow.may_end.release(2)
    assert syncer.syncs == 10
