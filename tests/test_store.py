"""The life of a filesystem in a store: what each status allows, and what a crash leaves."""

import os
import stat
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tzfs import runtime
from tzfs import store as stores
from tzfs.catalog import ARCHIVED, DELETED, RUNNING, FilesystemRow
from tzfs.errors import (
    CheckFailed,
    Invalid,
    InvalidName,
    Mounted,
    NameTaken,
    NotAStore,
    ReadOnly,
    StoreLocked,
    UnknownFilesystem,
    WrongStatus,
)
from tzfs.filesystem import Filesystem
from tzfs.records import NOBODY
from tzfs.rocks import RocksStore
from tzfs.runtime import MountRecord
from tzfs.session import connect
from tzfs.store import Store


@pytest.fixture
def shelf(tmp_path: Path) -> Store:
    """Return an empty store; `store` is the engine's fixture."""
    return Store.open(tmp_path / "store", create=True)


def write_file(shelf: Store, row: FilesystemRow, name: bytes = b"a") -> None:
    engine = RocksStore.open(shelf.database(row))
    fs = Filesystem(engine)
    inode = fs.mknod(1, name, stat.S_IFREG | 0o644, 0, NOBODY)
    fs.write(inode.number, 0, b"content", NOBODY, stamp=True)
    engine.close()


def names(shelf: Store, row: FilesystemRow) -> list[bytes]:
    engine = RocksStore.open(shelf.database(row), read_only=True)
    found = [entry.name for entry in Filesystem(engine, read_only=True).readdir(1, 0, 100)]
    engine.close()
    return found


def test_a_new_filesystem_is_running_empty_and_has_its_limits(shelf: Store) -> None:
    row = shelf.create("team/lab", chunk_size=4096, quota_bytes=1 << 30, inodes_max=100)
    assert (row.namespace, row.name, row.status) == ("team", "lab", RUNNING)
    assert shelf.get("team/lab") == row
    with connect(shelf, row) as session:
        info = session.call("info")
    assert info["chunk_size"] == 4096
    assert info["usage"]["quota_bytes"] == 1 << 30
    assert info["usage"]["inodes_max"] == 100
    assert info["usage"]["inodes"] == 1


def test_a_filesystem_belongs_to_who_made_it_and_is_closed_to_others(shelf: Store) -> None:
    row = shelf.create("lab")
    assert stat.S_IMODE(shelf.directory(row).stat().st_mode) == 0o700
    assert shelf.directory(row).stat().st_uid == os.getuid()


def test_a_name_is_taken_once_and_free_again_after_delete(shelf: Store) -> None:
    first = shelf.create("lab")
    with pytest.raises(NameTaken):
        shelf.create("lab")
    shelf.create("team/lab")
    shelf.delete("lab")
    second = shelf.create("lab")
    assert first.id != second.id
    assert shelf.get("lab") == second


def test_a_bad_chunk_size_leaves_nothing_behind(shelf: Store) -> None:
    with pytest.raises(Invalid):
        shelf.create("lab", chunk_size=1000)
    assert shelf.list() == []
    assert list((shelf.path / "filesystems").iterdir()) == []


def test_an_archived_filesystem_is_read_only_until_unarchived(shelf: Store) -> None:
    row = shelf.create("lab")
    write_file(shelf, row)
    archived = shelf.archive("lab")
    assert archived.status == ARCHIVED
    with connect(shelf, archived) as session:
        assert session.call("info")["read_only"] is True
        with pytest.raises(ReadOnly):
            session.call("snapshot")
    running = shelf.unarchive("lab")
    with connect(shelf, running) as session:
        assert session.call("snapshot", label="after")["txn"] == 1
    assert names(shelf, running) == [b"a"]


def test_archive_reclaims_what_is_left_to_reclaim(shelf: Store) -> None:
    row = shelf.create("lab")
    write_file(shelf, row)
    engine = RocksStore.open(shelf.database(row))
    Filesystem(engine).unlink(1, b"a", NOBODY)
    engine.close()
    with connect(shelf, shelf.archive("lab")) as session:
        info = session.call("info")
    assert info["reclaim_backlog"] == 0
    assert info["usage"]["stored_bytes"] == 0


def test_a_damaged_filesystem_is_not_archived(shelf: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf.create("lab")
    monkeypatch.setattr(stores.check, "check", lambda _: ["finding"])
    with pytest.raises(CheckFailed, match="tzfs check lab"):
        shelf.archive("lab")
    assert shelf.get("lab").status == RUNNING


def test_a_deleted_filesystem_comes_back_as_it_was(shelf: Store) -> None:
    row = shelf.create("lab")
    write_file(shelf, row)
    shelf.archive("lab")
    deleted = shelf.delete("lab")
    assert deleted.status == DELETED
    assert deleted.purge_after_ns is not None
    assert deleted.deleted_ns is not None
    assert deleted.purge_after_ns - deleted.deleted_ns == 7 * 86400 * 10**9
    shelf.sweep()
    back = shelf.undelete("lab")
    assert back.status == ARCHIVED
    assert (back.deleted_ns, back.purge_after_ns) == (None, None)
    assert names(shelf, back) == [b"a"]


def test_undelete_needs_the_name_to_be_free(shelf: Store) -> None:
    first = shelf.create("lab")
    shelf.delete("lab")
    shelf.create("lab")
    with pytest.raises(NameTaken, match="rename"):
        shelf.undelete("lab")
    shelf.rename("lab", "other")
    assert shelf.undelete("lab").id == first.id


def test_after_the_grace_period_the_next_sweep_removes_everything(shelf: Store) -> None:
    row = shelf.create("lab")
    shelf.delete("lab", grace_s=0)
    assert shelf.directory(row).exists()
    shelf.sweep()
    assert not shelf.directory(row).exists()
    assert shelf.list() == []


def test_a_purged_filesystem_is_gone_at_once(shelf: Store) -> None:
    row = shelf.create("lab")
    shelf.delete("lab")
    shelf.purge("lab")
    assert list((shelf.path / "filesystems").iterdir()) == []
    with pytest.raises(UnknownFilesystem):
        shelf.get("lab")
    assert shelf.catalog.get(row.id) is None


def test_a_purge_that_was_interrupted_goes_on_and_cannot_be_undeleted(shelf: Store) -> None:
    row = shelf.create("lab")
    shelf.delete("lab", grace_s=0)
    directory = shelf.directory(row)
    directory.rename(directory.with_suffix(stores.PURGED_SUFFIX))
    with pytest.raises(WrongStatus):
        shelf.undelete("lab")
    shelf.sweep()
    assert list((shelf.path / "filesystems").iterdir()) == []
    assert shelf.list() == []


def test_a_sweep_in_the_midst_of_a_create_does_it_no_harm(
    shelf: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    insert = shelf.catalog.insert

    def insert_and_sweep(row: FilesystemRow) -> None:
        shelf.sweep()
        insert(row)
        shelf.sweep()  # as any command of another process does

    monkeypatch.setattr(shelf.catalog, "insert", insert_and_sweep)
    row = shelf.create("lab")
    assert not (shelf.directory(row) / stores.CREATING_NAME).exists()
    assert names(shelf, row) == []


def test_a_create_that_was_interrupted_is_swept_when_it_is_old(shelf: Store) -> None:
    leftover = shelf.path / "filesystems" / "0123456789abcdef"
    (leftover / "db").mkdir(parents=True)
    (leftover / "creating").touch()
    shelf.sweep()
    assert leftover.exists()
    os.utime(leftover, (0, 0))
    with runtime.try_lock(leftover):  # type: ignore[union-attr]
        os.utime(leftover, (0, 0))
        shelf.sweep()
    assert leftover.exists(), "a create under way holds the lock"
    os.utime(leftover, (0, 0))
    shelf.sweep()
    assert not leftover.exists()


@pytest.mark.parametrize(
    ("prepare", "action", "advice"),
    [
        (["delete"], "archive", "undelete"),
        (["delete"], "unarchive", "undelete"),
        (["delete"], "delete", "undelete"),
        (["archive"], "archive", "unarchive"),
        ([], "unarchive", "nothing to do"),
        ([], "undelete", "nothing to do"),
        ([], "purge", "nothing to do"),
        (["archive"], "undelete", "nothing to do"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else value,
)
def test_a_transition_that_makes_no_sense_says_what_to_do(
    shelf: Store, prepare: list[str], action: str, advice: str
) -> None:
    shelf.create("lab")
    for step in prepare:
        getattr(shelf, step)("lab")
    before = shelf.list()
    with pytest.raises(WrongStatus, match=advice):
        getattr(shelf, action)("lab")
    assert shelf.list() == before


def test_a_deleted_filesystem_is_not_renamed_and_not_opened(shelf: Store) -> None:
    shelf.create("lab")
    row = shelf.delete("lab")
    with pytest.raises(WrongStatus, match="undelete"):
        shelf.rename("lab", "other")
    with pytest.raises(WrongStatus, match="undelete"):
        connect(shelf, row)


@pytest.mark.parametrize("action", ["archive", "unarchive", "delete"])
def test_a_mounted_filesystem_keeps_its_status(
    shelf: Store, action: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stores, "LOCK_WAIT_S", 0.05)
    row = shelf.create("lab")
    if action == "unarchive":
        row = shelf.archive("lab")
    with runtime.try_lock(shelf.directory(row)) as held:  # type: ignore[union-attr]
        held.announce(MountRecord("/mnt/lab", os.getpid(), 1, read_only=False))
        with pytest.raises(Mounted, match=r"/mnt/lab.*tzfs umount lab"):
            getattr(shelf, action)("lab")
    assert shelf.get("lab") == row


def test_a_daemon_whose_mount_is_gone_is_waited_for(shelf: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """umount(8) returns before the daemon knows of it."""
    row = shelf.create("lab")
    ending: list[runtime.DirectoryLock] = []

    def end_instead_of_sleeping(_seconds: float) -> None:
        held = ending.pop()
        held.withdraw()
        held.close()

    monkeypatch.setattr(time, "sleep", end_instead_of_sleeping)
    for ask in (shelf.stays_mounted_at, lambda _: shelf.delete("lab")):
        held = runtime.try_lock(shelf.directory(row))
        assert held is not None
        held.announce(MountRecord("/mnt/lab", os.getpid(), 1, read_only=False))
        ending.append(held)
        ask(row)
        assert shelf.mounted_at(row) is None
    assert [row.status for row in shelf.list()] == [DELETED]


def test_a_filesystem_in_use_is_refused_after_a_wait(shelf: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    row = shelf.create("lab")
    monkeypatch.setattr(stores, "LOCK_WAIT_S", 0.05)
    with connect(shelf, row) as _:
        with pytest.raises(StoreLocked, match=str(os.getpid())):
            shelf.delete("lab")
        with pytest.raises(StoreLocked):
            connect(shelf, row, wait_s=0.05)
    shelf.delete("lab")


def test_renaming_moves_between_namespaces(shelf: Store) -> None:
    row = shelf.create("lab")
    shelf.create("other")
    assert shelf.rename("lab", "team/lab").id == row.id
    with pytest.raises(NameTaken):
        shelf.rename("team/lab", "other")
    with pytest.raises(InvalidName):
        shelf.rename("team/lab", "a b")


def _directory_of_others(path: Path) -> None:
    path.mkdir()
    (path / "letter.txt").write_text("dear")


@pytest.mark.parametrize(
    "make",
    [lambda path: None, Path.touch, Path.mkdir, _directory_of_others],
    ids=["none", "file", "empty", "others"],
)
def test_what_is_no_store_is_named(tmp_path: Path, make: Callable[[Path], None]) -> None:
    path = tmp_path / "place"
    make(path)
    with pytest.raises(NotAStore, match="place"):
        Store.open(path)


@pytest.mark.parametrize("make", [Path.touch, _directory_of_others], ids=["file", "others"])
def test_no_store_is_made_among_other_files(tmp_path: Path, make: Callable[[Path], None]) -> None:
    path = tmp_path / "place"
    make(path)
    with pytest.raises(NotAStore, match="place"):
        Store.open(path, create=True)
    assert not (tmp_path / "catalog.db").exists()


def test_the_default_store_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("TZFS_STORE", raising=False)
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    assert stores.default_path() == tmp_path / ".local" / "share" / "tzfs"
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    assert stores.default_path() == Path("/data/tzfs")
    monkeypatch.setenv("TZFS_STORE", "/srv/tzfs")
    assert stores.default_path() == Path("/srv/tzfs")
