"""Mount points: what the kernel's mount table says, and whether a directory can become one.

A daemon that crashed leaves its mount point *stale*: in the table, and every access to it fails with
ENOTCONN. That is on purpose (a program that mirrors the tree must see an error and not an empty
directory), and it is `prepare` that cleans it, when somebody mounts there again.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

from tzfs.errors import FuseMissing, MountError, MountpointBusy, MountpointMissing

KIND: Final = "fuse.tzfs"
"""The filesystem type in the mount table: `subtype=tzfs`."""
SOURCE_PREFIX: Final = "tzfs:"
FUSE_DEVICE: Final = Path("/dev/fuse")
UNMOUNT_TIMEOUT_S: Final = 60.0
"""Unmounting writes out what the kernel holds dirty first."""


@dataclass(frozen=True)
class MountOptions:
    """How to mount. poll_us: how long the loop polls before it sleeps; sync_interval_s: between WAL syncs.

    fuse_options: further ones, each "name" or "name=value", for libfuse and the kernel.
    """

    mountpoint: Path
    read_only: bool = False
    allow_other: bool = False
    writeback: bool = True
    poll_us: int = 60
    sync_interval_s: float = 5.0
    foreground: bool = False
    log_file: Path | None = None
    debug: bool = False
    fuse_options: tuple[str, ...] = field(default=())


class MountEntry(NamedTuple):
    """A line of the mount table. device: "major:minor". kind: the filesystem's type, "fuse.tzfs" for ours."""

    device: str
    mountpoint: str
    kind: str
    source: str


def _unescape(text: str) -> str:
    """Undo the octal escapes of proc_pid_mountinfo(5)."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


def mount_table() -> list[MountEntry]:
    """Return what this process sees mounted; a later entry at the same place covers an earlier one."""
    entries = []
    for line in Path("/proc/self/mountinfo").read_bytes().decode("utf-8", "surrogateescape").splitlines():
        before, _, after = line.partition(" - ")
        kind, source, *_ = after.split(" ")
        _, _, device, _, mountpoint, *_ = before.split(" ")
        entries.append(MountEntry(device, _unescape(mountpoint), kind, _unescape(source)))
    return entries


def entry_at(path: Path) -> MountEntry | None:
    """Return what is mounted at exactly `path`."""
    found = [entry for entry in mount_table() if entry.mountpoint == os.fspath(path)]
    return found[-1] if found else None


def is_stale(path: Path) -> bool:
    """Tell whether the daemon behind a mount point is dead.

    By statvfs(3): stat(2) is answered from the kernel's cache, for a day after the daemon's end.
    """
    try:
        os.statvfs(path)
    except OSError as error:
        return error.errno in (errno.ENOTCONN, errno.ECONNABORTED)
    return False


def require_fuse() -> None:
    """Raise `FuseMissing` unless this process could mount."""
    if not FUSE_DEVICE.exists():
        raise FuseMissing(
            "/dev/fuse is missing: `modprobe fuse`, or start the container with "
            "`--device /dev/fuse --cap-add SYS_ADMIN`"
        )
    if not os.access(FUSE_DEVICE, os.R_OK | os.W_OK):
        raise FuseMissing("no permission on /dev/fuse: join the group that may, or `chmod a+rw /dev/fuse`")
    if shutil.which("fusermount3") is None:
        raise FuseMissing("fusermount3 is missing: install the package fuse3")


def prepare(path: Path, *, may_hide_files: bool = False) -> str | None:
    """Make sure that a filesystem can be mounted on `path`, which is absolute; cleans a stale mount of ours.

    Returns a note for the user when it did. Raises `MountpointMissing`, `MountpointBusy`, `MountError`.
    """
    note = None
    while is_stale(path):
        entry = entry_at(path)
        if entry is not None and entry.kind != KIND:
            raise MountpointBusy(
                f"{path} is a dead mount of {entry.kind}: `fusermount3 -uz {path}` removes it"
            )
        unmount(path, lazy=True)
        note = f"{path} was left mounted by a daemon that is dead: cleaned"
    try:
        names = os.listdir(path)  # noqa: PTH208 only the count matters
    except FileNotFoundError:
        raise MountpointMissing(f"{path} does not exist: `mkdir -p {path}` first") from None
    except NotADirectoryError:
        raise MountpointBusy(f"{path} is not a directory: name one that is") from None
    except PermissionError:
        raise MountError(f"no permission to look into {path}: mount on a directory of your own") from None
    entry = entry_at(path)
    if entry is not None and entry.kind == KIND:
        name = entry.source.removeprefix(SOURCE_PREFIX)
        raise MountpointBusy(f"{name} is mounted at {path} already: `tzfs umount {path}` first")
    if names and not may_hide_files:
        raise MountpointBusy(f"{path} is not empty: mount on an empty directory")
    return note


def unmount(path: Path, *, lazy: bool = False) -> None:
    """Unmount `path`; lazily: now for new users, for open files when they are closed.

    Raises `MountpointBusy` if files are open there, `MountError`.
    """
    command = ["fusermount3", "-u", *(["-z"] if lazy else []), "--", os.fspath(path)]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=UNMOUNT_TIMEOUT_S, check=False
        )
    except FileNotFoundError:
        raise FuseMissing("fusermount3 is missing: install the package fuse3") from None
    except subprocess.TimeoutExpired:
        raise MountError(
            f"unmounting {path} takes more than {UNMOUNT_TIMEOUT_S:.0f} s: see daemon.log"
        ) from None
    if done.returncode == 0:
        return
    reason = done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"status {done.returncode}"
    if "busy" in reason.lower():
        raise MountpointBusy(f"{path} is in use: `fuser -vm {path}` shows by which programs; end them first")
    raise MountError(f"{path} could not be unmounted: {reason}")
