"""A storm: parallel writers, readers and renamers for a while, a kill -9 midway if asked for, then `check`.

Each writer closes its files before it tells of them, so whatever was told must be there afterwards, whole:
a file's name and content carry its writer, its number and a checksum. A reader or a renamer that meets a file
whose content does not belong to it has found a torn or lost write.
"""

from __future__ import annotations

import argparse
import hashlib
import multiprocessing
import os
import random
import signal
import time
from pathlib import Path

from soak.mounted import Mounted

DESCRIPTION = "parallel writers, readers and renamers for a while, then check; --kill ends the daemon midway"
SIZES = (0, 1, 100, 4096, 65536, 65537, 300_000)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--processes", type=int, default=50)
    parser.add_argument("--kill", action="store_true", help="kill -9 the daemon in the middle")
    parser.add_argument("--seed", type=int, default=1)


def run(arguments: argparse.Namespace) -> int:
    """Run the storm; 0 when nothing was lost, torn or unsound."""
    with Mounted("storm") as mounted, mounted.store_beside("told") as told:
        tree = mounted.mountpoint / "storm"
        tree.mkdir()
        ends_at = time.monotonic() + arguments.seconds
        workers = [
            multiprocessing.Process(target=_work, args=(tree, told, arguments.seed, number, ends_at))
            for number in range(arguments.processes)
        ]
        for worker in workers:
            worker.start()
        if arguments.kill:
            workers[0].join(arguments.seconds / 2)
            os.kill(mounted.pid, signal.SIGKILL)
        for worker in workers:
            worker.join()
        failed = sum(worker.exitcode != 0 for worker in workers)
        if arguments.kill:
            mounted.remount()
        lost = _lost(tree, told)
        findings = mounted.check()
        files = sum(len(names) for _, _, names in os.walk(tree))
        mounted.report(f"{files} files, {failed} workers found torn data, {lost} told files lost, {findings}")
        return int(bool(failed or lost or findings != "clean"))


def content(writer: int, number: int) -> bytes:
    """Return what file `number` of a writer must hold."""
    size = SIZES[number % len(SIZES)]
    return (hashlib.sha256(b"%d %d" % (writer, number)).digest() * (size // 32 + 1))[:size]


def _work(tree: Path, told: Path, seed: int, writer: int, ends_at: float) -> None:
    choose = random.Random(f"{seed} {writer}")
    number = 0
    with (told / str(writer)).open("w", buffering=1) as journal:
        while time.monotonic() < ends_at:
            try:
                role = choose.random()
                if role < 0.5:
                    number += 1
                    _write(tree, writer, number)
                    journal.write(f"{number}\n")
                elif role < 0.8:
                    _read_some(tree, choose)
                else:
                    _rename_some(tree, choose)
            except OSError as error:
                # The daemon was killed: what was told until here is all that counts.
                if error.errno in (107, 103, 5):
                    return
                if not isinstance(error, FileNotFoundError):
                    raise


def _write(tree: Path, writer: int, number: int) -> None:
    temporary = tree / f"{writer}.{number}.0.tmp"
    temporary.write_bytes(content(writer, number))
    temporary.rename(tree / f"{writer}.{number}.0")


def _some(tree: Path, choose: random.Random) -> Path | None:
    with os.scandir(tree) as entries:
        names = [entry.name for _, entry in zip(range(200), entries, strict=False)]
    names = [name for name in names if not name.endswith(".tmp")]
    return tree / choose.choice(names) if names else None


def _read_some(tree: Path, choose: random.Random) -> None:
    path = _some(tree, choose)
    if path is not None:
        writer, number, _ = map(int, path.name.split("."))
        assert path.read_bytes() == content(writer, number), f"{path.name} is torn"


def _rename_some(tree: Path, choose: random.Random) -> None:
    path = _some(tree, choose)
    if path is not None:
        writer, number, times = map(int, path.name.split("."))
        path.rename(tree / f"{writer}.{number}.{times + 1}")


def _lost(tree: Path, told: Path) -> int:
    """Return how many of the told files are missing or wrong."""
    found = {}
    for path in tree.iterdir():
        if path.suffix != ".tmp":
            writer, number, _ = map(int, path.name.split("."))
            found[writer, number] = path
    lost = 0
    for journal in told.iterdir():
        for line in journal.read_text().splitlines():
            key = int(journal.name), int(line)
            if key not in found or found[key].read_bytes() != content(*key):
                lost += 1
    return lost
