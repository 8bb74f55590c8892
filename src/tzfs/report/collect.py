"""What the page knows of a filesystem: each snapshot as its difference from the one before, contents once.

The first is walked. From one to the next the difference tells what to look at again, so the cost is that of
what changed; only where a directory was renamed, a file has several names, or the page leaves files out, the
tree is walked again. A file is read again only when its inode, size or time of change differ.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from typing import Any, Final, NamedTuple

from tzfs.api import Change, Filesystem, Snapshot, Stat, Tree

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


class _Tree(NamedTuple):
    """The files of one moment by path, and whether these are all."""

    files: dict[str, _File]
    is_whole: bool


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
    before, last = _Tree({}, is_whole=False), None
    for snapshot in snapshots[-SNAPSHOTS_MAX:]:
        before = _step(steps, snapshot, before, None if last is None else fs.diff(last, snapshot), blobs)
        last = snapshot
    changes = None if last is None else fs.diff(last)
    if changes is None or changes:
        _step(steps, fs, before, changes, blobs)
    note = (
        None
        if len(snapshots) <= SNAPSHOTS_MAX
        else f"{len(snapshots) - SNAPSHOTS_MAX} older snapshots left out"
    )
    return {"name": fs.name, "title": title or fs.name, "note": note, "snapshots": steps}


def _step(
    steps: list[dict[str, Any]], tree: Tree, before: _Tree, changes: list[Change] | None, blobs: Blobs
) -> _Tree:
    """Append what a moment changed, and return its files."""
    now = None if changes is None else _changed(tree, before, changes, blobs)
    if now is None:
        now = _walked(tree, before.files, blobs)
    step: dict[str, Any] = {
        "txn": tree.txn if isinstance(tree, Snapshot) else None,
        "labels": list(tree.labels) if isinstance(tree, Snapshot) else [],
        "time_ms": tree.created_ns // 10**6 if isinstance(tree, Snapshot) else None,
        "set": {p: file.line for p, file in now.files.items() if _line_of(before.files, p) != file.line},
        "gone": [path for path in before.files if path not in now.files],
    }
    if not now.is_whole:
        step["note"] = f"only the first {FILES_MAX} files"
    steps.append(step)
    return now


def _changed(tree: Tree, before: _Tree, changes: list[Change], blobs: Blobs) -> _Tree | None:
    """Return the files of a tree from what changed; None if it must be walked."""
    if not before.is_whole:
        if any(change.kind != "changed" for change in changes):
            return None
        changes = [change for change in changes if change.path in before.files]
    if any(change.kind == "renamed" and stat.S_ISDIR(change.mode) for change in changes):
        return None
    files = dict(before.files)
    for change in changes:
        for path in {change.path, change.old_path or change.path}:
            files.pop(path, None)
            # A directory is shown while it is empty.
            for shown in {path, os.path.dirname(path)} - {""}:  # noqa: PTH120 a name may be no UTF-8
                if not _look_again(tree, shown, files, before.files, blobs):
                    return None
    return None if len(files) > FILES_MAX else _Tree(dict(sorted(files.items())), before.is_whole)


def _look_again(
    tree: Tree, path: str, files: dict[str, _File], before: dict[str, _File], blobs: Blobs
) -> bool:
    """Put what has a path now into `files`, or take it out; False if it has other paths, too."""
    try:
        found = tree.lstat(path)
        is_shown = not found.is_dir() or not any(True for _ in tree.scandir(path))
    except (FileNotFoundError, NotADirectoryError):
        is_shown = False
    if not is_shown:
        files.pop(path, None)
        return True
    files[path] = _file(tree, path, found, before.get(path), blobs)
    return found.is_dir() or found.st_nlink == 1


def _line_of(files: dict[str, _File], path: str) -> list[Any] | None:
    file = files.get(path)
    return None if file is None else file.line


def _walked(tree: Tree, before: dict[str, _File], blobs: Blobs) -> _Tree:
    """Return the files of a whole tree."""
    found: dict[str, _File] = {}
    pending = [""]
    while pending:
        for entry in sorted(tree.scandir(pending.pop() or "/"), reverse=True):
            if entry.is_dir():
                pending.append(entry.path)
                if any(True for _ in tree.scandir(entry.path)):
                    continue
            if len(found) >= FILES_MAX:
                return _Tree(found, is_whole=False)
            found[entry.path] = _file(tree, entry.path, entry.stat, before.get(entry.path), blobs)
    return _Tree(dict(sorted(found.items())), is_whole=True)


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
