"""A directory of links that stands in for a database on a disk that cannot be written.

Whoever opens a database through rocksdict, and be it for reading, has a file written beside it. So there it
is opened in a temporary directory, with a symlink to each of its files. The logs are copied, for they may
have to be cut (`tzfs.wal`): they are empty after a clean end, and 256 MiB at most after another.

Each process holds a lock on those that it made, so what one left that was killed is known by having none, and
the next to make one removes it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
import tempfile
import time
from pathlib import Path
from typing import Final

_PREFIX: Final = "tzfs-reading-"
_NOT_LINKED: Final = ("LOG", "LOCK", "rocksdict-config.json")
"""Written by who opens."""


_YOUNG_S: Final = 60.0
"""A directory of that age may not have its lock yet."""
_locks: Final[dict[Path, int]] = {}
"""The directories that this process made, each with the descriptor that has the lock."""


def is_needed(database: Path) -> bool:
    """Tell whether the directory `database` cannot be written: a read-only disk, or not our directory."""
    return not os.access(database, os.W_OK)


def make(database: Path) -> Path:
    """Return a new directory that stands in for `database`, for `remove`. Raises `OSError`."""
    _sweep()
    path = new_name()
    fill(path, database)
    return path


def new_name() -> Path:
    """Return a path in the directory for temporary files at which nothing is."""
    return Path(tempfile.gettempdir()) / f"{_PREFIX}{secrets.token_hex(8)}"


def fill(path: Path, database: Path) -> None:
    """Make the directory `path` stand in for `database`. Raises `OSError`, and then has made nothing."""
    path.mkdir(mode=0o700)
    try:
        _locks[path] = _locked(path)
        for file in database.absolute().iterdir():
            if file.suffix == ".log":
                shutil.copyfile(file, path / file.name)
            elif not file.name.startswith(_NOT_LINKED):
                (path / file.name).symlink_to(file)
    except BaseException:
        remove(path)
        raise


def remove(path: Path) -> None:
    """Remove a directory that stands in for a database."""
    shutil.rmtree(path, ignore_errors=True)
    if path in _locks:
        os.close(_locks.pop(path))


def _locked(path: Path) -> int:
    """Return a descriptor of a directory that has its lock. Raises `OSError` if another process has it."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _sweep() -> None:
    """Remove what processes left that were killed."""
    for path in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > _YOUNG_S:
                _locks[path] = _locked(path)
                remove(path)
