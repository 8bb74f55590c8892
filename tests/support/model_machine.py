"""A filesystem and its model side by side: what tests/test_filesystem_model.py stands on."""

from __future__ import annotations

import shutil
import stat
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant

from support.faults import FaultyStore
from support.model import ROOT, Frozen, Model, Node, Refusals, Tree
from tzfs import errors, keys
from tzfs.check import check
from tzfs.filesystem import Filesystem
from tzfs.kv import MemoryStore, Store
from tzfs.records import Caller, Inode, Snapshot
from tzfs.rocks import RocksStore

CHUNK = 512
SEGMENT = CHUNK * keys.SEGMENT_CHUNKS
SIZE_MAX = SEGMENT + 3 * CHUNK
QUOTA = 24 * CHUNK
INODES_MAX = 8
UNKNOWN = -1


# Few names, so that operations meet; one is a prefix of another, one as long as allowed.
NAMES = [b"a", b"ab", b"\xff\x01", b"n" * 255]


def read_node(fs: Filesystem, inode: Inode, at: int | None) -> Frozen:
    """Return all that can be read of an inode, at a moment."""
    number = inode.number
    listing = fs.readdir(number, 0, 1000, at) if inode.is_directory else []
    cookies = [entry.cookie for entry in listing]
    assert cookies == sorted(set(cookies))
    assert all(entry.inode == fs.getattr(entry.inode.number, at) for entry in listing)
    return Frozen(
        inode.mode,
        inode.uid,
        inode.gid,
        inode.nlink,
        inode.rdev,
        inode.size,
        fs.readlink(number, at) if stat.S_ISLNK(inode.mode) else b"",
        fs.read(number, 0, inode.size + 1, at) if inode.is_regular else b"",
        {entry.name: entry.inode.number for entry in listing},
        {name: fs.getxattr(number, name, at) for name in fs.listxattr(number, at)},
    )


def read_tree(fs: Filesystem, at: int | None = None) -> tuple[Tree, dict[int, Inode]]:
    """Return what a walk from the root finds at a moment: how everything reads, and its inodes."""
    tree: Tree = {}
    inodes: dict[int, Inode] = {}
    waiting = [ROOT]
    while waiting:
        number = waiting.pop()
        if number not in tree:
            inodes[number] = fs.getattr(number, at)
            tree[number] = read_node(fs, inodes[number], at)
            waiting.extend(tree[number].entries.values())
    return tree, inodes


class ModelMachine(RuleBasedStateMachine):
    """One filesystem and its model; the rules that move them are the subclass's."""

    engine: ClassVar[str] = "memory"

    def __init__(self) -> None:
        super().__init__()
        self.error_outside = sys.exception()
        self.directory = Path(tempfile.mkdtemp(prefix="tzfs-model-"))
        self.store = FaultyStore(self._open_store())
        self.snapshots: dict[int, tuple[set[bytes], Tree, dict[int, Inode]]] = {}
        self.released: set[int] = set()
        self.numbers_seen = {ROOT}
        self.sealed_clean: int | None = None
        """The last snapshot, when nothing has changed since it was taken; or `UNKNOWN`."""

    def _open_store(self) -> Store:
        if self.engine == "memory":
            return MemoryStore()
        return RocksStore.open(self.directory / "db", create=True)

    @initialize(limited=st.booleans())
    def format(self, limited: bool) -> None:
        self.quota = QUOTA if limited else 0
        self.model = Model(INODES_MAX if limited else 0)
        limits = {"quota_bytes": self.quota, "inodes_max": self.model.inodes_max}
        Filesystem.format(self.store, chunk_size=CHUNK, **limits)
        self.fs = Filesystem(self.store)
        # Something to work on, since a run often goes without some of the rules.
        root = Caller(0, 0, 1, b"root")
        self._make(0, b"a", Node(stat.S_IFDIR | 0o755, 0, 0), lambda *at: self.fs.mkdir(*at, 0o755, root))
        for name in (b"ab", NAMES[-1]):
            node = Node(stat.S_IFREG | 0o644, 0, 0)
            self._make(0, name, node, lambda *at: self.fs.mknod(*at, stat.S_IFREG | 0o644, 0, root))
        self._write(max(self.numbers_seen), 0, bytes(range(250)) * 5, root)

    def teardown(self) -> None:
        try:
            self.store.heal()
            # A step that failed says more than what follows from it.
            if sys.exception() is self.error_outside and hasattr(self, "fs"):
                self._compare_snapshots()
                self._everything_is_given_back()
        finally:
            self.store.close()
            shutil.rmtree(self.directory)

    def _everything_is_given_back(self) -> None:
        """Without snapshots and orphans, what is stored is what the live tree holds: nothing leaks."""
        self.fs.release(self.model.orphans())
        for txn in list(self.snapshots):
            self.fs.delete_snapshot(b"%d" % txn)
        while self.fs.reclaim(1000):
            pass
        assert check(self.fs) == []
        assert read_tree(self.fs)[0] == self.model.freeze()
        usage = self.fs.usage()
        assert usage.stored_bytes == usage.live_bytes
        assert self.fs.reclaim_backlog() == 0
        for space in (keys.PAST, keys.LOG):
            assert self.store.scan(space, bytes((space[0] + 1,)), 1) == [] or space == keys.LOG
        assert {key[:2] for key, _ in self.store.scan(b"m", b"n", 1000)} == {b"mB", b"mC"}

    # ------------------------------------------------------------------------ choosing and expecting

    def _pick(self, at: int, wanted: Callable[[Node], bool] = lambda _: True) -> int | None:
        """Return the inode that `at` chooses among those wanted, orphans that are held included."""
        found = [number for number, node in self.model.nodes.items() if wanted(node)]
        return found[at % len(found)] if found else None

    def _pick_parent(self, at: int) -> int:
        """Return a directory; once in a while something else, or one that was removed."""
        parent = self._pick(at) if at > 230 else self._pick(at, lambda n: n.is_directory and n.nlink > 0)
        assert parent is not None
        return parent

    def _pick_entry(self, at: int, name: bytes, wanted: Callable[[Node], bool]) -> tuple[int, bytes]:
        """Return a directory and a name in it of a wanted node; once in a while, or for want of one, any."""
        nodes = self.model.nodes
        found = [
            (parent, entry)
            for parent, node in nodes.items()
            for entry, number in node.entries.items()
            if wanted(nodes[number])
        ]
        return found[at % len(found)] if found and at < 230 else (self._pick_parent(at), name)

    def _pick_free(self, parent: int, at: int, name: bytes) -> bytes:
        """Return a name that is not in the directory; once in a while, or for want of one, the given one."""
        free = [free for free in NAMES if free not in self.model.nodes[parent].entries]
        return free[at % len(free)] if free and at < 230 else name

    def _run(self, refusals: Refusals, change: Callable[[], Any], number: int = ROOT) -> Any:  # noqa: ANN401
        """Run a change that has to be refused for one of `refusals`, or to succeed when there are none.

        What changes in an orphan, `number`, no later snapshot sees: to them the tree is unchanged.

        Return None when it changed nothing, be it refused or met by a full disk; the caller then leaves the
        model alone, and the invariants show whether the filesystem did the same.
        """
        if refusals:
            with pytest.raises(tuple(refusals)) as refused:
                change()
            assert type(refused.value) in refusals
            return None
        try:
            result = change()
        except errors.StoreFull:
            assert self.store.failed
            self.store.failed = False
            return None
        if self.model.nodes[number].nlink:
            self.sealed_clean = None
        return True if result is None else result

    # --------------------------------------------------------------- changes of several rules

    def _make(self, at: int, name: bytes, node: Node, change: Callable[[int, bytes], Inode]) -> None:
        parent = self._pick_parent(at)
        name = self._pick_free(parent, at, name)
        inode = self._run(self.model.make_refusals(parent, name), lambda: change(parent, name))
        if inode is not None:
            assert inode.number not in self.numbers_seen
            self.numbers_seen.add(inode.number)
            self.model.make(inode.number, parent, name, node)
            assert inode == self.fs.lookup(parent, name)

    def _has_room(self, length: int, offset: int) -> bool:
        """Tell whether the quota cannot refuse that write, whatever a chunk's old rest adds to it."""
        touched = (offset + length) // CHUNK - offset // CHUNK + 1
        return not self.quota or self.fs.usage().stored_bytes + touched * CHUNK <= self.quota

    def _write(self, number: int, offset: int, data: bytes, caller: Caller) -> None:
        had_room, clean = self._has_room(len(data), offset), self.sealed_clean
        try:
            done = self._run(set(), lambda: self.fs.write(number, offset, data, caller, stamp=True), number)
        except errors.NoSpace:
            assert not had_room
            return
        if done is not None:
            assert done == len(data)
            self.model.write(number, offset, data)
            self.sealed_clean = self.sealed_clean if data else clean

    def _snapshot(self, label: bytes | None) -> None:
        taken = label is not None and any(label in labels for labels, _, _ in self.snapshots.values())
        clean, open_txn = self.sealed_clean, self.fs.txn
        row = self._run({errors.Exists} if taken else set(), lambda: self.fs.snapshot(label))
        self.sealed_clean = clean
        if row is None:
            return
        self._record(row, open_txn, clean, read_tree(self.fs))
        if label is not None:
            self.snapshots[row.txn][0].add(label)
        assert set(row.labels) == self.snapshots[row.txn][0]
        self.sealed_clean = row.txn

    def _record(
        self, row: Snapshot, open_txn: int, clean: int | None, present: tuple[Tree, dict[int, Inode]]
    ) -> None:
        """Remember a snapshot of the present, and check that it is a new one unless nothing has changed."""
        assert clean == UNKNOWN or row.txn == (open_txn if clean is None else clean)
        if row.txn == open_txn:
            self.snapshots[row.txn] = (set(), *present)
        assert self.snapshots[row.txn][1] == present[0]

    def _compare_snapshots(self) -> None:
        """Read every snapshot whole, down to the times of its inodes."""
        rows = {row.txn: set(row.labels) for row in self.fs.snapshots()}
        assert rows == {txn: labels for txn, (labels, _, _) in self.snapshots.items()}
        for txn, (labels, tree, inodes) in self.snapshots.items():
            assert read_tree(self.fs, txn) == (tree, inodes)
            assert {self.fs.find_snapshot(name).txn for name in [*labels, b"%d" % txn]} == {txn}
        if self.snapshots:
            assert self.fs.find_snapshot(b"latest").txn == max(self.snapshots)

    def _reopen(self) -> None:
        """Lose all that is in memory, as a crash does; nobody holds an orphan then."""
        self.store.heal()
        if self.engine == "rocks":
            self.store.close()
            self.store.inner = self._open_store()
        self.fs = Filesystem(self.store)
        for number in self.model.orphans():
            self._forget(number)

    def _forget(self, number: int) -> None:
        del self.model.nodes[number]
        self.released.add(number)

    # ------------------------------------------------------------------------------------- invariants

    @invariant()
    def the_live_tree_reads_as_the_model(self) -> None:
        if hasattr(self, "fs"):
            assert read_tree(self.fs)[0] == self.model.freeze()

    @invariant()
    def orphans_that_are_held_read_as_the_model(self) -> None:
        for number in self.model.orphans() if hasattr(self, "fs") else ():
            node = self.model.nodes[number]
            inode = self.fs.getattr(number)
            assert (inode.nlink, inode.mode, inode.size) == (0, node.mode, node.size)
            assert not node.is_regular or self.fs.read(number, 0, inode.size) == node.data

    @invariant()
    def nothing_is_found_amiss(self) -> None:
        if hasattr(self, "fs"):
            assert check(self.fs) == []
            usage = self.fs.usage()
            assert usage.inodes == len(self.model.nodes) - len(self.model.orphans())
