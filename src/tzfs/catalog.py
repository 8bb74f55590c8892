"""The store's list of filesystems: one SQLite file, `catalog.db`, that many processes share.

It knows names, statuses and limits, never content: what a filesystem holds is in its own database, so
losing the catalog loses no file. A connection lives for one call, which makes a `Catalog` safe in
threads and across fork, and costs 0.1 ms. The journal is SQLite's rollback journal: one file,
no helpers beside it that another user of the store could fail to open, and writers are rare.
"""

# ruff: noqa: S608 the only thing that is put into a query's text is the constant `_COLUMNS`
from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

from tzfs import failpoints
from tzfs.errors import (
    CatalogBroken,
    InvalidName,
    NameTaken,
    NewerCatalog,
    NotAStore,
    UnknownFilesystem,
    WrongStatus,
)

CATALOG_VERSION: Final = 1
"""Of the schema below, in `PRAGMA user_version`; a greater one is refused."""
APPLICATION_ID: Final = int.from_bytes(b"tzfs", "big")
"""In `PRAGMA application_id`: tells our file from another program's `catalog.db`."""
BUSY_TIMEOUT_S: Final = 30.0
"""How long a call waits for other writers. Each holds the lock for one row and one sync of the disk."""
NAME_MAX: Final = 255
"""Characters of a namespace or a name: they stand in mount tables and file names."""
DEFAULT_NAMESPACE: Final = "default"

RUNNING: Final = "running"
ARCHIVED: Final = "archived"
DELETED: Final = "deleted"
STATUSES: Final = (RUNNING, ARCHIVED, DELETED)

_SCHEMA: Final = (
    """
CREATE TABLE filesystems (
    -- 16 random hex digits: the directory below filesystems/. Never used again.
    id             TEXT PRIMARY KEY,
    -- Together what a person types, "namespace/name"; unique among those that are not deleted.
    namespace      TEXT NOT NULL,
    name           TEXT NOT NULL,
    -- running, archived or deleted.
    status         TEXT NOT NULL CHECK (status IN ('running', 'archived', 'deleted')),
    -- JSON object of `Config`: what was asked for at create. The database itself has the last word.
    config         TEXT NOT NULL,
    -- Times in ns since 1970. updated_ns: of the last change of this row.
    created_ns     INTEGER NOT NULL,
    updated_ns     INTEGER NOT NULL,
    -- Of a deleted one, else NULL: when, the status that undelete restores, and when its bytes may go.
    deleted_ns     INTEGER,
    deleted_from   TEXT,
    purge_after_ns INTEGER
) STRICT
""",
    "CREATE UNIQUE INDEX names_in_use ON filesystems (namespace, name) WHERE status != 'deleted'",
)

_COLUMNS: Final = (
    "id, namespace, name, status, config, created_ns, updated_ns, deleted_ns, deleted_from, purge_after_ns"
)
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*\Z")


class FilesystemName(NamedTuple):
    """`[NAMESPACE/]NAME`, taken apart."""

    namespace: str
    name: str

    def __str__(self) -> str:
        """Return what a person types: the default namespace is left out."""
        return self.name if self.namespace == DEFAULT_NAMESPACE else f"{self.namespace}/{self.name}"


class Config(NamedTuple):
    """What `create` was asked for. chunk_size and quota_bytes: bytes; a limit of 0 is none."""

    chunk_size: int
    quota_bytes: int
    inodes_max: int


class FilesystemRow(NamedTuple):
    """A row of the catalog; the fields are the columns of the schema."""

    id: str
    namespace: str
    name: str
    status: str
    config: Config
    created_ns: int
    updated_ns: int
    deleted_ns: int | None = None
    deleted_from: str | None = None
    purge_after_ns: int | None = None

    @property
    def full_name(self) -> FilesystemName:
        """Return namespace and name; as `str` it is what a person types."""
        return FilesystemName(self.namespace, self.name)


def parse_name(text: str) -> FilesystemName:
    """Take `[NAMESPACE/]NAME` apart; `InvalidName` says which rule it breaks."""
    namespace, slash, name = text.rpartition("/")
    parsed = FilesystemName(namespace if slash else DEFAULT_NAMESPACE, name)
    for part in parsed:
        if len(part) > NAME_MAX:
            raise InvalidName(f"a name of {len(part)} characters: use at most {NAME_MAX}")
        if _PART.match(part) is None:
            raise InvalidName(
                f"{text!r} is no name for a filesystem: use [NAMESPACE/]NAME of letters, digits, "
                "'.', '_' and '-', not starting with '.' or '-'"
            )
    return parsed


def _row(values: tuple[Any, ...]) -> FilesystemRow:
    """Return the row that `_COLUMNS` selected."""
    row = FilesystemRow._make(values)
    config = json.loads(values[4])
    return row._replace(config=Config(*(int(config.get(field, 0)) for field in Config._fields)))


class Catalog:
    """The rows of one store. Every method is one SQLite transaction, durable when it returns."""

    def __init__(self, path: Path) -> None:
        """Open the catalog at `path`; `NotAStore`, `NewerCatalog` or `CatalogBroken` where that fails."""
        self.path = path
        with self._transaction():
            pass

    @classmethod
    def create(cls, path: Path) -> Catalog:
        """Open the catalog at `path`, or make it. Processes that do so together make one."""
        path.touch(mode=0o600)
        try:
            with cls._connected(path) as connection:
                connection.execute("BEGIN IMMEDIATE")
                if cls._versions(connection) == (0, 0) and not _tables(connection):
                    for statement in _SCHEMA:
                        connection.execute(statement)
                    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                    connection.execute(f"PRAGMA user_version = {CATALOG_VERSION}")
                connection.execute("COMMIT")
        except sqlite3.Error as error:
            raise _translated(path, error) from error
        return cls(path)

    @staticmethod
    def _versions(connection: sqlite3.Connection) -> tuple[int, int]:
        """Return (application_id, user_version)."""
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        return application, version

    @staticmethod
    @contextmanager
    def _connected(path: Path) -> Iterator[sqlite3.Connection]:
        """Connect for one call, in autocommit mode; an open transaction is rolled back at the end."""
        uri = f"{path.absolute().as_uri()}?mode=rw"
        connection = sqlite3.connect(uri, uri=True, timeout=BUSY_TIMEOUT_S, isolation_level=None)
        try:
            # EXTRA also syncs the directory, so that a commit survives the power cut right after it.
            connection.execute("PRAGMA synchronous = EXTRA")
            yield connection
        finally:
            connection.close()

    @contextmanager
    def _transaction(self, begin: str = "BEGIN") -> Iterator[sqlite3.Connection]:
        """Run a transaction against a catalog of this version; commit unless the block raises."""
        try:
            with self._connected(self.path) as connection:
                connection.execute(begin)
                application, version = self._versions(connection)
                if application != APPLICATION_ID:
                    raise NotAStore(
                        f"{self.path} is not a catalog of tzfs: name another directory with --store"
                    )
                if version > CATALOG_VERSION:
                    raise NewerCatalog(
                        f"{self.path.parent} is a store of format {version}, this tzfs knows up to "
                        f"{CATALOG_VERSION}: use a newer tzfs"
                    )
                yield connection
                connection.execute("COMMIT")
        except sqlite3.Error as error:
            raise _translated(self.path, error) from error

    @failpoints.point("catalog_insert")
    def insert(self, row: FilesystemRow) -> None:
        """Add a row; `NameTaken` if a filesystem that is not deleted has the name."""
        try:
            with self._transaction("BEGIN IMMEDIATE") as connection:
                marks = ", ".join("?" * len(row))
                values = row._replace(config=json.dumps(row.config._asdict()))  # type: ignore[arg-type]
                connection.execute(f"INSERT INTO filesystems ({_COLUMNS}) VALUES ({marks})", values)
        except CatalogBroken as error:
            raise _name_taken(error, row.full_name) from error

    def find(self, name: FilesystemName) -> FilesystemRow:
        """Return the filesystem of that name, or the one deleted last of that name.

        `UnknownFilesystem` if there is neither.
        """
        with self._transaction() as connection:
            found = connection.execute(
                f"SELECT {_COLUMNS} FROM filesystems WHERE namespace = ? AND name = ? "
                "ORDER BY status = 'deleted', deleted_ns DESC LIMIT 1",
                name,
            ).fetchone()
        if found is None:
            raise UnknownFilesystem(f"there is no filesystem {name}: `tzfs list` shows those there are")
        return _row(found)

    def find_deleted(self, name: FilesystemName) -> FilesystemRow | None:
        """Return the filesystem of that name that was deleted last."""
        with self._transaction() as connection:
            found = connection.execute(
                f"SELECT {_COLUMNS} FROM filesystems WHERE namespace = ? AND name = ? "
                "AND status = 'deleted' ORDER BY deleted_ns DESC LIMIT 1",
                name,
            ).fetchone()
        return None if found is None else _row(found)

    def get(self, identifier: str) -> FilesystemRow | None:
        """Return the row with that id."""
        with self._transaction() as connection:
            found = connection.execute(
                f"SELECT {_COLUMNS} FROM filesystems WHERE id = ?", (identifier,)
            ).fetchone()
        return None if found is None else _row(found)

    def rows(self, *, status: str | None = None, namespace: str | None = None) -> list[FilesystemRow]:
        """Return the rows, by namespace and name; None for either filter is all of them."""
        with self._transaction() as connection:
            found = connection.execute(
                f"SELECT {_COLUMNS} FROM filesystems WHERE (?1 IS NULL OR status = ?1) "
                "AND (?2 IS NULL OR namespace = ?2) ORDER BY namespace, name, created_ns",
                (status, namespace),
            ).fetchall()
        return [_row(values) for values in found]

    @failpoints.point("catalog_update")
    def update(self, old: FilesystemRow, new: FilesystemRow) -> None:
        """Put `new` where `old` is; `WrongStatus` if another process changed the row meanwhile."""
        try:
            with self._transaction("BEGIN IMMEDIATE") as connection:
                changed = connection.execute(
                    "UPDATE filesystems SET namespace = ?, name = ?, status = ?, updated_ns = ?, "
                    "deleted_ns = ?, deleted_from = ?, purge_after_ns = ? "
                    "WHERE id = ? AND status = ? AND updated_ns = ?",
                    (
                        *new.full_name,
                        new.status,
                        new.updated_ns,
                        new.deleted_ns,
                        new.deleted_from,
                        new.purge_after_ns,
                        old.id,
                        old.status,
                        old.updated_ns,
                    ),
                ).rowcount
                if changed != 1:
                    raise WrongStatus(
                        f"another command changed {old.full_name} at the same time: "
                        "look at `tzfs list` and try again"
                    )
        except CatalogBroken as error:
            raise _name_taken(error, new.full_name) from error

    @failpoints.point("catalog_remove")
    def remove(self, identifier: str) -> None:
        """Remove a row; it is no error if it is gone already."""
        with self._transaction("BEGIN IMMEDIATE") as connection:
            connection.execute("DELETE FROM filesystems WHERE id = ?", (identifier,))


def _tables(connection: sqlite3.Connection) -> bool:
    """Tell whether the file has any table."""
    return connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone() is not None


def _name_taken(error: CatalogBroken, name: FilesystemName) -> CatalogBroken | NameTaken:
    """Return `NameTaken` where `error` is the unique index speaking, else `error` itself."""
    if isinstance(error.__cause__, sqlite3.IntegrityError):
        return NameTaken(f"there is a filesystem {name} already: choose another name")
    return error


def _translated(path: Path, error: sqlite3.Error) -> CatalogBroken | NotAStore:
    """Return what an error of SQLite means to a person."""
    code = getattr(error, "sqlite_errorcode", None)
    if code == sqlite3.SQLITE_NOTADB:
        return NotAStore(f"{path} is not a catalog of tzfs: name another directory with --store")
    if code is not None and code & 0xFF == sqlite3.SQLITE_BUSY:
        return CatalogBroken(f"{path} is locked by another process for {BUSY_TIMEOUT_S:.0f} s: try again")
    if code is not None and code & 0xFF == sqlite3.SQLITE_FULL:
        return CatalogBroken(f"{path}: the disk is full: make room and try again")
    if code is not None and code & 0xFF in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN):
        return CatalogBroken(
            f"{path} cannot be opened for writing ({error}): check its owner and mode, "
            "and whether the disk is read-only"
        )
    return CatalogBroken(f"{path}: {error}")
