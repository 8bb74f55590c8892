"""Background tasks: that they go on after a failure, and say what is to be said, once."""

import itertools
import logging
import stat

import pytest
import trio
from trio.testing import MockClock

from support.logs import assert_logs
from tzfs import background
from tzfs.activity import Activity
from tzfs.background import QuotaWatch, Supervisor
from tzfs.filesystem import Filesystem
from tzfs.kv import MemoryStore
from tzfs.records import NOBODY, Usage


def usage(stored: int = 0, inodes: int = 1) -> Usage:
    return Usage(inodes=inodes, live_bytes=0, stored_bytes=stored, inodes_max=10, quota_bytes=1000)


def test_each_limit_is_warned_of_once_each_way(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    watch = QuotaWatch()
    said = []
    with assert_logs("of the limit is used", count=4):
        for look in (
            usage(799),
            usage(800),
            usage(999),
            usage(1000),
            usage(1200),
            usage(999),
            usage(850),
            usage(100),
            usage(100, inodes=10),
            usage(1000, inodes=10),
        ):
            caplog.clear()
            watch.look(look)
            said.append([record.levelname for record in caplog.records])
    warning, info = ["WARNING"], ["INFO"]
    assert said == [[], warning, [], warning, [], info, [], info, warning, warning]


def test_without_limits_nothing_is_said() -> None:
    QuotaWatch().look(Usage(inodes=10**9, live_bytes=0, stored_bytes=2**60, inodes_max=0, quota_bytes=0))


async def test_a_failing_task_is_started_again_ever_later(autojump_clock: MockClock) -> None:
    starts: list[float] = []

    async def fail() -> None:
        starts.append(trio.current_time())
        await trio.lowlevel.checkpoint()
        raise ZeroDivisionError("bug")

    supervisor = Supervisor("fail", fail)
    with assert_logs("background task fail failed", level=logging.ERROR, count=9):
        with trio.move_on_after(200):
            await supervisor.run()
    pauses = [round(after - before) for before, after in itertools.pairwise(starts)]
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60]
    described = supervisor.describe()
    assert described["failures"] == 9
    assert described["last_error"] == "ZeroDivisionError: bug"


async def test_reclaim_takes_up_work_that_comes_later(autojump_clock: MockClock) -> None:
    engine = MemoryStore()
    Filesystem.format(engine)
    fs = Filesystem(engine)
    activity = Activity()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(background.run_reclaim, fs, activity, lambda: False)
        await trio.sleep(5)
        inode = fs.mknod(1, b"a", stat.S_IFREG | 0o644, 0, NOBODY)
        fs.write(inode.number, 0, b"x" * 100_000, NOBODY, stamp=True)
        fs.unlink(1, b"a", NOBODY)
        fs.release([inode.number])
        activity.note()
        await trio.sleep(60)
        assert fs.reclaim_backlog() == 0
        assert fs.usage().stored_bytes == 0
        nursery.cancel_scope.cancel()


async def test_reclaim_waits_for_a_calm_moment_but_not_for_ever(autojump_clock: MockClock) -> None:
    engine = MemoryStore()
    Filesystem.format(engine)
    fs = Filesystem(engine)
    activity = Activity()

    async def ask(until: float) -> None:
        while trio.current_time() < until:
            await trio.sleep(background.CALM_S / 3)
            activity.note()

    def leave_work() -> None:
        inode = fs.mknod(1, b"a", stat.S_IFREG | 0o644, 0, NOBODY)
        fs.unlink(1, b"a", NOBODY)
        fs.release([inode.number])

    full: list[object] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(background.run_reclaim, fs, activity, lambda: bool(full))
        activity.note()
        await trio.sleep(2)
        busy_until = trio.current_time() + 3 * background.PATIENCE_S
        nursery.start_soon(ask, busy_until)
        leave_work()
        await trio.sleep(background.PATIENCE_S - 2 * background.RECLAIM_IDLE_S)
        assert fs.reclaim_backlog() == 1
        await trio.sleep(3 * background.RECLAIM_IDLE_S)
        assert fs.reclaim_backlog() == 0, "it was asked for something all the time"
        await trio.sleep(background.RECLAIM_IDLE_S)
        leave_work()
        full.append("the disk")
        await trio.sleep(background.RECLAIM_IDLE_S + 3 * background.CALM_S)
        assert fs.reclaim_backlog() == 0, "somebody waits for room"
        full.clear()
        await trio.sleep_until(busy_until + 1)
        leave_work()
        activity.note()
        await trio.sleep(background.RECLAIM_IDLE_S + 3 * background.CALM_S)
        assert fs.reclaim_backlog() == 0, "and then it was calm"
        nursery.cancel_scope.cancel()


async def test_the_log_is_synced_at_its_interval_while_there_are_requests(autojump_clock: MockClock) -> None:
    times: list[float] = []
    activity = Activity()
    start = trio.current_time()

    async def sync() -> None:
        times.append(round(trio.current_time() - start))
        await trio.lowlevel.checkpoint()

    async def ask() -> None:
        for _ in range(4):
            await trio.sleep(3)
            activity.note()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        nursery.start_soon(background.run_sync, sync, 5, activity)
        await trio.sleep(1000)
        # At 3, 6, 9 and 12 something was asked for, and then nothing: the last sync covers it.
        assert times == [5, 10, 15]
        activity.note()
        await trio.testing.wait_all_tasks_blocked()
        assert times[3:] == [1000]
        nursery.cancel_scope.cancel()


async def test_what_comes_while_a_task_works_ends_its_rest(autojump_clock: MockClock) -> None:
    activity = Activity()
    activity.note()
    seen = activity.count
    activity.note()
    await activity.rest(5, seen)
    with trio.move_on_after(100) as scope:
        await activity.rest(5, activity.count)
    assert scope.cancelled_caught
