"""A mount, from opening the database to letting go of it: one process, one nursery.

    lock, database          before anything else: nobody else has them
    pyfuse3.init            the kernel has the mount, requests wait
    nursery                 the request loop, background tasks, the control socket, signals
    the mount answers       mount.json, "ready" to whoever started us
    ... unmounted, or SIGTERM ...
    tasks cancelled, database synced and closed, control.sock and mount.json removed, lock free

If the daemon fails, it does *not* unmount: programs get ENOTCONN rather than an empty directory, which
a mirror would take for the truth. The next mount recognises and cleans such a mount point.

Nothing here touches the mount on the event loop, which would wait for its own answer.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import faulthandler
import functools
import gc
import logging
import logging.handlers
import os
import secrets
import shutil
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Final

import pyfuse3
import trio

from tzfs import admin, background, control_server, damage, files, mountpoint, runtime
from tzfs.background import Supervisor
from tzfs.bulk import Bulk, Pending
from tzfs.catalog import ARCHIVED, DELETED, FilesystemRow
from tzfs.control import SOCKET_NAME, Json
from tzfs.errors import MountError, ReadOnlyDisk, StoreFull, TzfsError, UnknownFilesystem, WrongStatus
from tzfs.filesystem import Filesystem
from tzfs.fuse import loop
from tzfs.fuse.bulk import BulkWriter
from tzfs.fuse.counters import COUNTERS
from tzfs.fuse.operations import Operations
from tzfs.fuse.resync import Resync
from tzfs.hostspace import INTERVAL_S, HostSpace
from tzfs.mountpoint import SOURCE_PREFIX, MountOptions
from tzfs.openfiles import OpenFiles
from tzfs.records import NOBODY
from tzfs.rocks import RocksStore
from tzfs.session import CHECKPOINT, CHECKPOINT_PREFIX
from tzfs.store import Store, lock_unmounted
from tzfs.syncer import Syncer
from tzfs.top import STATISTICS

log = logging.getLogger(__name__)

LOG_NAME: Final = "daemon.log"
STACKS_NAME: Final = "stacks.log"
"""Where SIGUSR1 and fatal signals write stacks: not the log, which rotates under faulthandler's feet."""
LOG_BYTES_MAX: Final = 4 << 20
LOG_FILES: Final = 3
ENDING_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
END_TIMEOUT_S: Final = 5.0
"""After SIGTERM and a lazy unmount: how long programs may keep files open before these go dead."""

_libc = ctypes.CDLL(None, use_errno=True)


def mount(store: Store, row: FilesystemRow, options: MountOptions, ready: Callable[[], None]) -> None:
    """Mount a filesystem and serve it until it is unmounted; `ready` is called when the mount answers.

    Raises `Mounted`, `StoreLocked`, `WrongStatus`, `MountError`, and what opening a database raises.
    """
    directory = store.directory(row)
    with contextlib.ExitStack() as stack:
        held = stack.enter_context(lock_unmounted(store, row, "mounted again"))
        stack.enter_context(_logging(directory, options, read_only=held.read_only))
        # Once more under the lock: another command may have changed it while we waited.
        fresh = store.catalog.get(row.id)
        if fresh is None:
            raise UnknownFilesystem(f"{row.full_name} is gone: `tzfs list` shows what there is")
        if fresh.status == DELETED:
            raise WrongStatus(f"{fresh.full_name} is deleted: `tzfs undelete {fresh.full_name}` first")
        for leftover in directory.glob(CHECKPOINT_PREFIX + "*"):
            shutil.rmtree(leftover, ignore_errors=True)
        read_only = options.read_only or fresh.status == ARCHIVED
        if held.read_only and not read_only:
            raise ReadOnlyDisk(
                f"{store.path} is on a read-only disk: mount {fresh.full_name} with --read-only, or make the "
                "disk writable"
            )
        engine = RocksStore.open(store.database(fresh), read_only=read_only)
        stack.callback(engine.close)
        for text in engine.dropped():
            log.info("the log of the engine ended early, as after a power cut: %s", text)
        for note in damage.notes(directory):
            log.warning("%s: `tzfs check` tells it for the last time", note.text)
        filesystem = Filesystem(engine, read_only=read_only)
        Daemon(directory, fresh, options, engine, filesystem, held).run(ready)


class Daemon:
    """Serves one mounted filesystem."""

    def __init__(
        self,
        directory: Path,
        row: FilesystemRow,
        options: MountOptions,
        engine: RocksStore,
        filesystem: Filesystem,
        held: runtime.DirectoryLock,
    ) -> None:
        """Serve `filesystem`, which is open on `engine`, at `options.mountpoint`."""
        self._directory = directory
        self._row = row
        self._options = options
        self._engine = engine
        self._filesystem = filesystem
        self._held = held
        self._mountpoint = os.fspath(options.mountpoint)
        self._device = -1
        self._is_announced = False
        self._started_ns = time.time_ns()
        self._space = HostSpace(directory, engine)
        filesystem.volume.require_room = self._space.require
        self._syncer = Syncer(engine.sync, engine.sync_at_once)
        self._operations = Operations(
            filesystem,
            sync=self._syncer.sync,
            flush=self._flush,
            host_free=self._host_free,
            writeback=options.writeback,
            resync=Resync(self._mountpoint),
            bulk=self._make_bulk_writer(),
        )
        self._silent: set[_Conversation] = set()
        self._supervisors = self._make_supervisors()

    def _make_bulk_writer(self) -> BulkWriter:
        bulk = Bulk(self._filesystem, self._engine)

        async def build(pending: Pending) -> dict[int, Path]:
            return await trio.to_thread.run_sync(bulk.build, pending)

        return BulkWriter(self._filesystem, bulk, build)

    def _make_supervisors(self) -> list[Supervisor]:
        """Return the background tasks; one that cannot change needs none."""
        if self._filesystem.read_only:
            return []
        activity, sync = COUNTERS.activity, self._syncer.sync
        tasks: dict[str, Callable[[], Awaitable[None]]] = {
            "reclaim": functools.partial(
                background.run_reclaim, self._filesystem, activity, lambda: self._space.is_full
            ),
            "quota": functools.partial(background.run_quota_watch, self._filesystem, activity),
            "space": functools.partial(self._space.run, activity),
            "losses": self._operations.losses.run,
            "rollback": self._finish_rollback,
            "sync": functools.partial(background.run_sync, sync, self._options.sync_interval_s, activity),
        }
        return [Supervisor(name, task) for name, task in tasks.items()]

    def run(self, ready: Callable[[], None]) -> None:
        """Mount, serve, and return when it is unmounted."""
        loop.install(self._options.poll_us)
        # A signal that came between mounting and listening for signals would leave a stale mount.
        signal.pthread_sigmask(signal.SIG_BLOCK, ENDING_SIGNALS)
        _init(self._operations, self._mountpoint, self._fuse_options())
        # What stands now is here to stay; the collector need not look at it again and again.
        gc.collect()
        gc.freeze()
        if not self._filesystem.read_only:
            self._space.make_reserve()
        is_clean = False
        try:
            trio.run(self._serve, ready)
            is_clean = True
        finally:
            # A mount that nobody was told of has no users to mislead.
            pyfuse3.close(unmount=is_clean or not self._is_announced)
            if not self._held.read_only:
                self._space.drop_reserve()
                (self._directory / SOCKET_NAME).unlink(missing_ok=True)
            if is_clean:
                self._held.withdraw()
        log.info("%s unmounted", self._row.full_name)

    def _fuse_options(self) -> set[str]:
        """Return the options for libfuse."""
        options = {
            "default_permissions",
            f"fsname={SOURCE_PREFIX}{self._row.full_name}",
            "subtype=tzfs",
            *self._options.fuse_options,
        }
        if self._filesystem.read_only:
            options.add("ro")
        if self._options.allow_other:
            options.add("allow_other")
        return options

    async def _serve(self, ready: Callable[[], None]) -> None:
        """Run everything until the request loop ends, which is when the kernel has unmounted us."""
        async with trio.open_nursery() as nursery:
            if not self._held.read_only:
                listener = control_server.listen(self._directory)
                serve_control = functools.partial(control_server.run, listener, self._begin_conversation)
                nursery.start_soon(serve_control, name="control")
            await nursery.start(self._watch_signals)
            for supervisor in self._supervisors:
                nursery.start_soon(supervisor.run, name=supervisor.name)
            nursery.start_soon(self._announce, ready)
            await pyfuse3.main()
            nursery.cancel_scope.cancel()

    async def _announce(self, ready: Callable[[], None]) -> None:
        """Tell the world that the mount answers, once it does."""
        status = await trio.to_thread.run_sync(os.stat, self._mountpoint)
        self._device = status.st_dev
        self._held.announce(
            runtime.MountRecord(self._mountpoint, os.getpid(), self._started_ns, self._filesystem.read_only)
        )
        self._is_announced = True
        log.info("%s mounted at %s by process %d", self._row.full_name, self._mountpoint, os.getpid())
        ready()

    # ------------------------------------------------------------------ ending

    async def _watch_signals(self, task_status: trio.TaskStatus[None]) -> None:
        """End cleanly on `ENDING_SIGNALS`."""
        with trio.open_signal_receiver(*ENDING_SIGNALS) as signals:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING_SIGNALS)
            task_status.started()
            async for number in signals:
                log.info("%s: unmounting %s", signal.Signals(number).name, self._mountpoint)
                await trio.to_thread.run_sync(self._unmount)
                # Without open files the loop has ended by now, and this task with it.
                await trio.sleep(END_TIMEOUT_S)
                log.warning("files at %s were still open and are dead now", self._mountpoint)
                pyfuse3.terminate()
                return

    def _unmount(self) -> None:
        """Take the mount out of the tree, then write out what the kernel holds dirty. In a thread.

        In this order: afterwards no program can open anything any more, so what is written out last is
        all there will be, but for what programs with open files write still.
        """
        self._flush_in_thread()
        try:
            mountpoint.unmount(self._options.mountpoint, lazy=True)
        except MountError as error:
            log.info("unmounting: %s", error)
        else:
            self._wait_for_writing()

    # ------------------------------------------------- what operations ask for

    async def _flush(self) -> None:
        """Write out the kernel's dirty pages of this mount.

        What cannot be written (over the quota, most often) is lost to the live tree, too, and the program
        that wrote it hears of it at its next fsync or close. The kernel also tells whoever calls syncfs
        next, however much later. So it is logged, and no reason to refuse a snapshot of what is there.
        """
        if not self._filesystem.read_only:
            await trio.to_thread.run_sync(self._flush_in_thread)

    def _flush_in_thread(self) -> None:
        """Start all writing with syncfs(2), then wait for each file."""
        try:
            self._start_writing()
        except OSError as error:
            log.warning("data that a program wrote could not be stored: %s", error)
        self._wait_for_writing()

    def _start_writing(self) -> None:
        """Run syncfs(2) on the mount. Raises OSError for data that could not be written.

        The descriptor is opened each time: one that stayed open would keep the mount busy and
        `fusermount3 -u` from working.
        """
        try:
            descriptor = os.open(self._mountpoint, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:
            # The mode of the root directory may shut its owner out, who we are. sync(2) needs no descriptor.
            os.sync()
            return
        try:
            # Somebody may have mounted something over us.
            if os.fstat(descriptor).st_dev == self._device:
                _syncfs(descriptor)
            else:
                os.sync()
        finally:
            os.close(descriptor)

    def _wait_for_writing(self) -> None:
        """Return when the kernel has no dirty page and no write under way that was there before.

        Linux 6.18 and later do not wait in syncfs(2) for the pages of a FUSE filesystem
        (AS_NO_DATA_INTEGRITY, include/linux/pagemap.h): measured, files that were open during a
        snapshot were empty in it. Invalidating an inode's pages does wait for each of them, and writes
        those that are dirty again (invalidate_inode_pages2_range, mm/truncate.c). It costs the cached
        pages of files that are open for writing.
        """
        for number in self._operations.open_for_writing():
            try:
                pyfuse3.invalidate_inode(number)
            except OSError as error:
                # EBUSY: written, but dirty again at once. ENOENT: the kernel has dropped the inode.
                if error.errno not in (errno.EBUSY, errno.ENOENT):
                    log.warning("data that a program wrote could not be stored: %s", error)

    async def _finish_rollback(self) -> None:
        """Go on with a rollback that a full disk stopped."""
        activity = COUNTERS.activity
        while True:
            if self._filesystem.returning_to is None:
                await activity.rest(INTERVAL_S, activity.count)
            else:
                await trio.sleep(INTERVAL_S)
            if self._filesystem.returning_to is not None and self._space.free():
                try:
                    restored = self._filesystem.finish_rollback()
                except StoreFull as error:
                    log.info("the rollback still waits for room on the disk: %s", error)
                else:
                    log.info("the rollback that waited for room on the disk is done")
                    await self._operations.commands.announce(restored)

    def _host_free(self) -> tuple[int, int]:
        """Return (free, total) bytes of the disk under the store, as an unprivileged writer sees it."""
        disk = os.statvfs(self._directory)
        return self._space.free(), disk.f_blocks * disk.f_frsize

    # --------------------------------------------------------- control socket

    def _begin_conversation(self) -> control_server.Conversation:
        """Return what is kept for a new connection of the control socket."""
        return _Conversation(self._operations.commands.open_files(), self._handle, self._silent)

    async def _handle(self, opened: OpenFiles, command: str, arguments: Json) -> Json:
        """Run a command that came over the control socket."""
        try:
            return await self._run_command(opened, command, arguments)
        finally:
            COUNTERS.activity.note()

    async def _run_command(self, opened: OpenFiles, command: str, arguments: Json) -> Json:
        if command == CHECKPOINT:
            return await self._checkpoint()
        if command in admin.COMMANDS:
            files.require_arguments(admin.COMMANDS[command], command, arguments)
        if command in files.COMMANDS:
            return await self._operations.commands.run_file_command(opened, command, arguments)
        if command == STATISTICS:
            cached = {"engine_cache": self._engine.cached()}
            return admin.info(self._filesystem) | COUNTERS.describe() | cached
        if command == "sync":
            await self._flush()
        if command == "snapshot":
            label = arguments.get("label")
            name = None if label is None else os.fsencode(str(label))
            result = admin.describe_snapshot(await self._operations.take_snapshot(name, NOBODY))
        elif command == "rollback":
            goal = os.fsencode(str(arguments.get("name")))
            result = admin.describe_snapshot(await self._operations.commands.rollback(goal))
        else:
            result = admin.run(self._filesystem, command, arguments)
        if command == "info":
            result["tasks"] = [supervisor.describe() for supervisor in self._supervisors]
            result["wal_syncs"] = self._syncer.syncs
            result["engine"] = self._space.describe()
        elif not self._filesystem.read_only:
            # What a command has answered is durable, as it is without a mount.
            await self._syncer.sync()
        return result

    async def _checkpoint(self) -> Json:
        """Copy the database as it is now, dirty pages included; whoever asked owns the copy."""
        await self._flush()
        path = self._directory / f"{CHECKPOINT_PREFIX}{secrets.token_hex(4)}"
        await trio.to_thread.run_sync(self._engine.checkpoint, path)
        return {"path": os.fspath(path)}


class _Conversation(control_server.Conversation):
    """A connection of the control socket, with the files that it has open. `silent`: those that may be."""

    def __init__(
        self,
        opened: OpenFiles,
        handle: Callable[[OpenFiles, str, Json], Awaitable[Json]],
        silent: set[_Conversation],
    ) -> None:
        super().__init__(functools.partial(handle, opened))
        self._opened = opened
        self._silent = silent

    def may_be_silent(self) -> bool:
        """Tell whether files are open; but some places are for those that come and go."""
        self._silent.discard(self)
        if self._opened and len(self._silent) < control_server.CONNECTIONS_MAX // 2:
            self._silent.add(self)
        return self in self._silent

    def close(self) -> None:
        """Close its files."""
        self._silent.discard(self)
        self._opened.close()


def _syncfs(descriptor: int) -> None:
    """Run syncfs(2), without the GIL. Raises OSError."""
    if _libc.syncfs(descriptor) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _init(operations: Operations, path: str, options: set[str]) -> None:
    """Mount; `MountError` with the reason, which libfuse and fusermount3 tell only to the standard error."""
    saved = os.dup(2)
    words = os.memfd_create("stderr")
    try:
        os.dup2(words, 2)
        try:
            pyfuse3.init(operations, path, options)
        finally:
            os.dup2(saved, 2)
    except RuntimeError as error:
        os.lseek(words, 0, os.SEEK_SET)
        text = os.read(words, 65536).decode("utf-8", "replace").strip().replace("\n", "; ")
        raise MountError(f"{path} could not be mounted: {text or error}") from error
    finally:
        os.close(saved)
        os.close(words)


@contextlib.contextmanager
def _logging(directory: Path, options: MountOptions, *, read_only: bool) -> Iterator[None]:
    """Log to the filesystem's own file, or to the one asked for; in the foreground to stderr, too.

    read_only: the disk is, so there is no file of its own.
    """
    root = logging.getLogger()
    nowhere = Path(os.devnull)
    file = options.log_file or (nowhere if read_only else directory / LOG_NAME)
    handlers: list[logging.Handler] = [
        logging.handlers.RotatingFileHandler(
            file, maxBytes=LOG_BYTES_MAX, backupCount=LOG_FILES, encoding="utf-8", errors="backslashreplace"
        )
    ]
    if options.foreground:
        handlers.append(logging.StreamHandler(sys.stderr))
    formatter = logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    for handler in handlers:
        handler.setFormatter(formatter)
        root.addHandler(handler)
    root.setLevel(logging.DEBUG if options.debug else logging.INFO)
    with (nowhere if read_only else directory / STACKS_NAME).open("a") as stacks:
        faulthandler.enable(stacks)
        faulthandler.register(signal.SIGUSR1, stacks)
        try:
            yield
        except TzfsError as error:
            log.error("%s", error)  # noqa: TRY400 a refusal, not a bug: no traceback
            raise
        except BaseException:
            log.exception("the daemon failed")
            raise
        finally:
            faulthandler.unregister(signal.SIGUSR1)
            faulthandler.disable()
            for handler in handlers:
                root.removeHandler(handler)
                handler.close()
