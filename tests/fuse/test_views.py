"""The `.snapshots` tree: numbers, names and lifetimes of views, over a filesystem in memory."""

from __future__ import annotations

import stat

import pytest

from tzfs.errors import Exists, NoAttribute, NoEntry, NotDirectory, NotPermitted, ReadOnly, Stale
from tzfs.filesystem import Filesystem
from tzfs.fuse import views
from tzfs.fuse.views import LIVE, SNAPSHOTS_NAME, SNAPSHOTS_VIEW, VIEW_SHIFT, Views
from tzfs.kv import MemoryStore
from tzfs.records import AttributeChanges, Caller

ROOT = Filesystem.ROOT
ME = Caller(1000, 1000, 1, b"test")
SNAPSHOTS = SNAPSHOTS_VIEW << VIEW_SHIFT | ROOT


@pytest.fixture
def fs() -> Filesystem:
    store = MemoryStore()
    Filesystem.format(store, uid=1000, gid=1000, mode=0o770)
    return Filesystem(store)


@pytest.fixture
def tree(fs: Filesystem) -> Views:
    return Views(fs)


def _st_ino(seen: views.Seen) -> int:
    return seen.view << VIEW_SHIFT | seen.inode.number


def _snapshot(fs: Filesystem, label: bytes | None = None) -> int:
    """Change something, so that the snapshot is a new one."""
    fs.setattr(ROOT, AttributeChanges(atime_ns=fs.txn), ME)
    return fs.snapshot(label).txn


def _names(tree: Views, directory: int = ROOT, after: int = 2) -> list[bytes]:
    return [line.name for line in tree.snapshots(directory, after)]


def test_dot_snapshots_is_found_in_a_live_directory_with_a_number_of_its_own(tree: Views) -> None:
    seen = tree.lookup(ROOT, SNAPSHOTS_NAME)
    assert _st_ino(seen) == SNAPSHOTS
    assert stat.S_ISDIR(seen.inode.mode)


def test_dot_snapshots_is_not_found_in_a_file(fs: Filesystem, tree: Views) -> None:
    number = fs.mknod(ROOT, b"f", stat.S_IFREG | 0o644, 0, ME).number
    with pytest.raises(NotDirectory):
        tree.lookup(number, SNAPSHOTS_NAME)


def test_dot_snapshots_is_for_its_owner_to_write_and_for_readers_of_the_directory_to_read(
    tree: Views,
) -> None:
    inode = tree.getattr(SNAPSHOTS)
    assert (stat.S_IMODE(inode.mode), inode.uid, inode.gid) == (0o750, 1000, 1000)


def test_dot_snapshots_shows_the_time_of_the_newest_snapshot(fs: Filesystem, tree: Views) -> None:
    _snapshot(fs)
    _snapshot(fs)
    assert tree.getattr(SNAPSHOTS).mtime_ns == fs.snapshots()[-1].created_ns


def test_a_number_at_the_root_is_its_own_view(fs: Filesystem, tree: Views) -> None:
    txn = _snapshot(fs)
    assert tree.lookup(SNAPSHOTS, b"%d" % txn).view == txn
    assert len(tree) == 0


def test_every_entrance_has_another_number(fs: Filesystem, tree: Views) -> None:
    directory = fs.mkdir(ROOT, b"d", 0o755, ME).number
    _snapshot(fs, b"label")
    below = SNAPSHOTS_VIEW << VIEW_SHIFT | directory
    entrances = [(parent, name) for parent in (SNAPSHOTS, below) for name in (b"1", b"label", b"latest")]
    numbers = {_st_ino(tree.lookup(parent, name)) for parent, name in entrances}
    assert len(numbers) == len(entrances)
    assert numbers == {_st_ino(tree.lookup(parent, name)) for parent, name in entrances}


def test_a_snapshot_shows_what_was_there_and_not_what_came_later(fs: Filesystem, tree: Views) -> None:
    number = fs.mknod(ROOT, b"f", stat.S_IFREG | 0o644, 0, ME).number
    txn = _snapshot(fs)
    fs.unlink(ROOT, b"f", ME)
    fs.mknod(ROOT, b"later", stat.S_IFREG | 0o644, 0, ME)
    entrance = _st_ino(tree.lookup(SNAPSHOTS, b"%d" % txn))
    assert _st_ino(tree.lookup(entrance, b"f")) == txn << VIEW_SHIFT | number
    with pytest.raises(NoEntry):
        tree.lookup(entrance, b"later")


def test_there_are_no_snapshots_inside_a_snapshot(fs: Filesystem, tree: Views) -> None:
    entrance = _st_ino(tree.lookup(SNAPSHOTS, b"%d" % _snapshot(fs)))
    with pytest.raises(NoEntry):
        tree.lookup(entrance, SNAPSHOTS_NAME)


def test_a_directory_has_only_the_snapshots_in_which_it_existed(fs: Filesystem, tree: Views) -> None:
    _snapshot(fs, b"before")
    directory = fs.mkdir(ROOT, b"d", 0o755, ME).number
    fs.snapshot(b"with")
    assert _names(tree, directory) == [b"2", b"with", b"latest"]
    with pytest.raises(NoEntry):
        tree.lookup(SNAPSHOTS_VIEW << VIEW_SHIFT | directory, b"before")


def test_a_removed_directory_that_is_held_does_not_count_as_existing(fs: Filesystem, tree: Views) -> None:
    directory = fs.mkdir(ROOT, b"d", 0o755, ME).number
    fs.rmdir(ROOT, b"d", ME)
    _snapshot(fs)
    assert _names(tree, directory) == []


def test_a_listing_goes_on_after_any_of_its_cookies(fs: Filesystem, tree: Views) -> None:
    for label in (b"a", b"b", None, b"c"):
        _snapshot(fs, label)
    fs.snapshot(b"z")
    lines = list(tree.snapshots(ROOT, 2))
    names = [line.name for line in lines]
    assert names == [b"1", b"a", b"2", b"b", b"3", b"4", b"c", b"z", b"latest"]
    for place, line in enumerate(lines):
        assert _names(tree, after=line.cookie) == names[place + 1 :]


def test_dot_and_dotdot_lead_back_the_way_that_led_in(fs: Filesystem, tree: Views) -> None:
    directory = fs.mkdir(ROOT, b"d", 0o755, ME).number
    fs.mkdir(directory, b"e", 0o755, ME)
    _snapshot(fs)
    below = _st_ino(tree.lookup(directory, SNAPSHOTS_NAME))
    entrance = _st_ino(tree.lookup(below, b"1"))
    inner = _st_ino(tree.lookup(entrance, b"e"))
    assert _st_ino(tree.lookup(inner, b"..")) == entrance
    assert _st_ino(tree.lookup(entrance, b"..")) == below
    assert _st_ino(tree.lookup(below, b"..")) == directory
    for st_ino in (below, entrance, inner):
        assert _st_ino(tree.lookup(st_ino, b".")) == st_ino


def test_dotdot_at_the_root_entrance_is_its_dot_snapshots(fs: Filesystem, tree: Views) -> None:
    entrance = _st_ino(tree.lookup(SNAPSHOTS, b"%d" % _snapshot(fs)))
    assert _st_ino(tree.lookup(entrance, b"..")) == SNAPSHOTS


def test_a_view_goes_when_the_kernel_has_forgotten_all_of_it(fs: Filesystem, tree: Views) -> None:
    _snapshot(fs, b"label")
    entrance = tree.lookup(SNAPSHOTS, b"label")
    for _ in range(3):
        tree.hold(entrance.view)
    tree.forget(entrance.view, 2)
    assert tree.place(_st_ino(entrance)) == (ROOT, 1)
    tree.forget(entrance.view, 1)
    assert len(tree) == 0
    with pytest.raises(Stale):
        tree.place(_st_ino(entrance))


def test_a_view_that_was_refused_goes_at_once(fs: Filesystem, tree: Views) -> None:
    _snapshot(fs, b"label")
    tree.forget(tree.lookup(SNAPSHOTS, b"label").view, 0)
    assert len(tree) == 0


def test_a_view_that_is_held_stays_when_it_is_refused_elsewhere(fs: Filesystem, tree: Views) -> None:
    _snapshot(fs, b"label")
    entrance = tree.lookup(SNAPSHOTS, b"label")
    tree.hold(entrance.view)
    tree.forget(entrance.view, 0)
    assert tree.place(_st_ino(entrance)) == (ROOT, 1)


def test_a_dropped_number_is_not_used_again_soon(fs: Filesystem, tree: Views) -> None:
    _snapshot(fs, b"label")
    first = tree.lookup(SNAPSHOTS, b"label").view
    tree.forget(first, 0)
    assert tree.lookup(SNAPSHOTS, b"label").view != first


def test_numbers_begin_again_at_the_end_without_meeting_one_in_use(fs: Filesystem, tree: Views) -> None:
    _snapshot(fs, b"label")
    kept = tree.lookup(SNAPSHOTS, b"label").view
    tree._next = SNAPSHOTS_VIEW - 1
    others = []
    for label in (b"x", b"y"):
        fs.snapshot(label)
        others.append(tree.lookup(SNAPSHOTS, label).view)
    assert others == [SNAPSHOTS_VIEW - 1, kept + 1]


def test_a_txn_too_great_for_a_view_of_its_own_is_allocated_one(tree: Views) -> None:
    txn = views.ALLOCATED_FIRST
    view = tree._view(views.Entrance(txn, ROOT, b"%d" % txn))
    assert tree.place(view << VIEW_SHIFT | ROOT) == (ROOT, txn)
    assert len(tree) == 1


def test_latest_is_another_view_once_there_is_a_later_snapshot(fs: Filesystem, tree: Views) -> None:
    _snapshot(fs)
    before = tree.lookup(SNAPSHOTS, b"latest")
    _snapshot(fs)
    after = tree.lookup(SNAPSHOTS, b"latest")
    assert [tree.place(_st_ino(seen))[1] for seen in (before, after)] == [1, 2]


def test_an_inode_of_a_deleted_snapshot_is_gone(fs: Filesystem, tree: Views) -> None:
    entrance = _st_ino(tree.lookup(SNAPSHOTS, b"%d" % _snapshot(fs)))
    fs.delete_snapshot(b"1")
    with pytest.raises(NoEntry):
        tree.getattr(entrance)
    with pytest.raises(NoEntry):
        tree.lookup(SNAPSHOTS, b"1")


def test_attributes_are_as_they_were_and_dot_snapshots_has_none(fs: Filesystem, tree: Views) -> None:
    fs.setxattr(ROOT, b"user.a", b"1", ME)
    entrance = _st_ino(tree.lookup(SNAPSHOTS, b"%d" % _snapshot(fs)))
    fs.removexattr(ROOT, b"user.a", ME)
    fs.setxattr(ROOT, b"user.b", b"2", ME)
    assert tree.listxattr(entrance) == [b"user.a"]
    assert tree.getxattr(entrance, b"user.a") == b"1"
    assert tree.listxattr(SNAPSHOTS) == []
    with pytest.raises(NoAttribute):
        tree.getxattr(SNAPSHOTS, b"user.b")


def test_removing_a_label_deletes_its_snapshot(fs: Filesystem, tree: Views) -> None:
    _snapshot(fs, b"label")
    tree.remove(SNAPSHOTS, b"label", ME)
    assert fs.snapshots() == []


def test_latest_is_not_for_removing(fs: Filesystem, tree: Views) -> None:
    _snapshot(fs)
    with pytest.raises(NotPermitted):
        tree.remove(SNAPSHOTS, b"latest", ME)


def test_only_the_owner_of_the_root_deletes_snapshots(fs: Filesystem, tree: Views) -> None:
    directory = fs.mkdir(ROOT, b"d", 0o755, ME._replace(uid=1001)).number
    _snapshot(fs)
    below = SNAPSHOTS_VIEW << VIEW_SHIFT | directory
    with pytest.raises(NotPermitted):
        tree.remove(below, b"1", ME._replace(uid=1001))
    assert len(fs.snapshots()) == 1
    tree.remove(below, b"1", ME)
    assert fs.snapshots() == []


@pytest.mark.parametrize("st_ino", [SNAPSHOTS, 1 << VIEW_SHIFT | ROOT], ids=["dot-snapshots", "snapshot"])
def test_nothing_in_history_changes(st_ino: int) -> None:
    for refuse in (
        views.refuse_change,
        lambda n: views.refuse_new_name(n, b"x"),
        lambda n: views.refuse_old_name(n, b"x"),
    ):
        with pytest.raises(ReadOnly):
            refuse(st_ino)


def test_the_reserved_name_can_be_neither_made_nor_moved() -> None:
    with pytest.raises(Exists):
        views.refuse_new_name(ROOT, SNAPSHOTS_NAME)
    with pytest.raises(NotPermitted):
        views.refuse_old_name(ROOT, SNAPSHOTS_NAME)
    views.refuse_change(ROOT)
    assert views.view_of(ROOT) == LIVE
