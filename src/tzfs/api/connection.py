"""One session with a filesystem, shared by all that stems from one `Filesystem` object, under one lock.

Whether the filesystem is mounted is asked when the session begins, and again when its daemon has gone. A
question that changes nothing is then asked once more; a change is not, for it may have been made.
"""

from __future__ import annotations

import collections
import contextlib
import os
import threading
from pathlib import Path
from typing import Any, Final

from tzfs import files, fork
from tzfs.api.errors import os_error, raising
from tzfs.catalog import FilesystemRow
from tzfs.errors import ControlError, DaemonGone, TzfsError
from tzfs.session import LocalSession, Session, connect
from tzfs.store import Store

Json = dict[str, Any]

_HARMLESS: Final = {
    "info", "check", "diff", "snapshots", "snapshot_find", "sync", "file_stat", "file_read_link",
    "file_listing", "file_read", "file_read_slice", "file_find_file", "file_close",
    "file_get_attribute", "file_list_attributes",
}  # fmt: skip
"""Commands that can be repeated: those that change nothing."""


class Connection:
    """A session that is opened when it is needed. Safe in threads: one call at a time."""

    def __init__(self, store: Store, row: FilesystemRow) -> None:
        """Connect to the filesystem `row`; raises what `session.connect` raises."""
        self.store = store
        self.row = row
        self._lock = threading.Lock()
        self._session: Session | None = None
        self._is_closed = False
        self.sessions = 0
        """How many there were. What a session has open, no other has."""
        self._to_close: collections.deque[tuple[int, int]] = collections.deque()
        with raising():
            self._open()

    def _open(self) -> Session:
        """Return a session that is alive. ValueError after `close`."""
        if self._is_closed:
            raise ValueError("the filesystem is closed")
        if self._session is not None and not self._session.is_alive():
            self._drop()
        if self._session is None:
            # The catalog has the last word on name and status: a daemon may have ended meanwhile.
            self._session = connect(self.store, self.store.catalog.get(self.row.id) or self.row)
            self.sessions += 1
        return self._session

    def _drop(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            session.close()

    def call(self, command: str, /, *, about: str | None = None, **arguments: object) -> Json:
        """Run a command; `about` is the path that an error names."""
        try:
            with self._lock:
                self._close_files()
                return self._call(command, arguments)
        except TzfsError as error:
            raise os_error(error, about) from None

    def _call(self, command: str, arguments: Json) -> Json:
        try:
            return self._open().call(command, **arguments)
        except DaemonGone:
            self._drop()
            if command not in _HARMLESS:
                raise
        except ControlError:
            # What the daemon may still send belongs to the last question, not to the next one.
            self._drop()
            raise
        return self._open().call(command, **arguments)

    def close_file(self, number: int, session: int) -> None:
        """Say that a file that a session had opened is not needed any more.

        The collector may do so at any moment, in the middle of a call of this very thread. Then the file is
        closed by the next call.
        """
        self._to_close.append((number, session))
        if self._lock.acquire(blocking=False):
            try:
                self._close_files()
            finally:
                self._lock.release()

    def _close_files(self) -> None:
        """Close what `close_file` was told of."""
        while self._to_close:
            number, session = self._to_close.popleft()
            if self._session is not None and session == self.sessions and self._session.is_alive():
                # DaemonGone: it has closed them all.
                with contextlib.suppress(TzfsError):
                    self._session.call("file_close", number=number)

    def change(self, command: str, /, *, about: str | None = None, **arguments: object) -> Json:
        """Run a command of `tzfs.files` that changes something: it is told who asks."""
        return self.call(command, about=about, who=_who(), **arguments)

    def fork(self, snapshot: str | None, name: str) -> FilesystemRow:
        """Make a filesystem `name` of this one, see `tzfs.fork`."""
        with raising(), self._lock:
            return fork.fork_from(self.store, self._open(), self.row, snapshot, name)

    @property
    def is_local(self) -> bool:
        """Whether this process has the database open itself."""
        with self._lock:
            return isinstance(self._session, LocalSession)

    def close(self) -> None:
        """End the session; everything done is durable then. Closing twice is no error."""
        with raising(), self._lock:
            if self._is_closed:
                return
            try:
                if self._session is not None and self._session.is_alive():
                    self._session.call("sync")
            finally:
                self._drop()
                self._is_closed = True


def _who() -> Json:
    """Return whom the change log names as the writer: this process, as the kernel would say it."""
    return {"uid": os.geteuid(), "gid": os.getegid(), "pid": os.getpid(), "program": _program()}


def _program() -> str:
    """Return the name of this program, at most 15 bytes (prctl(2), PR_SET_NAME)."""
    global _program_name  # noqa: PLW0603 read once: a file of /proc costs as much as a small write
    if _program_name is None:
        try:
            _program_name = os.fsdecode(Path("/proc/self/comm").read_bytes().rstrip(b"\n"))
        except OSError:
            _program_name = "?"
    return _program_name


_program_name: str | None = None

SLICE_BYTES: Final = files.SLICE_BYTES
"""Content up to this size is read and written in one step; more takes several."""
