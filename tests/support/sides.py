"""The two directories of a comparison with the host, and a read-only place for what the host's one was."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from support import syscalls
from support.syscalls import MS_BIND, MS_RDONLY, MS_REMOUNT


class Sides(NamedTuple):
    """Two empty directories, open to everybody; `mountpoint` is that of the tzfs side.

    kept: where a copy of the host's tree is made for each snapshot; frozen: the same, mounted read-only.
    """

    mountpoint: Path
    tzfs: Path
    host: Path
    kept: Path
    frozen: Path


def make_sides(mountpoint: Path, host: Path) -> Sides:
    """Make a directory on a mount and those on the host, in `host`; its mount goes with the workspace."""
    sides = Sides(mountpoint, mountpoint / "compared", host / "compared", host / "kept", host / "frozen")
    for directory in sides[1:]:
        directory.mkdir()
        directory.chmod(0o777)
    syscalls.mount(sides.kept, sides.frozen, "none", MS_BIND)
    syscalls.mount("none", sides.frozen, "none", MS_BIND | MS_REMOUNT | MS_RDONLY)
    return sides


def filesystem_type(path: Path) -> str:
    """Return the type of the filesystem that a path is on."""
    number = path.stat().st_dev
    device = f"{os.major(number)}:{os.minor(number)}"
    for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace").splitlines():
        fields = line.split()
        if fields[2] == device:
            return fields[fields.index("-") + 1]
    return "unknown"
