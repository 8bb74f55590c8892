"""Group commit: who shares a sync with whom."""

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tzfs.errors import StoreFull
from tzfs.syncer import Syncer


class SlowSync:
    """A sync that runs until it is told to end, and records how much had been written when it began."""

    def __init__(self) -> None:
        self.written = 0
        self.covered: list[int] = []
        self.may_end = trio.Semaphore(0)
        self.error: Exception | None = None

    async def __call__(self) -> None:
        self.covered.append(self.written)
        await self.may_end.acquire()
        if self.error is not None:
            raise self.error


async def test_callers_that_arrive_during_a_sync_share_the_next_one() -> None:
    slow = SlowSync()
    syncer = Syncer(slow)
    durable: dict[int, int] = {}

    async def caller(number: int) -> None:
        slow.written = number
        await syncer.sync()
        durable[number] = slow.covered[-1]

    async with trio.open_nursery() as nursery:
        nursery.start_soon(caller, 1)
        await wait_all_tasks_blocked()
        for number in range(2, 12):
            nursery.start_soon(caller, number)
            await wait_all_tasks_blocked()
        assert slow.covered == [1]
        slow.may_end.release()
        await wait_all_tasks_blocked()
        assert slow.covered == [1, 11]
        slow.may_end.release()
    assert syncer.syncs == 2
    assert durable == {1: 1} | dict.fromkeys(range(2, 12), 11)


async def test_a_failed_sync_fails_all_who_shared_it_and_none_after() -> None:
    slow = SlowSync()
    syncer = Syncer(slow)
    refused: list[int] = []

    async def caller(number: int) -> None:
        try:
            await syncer.sync()
        except StoreFull:
            refused.append(number)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(caller, 1)
        await wait_all_tasks_blocked()
        nursery.start_soon(caller, 2)
        nursery.start_soon(caller, 3)
        await wait_all_tasks_blocked()
        slow.may_end.release()
        await wait_all_tasks_blocked()
        slow.error = StoreFull("full")
        slow.may_end.release()
    assert sorted(refused) == [2, 3]
    slow.error = None
    slow.may_end.release()
    await syncer.sync()


async def test_a_cancelled_leader_leaves_its_followers_their_sync() -> None:
    slow = SlowSync()
    syncer = Syncer(slow)
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
        await wait_all_tasks_blocked()
        nursery.start_soon(first, scopes[1])
        await wait_all_tasks_blocked()
        nursery.start_soon(follower, "follower")
        await wait_all_tasks_blocked()
        scopes[0].cancel()
        await wait_all_tasks_blocked()
        scopes[1].cancel()
        await wait_all_tasks_blocked()
        assert done == []
        slow.may_end.release()
    assert done == ["follower"]


@pytest.mark.parametrize("callers", [1, 2, 50])
async def test_callers_one_after_the_other_get_a_sync_each(callers: int) -> None:
    async def nothing() -> None:
        await trio.lowlevel.checkpoint()

    syncer = Syncer(nothing)
    for _ in range(callers):
        await syncer.sync()
    assert syncer.syncs == callers
