"""The mount as others use it: by file handles as NFS does, bind mounts, overlayfs, other mount namespaces."""

# The system calls themselves, by their names.
# ruff: noqa: PTH208

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from support import syscalls
from support.mounting import Mounted
from support.syscalls import MS_BIND, MS_RDONLY, MS_REMOUNT, mounted_at, name_to_handle_at, open_by_handle_at
from support.users import in_child

pytestmark = [pytest.mark.mount, pytest.mark.usefixtures("root")]


def read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 1000)
    finally:
        os.close(descriptor)


def fails(code: int, work: Callable[[], object]) -> None:
    """Assert that something is refused with an errno."""
    with pytest.raises(OSError) as caught:  # noqa: PT011 - the errno says more than the words
        work()
    assert caught.value.errno == code, errno.errorcode[caught.value.errno or 0]


# ------------------------------------------------------------------------------------ file handles


def test_a_file_handle_finds_its_file_after_a_remount_whatever_it_is_called_now(mounted: Mounted) -> None:
    deep = mounted.path / "a" / "b"
    deep.mkdir(parents=True)
    (deep / "file").write_bytes(b"content")
    file, directory = name_to_handle_at(deep / "file"), name_to_handle_at(deep)
    number = (deep / "file").stat().st_ino
    (deep / "file").rename(mounted.path / "moved")
    mounted.remount()
    assert read(open_by_handle_at(mounted.path, file, os.O_RDONLY)) == b"content"
    assert (mounted.path / "moved").stat().st_ino == number
    descriptor = open_by_handle_at(mounted.path, directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        assert os.listdir(descriptor) == []
        assert os.stat("..", dir_fd=descriptor).st_ino == (mounted.path / "a").stat().st_ino
    finally:
        os.close(descriptor)


def test_the_handle_of_a_removed_file_is_stale_also_after_a_remount_and_for_a_new_file(
    mounted: Mounted,
) -> None:
    path = mounted.path / "file"
    path.write_bytes(b"old")
    handle = name_to_handle_at(path)
    path.unlink()
    path.write_bytes(b"new")
    fails(errno.ESTALE, lambda: open_by_handle_at(mounted.path, handle, os.O_RDONLY))
    mounted.remount()
    fails(errno.ESTALE, lambda: open_by_handle_at(mounted.path, handle, os.O_RDONLY))


def test_a_handle_finds_a_removed_file_while_somebody_has_it_open(mounted: Mounted) -> None:
    path = mounted.path / "file"
    path.write_bytes(b"content")
    handle = name_to_handle_at(path)
    with path.open("rb"):
        path.unlink()
        assert read(open_by_handle_at(mounted.path, handle, os.O_RDONLY)) == b"content"


def test_inode_numbers_stay_over_a_remount(mounted: Mounted) -> None:
    for name in "abc":
        (mounted.path / name).mkdir()
        (mounted.path / name / "file").touch()
    (mounted.path / "b").rename(mounted.path / "z")
    numbers = {path: path.stat().st_ino for path in mounted.path.rglob("*")}
    mounted.remount()
    assert {path: path.stat().st_ino for path in mounted.path.rglob("*")} == numbers
    assert len(set(numbers.values())) == 6


# ------------------------------------------------------------------------------------ other mounts


@pytest.fixture
def beside(mounted: Mounted) -> Path:
    """Return a directory on the host, beside the mount."""
    path = mounted.workspace / "beside"
    path.mkdir()
    return path


@pytest.fixture
def namespaces() -> None:
    """Skip where a process cannot have mounts of its own that no other sees."""
    try:
        in_child(syscalls.unshare_mounts)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        pytest.skip("/ is no mount point, as in a chroot: mounts made here would be seen elsewhere")


def make_snapshot(mounted: Mounted) -> Path:
    """Make a tree, a snapshot of it, change the tree, and return the snapshot's directory `top`."""
    top = mounted.path / "top"
    (top / "directory").mkdir(parents=True)
    (top / "file").write_bytes(b"before")
    (top / "directory" / "file").write_bytes(b"below")
    os.setxattr(top / "file", "user.note", b"kept")
    (mounted.path / ".snapshots" / "one").mkdir()
    (top / "file").write_bytes(b"after")
    return mounted.path / ".snapshots" / "one" / "top"


def test_a_snapshot_is_bound_to_another_place_as_root_directory_of_something_else(
    mounted: Mounted, beside: Path, namespaces: None
) -> None:
    shown = make_snapshot(mounted)

    def work() -> dict[str, bytes]:
        syscalls.unshare_mounts()
        with mounted_at(shown, beside, "none", MS_BIND):
            syscalls.mount("none", beside, "none", MS_BIND | MS_REMOUNT | MS_RDONLY)
            fails(errno.EROFS, (beside / "new").touch)
            files = [path for path in beside.rglob("*") if path.is_file()]
            return {os.fspath(path.relative_to(beside)): path.read_bytes() for path in files}

    assert in_child(work) == {"file": b"before", "directory/file": b"below"}
    assert not os.listdir(beside)


def test_a_bound_snapshot_stays_readable_while_others_are_taken_and_deleted(
    mounted: Mounted, beside: Path
) -> None:
    shown = make_snapshot(mounted)
    with mounted_at(shown, beside, "none", MS_BIND):
        for label in ("two", "three"):
            (mounted.path / "top" / "file").write_text(label)
            (mounted.path / ".snapshots" / label).mkdir()
        (mounted.path / ".snapshots" / "two").rmdir()
        assert (beside / "file").read_bytes() == b"before"
        assert (beside / ".." / "top" / "file").exists() is False


def test_overlayfs_takes_a_snapshot_as_its_lower_layer(
    mounted: Mounted, beside: Path, namespaces: None
) -> None:
    """What containers do with an image: changes go up, the snapshot stays."""
    shown = make_snapshot(mounted)
    upper, work, merged = (beside / name for name in ("upper", "work", "merged"))
    for directory in (upper, work, merged):
        directory.mkdir()

    def run() -> dict[str, object]:
        syscalls.unshare_mounts()
        options = f"lowerdir={shown},upperdir={upper},workdir={work}"
        with mounted_at("overlay", merged, "overlay", 0, options):
            seen: dict[str, object] = {"file": (merged / "file").read_bytes()}
            seen["note"] = os.getxattr(merged / "file", "user.note")
            (merged / "file").write_bytes(b"changed above")
            (merged / "directory" / "file").unlink()
            (merged / "directory" / "new").write_bytes(b"new")
            seen["changed"] = (merged / "file").read_bytes()
            seen["listing"] = sorted(os.listdir(merged / "directory"))
            return seen

    assert in_child(run) == {
        "file": b"before",
        "note": b"kept",
        "changed": b"changed above",
        "listing": ["new"],
    }
    assert (shown / "file").read_bytes() == b"before"
    assert os.listdir(shown / "directory") == ["file"]


def test_overlayfs_takes_a_directory_of_the_mount_as_its_upper_layer(
    mounted: Mounted, beside: Path, namespaces: None
) -> None:
    """A container whose changes are in tzfs: what it removes is hidden by whiteouts, moved names included."""
    lower, merged = beside / "lower", beside / "merged"
    upper, work = mounted.path / "upper", mounted.path / "work"
    for directory in (lower, lower / "directory", merged, upper, work):
        directory.mkdir()
    for name in ("moved", "removed", "directory/file"):
        (lower / name).write_text(name)

    def run() -> list[str]:
        syscalls.unshare_mounts()
        options = f"lowerdir={lower},upperdir={upper},workdir={work}"
        with mounted_at("overlay", merged, "overlay", 0, options):
            (merged / "moved").rename(merged / "new")
            (merged / "removed").unlink()
            (merged / "directory" / "file").write_text("changed")
            assert (merged / "directory" / "file").read_text() == "changed"
            return sorted(os.listdir(merged))

    assert in_child(run) == ["directory", "new"]
    assert (upper / "new").read_text() == "moved"
    assert (upper / "directory" / "file").read_text() == "changed"
    assert all((upper / name).is_char_device() for name in ("moved", "removed"))
    assert sorted(os.listdir(lower)) == ["directory", "moved", "removed"]


def test_two_mount_namespaces_see_the_same_files_at_once(
    mounted: Mounted, beside: Path, namespaces: None
) -> None:
    """As two containers that share a volume: the other one has it somewhere else, under its own names."""
    (mounted.path / "shared").mkdir()
    (mounted.path / "shared" / "ping").write_text("ping")

    def other() -> str:
        syscalls.unshare_mounts()
        with mounted_at(mounted.path / "shared", beside, "none", MS_BIND):
            syscalls.umount(mounted.path)
            assert not (mounted.path / "shared").exists()
            (beside / "pong").write_text("pong")
            (beside / "ping").rename(beside / "renamed")
            return (beside / "renamed").read_text()

    (mounted.path / "shared" / "pong").exists()
    assert in_child(other) == "ping"
    assert (mounted.path / "shared" / "pong").read_text() == "pong"
    assert sorted(os.listdir(mounted.path / "shared")) == ["pong", "renamed"]


def test_a_mount_within_the_mount_hides_and_shows_again(mounted: Mounted, namespaces: None) -> None:
    (mounted.path / "covered").mkdir()
    (mounted.path / "covered" / "below").touch()

    def work() -> list[list[str]]:
        syscalls.unshare_mounts()
        with mounted_at("tmpfs", mounted.path / "covered", "tmpfs", 0):
            (mounted.path / "covered" / "above").touch()
            covered = os.listdir(mounted.path / "covered")
        return [covered, os.listdir(mounted.path / "covered")]

    assert in_child(work) == [["above"], ["below"]]
