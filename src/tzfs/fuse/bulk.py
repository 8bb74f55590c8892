"""Gathers the large writes that the kernel sends at once, so that they go into tables together.

The kernel sends what it writes back in requests of 1 MiB, several before it waits for an answer. Each one's
handler joins a round and waits; the first of them waits until the round grows no more, and does it all. While
it is in its thread, the next round gathers.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import trio

from tzfs.bulk import BULK_BYTES_MIN, Bulk, Pending, Write
from tzfs.errors import StoreError
from tzfs.filesystem import Filesystem

REQUEST_BYTES_MIN: Final = 256 << 10
"""Requests below this never wait for others: they are the ends of files, or programs that write little."""
_PATIENCE: Final = 3
"""Turns of the scheduler without another request after which a round is complete."""

_WAIT_S: Final = 0.001
_LONELY_MAX: Final = 3
"""A small round is given one more millisecond, unless that brought nothing the last times: a program that
waits for each of its writes writes one at a time."""

Build = Callable[[Pending], Awaitable[dict[int, Path]]]


class _Round:
    """Writes that are done together: gathering, or done."""

    def __init__(self) -> None:
        self.writes: list[Write] = []
        self.results: list[Exception | None] | None = None

    @property
    def is_large(self) -> bool:
        """Tell whether there is enough for a table."""
        return sum(len(write.data) for write in self.writes) >= BULK_BYTES_MIN


class BulkWriter:
    """Does large writes in rounds. build: `Bulk.build` in a thread."""

    def __init__(self, fs: Filesystem, bulk: Bulk, build: Build) -> None:
        self._fs = fs
        self._bulk = bulk
        self._build = build
        self._running = trio.Lock()
        self._next = _Round()
        self._busy: set[int] = set()
        self._lonely = 0

    def is_due(self, number: int, size: int) -> bool:
        """Tell whether a write of `size` bytes to an inode should come here.

        Small ones, too, while large ones to the same inode are under way, which they would disturb.
        """
        return size >= REQUEST_BYTES_MIN or number in self._busy

    async def write(self, write: Write) -> int:
        """Do one write, together with others that come at the same time; return its length.

        When it returns it is committed, as without this. Raises what `Filesystem.write` raises.
        """
        mine = self._next
        place = len(mine.writes)
        mine.writes.append(write)
        async with self._running:
            if mine.results is None:
                await self._lead(mine)
        error = mine.results[place] if mine.results is not None else None
        if error is not None:
            raise error
        return len(write.data)

    async def _lead(self, mine: _Round) -> None:
        """Do the writes of a round; who comes from here on belongs to the next one."""
        await self._gather(mine)
        if not mine.is_large and self._lonely < _LONELY_MAX:
            await trio.sleep(_WAIT_S)
            await self._gather(mine)
        self._lonely = 0 if mine.is_large else self._lonely + 1
        self._next = _Round()
        pending = self._bulk.begin(mine.writes)
        if pending is None:
            mine.results = [self._alone(write) for write in mine.writes]
            return
        self._busy = {write.number for write in mine.writes}
        try:
            tables = await self._build(pending)
        except StoreError:
            # Full or failing: the writes themselves will say so, or find that it was for the moment.
            tables = {}
        finally:
            self._busy = set()
        mine.results = self._bulk.finish(pending, tables)

    async def _gather(self, mine: _Round) -> None:
        """Return when a round grows no more."""
        size, quiet = 0, 0
        while quiet < _PATIENCE:
            quiet = quiet + 1 if len(mine.writes) == size else 0
            size = len(mine.writes)
            await trio.lowlevel.checkpoint()

    def _alone(self, write: Write) -> Exception | None:
        """Do one write as if it were not large."""
        try:
            self._fs.write(write.number, write.offset, write.data, write.caller, stamp=write.stamp)
        except Exception as error:  # noqa: BLE001 - it is raised again, in the task of this write
            return error
        return None
