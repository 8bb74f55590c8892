"""Snapshots, pruning and rollback: histories that the model found once, each as short as it can be told."""

from __future__ import annotations

import random
import stat
from collections.abc import Callable, Iterator, Mapping

import pytest

from support.faults import FaultyStore, Instead
from tzfs import history, keys
from tzfs.check import check
from tzfs.errors import InputOutput, NoEntry, NoSpace, StoreFull
from tzfs.filesystem import Filesystem
from tzfs.kv import Store
from tzfs.records import NOBODY, AttributeChanges

ROOT = 1
CHUNK = 512
CONTENT = bytes(range(250)) * 5
"""Three chunks: the first is named by the inode, the others by a map."""


@pytest.fixture
def fs(store: Store, monkeypatch: pytest.MonkeyPatch) -> Iterator[Filesystem]:
    """Return a filesystem of small chunks, which is checked at the end and after all is reclaimed."""
    monkeypatch.setattr(history, "KEYS_A_STEP", 3)
    Filesystem.format(store, chunk_size=CHUNK)
    fs = Filesystem(store)
    yield fs
    assert check(fs) == []
    reclaim(fs)
    assert check(fs) == []


def reclaim(fs: Filesystem) -> None:
    """Run reclaim to its end."""
    while fs.reclaim():
        pass


def make_file(fs: Filesystem, name: bytes = b"f") -> int:
    """Make a file of three chunks in the root directory."""
    number = fs.mknod(ROOT, name, stat.S_IFREG | 0o644, 0, NOBODY).number
    fs.write(number, 0, CONTENT, NOBODY, stamp=True)
    return number


def test_a_snapshot_of_an_unchanged_tree_is_a_new_one_when_the_last_one_was_deleted(fs: Filesystem) -> None:
    fs.snapshot(b"empty")
    make_file(fs)
    fs.delete_snapshot(b"%d" % fs.snapshot().txn)
    now = fs.snapshot()
    assert now.labels == ()
    assert fs.lookup(ROOT, b"f", now.txn).size == len(CONTENT)


def test_a_change_of_a_file_that_lost_the_first_of_its_names_is_told(fs: Filesystem) -> None:
    number = make_file(fs)
    directory = fs.mkdir(ROOT, b"d", 0o755, NOBODY).number
    fs.link(number, directory, b"other", NOBODY)
    fs.unlink(ROOT, b"f", NOBODY)
    fs.snapshot(b"before")
    fs.write(number, 0, b"new", NOBODY, stamp=True)
    assert [(change.kind, change.path) for change in fs.diff(b"before")] == [("changed", b"d/other")]


def test_what_changes_nothing_is_no_change_to_a_snapshot(fs: Filesystem) -> None:
    number = make_file(fs)
    taken = fs.snapshot().txn
    fs.rename(old_parent=ROOT, old_name=b"f", new_parent=ROOT, new_name=b"f", caller=NOBODY)
    assert fs.write(number, 10_000, b"", NOBODY, stamp=True) == 0
    assert fs.getattr(number).size == len(CONTENT)
    assert fs.snapshot().txn == taken


@pytest.mark.parametrize("order", [[1, 2], [2, 1]], ids=["older first", "newer first"])
def test_chunks_are_counted_off_once_while_deleted_snapshots_wait_for_pruning(
    fs: Filesystem, order: list[int]
) -> None:
    number = make_file(fs)
    fs.snapshot()
    fs.setattr(number, AttributeChanges(mode=0o600), NOBODY)
    fs.snapshot()
    for txn in order:
        fs.delete_snapshot(b"%d" % txn)
    fs.write(number, 0, b"new", NOBODY, stamp=True)
    fs.unlink(ROOT, b"f", NOBODY)
    fs.release([number])
    reclaim(fs)
    assert fs.usage().stored_bytes == 0


def test_an_orphan_is_removed_in_the_end_although_the_disk_was_full(store: Store) -> None:
    faulty = FaultyStore(store)
    Filesystem.format(faulty, chunk_size=CHUNK)
    fs = Filesystem(faulty)
    number = make_file(fs)
    fs.unlink(ROOT, b"f", NOBODY)
    fs.release([number])
    faulty.fail_in = 0
    with pytest.raises(StoreFull):
        fs.reclaim()
    reclaim(fs)
    with pytest.raises(NoEntry):
        fs.getattr(number)
    assert fs.usage().stored_bytes == 0
    assert check(fs) == []


def test_snapshots_that_go_together_are_pruned_in_one_pass(store: Store) -> None:
    """Each by itself would read all of the change log behind it."""
    Filesystem.format(store, chunk_size=CHUNK)
    fs = Filesystem(store)
    number = make_file(fs)
    count = 40
    for _ in range(count):
        fs.write(number, 0, CONTENT, NOBODY, stamp=True)
        fs.snapshot()
    for snapshot in fs.snapshots():
        fs.delete_snapshot(b"%d" % snapshot.txn)
    read = []

    def scan(lower: bytes, upper: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        pairs = store.scan(lower, upper, limit)
        if lower[:1] == keys.LOG:
            read.extend(pairs)
        return pairs

    fs.volume.store = Instead(store, scan=scan)  # type: ignore[assignment]
    reclaim(fs)
    fs.volume.store = store
    assert check(fs) == []
    assert fs.usage().stored_bytes == len(CONTENT)
    assert len(read) <= 4 * 3 * count


@pytest.mark.parametrize("seed", range(12))
def test_what_is_deleted_while_a_pass_is_under_way_is_pruned_too(fs: Filesystem, seed: int) -> None:
    rng = random.Random(seed)
    numbers = [make_file(fs, b"f%d" % at) for at in range(4)]
    seen: dict[int, list[bytes]] = {}
    for step in range(60):
        number = rng.choice(numbers)
        fs.write(number, rng.randrange(len(CONTENT)), b"%d" % step * 99, NOBODY, stamp=True)
        if rng.random() < 0.5:
            txn = fs.snapshot().txn
            seen[txn] = [fs.read(number, 0, 1 << 20) for number in numbers]
        if seen and rng.random() < 0.4:
            txn = rng.choice(list(seen))
            del seen[txn]
            fs.delete_snapshot(b"%d" % txn)
        for _ in range(rng.randrange(3)):
            fs.reclaim(1)
    reclaim(fs)
    assert check(fs) == []
    assert {txn: [fs.read(number, 0, 1 << 20, at=txn) for number in numbers] for txn in seen} == seen
    for txn in seen:
        fs.delete_snapshot(b"%d" % txn)
    reclaim(fs)
    assert fs.usage().stored_bytes == fs.usage().live_bytes


def test_a_slice_of_pruning_ends_when_its_budget_is_spent(
    fs: Filesystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However much hangs on each K: here a map with 64 chunks, next to keys with nothing."""
    numbers = [make_file(fs, b"f%d" % at) for at in range(20)]
    for number in numbers:
        fs.write(number, 0, b"x" * (64 * CHUNK), NOBODY, stamp=True)
    taken = fs.snapshot().txn
    for number in numbers:
        fs.write(number, 0, b"y" * (64 * CHUNK), NOBODY, stamp=True)
    fs.snapshot()
    fs.delete_snapshot(b"%d" % taken)
    store = fs.volume.store
    reads: list[bytes] = []
    writes: list[int] = []
    scan, write = store.scan, store.write

    def counting_scan(lower: bytes, upper: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        reads.append(lower)
        return scan(lower, upper, limit)

    def counting_write(batch: Mapping[bytes, bytes | None]) -> None:
        writes.append(len(batch))
        write(batch)

    monkeypatch.setattr(store, "scan", counting_scan)
    monkeypatch.setattr(store, "write", counting_write)
    budget, one_k = 100, 64 + 8
    removed = 0
    while fs.reclaim(budget):
        assert sum(writes) <= budget + one_k
        assert len(reads) <= 2 * budget
        removed += sum(writes)
        reads.clear()
        writes.clear()
    assert removed > 20 * 64


@pytest.mark.parametrize("change", ["truncate", "overwrite", "unlink"])
def test_a_change_after_a_rollback_leaves_the_snapshots_their_chunks(fs: Filesystem, change: str) -> None:
    number = make_file(fs)
    fs.mkdir(ROOT, b"d", 0o755, NOBODY)
    goal = fs.snapshot().txn
    fs.rmdir(ROOT, b"d", NOBODY)
    present, _ = fs.rollback(b"%d" % goal)
    if change == "truncate":
        fs.setattr(number, AttributeChanges(size=0), NOBODY)
    elif change == "overwrite":
        fs.write(number, 0, bytes(len(CONTENT)), NOBODY, stamp=True)
    else:
        fs.unlink(ROOT, b"f", NOBODY)
        fs.release([number])
    reclaim(fs)
    for txn in (goal, present.txn):
        assert fs.read(number, 0, 10_000, txn) == CONTENT


def test_a_rollback_empties_the_directory_that_it_removes(fs: Filesystem) -> None:
    number = make_file(fs)
    fs.snapshot(b"goal")
    directory = fs.mkdir(ROOT, b"d", 0o755, NOBODY).number
    fs.link(number, directory, b"g", NOBODY)
    fs.rollback(b"goal")
    assert (fs.getattr(directory).nlink, fs.getattr(directory).size) == (0, 0)
    assert fs.getattr(number).nlink == 1


def test_a_file_without_a_name_at_the_goal_keeps_the_content_it_had_there(fs: Filesystem) -> None:
    number = make_file(fs)
    fs.snapshot(b"named")
    fs.unlink(ROOT, b"f", NOBODY)
    nameless, _ = fs.rollback(b"named")
    assert fs.lookup(ROOT, b"f").number == number
    fs.rollback(b"%d" % nameless.txn)
    assert fs.getattr(number).nlink == 0
    assert fs.read(number, 0, 10_000) == CONTENT


@pytest.mark.parametrize("keys_a_step", [1, 1000])
def test_a_file_that_a_rollback_takes_away_keeps_all_until_it_is_released(
    fs: Filesystem, monkeypatch: pytest.MonkeyPatch, keys_a_step: int
) -> None:
    monkeypatch.setattr(history, "KEYS_A_STEP", keys_a_step)
    fs.snapshot(b"goal")
    number = make_file(fs)
    fs.setxattr(number, b"user.note", b"late", NOBODY)
    present, _ = fs.rollback(b"goal")
    assert fs.read(number, 0, 10_000) == CONTENT
    assert fs.getxattr(number, b"user.note") == b"late"
    fs.write(number, 0, b"more", NOBODY, stamp=True)
    assert fs.read(number, 0, 10_000) == b"more" + CONTENT[4:]
    assert check(fs) == []
    fs.release([number])
    reclaim(fs)
    with pytest.raises(NoEntry):
        fs.getattr(number)
    assert fs.read(number, 0, 10_000, present.txn) == CONTENT
    fs.delete_snapshot(b"%d" % present.txn)
    reclaim(fs)
    assert fs.usage().stored_bytes == 0
    assert check(fs) == []


def test_a_rollback_of_many_steps_may_pass_the_limit_of_inodes_in_between(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "KEYS_A_STEP", 1)
    Filesystem.format(store, chunk_size=CHUNK, inodes_max=5)
    fs = Filesystem(store)
    for generation in (b"a", b"b"):
        for number in range(4):
            fs.mknod(ROOT, generation + b"%d" % number, stat.S_IFREG | 0o644, 0, NOBODY)
        if generation == b"a":
            fs.snapshot(b"goal")
            for number in range(4):
                fs.unlink(ROOT, b"a%d" % number, NOBODY)
    fs.rollback(b"goal")
    assert sorted(entry.name for entry in fs.readdir(ROOT, 0, 9)) == [b"a0", b"a1", b"a2", b"a3"]
    assert check(fs) == []


def test_a_rollback_that_the_disk_stops_half_way_shuts_the_tree_until_it_is_finished(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "KEYS_A_STEP", 3)
    faulty = FaultyStore(store)
    Filesystem.format(faulty, chunk_size=CHUNK)
    fs = Filesystem(faulty)
    for number in range(4):
        make_file(fs, b"kept%d" % number)
    goal = fs.snapshot(b"goal").txn
    for number in range(4):
        fs.unlink(ROOT, b"kept%d" % number, NOBODY)
        make_file(fs, b"new%d" % number)
    faulty.fail_in = 3
    with pytest.raises(StoreFull):
        fs.rollback(b"goal")
    assert fs.returning_to == goal
    refused: list[Callable[[], object]] = [
        lambda: fs.readdir(ROOT, 0, 10),
        lambda: fs.lookup(ROOT, b"kept1"),
        lambda: fs.getattr(ROOT),
        lambda: make_file(fs, b"more"),
        lambda: fs.write(2, 0, b"x", NOBODY, stamp=True),
        lambda: fs.snapshot(b"of a mixture"),
        lambda: fs.delete_snapshot(b"goal"),
        lambda: fs.rollback(b"goal"),
        lambda: fs.diff(b"goal"),
    ]
    for ask in refused:
        with pytest.raises(InputOutput, match="half done"):
            ask()
    assert not fs.reclaim()
    assert {entry.name for entry in fs.readdir(ROOT, 0, 10, at=goal)} == {b"kept%d" % at for at in range(4)}
    with pytest.raises(InputOutput):
        Filesystem(faulty, read_only=True).getattr(ROOT)
    faulty.fail_in = 0
    with pytest.raises(StoreFull):
        fs.finish_rollback()
    faulty.heal()
    restored = fs.finish_rollback()
    fs.release(restored.inodes)
    assert fs.returning_to is None
    assert {entry.name for entry in fs.readdir(ROOT, 0, 10)} == {b"kept%d" % at for at in range(4)}
    assert {name for _, name in restored.entries} >= {b"kept0", b"new0", b"kept3", b"new3"}
    make_file(fs, b"more")
    reclaim(fs)
    assert check(fs) == []


def test_a_rollback_whose_first_step_the_disk_refuses_has_changed_nothing(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "KEYS_A_STEP", 3)
    faulty = FaultyStore(store)
    Filesystem.format(faulty, chunk_size=CHUNK)
    fs = Filesystem(faulty)
    fs.snapshot(b"goal")
    for number in range(4):
        make_file(fs, b"new%d" % number)
    fs.snapshot(b"present")
    faulty.fail_in = 0
    with pytest.raises(StoreFull):
        fs.rollback(b"goal")
    faulty.heal()
    assert fs.returning_to is None
    assert len(fs.readdir(ROOT, 0, 10)) == 4
    fs.volume.require_room = refuse
    with pytest.raises(NoSpace):
        fs.rollback(b"goal")
    assert fs.returning_to is None
    assert len(fs.readdir(ROOT, 0, 10)) == 4


def refuse(size: int) -> None:
    """Have no room."""
    raise NoSpace(f"{size} bytes")
