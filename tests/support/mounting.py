"""A filesystem mounted by its own daemon, in a process of its own, by the commands that a user types.

Never in the test's process: a test that waits for a system call on the mount would hold the lock or the
loop that has to answer it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from support import machine

COMMAND_TIMEOUT_S = 60
TZFS = [sys.executable, "-c", "from tzfs.cli import main; main()"]


class Mounted:
    """A store with one filesystem, and the directory that it is mounted on: `path`."""

    name = "lab"

    def __init__(self, workspace: Path) -> None:
        self.workspace = workspace
        self.store = workspace / "store"
        self.path = workspace / "mnt"
        self.path.mkdir()
        self.expected_warnings: list[str] = []
        """Parts of lines of level WARNING and above that the daemon's log may hold."""

    def run(
        self, *arguments: str | Path, timeout_s: float = COMMAND_TIMEOUT_S
    ) -> subprocess.CompletedProcess[str]:
        """Run a tzfs command on the store, whatever becomes of it."""
        return subprocess.run(
            [*TZFS, *map(os.fspath, arguments)],
            env={**os.environ, "TZFS_STORE": os.fspath(self.store)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout_s,
        )

    def ok(self, *arguments: str | Path, timeout_s: float = COMMAND_TIMEOUT_S) -> str:
        """Run a tzfs command that must succeed, and return what it printed."""
        done = self.run(*arguments, timeout_s=timeout_s)
        assert done.returncode == 0, f"tzfs {arguments}: status {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout

    def info(self) -> dict[str, Any]:
        """Return what `tzfs info` tells."""
        found: dict[str, Any] = json.loads(self.ok("info", self.name, "--json"))
        return found

    def mount(self, *options: str) -> None:
        """Mount, which returns when the mount answers."""
        self.ok("mount", self.name, self.path, *options)
        assert os.path.ismount(self.path)

    def unmount(self) -> None:
        """Unmount, which returns when the daemon has ended."""
        self.ok("umount", self.name)
        assert not os.path.ismount(self.path)

    def remount(self, *options: str) -> None:
        """Unmount and mount again: afterwards nothing comes from a cache."""
        self.unmount()
        self.mount(*options)

    def snapshot(self, label: str | None = None) -> int:
        """Take a snapshot, and return its txn."""
        return int(self.ok("snapshot", self.name, *(["-m", label] if label else [])))

    def unexpected_log_lines(self) -> list[str]:
        """Return what the daemons of this filesystem logged for a human to act upon, and no test expects."""
        lines = [
            line
            for log in self.store.glob("filesystems/*/daemon.log")
            for line in log.read_text(errors="replace").splitlines()
        ]
        return [
            line
            for line in lines
            if any(f" {level} " in line for level in ("WARNING", "ERROR", "CRITICAL"))
            and not any(part in line for part in self.expected_warnings)
        ]

    def finish(self) -> None:
        """Unmount what is mounted; then the filesystem must be sound and its log without a warning."""
        if os.path.ismount(self.path):
            self.unmount()
        self.ok("check", self.name)
        assert self.unexpected_log_lines() == []


@contextmanager
def mounting() -> Iterator[Callable[..., Mounted]]:
    """Yield a function that creates a filesystem and mounts it; skips the test where nothing can be mounted.

    Its arguments are the options of `tzfs create`, and as `mount` those of `tzfs mount`. What was mounted is
    unmounted whatever happens; after what passed, `tzfs check` must find nothing and the daemon's log hold no
    warning.
    """
    reason = machine.missing_fuse()
    if reason is not None:
        pytest.skip(reason)
    made: list[Mounted] = []

    def make(*create: str, mount: Sequence[str] = ()) -> Mounted:
        mounted = Mounted(machine.make_workspace())
        made.append(mounted)
        mounted.ok("create", mounted.name, *create)
        mounted.mount(*mount)
        return mounted

    try:
        yield make
        for mounted in made:
            mounted.finish()
    finally:
        for mounted in made:
            machine.remove_workspace(mounted.workspace)
