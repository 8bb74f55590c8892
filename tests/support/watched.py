"""A program to cut the power of: it works on a store on the recording disk, and says where it is.

    python tests/support/watched.py {operations|switching|commands} DISK REPORT SEED [WITHOUT]

`operations` does random operations of the core on one database and marks `done.N` after each, and
`synced.N` when all up to N are promised. `switching` does more of them on an engine with so little memory
that it goes from log to log all the time. `commands` runs commands on a store; each is
promised when it returns. REPORT becomes a JSON list: a digest of what can be seen after each step, from 0.

WITHOUT names a sync to leave out, `MODULE.FUNCTION`: to see that the test would notice.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import json
import os
import random
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from support import scenarios
from support.dump import history, tree
from tzfs import tuning
from tzfs.filesystem import Filesystem
from tzfs.fork import fork
from tzfs.kv import MemoryStore, Store
from tzfs.records import AttributeChanges
from tzfs.rocks import RocksStore
from tzfs.session import connect
from tzfs.store import Store as StoreDirectory
from tzfs.store import _sync_directory

STEPS = 60
SWITCHING_STEPS = 250


def mark(disk: Path, text: str) -> None:
    """Leave a mark in the trace."""
    with contextlib.suppress(PermissionError):
        (disk / f"mark.{text}").mkdir()


def digest(fs: Filesystem) -> str:
    """Return a digest of all that can be seen of a filesystem."""
    seen = (sorted(tree(fs).items()), sorted((txn, labels) for txn, (labels, _) in history(fs).items()))
    return hashlib.sha256(repr(seen).encode()).hexdigest()


def step(fs: Filesystem, rng: random.Random, at: int) -> None:
    """Do one random operation, which is one transaction."""
    names = sorted(path.decode() for path, node in tree(fs).items() if path and stat.S_ISREG(node[0]))
    some = rng.choice(names).lstrip("/") if names else "a"
    choice = rng.randrange(9)
    if choice <= 1 or not names:
        fs.mknod(1, b"new%d" % at, stat.S_IFREG | 0o644, 0, scenarios.ALICE)
    elif choice <= 3:
        data = scenarios.pattern(rng.choice((100, 5000, 30_000)), at)
        fs.write(scenarios.find(fs, some), rng.randrange(4000), data, scenarios.ALICE, stamp=True)
    elif choice == 4:
        parent, _, name = some.rpartition("/")
        fs.unlink(scenarios.find(fs, parent), os.fsencode(name), scenarios.ALICE)
    elif choice == 5:
        fs.setattr(scenarios.find(fs, some), AttributeChanges(size=rng.randrange(6000)), scenarios.ALICE)
    elif choice == 6:
        parent, _, name = some.rpartition("/")
        fs.rename(
            old_parent=scenarios.find(fs, parent),
            old_name=os.fsencode(name),
            new_parent=1,
            new_name=b"moved%d" % at,
            caller=scenarios.ALICE,
        )
    elif choice == 7:
        data = scenarios.pattern(30_000, at)
        scenarios.write_in_bulk(fs, scenarios.find(fs, some), rng.randrange(4000), data)
    else:
        fs.snapshot(b"label%d" % at)


def switching(disk: Path, report: Path, seed: int) -> None:
    """Work as `operations` do, longer, with logs of some tens of KiB."""
    tuning.HEAD_MEMTABLE_BYTES = tuning.DATA_MEMTABLE_BYTES = 64 << 10  # type: ignore[misc]
    tuning.WAL_BYTES_MAX = 192 << 10  # type: ignore[misc]
    operations(disk, report, seed, steps=SWITCHING_STEPS)


def operations(disk: Path, report: Path, seed: int, steps: int = STEPS) -> None:
    """Work on one database; its twin in memory tells what ought to be there."""
    engine, twin = RocksStore.open(disk / "db", create=True), MemoryStore()
    filesystems = []
    for store in (engine, twin):
        Filesystem.format(store, chunk_size=scenarios.CHUNK)
        filesystems.append(Filesystem(store))
    _sync_directory(disk)
    digests = [digest(filesystems[1])]
    _sync(engine, disk, 0)
    for at in range(1, steps + 1):
        for fs in filesystems:
            step(fs, random.Random(f"{seed} {at}"), at)
        mark(disk, f"done.{at}")
        digests.append(digest(filesystems[1]))
        if at % 7 == 0:
            _sync(engine, disk, at)
        if at % 17 == 0 and steps == STEPS:
            engine.flush()
        if at % 29 == 0 and steps == STEPS:
            engine.compact()
    report.write_text(json.dumps(digests))
    engine.close()


def _sync(engine: Store, disk: Path, at: int) -> None:
    engine.sync()
    mark(disk, f"synced.{at}")


def _fill(store: StoreDirectory, name: str) -> None:
    with connect(store, store.get(name)) as session:
        fs = session.filesystem  # type: ignore[attr-defined]
        scenarios.new(fs, "file", scenarios.pattern(3000))
        session.call("snapshot", label="one")


def see(store: StoreDirectory) -> dict[str, Any]:
    """Return what can be seen of a store: statuses, and the tree of each filesystem."""
    seen: dict[str, Any] = {}
    for row in store.list():
        seen[f"{row.full_name} {row.status}"] = ""
        if row.status != "deleted":
            with connect(store, row) as session:
                seen[f"{row.full_name} {row.status}"] = digest(session.filesystem)  # type: ignore[attr-defined]
    return seen


def commands(disk: Path, report: Path, seed: int) -> None:
    """Run commands on a store that they make themselves."""
    steps: list[Callable[[StoreDirectory], object]] = [
        lambda store: store.create("lab"),
        lambda store: _fill(store, "lab"),
        lambda store: fork(store, "lab", None, "copy"),
        lambda store: fork(store, "lab", "one", "team/old"),
        lambda store: store.rename("copy", "kept"),
        lambda store: store.archive("kept"),
        lambda store: store.delete("lab"),
    ]
    seen: list[dict[str, Any]] = [{}]
    for at, run in enumerate(steps, start=1):
        store = StoreDirectory.open(disk / "deep" / "store", create=True)
        run(store)
        mark(disk, f"synced.{at}")
        seen.append(see(store))
    report.write_text(json.dumps(seen))


def leave_out(name: str) -> None:
    """Replace a function that syncs by one that does nothing."""
    module, *owner, function = name.split(".")
    place: Any = importlib.import_module(f"tzfs.{module}")
    for part in owner:
        place = getattr(place, part)
    assert hasattr(place, function)
    setattr(place, function, lambda *arguments: None)


def main() -> None:
    """Run what the command line says."""
    kind, disk, report, seed, *without = sys.argv[1:]
    for name in without:
        leave_out(name)
    run = {"operations": operations, "switching": switching, "commands": commands}[kind]
    run(Path(disk), Path(report), int(seed))


if __name__ == "__main__":
    main()
