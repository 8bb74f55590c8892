"""What a daemon does besides answering requests: reclaim, the watch on the limits, periodic syncs.

Each is an `async def run_…` for the daemon's nursery, ended by cancellation. `Supervisor` keeps one
alive: its failure costs a line in the log and a pause, never the mount.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

import trio

from tzfs import failpoints
from tzfs.activity import Activity
from tzfs.filesystem import Filesystem
from tzfs.records import Usage

log = logging.getLogger(__name__)

RECLAIM_IDLE_S: Final = 0.5
"""Between two looks at an empty backlog, as long as there are requests."""
CALM_S: Final = 0.02
"""So long without a request, and reclaim is in nobody's way."""
PATIENCE_S: Final = 5.0
"""How long reclaim waits for such a moment."""
QUOTA_INTERVAL_S: Final = 1.0
RESTART_FIRST_S: Final = 1.0
RESTART_MAX_S: Final = 60.0
WARNING_PERCENT: Final = (80, 100)
"""Of a limit, at which the log warns."""


class Supervisor:
    """Runs one background task again and again, and remembers how it failed."""

    def __init__(self, name: str, task: Callable[[], Awaitable[None]]) -> None:
        """Supervise `task`, which runs until cancelled."""
        self.name = name
        self._task = failpoints.point(f"task.{name}")(task)
        self.failures = 0
        self.last_error: str | None = None
        self.failed_ns: int | None = None

    async def run(self) -> None:
        """Run the task; after a failure, again: at once 1 s later, then ever later, up to a minute."""
        pause_s = RESTART_FIRST_S
        while True:
            began = trio.current_time()
            try:
                await self._task()
                return
            except Exception as error:
                self.failures += 1
                self.last_error = f"{type(error).__name__}: {error}"
                self.failed_ns = time.time_ns()
                log.exception("background task %s failed, trying again in %.0f s", self.name, pause_s)
            if trio.current_time() - began > RESTART_MAX_S:
                pause_s = RESTART_FIRST_S
            await trio.sleep(pause_s)
            pause_s = min(pause_s * 2, RESTART_MAX_S)

    def describe(self) -> dict[str, Any]:
        """Return name, count of failures, and the last of them, for `info`."""
        return {
            "name": self.name,
            "failures": self.failures,
            "last_error": self.last_error,
            "failed_ns": self.failed_ns,
        }


async def run_reclaim(fs: Filesystem, activity: Activity, is_urgent: Callable[[], bool]) -> None:
    """Reclaim in slices of a few ms when nobody asks for anything.

    As long as somebody does, it waits, for `rm -rf` takes longer with it, unless it is urgent, and not beyond
    `PATIENCE_S`. Then slices run between requests and rest as long as each took: half of the time is theirs.
    """
    patient_until = trio.current_time() + PATIENCE_S
    calm = -1
    while True:
        seen = activity.count
        if fs.reclaim_backlog() == 0:
            await activity.rest(RECLAIM_IDLE_S, seen)
            patient_until = trio.current_time() + PATIENCE_S
            continue
        if calm == seen:
            patient_until = trio.current_time() + PATIENCE_S
        elif trio.current_time() < patient_until and not is_urgent():
            await trio.sleep(CALM_S)
            calm = seen
            continue
        began = time.perf_counter()
        is_left = fs.reclaim()
        # Work that is in the backlog but cannot be done yet must not be asked for in a loop.
        await trio.sleep(time.perf_counter() - began if is_left else RECLAIM_IDLE_S)


async def run_sync(sync: Callable[[], Awaitable[None]], interval_s: float, activity: Activity) -> None:
    """Make everything durable every `interval_s` seconds: what a power cut can cost at most."""
    seen = -1
    while True:
        await activity.rest(interval_s, seen)
        seen = activity.count
        await sync()


async def run_quota_watch(fs: Filesystem, activity: Activity) -> None:
    """Warn in the log when usage reaches 80 % and 100 % of a limit; say once when it is below again."""
    watch = QuotaWatch()
    while True:
        seen = activity.count
        watch.look(fs.usage())
        await activity.rest(QUOTA_INTERVAL_S, seen)


class QuotaWatch:
    """How full each limit was at the last look: tells a crossing from a state."""

    def __init__(self) -> None:
        self._reached = {"bytes": 0, "inodes": 0}

    def look(self, usage: Usage) -> None:
        """Log what was crossed since the last look, once each way."""
        self._compare("bytes", usage.stored_bytes, usage.quota_bytes)
        self._compare("inodes", usage.inodes, usage.inodes_max)

    def _compare(self, what: str, used: int, limit: int) -> None:
        """Log a crossing of one limit; 0 is none."""
        percent = used * 100 // limit if limit else 0
        reached = max((level for level in WARNING_PERCENT if percent >= level), default=0)
        before, self._reached[what] = self._reached[what], reached
        if reached > before:
            log.warning(
                "%d %% of the limit is used: %d of %d %s; delete files or snapshots",
                percent,
                used,
                limit,
                what,
            )
        elif reached < before:
            log.info("%d %% of the limit is used again: %d of %d %s", percent, used, limit, what)
