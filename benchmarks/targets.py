"""What is measured: a mount of tzfs, the empty handlers, any directory.

Whatever is mounted here is mounted in a temporary directory, by a process of its own, and unmounted at the
end, whatever happens. A mount that does not answer any more is helped by killing its daemon (`abort`), which
makes every request that waits for it fail; only processes started here are killed, by their number.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

COMMAND_TIMEOUT_S = 300
MOUNT_TIMEOUT_S = 20
DROP_CACHES = Path("/proc/sys/vm/drop_caches")
TZFS = [sys.executable, "-c", "from tzfs.cli import main; main()"]

_libc = ctypes.CDLL(None, use_errno=True)


class Unmeasurable(Exception):
    """A family asks for what this target or this user cannot do; the text says what."""


class Target:
    """A directory to work in. capacity_bytes: what fits into it, at least."""

    pid: int | None = None
    has_history = False
    capacity_bytes = 1 << 40

    def __init__(self, label: str, root: Path) -> None:
        self.label = label
        self.root = root

    def directory(self, name: str) -> Path:
        """Return a directory of that name, which may be there already."""
        path = self.root / name
        path.mkdir(exist_ok=True)
        return path

    def settle(self) -> None:
        """Write out what waits in the page cache, so that the next one measured does not pay for it."""
        for path in (self.root, Path(tempfile.gettempdir())):
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
            try:
                _libc.syncfs(descriptor)
            finally:
                os.close(descriptor)

    def drop_caches(self) -> None:
        """Make the kernel forget names, attributes and contents. `Unmeasurable` for all but root."""
        if os.geteuid() != 0:
            raise Unmeasurable("only root may drop the kernel's caches")
        self.settle()
        DROP_CACHES.write_text("3\n")
        # The kernel tells the daemon of each inode that it forgot: let that pass.
        time.sleep(0.3)

    def abort(self) -> None:
        """Kill the daemon, if it is ours: every request that waits for it fails."""
        if self.pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)


class TzfsTarget(Target):
    """A filesystem of tzfs in a store of its own, made and mounted by the command line."""

    has_history = True
    NAME = "bench"

    def __init__(self, label: str, workspace: Path) -> None:
        super().__init__(label, workspace / "mnt")
        self.root.mkdir()
        self.store = workspace / "store"
        self.command("create", self.NAME)
        self.mount()

    def command(self, *arguments: str) -> str:
        """Run tzfs and return what it printed."""
        done = subprocess.run(
            [*TZFS, "--store", os.fspath(self.store), *arguments],
            check=False,
            capture_output=True,
            text=True,
            timeout=COMMAND_TIMEOUT_S,
        )
        if done.returncode:
            raise RuntimeError(f"tzfs {' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout

    def mount(self) -> float:
        """Mount; return the seconds from the command to the first answer."""
        start = time.perf_counter()
        self.command("mount", self.NAME, os.fspath(self.root))
        self.root.stat()
        elapsed = time.perf_counter() - start
        self.pid = self.info()["pid"]
        return elapsed

    def unmount(self) -> None:
        """Unmount, and wait for the daemon's end."""
        self.command("umount", self.NAME)
        self.pid = None

    def info(self) -> dict[str, Any]:
        """Return what `tzfs info --json` says."""
        found: dict[str, Any] = json.loads(self.command("info", self.NAME, "--json"))
        return found

    def drop_caches(self) -> None:
        """As `Target.drop_caches`; without root's rights a new mount has empty caches too."""
        if os.geteuid() == 0:
            super().drop_caches()
        else:
            self.unmount()
            self.mount()

    def snapshot(self, label: str) -> float:
        """Take a snapshot as a program does, and return the seconds it took."""
        path = self.root / ".snapshots" / label
        start = time.perf_counter()
        path.mkdir()
        return time.perf_counter() - start

    def wait_for_reclaim(self) -> float:
        """Wait until nothing is left to reclaim; return the seconds, to about 0.1."""
        start = time.perf_counter()
        while self.info()["reclaim_backlog"]:
            if time.perf_counter() - start > COMMAND_TIMEOUT_S:
                raise RuntimeError("reclaim does not end")
            time.sleep(0.05)
        return time.perf_counter() - start

    def store_bytes(self) -> int:
        """Return the bytes that the store occupies on its disk."""
        return sum(path.stat().st_blocks * 512 for path in self.store.rglob("*") if path.is_file())

    def written_bytes(self) -> int:
        """Return the bytes that the daemon has caused to be written to disk since it started."""
        fields = dict(line.split(": ") for line in Path(f"/proc/{self.pid}/io").read_text().splitlines())
        return int(fields["write_bytes"]) - int(fields["cancelled_write_bytes"])

    def resident_bytes(self) -> int:
        """Return the memory of the daemon."""
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def processor_s(self) -> float:
        """Return the processor time that the daemon's threads have used, which is finer than ticks."""
        tasks = Path(f"/proc/{self.pid}/task").glob("*/schedstat")
        return sum(int(task.read_text().split()[0]) for task in tasks) / 1e9


class EmptyTarget(Target):
    """The empty handlers. They keep all in memory, so no more than that fits."""

    capacity_bytes = 512 << 20

    def __init__(self, label: str, workspace: Path) -> None:
        super().__init__(label, workspace / "mnt")
        self.root.mkdir()
        command = [sys.executable, "-m", "benchmarks.empty_handlers", os.fspath(self.root)]
        self.process = subprocess.Popen(command, cwd=Path(__file__).parents[1])
        self.pid = self.process.pid
        give_up = time.monotonic() + MOUNT_TIMEOUT_S
        while not os.path.ismount(self.root):
            if self.process.poll() is not None or time.monotonic() > give_up:
                raise RuntimeError("the empty handlers do not answer")
            time.sleep(0.02)


@contextlib.contextmanager
def _workspace() -> Iterator[Path]:
    """Make a temporary directory; at its end nothing is mounted in it, and it is gone."""
    workspace = Path(tempfile.mkdtemp(prefix="tzfs-bench-"))
    try:
        yield workspace
    finally:
        point = workspace / "mnt"
        if _is_mounted(point):
            command = ["umount", "-l"] if os.geteuid() == 0 else ["fusermount3", "-uz"]
            subprocess.run([*command, os.fspath(point)], check=False, timeout=MOUNT_TIMEOUT_S)
        shutil.rmtree(workspace, ignore_errors=True)


def _is_mounted(path: Path) -> bool:
    """Ask the mount table, which answers for a dead daemon's mount too."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return any(line.split()[4] == os.fspath(path) for line in lines)


@contextlib.contextmanager
def tzfs(label: str = "tzfs") -> Iterator[TzfsTarget]:
    """Make, mount, and take away a filesystem of tzfs."""
    with _workspace() as workspace:
        target = TzfsTarget(label, workspace)
        try:
            yield target
        finally:
            # Also when no pid is known: whoever ended us may have done it in the midst of a remount.
            with contextlib.suppress(RuntimeError, subprocess.TimeoutExpired):
                target.unmount()
            target.abort()


@contextlib.contextmanager
def empty(label: str = "empty handlers") -> Iterator[EmptyTarget]:
    """Mount the empty handlers, and take them away."""
    with _workspace() as workspace:
        target = EmptyTarget(label, workspace)
        try:
            yield target
        finally:
            command = ["fusermount3", "-u", os.fspath(target.root)]
            subprocess.run(command, check=False, capture_output=True, timeout=MOUNT_TIMEOUT_S)
            try:
                target.process.wait(MOUNT_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                target.process.kill()
                target.process.wait(MOUNT_TIMEOUT_S)


@contextlib.contextmanager
def directory(label: str, parent: Path) -> Iterator[Target]:
    """Work in a new directory below `parent`, which is gone afterwards."""
    root = Path(tempfile.mkdtemp(prefix="tzfs-bench-", dir=parent))
    try:
        yield Target(label, root)
    finally:
        shutil.rmtree(root, ignore_errors=True)
