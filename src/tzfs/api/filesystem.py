"""A filesystem to work with, mounted or not: reading, changing, and its history.

What is atomic: every method is one transaction unless it says otherwise. No reader, in whatever process, and
no crash ever shows half of it.

What is durable: a change survives the end of this process, and of the daemon, when the method returns. It
survives a power cut after `sync`, `snapshot`, `delete_snapshot`, `rollback`, `fork` or `close`, and at the
latest some seconds later where the filesystem is mounted.
"""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from tzfs import runtime
from tzfs.api.connection import SLICE_BYTES, Connection, Json
from tzfs.api.tree import PathLike, Tree, join, text
from tzfs.closing import Closing
from tzfs.errors import Exists, NoEntry


class Change(NamedTuple):
    """What differs between two moments.

    kind: "added", "removed", "changed" or "renamed". path: as it is at the later moment, or was. old_path: of
    what was renamed. mode, size: as they are, or were. program, pid, uid: of who changed it first.
    """

    kind: str
    path: str
    old_path: str | None
    mode: int
    size: int
    program: str
    pid: int
    uid: int

    def __str__(self) -> str:
        """Return a line as `tzfs diff` prints it, without the writer."""
        where = self.path if self.old_path is None else f"{self.old_path} -> {self.path}"
        return f"{_SIGNS[self.kind]} {where}"


def _change(line: Json) -> Change:
    """Return a line of the command's result."""
    fields = {name: value for name, value in line.items() if name not in {"inode", "writer"}}
    return Change(**fields, **line["writer"])


_SIGNS = {"added": "+", "removed": "-", "changed": "~", "renamed": ">"}


class Snapshot(Tree):
    """The tree as it was: everything that reads works on it, nothing changes it, not even leaving a `with`.

    Atomic: it holds one moment of all files. Durable: it stays until it is deleted.

    txn: its number. labels: its names. created_ns: when it was taken, in ns since 1970.
    """

    def __init__(self, connection: Connection, found: Json) -> None:
        """Use `Filesystem.snapshot`, `snapshots` or `at`."""
        super().__init__(connection, found["txn"])
        self.txn: int = found["txn"]
        self.labels: tuple[str, ...] = tuple(found["labels"])
        self.created_ns: int = found["created_ns"]

    @property
    def created(self) -> datetime:
        """When it was taken, in UTC."""
        return datetime.fromtimestamp(self.created_ns / 1e9, UTC)

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Do nothing: the snapshot stays until it is deleted."""

    def __eq__(self, other: object) -> bool:
        """Tell whether `other` is the same snapshot of the same filesystem."""
        if not isinstance(other, Snapshot):
            return NotImplemented
        return (self._connection.row.id, self.txn) == (other._connection.row.id, other.txn)

    def __hash__(self) -> int:
        """Return a hash that goes with `==`."""
        return hash((self._connection.row.id, self.txn))

    def __repr__(self) -> str:
        """Return number and labels."""
        return f"<Snapshot {self.txn}{''.join(f' {label}' for label in self.labels)}>"


SnapshotName = int | str | bytes | Snapshot
"""What names a snapshot: its number, a label, "latest", or itself."""


def _snapshot_name(name: SnapshotName) -> str:
    """Return what the daemon knows a snapshot by."""
    if isinstance(name, Snapshot):
        return str(name.txn)
    return str(name) if isinstance(name, int) else os.fsdecode(name)


class Filesystem(Tree, Closing):
    """One filesystem, from `Store.open_filesystem`; a context manager that closes it.

    Not mounted, this process has it to itself until `close`: others wait for it some seconds, then get
    `StoreLocked`. Mounted, it is shared with every program that uses the mount. Safe in threads: one lock,
    calls run one after the other.

    Every call is atomic, one transaction, unless its text says otherwise. What it changed survives the end of
    all processes when it returns; durable, against a power cut, it is after `sync` and what says so.
    """

    def __init__(self, connection: Connection) -> None:
        """Use `Store.open_filesystem`."""
        super().__init__(connection, None)

    # Itself

    @property
    def name(self) -> str:
        """Its name in the store, as it was when it was opened."""
        return str(self._connection.row.full_name)

    @property
    def mountpoint(self) -> Path | None:
        """Where it is mounted now, None if it is not."""
        found = runtime.current_mount(self._connection.store.directory(self._connection.row))
        return None if found is None else Path(found.mountpoint)

    def info(self) -> dict[str, Any]:
        """Return figures, as `tzfs info --json` has them: txn, snapshots, usage, limits, reclaim_backlog."""
        return self._connection.call("info")

    def check(self) -> list[dict[str, Any]]:
        """Check every invariant of the format, on the whole tree; an empty list is a clean filesystem."""
        findings: list[dict[str, Any]] = self._connection.call("check")["findings"]
        return findings

    def sync(self) -> None:
        """Return when everything done before survives a power cut."""
        self._connection.call("sync")

    def close(self) -> None:
        """Sync and let go of the filesystem. Files and snapshots of it are of no use afterwards."""
        self._connection.close()

    def __repr__(self) -> str:
        """Return the name."""
        return f"<Filesystem {self.name}>"

    # Content

    def _change(self, command: str, path: PathLike, **arguments: object) -> Json:
        name = text(path)
        return self._connection.change(command, about=name, path=name, **arguments)

    def _find_to_open(self, path: PathLike, kind: str) -> tuple[int, int | None]:
        if kind == "r":
            return super()._find_to_open(path, kind)
        flags = {"w": os.O_CREAT | os.O_TRUNC, "a": os.O_CREAT, "x": os.O_CREAT | os.O_EXCL, "r": 0}[kind[0]]
        return self._change("file_open_file", path, mode=0o644, flags=flags)["number"], None

    def write_bytes(self, path: PathLike, data: bytes | bytearray | memoryview, *, mode: int = 0o644) -> int:
        """Make `data` the whole content of a file, which is made with `mode` if need be; return its length.

        Up to 512 KiB this is atomic: old content or new, never a part of it. What is longer appears in
        slices. Raises `NoEntry` for a missing directory, `IsDirectory`, `NoSpace`, `ReadOnly`.
        """
        view = memoryview(data).cast("B")
        made = self._change("file_put", path, data=bytes(view[:SLICE_BYTES]), mode=mode)
        for start in range(SLICE_BYTES, len(view), SLICE_BYTES):
            piece = bytes(view[start : start + SLICE_BYTES])
            self._connection.change(
                "file_write_slice", about=text(path), number=made["number"], offset=start, data=piece
            )
        return len(view)

    def write_text(
        self, path: PathLike, content: str, encoding: str = "utf-8", errors: str = "strict"
    ) -> int:
        """Make `content` the content of a file, as `write_bytes`; return the number of characters."""
        self.write_bytes(path, content.encode(encoding, errors))
        return len(content)

    def touch(self, path: PathLike, mode: int = 0o644, *, exist_ok: bool = True) -> None:
        """Make an empty file, or set the times of one that is there to now. Two transactions."""
        flags = os.O_CREAT if exist_ok else os.O_CREAT | os.O_EXCL
        self._change("file_open_file", path, mode=mode, flags=flags)
        self.utime(path)

    def truncate(self, path: PathLike, size: int) -> None:
        """Give a file another size: shorter, or longer by zeros that take no room."""
        self._change("file_set_attributes", path, changes={"size": size})

    # Names

    def mkdir(
        self, path: PathLike, mode: int = 0o755, *, parents: bool = False, exist_ok: bool = False
    ) -> None:
        """Make a directory; with `parents` those above as well, each a transaction of its own."""
        try:
            self._change("file_make_directory", path, mode=mode)
        except Exists:
            if not exist_ok or not self.is_dir(path):
                raise
        except NoEntry:
            above = os.path.dirname(text(path).rstrip("/"))  # noqa: PTH120 a Path would drop "." and "//"
            if not parents or not above:
                raise
            self.mkdir(above, parents=True, exist_ok=True)
            self.mkdir(path, mode, exist_ok=exist_ok)

    def symlink(self, target: PathLike, path: PathLike) -> None:
        """Make `path` a symlink to `target`. `Exists`."""
        self._change("file_make_symlink", path, target=text(target))

    def link(self, target: PathLike, path: PathLike) -> None:
        """Give the file `target` the further name `path`. `Exists`, `NotPermitted` for a directory."""
        self._change("file_make_link", path, target=text(target))

    def rename(self, old: PathLike, new: PathLike, *, replace: bool = True) -> None:
        """Move a name; what has the new one goes, or, without `replace`, is `Exists`. `NotEmpty`."""
        self._change("file_rename", old, target=text(new), flags=0 if replace else _NOREPLACE)

    def exchange(self, one: PathLike, other: PathLike) -> None:
        """Swap what two names name."""
        self._change("file_rename", one, target=text(other), flags=_EXCHANGE)

    def remove(self, path: PathLike, *, missing_ok: bool = False) -> None:
        """Remove a file or a symlink. `IsDirectory`."""
        try:
            self._change("file_unlink", path)
        except NoEntry:
            if not missing_ok:
                raise

    def rmdir(self, path: PathLike) -> None:
        """Remove an empty directory. `NotEmpty`, `NotDirectory`."""
        self._change("file_remove_directory", path)

    def rmtree(self, path: PathLike) -> None:
        """Remove a directory and all below, a transaction for each name; the root only loses its content.

        A snapshot before makes it a thing to undo.
        """
        directory = text(path)
        for entry in list(self.scandir(directory)):
            if entry.is_dir():
                self.rmtree(entry.path)
            else:
                self.remove(entry.path, missing_ok=True)
        if directory.strip("/") not in {"", "."}:
            self.rmdir(directory)

    def copy_in(self, source: str | os.PathLike[str], path: PathLike) -> None:
        """Copy a file or a directory of the host to `path`: content, modes, symlinks; a file at a time."""
        origin, goal = Path(source), text(path)
        if origin.is_symlink():
            self.symlink(os.readlink(origin), goal)  # noqa: PTH115 Path.readlink normalises the target
        elif origin.is_dir():
            if goal.strip("/") not in {"", "."}:
                self.mkdir(goal, origin.stat().st_mode & 0o7777, exist_ok=True)
            for child in origin.iterdir():
                self.copy_in(child, join(goal, child.name))
        else:
            self.write_bytes(goal, origin.read_bytes(), mode=origin.stat().st_mode & 0o7777)

    # Attributes

    def chmod(self, path: PathLike, mode: int, *, follow_symlinks: bool = True) -> None:
        """Set the permission bits."""
        self._change("file_set_attributes", path, changes={"mode": mode}, follow=follow_symlinks)

    def chown(self, path: PathLike, uid: int = -1, gid: int = -1, *, follow_symlinks: bool = True) -> None:
        """Set owner and group; -1 leaves one alone. Who opens a store owns it, so nothing is refused."""
        changes = {key: value for key, value in (("uid", uid), ("gid", gid)) if value != -1}
        self._change("file_set_attributes", path, changes=changes, follow=follow_symlinks)

    def utime(
        self, path: PathLike, *, ns: tuple[int, int] | None = None, follow_symlinks: bool = True
    ) -> None:
        """Set the times of access and of change, in ns since 1970; None is now."""
        atime_ns, mtime_ns = ns if ns is not None else (time.time_ns(),) * 2
        changes = {"atime_ns": atime_ns, "mtime_ns": mtime_ns}
        self._change("file_set_attributes", path, changes=changes, follow=follow_symlinks)

    def setxattr(self, path: PathLike, name: PathLike, value: bytes, *, follow_symlinks: bool = True) -> None:
        """Set an extended attribute, such as "user.origin". `NotSupported`, `AttributeTooBig`."""
        self._change(
            "file_set_attribute", path, attribute=text(name), data=bytes(value), follow=follow_symlinks
        )

    def removexattr(self, path: PathLike, name: PathLike, *, follow_symlinks: bool = True) -> None:
        """Remove an extended attribute. `NoAttribute`."""
        self._change("file_remove_attribute", path, attribute=text(name), follow=follow_symlinks)

    # History

    def snapshot(self, label: str | None = None) -> Snapshot:
        """Keep the tree as it is now, and return that; in no time, whatever the size. Atomic and durable.

        Mounted, it holds every write of any program that returned before. An unchanged tree gives the last
        snapshot again. `Exists` if another snapshot has the label, `Invalid` if it can be none.
        """
        return Snapshot(self._connection, self._connection.call("snapshot", label=label))

    def snapshots(self) -> list[Snapshot]:
        """Return all snapshots, oldest first."""
        found = self._connection.call("snapshots")["snapshots"]
        return [Snapshot(self._connection, row) for row in found]

    def at(self, name: SnapshotName) -> Snapshot:
        """Return the snapshot of a number, a label, or "latest". `SnapshotMissing`."""
        found = self._connection.call("snapshot_find", name=_snapshot_name(name))
        return Snapshot(self._connection, found)

    def delete_snapshot(self, *names: SnapshotName) -> None:
        """Delete snapshots with all their labels: all, or none if one is missing. Durable."""
        self._connection.call("snapshot_delete", names=[_snapshot_name(name) for name in names])

    def diff(self, old: SnapshotName, new: SnapshotName | None = None) -> list[Change]:
        """Return what differs at `new` (None: now) from `old`, by path. Costs what changed, not the tree."""
        later = None if new is None else _snapshot_name(new)
        found = self._connection.call("diff", old=_snapshot_name(old), new=later)["changes"]
        return [_change(line) for line in found]

    def rollback(self, name: SnapshotName) -> Snapshot:
        """Make the tree what it was at a snapshot, and return the snapshot of the present, which undoes it.

        Later snapshots stay. Mounted, the mount goes on, and open files see the new content. Durable; a
        crash in the middle is finished at the next opening. `SnapshotMissing`.
        """
        return Snapshot(self._connection, self._connection.call("rollback", name=_snapshot_name(name)))

    def fork(self, name: str, *, at: SnapshotName | None = None) -> str:
        """Make a new filesystem `name` of this one as it is, or as it was `at` a snapshot.

        Returns its full name. It shares the bytes on disk and depends on nobody. Durable. Raises `NameTaken`,
        `SnapshotMissing`.
        """
        row = self._connection.fork(None if at is None else _snapshot_name(at), name)
        return str(row.full_name)


_NOREPLACE = 1
_EXCHANGE = 2
"""Flags of renameat2(2)."""
