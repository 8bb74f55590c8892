"""Stand-ins for what pyfuse3 hands to a request handler, which only a mount can make."""

from __future__ import annotations

from typing import NamedTuple

import pyfuse3
import pytest


class Context(NamedTuple):
    """Who asks, as `pyfuse3.RequestContext`."""

    uid: int = 0
    gid: int = 0
    pid: int = 0
    umask: int = 0


class Fields(NamedTuple):
    """What a setattr asks for, as `pyfuse3.SetattrFields`."""

    update_mode: bool = False
    update_uid: bool = False
    update_gid: bool = False
    update_size: bool = False
    update_atime: bool = False
    update_mtime: bool = False
    update_ctime: bool = False


class Line(NamedTuple):
    """What a handler put into the kernel's readdir buffer."""

    name: bytes
    st_ino: int
    cookie: int
    entry_timeout: float


class ReaddirBuffer:
    """Takes the place of `pyfuse3.readdir_reply`: a buffer with room for so many lines."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.room = 1_000_000
        self.lines: list[Line] = []
        monkeypatch.setattr(pyfuse3, "readdir_reply", self._reply)

    def _reply(self, token: object, name: bytes, attr: pyfuse3.EntryAttributes, cookie: int) -> bool:
        if len(self.lines) >= self.room:
            return False
        self.lines.append(Line(name, attr.st_ino, cookie, attr.entry_timeout))
        return True

    def take(self) -> list[Line]:
        """Return the lines, and empty the buffer for the next request."""
        lines, self.lines = self.lines, []
        return lines
