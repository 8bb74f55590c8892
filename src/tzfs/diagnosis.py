"""What the engine's errors mean: the class, and for a database that does not open, the file and what to do.

CURRENT        one line, the name of the MANIFEST                     can be written again
MANIFEST-n     which tables there are, and what is in each            only a backup helps
n.sst          a table: damaged inside it is EIO to who reads there; missing or cut short, nothing opens
"""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING, Final

from tzfs.errors import StoreCorrupt, StoreError, StoreFull, StoreLocked

if TYPE_CHECKING:
    from pathlib import Path

_FILE: Final = re.compile(r"/(\d+\.sst)\b")
_SIZES: Final = re.compile(r"Expected (\d+), actual size (\d+)")
_BACKUP: Final = "restore it, or better the whole filesystem, from a backup"


def store_error(text: str) -> StoreError:
    """Return the engine's error by the words that RocksDB begins it with."""
    if "No space left" in text or "Disk quota exceeded" in text:
        return StoreFull(text)
    if "LOCK" in text and ("lock" in text or "Resource temporarily unavailable" in text):
        return StoreLocked(text)
    if "Corruption" in text:
        return StoreCorrupt(text)
    return StoreError(text)


def explain(database: Path, text: str) -> str | None:
    """Return what is wrong with the files of `database` that did not open; `text` is what the engine said.

    None where no file of it is to blame, or the engine's words are all there is.
    """
    current = database / "CURRENT"
    manifests = sorted(path.name for path in database.glob("MANIFEST-*"))
    try:
        named = current.read_bytes().decode("ascii", "replace")
    except OSError:
        named = ""
    if named.removesuffix("\n") not in manifests or not named.endswith("\n"):
        if len(manifests) == 1:
            return (
                f"{current} is damaged: it must hold the one line {manifests[0]}; "
                f"`echo {manifests[0]} > {shlex.quote(str(current))}` makes it good again, nothing is lost"
            )
        if named.startswith("MANIFEST-") and not manifests:
            return f"{database / named.strip()} is missing, without which the rest cannot be read: {_BACKUP}"
        return (
            f"{current} is damaged or missing: {_BACKUP}"
            if manifests or any(database.glob("*.sst"))
            else None
        )
    table = _FILE.search(text)
    if table is not None:
        path, sizes = database / table[1], _SIZES.search(text)
        if not path.exists():
            return f"{path} is missing, and with it a part of the filesystem: {_BACKUP}"
        if sizes is not None:
            return f"{path} has {sizes[2]} bytes where {sizes[1]} were written: {_BACKUP}"
        return f"{path} is damaged: {_BACKUP}"
    if "Corruption" in text and "MANIFEST" in text:
        return f"{database / named.strip()} is damaged, without which the rest cannot be read: {_BACKUP}"
    return None
