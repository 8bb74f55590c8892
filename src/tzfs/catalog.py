"""The store's list of filesystems: one SQLite file, `catalog.db`, that many processes share.

It knows names, statuses and limits, never content: what a filesystem holds is in its own database, so
losing the catalog loses no file. A connection lives for one call, which makes a `Catalog` safe in
threads and across fork, and costs 0.1 ms. The journal is SQLite's rollback journal: one file,
no helpers beside it that another user of the store could fail to open, and writers are rare.

SQLite notices damage to its own structure at most. So each row has a checksum: one that is wrong is told, and
never believed. `tzfs recover` gives a filesystem a row again.

Version 1 had no checksums. It is read as it is; the first change makes it version 2, which an older tzfs
refuses.
"""

# ruff: noqa: S608 the only thing that is put into a query's text is the constant `_COLUMNS`
from __future__ import annotations

import json
import re
import sqlite3
import zlib
from collections.abc import Callable, Iterator
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

CATALOG_VERSION: Final = 2
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

_NAMES_INDEX: Final = (
    "CREATE UNIQUE INDEX names_in_use ON filesystems (namespace, name) WHERE status != 'deleted'"
)
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
    purge_after_ns INTEGER,
    -- CRC-32 of the columns before, as a JSON array in ASCII.
    checksum       INTEGER NOT NULL DEFAULT 0
) STRICT
""",
    _NAMES_INDEX,
)

_COLUMNS: Final = (
    "id, namespace, name, status, config, created_ns, updated_ns, deleted_ns, deleted_from, purge_after_ns"
)
LOST_ADVICE: Final = (
    "put it back from a backup, or move it away and give each directory of filesystems/ a name with "
    "`tzfs recover`"
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


def _columns(row: FilesystemRow) -> tuple[Any, ...]:
    """Return the values of `_COLUMNS`."""
    return (*row[:4], json.dumps(row.config._asdict()), *row[5:])


def _checksum(columns: tuple[Any, ...]) -> int:
    """Return the checksum of the values of `_COLUMNS`."""
    return zlib.crc32(json.dumps(columns, default=repr).encode("ascii"))


class DamagedRow(NamedTuple):
    """A row that is not what was written. id: what it says, which may be wrong itself."""

    number: int
    id: str


def _row(found: tuple[Any, ...]) -> FilesystemRow | DamagedRow:
    """Return the row that `_select` selected."""
    number, checksum, *values = found
    if checksum is not None and checksum != _checksum(tuple(values)):
        return DamagedRow(number, str(values[0]))
    row = FilesystemRow._make(values)
    try:
        config = json.loads(row.config)  # type: ignore[arg-type]
        return row._replace(config=Config(*(int(config.get(field, 0)) for field in Config._fields)))
    except (ValueError, TypeError, AttributeError):
        return DamagedRow(number, row.id)


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
        except (sqlite3.Error, UnicodeError) as error:
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
        connection.text_factory = _text
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
                    raise NotAStore(_not_ours(self.path))
                if version > CATALOG_VERSION:
                    raise NewerCatalog(
                        f"{self.path.parent} is a store of format {version}, this tzfs knows up to "
                        f"{CATALOG_VERSION}: use a newer tzfs"
                    )
                if version < 1:
                    raise CatalogBroken(f"{self.path}: the version of its format is damaged: {LOST_ADVICE}")
                if version < CATALOG_VERSION and begin != "BEGIN":
                    _upgrade(connection)
                yield connection
                connection.execute("COMMIT")
        except (sqlite3.Error, UnicodeError) as error:
            raise _translated(self.path, error) from error

    @failpoints.point("catalog_insert")
    def insert(self, row: FilesystemRow) -> None:
        """Add a row; `NameTaken` if a filesystem that is not deleted has the name."""
        try:
            with self._transaction("BEGIN IMMEDIATE") as connection:
                _insert(connection, row)
        except CatalogBroken as error:
            raise _name_taken(error, row.full_name) from error

    def find(self, name: FilesystemName) -> FilesystemRow:
        """Return the filesystem of that name, or the one deleted last of that name.

        `UnknownFilesystem` if there is neither, `CatalogBroken` if a damaged row may have been it.
        """
        condition = "namespace = ? AND name = ? ORDER BY status = 'deleted', deleted_ns DESC LIMIT 1"
        found = self._first(condition, name)
        if found is None:
            damaged = [self._damage_of(row) for row in self._rows() if isinstance(row, DamagedRow)]
            if damaged:
                raise CatalogBroken(f"there is no filesystem {name}, but {damaged[0]}")
            raise UnknownFilesystem(f"there is no filesystem {name}: `tzfs list` shows those there are")
        return found

    def find_deleted(self, name: FilesystemName) -> FilesystemRow | None:
        """Return the filesystem of that name that was deleted last. `CatalogBroken`."""
        condition = "namespace = ? AND name = ? AND status = 'deleted' ORDER BY deleted_ns DESC LIMIT 1"
        return self._first(condition, name)

    def get(self, identifier: str) -> FilesystemRow | None:
        """Return the row with that id. `CatalogBroken`."""
        return self._first("id = ?", (identifier,))

    def _first(self, condition: str, values: tuple[str, ...]) -> FilesystemRow | None:
        """Return the first row for which `condition` holds; `CatalogBroken` if it is damaged."""
        with self._transaction() as connection:
            found = connection.execute(f"{_select(connection)} WHERE {condition}", values).fetchone()
        row = None if found is None else _row(found)
        if isinstance(row, DamagedRow):
            raise CatalogBroken(self._damage_of(row))
        return row

    def _rows(
        self, status: str | None = None, namespace: str | None = None
    ) -> list[FilesystemRow | DamagedRow]:
        with self._transaction() as connection:
            found = connection.execute(
                f"{_select(connection)} WHERE (?1 IS NULL OR status = ?1) "
                "AND (?2 IS NULL OR namespace = ?2) ORDER BY namespace, name, created_ns",
                (status, namespace),
            ).fetchall()
        return [_row(values) for values in found]

    def rows(self, *, status: str | None = None, namespace: str | None = None) -> list[FilesystemRow]:
        """Return the sound rows, by namespace and name; None for either filter is all of them."""
        return [row for row in self._rows(status, namespace) if isinstance(row, FilesystemRow)]

    def damage(self) -> list[str]:
        """Return what is wrong with the file, in words: damaged rows, or what SQLite itself finds."""
        told = [self._damage_of(row) for row in self._rows() if isinstance(row, DamagedRow)]
        if told:
            return told
        with self._transaction() as connection:
            found = [text for (text,) in connection.execute("PRAGMA integrity_check") if text != "ok"]
        return [f"{self.path} is damaged ({text}): {LOST_ADVICE}" for text in found[:1]]

    def _damage_of(self, row: DamagedRow) -> str:
        return (
            f"{self.path}: the row of {row.id} is damaged: "
            f"`tzfs recover {row.id} NAME` gives that filesystem a name again"
        )

    @failpoints.point("catalog_recover")
    def recover(self, row: FilesystemRow, *, is_known: Callable[[str], bool]) -> None:
        """Add a row in place of a damaged one with its id, or with an id that is not known. `NameTaken`."""
        try:
            with self._transaction("BEGIN IMMEDIATE") as connection:
                # What is damaged may stand otherwise in the indexes, or not at all.
                connection.execute("DROP INDEX IF EXISTS names_in_use")
                connection.execute("REINDEX")
                for values in connection.execute(_select(connection)).fetchall():
                    old = _row(values)
                    if isinstance(old, DamagedRow) and (old.id == row.id or not is_known(old.id)):
                        connection.execute("DELETE FROM filesystems WHERE rowid = ?", (old.number,))
                connection.execute(_NAMES_INDEX)
                _insert(connection, row)
        except CatalogBroken as error:
            raise _name_taken(error, row.full_name) from error

    @failpoints.point("catalog_update")
    def update(self, old: FilesystemRow, new: FilesystemRow) -> None:
        """Put `new` where `old` is; `WrongStatus` if another process changed the row meanwhile."""
        try:
            with self._transaction("BEGIN IMMEDIATE") as connection:
                changed = connection.execute(
                    "UPDATE filesystems SET namespace = ?, name = ?, status = ?, config = ?, updated_ns = ?, "
                    "deleted_ns = ?, deleted_from = ?, purge_after_ns = ?, checksum = ? "
                    "WHERE id = ? AND status = ? AND updated_ns = ?",
                    (
                        *new.full_name,
                        new.status,
                        _columns(new)[4],
                        new.updated_ns,
                        new.deleted_ns,
                        new.deleted_from,
                        new.purge_after_ns,
                        _checksum(_columns(new)),
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


def _text(value: bytes) -> str:
    """Return a text of the database; damaged bytes give one, too, and a checksum that is wrong."""
    return value.decode("utf-8", "surrogateescape")


def _select(connection: sqlite3.Connection) -> str:
    """Return the beginning of a query for `_row`."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    return f"SELECT rowid, {'NULL' if version == 1 else 'checksum'}, {_COLUMNS} FROM filesystems"


def _insert(connection: sqlite3.Connection, row: FilesystemRow) -> None:
    values = _columns(row)
    marks = ", ".join("?" * (len(values) + 1))
    connection.execute(
        f"INSERT INTO filesystems ({_COLUMNS}, checksum) VALUES ({marks})", (*values, _checksum(values))
    )


def _upgrade(connection: sqlite3.Connection) -> None:
    """Make a catalog of version 1 one of version 2: with checksums."""
    connection.execute("ALTER TABLE filesystems ADD COLUMN checksum INTEGER NOT NULL DEFAULT 0")
    for number, *values in connection.execute(f"SELECT rowid, {_COLUMNS} FROM filesystems").fetchall():
        checksum = _checksum(tuple(values))
        connection.execute("UPDATE filesystems SET checksum = ? WHERE rowid = ?", (checksum, number))
    connection.execute(f"PRAGMA user_version = {CATALOG_VERSION}")


def _tables(connection: sqlite3.Connection) -> bool:
    """Tell whether the file has any table."""
    return connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone() is not None


def _name_taken(error: CatalogBroken, name: FilesystemName) -> CatalogBroken | NameTaken:
    """Return `NameTaken` where `error` is the unique index speaking, else `error` itself."""
    if isinstance(error.__cause__, sqlite3.IntegrityError):
        return NameTaken(f"there is a filesystem {name} already: choose another name")
    return error


def _not_ours(path: Path) -> str:
    return (
        f"{path} is not a catalog of tzfs: name another directory with --store; if it was one, "
        f"it is damaged: {LOST_ADVICE}"
    )


def _translated(path: Path, error: sqlite3.Error | UnicodeError) -> CatalogBroken | NotAStore:
    """Return what an error of SQLite means to a person."""
    code = getattr(error, "sqlite_errorcode", None)
    if code == sqlite3.SQLITE_NOTADB:
        return NotAStore(_not_ours(path))
    # Damaged names of tables and columns come back in errors that are no text.
    if isinstance(error, UnicodeError) or (code is not None and code & 0xFF == sqlite3.SQLITE_CORRUPT):
        return CatalogBroken(f"{path} is damaged ({error}): {LOST_ADVICE}")
    if code is not None and code & 0xFF == sqlite3.SQLITE_BUSY:
        return CatalogBroken(f"{path} is locked by another process for {BUSY_TIMEOUT_S:.0f} s: try again")
    if code is not None and code & 0xFF == sqlite3.SQLITE_FULL:
        return CatalogBroken(f"{path}: the disk is full: make room and try again")
    if code is not None and code & 0xFF in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN):
        return CatalogBroken(
            f"{path} cannot be opened for writing ({error}): check its owner and mode, "
            "and whether the disk is read-only"
        )
    if code == sqlite3.SQLITE_ERROR:  # our queries are right: so the table is not what it was
        return CatalogBroken(f"{path} is damaged ({error}): {LOST_ADVICE}")
    return CatalogBroken(f"{path}: {error}")
