"""The filesystem against dictionaries: every operation, every snapshot, crashes, full disks, reclaim.

A state machine draws operations and runs each on a `Filesystem` and on `support.model`. After every step
the invariants of docs/format.md hold and the live tree reads as the model says; at the end, and whenever a
rule asks for it, so does every snapshot, down to the times that its inodes had. Chunks are 512 bytes, the
smallest there are, so that a few hundred bytes cross chunks and 32 KiB cross the maps that name them.
"""

from __future__ import annotations

import stat

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule, run_state_machine_as_test

from support.model import ROOT, WHITEOUT, Node, Refusals
from support.model_machine import CHUNK, NAMES, SEGMENT, SIZE_MAX, UNKNOWN, ModelMachine, read_tree
from tzfs import errors, history
from tzfs.records import AttributeChanges, Caller
from tzfs.rocks import RocksStore

BAD_NAMES = [b"n" * 256, b"", b"..", b"x/y"]
LABELS = [b"one", b"two", b"v1.0", b"4a", b"-", b"x" * 255]
XATTRS = [b"user.a", b"user.ab", b"trusted.\xff", b"security.capability"]
BAD_XATTRS = [b"user.", b"nodot", b"system.other", b"user." + b"n" * 251]

picks = st.integers(0, 255)
"""Chooses from a list that only the running test knows: the index, wrapped around."""
names = st.sampled_from(NAMES * 8 + BAD_NAMES)
edges = [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 5 * CHUNK, SEGMENT - 1, SEGMENT, SEGMENT + CHUNK]
offsets = st.sampled_from(edges) | st.integers(0, 3 * CHUNK)
sizes = st.sampled_from([*edges, SIZE_MAX]) | st.integers(0, 3 * CHUNK)
lengths = st.sampled_from([0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK]) | st.integers(1, 2 * CHUNK)
callers = st.sampled_from(
    [Caller(0, 0, 1, b"root"), Caller(1000, 100, 0, b"user"), Caller(1001, 200, 0, b"")]
)
modes = st.sampled_from([0o644, 0o755, 0o600, 0o6755, 0o2770, 0o2760, 0o4711, 0o1777])
kinds = st.sampled_from([stat.S_IFREG] * 4 + [stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFBLK])
values = st.sampled_from([b"", b"v", bytes(300)])


class FilesystemMachine(ModelMachine):
    """The rules, on the engine in memory."""

    # ------------------------------------------------------------------------------------------ names

    @rule(parent=picks, name=names, kind=kinds, mode=modes, caller=callers)
    def mknod(self, parent: int, name: bytes, kind: int, mode: int, caller: Caller) -> None:
        rdev = 0x0102 if kind in {stat.S_IFCHR, stat.S_IFBLK} else 0
        node = Node(kind | mode, caller.uid, caller.gid, rdev=rdev)
        self._make(parent, name, node, lambda *place: self.fs.mknod(*place, kind | mode, rdev, caller))

    @rule(parent=picks, name=names, mode=modes, caller=callers)
    def mkdir(self, parent: int, name: bytes, mode: int, caller: Caller) -> None:
        node = Node(stat.S_IFDIR | mode, caller.uid, caller.gid)
        self._make(parent, name, node, lambda *place: self.fs.mkdir(*place, mode, caller))

    @rule(parent=picks, name=names, to=st.sampled_from([b"a", b"../\xff", b"t" * 4095]), caller=callers)
    def symlink(self, parent: int, name: bytes, to: bytes, caller: Caller) -> None:
        node = Node(stat.S_IFLNK | 0o777, caller.uid, caller.gid, target=to)
        self._make(parent, name, node, lambda *place: self.fs.symlink(*place, to, caller))

    @rule(at=picks, parent=picks, name=names, caller=callers)
    def link(self, at: int, parent: int, name: bytes, caller: Caller) -> None:
        parent = self._pick_parent(parent)
        name = self._pick_free(parent, at, name)
        number = self._pick(at, lambda n: at > 230 or (n.nlink > 0 and not n.is_directory))
        if number is None:
            return
        refusals = self.model.link_refusals(number, parent, name)
        if self._run(refusals, lambda: self.fs.link(number, parent, name, caller)):
            self.model.link(number, parent, name)

    @rule(at=picks, name=names, caller=callers)
    def unlink(self, at: int, name: bytes, caller: Caller) -> None:
        parent, name = self._pick_entry(at, name, lambda n: at > 220 or not n.is_directory)
        refusals = self.model.unlink_refusals(parent, name)
        if self._run(refusals, lambda: self.fs.unlink(parent, name, caller)):
            self.model.remove(parent, name)

    @rule(at=picks, name=names, caller=callers)
    def rmdir(self, at: int, name: bytes, caller: Caller) -> None:
        parent, name = self._pick_entry(at, name, lambda n: n.is_directory and (at > 200 or not n.entries))
        refusals = self.model.rmdir_refusals(parent, name)
        if self._run(refusals, lambda: self.fs.rmdir(parent, name, caller)):
            self.model.remove(parent, name)

    @rule(
        old=picks,
        new=picks,
        name=names,
        flags=st.sampled_from([0, 0, 0, 1, 2, 2, 4, 4, 5, 6, 8]),
        caller=callers,
    )
    def rename(self, old: int, new: int, name: bytes, flags: int, caller: Caller) -> None:
        old_parent, old_name = self._pick_entry(old, name, lambda _: True)
        if new % 2:
            new_parent, new_name = self._pick_entry(new, name, lambda _: True)
        else:
            new_parent = self._pick_parent(new)
            new_name = self._pick_free(new_parent, old, name)
        places = (old_parent, old_name, new_parent, new_name, flags)
        refusals = self.model.rename_refusals(*places)
        clean = self.sealed_clean
        done = self._run(
            refusals,
            lambda: self.fs.rename(
                old_parent=old_parent,
                old_name=old_name,
                new_parent=new_parent,
                new_name=new_name,
                flags=flags,
                caller=caller,
            ),
        )
        if done:
            before = self.model.freeze()
            self.model.rename(*places)
            if self.model.freeze() == before:
                self.sealed_clean = clean
            elif flags & WHITEOUT:
                number = self.fs.lookup(old_parent, old_name).number
                assert number not in self.numbers_seen
                self.numbers_seen.add(number)
                self.model.make(number, old_parent, old_name, Node(stat.S_IFCHR, caller.uid, caller.gid))

    @rule(parent=picks, name=names)
    def lookup(self, parent: int, name: bytes) -> None:
        parent = self._pick_parent(parent)
        refusals = self.model.lookup_refusals(parent, name)
        if name == b"..":
            if self.model.nodes[parent].is_directory and self.model.nodes[parent].nlink:
                assert self.fs.lookup(parent, name).number == self.model.nodes[parent].parent
        elif refusals:
            with pytest.raises(tuple(refusals)):
                self.fs.lookup(parent, name)
        else:
            found = self.fs.lookup(parent, name)
            assert found == self.fs.getattr(self.model.nodes[parent].entries[name])
        assert self.fs.lookup(parent, b".") == self.fs.getattr(parent)

    @rule(parent=picks, limit=st.integers(1, 3))
    def list_in_pages(self, parent: int, limit: int) -> None:
        parent = self._pick_parent(parent)
        whole = self.fs.readdir(parent, 0, 1000)
        paged, after = [], 0
        while page := self.fs.readdir(parent, after, limit):
            assert len(page) <= limit
            paged += page
            after = page[-1].cookie
        assert paged == whole

    # ---------------------------------------------------------------------------- content, attributes

    @rule(at=picks, offset=offsets, length=lengths, fill=picks, caller=callers)
    def write(self, at: int, offset: int, length: int, fill: int, caller: Caller) -> None:
        number = self._pick(at, lambda n: n.is_regular)
        if number is not None:
            self._write(number, offset, bytes((fill + i // 7) % 256 for i in range(length)), caller)

    @rule(at=picks, back=st.sampled_from([0, 1, CHUNK, 700]), length=lengths, fill=picks, caller=callers)
    def write_near_the_end(self, at: int, back: int, length: int, fill: int, caller: Caller) -> None:
        number = self._pick(at, lambda n: n.is_regular)
        if number is not None:
            size = self.model.nodes[number].size
            offset = 0 if size > SIZE_MAX else max(size - back, 0)
            self._write(number, offset, bytes([fill]) * length, caller)

    @rule(at=picks, name=names, length=lengths, fill=picks, caller=callers)
    def put(self, at: int, name: bytes, length: int, fill: int, caller: Caller) -> None:
        """Write a file whole, in one transaction: a new one, or all of one that is there."""
        parent, name = self._pick_entry(at, name, lambda n: at > 200 or n.is_regular)
        data, had_room = bytes([fill]) * length, self._has_room(length, 0)
        number = self.model.nodes[parent].entries.get(name)
        if number is None:
            refusals = self.model.make_refusals(parent, name)
        else:
            refusals = self.model.place_refusals(parent, name) | self.model.resize_refusals(number)
        try:
            inode = self._run(refusals, lambda: self.fs.put(parent, name, data, 0o640, caller))
        except errors.NoSpace:
            assert not had_room
            return
        if inode is None:
            return
        if number is None:
            self.numbers_seen.add(inode.number)
            self.model.make(inode.number, parent, name, Node(stat.S_IFREG | 0o640, caller.uid, caller.gid))
        self.model.resize(inode.number, 0)
        self.model.write(inode.number, 0, data)
        assert inode == self.fs.lookup(parent, name)

    @rule(at=picks, size=sizes, caller=callers)
    def truncate(self, at: int, size: int, caller: Caller) -> None:
        number = self._pick(at, lambda n: at > 240 or n.is_regular)
        if number is None:
            return
        had_room = self._has_room(0, size)
        refusals = self.model.resize_refusals(number)
        try:
            done = self._run(
                refusals, lambda: self.fs.setattr(number, AttributeChanges(size=size), caller), number
            )
        except errors.NoSpace:
            assert not had_room
            return
        if done:
            assert done.size == size
            self.model.resize(number, size)
            self.model.drop_set_id(number, caller)

    @rule(at=picks, caller=callers)
    def truncate_on_open(self, at: int, caller: Caller) -> None:
        number = self._pick(at, lambda n: n.is_regular)
        if number is None:
            return
        if self._run(set(), lambda: self.fs.truncate_on_open(number, caller), number):
            self.model.resize(number, 0)
            self.model.drop_set_id(number, caller)
            if caller.uid != 0:
                self.model.nodes[number].xattrs.pop(b"security.capability", None)

    @rule(at=picks, offset=offsets, size=sizes)
    def read(self, at: int, offset: int, size: int) -> None:
        number = self._pick(at, lambda n: n.is_regular)
        if number is not None:
            expected = bytes(self.model.nodes[number].data[offset : offset + size])
            assert self.fs.read(number, offset, size) == expected

    @rule(at=picks, mode=st.none() | modes, owner=st.none() | st.integers(0, 3), caller=callers)
    def change_mode_and_owner(self, at: int, mode: int | None, owner: int | None, caller: Caller) -> None:
        number = self._pick(at)
        assert number is not None
        changes = AttributeChanges(mode=mode, uid=owner, gid=owner, mtime_ns=-at)
        inode = self._run(set(), lambda: self.fs.setattr(number, changes, caller), number)
        if inode:
            node = self.model.nodes[number]
            node.mode = node.mode if mode is None else stat.S_IFMT(node.mode) | mode
            if owner is not None and not node.is_directory:
                self.model.drop_set_id(number, caller)
            node.uid, node.gid = (node.uid, node.gid) if owner is None else (owner, owner)
            assert inode.mtime_ns == -at
            assert inode == self.fs.getattr(number)

    @rule(at=picks, name=st.sampled_from(XATTRS * 3 + BAD_XATTRS), value=values, caller=callers)
    def setxattr(self, at: int, name: bytes, value: bytes, caller: Caller) -> None:
        number = self._pick(at)
        assert number is not None
        bad: Refusals = {errors.Invalid, errors.NotSupported, errors.AttributeRange}
        refusals = bad if name in BAD_XATTRS else set()
        if self._run(refusals, lambda: self.fs.setxattr(number, name, value, caller), number):
            self.model.nodes[number].xattrs[name] = value

    @rule(at=picks, name=st.sampled_from(XATTRS), caller=callers)
    def removexattr(self, at: int, name: bytes, caller: Caller) -> None:
        number = self._pick(at, lambda n: at > 200 or name in n.xattrs)
        if number is None:
            return
        xattrs = self.model.nodes[number].xattrs
        refusals: Refusals = set() if name in xattrs else {errors.NoAttribute}
        if self._run(refusals, lambda: self.fs.removexattr(number, name, caller), number):
            del xattrs[name]

    # -------------------------------------------------------------------------------------- snapshots

    @rule()
    def snapshot(self) -> None:
        self._snapshot(None)

    @rule(label=st.sampled_from(LABELS))
    def snapshot_with_label(self, label: bytes) -> None:
        self._snapshot(label)

    @precondition(lambda self: len(self.snapshots) > 1)
    @rule(at=picks, by_label=st.booleans())
    def delete_snapshot(self, at: int, by_label: bool) -> None:
        txn = sorted(self.snapshots)[at % len(self.snapshots)] if at % 2 else max(self.snapshots)
        labels = sorted(self.snapshots[txn][0])
        name = labels[0] if by_label and labels else b"%d" % txn
        clean = self.sealed_clean
        if self._run(set(), lambda: self.fs.delete_snapshot(name)) is None:
            self.sealed_clean = clean
            return
        del self.snapshots[txn]
        self.sealed_clean = None if clean == txn else clean
        for gone in (name, b"%d" % txn, *labels):
            with pytest.raises(errors.SnapshotMissing):
                self.fs.find_snapshot(gone)
        with pytest.raises(errors.SnapshotMissing):
            self.fs.getattr(ROOT, txn)

    @precondition(lambda self: self.snapshots)
    @rule()
    def every_snapshot_reads_as_recorded(self) -> None:
        self._compare_snapshots()

    @precondition(lambda self: self.snapshots)
    @rule(at=picks)
    def rollback(self, at: int) -> None:
        goal = sorted(self.snapshots)[at % len(self.snapshots)]
        open_txn, clean, before = self.fs.txn, self.sealed_clean, read_tree(self.fs)
        try:
            present, _ = self.fs.rollback(b"%d" % goal)
        except errors.StoreFull:
            # It is undone or it will be done, with the present sealed; whatever was open is lost.
            self._reopen()
            rows = {row.txn: row for row in self.fs.snapshots()}
            if open_txn in rows:
                self._record(rows[open_txn], open_txn, UNKNOWN, before)
            done, is_held = read_tree(self.fs) != before, False
        else:
            self._record(present, open_txn, clean, before)
            done = is_held = True
        if done:
            _, tree, inodes = self.snapshots[goal]
            assert read_tree(self.fs) == (tree, inodes)
            for number in self.model.restore(tree):
                if not is_held:
                    self._forget(number)
            self.released -= set(tree)
        self.sealed_clean = UNKNOWN

    # ------------------------------------------------------------------- orphans, reclaim, restarts

    @precondition(lambda self: self.model.orphans())
    @rule(at=picks)
    def release(self, at: int) -> None:
        number = self._pick(at, lambda n: not n.nlink)
        assert number is not None
        self.fs.release([number, ROOT])
        self._forget(number)

    @rule(budget=st.sampled_from([1, 3, 10, 100]))
    def reclaim(self, budget: int) -> None:
        try:
            self.fs.reclaim(budget)
        except errors.StoreFull:
            assert self.store.failed
            self.store.failed = False

    @rule()
    def reclaim_all(self) -> None:
        try:
            while self.fs.reclaim(1000):
                pass
        except errors.StoreFull:
            assert self.store.failed
            self.store.failed = False
            return
        for number in self.released:
            with pytest.raises(errors.NoEntry):
                self.fs.getattr(number)

    @rule(writes=st.sampled_from([0, 0, 0, 1, 2]))
    def the_disk_fills_up(self, writes: int) -> None:
        """Let a write to the store fail: what takes one write then changes nothing, in memory neither."""
        self.store.fail_in = writes

    @rule()
    def open_again(self) -> None:
        """Lose all that is in memory, as a crash between two operations does; nobody holds an orphan then."""
        self._reopen()

    @precondition(lambda self: self.engine == "rocks")
    @rule(compact=st.booleans())
    def flush(self, compact: bool) -> None:
        assert isinstance(self.store.inner, RocksStore)
        if compact:
            self.store.inner.compact()
        else:
            self.store.inner.flush()


class RocksMachine(FilesystemMachine):
    """The same on RocksDB."""

    engine = "rocks"


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("machine", "examples", "steps"),
    [(FilesystemMachine, 300, 80), (RocksMachine, 30, 60)],
    ids=["memory", "rocks"],
)
def test_the_filesystem_does_what_the_model_does(
    machine: type[FilesystemMachine], examples: int, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "KEYS_A_STEP", 3)  # so that a crash finds a rollback half done
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            report_multiple_bugs=False,
            phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
            suppress_health_check=list(HealthCheck),
        ),
    )
