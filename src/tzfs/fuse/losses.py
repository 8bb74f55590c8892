"""Telling a program that what it wrote did not fit, while it still writes.

With the writeback cache a write(2) has succeeded before the daemon is asked. If there is no room then, the
kernel tells so at fsync(2) or close(2), and who never comes to these, as `yes >file`, writes for ever. But
before each write(2) the kernel wants to know a file's attributes. It is made to ask for them, and the answer
to the program that has the file open for writing is the error, once for each time that something was lost.
"""

from __future__ import annotations

import contextlib

import pyfuse3
import trio

from tzfs.errors import NoSpace
from tzfs.fuse.handles import Handles


class Losses:
    """The inodes of which dirty pages found no room, until a writer has heard of it."""

    def __init__(self, handles: Handles) -> None:
        """Know the writers by their `handles`."""
        self._handles = handles
        self._untold: dict[int, dict[int, int]] = {}
        """By inode: the handles that were open for writing then, each with the process that opened it."""
        self._fresh: set[int] = set()
        self._wake = trio.Event()

    def note(self, number: int) -> None:
        """Remember that a write to an inode found no room."""
        self._untold[number] = self._handles.writers(number)
        self._fresh.add(number)
        self._wake.set()

    def tell(self, number: int, pid: int) -> None:
        """Raise `NoSpace` if process `pid` writes to the inode, and did when something was lost."""
        if number not in self._untold:
            return
        writers = self._handles.writers(number).items() & self._untold[number].items()
        if not writers:
            del self._untold[number]
        elif pid in dict(writers).values():
            del self._untold[number]
            raise NoSpace("what was written before did not fit")

    def forget(self, number: int) -> None:
        """Forget about an inode that the kernel has forgotten."""
        self._untold.pop(number, None)

    async def run(self) -> None:
        """Make the kernel ask for the attributes of inodes that lost something: a background task."""
        while True:
            await self._wake.wait()
            self._wake = trio.Event()
            while self._fresh:
                # Left behind when the daemon ends: the kernel may want something of us before it answers.
                await trio.to_thread.run_sync(_make_ask, self._fresh.pop(), abandon_on_cancel=True)


def _make_ask(number: int) -> None:
    """Have the kernel forget an inode's attributes, but not its pages. Blocks: in a thread only."""
    with contextlib.suppress(FileNotFoundError):
        pyfuse3.invalidate_inode(number, attr_only=True)
