"""The life of a mount: how it begins, how it ends in every way it can, and what the next one finds."""

import ctypes
import json
import mmap
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import machine
from support.syscalls import MS_BIND, MS_RDONLY, MS_REMOUNT, mount, mounted_at
from tzfs import runtime
from tzfs.cli import base

pytestmark = pytest.mark.mount

TIMEOUT_S = 60
TZFS = [sys.executable, "-c", "from tzfs.cli import main; main()"]
HELPER = [sys.executable, "-c", "from tzfs.cli import mount_helper; mount_helper()"]


class Box:
    """A store and two directories to mount on, and the command line in a process of its own."""

    def __init__(self, workspace: Path) -> None:
        self.store = workspace / "store"
        self.a = workspace / "a"
        self.b = workspace / "b"
        self.a.mkdir()
        self.b.mkdir()

    def run(self, *arguments: str | Path, command: list[str] = TZFS) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*command, *map(os.fspath, arguments)],
            env={**os.environ, "TZFS_STORE": os.fspath(self.store)},
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
            stdin=subprocess.DEVNULL,
        )

    def ok(self, *arguments: str | Path, command: list[str] = TZFS) -> str:
        """Run a command that must succeed, and return what it printed."""
        done = self.run(*arguments, command=command)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def refused(self, status: int, *arguments: str | Path) -> str:
        """Run a command that must be refused with one line, and return it."""
        done = self.run(*arguments)
        assert (done.returncode, done.stdout) == (status, ""), done
        assert done.stderr.count("\n") == 1
        return done.stderr

    def info(self, name: str = "lab") -> dict[str, object]:
        found: dict[str, object] = json.loads(self.ok("info", name, "--json"))
        return found

    def pid(self, name: str = "lab") -> int:
        pid = self.info(name)["pid"]
        assert isinstance(pid, int)
        return pid

    def end(self, number: signal.Signals, name: str = "lab") -> None:
        """Send a signal to the daemon and wait for its end."""
        daemon = os.pidfd_open(self.pid(name))
        try:
            signal.pidfd_send_signal(daemon, number)
            assert select.select([daemon], [], [], TIMEOUT_S)[0], "the daemon does not end"
        finally:
            os.close(daemon)

    def left(self, name: str = "lab") -> set[str]:
        """Return which files of a daemon are in the filesystem's directory."""
        (row,) = (row for row in json.loads(self.ok("list", "--json")) if row["name"] == name)
        return {entry.name for entry in Path(row["path"]).iterdir()} & {"control.sock", "mount.json"}


@pytest.fixture
def box() -> Iterator[Box]:
    """Return a store with the filesystem `lab`; what is in it at the end must be sound."""
    workspace = machine.make_workspace()
    made = Box(workspace)
    try:
        made.ok("create", "lab")
        yield made
        for mountpoint in machine.mounts_under(workspace):
            made.ok("umount", mountpoint)
        for row in json.loads(made.ok("list", "--json")):
            made.ok("check", row["name"])
    finally:
        machine.remove_workspace(workspace)


def test_a_mount_answers_when_the_command_returns_and_keeps_what_was_written(box: Box) -> None:
    assert box.ok("mount", "lab", box.a) == ""
    (box.a / "file").write_text("hello")
    assert os.path.ismount(box.a)
    box.ok("umount", box.a)
    assert not os.path.ismount(box.a)
    assert list(box.a.iterdir()) == []
    assert box.left() == set()
    box.ok("mount", "lab", box.b)
    assert (box.b / "file").read_text() == "hello"


def test_umount_takes_the_name_too_and_returns_when_the_daemon_has_ended(box: Box) -> None:
    box.ok("mount", "lab", box.a)
    directory = Path(str(box.info()["path"]))
    assert runtime.is_open(directory)
    box.ok("umount", "lab")
    assert not runtime.is_open(directory)
    assert "not mounted" in box.refused(base.NOT_FOUND, "umount", "lab")


def test_two_filesystems_of_a_store_are_mounted_together(box: Box) -> None:
    box.ok("create", "team/other")
    box.ok("mount", "lab", box.a)
    box.ok("mount", "team/other", box.b)
    (box.a / "file").write_text("of lab")
    (box.b / "file").write_text("of other")
    assert box.pid("lab") != box.pid("team/other")
    box.end(signal.SIGKILL, "lab")
    assert (box.b / "file").read_text() == "of other"


def test_mounting_twice_says_where_it_is_mounted(box: Box) -> None:
    box.ok("create", "other")
    box.ok("mount", "lab", box.a)
    assert str(box.a) in box.refused(base.CONFLICT, "mount", "lab", box.b)
    assert "lab is mounted" in box.refused(base.CONFLICT, "mount", "other", box.a)


def test_a_place_that_cannot_be_a_mount_point_is_named(box: Box) -> None:
    missing, file = box.b / "missing", box.b / "file"
    assert f"mkdir -p {missing}" in box.refused(base.NOT_FOUND, "mount", "lab", missing)
    file.touch()
    assert "not a directory" in box.refused(base.CONFLICT, "mount", "lab", file)
    assert "not empty" in box.refused(base.CONFLICT, "mount", "lab", box.b)
    box.ok("mount", "lab", box.b, "-o", "nonempty")
    assert not file.exists()


def test_an_option_that_fuse_does_not_know_is_the_reason_given(box: Box) -> None:
    assert "frobnicate" in box.refused(base.SYSTEM, "mount", "lab", box.a, "-o", "frobnicate")
    assert not os.path.ismount(box.a)
    box.ok("mount", "lab", box.a, "-o", "noatime,sync_interval=0.5,poll_us=0")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_mount_cleanly_and_loses_nothing(box: Box, number: signal.Signals) -> None:
    box.ok("mount", "lab", box.a)
    (box.a / "closed").write_bytes(b"x" * 300_000)
    box.end(number)
    assert not os.path.ismount(box.a)
    assert box.left() == set()
    box.ok("mount", "lab", box.a)
    assert (box.a / "closed").read_bytes() == b"x" * 300_000


def test_sigterm_keeps_what_was_written_to_files_that_are_still_open(box: Box) -> None:
    box.ok("mount", "lab", box.a)
    with (box.a / "open").open("wb", buffering=0) as file:
        file.write(b"y" * 300_000)
        box.end(signal.SIGTERM)
        with pytest.raises(OSError, match=r"Input/output|connect"):
            file.write(b"too late")
    box.ok("mount", "lab", box.a)
    assert (box.a / "open").read_bytes() == b"y" * 300_000


def test_after_fusermount_the_next_mount_waits_for_the_daemon_to_end(box: Box) -> None:
    for _ in range(3):
        box.ok("mount", "lab", box.a)
        (box.a / "file").write_text("hello")
        subprocess.run(["fusermount3", "-u", box.a], check=True, timeout=TIMEOUT_S)
    box.ok("mount", "lab", box.b)
    assert (box.b / "file").read_text() == "hello"


@pytest.mark.parametrize("where", ["a", "b"], ids=["same place", "another place"])
def test_after_kill_9_the_mount_point_is_stale_until_the_next_mount_cleans_it(box: Box, where: str) -> None:
    box.ok("mount", "lab", box.a)
    (box.a / "file").write_bytes(b"closed before the kill")
    box.end(signal.SIGKILL)
    with pytest.raises(OSError, match="not connected"):
        (box.a / "file").stat()
    assert box.left() == {"control.sock", "mount.json"}
    assert box.info()["mountpoint"] is None, "a record that no living process backs is not believed"
    place = getattr(box, where)
    done = box.run("mount", "lab", place)
    assert done.returncode == 0, done.stderr
    assert done.stderr == f"tzfs: {box.a} was left mounted by a daemon that is dead: cleaned\n"
    assert (place / "file").read_bytes() == b"closed before the kill"
    assert machine.mounts_under(box.a.parent) == [place]


def test_a_stale_mount_point_is_cleaned_for_another_filesystem_and_from_behind_the_kernels_cache(
    box: Box,
) -> None:
    box.ok("create", "other")
    box.ok("mount", "lab", box.a)
    box.a.stat()
    box.end(signal.SIGKILL)
    # The kernel still answers stat from its cache, so that alone tells nothing.
    box.a.stat()
    box.ok("mount", "other", box.a)
    (box.a / "file").touch()


def test_umount_cleans_a_stale_mount_point(box: Box) -> None:
    box.ok("mount", "lab", box.a)
    box.end(signal.SIGKILL)
    box.ok("umount", box.a)
    assert not os.path.ismount(box.a)


def test_umount_by_name_shows_the_dead_mount_of_a_daemon_that_had_taken_its_announcement_back(
    box: Box,
) -> None:
    """Killed between that and the unmounting: the name leads nowhere, and the directory fails."""
    box.ok("mount", "lab", box.a)
    directory = Path(str(box.info()["path"]))
    box.end(signal.SIGKILL)
    (directory / runtime.MOUNT_NAME).unlink()
    told = box.refused(base.NOT_FOUND, "umount", "lab")
    assert f"`tzfs umount {box.a}`" in told
    box.ok("umount", box.a)
    assert "nothing to do" in box.refused(base.NOT_FOUND, "umount", "lab")


def test_a_mount_in_use_stays_and_lazy_unmounting_does_not_wait(box: Box) -> None:
    box.ok("mount", "lab", box.a)
    with (box.a / "open").open("w") as file:
        assert "in use" in box.refused(base.CONFLICT, "umount", "lab")
        assert os.path.ismount(box.a)
        box.ok("umount", "--lazy", "lab")
        assert not os.path.ismount(box.a)
        file.write("still written")
    box.ok("mount", "lab", box.b)
    assert (box.b / "open").read_text() == "still written"


@pytest.mark.skipif(not machine.is_root(), reason="only root may make a bind mount")
def test_umount_says_where_else_it_is_mounted_instead_of_waiting(box: Box) -> None:
    box.ok("mount", "lab", box.a)
    subprocess.run(["mount", "--bind", box.a, box.b], check=True, timeout=TIMEOUT_S)
    assert f"umount {box.b}" in box.refused(base.CONFLICT, "umount", "lab")
    subprocess.run(["umount", box.b], check=True, timeout=TIMEOUT_S)
    box.ok("mount", "lab", box.a)


def test_a_snapshot_holds_what_open_files_and_mappings_were_given(box: Box) -> None:
    box.ok("mount", "lab", box.a)
    # Many files, so that some are being written out still while the snapshot is asked for.
    files = [(box.a / f"open{index}").open("w+b", buffering=0) for index in range(100)]
    for index, file in enumerate(files):
        file.write(bytes([index]) * 70_000)
    mapped = mmap.mmap(files[0].fileno(), 70_000)
    mapped[5:11] = b"mapped"
    assert box.ok("snapshot", "lab", "-m", "one") == "1\n"
    mapped[5:11] = b"after!"
    (box.a / ".snapshots" / "two").mkdir()
    for label, first in (("one", b"mapped"), ("two", b"after!")):
        seen = [(box.a / ".snapshots" / label / f"open{index}").read_bytes() for index in range(100)]
        assert seen[0] == bytes(5) + first + bytes(70_000 - 11)
        assert seen[1:] == [bytes([index]) * 70_000 for index in range(1, 100)]
    mapped.close()
    for file in files:
        file.close()


def test_what_did_not_fit_into_the_quota_is_no_reason_to_refuse_a_snapshot(box: Box) -> None:
    box.ok("create", "small", "--quota", "1M")
    box.ok("mount", "small", box.a)
    (box.a / "fits").write_bytes(b"x" * 500_000)
    with pytest.raises(OSError, match="No space left"):
        (box.a / "too much").write_bytes(b"y" * 5_000_000)
    assert box.ok("snapshot", "small") == "1\n"
    assert (box.a / ".snapshots" / "1" / "fits").read_bytes() == b"x" * 500_000


def test_commands_reach_a_mounted_filesystem(box: Box) -> None:
    box.ok("mount", "lab", box.a)
    (box.a / "file").write_text("1")
    assert box.ok("snapshot", "lab", "-m", "first") == "1\n"
    (box.a / "file").write_text("2")
    assert box.ok("snapshot", "lab") == "2\n"
    assert (box.a / ".snapshots" / "first" / "file").read_text() == "1"
    assert [row["txn"] for row in json.loads(box.ok("snapshots", "lab", "--json"))] == [1, 2]
    assert "lab is clean" in box.ok("check", "lab")
    box.ok("snapshot-delete", "lab", "1")
    assert not (box.a / ".snapshots" / "1").exists()
    info = box.info()
    assert info["mountpoint"] == str(box.a)
    assert not list(Path(str(info["path"])).glob("checkpoint-*"))
    for command in (["archive", "lab"], ["delete", "lab", "--yes"]):
        assert "tzfs umount lab" in box.refused(base.CONFLICT, *command)
    box.ok("rename", "lab", "renamed")
    (box.a / "file").write_text("3")
    box.ok("umount", "renamed")


@pytest.mark.parametrize("how", ["archived", "--read-only", "-oro"])
def test_a_read_only_mount_changes_nothing(box: Box, how: str) -> None:
    box.ok("mount", "lab", box.a)
    (box.a / "file").write_text("hello")
    box.ok("umount", "lab")
    if how == "archived":
        box.ok("archive", "lab")
        box.ok("mount", "lab", box.a)
    else:
        box.ok("mount", how, "lab", box.a)
    assert (box.a / "file").read_text() == "hello"
    with pytest.raises(OSError, match="Read-only file system"):
        (box.a / "file").write_text("changed")
    assert "read-only" in box.refused(base.REFUSED, "snapshot", "lab")
    assert json.loads(box.ok("info", "lab", "--json"))["mounted_read_only"] is True


@pytest.mark.skipif(not machine.is_root(), reason="only root may make a bind mount")
def test_a_store_on_a_read_only_disk_is_mounted_read_only_and_read_by_commands(box: Box) -> None:
    box.ok("mount", "lab", box.a)
    (box.a / "file").write_text("before")
    (box.a / ".snapshots" / "one").mkdir()
    (box.a / "file").write_text("after")
    box.ok("umount", "lab")
    writable, box.store = box.store, box.b / "disk"
    box.store.mkdir()
    with mounted_at(writable, box.store, "none", MS_BIND):
        mount("none", box.store, "none", MS_BIND | MS_REMOUNT | MS_RDONLY)
        before = sorted(path for path in writable.rglob("*"))
        assert "--read-only" in box.refused(base.SYSTEM, "mount", "lab", box.a)
        box.ok("mount", "--read-only", "lab", box.a)
        assert (box.a / "file").read_text() == "after"
        assert (box.a / ".snapshots" / "one" / "file").read_text() == "before"
        with pytest.raises(OSError, match="Read-only file system"):
            (box.a / "file").write_text("changed")
        assert json.loads(box.ok("snapshots", "lab", "--json"))[0]["labels"] == ["one"]
        for command in ("check", "scrub", "info"):
            box.ok(command, "lab")
        assert "read-only" in box.refused(base.REFUSED, "snapshot", "lab")
        for command in (
            ["archive", "lab"],
            ["delete", "--yes", "lab"],
            ["create", "new"],
            ["rename", "lab", "new"],
        ):
            assert "read-only" in box.refused(base.SYSTEM, *command).lower()
        (directory,) = (writable / "filesystems").iterdir()
        assert runtime.try_lock(directory) is None, "nobody writes beside it"
        box.ok("umount", box.a)
        assert sorted(path for path in writable.rglob("*")) == before
    box.store = writable
    box.ok("mount", "lab", box.a)
    (box.a / "file").write_text("changed")


def test_a_store_may_be_deeper_than_a_socket_address_is_long(box: Box) -> None:
    box.store = box.store.joinpath(*["d" * 90] * 3)
    box.ok("create", "lab")
    box.ok("mount", "lab", box.a)
    (box.a / "file").touch()
    assert box.ok("snapshot", "lab") == "1\n"
    box.ok("umount", "lab")


def test_in_the_foreground_it_stays_logs_and_ends_on_ctrl_c(box: Box) -> None:
    with subprocess.Popen(
        [*TZFS, "mount", "lab", box.a, "--foreground", "--log-file", box.b / "log"],
        env={**os.environ, "TZFS_STORE": os.fspath(box.store)},
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        assert "lab mounted at" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
        assert process.wait(TIMEOUT_S) == 0
    assert "unmounted" in rest
    assert "unmounted" in (box.b / "log").read_text()


def test_sigusr1_writes_the_stacks_and_changes_nothing(box: Box) -> None:
    box.ok("mount", "lab", box.a)
    info = box.info()
    os.kill(box.pid(), signal.SIGUSR1)
    (box.a / "file").touch()
    assert (box.a / "file").exists()
    assert "most recent call first" in (Path(str(info["path"])) / "stacks.log").read_text()


def test_mount_fuse_tzfs_mounts_as_mount_8_calls_it(box: Box) -> None:
    options = f"rw,noauto,x-systemd.automount,store={box.store},noatime"
    box.ok("lab", box.a, "-o", options, command=HELPER)
    (box.a / "file").touch()
    assert os.path.ismount(box.a)


def test_mounting_again_waits_for_a_daemon_that_does_not_know_yet_of_its_end(box: Box) -> None:
    if not machine.is_root():
        pytest.skip("only root may use umount2")
    box.ok("mount", "lab", box.a)
    (box.a / "file").write_text("hello")
    pid = box.pid()
    os.kill(pid, signal.SIGSTOP)
    try:
        assert ctypes.CDLL(None, use_errno=True).umount2(os.fsencode(box.a), 0) == 0
        again = subprocess.Popen([*TZFS, "--store", os.fspath(box.store), "mount", "lab", os.fspath(box.a)])
        with pytest.raises(subprocess.TimeoutExpired):
            again.wait(1)
    finally:
        os.kill(pid, signal.SIGCONT)
    assert again.wait(TIMEOUT_S) == 0
    assert (box.a / "file").read_text() == "hello"


def test_mount_fuse_tzfs_for_root_allows_set_ids_and_devices_unless_told_otherwise(box: Box) -> None:
    """mount(8) never passes on suid and dev, which it takes for granted, as every disk does."""
    if not machine.is_root():
        pytest.skip("only root may allow them")
    denied = {"nosuid": os.ST_NOSUID, "nodev": os.ST_NODEV}
    for options in ([], ["nosuid"], ["nodev"], ["nodev", "nosuid"]):
        box.ok("lab", box.a, "-o", ",".join(["rw", f"store={box.store}", *options]), command=HELPER)
        flags = os.statvfs(box.a).f_flag
        assert {option for option, flag in denied.items() if flags & flag} == set(options)
        box.ok("umount", box.a)


def test_a_corrupt_log_of_another_mount_does_not_matter(box: Box) -> None:
    box.ok("mount", "lab", box.a)
    box.ok("umount", "lab")
    (row,) = json.loads(box.ok("list", "--json"))
    (Path(row["path"]) / "mount.json").write_text("{")
    (Path(row["path"]) / "lock").write_text("nonsense")
    box.ok("mount", "lab", box.a)
