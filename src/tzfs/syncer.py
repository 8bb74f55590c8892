"""Group commit: concurrent callers of fsync share one sync of the write-ahead log.

A sync covers the batches that were written before it began. So whoever arrives while one is running
cannot use it, and waits for the next, together with all others who arrived meanwhile: with any number
of callers there is at most one sync running and one waiting to run.

A sync runs in a thread, as it may take as long as the disk likes. But on a disk that is quick, going to a
thread and back takes three times as long as the sync: where the last ones were short, and little has been
written since, the next one is done on the spot. One that then takes long, once, is what can be lost by that.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

import trio

QUICK_S: Final = 300e-6
"""A sync that takes no longer may be done on the event loop. A thread's hop costs 190 us."""
_QUICK_IN_A_ROW: Final = 8
"""So many quick syncs in threads, and the next one is tried on the spot."""


class _Round:
    """The sync that a group of callers shares: not begun, done, or failed."""

    def __init__(self) -> None:
        self.is_done = False
        self.error: Exception | None = None


class Syncer:
    """Shares syncs among tasks of one event loop."""

    def __init__(self, sync: Callable[[], None], at_once: Callable[[], bool]) -> None:
        """Share `sync`, which blocks until all that was written before it was called is durable.

        at_once: does the same where that is likely to be short, and else does nothing and returns False.
        """
        self._sync = sync
        self._at_once = at_once
        self._running = trio.Lock()
        self._next = _Round()
        self._syncs = 0
        self._quick = 0

    @property
    def syncs(self) -> int:
        """How many syncs have been started."""
        return self._syncs

    async def sync(self) -> None:
        """Return when all that was written before this call is durable.

        Raises what the sync raised, to every caller that shared it. Cancelling one caller leaves the
        others their sync.
        """
        if not self._running.locked() and self._done_at_once():
            return
        mine = self._next
        async with self._running:
            if not mine.is_done:
                await self._lead(mine)
        if mine.error is not None:
            raise mine.error

    async def _lead(self, mine: _Round) -> None:
        """Run the sync of a round; who arrives from here on belongs to the next one."""
        if self._next is mine:
            self._next = _Round()
        self._syncs += 1
        try:
            self._note(await trio.to_thread.run_sync(self._timed))
        except Exception as error:  # noqa: BLE001 it is raised again, in each task of the round
            mine.error = error
        mine.is_done = True

    def _timed(self) -> float:
        """Run a sync; return the seconds it took."""
        began = time.perf_counter()
        self._sync()
        return time.perf_counter() - began

    def _done_at_once(self) -> bool:
        """Run a sync on the spot if that is likely to be short; tell whether it was done."""
        if self._quick < _QUICK_IN_A_ROW:
            return False
        began = time.perf_counter()
        if not self._at_once():
            return False
        self._syncs += 1
        self._note(time.perf_counter() - began)
        return True

    def _note(self, took_s: float) -> None:
        """Remember how quick syncs are."""
        self._quick = self._quick + 1 if took_s <= QUICK_S else 0
