"""kill -9 of the daemon, round after round, under parallel writers that record what they were promised.

Each writer works in a directory of its own and writes to a journal outside the mount, before each operation
what it is about to do and after it that it was done. After the kill, what the journal says was done must be
there, exactly; the one operation under way may have been done, in part or not at all. Then `tzfs check`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import random
import select
import signal
import subprocess
from pathlib import Path
from typing import Any

from soak.mounted import Mounted

DESCRIPTION = "kill -9 the daemon under parallel writers, remount, and look for all that was promised"
WRITERS = 4
SIZES = (0, 1, 100, 4096, 65536, 65537, 300_000)
KILLED = (107, 103, 5)
"""ENOTCONN, ECONNABORTED, EIO: what a program sees of a mount whose daemon was killed."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)


def run(arguments: argparse.Namespace) -> int:
    """Run the rounds; 0 when nothing that was promised is missing."""
    with Mounted("kill") as mounted, mounted.store_beside("journals") as journals:
        wrong, promised = rounds(mounted, journals, arguments.rounds, arguments.seed)
        for text in wrong:
            mounted.report(text)
        mounted.report(
            f"seed {arguments.seed}: {arguments.rounds} rounds, {promised} promised operations, "
            f"{len(wrong)} of them broken"
        )
        return int(bool(wrong))


def rounds(mounted: Mounted, journals: Path, count: int, seed: int) -> tuple[list[str], int]:
    """Kill `count` times; return what was wrong, and how many operations were promised in all."""
    wrong: list[str] = []
    promised = 0
    for number in range(count):
        rng = random.Random(f"{seed} {number}")
        root = mounted.mountpoint / f"round{number}"
        root.mkdir()
        writers = [
            multiprocessing.Process(
                target=_work,
                args=(root / str(at), journals / f"{number}.{at}", f"{seed} {number} {at}"),
            )
            for at in range(WRITERS)
        ]
        for writer in writers:
            writer.start()
        _kill(mounted.pid, rng.uniform(0.05, 0.8))
        for writer in writers:
            writer.join(60)
            if writer.exitcode != 0:
                wrong.append(f"round {number}: a writer ended with {writer.exitcode}")
        mounted.mount()
        for at in range(WRITERS):
            done, texts = judge(root / str(at), journals / f"{number}.{at}")
            promised += done
            wrong += [f"round {number}, writer {at}: {text}" for text in texts]
        subprocess.run(["rm", "-rf", root], check=True, timeout=60)
        if mounted.check() != "clean":
            wrong.append(f"round {number}: {mounted.check()}")
    return wrong, promised


def _kill(pid: int, after_s: float) -> None:
    """Kill a daemon after a while, and wait for its end."""
    daemon = os.pidfd_open(pid)
    try:
        select.select([], [], [], after_s)
        signal.pidfd_send_signal(daemon, signal.SIGKILL)
        select.select([daemon], [], [], 60)
    finally:
        os.close(daemon)


def content(name: str, version: int, size: int) -> bytes:
    """Return what a file must hold."""
    return (hashlib.sha256(f"{name} {version}".encode()).digest() * (size // 32 + 1))[:size]


def _work(directory: Path, journal: Path, seed: str) -> None:
    rng = random.Random(seed)
    known: dict[str, list[int]] = {}
    with journal.open("w", buffering=1) as lines:
        try:
            directory.mkdir()
            for version in range(1, 1_000_000):
                operation = _choose(rng, known, version)
                lines.write(json.dumps(operation) + "\n")
                _do(directory, operation)
                apply(known, operation)
                lines.write("done\n")
        except OSError as error:
            if error.errno not in KILLED:
                raise


def _choose(rng: random.Random, known: dict[str, list[int]], version: int) -> list[Any]:
    """Return an operation: its kind, a name, and a version and size, or another name."""
    kind = rng.choice(["write", "write", "write", "fsync", "rename", "unlink"])
    if kind in {"write", "fsync"} or not known:
        name = f"f{rng.randrange(20)}"
        return [kind if kind == "fsync" else "write", name, version, rng.choice(SIZES)]
    name = rng.choice(sorted(known))
    return [kind, name] if kind == "unlink" else [kind, name, f"f{rng.randrange(20)}"]


def _do(directory: Path, operation: list[Any]) -> None:
    kind, name, *rest = operation
    path = directory / name
    if kind in {"write", "fsync"}:
        with path.open("wb") as file:
            file.write(content(name, *rest))
            file.flush()
            if kind == "fsync":
                os.fsync(file.fileno())
    elif kind == "unlink":
        path.unlink()
    else:
        path.rename(directory / rest[0])


def apply(known: dict[str, list[int]], operation: list[Any]) -> None:
    """Do an operation to what is known: by name, the (name, version, size) that its content was made of."""
    kind, name, *rest = operation
    if kind in {"write", "fsync"}:
        known[name] = [name, *rest]
    elif kind == "unlink":
        del known[name]
    else:
        known[rest[0]] = known.pop(name)


def judge(directory: Path, journal: Path) -> tuple[int, list[str]]:
    """Compare a directory with what its writer was promised; return how many operations that was."""
    known: dict[str, list[int]] = {}
    lines = journal.read_text().splitlines() if journal.exists() else []
    done, under_way = 0, None
    for line in lines:
        if line == "done":
            assert under_way is not None
            apply(known, under_way)
            done, under_way = done + 1, None
        else:
            under_way = json.loads(line)
    found = {path.name: path.read_bytes() for path in directory.iterdir()} if directory.exists() else {}
    free = set(under_way[1:3] if under_way[0] == "rename" else under_way[1:2]) if under_way else set()
    wrong = []
    for name in known.keys() | found.keys():
        expected = content(*known[name]) if name in known else None  # type: ignore[arg-type]
        if found.get(name) != expected and name not in free:
            wrong.append(f"{name} is not what was promised")
    if under_way is not None and under_way[0] == "rename" and under_way[1] in known:
        moved = content(*known[under_way[1]])  # type: ignore[arg-type]
        if moved not in (found.get(under_way[1]), found.get(under_way[2])):
            wrong.append(f"{under_way[1]} is lost in a rename")
    return done, wrong
