"""A store: a directory of filesystems, and their lives.

    <store>/catalog.db                  who is there (`tzfs.catalog`)
    <store>/filesystems/<id>/db/        one database each
    <store>/filesystems/<id>/lock       who has it open (`tzfs.runtime`)

    create -> running <-> archived      neither mounted nor otherwise open while it changes
                 |            |
                 +--> deleted +         undelete goes back to where it came from; after the grace
                        |               period the bytes go, with the next command on the store
                      purged

The order of steps makes every crash harmless: a new filesystem gets its row when all else is on
disk, a purged one loses it when nothing else is left. A directory without a row that holds the file
`creating` is a leftover of a create that did not end, and is swept. Without that file the catalog has
lost the row, not the filesystem: `recover` gives it one again.
"""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Final

from tzfs import check, mountpoint, runtime
from tzfs.catalog import (
    ARCHIVED,
    DELETED,
    RUNNING,
    Catalog,
    Config,
    FilesystemName,
    FilesystemRow,
    parse_name,
)
from tzfs.errors import (
    CheckFailed,
    Mounted,
    NameTaken,
    NotAStore,
    ReadOnlyDisk,
    StoreLocked,
    UnknownFilesystem,
    WrongStatus,
)
from tzfs.filesystem import Filesystem
from tzfs.rocks import RocksStore
from tzfs.volume import CHUNK_SIZE_DEFAULT

log = logging.getLogger(__name__)

CATALOG_NAME: Final = "catalog.db"
FILESYSTEMS_NAME: Final = "filesystems"
DATABASE_NAME: Final = "db"
GRACE_S: Final = 7 * 86400.0
"""How long the bytes of a deleted filesystem stay: a weekend, and the days until somebody misses it."""
LEFTOVER_AGE_S: Final = 600.0
"""A directory without a row may belong to a create under way, which takes well below a second."""
LOCK_WAIT_S: Final = 10.0
"""How long a command waits for a daemon that is ending or for another short command."""
CREATING_NAME: Final = "creating"
"""In the directory of a filesystem until it has its row."""
PURGED_SUFFIX: Final = ".purged"
"""Of a directory on its way out: renamed first, so that nobody can undelete half of it."""


class Store:
    """The filesystems of one directory. Every change is durable when the method returns."""

    def __init__(self, path: Path, rows: Catalog) -> None:
        """Use `open`."""
        self.path = path
        self.catalog = rows

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, create: bool = False) -> Store:
        """Open the store in directory `path`; `create` makes one where there is nothing.

        Raises `NotAStore`, `NewerCatalog`, `CatalogBroken`.
        """
        directory = Path(path).absolute()
        database = directory / CATALOG_NAME
        # An empty catalog is one whose making was cut off: SQLite had made the file and not its first page.
        if create and (not database.exists() or not database.stat().st_size):
            if directory.exists() and not directory.is_dir():
                raise NotAStore(f"{directory} is not a directory: name another one with --store")
            _make_directory(directory)
            ours = {CATALOG_NAME, f"{CATALOG_NAME}-journal", FILESYSTEMS_NAME}
            if {entry.name for entry in directory.iterdir()} - ours:
                raise NotAStore(
                    f"{directory} holds other files and no store: name a new or empty directory with --store"
                )
            (directory / FILESYSTEMS_NAME).mkdir(mode=0o700, exist_ok=True)
            _sync_directory(directory)
            return cls(directory, Catalog.create(database))
        if not database.exists():
            what = "is not a store of tzfs" if directory.exists() else "does not exist"
            raise NotAStore(f"{directory} {what}: `tzfs create NAME` makes one, --store names another")
        return cls(directory, Catalog(database))

    def directory(self, row: FilesystemRow) -> Path:
        """Return the directory of a filesystem."""
        return self.path / FILESYSTEMS_NAME / row.id

    def database(self, row: FilesystemRow) -> Path:
        """Return the directory of a filesystem's database."""
        return self.directory(row) / DATABASE_NAME

    def get(self, name: str) -> FilesystemRow:
        """Return the filesystem `[NAMESPACE/]NAME`; `InvalidName`, `UnknownFilesystem`.

        A deleted one is returned only where no other has the name.
        """
        return self.catalog.find(parse_name(name))

    def list(self, *, status: str | None = None, namespace: str | None = None) -> list[FilesystemRow]:
        """Return the filesystems, by name; None for either filter is all of them."""
        return self.catalog.rows(status=status, namespace=namespace)

    def mounted_at(self, row: FilesystemRow) -> runtime.MountRecord | None:
        """Return where a filesystem is mounted."""
        return runtime.current_mount(self.directory(row))

    def stays_mounted_at(self, row: FilesystemRow) -> runtime.MountRecord | None:
        """Return where a filesystem is mounted, after waiting for a daemon that is ending.

        umount(8) returns before the daemon has taken its announcement back. So a mount that cannot be seen
        is waited for, LOCK_WAIT_S at most; it may as well be in another container, and stay.
        """
        deadline = time.monotonic() + LOCK_WAIT_S
        while (mount := self.mounted_at(row)) is not None:
            if _is_seen(mount) or time.monotonic() >= deadline:
                break
            time.sleep(runtime.RETRY_S)
        return mount

    def create(
        self,
        name: str,
        *,
        chunk_size: int = CHUNK_SIZE_DEFAULT,
        quota_bytes: int = 0,
        inodes_max: int = 0,
    ) -> FilesystemRow:
        """Make an empty filesystem whose root belongs to the calling user.

        Raises `InvalidName`, `NameTaken`, `StoreFull`.
        """
        return self._add(name, Config(chunk_size, quota_bytes, inodes_max), self._format)

    def adopt(self, name: str, config: Config, database: Path) -> FilesystemRow:
        """Make a filesystem of a complete database on the same disk, which moves into the store: a fork.

        Raises `InvalidName`, `NameTaken`.
        """
        return self._add(name, config, lambda row: _move(database, self.database(row)))

    def require_free(self, name: str) -> FilesystemName:
        """Return a parsed name that no living filesystem has; `InvalidName`, `NameTaken`."""
        full_name = parse_name(name)
        if any(row.full_name == full_name for row in self.list(namespace=full_name.namespace) if _lives(row)):
            raise NameTaken(f"there is a filesystem {full_name} already: choose another name")
        return full_name

    def _add(self, name: str, config: Config, fill: Callable[[FilesystemRow], None]) -> FilesystemRow:
        """Make a filesystem: `fill` puts its database in place before its row tells of it."""
        full_name = self.require_free(name)
        now_ns = time.time_ns()
        row = FilesystemRow(secrets.token_hex(8), *full_name, RUNNING, config, now_ns, now_ns)
        directory = self.directory(row)
        directory.mkdir(mode=0o700, parents=True)
        held = runtime.lock(directory, wait_s=0)
        assert held is not None, "nobody else can know a new id"
        try:
            (directory / CREATING_NAME).touch()
            fill(row)
            _sync_directory(directory)
            _sync_directory(directory.parent)
            self.catalog.insert(row)
            (directory / CREATING_NAME).unlink(missing_ok=True)  # a sweep may have been faster
        except BaseException:
            if self.catalog.get(row.id) is None:
                shutil.rmtree(directory, ignore_errors=True)
            raise
        finally:
            held.close()
        return row

    def _format(self, row: FilesystemRow) -> None:
        """Make the database of a new filesystem, and sync it and its directories."""
        engine = RocksStore.open(self.database(row), create=True)
        try:
            Filesystem.format(engine, **row.config._asdict(), uid=os.getuid(), gid=os.getgid())
            engine.sync()
        finally:
            engine.close()

    def rename(self, name: str, new_name: str) -> FilesystemRow:
        """Give a filesystem another name; a mount of it goes on. `NameTaken`, `WrongStatus`."""
        row = self._get_living(name, "renamed")
        return self._change(row, *parse_name(new_name))

    def archive(self, name: str) -> FilesystemRow:
        """Check, reclaim and compact a filesystem; it is read-only from then on.

        Raises `WrongStatus`, `Mounted`, `CheckFailed` (then it stays running), `StoreError`.
        """
        row = self._get_living(name, "archived")
        if row.status == ARCHIVED:
            raise WrongStatus(f"{row.full_name} is archived already: `tzfs unarchive` makes it writable")
        with self._locked(row, "archived"):
            engine = RocksStore.open(self.database(row))
            try:
                filesystem = Filesystem(engine)
                while filesystem.reclaim():
                    pass
                findings = check.check(filesystem)
                if findings:
                    raise CheckFailed(
                        f"{row.full_name} is damaged, {len(findings)} findings: `tzfs check {row.full_name}`"
                        " shows them; it was not archived"
                    )
                engine.compact()
            finally:
                engine.close()
            return self._change(row, status=ARCHIVED)

    def unarchive(self, name: str) -> FilesystemRow:
        """Make an archived filesystem writable again. `WrongStatus`, `Mounted`."""
        row = self._get_living(name, "unarchived")
        if row.status != ARCHIVED:
            raise WrongStatus(f"{row.full_name} is not archived but {row.status}: nothing to do")
        with self._locked(row, "unarchived"):
            return self._change(row, status=RUNNING)

    def delete(self, name: str, *, grace_s: float = GRACE_S) -> FilesystemRow:
        """Take a filesystem out of use; its bytes stay for `grace_s` seconds, in which `undelete` works.

        Raises `WrongStatus`, `Mounted`.
        """
        row = self.get(name)
        if row.status == DELETED:
            raise WrongStatus(
                f"{row.full_name} is deleted already: `tzfs undelete {row.full_name}` brings it back, "
                f"`tzfs purge {row.full_name}` frees its bytes"
            )
        with self._locked(row, "deleted"):
            now_ns = time.time_ns()
            return self._change(
                row,
                status=DELETED,
                deleted_ns=now_ns,
                deleted_from=row.status,
                purge_after_ns=now_ns + int(grace_s * 1e9),
            )

    def undelete(self, name: str) -> FilesystemRow:
        """Bring back the filesystem that was deleted last under this name. `WrongStatus`, `NameTaken`."""
        row = self._get_deleted(name)
        if _lives(self.get(name)):
            raise NameTaken(
                f"another filesystem is called {row.full_name} now: "
                f"`tzfs rename {row.full_name} NEW_NAME` first"
            )
        with self._locked(row, "undeleted"):
            if not self.database(row).is_dir():
                raise WrongStatus(f"the grace period of {row.full_name} is over and its bytes are gone")
            status = row.deleted_from or RUNNING
            return self._change(row, status=status, deleted_ns=None, deleted_from=None, purge_after_ns=None)

    def purge(self, name: str) -> FilesystemRow:
        """Remove the bytes of the filesystem that was deleted last under this name, now and for ever."""
        row = self._get_deleted(name)
        self._purge(row)
        return row

    def unknown(self) -> Sequence[str]:
        """Return the ids of filesystems that are there, and of which the catalog has no sound row."""
        known = {row.id for row in self.catalog.rows()}
        return sorted(
            entry.name
            for entry in self._filesystem_directories()
            if entry.name not in known and entry.suffix != PURGED_SUFFIX and _is_whole(entry)
        )

    def damage(self) -> Sequence[str]:
        """Return what is wrong with the catalog, in words that say what to do."""
        told = self.catalog.damage()
        return told + [
            f"{self.path / FILESYSTEMS_NAME / identifier} is a filesystem without a row in the catalog: "
            f"`tzfs recover {identifier} NAME` gives it a name again"
            for identifier in self.unknown()
            if not any(identifier in text for text in told)
        ]

    def recover(self, identifier: str, name: str) -> FilesystemRow:
        """Give a filesystem without a sound row a name: running, with the limits that its database says.

        Raises `UnknownFilesystem`, `NameTaken`, `InvalidName`, `StoreLocked`, and what opening it raises.
        """
        full_name = self.require_free(name)
        unknown = self.unknown()
        if identifier not in unknown:
            raise UnknownFilesystem(
                f"no filesystem without a sound row has the id {identifier}: "
                f"those are {', '.join(unknown) or 'none'}"
            )
        now_ns = time.time_ns()
        row = FilesystemRow(identifier, *full_name, RUNNING, Config(0, 0, 0), now_ns, now_ns)
        with self._locked(row, "recovered"):
            engine = RocksStore.open(self.database(row), read_only=True)
            try:
                filesystem = Filesystem(engine, read_only=True)
                usage = filesystem.usage()
                config = Config(filesystem.chunk_size, usage.quota_bytes, usage.inodes_max)
            finally:
                engine.close()
            row = row._replace(config=config)
            self.catalog.recover(row, is_known=lambda other: self.directory(row).with_name(other).exists())
            return row

    def sweep(self) -> None:
        """Remove what is due: deleted filesystems past their grace period, creates that never ended.

        Every command begins with this. What cannot be removed now is logged and tried again next time.
        """
        now_ns = time.time_ns()
        for row in self.list(status=DELETED):
            if row.purge_after_ns is not None and row.purge_after_ns <= now_ns:
                _attempt(row.id, partial(self._purge, row))
        known = {row.id for row in self.list()}
        for entry in self._filesystem_directories():
            if entry.name.removesuffix(PURGED_SUFFIX) not in known:
                _attempt(entry.name, partial(self._remove_leftover, entry))
            elif (entry / CREATING_NAME).exists():  # a crash right after it got its row
                _attempt(entry.name, (entry / CREATING_NAME).unlink)

    def _filesystem_directories(self) -> Iterator[Path]:
        """Yield the directories below filesystems/."""
        try:
            yield from (self.path / FILESYSTEMS_NAME).iterdir()
        except FileNotFoundError:
            return

    def _remove_leftover(self, directory: Path) -> None:
        """Remove a directory without a row, unless somebody is making it, or it was whole once."""
        if directory.suffix != PURGED_SUFFIX and (
            _is_whole(directory) or time.time() - directory.stat().st_mtime < LEFTOVER_AGE_S
        ):
            return
        held = runtime.try_lock(directory)
        if held is None:
            return
        with held:
            # Once more under the lock: its create may have ended between the listing and now.
            if self.catalog.get(directory.name.removesuffix(PURGED_SUFFIX)) is None:
                shutil.rmtree(directory)

    def _purge(self, row: FilesystemRow) -> None:
        """Remove directory and row, in this order; both steps can be repeated after a crash."""
        directory = self.directory(row)
        doomed = directory.with_suffix(PURGED_SUFFIX)
        if directory.is_dir():
            with self._locked(row, "purged"):
                directory.rename(doomed)
        if doomed.is_dir():
            shutil.rmtree(doomed)
        self.catalog.remove(row.id)

    def _get_living(self, name: str, participle: str) -> FilesystemRow:
        """Return a filesystem that is not deleted."""
        row = self.get(name)
        if not _lives(row):
            raise WrongStatus(
                f"{row.full_name} is deleted and cannot be {participle}: "
                f"`tzfs undelete {row.full_name}` first"
            )
        return row

    def _get_deleted(self, name: str) -> FilesystemRow:
        """Return the filesystem that was deleted last under this name."""
        row = self.catalog.find_deleted(parse_name(name))
        if row is None:
            row = self.get(name)
            raise WrongStatus(f"{row.full_name} is not deleted but {row.status}: nothing to do")
        return row

    def _change(
        self, row: FilesystemRow, namespace: str | None = None, name: str | None = None, **columns: object
    ) -> FilesystemRow:
        """Store a changed row and return it."""
        if namespace is not None and name is not None:
            columns |= {"namespace": namespace, "name": name}
        new = row._replace(updated_ns=time.time_ns(), **columns)  # type: ignore[arg-type]
        self.catalog.update(row, new)
        return new

    @contextmanager
    def _locked(self, row: FilesystemRow, participle: str) -> Iterator[None]:
        """Hold a filesystem's lock; `Mounted` or `StoreLocked` if it is in use, `WrongStatus` if it changed.

        The row was read before the lock was ours. `Catalog.update` compares it, so that a command that
        came in between makes this one fail rather than be undone by it.
        """
        directory = self.directory(row)
        if not directory.is_dir():
            raise WrongStatus(f"{directory} is missing: the store has lost {row.full_name}")
        with lock_unmounted(self, row, participle) as held:
            if held.read_only:
                raise ReadOnlyDisk(
                    f"{self.path} is on a read-only disk and {row.full_name} cannot be {participle} there: "
                    "make the disk writable"
                )
            yield


@contextmanager
def lock_unmounted(store: Store, row: FilesystemRow, participle: str) -> Iterator[runtime.DirectoryLock]:
    """Hold the lock of a filesystem that must not be mounted; `Mounted`, `StoreLocked`."""
    directory = store.directory(row)

    def stays_mounted() -> bool:
        mount = runtime.current_mount(directory)
        return mount is not None and _is_seen(mount)

    held = runtime.lock(directory, wait_s=LOCK_WAIT_S, give_up=stays_mounted)
    if held is None:
        mount = runtime.current_mount(directory)
        if mount is not None:
            raise Mounted(
                f"{row.full_name} is mounted at {mount.mountpoint} and cannot be {participle}: "
                f"`tzfs umount {row.full_name}` first"
            )
        raise StoreLocked(f"{row.full_name} is in use by process {runtime.holder_pid(directory)}")
    with held:
        yield held


def _is_seen(mount: runtime.MountRecord) -> bool:
    """Tell whether what a daemon announced is in this process's mount table."""
    entry = mountpoint.entry_at(Path(mount.mountpoint))
    return entry is not None and entry.kind == mountpoint.KIND


def default_path() -> Path:
    """Return the store of this user: $TZFS_STORE, or tzfs in $XDG_DATA_HOME, or in ~/.local/share."""
    named = os.environ.get("TZFS_STORE")
    if named:
        return Path(named)
    data_home = os.environ.get("XDG_DATA_HOME")
    return (Path(data_home) if data_home else Path.home() / ".local" / "share") / "tzfs"


def _attempt(what: str, action: Callable[[], None]) -> None:
    """Run one step of a sweep; a failure is for the log, not for the command that happened to sweep."""
    try:
        action()
    except (OSError, StoreLocked, Mounted, ReadOnlyDisk) as error:
        log.info("%s could not be removed: %s", what, error)


def _is_whole(directory: Path) -> bool:
    """Tell whether the directory of a filesystem has all that it needs, but for its row maybe."""
    return (directory / DATABASE_NAME).is_dir() and not (directory / CREATING_NAME).exists()


def _lives(row: FilesystemRow) -> bool:
    """Tell whether a filesystem is not deleted."""
    return row.status != DELETED


def _move(database: Path, target: Path) -> None:
    """Move a database directory, durably; its files were synced by who made it."""
    database.rename(target)
    _sync_directory(target)


def _make_directory(directory: Path) -> None:
    """Make a directory and those above it that are missing; their names survive a power cut."""
    if directory.is_dir():
        return
    _make_directory(directory.parent)
    directory.mkdir(mode=0o700, exist_ok=True)
    _sync_directory(directory.parent)


def _sync_directory(directory: Path) -> None:
    """Make the names in a directory survive a power cut."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
