"""tzfs: a filesystem with time travel.

The public names are those of `tzfs.api` (docs/api.md) and the errors of `tzfs.errors`. They are imported when
they are first used: `import tzfs` alone, as the command line does it, costs nothing.

>>> import tzfs
>>> store = tzfs.Store.open(tmp_path / "store", create=True)
>>> _ = store.create("lab")
>>> with store.open_filesystem("lab") as fs:
...     _ = fs.write_text("notes.txt", "first")
...     with fs.snapshot("before") as before:
...         _ = fs.write_text("notes.txt", "second")
...         before.read_text("notes.txt"), fs.read_text("notes.txt")
('first', 'second')
"""

# The module map, from what a person calls down to the bytes; imports point only down (see pyproject.toml).
#
# cli/             the command `tzfs`                            api/          the Python API
# report/          an HTML page that shows a filesystem's history
# detach, daemon   the process behind a mount
# background, control_server, syncer, fuse/                       its tasks, its socket, the kernel's adapter
# top              what mounted filesystems do
# fork, session    one way to ask a filesystem, mounted or not
# admin, files     the commands that a filesystem answers
# store, control   a directory of filesystems; the protocol of the socket
# check, scrub     the invariants of docs/format.md; reading every byte
# repair           mending what `check` finds
# filesystem       the core: POSIX operations, one transaction each
# history, reclaim, naming, directories, filedata, xattrs, acl, inodes, snapshots
#                  one concept each; they stage into the caller's transaction
# volume           a store that holds a filesystem, and the transaction on it
# versions         head, past, change log: generic over keys
# records, keys    the codec: values and the key table
# rocks, recent    RocksDB, and the records of late in memory above it
# kv               the engine's seam, and the engine in memory
# diagnosis        which file of a database is damaged
# stand_in         a database on a disk that cannot be written
# catalog, runtime, mountpoint, errors, failpoints, closing

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tzfs.api import Change, Entry, Filesystem, FilesystemInfo, Snapshot, Stat, Store, Tree
    from tzfs.api.asynchronous import AsyncFilesystem, AsyncSnapshot, AsyncStore, AsyncTree
    from tzfs.errors import FsError, TzfsError

_HOMES = {
    **dict.fromkeys(
        ("Change", "Entry", "Filesystem", "FilesystemInfo", "Snapshot", "Stat", "Store", "Tree"), "tzfs.api"
    ),
    **dict.fromkeys(("AsyncFilesystem", "AsyncSnapshot", "AsyncStore", "AsyncTree"), "tzfs.api.asynchronous"),
    "FsError": "tzfs.errors",
    "TzfsError": "tzfs.errors",
}

__all__ = [
    "AsyncFilesystem",
    "AsyncSnapshot",
    "AsyncStore",
    "AsyncTree",
    "Change",
    "Entry",
    "Filesystem",
    "FilesystemInfo",
    "FsError",
    "Snapshot",
    "Stat",
    "Store",
    "Tree",
    "TzfsError",
]


def __getattr__(name: str) -> object:
    """Import a public name when it is first used (PEP 562)."""
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'tzfs' has no attribute {name!r}")
    return getattr(importlib.import_module(home), name)


def __dir__() -> list[str]:
    """Return the public names."""
    return sorted({*globals(), *__all__})
