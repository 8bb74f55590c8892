"""Whether anybody asks for anything: background tasks rest as long as nobody does.

A task that looks around twice a second costs a sleeping machine more than the look: it wakes the processor.
"""

from __future__ import annotations

import trio


class Activity:
    """Counts what was asked for; for one event loop."""

    def __init__(self) -> None:
        self.count = 0
        self._waiting: trio.Event | None = None

    def note(self) -> None:
        """Say that something was done for somebody, after it was done."""
        self.count += 1
        if self._waiting is not None:
            self._waiting.set()
            self._waiting = None

    async def rest(self, seconds: float, since: int) -> None:
        """Return after `seconds`, and not before something was noted after the count was `since`.

        Take the count before the work after which this rests: what comes meanwhile is then not slept over.
        """
        await trio.sleep(seconds)
        while self.count == since:
            if self._waiting is None:
                self._waiting = trio.Event()
            await self._waiting.wait()
