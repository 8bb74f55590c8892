"""Group commit: concurrent callers of fsync share one sync of the write-ahead log.

A sync covers the batches that were written before it began. So whoever arrives while one is running
cannot use it, and waits for the next, together with all others who arrived meanwhile: with any number
of callers there is at most one sync running and one waiting to run.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio


class _Round:
    """The sync that a group of callers shares: not begun, done, or failed."""

    def __init__(self) -> None:
        self.is_done = False
        self.error: Exception | None = None


class Syncer:
    """Shares syncs among tasks of one event loop."""

    def __init__(self, sync: Callable[[], Awaitable[None]]) -> None:
        """Share `sync`, which makes durable all that was written before it was called."""
        self._sync = sync
        self._running = trio.Lock()
        self._next = _Round()
        self._syncs = 0

    @property
    def syncs(self) -> int:
        """How many syncs have been started."""
        return self._syncs

    async def sync(self) -> None:
        """Return when all that was written before this call is durable.

        Raises what the sync raised, to every caller that shared it. Cancelling one caller leaves the
        others their sync.
        """
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
            await self._sync()
        except Exception as error:  # noqa: BLE001 it is raised again, in each task of the round
            mine.error = error
        mine.is_done = True
