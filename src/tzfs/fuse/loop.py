"""How requests are waited for: by polling for some tens of microseconds before sleeping.

Most of the time of a FUSE request in Python is not Python but sleeping and waking: after a reply, trio
goes through its scheduler into epoll_wait, and the next request, which the calling program sends a few
microseconds later, has to wake it. pyfuse3 uses `trio` through an attribute of its module, made to be
exchanged (`pyfuse3.asyncio.enable` does), so we put in its place what pyfuse3 uses of trio, with two
differences:

1. `lowlevel.wait_readable(fd)` asks poll(2) first, then again and again for `poll_us`, and only then sleeps
   in trio. Between two polls it yields the processor, so a program on the same core can send its request.
2. `Lock` does not go through the scheduler when it is free, and does not hand itself over on release: the
   worker that just answered takes it again at once and serves the next request, without a task switch.

What this must not break, and how it does not:

- Other tasks (an fsync thread's return, reclaim, signals) run only when a worker yields to trio. So one is
  made to yield when `YIELD_S` have passed since the last time.
- An idle daemon takes no processor: a poll that found nothing is followed by sleep, not by another poll.
  When polls keep finding nothing (a program that asks every millisecond), polling stops, until a sleep
  turns out to have been so short that polling would have caught the request.
- With one processor, polling would only keep the calling program from running, so it is not done at all.
"""

from __future__ import annotations

import os
import select
import time
from types import SimpleNamespace, TracebackType
from typing import Final

import pyfuse3
import trio

YIELD_S: Final = 0.002
"""Longest time, in seconds, that a stream of requests keeps other tasks waiting."""

_MISSES_MAX: Final = 8
"""Polls in a row that found nothing, after which polling stops."""

_WAKE_S: Final = 50e-6
"""What a sleep in trio takes besides the wait itself: a sleep this much longer than the time of polling, or
shorter, is one that polling would have saved."""


class Lock:
    """A lock for the workers of pyfuse3: unfair on purpose, and no checkpoint when free."""

    def __init__(self) -> None:
        self._held = False
        self._waiting = trio.lowlevel.ParkingLot()

    async def __aenter__(self) -> None:
        while self._held:
            await self._waiting.park()
        self._held = True

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._held = False
        # One waiter is made runnable. It runs only when this task yields, and then finds the lock held again
        # or free: while this task serves request after request, that costs nothing.
        if self._waiting:
            self._waiting.unpark()


class Waiter:
    """Waits for requests on the file descriptor of the session.

    poll_us: how long to poll before sleeping, in microseconds; 0 polls once.
    """

    def __init__(self, poll_us: int) -> None:
        self._poll_s = poll_us / 1e6
        self._misses = 0
        self._yielded_at = 0.0
        self._polls: dict[int, select.poll] = {}
        self._closing: set[int] = set()

    async def wait_readable(self, fd: int) -> None:
        """Return when `fd` is readable; ClosedResourceError after `notify_closing`. Seldom a checkpoint."""
        start = time.perf_counter()
        if start - self._yielded_at > YIELD_S:
            await trio.lowlevel.checkpoint()
            start = self._yielded_at = time.perf_counter()
        if fd in self._closing:
            raise trio.ClosedResourceError("another task closed this fd")
        if self._poll(fd, start):
            self._misses = 0
            return
        self._misses += 1
        await self._sleep(fd)
        self._yielded_at = time.perf_counter()
        if self._yielded_at - start < self._poll_s + _WAKE_S:
            self._misses = 0

    async def _sleep(self, fd: int) -> None:
        """Return when `fd` is readable now, not just when it was.

        Between the kernel's event and this task's turn, another task may have answered a request whose
        interruption was what could be read. pyfuse3 then reads what is not there, holding the GIL, and the
        whole process stands still until the next request.
        """
        while True:
            await trio.lowlevel.wait_readable(fd)
            if self._polls[fd].poll(0):
                return

    def _poll(self, fd: int, start: float) -> bool:
        """Tell whether `fd` became readable while polling was worth it."""
        poll = self._polls.get(fd)
        if poll is None:
            poll = self._polls[fd] = select.poll()
            poll.register(fd, select.POLLIN)
        if poll.poll(0):
            return True
        if self._misses >= _MISSES_MAX:
            return False
        end = start + self._poll_s
        while time.perf_counter() < end:
            os.sched_yield()
            if poll.poll(0):
                return True
        return False

    def notify_closing(self, fd: int) -> None:
        """Wake whoever waits for `fd`, and whoever is about to: a worker may be polling, unseen by trio."""
        self._closing.add(fd)
        self._polls.pop(fd, None)
        trio.lowlevel.notify_closing(fd)


def install(poll_us: int) -> None:
    """Make pyfuse3 poll up to `poll_us` microseconds for requests; to be called before `pyfuse3.main`."""
    waiter = Waiter(poll_us if len(os.sched_getaffinity(0)) > 1 else 0)
    lowlevel = SimpleNamespace(
        wait_readable=waiter.wait_readable,
        notify_closing=waiter.notify_closing,
        current_task=trio.lowlevel.current_task,
        current_trio_token=trio.lowlevel.current_trio_token,
    )
    pyfuse3.trio = SimpleNamespace(  # type: ignore[attr-defined]
        Lock=Lock,
        lowlevel=lowlevel,
        open_nursery=trio.open_nursery,
        from_thread=trio.from_thread,
        ClosedResourceError=trio.ClosedResourceError,
    )


def uninstall() -> None:
    """Give pyfuse3 back the real trio."""
    pyfuse3.trio = trio  # type: ignore[attr-defined]
