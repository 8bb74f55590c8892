"""Commands that change the live tree behind the kernel's back: a rollback, and the files of the API.

Programs on the mount go on meanwhile, and the kernel holds what they wrote and not yet sent. Where a command
changes content, size or times of a file that the kernel knows, it must neither overtake nor undo that. So it
takes its turn among the programs' writes, in the place where the kernel orders these:

- A thread asks for the times of the file to be set, on the mount (`Resync.make`). For that the kernel locks
  the inode, as it does for every write(2), and writes out all that it holds dirty of it. Then it asks us.
- While it waits for the answer, no write(2) can begin and none is under way: the core knows all that any
  program wrote, and the file's true size. The handler runs the command now (`Commands.claims`), and puts
  what it wrote into the kernel's pages.
- Answered, the kernel lets the programs go on, on top of what the command did.

A new size is set in the same way, by truncate(2). What is written through a shared mapping takes no lock: it
is safe from commands that change other pages.

This fails for a file to which no name is known to lead, and, unless the daemon is root's, for one that its
user does not own. There the command runs
at once, between the writing of what is dirty and the dropping of what is stale, and a program that writes the
same file in this very moment may lose that.
"""

from __future__ import annotations

import contextlib
import logging
import stat
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import trio

from tzfs import files, keys
from tzfs.errors import CorruptRecord, FsError, NoEntry, Stale, TzfsError
from tzfs.filesystem import Filesystem
from tzfs.fuse.attributes import LiveAttributes
from tzfs.fuse.handles import Handles, LookupCounts
from tzfs.fuse.resync import NOW, Resync, StaleCaches, collect, path_of, store, write_out
from tzfs.history import Restored
from tzfs.openfiles import OpenFiles
from tzfs.records import NOBODY, AttributeChanges, Inode, Snapshot, decode_entry

_log = logging.getLogger("tzfs.fuse")

T = TypeVar("T")

TRIES_MAX: Final = 100
"""How often a turn is asked for when the file's name changes under way."""


SEARCH_PAGE: Final = 2000
"""Names that are looked at between two requests: about a millisecond."""


class Turn:
    """A file command that waits for its turn.

    number: the inode whose content it changes. steps: the setattrs to make for it, the first of which gives
    it its turn. outcome, error: of the command, once it has run.
    """

    def __init__(
        self, opened: OpenFiles, command: str, arguments: files.Json, change: files.ContentChange
    ) -> None:
        self.opened = opened
        self.command = command
        self.arguments = arguments
        self.number = change.inode.number
        self.steps = _steps(change)
        self.caller = files.caller_of(arguments)
        self.outcome: files.Outcome | None = None
        self.error: TzfsError | None = None

    @property
    def is_over(self) -> bool:
        """Whether the command has run."""
        return self.outcome is not None or self.error is not None

    def run(self) -> None:
        """Run the command. Raises what it raises, which is then the error."""
        try:
            self.outcome = self.opened.run(self.command, self.arguments)
        except TzfsError as error:
            self.error = error
            raise

    def result(self) -> files.Json:
        """Return the command's result or raise its error."""
        if self.error is not None:
            raise self.error
        assert self.outcome is not None
        return self.outcome[0]


class Commands:
    """What the daemon runs for the control socket, on a tree that is mounted."""

    def __init__(
        self,
        fs: Filesystem,
        *,
        flush: Callable[[], Awaitable[None]],
        known: LookupCounts,
        handles: Handles,
        attributes: LiveAttributes,
        resync: Resync | None,
    ) -> None:
        """Serve `fs`; `known` and `handles` are what the kernel knows and has open. See `Operations`."""
        self._fs = fs
        self._flush = flush
        self._known = known
        self._handles = handles
        self._attributes = attributes
        self._resync = resync
        self._telling = trio.Lock()
        self._turn: Turn | None = None

    async def rollback(self, name: bytes) -> Snapshot:
        """Make the live tree what it was at a snapshot, and return the snapshot of the present.

        What the kernel holds dirty belongs to the present and is in that snapshot; what it keeps of the
        tree is told to it anew. Raises `SnapshotMissing`, `ReadOnly`.
        """
        await self._flush()
        present, restored = self._fs.rollback(name)
        await self.announce(restored)
        return present

    async def announce(self, restored: Restored) -> None:
        """Tell the kernel what a rollback changed."""
        known = self._let_go(restored.inodes)
        self._renew_directories(known)
        await self._tell(collect(self._fs, restored, known, await self._names_of_strays(known)))

    def _renew_directories(self, numbers: list[int]) -> None:
        """Make those of the inodes new ones to the kernel that are directories, were removed, and are back.

        What it has of a removed directory never finds a name again (S_DEAD in fs/namei.c), and it has that as
        long as a program works there. Whoever does so must change to the directory anew.
        """
        present = self._fs.versions.before(self._fs.txn)
        for number in numbers:
            with contextlib.suppress(FsError):
                inode = self._fs.getattr(number)
                if inode.is_directory and inode.nlink and not self._had_name(number, present):
                    self._attributes.renew(number)

    def _had_name(self, number: int, at: int) -> bool:
        try:
            return self._fs.getattr(number, at=at).nlink > 0
        except NoEntry:
            return False

    async def _names_of_strays(self, numbers: list[int]) -> dict[int, tuple[int, bytes]]:
        """Return an entry of each of these inodes that has a name and knows none: its other one went.

        Nothing leads from such an inode to its names, so all names are looked at, some at a time. They may
        change meanwhile: whoever uses what was found looks whether it is still there.
        """
        strays = {number for number in numbers if self._is_stray(number)}
        found: dict[int, tuple[int, bytes]] = {}
        lower, upper = keys.kind_range(keys.ENTRY)
        while strays:
            pairs = self._fs.versions.live.scan(lower, upper, SEARCH_PAGE)
            for k, payload in pairs:
                with contextlib.suppress(CorruptRecord):
                    if (number := decode_entry(payload)) in strays:
                        strays.remove(number)
                        found[number] = keys.split_entry(k).parent, keys.split_entry(k).name
            if len(pairs) < SEARCH_PAGE:
                break
            lower = pairs[-1][0] + b"\0"
            await trio.lowlevel.checkpoint()
        return found

    def _is_stray(self, number: int) -> bool:
        try:
            inode = self._fs.getattr(number)
        except FsError:
            return False
        return inode.parent == 0 and inode.nlink > 0 and inode.is_regular

    def open_files(self) -> OpenFiles:
        """Return the open files of a new session."""
        return OpenFiles(self._fs, self._let_go)

    async def run_file_command(self, opened: OpenFiles, command: str, arguments: files.Json) -> files.Json:
        """Run a command of `tzfs.files` for a session; nothing that a program wrote is lost by it."""
        files.require_arguments(files.COMMANDS[command], command, arguments)
        for _ in range(TRIES_MAX):
            change = files.content_change(self._fs, command, arguments)
            if change is None or self._resync is None or not self._is_known(change.inode.number):
                break
            asked = arguments.get("path") or opened.paths.get(change.inode.number)
            path = path_of(self._fs, change.inode, asked)
            if path is None:
                break
            turn = Turn(opened, command, arguments, change)
            was_there = await self._take(turn, path)
            if turn.is_over:
                if "mode" in arguments.get("changes", ()):
                    # The answer to a setattr tells the mode, but no access control list.
                    await self._tell(StaleCaches([], [turn.number], [], content=False))
                return turn.result()
            if was_there:
                break
        return await self._run_at_once(opened, command, arguments)

    async def _take(self, turn: Turn, path: bytes) -> bool:
        """Wait for a turn; tell whether the file was where its name says."""
        was_there = False
        resync = self._resync
        assert resync is not None

        def make(turn: Turn) -> None:
            nonlocal was_there
            try:
                was_there = resync.make(path, turn.number, turn.steps)
            except OSError as error:
                was_there = True
                if not turn.is_over:
                    _log.info("a command did not get its turn at %r: %s", path, error)

        async with self._telling:
            self._turn = turn
            try:
                await in_thread(make, turn)
            finally:
                self._turn = None
        return was_there

    async def claims(self, pid: int, number: int, asked: AttributeChanges) -> bool:
        """Tell whether a setattr of the kernel is ours; whatever it was for is done then.

        It changes the core only where the kernel has overtaken us: a size that a program has changed since,
        and the time at which a command took its turn, which the kernel and the core must agree upon.
        """
        resync = self._resync
        if resync is None or pid != resync.thread_id or not resync.expects(number, asked):
            return False
        if asked.mode is not None:
            return True  # it is for what the kernel believes, and no moment to do anything in
        turn = self._turn if self._turn is not None and self._turn.number == number else None
        if turn is not None and not turn.is_over:
            change = files.content_change(self._fs, turn.command, turn.arguments)
            if change is None or change.inode.number != number:
                return True  # its path names another file by now
            turn.run()
            if change.data:
                end = turn.result().get("end", len(change.data))
                await in_thread(_store, (number, end - len(change.data), change.data))
            if change.data is not None and change.size is not None and change.size < change.inode.size:
                turn.steps.append(AttributeChanges(size=change.size))
        inode = self._fs.getattr(number)
        size = None if asked.size in (None, inode.size) else asked.size
        mtime_ns = None if asked.mtime_ns in (None, inode.mtime_ns) else asked.mtime_ns
        if size is not None or mtime_ns is not None:
            changes = AttributeChanges(size=size, mtime_ns=mtime_ns or inode.mtime_ns)
            self._fs.setattr(number, changes, NOBODY if turn is None else turn.caller)
        return True

    def shown(self, number: int) -> Inode:
        """Return an inode as the answer to a setattr that `claims` took tells it."""
        inode = self._fs.getattr(number)
        if self._resync is not None and self._resync.unlocked == number:
            inode = inode._replace(mode=inode.mode | stat.S_IWUSR)
        return inode

    async def _run_at_once(self, opened: OpenFiles, command: str, arguments: files.Json) -> files.Json:
        """Run a command between what the kernel holds dirty and what it must forget."""
        writing = self._handles.open_for_writing()
        if writing:
            concerned = files.concerned(self._fs, arguments)
            await in_thread(write_out, self._among(writing, concerned))
        change = files.content_change(self._fs, command, arguments)
        result, changed = opened.run(command, arguments)
        if changed is not None:
            known = self._let_go(changed.inodes)
            entries = {entry for entry in changed.entries if self._is_known(entry[0])}
            if known or entries:
                stale = collect(self._fs, Restored(set(), entries), known, content=False)
                await self._tell(stale._replace(content=change is not None))
        return result

    def _among(self, writing: set[int], concerned: set[int]) -> list[int]:
        """Return those of `writing` that are concerned, themselves or as an entry of a directory."""
        found = []
        for number in writing:
            with contextlib.suppress(NoEntry, Stale):
                if number in concerned or self._fs.getattr(number).parent in concerned:
                    found.append(number)
        return found

    def _let_go(self, numbers: set[int]) -> list[int]:
        """Return those inodes that the kernel knows; of the others nobody will say that it forgot them."""
        known = [number for number in numbers if self._is_known(number)]
        self._fs.release(numbers.difference(known))
        return known

    def _is_known(self, number: int) -> bool:
        """Tell whether the kernel knows an inode; the root without ever having looked it up."""
        return number == self._fs.ROOT or self._known[number] > 0

    async def _tell(self, stale: StaleCaches) -> None:
        """Tell the kernel what changed without a request of its own; one at a time."""
        if self._resync is not None:
            async with self._telling:
                await in_thread(self._resync.run, stale)


def _steps(change: files.ContentChange) -> list[AttributeChanges]:
    """Return the setattrs that a change is for the kernel.

    Content is stored in the kernel's pages while the times are set, not while the size is: then a program
    that writes to a mapped page may hold it locked, waiting for a write that the kernel holds back until it
    is answered.
    """
    times = AttributeChanges(
        atime_ns=change.inode.atime_ns if change.atime_ns is None else change.atime_ns,
        mtime_ns=NOW if change.mtime_ns is None else change.mtime_ns,
    )
    if change.size is None or change.data is not None:
        return [times]
    return [AttributeChanges(size=change.size), times]


def _store(what: tuple[int, int, bytes]) -> None:
    store(*what)


async def in_thread(function: Callable[[T], None], argument: T) -> None:
    """Run what makes requests of this very mount.

    When the daemon ends, nobody answers these any more: then the thread is left behind, and the kernel fails
    its requests as soon as the mount is gone.
    """
    await trio.to_thread.run_sync(function, argument, abandon_on_cancel=True)
