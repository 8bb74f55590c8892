"""A directory of links that stands in for a database on a disk that cannot be written.

Whoever opens a database through rocksdict, and be it for reading, has a file written beside it. So there it
is opened in a temporary directory, with a symlink to each of its files. The logs are copied, for they may
have to be cut (`tzfs.wal`): they are empty after a clean end, and 256 MiB at most after another.
"""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from pathlib import Path
from typing import Final

_PREFIX: Final = "tzfs-reading-"
_NOT_LINKED: Final = ("LOG", "LOCK", "rocksdict-config.json")
"""Written by who opens."""


def is_needed(database: Path) -> bool:
    """Tell whether the directory `database` cannot be written: a read-only disk, or not our directory."""
    return not os.access(database, os.W_OK)


def make(database: Path) -> Path:
    """Return a new directory that stands in for `database`; who asked removes it. Raises `OSError`."""
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
        for file in database.absolute().iterdir():
            if file.suffix == ".log":
                shutil.copyfile(file, path / file.name)
            elif not file.name.startswith(_NOT_LINKED):
                (path / file.name).symlink_to(file)
    except BaseException:
        shutil.rmtree(path, ignore_errors=True)
        raise
