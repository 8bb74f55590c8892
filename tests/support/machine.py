"""What this machine can test, and where tests may mount."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

FUSE_DEVICE = Path("/dev/fuse")


def missing_fuse() -> str | None:
    """Return why nothing can be mounted here, in the words of scripts/bootstrap; None when mounting works."""
    if not FUSE_DEVICE.exists():
        return "/dev/fuse is missing: nothing can be mounted on this machine"
    try:
        os.close(os.open(FUSE_DEVICE, os.O_RDWR | os.O_CLOEXEC))
    except OSError:
        return "/dev/fuse cannot be opened: no permission to mount on this machine"
    if shutil.which("fusermount3") is None:
        return "fusermount3 is missing: nothing can be mounted on this machine"
    return None


def is_root() -> bool:
    """Tell whether chown, mknod, trusted attributes and other users can be tried."""
    return os.geteuid() == 0


def can_allow_other() -> bool:
    """Tell whether a mount can be opened to other users: root's always, others' if fuse.conf says so."""
    if is_root():
        return True
    try:
        lines = Path("/etc/fuse.conf").read_text(encoding="utf-8").splitlines()
    except OSError:
        return False
    return "user_allow_other" in (line.strip() for line in lines)


def capabilities() -> str:
    """Return one line for the head of a test run."""
    found = {
        "fuse": missing_fuse() or "yes",
        "root": "yes" if is_root() else "no",
        "allow_other": "yes" if can_allow_other() else "no",
        "xattrs": "user, trusted, security" if is_root() else "user",
        "cores": str(len(os.sched_getaffinity(0))),
    }
    return "this machine: " + "; ".join(f"{name}: {value}" for name, value in found.items())


MOUNTS_ROOT = Path(tempfile.gettempdir()) / f"tzfs-tests-{os.geteuid()}"
"""Stores and mount points of tests, in one directory per test process, named by its pid. Not pytest's own
temporary directory: that one is closed to other users, and some tests become one."""


def make_workspace() -> Path:
    """Make this process's directory under `MOUNTS_ROOT`, open to other users."""
    MOUNTS_ROOT.mkdir(mode=0o755, exist_ok=True)
    workspace = Path(tempfile.mkdtemp(prefix=f"{os.getpid()}-", dir=MOUNTS_ROOT))
    workspace.chmod(0o755)
    return workspace


def mounts_under(directory: Path) -> list[Path]:
    """Return the mount points below `directory`, the innermost first; a dead daemon's are among them."""
    prefix = os.fsencode(directory) + b"/"
    found = []
    for line in Path("/proc/self/mountinfo").read_bytes().splitlines():
        where = line.split()[4]
        for code, byte in ((b"\\040", b" "), (b"\\011", b"\t"), (b"\\012", b"\n"), (b"\\134", b"\\")):
            where = where.replace(code, byte)
        if where.startswith(prefix):
            found.append(Path(os.fsdecode(where)))
    return sorted(found, reverse=True)


def remove_workspace(workspace: Path) -> None:
    """Unmount what is mounted in `workspace`, lazily since nobody is left to wait for, and remove it."""
    for mountpoint in mounts_under(workspace):
        command = ["umount", "-l"] if is_root() else ["fusermount3", "-u", "-z"]
        subprocess.run([*command, os.fspath(mountpoint)], check=False, timeout=30)
    if not mounts_under(workspace):
        shutil.rmtree(workspace, ignore_errors=True)


def wait_until(condition: Callable[[], bool], timeout_s: float = 60) -> None:
    """Return when `condition` holds; TimeoutError if it does not in time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {timeout_s} s")
        time.sleep(0.01)


def sweep() -> list[Path]:
    """Remove the workspaces of test processes that are no more; return what was swept."""
    swept = []
    if MOUNTS_ROOT.is_dir():
        for workspace in MOUNTS_ROOT.iterdir():
            pid = workspace.name.partition("-")[0]
            if pid.isdecimal() and not Path("/proc", pid).exists():
                remove_workspace(workspace)
                swept.append(workspace)
    return swept
