"""The replacement for trio inside pyfuse3, on a pipe instead of /dev/fuse."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import pyfuse3
import pytest
import trio
import trio.testing

from tzfs.fuse import loop
from tzfs.fuse.loop import Lock, Waiter

LONG_US = 50_000


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for fd in ends:
        os.close(fd)


async def _hot(waiter: Waiter) -> Waiter:
    """Return a waiter that has just yielded to trio, so that it need not for the next two milliseconds."""
    waiter._yielded_at = time.perf_counter() + 3600
    return waiter


async def test_what_is_readable_is_returned_without_going_through_the_scheduler(
    pipe: tuple[int, int],
) -> None:
    waiter = await _hot(Waiter(LONG_US))
    os.write(pipe[1], b"x")
    with trio.testing.assert_no_checkpoints():
        await waiter.wait_readable(pipe[0])


async def test_a_stream_of_requests_yields_to_other_tasks(pipe: tuple[int, int]) -> None:
    waiter = Waiter(LONG_US)
    os.write(pipe[1], b"x")
    ran = trio.Event()

    async def other() -> None:
        ran.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(other)
        end = time.monotonic() + 5
        while not ran.is_set():
            assert time.monotonic() < end, "the other task starves"
            await waiter.wait_readable(pipe[0])


async def test_what_comes_while_polling_is_seen_without_sleeping(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    waiter = await _hot(Waiter(10_000_000))
    yields = iter(range(1000))

    def sched_yield() -> None:
        if next(yields) == 3:
            os.write(pipe[1], b"x")

    monkeypatch.setattr(os, "sched_yield", sched_yield)
    with trio.testing.assert_no_checkpoints():
        await waiter.wait_readable(pipe[0])


async def test_what_does_not_come_while_polling_is_slept_for(pipe: tuple[int, int]) -> None:
    waiter = Waiter(10)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(waiter.wait_readable, pipe[0])
        await trio.testing.wait_all_tasks_blocked()
        os.write(pipe[1], b"x")


async def test_a_wake_up_whose_cause_is_gone_is_slept_over(pipe: tuple[int, int]) -> None:
    # Two descriptors of one pipe become readable in the same turn of trio; whoever of the two tasks runs
    # first is left to chance, so in some of the rounds the thief has read the byte when the waiter wakes.
    waiter = Waiter(0)
    same = os.dup(pipe[0])
    os.set_blocking(same, False)
    found: list[bytes] = []
    stolen = 0

    async def wait() -> None:
        await waiter.wait_readable(pipe[0])
        found.append(os.read(same, 1))

    async def steal() -> None:
        nonlocal stolen
        await trio.lowlevel.wait_readable(same)
        try:
            os.read(same, 1)
            stolen += 1
        except BlockingIOError:
            pass

    for _ in range(40):
        found.clear()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            nursery.start_soon(steal)
            await trio.testing.wait_all_tasks_blocked()
            os.write(pipe[1], b"x")
            await trio.testing.wait_all_tasks_blocked()
            if not found:
                os.write(pipe[1], b"y")
        assert len(found) == 1
    os.close(same)
    assert 0 < stolen < 40


async def test_an_idle_waiter_does_not_poll_twice(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    waiter = Waiter(100)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(waiter.wait_readable, pipe[0])
        await trio.testing.wait_all_tasks_blocked()
        monkeypatch.setattr(os, "sched_yield", lambda: pytest.fail("polls while idle"))
        await trio.testing.wait_all_tasks_blocked(0.05)
        nursery.cancel_scope.cancel()


async def test_polls_that_find_nothing_stop_until_a_sleep_is_short(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    clock_step = 0.0
    polled = 0

    def perf_counter() -> float:
        nonlocal now
        now += clock_step
        return now

    async def sleep(fd: int) -> None:
        nonlocal now
        now += slept_s

    def sched_yield() -> None:
        nonlocal polled, now
        polled += 1
        now += 1.0

    waiter = Waiter(60)
    waiter._yielded_at = 1e9
    monkeypatch.setattr(loop.time, "perf_counter", perf_counter)
    monkeypatch.setattr(os, "sched_yield", sched_yield)
    monkeypatch.setattr(waiter, "_sleep", sleep)
    slept_s = 1.0
    for _ in range(loop._MISSES_MAX + 5):
        await waiter.wait_readable(pipe[0])
    assert polled == loop._MISSES_MAX
    slept_s = 20e-6
    await waiter.wait_readable(pipe[0])
    await waiter.wait_readable(pipe[0])
    assert polled == loop._MISSES_MAX + 1


async def test_closing_wakes_a_sleeper_and_stops_who_is_about_to_wait(pipe: tuple[int, int]) -> None:
    waiter = Waiter(10)

    async def wait() -> None:
        with pytest.raises(trio.ClosedResourceError):
            await waiter.wait_readable(pipe[0])

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        waiter.notify_closing(pipe[0])
    await wait()


async def test_a_free_lock_is_taken_without_going_through_the_scheduler() -> None:
    lock = Lock()
    with trio.testing.assert_no_checkpoints():
        async with lock:
            pass
        async with lock:
            pass


async def test_a_lock_lets_one_in_at_a_time() -> None:
    lock = Lock()
    inside = 0

    async def worker() -> None:
        nonlocal inside
        for _ in range(20):
            async with lock:
                inside += 1
                assert inside == 1
                await trio.lowlevel.checkpoint()
                inside -= 1
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(worker)


async def test_a_lock_is_kept_by_a_task_that_comes_back_at_once_and_passed_on_when_it_does_not() -> None:
    lock = Lock()
    got = trio.Event()

    async def other() -> None:
        async with lock:
            got.set()

    async with trio.open_nursery() as nursery:
        async with lock:
            nursery.start_soon(other)
            await trio.testing.wait_all_tasks_blocked()
        async with lock:
            await trio.testing.wait_all_tasks_blocked()
            assert not got.is_set()
        await got.wait()


async def test_a_cancelled_waiter_leaves_the_lock_to_the_others() -> None:
    lock = Lock()
    async with trio.open_nursery() as nursery, lock:

        async def impatient() -> None:
            with trio.CancelScope() as scope:
                scope.cancel()
                await lock.__aenter__()

        nursery.start_soon(impatient)
        await trio.testing.wait_all_tasks_blocked()
    async with lock:
        pass


def test_install_gives_pyfuse3_all_that_it_uses_of_trio_and_uninstall_gives_trio_back() -> None:
    try:
        loop.install(60)
        replacement = pyfuse3.trio
        assert replacement is not trio
        assert replacement.Lock is Lock
        for name in ("wait_readable", "notify_closing", "current_task", "current_trio_token"):
            assert callable(getattr(replacement.lowlevel, name))
    finally:
        loop.uninstall()
    assert pyfuse3.trio is trio


def test_one_processor_means_no_polling(monkeypatch: pytest.MonkeyPatch) -> None:
    waiters = []
    monkeypatch.setattr(loop, "Waiter", lambda poll_us: waiters.append(poll_us) or Waiter(poll_us))
    try:
        for processors in ({0}, {0, 1}):
            monkeypatch.setattr(os, "sched_getaffinity", lambda pid, found=processors: found)
            loop.install(60)
    finally:
        loop.uninstall()
    assert waiters == [0, 60]
