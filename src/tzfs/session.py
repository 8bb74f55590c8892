"""One way to ask a filesystem something, whether it is mounted or not.

`connect` returns a session: to the daemon of a mounted filesystem, or one that opens the database
here and now, which it keeps to itself until closed. Whoever calls need not know which.
"""

from __future__ import annotations

import secrets
import time
from pathlib import Path
from types import TracebackType
from typing import Final, Protocol, Self

from tzfs import admin, control, files, runtime, stand_in
from tzfs.catalog import ARCHIVED, DELETED, FilesystemRow
from tzfs.closing import Closing
from tzfs.control import Json
from tzfs.errors import DaemonGone, StoreLocked, WrongStatus
from tzfs.filesystem import Filesystem
from tzfs.openfiles import OpenFiles
from tzfs.rocks import RocksStore
from tzfs.store import LOCK_WAIT_S, Store

CHECKPOINT: Final = "checkpoint"
"""Command of a daemon only: it makes a copy of its database and returns where."""
CHECKPOINT_PREFIX: Final = "checkpoint-"
"""Of such copies, in the filesystem's directory: what was left behind is removed at the next mount."""
_RECLAIM_SLICE: Final = 64
"""Records of reclaim that each change does besides where no daemon does it in the background."""


class Session(Protocol):
    """Runs the commands of `tzfs.admin` and `tzfs.files` on one filesystem; a context manager."""

    def call(self, command: str, **arguments: object) -> Json:
        """Run a command and return its result; raises `TzfsError`s."""

    def checkpoint(self) -> Path:
        """Copy the database as it is now, mostly by hard links, and return where; the caller removes it."""

    def is_alive(self) -> bool:
        """Tell whether `call` can be expected to reach the filesystem."""

    def close(self) -> None:
        """End the session."""

    def __enter__(self) -> Self:
        """Return itself."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""


class MountedSession(Closing):
    """Asks the daemon."""

    def __init__(self, directory: Path) -> None:
        """Connect to the daemon of the filesystem in `directory`; `DaemonGone`."""
        self._client = control.Client(directory)

    def call(self, command: str, **arguments: object) -> Json:
        """See `Session.call`.

        A check walks the whole tree, which would keep requests waiting. So it runs here, on a copy of
        the database that the daemon makes: consistent, and mostly hard links.
        """
        if command != "check":
            return self._client.call(command, **arguments)
        copy = self.checkpoint()
        try:
            engine = RocksStore.open(copy, read_only=True)
            try:
                return admin.run(Filesystem(engine, read_only=True), command, dict(arguments))
            finally:
                engine.close()
        finally:
            stand_in.remove(copy)

    def checkpoint(self) -> Path:
        """See `Session.checkpoint`."""
        return Path(self._client.call(CHECKPOINT)["path"])

    def is_alive(self) -> bool:
        """See `Session.is_alive`."""
        return self._client.is_alive()

    def close(self) -> None:
        """See `Session.close`."""
        self._client.close()


class LocalSession(Closing):
    """Opens the database itself.

    Commands of `tzfs.admin` are durable when a call returns; those of `tzfs.files` survive the end of the
    process at once, and a power cut after the next `sync`, as with the daemon.
    """

    def __init__(self, store: Store, row: FilesystemRow, held: runtime.DirectoryLock) -> None:
        """Open the filesystem whose lock is `held`; the lock is let go at the end, or if opening fails."""
        self._held = held
        self._directory = store.directory(row)
        read_only = row.status == ARCHIVED or held.read_only
        try:
            self._engine = RocksStore.open(store.database(row), read_only=read_only)
            try:
                self.filesystem = Filesystem(self._engine, read_only=read_only)
                self._opened = OpenFiles(self.filesystem, self.filesystem.release)
            except BaseException:
                self._engine.close()
                raise
        except BaseException:
            held.close()
            raise

    def call(self, command: str, **arguments: object) -> Json:
        """See `Session.call`."""
        if command in files.COMMANDS:
            result, changed = self._opened.run(command, dict(arguments))
            if changed is not None:
                self.filesystem.release(changed.inodes)
                self.filesystem.reclaim(_RECLAIM_SLICE)
            return result
        result = admin.run(self.filesystem, command, dict(arguments))
        if not self.filesystem.read_only:
            self._engine.sync()
        return result

    def checkpoint(self) -> Path:
        """See `Session.checkpoint`."""
        name = f"{CHECKPOINT_PREFIX}{secrets.token_hex(4)}"
        path = stand_in.new_name() if self._held.read_only else self._directory / name
        self._engine.checkpoint(path)
        return path

    def is_alive(self) -> bool:
        """See `Session.is_alive`."""
        return True

    def close(self) -> None:
        """See `Session.close`."""
        try:
            self._opened.close()
            self._engine.close()
        finally:
            self._held.close()


def connect(store: Store, row: FilesystemRow, *, wait_s: float = LOCK_WAIT_S) -> Session:
    """Return a session with a filesystem that is not deleted.

    A daemon that is just starting or ending has the lock but does not answer: that is waited for, up to
    `wait_s` seconds. Raises `WrongStatus`, `StoreLocked` and what opening a database raises.
    """
    if row.status == DELETED:
        raise WrongStatus(f"{row.full_name} is deleted: `tzfs undelete {row.full_name}` first")
    directory = store.directory(row)
    deadline = time.monotonic() + wait_s
    while True:
        if runtime.current_mount(directory) is not None:
            try:
                return MountedSession(directory)
            except DaemonGone:
                pass  # it is ending: its lock comes free, or the time is over
        held = _try_lock(directory, row)
        if held is not None:
            return LocalSession(store, row, held)
        if time.monotonic() >= deadline:
            raise StoreLocked(f"{row.full_name} is in use by process {runtime.holder_pid(directory)}")
        time.sleep(runtime.RETRY_S)


def _try_lock(directory: Path, row: FilesystemRow) -> runtime.DirectoryLock | None:
    """Lock a filesystem's directory; `WrongStatus` if it is not there."""
    try:
        return runtime.try_lock(directory)
    except FileNotFoundError:
        raise WrongStatus(f"{directory} is missing: the store has lost {row.full_name}") from None
