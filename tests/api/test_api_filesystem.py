"""One suite for the two ways to a filesystem: its database opened here, and its daemon asked."""

import errno
import io
import os
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

import pytest

import tzfs
from support.mounting import Mounted, mounting
from tzfs import errors
from tzfs.api.connection import SLICE_BYTES


@pytest.fixture(scope="module")
def shared() -> Iterator[Mounted]:
    """Mount one filesystem for all tests of this module: a mount takes longer than each of them."""
    with mounting() as make:
        yield make()


@pytest.fixture(params=["local", pytest.param("mounted", marks=pytest.mark.mount)])
def fs(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tzfs.Filesystem]:
    """Return an empty filesystem of each kind in turn; it is clean at the end."""
    if request.param == "mounted":
        mounted: Mounted = request.getfixturevalue("shared")
        store, name = tzfs.Store.open(mounted.store), mounted.name
    else:
        store, name = tzfs.Store.open(tmp_path / "store", create=True), "lab"
        store.create(name)
    with store.open_filesystem(name) as opened:
        yield opened
        assert opened.check() == []
        opened.rmtree("/")
        opened.delete_snapshot(*opened.snapshots())


def refused(kind: type[tzfs.TzfsError], builtin: type[OSError], call: Callable[[], object]) -> OSError:
    """Check that a call fails as both worlds expect it, and return the error."""
    with pytest.raises(kind) as caught:
        call()
    assert isinstance(caught.value, builtin)
    assert caught.value.errno == kind.errno
    return caught.value


def test_what_is_written_is_read_by_every_kind_of_path(fs: tzfs.Filesystem) -> None:
    assert fs.write_bytes("a", b"one") == 3
    for path in ("a", b"a", "/a", PurePosixPath("a"), "./a", "//a"):
        assert fs.read_bytes(path) == b"one"
    fs.write_text(b"\xff name", "zwei \u2713")
    assert fs.read_text(b"\xff name") == "zwei \u2713"
    assert [os.fsencode(name) for name in fs.listdir()] == [b"a", b"\xff name"]


def test_writing_again_replaces_the_whole_content_and_keeps_the_inode(fs: tzfs.Filesystem) -> None:
    fs.write_bytes("a", b"long content", mode=0o600)
    before = fs.stat("a")
    fs.write_bytes("a", b"short")
    after = fs.stat("a")
    assert fs.read_bytes("a") == b"short"
    assert (after.st_ino, after.st_mode) == (before.st_ino, before.st_mode)
    assert after.st_size == 5


def test_content_of_many_slices_comes_back(fs: tzfs.Filesystem) -> None:
    content = os.urandom(2 * SLICE_BYTES + 12345)
    fs.write_bytes("big", content)
    assert fs.read_bytes("big") == content
    assert fs.stat("big").st_size == len(content)
    fs.write_bytes("big", content[:SLICE_BYTES])
    assert fs.read_bytes("big") == content[:SLICE_BYTES]


def test_errors_are_those_of_both_worlds(fs: tzfs.Filesystem) -> None:
    fs.mkdir("d")
    fs.write_bytes("d/a", b"")
    error = refused(errors.NoEntry, FileNotFoundError, lambda: fs.read_bytes("no/such"))
    assert error.filename == "no/such"
    assert str(error) == "[Errno 2] No such file or directory: 'no/such'"
    refused(errors.IsDirectory, IsADirectoryError, lambda: fs.read_bytes("d"))
    refused(errors.IsDirectory, IsADirectoryError, lambda: fs.write_bytes("d", b""))
    refused(errors.NotDirectory, NotADirectoryError, lambda: fs.listdir("d/a"))
    refused(errors.Exists, FileExistsError, lambda: fs.mkdir("d"))
    refused(errors.NotEmpty, OSError, lambda: fs.rmdir("d"))
    refused(errors.SnapshotMissing, FileNotFoundError, lambda: fs.at("nothing"))
    refused(errors.Invalid, OSError, lambda: fs.snapshot("no label"))
    refused(errors.Exists, FileExistsError, lambda: fs.mkdir("d/.snapshots"))
    refused(errors.Invalid, OSError, lambda: fs.rmdir("/"))
    with pytest.raises(ValueError, match="null byte"):
        fs.stat("a\0b")


def test_names_move_link_and_go(fs: tzfs.Filesystem) -> None:
    fs.mkdir("x/y", parents=True)
    fs.mkdir("x/y", parents=True, exist_ok=True)
    fs.write_bytes("x/a", b"1")
    fs.link("x/a", "x/b")
    assert fs.stat("x/a").st_nlink == 2
    fs.rename("x/b", "x/y/c")
    fs.write_bytes("other", b"2")
    refused(errors.Exists, FileExistsError, lambda: fs.rename("other", "x/a", replace=False))
    fs.exchange("other", "x/a")
    assert (fs.read_bytes("other"), fs.read_bytes("x/a")) == (b"1", b"2")
    fs.rename("other", "x/a")
    assert list(fs.walk()) == [("/", ["x"], []), ("x", ["y"], ["a"]), ("x/y", [], ["c"])]
    fs.remove("x/y/c")
    fs.remove("x/y/c", missing_ok=True)
    fs.rmtree("x")
    assert fs.listdir() == []


def test_symlinks_are_followed_inside(fs: tzfs.Filesystem) -> None:
    fs.mkdir("d/e", parents=True)
    fs.write_bytes("d/a", b"1")
    fs.symlink("../a", "d/e/up")
    fs.symlink("/d/e", "absolute")
    fs.symlink("loop", "loop")
    fs.symlink("nowhere", "dangling")
    assert fs.read_bytes("absolute/up") == b"1"
    assert fs.readlink("d/e/up") == "../a"
    assert fs.lstat("absolute").is_symlink()
    assert fs.stat("absolute").is_dir()
    assert not fs.exists("dangling")
    assert fs.is_symlink("dangling")
    fs.write_bytes("dangling", b"now there")
    assert fs.read_bytes("nowhere") == b"now there"
    with pytest.raises(OSError, match="symlinks") as caught:
        fs.read_bytes("loop")
    assert caught.value.errno == errno.ELOOP


def test_files_open_as_they_do_everywhere(fs: tzfs.Filesystem) -> None:
    with fs.open("a", "w") as file:
        file.write("one\ntwo\n")
    with fs.open("a") as file:
        assert [line.rstrip() for line in file] == ["one", "two"]
    with fs.open("a", "a") as file:
        file.write("three\n")
    with fs.open("a", "r+b") as file:
        file.seek(4)
        file.write(b"TWO")
        file.seek(0)
        assert file.read() == b"one\nTWO\nthree\n"
        assert file.seek(0, io.SEEK_END) == 14
        file.truncate(3)
    assert fs.read_bytes("a") == b"one"
    refused(errors.Exists, FileExistsError, lambda: fs.open("a", "x"))
    refused(errors.NoEntry, FileNotFoundError, lambda: fs.open("b"))
    refused(errors.NoEntry, FileNotFoundError, lambda: fs.open("b", "r+"))
    with pytest.raises(ValueError, match="invalid mode"):
        fs.open("a", "rw")
    with fs.open("a", "rb", buffering=0) as raw, pytest.raises(io.UnsupportedOperation):
        raw.write(b"x")


def test_a_removed_file_stays_for_who_has_it_open(fs: tzfs.Filesystem) -> None:
    fs.write_bytes("a", b"1")
    fs.sync()
    before = fs.info()["usage"]["inodes"]
    with fs.open("a", "r+b", buffering=0) as file, fs.open("a", "rb", buffering=0) as other:
        fs.remove("a")
        other.close()
        reclaimed(fs)
        assert file.write(b"22") == 2
        file.seek(0)
        assert file.read() == b"22"
        assert not fs.exists("a")
        assert fs.check() == []
        number = file._number  # type: ignore[attr-defined]
    reclaimed(fs)
    assert fs.info()["usage"]["inodes"] == before - 1
    with pytest.raises(FileNotFoundError):
        fs._connection.call("file_read_slice", number=number, offset=0, size=1, at=None)


def reclaimed(fs: tzfs.Filesystem) -> None:
    """Return when nothing waits to be reclaimed."""
    deadline = time.monotonic() + 60
    while fs.info()["reclaim_backlog"]:
        assert time.monotonic() < deadline
        fs.touch("work for who reclaims only with a change")
        fs.remove("work for who reclaims only with a change")


@pytest.mark.mount
def test_a_file_that_a_client_has_open_goes_with_the_client(shared: Mounted) -> None:
    store = tzfs.Store.open(shared.store)
    with store.open_filesystem(shared.name) as fs, store.open_filesystem(shared.name) as client:
        fs.write_bytes("a", b"1")
        with client.open("a", "rb", buffering=0) as file:
            (shared.path / "a").unlink()
            reclaimed(fs)
            assert file.read() == b"1"
            client._connection._drop()  # as the end of the process does
            with pytest.raises(OSError, match="removed") as caught:  # noqa: PT012 which read fails is open
                while True:  # until the daemon has noticed, and reclaim has been there
                    file.seek(0)
                    file.read(1)
            assert caught.value.errno == errno.ESTALE


def test_closing_a_file_in_the_middle_of_a_call_waits_for_its_end(
    fs: tzfs.Filesystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As the collector does, which may run at any moment.
    fs.write_bytes("a", b"1")
    file = fs.open("a", "rb", buffering=0)
    session = fs._connection._session
    assert session is not None
    call = session.call
    called = []

    def call_and_collect(command: str, **arguments: object) -> dict[str, object]:
        called.append(command)
        file.close()
        return call(command, **arguments)

    monkeypatch.setattr(session, "call", call_and_collect)
    assert fs.read_bytes("a") == b"1"
    assert called == ["file_read"]
    assert fs.read_bytes("a") == b"1"
    assert called == ["file_read", "file_close", "file_read"]


def test_attributes_are_set(fs: tzfs.Filesystem) -> None:
    fs.touch("a", 0o640)
    fs.chmod("a", 0o604)
    fs.utime("a", ns=(1, 2_000_000_003))
    found = fs.stat("a")
    assert (found.st_mode & 0o7777, found.st_atime_ns, found.st_mtime_ns) == (0o604, 1, 2_000_000_003)
    assert (found.is_file(), found.is_dir(), found.is_symlink()) == (True, False, False)
    fs.setxattr("a", "user.origin", b"\x00web")
    assert fs.getxattr("a", "user.origin") == b"\x00web"
    assert fs.listxattr("a") == ["user.origin"]
    fs.removexattr("a", "user.origin")
    refused(errors.NoAttribute, OSError, lambda: fs.getxattr("a", "user.origin"))
    fs.truncate("a", 1 << 30)
    assert (fs.stat("a").st_size, fs.stat("a").st_blocks) == (1 << 30, 0)


def test_a_snapshot_reads_as_it_was(fs: tzfs.Filesystem) -> None:
    fs.mkdir("d")
    fs.write_bytes("d/a", b"old")
    with fs.snapshot("before") as snap:
        fs.write_bytes("d/a", b"new")
        fs.write_bytes("d/b", b"added")
        assert snap.read_bytes("d/a") == b"old"
        assert snap.listdir("d") == ["a"]
    for name in ("before", b"before", snap.txn, str(snap.txn), snap, "latest"):
        assert fs.at(name) == snap
        assert fs.at(name).read_bytes("d/a") == b"old"
    assert fs.read_bytes(".snapshots/before/d/a") == b"old"
    assert fs.read_bytes(f"d/.snapshots/{snap.txn}/a") == b"old"
    refused(errors.ReadOnly, OSError, lambda: fs.write_bytes(".snapshots/before/d/a", b""))
    refused(errors.ReadOnly, OSError, lambda: snap.open("d/a", "w"))
    with snap.open("d/a") as file:
        assert file.read() == "old"
    assert [str(change) for change in fs.diff("before")] == ["~ d/a", "+ d/b"]
    assert next(iter(fs.diff("before"))).pid == os.getpid()


def test_rollback_undoes_and_can_be_undone(fs: tzfs.Filesystem) -> None:
    fs.write_bytes("a", b"old")
    fs.snapshot("before")
    fs.write_bytes("a", b"new")
    fs.mkdir("b")
    present = fs.rollback("before")
    assert (fs.listdir(), fs.read_bytes("a")) == (["a"], b"old")
    fs.rollback(present)
    assert (fs.listdir(), fs.read_bytes("a")) == (["a", "b"], b"new")
    assert [snap.labels for snap in fs.snapshots()] == [("before",), (), ()]
    fs.delete_snapshot("before", present)
    assert len(fs.snapshots()) == 1


def test_an_open_file_that_a_rollback_takes_away_can_be_read_on(fs: tzfs.Filesystem) -> None:
    fs.snapshot("before")
    fs.write_bytes("late", b"late" * 100_000)
    with fs.open("late", "rb") as file:
        assert file.read(4) == b"late"
        fs.rollback("before")
        assert not fs.exists("late")
        file.seek(0)
        assert file.read() == b"late" * 100_000


def test_a_fork_begins_where_it_was_told(fs: tzfs.Filesystem) -> None:
    fs.write_bytes("a", b"old")
    fs.snapshot("before")
    fs.write_bytes("a", b"new")
    store = tzfs.Store(fs._connection.store)
    with store.open_filesystem(fs.fork("now")) as fork:
        assert fork.read_bytes("a") == b"new"
    with store.open_filesystem(fs.fork("then", at="before")) as fork:
        assert fork.read_bytes("a") == b"old"
        fork.write_bytes("a", b"its own")
    assert fs.read_bytes("a") == b"new"


def test_threads_share_one_filesystem(fs: tzfs.Filesystem) -> None:
    def work(number: int) -> None:
        for step in range(20):
            fs.write_text(f"{number}-{step}", f"{number} {step}")
            assert fs.read_text(f"{number}-{step}") == f"{number} {step}"

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(fs.listdir()) == 80


def test_a_large_directory_is_listed_whole(fs: tzfs.Filesystem) -> None:
    names = [f"{number:04}" for number in range(1100)]
    for name in names:
        fs.write_bytes(name, b"")
    assert fs.listdir() == names


def test_a_tree_of_the_host_is_copied_in(fs: tzfs.Filesystem, tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "d").mkdir(parents=True)
    (source / "d" / "run").write_bytes(b"#!")
    (source / "d" / "run").chmod(0o755)
    (source / "link").symlink_to("d/run")
    fs.copy_in(source, "copy")
    assert fs.read_bytes("copy/link") == b"#!"
    assert fs.stat("copy/d/run").st_mode & 0o777 == 0o755


def test_a_write_beyond_the_quota_leaves_the_old_content(tmp_path: Path) -> None:
    store = tzfs.Store.open(tmp_path / "store", create=True)
    store.create("small", quota_bytes=150_000)
    with store.open_filesystem("small") as fs:
        fs.write_bytes("a", b"x" * 70_000)
        fs.snapshot("keep")
        error = refused(errors.NoSpace, OSError, lambda: fs.write_bytes("a", b"y" * 90_000))
        assert "quota" in str(error)
        assert fs.read_bytes("a") == b"x" * 70_000
        fs.write_bytes("a", b"y" * 70_000)
        refused(errors.NoSpace, OSError, lambda: fs.write_bytes("a", b"z" * 70_000))
        fs.delete_snapshot("keep")
        fs.write_bytes("a", b"z" * 70_000)
        assert fs.check() == []


def test_an_archived_filesystem_is_read_and_not_changed(tmp_path: Path) -> None:
    store = tzfs.Store.open(tmp_path / "store", create=True)
    store.create("old")
    with store.open_filesystem("old") as fs:
        fs.write_bytes("a", b"1")
    assert store.archive("old").status == "archived"
    with store.open_filesystem("old") as fs:
        assert fs.read_bytes("a") == b"1"
        refused(errors.ReadOnly, OSError, lambda: fs.write_bytes("a", b"2"))
    store.delete("old")
    refused(errors.WrongStatus, OSError, lambda: store.open_filesystem("old"))
    assert [found.name for found in store.list()] == []
    assert store.undelete("old").status == "archived"
    refused(errors.UnknownFilesystem, FileNotFoundError, lambda: store.get("nothing"))
    refused(errors.NameTaken, FileExistsError, lambda: store.create("old"))


def test_a_closed_filesystem_says_so(tmp_path: Path) -> None:
    store = tzfs.Store.open(tmp_path / "store", create=True)
    store.create("lab")
    fs = store.open_filesystem("lab")
    fs.close()
    fs.close()
    with pytest.raises(ValueError, match="closed"):
        fs.read_bytes("a")


@pytest.mark.mount
def test_a_filesystem_is_found_again_when_it_was_mounted_and_unmounted_meanwhile(shared: Mounted) -> None:
    with tzfs.Store.open(shared.store).open_filesystem(shared.name) as fs:
        fs.write_bytes("a", b"1")
        assert fs.mountpoint == shared.path
        shared.unmount()
        assert fs.read_bytes("a") == b"1"
        assert fs.mountpoint is None
        fs.remove("a")
    shared.mount()


@pytest.mark.mount
def test_a_killed_daemon_costs_no_more_than_the_call_under_way(shared: Mounted) -> None:
    store = tzfs.Store.open(shared.store)
    with store.open_filesystem(shared.name) as fs:
        fs.write_bytes("a", b"1")
        pid = store.get(shared.name).pid
        assert pid is not None
        daemon = os.pidfd_open(pid)
        try:
            signal.pidfd_send_signal(daemon, signal.SIGKILL)
            assert select.select([daemon], [], [], 20)[0]
        finally:
            os.close(daemon)
        assert fs.read_bytes("a") == b"1"
        fs.write_bytes("a", b"2")
    shared.mount()
    assert (shared.path / "a").read_bytes() == b"2"
    (shared.path / "a").unlink()


@pytest.mark.mount
def test_the_mount_and_many_clients_work_at_the_same_time(shared: Mounted) -> None:
    failures: list[BaseException] = []

    def by_api(number: int) -> None:
        try:
            with tzfs.Store.open(shared.store).open_filesystem(shared.name) as fs:
                for step in range(15):
                    fs.write_text(f"api-{number}", f"{number} {step}")
                    assert (shared.path / f"api-{number}").read_text() == f"{number} {step}"
                    fs.snapshot()
        except BaseException as error:  # noqa: BLE001 a thread must tell
            failures.append(error)

    def by_mount(number: int) -> None:
        try:
            with tzfs.Store.open(shared.store).open_filesystem(shared.name) as fs:
                for step in range(15):
                    (shared.path / f"mount-{number}").write_text(f"{number} {step}")
                    assert fs.read_text(f"mount-{number}") == f"{number} {step}"
        except BaseException as error:  # noqa: BLE001 a thread must tell
            failures.append(error)

    threads = [
        threading.Thread(target=work, args=(number,)) for work in (by_api, by_mount) for number in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failures == []
    with tzfs.Store.open(shared.store).open_filesystem(shared.name) as fs:
        assert fs.check() == []
        fs.rmtree("/")


@pytest.mark.mount
def test_programs_on_the_mount_see_what_the_api_does_and_it_what_they_do(shared: Mounted) -> None:
    path = shared.path
    with tzfs.Store.open(shared.store).open_filesystem(shared.name) as fs:
        assert not (path / "a").exists()  # the kernel remembers that there is none
        fs.write_bytes("a", b"one")
        assert (path / "a").read_bytes() == b"one"
        fs.write_bytes("a", b"a longer one")
        assert (path / "a").read_bytes() == b"a longer one"
        assert (path / "a").stat().st_mtime_ns == fs.stat("a").st_mtime_ns
        with (path / "b").open("wb", buffering=0) as file:
            file.write(b"dirty in the page cache")
            assert fs.read_bytes("b") == b"dirty in the page cache"
            assert {entry.name: entry.stat.st_size for entry in fs.scandir()}["b"] == 23
            fs.write_bytes("b", b"short")
            assert os.fstat(file.fileno()).st_size == 5
            with fs.open("b", "ab") as more:
                more.write(b" and more")
            assert (path / "b").read_bytes() == b"short and more"
        fs.rename("b", "c")
        assert sorted(found.name for found in path.iterdir()) == ["a", "c"]
        assert not (path / "b").exists()
        fs.remove("c")
        with pytest.raises(FileNotFoundError):
            (path / "c").read_bytes()
        (path / "d").mkdir()
        here = Path.cwd()
        os.chdir(path / "d")
        try:
            fs.write_bytes("d/x", b"1")
            assert Path.cwd() == path / "d"
            assert [found.name for found in Path().iterdir()] == ["x"]
        finally:
            os.chdir(here)
        fs.rmtree("/")
        assert not any(path.iterdir())
