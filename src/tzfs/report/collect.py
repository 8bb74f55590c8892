"""What the page knows of a filesystem: each snapshot as its difference from the one before, contents once.

Snapshots are walked, and a file is read again only when its inode, size or time of change differ: so the
cost is that of the trees, and of the contents that are new.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from typing import Any, Final, NamedTuple

from tzfs.api import Filesystem, Snapshot, Stat, Tree

SNAPSHOTS_MAX: Final = 200
FILES_MAX: Final = 2_000
"""Files of one snapshot; a page is for looking at, and a browser has to hold all of it."""
CONTENT_BYTES_MAX: Final = 64 << 10
"""Of one file; the rest is left out, and the page says so."""
PAGE_BYTES_MAX: Final = 32 << 20
"""Of all contents together."""
_HEX_BYTES: Final = 256


class _File(NamedTuple):
    """A file in one snapshot, as the page has it, and what tells whether it must be read again."""

    line: list[Any]
    identity: tuple[int, ...]


class Blobs:
    """Contents by their hash, shared by all filesystems of a page."""

    def __init__(self) -> None:
        """Begin with none."""
        self.contents: dict[str, dict[str, Any]] = {}
        self._room = PAGE_BYTES_MAX

    def add(self, data: bytes, size: int) -> str:
        """Return the id of a content, of which `data` is the beginning and `size` the whole."""
        name = hashlib.blake2b(data, digest_size=9).hexdigest()
        if size > len(data):
            name += f"-{size}"
        if name not in self.contents:
            self.contents[name] = self._describe(data, size)
        return name

    def _describe(self, data: bytes, size: int) -> dict[str, Any]:
        if len(data) > self._room:
            return {"note": "left out: the page is large enough"}
        text = _as_text(data, is_cut=size > len(data))
        if text is None:
            return {"note": f"binary, {size} bytes", "text": _hexdump(data[:_HEX_BYTES])}
        self._room -= len(data)
        return (
            {"text": text}
            if size == len(data)
            else {"text": text, "note": f"the first {len(data)} of {size} bytes"}
        )


def _as_text(data: bytes, *, is_cut: bool) -> str | None:
    """Return content as text, None if it is none; a character that was cut in two goes."""
    if b"\0" in data:
        return None
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        if is_cut and error.start >= len(data) - 3:
            return data[: error.start].decode("utf-8")
        return None


def _hexdump(data: bytes) -> str:
    """Return bytes as hexdump -C shows them."""
    lines = []
    for start in range(0, len(data), 16):
        part = data[start : start + 16]
        shown = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in part)
        lines.append(f"{start:08x}  {part.hex(' '):<47}  {shown}")
    return "\n".join(lines)


def collect(fs: Filesystem, blobs: Blobs, *, title: str | None = None) -> dict[str, Any]:
    """Return the history of a filesystem: its last `SNAPSHOTS_MAX` snapshots, and the present."""
    snapshots = fs.snapshots()
    steps: list[dict[str, Any]] = []
    before: dict[str, _File] = {}
    for snapshot in snapshots[-SNAPSHOTS_MAX:]:
        before = _step(steps, snapshot, before, blobs)
    if not snapshots or fs.diff(snapshots[-1]):
        _step(steps, fs, before, blobs)
    note = (
        None
        if len(snapshots) <= SNAPSHOTS_MAX
        else f"{len(snapshots) - SNAPSHOTS_MAX} older snapshots left out"
    )
    return {"name": fs.name, "title": title or fs.name, "note": note, "snapshots": steps}


def _step(
    steps: list[dict[str, Any]], tree: Tree, before: dict[str, _File], blobs: Blobs
) -> dict[str, _File]:
    """Append what a moment changed, and return its files."""
    now, is_whole = _files(tree, before, blobs)
    step: dict[str, Any] = {
        "txn": tree.txn if isinstance(tree, Snapshot) else None,
        "labels": list(tree.labels) if isinstance(tree, Snapshot) else [],
        "time_ms": tree.created_ns // 10**6 if isinstance(tree, Snapshot) else None,
        "set": {path: file.line for path, file in now.items() if _line_of(before, path) != file.line},
        "gone": [path for path in before if path not in now],
    }
    if not is_whole:
        step["note"] = f"only the first {FILES_MAX} files"
    steps.append(step)
    return now


def _line_of(files: dict[str, _File], path: str) -> list[Any] | None:
    file = files.get(path)
    return None if file is None else file.line


def _files(tree: Tree, before: dict[str, _File], blobs: Blobs) -> tuple[dict[str, _File], bool]:
    """Return the files of a tree by path, and whether these are all."""
    found: dict[str, _File] = {}
    pending = [""]
    while pending:
        for entry in sorted(tree.scandir(pending.pop() or "/"), reverse=True):
            if entry.is_dir():
                pending.append(entry.path)
                if any(True for _ in tree.scandir(entry.path)):
                    continue
            if len(found) >= FILES_MAX:
                return found, False
            found[entry.path] = _file(tree, entry.path, entry.stat, before.get(entry.path), blobs)
    return dict(sorted(found.items())), True


def _file(tree: Tree, path: str, found: Stat, before: _File | None, blobs: Blobs) -> _File:
    """Return [kind, size, mode, mtime in ms, content] of a file."""
    identity = (found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_mode)
    if before is not None and before.identity == identity:
        return before
    content = None
    if found.is_file():
        try:
            with tree.open(path, "rb") as file:
                content = blobs.add(file.read(CONTENT_BYTES_MAX), found.st_size)
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            content = blobs.add(b"(the disk has lost this content: reading it gives EIO)", found.st_size)
    elif found.is_symlink():
        target = os.fsencode(tree.readlink(path))
        content = blobs.add(target, len(target))
    kind = "f" if found.is_file() else _KINDS.get(stat.S_IFMT(found.st_mode), "?")
    line = [kind, found.st_size, stat.filemode(found.st_mode), content]
    return _File(line, identity)


_KINDS: Final = {stat.S_IFDIR: "d", stat.S_IFLNK: "l", stat.S_IFIFO: "p", stat.S_IFSOCK: "s"}
