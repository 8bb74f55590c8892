"""browse: a shell in a workflow's filesystem, in the present or in a snapshot; the rest is `ls` and `cat`."""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path

import tzfs
from tzfs.errors import SnapshotMissing, UnknownFilesystem

from . import workspace
from .content import Job


def shell(workdir: Path, workflow: int, snapshot: str | None) -> int:
    """Mount, run $SHELL there, unmount; return the shell's status.

    Raises LookupError for a run, a workflow or a snapshot that is not there.
    """
    store, name = workdir.resolve() / "store", Job(0, workflow).name
    if not store.is_dir():
        raise LookupError(f"{workdir} holds no run: `run` makes one, --workdir names it")
    try:
        with tzfs.Store.open(store).open_filesystem(name) as fs:
            snapshots = fs.snapshots()
            at = None if snapshot is None else fs.at(snapshot)
    except UnknownFilesystem:
        count = len(tzfs.Store.open(store).list())
        raise LookupError(f"the run in {workdir} has no workflow {workflow}: 0 to {count - 1}") from None
    except SnapshotMissing:
        known = ", ".join(label for found in snapshots for label in found.labels)
        raise LookupError(f"{name} has no snapshot {snapshot}; its labels are {known}") from None
    print(f"{name}: {len(snapshots)} snapshots, each a directory of .snapshots by its number and its label")
    for found in snapshots:
        labels = " ".join(found.labels) or "(what a failed attempt left)"
        print(f"  {found.txn:>4}  {found.created:%H:%M:%S}  {labels}")
    with tempfile.TemporaryDirectory(prefix="tzfs-browse-") as directory:
        mountpoint = Path(directory)
        workspace.command(store, "mount", name, mountpoint)
        try:
            if at is None:
                where, what = mountpoint, "in the present; `cd .snapshots/LABEL` goes back in time"
            else:
                where = mountpoint / ".snapshots" / str(at.txn)
                what = f"in the tree as it was at {' '.join(at.labels) or at.txn}; `cd ../..` is the present"
            print(f"You are {what}.\n`exit` or Ctrl-D leaves the shell and unmounts.", flush=True)
            return subprocess.run([os.environ.get("SHELL", "/bin/sh")], cwd=where, check=False).returncode
        finally:
            workspace.unmount(store, name)
