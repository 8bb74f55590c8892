"""The Python API: stores, filesystems, snapshots, as docs/api.md describes them.

errors       what is raised: each a `TzfsError`, and the `OSError` of its errno
connection   one session with a filesystem, mounted or not, under one lock
files        open files, as `io` has them
tree         reading: the present or a snapshot
filesystem   changing, snapshots, rollback, forks
store        the filesystems of a directory
asynchronous the same for trio, each call in a thread; imported only when it is asked for
"""

from tzfs.api.filesystem import Change, Filesystem, Snapshot
from tzfs.api.store import FilesystemInfo, Store
from tzfs.api.tree import Entry, Stat, Tree

__all__ = ["Change", "Entry", "Filesystem", "FilesystemInfo", "Snapshot", "Stat", "Store", "Tree"]
