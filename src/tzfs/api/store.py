"""A store: the filesystems of one directory."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from tzfs import store as stores
from tzfs.api.connection import Connection
from tzfs.api.errors import raising
from tzfs.api.filesystem import Filesystem
from tzfs.catalog import DELETED, FilesystemRow
from tzfs.fork import fork
from tzfs.volume import CHUNK_SIZE_DEFAULT


class FilesystemInfo(NamedTuple):
    """What a store knows of a filesystem.

    name: `[NAMESPACE/]NAME`. status: "running", "archived" or "deleted". Limits of 0 are none; times in ns
    since 1970. deleted_ns, purge_after_ns: of a deleted one, when, and until when `undelete` works.
    mountpoint, pid: where it is mounted, and its daemon. path: its directory in the store.
    """

    name: str
    status: str
    id: str
    created_ns: int
    updated_ns: int
    chunk_size: int
    quota_bytes: int
    inodes_max: int
    deleted_ns: int | None
    purge_after_ns: int | None
    mountpoint: Path | None
    pid: int | None
    path: Path


class Store:
    """The filesystems of one directory. Safe in threads and in several processes at once.

    Every change is atomic, and durable when the method returns.

    >>> store = Store.open(tmp_path / "store", create=True)
    >>> store.create("lab", quota_bytes=1 << 30).status
    'running'
    >>> [found.name for found in store.list()]
    ['lab']
    >>> with store.open_filesystem("lab") as fs:
    ...     fs.write_text("hello.txt", "hello")
    5
    """

    def __init__(self, inner: stores.Store) -> None:
        """Use `open`."""
        self._inner = inner

    @classmethod
    def open(cls, path: str | os.PathLike[str] | None = None, *, create: bool = False) -> Store:
        """Open the store in directory `path`; None is the user's own, as for the command `tzfs`.

        create: make one where there is nothing. Raises `NotAStore`, `NewerCatalog`, `CatalogBroken`.
        """
        with raising():
            return cls(stores.Store.open(stores.default_path() if path is None else path, create=create))

    @property
    def path(self) -> Path:
        """The directory of the store."""
        return self._inner.path

    def _info(self, row: FilesystemRow) -> FilesystemInfo:
        mount = self._inner.mounted_at(row)
        return FilesystemInfo(
            name=str(row.full_name),
            status=row.status,
            id=row.id,
            created_ns=row.created_ns,
            updated_ns=row.updated_ns,
            **row.config._asdict(),
            deleted_ns=row.deleted_ns,
            purge_after_ns=row.purge_after_ns,
            mountpoint=None if mount is None else Path(mount.mountpoint),
            pid=None if mount is None else mount.pid,
            path=self._inner.directory(row),
        )

    def get(self, name: str) -> FilesystemInfo:
        """Return the filesystem of that name. `UnknownFilesystem`, `InvalidName`."""
        with raising():
            return self._info(self._inner.get(name))

    def list(self, *, status: str | None = None, namespace: str | None = None) -> list[FilesystemInfo]:
        """Return the filesystems, by name; deleted ones only where `status` is "deleted"."""
        with raising():
            rows = self._inner.list(status=status, namespace=namespace)
            return [self._info(row) for row in rows if status is not None or row.status != DELETED]

    def create(
        self,
        name: str,
        *,
        quota_bytes: int = 0,
        inodes_max: int = 0,
        chunk_size: int = CHUNK_SIZE_DEFAULT,
    ) -> FilesystemInfo:
        """Make an empty filesystem; limits of 0 are none. `NameTaken`, `InvalidName`, `Invalid`."""
        with raising():
            return self._info(
                self._inner.create(
                    name, chunk_size=chunk_size, quota_bytes=quota_bytes, inodes_max=inodes_max
                )
            )

    def open_filesystem(self, name: str) -> Filesystem:
        """Open a filesystem: through its daemon where it is mounted, else the database itself.

        Raises `UnknownFilesystem`, `WrongStatus` for a deleted one, `StoreLocked` when another process has
        it open without a mount. An archived one can be read.
        """
        with raising():
            return Filesystem(Connection(self._inner, self._inner.get(name)))

    def fork(self, source: str, name: str, *, at: int | str | None = None) -> FilesystemInfo:
        """Make filesystem `name` of `source` as it is, or as it was `at` a snapshot; see `Filesystem.fork`.

        >>> store = Store.open(tmp_path / "store", create=True)
        >>> _ = store.create("lab")
        >>> store.fork("lab", "attempt-2").name
        'attempt-2'
        """
        with raising():
            return self._info(fork(self._inner, source, None if at is None else str(at), name))

    def rename(self, name: str, new_name: str) -> FilesystemInfo:
        """Give a filesystem another name; a mount of it goes on. `NameTaken`, `WrongStatus`."""
        with raising():
            return self._info(self._inner.rename(name, new_name))

    def archive(self, name: str) -> FilesystemInfo:
        """Check and compact a filesystem; it is read-only from then on. `Mounted`, `CheckFailed`."""
        with raising():
            return self._info(self._inner.archive(name))

    def unarchive(self, name: str) -> FilesystemInfo:
        """Make an archived filesystem writable again. `WrongStatus`."""
        with raising():
            return self._info(self._inner.unarchive(name))

    def delete(self, name: str, *, grace_s: float = stores.GRACE_S) -> FilesystemInfo:
        """Delete a filesystem; for `grace_s` seconds `undelete` brings it back. `Mounted`, `WrongStatus`."""
        with raising():
            return self._info(self._inner.delete(name, grace_s=grace_s))

    def undelete(self, name: str) -> FilesystemInfo:
        """Bring back the filesystem that was deleted last under this name. `NameTaken`, `WrongStatus`."""
        with raising():
            return self._info(self._inner.undelete(name))

    def purge(self, name: str) -> None:
        """Remove the bytes of a deleted filesystem now and for ever. `WrongStatus`."""
        with raising():
            self._inner.purge(name)

    def sweep(self) -> None:
        """Remove the bytes of deleted filesystems whose time is over, as every command of `tzfs` does."""
        with raising():
            self._inner.sweep()

    def __repr__(self) -> str:
        """Return the path."""
        return f"<Store {self.path}>"
