"""The host's disk under the store: growth stops before it is full, so that all else goes on.

An engine whose log meets a full disk takes no more writes, not even deletions, which are what would help. So
two things are kept back for it:

- What is in its memory must still fit on the disk when it is flushed, and some more. Growth that would not
  leave that is refused with ENOSPC: where the program can see it, and before the engine has to.
- Another program may fill the disk as well. So a file, the *reserve*, holds bytes of our own: when the
  engine fails nevertheless, the reserve is given up, the engine opened anew (which loses nothing), and
  deletions go on. Growth waits until the disk has room for the reserve again.
"""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path
from typing import Final

import trio

from tzfs.activity import Activity
from tzfs.errors import NoSpace, StoreError
from tzfs.rocks import RocksStore

log = logging.getLogger(__name__)

RESERVE_NAME: Final = "reserve"
RESERVE_BYTES: Final = 64 << 20
RESERVE_SHARE: Final = 8
"""The reserve takes no more than this part of what is free when it is made."""
MARGIN_BYTES: Final = 8 << 20
"""Beyond what the engine has to flush: for tables' indexes, its manifest and logs."""
UNSEEN_BYTES: Final = 4 << 20
"""Growth between two looks at the disk."""
INTERVAL_S: Final = 0.5
RECOVERIES_MAX: Final = 3
"""How often an engine that failed for another reason is opened anew, in `RECOVERIES_S`."""
RECOVERIES_S: Final = 600.0
RECOVER_AFTER_S: Final = 2.0
"""Between two of these: an error of the disk may be over by then."""
RETRY_S: Final = 0.25
"""Between two tries to open the engine anew; each reads its log."""


class HostSpace:
    """Watches the disk that one mounted filesystem's database is on."""

    def __init__(self, directory: Path, engine: RocksStore) -> None:
        """Watch the disk under `directory`, which holds the database and gets the reserve."""
        self._directory = directory
        self._engine = engine
        self._path = directory / RESERVE_NAME
        self._unseen = 0
        self._tried_at = 0.0
        self._recovered_at: list[float] = []
        self.is_full = False
        """The reserve is given up: what grows is refused."""
        engine.rescue = self.rescue

    def free(self) -> int:
        """Return the bytes that data may still take."""
        disk = os.statvfs(self._directory)
        # What is written is on the disk twice for a while: in the log, and in the table that is flushed.
        room = disk.f_bavail * disk.f_frsize - self._engine.unflushed_bytes() - MARGIN_BYTES
        return 0 if self.is_full else max(0, room // 2)

    def require(self, size: int) -> None:
        """Raise `NoSpace` unless `size` more bytes can be written. Nearly free: looks once in some MiB."""
        self._unseen -= size + 1024
        if self._unseen < 0 or self.is_full:
            free = self.free()
            if free < size + 1024:
                raise NoSpace(f"the disk under the store is full: {free} bytes are left for {size}")
            self._unseen = min(free - size, UNSEEN_BYTES)

    def rescue(self) -> bool:
        """Make room and open the engine anew; tell whether it takes writes again. Not too often."""
        now = time.monotonic()
        if now - self._tried_at < RETRY_S:
            return False
        self._tried_at = now
        if not self.is_full:
            log.warning("the disk under the store is full: only deletions go on until there is room")
        self.is_full = True
        self._path.unlink(missing_ok=True)
        try:
            self._engine.reopen()
        except StoreError as error:
            log.info("the engine cannot be opened for writing yet: %s", error)
            return False
        return True

    def make_reserve(self) -> None:
        """Set the reserve aside, as far as the disk has room."""
        disk = os.statvfs(self._directory)
        size = min(RESERVE_BYTES, disk.f_bavail * disk.f_frsize // RESERVE_SHARE)
        try:
            with self._path.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            self._path.unlink(missing_ok=True)
            log.info("no reserve of %d bytes on the disk under the store: %s", size, error)

    def drop_reserve(self) -> None:
        """Give the reserve back, at the end of the mount."""
        self._path.unlink(missing_ok=True)

    async def run(self, activity: Activity) -> None:
        """Recover when there is room again, whether anybody asks for anything meanwhile or not."""
        while True:
            if self.is_full or self._engine.is_failed:
                await trio.sleep(INTERVAL_S)
            else:
                await activity.rest(INTERVAL_S, activity.count)
            self.look()

    def recover(self) -> None:
        """Open an engine anew that failed for another reason than want of room; a few times, then no more.

        An error of the disk (EIO) may be over. A compaction that met a damaged table would meet it again, so
        there is none from then on; the table stays as it is, for `tzfs scrub` to say what it held.
        """
        now = time.monotonic()
        self._recovered_at = [at for at in self._recovered_at if now - at < RECOVERIES_S]
        if not self._engine.is_recoverable or len(self._recovered_at) >= RECOVERIES_MAX:
            return
        if self._recovered_at and now - self._recovered_at[-1] < RECOVER_AFTER_S:
            return
        self._recovered_at.append(now)
        log.warning("the engine took no more writes and is opened anew: %s", self._engine.failure)
        try:
            self._engine.reopen()
        except StoreError as error:
            log.error("the engine cannot be opened for writing: %s", error)  # noqa: TRY400 no bug

    def describe(self) -> dict[str, object]:
        """Return the state of engine and disk, for `info`."""
        failure = self._engine.failure
        return {
            "failure": None if failure is None else str(failure),
            "compacts": self._engine.compacts,
            "reopened": len(self._recovered_at),
            "disk_full": self.is_full,
        }

    def look(self) -> None:
        """Open the engine anew if it failed, and end the fullness if it is over."""
        if self._engine.is_failed and not self._engine.is_full:
            self.recover()
        if self._engine.is_failed and not (self._engine.is_full and self.rescue()):
            return
        disk = os.statvfs(self._directory)
        free = disk.f_bavail * disk.f_frsize - self._engine.unflushed_bytes()
        if self.is_full and free > 3 * MARGIN_BYTES:
            self.make_reserve()
            self.is_full = False
            log.info("the disk under the store has room again")
