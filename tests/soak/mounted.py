"""A filesystem of its own, mounted by its own daemon, for a soak run."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from support import machine


class Mounted:
    """Creates, mounts and in the end unmounts and removes a filesystem; a context manager.

    options: of `tzfs create`. mount_options: of `tzfs mount`.
    """

    def __init__(
        self, name: str, *, options: tuple[str, ...] = (), mount_options: tuple[str, ...] = ()
    ) -> None:
        self.name = name
        self._options = options
        self._mount_options = mount_options
        self.workspace = machine.make_workspace()
        self.mountpoint = self.workspace / "mnt"
        self.store = self.workspace / "store"

    def __enter__(self) -> Self:
        """Create and mount."""
        self.mountpoint.mkdir()
        self.tzfs("create", self.name, *self._options)
        self.mount()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Unmount, whatever happened, and remove everything."""
        machine.remove_workspace(self.workspace)

    def tzfs(self, *arguments: str) -> str:
        """Run a tzfs command on the store and return what it printed; a failure raises with its words."""
        command = [
            sys.executable,
            "-c",
            "from tzfs.cli import main; main()",
            "--store",
            os.fspath(self.store),
            *arguments,
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
        if done.returncode:
            raise RuntimeError(f"tzfs {' '.join(arguments)}: exit {done.returncode}: {done.stderr.strip()}")
        return done.stdout

    def mount(self) -> None:
        """Mount."""
        self.tzfs("mount", self.name, os.fspath(self.mountpoint), *self._mount_options)

    def remount(self) -> None:
        """Unmount, also after a kill, and mount again."""
        if self.info()["pid"] is not None:
            self.tzfs("umount", self.name)
        self.mount()

    def kill(self) -> None:
        """End the daemon with kill -9."""
        os.kill(self.pid, signal.SIGKILL)

    def info(self) -> dict[str, Any]:
        """Return `tzfs info --json`."""
        found: dict[str, Any] = json.loads(self.tzfs("info", self.name, "--json"))
        return found

    @property
    def pid(self) -> int:
        """The daemon."""
        return int(self.info()["pid"])

    def check(self) -> str:
        """Return "clean", or what `tzfs check` found."""
        try:
            self.tzfs("check", self.name)
        except RuntimeError as error:
            return str(error)
        return "clean"

    @contextmanager
    def store_beside(self, name: str) -> Iterator[Path]:
        """Yield a directory outside the mount, removed in the end."""
        directory = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self.workspace))
        yield directory
        shutil.rmtree(directory, ignore_errors=True)

    def report(self, text: str) -> None:
        """Print a result."""
        print(f"{self.name}: {text}", flush=True)  # noqa: T201 (what a soak run is for)
