"""browse: a shell in a workflow's filesystem, in the present or in a snapshot; the rest is `ls` and `cat`."""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path

import tzfs

from . import workspace
from .content import Job


def shell(workdir: Path, workflow: int, snapshot: str | None) -> int:
    """Mount, run $SHELL there, unmount; return the shell's status."""
    store, name = workdir.resolve() / "store", Job(0, workflow).name
    with tzfs.Store.open(store).open_filesystem(name) as fs:
        snapshots = fs.snapshots()
        at = None if snapshot is None else fs.at(snapshot)
    print(f"{name}: {len(snapshots)} snapshots, each a directory of .snapshots")
    for found in snapshots:
        print(f"  {found.txn:>4}  {found.created:%H:%M:%S}  {' '.join(found.labels)}")
    with tempfile.TemporaryDirectory(prefix="tzfs-browse-") as directory:
        mountpoint = Path(directory)
        workspace.command(store, "mount", name, mountpoint)
        try:
            where = mountpoint if at is None else mountpoint / ".snapshots" / str(at.txn)
            print(f"a shell in {where}; `exit` unmounts")
            return subprocess.run([os.environ.get("SHELL", "/bin/sh")], cwd=where, check=False).returncode
        finally:
            workspace.unmount(store, name)
