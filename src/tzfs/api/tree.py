"""Reading a tree: the present of a filesystem, or one of its snapshots.

Every method is one atomic look unless it says otherwise: what it returns held at one moment. On a snapshot
several looks see the same moment, too.
"""

from __future__ import annotations

import os
import stat as modes
from collections.abc import Iterator
from typing import IO, Any, Literal, NamedTuple, overload

from tzfs.api import files
from tzfs.api.connection import SLICE_BYTES, Connection, Json
from tzfs.api.errors import os_error
from tzfs.errors import NoEntry, NotDirectory, ReadOnly

PathLike = str | bytes | os.PathLike[str] | os.PathLike[bytes]
"""Whatever names a file, from the root of the filesystem; a leading slash says nothing more."""


def text(path: PathLike) -> str:
    """Return a path as it travels: bytes that are no UTF-8 as lone surrogates."""
    found = os.fsdecode(path)
    if "\0" in found:
        raise ValueError("embedded null byte")
    return found


def join(directory: str, name: str) -> str:
    """Return the path of an entry, without a leading slash."""
    directory = directory.strip("/")
    return f"{directory}/{name}" if directory not in {"", "."} else name


class Stat(NamedTuple):
    """Attributes of a file, named as in `os.stat_result`; times in ns since 1970, sizes in bytes."""

    st_mode: int
    st_ino: int
    st_nlink: int
    st_uid: int
    st_gid: int
    st_rdev: int
    st_size: int
    st_blocks: int
    st_atime_ns: int
    st_mtime_ns: int
    st_ctime_ns: int
    st_birthtime_ns: int

    @classmethod
    def of(cls, found: Json) -> Stat:
        """Return what a command of `tzfs.files` told."""
        sectors = (found["stored_bytes"] + 511) // 512
        return cls(
            found["mode"], found["number"], found["nlink"], found["uid"], found["gid"], found["rdev"],
            found["size"], sectors,
            found["atime_ns"], found["mtime_ns"], found["ctime_ns"], found["btime_ns"],
        )  # fmt: skip

    @property
    def st_mtime(self) -> float:
        """When the content changed last, in seconds."""
        return self.st_mtime_ns / 1e9

    def is_dir(self) -> bool:
        """Tell whether this is a directory."""
        return modes.S_ISDIR(self.st_mode)

    def is_file(self) -> bool:
        """Tell whether this is a regular file."""
        return modes.S_ISREG(self.st_mode)

    def is_symlink(self) -> bool:
        """Tell whether this is a symlink."""
        return modes.S_ISLNK(self.st_mode)


class Entry(NamedTuple):
    """A name in a directory, and what it names (a symlink itself, not its target)."""

    name: str
    path: str
    stat: Stat

    def is_dir(self) -> bool:
        """Tell whether it names a directory."""
        return self.stat.is_dir()

    def is_file(self) -> bool:
        """Tell whether it names a regular file."""
        return self.stat.is_file()

    def is_symlink(self) -> bool:
        """Tell whether it names a symlink."""
        return self.stat.is_symlink()


class Tree:
    """What can be read. Safe in threads: calls of one filesystem run one after the other.

    Each call is one atomic look, unless its text says otherwise. In the present it sees what has been done,
    durable already or not; a snapshot is durable as a whole.

    Paths are `str`, `bytes` or `PathLike`; names come back as `str`, from which `os.fsencode` makes the
    bytes.
    """

    def __init__(self, connection: Connection, at: int | None) -> None:
        """Use `Store.open_filesystem` or `Filesystem.at`."""
        self._connection = connection
        self._at = at

    def _ask(self, command: str, path: PathLike, **arguments: object) -> Json:
        name = text(path)
        return self._connection.call(command, about=name, path=name, at=self._at, **arguments)

    def stat(self, path: PathLike, *, follow_symlinks: bool = True) -> Stat:
        """Return the attributes of what `path` names. `NoEntry`, `NotDirectory`."""
        return Stat.of(self._ask("file_stat", path, follow=follow_symlinks))

    def lstat(self, path: PathLike) -> Stat:
        """Return the attributes of what `path` names, of a symlink itself."""
        return self.stat(path, follow_symlinks=False)

    def _stat_or_none(self, path: PathLike, *, follow: bool = True) -> Stat | None:
        try:
            return self.stat(path, follow_symlinks=follow)
        except (NoEntry, NotDirectory):
            return None

    def exists(self, path: PathLike) -> bool:
        """Tell whether `path` names anything; a symlink that leads nowhere does not."""
        return self._stat_or_none(path) is not None

    def is_dir(self, path: PathLike) -> bool:
        """Tell whether `path` names a directory."""
        found = self._stat_or_none(path)
        return found is not None and found.is_dir()

    def is_file(self, path: PathLike) -> bool:
        """Tell whether `path` names a regular file."""
        found = self._stat_or_none(path)
        return found is not None and found.is_file()

    def is_symlink(self, path: PathLike) -> bool:
        """Tell whether `path` names a symlink."""
        found = self._stat_or_none(path, follow=False)
        return found is not None and found.is_symlink()

    def readlink(self, path: PathLike) -> str:
        """Return the target of a symlink. `Invalid` for anything else."""
        target: str = self._ask("file_read_link", path)["target"]
        return target

    def scandir(self, path: PathLike = "/") -> Iterator[Entry]:
        """Yield the entries of a directory, in no order that means anything.

        Looks at 1,000 at a time: of a directory that changes meanwhile, what stands the whole time comes
        once.
        """
        directory, after = text(path), 0
        while True:
            page = self._connection.call(
                "file_listing", about=directory, path=directory, at=self._at, after=after
            )
            for line in page["entries"]:
                yield Entry(line["name"], join(directory, line["name"]), Stat.of(line))
            if page["next"] is None:
                return
            after = page["next"]

    def listdir(self, path: PathLike = "/") -> list[str]:
        """Return the names in a directory, sorted. `NotDirectory`."""
        return sorted(entry.name for entry in self.scandir(path))

    def walk(self, top: PathLike = "/") -> Iterator[tuple[str, list[str], list[str]]]:
        """Yield (path, names of directories, names of other files) of `top` and all below, top down.

        As `os.walk` without symlinks followed: what is taken out of the first list is not gone into. One look
        for each directory.
        """
        entries = sorted(self.scandir(top))
        directories = [entry.name for entry in entries if entry.is_dir()]
        yield text(top), directories, [entry.name for entry in entries if not entry.is_dir()]
        for name in directories:
            yield from self.walk(join(text(top), name))

    def read_bytes(self, path: PathLike) -> bytes:
        """Return the content of a file: one look up to 512 KiB, several beyond. `IsDirectory`."""
        content: bytes = self._ask("file_read", path)["data"]
        if len(content) < SLICE_BYTES:
            return content
        with self.open(path, "rb") as file:
            return file.read()

    def read_text(self, path: PathLike, encoding: str = "utf-8", errors: str = "strict") -> str:
        """Return the content of a file as text, as `read_bytes` finds it."""
        return self.read_bytes(path).decode(encoding, errors)

    def getxattr(self, path: PathLike, name: PathLike, *, follow_symlinks: bool = True) -> bytes:
        """Return an extended attribute. `NoAttribute`."""
        found = self._ask("file_get_attribute", path, follow=follow_symlinks, attribute=text(name))
        value: bytes = found["data"]
        return value

    def listxattr(self, path: PathLike, *, follow_symlinks: bool = True) -> list[str]:
        """Return the names of the extended attributes."""
        names: list[str] = self._ask("file_list_attributes", path, follow=follow_symlinks)["names"]
        return names

    @overload
    def open(
        self, path: PathLike, mode: Literal["r"] = "r", buffering: int = -1,
        encoding: str | None = None, errors: str | None = None, newline: str | None = None,
    ) -> IO[str]: ...  # fmt: skip

    @overload
    def open(
        self, path: PathLike, mode: Literal["rb"], buffering: int = -1,
        encoding: None = None, errors: None = None, newline: None = None,
    ) -> IO[bytes]: ...  # fmt: skip

    @overload
    def open(
        self, path: PathLike, mode: str, buffering: int = -1,
        encoding: str | None = None, errors: str | None = None, newline: str | None = None,
    ) -> IO[Any]: ...  # fmt: skip

    def open(
        self,
        path: PathLike,
        mode: str = "r",
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
    ) -> IO[Any]:
        """Open a file as `open` does, text as UTF-8 unless said otherwise; a snapshot's only for reading.

        Each read and each write of the buffer, 128 KiB, is atomic; the file as a whole is not.
        """
        kind, binary = files.parse_mode(mode)
        number, at = self._find_to_open(path, kind)
        raw = files.RawFile(self._connection, number, at, text(path), kind)
        return files.wrap(
            raw, binary=binary, buffering=buffering, encoding=encoding, errors=errors, newline=newline
        )

    def _find_to_open(self, path: PathLike, kind: str) -> tuple[int, int | None]:
        """Return the inode to open, and its moment; for writing `Filesystem` makes it."""
        name = text(path)
        if kind != "r":
            raise os_error(ReadOnly("history does not change"), name)
        found = self._connection.call("file_find_file", about=name, path=name, at=self._at)
        return found["number"], found["at"]
