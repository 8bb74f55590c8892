"""Many snapshots with changes between them, each compared with what was recorded when it was taken."""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import shutil
from pathlib import Path

from soak.mounted import Mounted

DESCRIPTION = "many snapshots with changes between, each compared with what was recorded when it was taken"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--snapshots", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)


def run(arguments: argparse.Namespace) -> int:
    """Take the snapshots and compare; 0 when each is what it was."""
    choose = random.Random(arguments.seed)
    recorded = {}
    with Mounted("history") as mounted:
        root = mounted.mountpoint
        for number in range(arguments.snapshots):
            for _ in range(choose.randint(1, 8)):
                _change(root, choose, number)
            label = f"s{number}"
            (root / ".snapshots" / label).mkdir()
            recorded[label] = fingerprint(root)
        wrong = [label for label, was in recorded.items() if fingerprint(root / ".snapshots" / label) != was]
        mounted.remount()
        wrong += [label for label, was in recorded.items() if fingerprint(root / ".snapshots" / label) != was]
        findings = mounted.check()
        mounted.report(f"{len(recorded)} snapshots, {len(wrong)} differ {wrong[:5]}, {findings}")
        return int(bool(wrong or findings != "clean"))


def fingerprint(root: Path) -> str:
    """Return a hash of everything below a directory: names, types, modes, links, times, content."""
    total = hashlib.sha256()
    for directory, subdirectories, names in os.walk(root):
        subdirectories.sort()
        for name in sorted(subdirectories + names):
            path = Path(directory, name)
            found = path.lstat()
            line = (path.relative_to(root), found.st_mode, found.st_nlink, found.st_size, found.st_mtime_ns)
            total.update(repr(line).encode())
            if path.is_symlink():
                total.update(os.fsencode(path.readlink()))
            elif path.is_file():
                total.update(path.read_bytes())
    return total.hexdigest()


def _change(root: Path, choose: random.Random, number: int) -> None:
    """Make one random change somewhere in the tree."""
    directories = [root, *sorted(path for path in root.glob("d*") if path.is_dir())]
    directory = choose.choice(directories)
    files = sorted(path for path in directory.iterdir() if path.is_file() and not path.is_symlink())
    kind = choose.randrange(8)
    if kind == 0 and len(directories) < 20:
        (root / f"d{number}-{choose.randrange(1000)}").mkdir(exist_ok=True)
    elif kind == 1 and files:
        choose.choice(files).unlink()
    elif kind == 2 and files:
        choose.choice(files).rename(choose.choice(directories) / f"r{number}-{choose.randrange(1000)}")
    elif kind == 3 and files:
        with choose.choice(files).open("r+b") as file:
            file.seek(choose.randrange(200_000))
            file.write(choose.randbytes(choose.randrange(100_000)))
    elif kind == 4 and files:
        os.truncate(choose.choice(files), choose.randrange(150_000))
    elif kind == 5 and files:
        choose.choice(files).chmod(choose.choice((0o600, 0o644, 0o755)))
    elif kind == 6 and len(directories) > 10:
        shutil.rmtree(choose.choice(directories[1:]))
    else:
        (directory / f"f{number}-{choose.randrange(1000)}").write_bytes(
            choose.randbytes(choose.randrange(90_000))
        )
