"""Two ways to work in a filesystem: plain files on its mount, and the Python API without a mount."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Final, Protocol

import tzfs

from .content import Files

TZFS: Final = (sys.executable, "-c", "from tzfs.cli import main; main()")
"""The command `tzfs` of this very Python."""
COMMAND_TIMEOUT_S: Final = 180.0
_starts = threading.BoundedSemaphore(max(2, os.cpu_count() or 1))
"""A daemon's start is a second of processor time: more of them at once only wait for each other."""


class Tally:
    """Counts what workspaces do, for the dashboard."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.operations = self.files = self.bytes = self.snapshots = 0

    def add(self, *, operations: int = 1, files: int = 0, size: int = 0, snapshots: int = 0) -> None:
        """Count."""
        with self._lock:
            self.operations += operations
            self.files += files
            self.bytes += size
            self.snapshots += snapshots


class Workspace(Protocol):
    """What an activity does with its filesystem. Paths are relative; a label of None is the present."""

    def labels(self) -> set[str]:
        """Return the labels of all snapshots."""

    def tree(self, label: str | None) -> Files:
        """Return every file."""

    def write(self, path: str, data: bytes) -> None:
        """Write a whole file, with the directories above it."""

    def remove(self, path: str) -> None:
        """Remove a file, and the directory above it if that is empty then."""

    def snapshot(self, label: str) -> None:
        """Keep the tree."""

    def rollback(self, label: str) -> None:
        """Make the tree what it was."""


class MountWorkspace:
    """Works as any program does: `open`, `mkdir`, and `mkdir .snapshots/LABEL`."""

    def __init__(self, store: Path, name: str, mountpoint: Path, tally: Tally) -> None:
        self._store = store
        self._name = name
        self._root = mountpoint
        self._tally = tally

    def labels(self) -> set[str]:
        """See `Workspace`."""
        self._tally.add()
        return {found.name for found in (self._root / ".snapshots").iterdir()}

    def tree(self, label: str | None) -> Files:
        """See `Workspace`."""
        root = self._root if label is None else self._root / ".snapshots" / label
        found: Files = {}
        for directory, _, names in os.walk(root, onerror=_raise):
            for name in names:
                path = Path(directory, name)
                found[str(path.relative_to(root))] = path.read_bytes()
        self._tally.add(operations=len(found) + 1)
        return found

    def write(self, path: str, data: bytes) -> None:
        """See `Workspace`."""
        target = self._root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
        self._tally.add(files=1, size=len(data))

    def remove(self, path: str) -> None:
        """See `Workspace`."""
        target = self._root / path
        target.unlink()
        if target.parent != self._root and not any(target.parent.iterdir()):
            target.parent.rmdir()
        self._tally.add()

    def snapshot(self, label: str) -> None:
        """See `Workspace`."""
        (self._root / ".snapshots" / label).mkdir()
        self._tally.add(snapshots=1)

    def rollback(self, label: str) -> None:
        """See `Workspace`. Through the API: the daemon does it, the mount stays up."""
        with tzfs.Store.open(self._store).open_filesystem(self._name) as fs:
            fs.rollback(label)
        self._tally.add(snapshots=1)


class ApiWorkspace:
    """Works through `tzfs.Filesystem`: needs no mount, and so no /dev/fuse."""

    def __init__(self, fs: tzfs.Filesystem, tally: Tally) -> None:
        self._fs = fs
        self._tally = tally

    def labels(self) -> set[str]:
        """See `Workspace`."""
        self._tally.add()
        return {label for snapshot in self._fs.snapshots() for label in snapshot.labels}

    def tree(self, label: str | None) -> Files:
        """See `Workspace`."""
        root = self._fs if label is None else self._fs.at(label)
        found = {
            path.lstrip("/"): root.read_bytes(path)
            for directory, _, names in root.walk()
            for path in (f"{directory}/{name}" for name in names)
        }
        self._tally.add(operations=len(found) + 1)
        return found

    def write(self, path: str, data: bytes) -> None:
        """See `Workspace`."""
        above = path.rpartition("/")[0]
        if above:
            self._fs.mkdir(above, parents=True, exist_ok=True)
        self._fs.write_bytes(path, data)
        self._tally.add(files=1, size=len(data))

    def remove(self, path: str) -> None:
        """See `Workspace`."""
        self._fs.remove(path)
        above = path.rpartition("/")[0]
        if above and not self._fs.listdir(above):
            self._fs.rmdir(above)
        self._tally.add()

    def snapshot(self, label: str) -> None:
        """See `Workspace`."""
        self._fs.snapshot(label)
        self._tally.add(snapshots=1)

    def rollback(self, label: str) -> None:
        """See `Workspace`."""
        self._fs.rollback(label)
        self._tally.add(snapshots=1)


def command(store: Path, *arguments: str | Path) -> None:
    """Run `tzfs`; OSError with its one line if it fails."""
    done = subprocess.run(
        [*TZFS, "--store", os.fspath(store), *map(os.fspath, arguments)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=COMMAND_TIMEOUT_S,
        check=False,
        start_new_session=True,  # Ctrl-C is for us: we end the daemons in order
    )
    if done.returncode != 0:
        raise OSError(f"tzfs {arguments[0]}: {done.stderr.strip() or done.returncode}")


def mount(store: Path, name: str, mountpoint: Path) -> None:
    """Mount, unless it is mounted and answers; cleans up after a daemon that was killed."""
    if tzfs.Store.open(store).get(name).mountpoint is None:
        with contextlib.suppress(FileExistsError, OSError):
            mountpoint.mkdir(parents=True)
        with _starts:
            command(store, "mount", name, mountpoint)


def unmount(store: Path, name: str) -> None:
    """Unmount, if it is mounted."""
    if tzfs.Store.open(store).get(name).mountpoint is not None:
        command(store, "umount", name)


def _raise(error: OSError) -> None:
    raise error
