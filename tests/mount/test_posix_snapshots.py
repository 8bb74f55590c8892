"""`.snapshots` is like any read-only tree: it shows what was recorded, and refuses every change."""

# The system calls themselves, by their names.
# ruff: noqa: PTH208

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from support import syscalls
from support.mounting import Mounted
from support.observe import Record, describe, record
from support.syscalls import DirectoryStream
from support.users import ALICE, CAROL, acting_as
from tzfs import acl

pytestmark = [pytest.mark.mount, pytest.mark.usefixtures("root")]

ACL = acl.encode(
    (
        acl.AclEntry(acl.USER_OBJ, 7, acl.UNDEFINED_ID),
        acl.AclEntry(acl.USER, 5, ALICE.uid),
        acl.AclEntry(acl.GROUP_OBJ, 5, acl.UNDEFINED_ID),
        acl.AclEntry(acl.MASK, 7, acl.UNDEFINED_ID),
        acl.AclEntry(acl.OTHER, 0, acl.UNDEFINED_ID),
    )
)


def make_tree(top: Path) -> None:
    """Make a tree with a file of every type, every kind of attribute, and odd times."""
    (top / "directory" / "below").mkdir(parents=True)
    (top / "empty").mkdir(mode=0o1777)
    (top / "file").write_bytes(bytes(range(256)) * 1000)
    (top / "sparse").touch()
    os.truncate(top / "sparse", 5_000_000)
    (top / "directory" / "file").write_bytes(b"small")
    os.link(top / "directory" / "file", top / "linked")
    (top / "symlink").symlink_to("directory/file")
    (top / "dangling").symlink_to("x" * 4000)
    os.mkfifo(top / "fifo")
    os.mknod(top / "device", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    os.setxattr(top / "file", "user.note", b"n" * 5000)
    os.setxattr(top / "file", "trusted.secret", b"t")
    os.setxattr(top / "directory", "user.note", b"on a directory")
    os.setxattr(top / "file", acl.ACCESS, ACL)
    os.setxattr(top / "directory", acl.DEFAULT, ACL)
    os.chown(top / "linked", ALICE.uid, CAROL.gid)
    (top / "linked").chmod(0o6754)
    syscalls.utimensat(top / "symlink", -5, 2**33 * 10**9 + 1, follow=False)
    syscalls.utimensat(top / "empty", 1, 2)


def change_everything(top: Path) -> None:
    """Change each thing in every way, and replace the rest."""
    with (top / "file").open("r+b") as file:
        file.seek(70_000)
        file.write(b"changed")
        file.truncate(100_000)
    os.truncate(top / "sparse", 1)
    os.removexattr(top / "file", "user.note")
    os.setxattr(top / "file", "trusted.secret", b"other")
    os.removexattr(top / "file", acl.ACCESS)
    os.removexattr(top / "directory", acl.DEFAULT)
    os.setxattr(top / "directory", "user.more", b"new")
    (top / "linked").chmod(0o600)
    os.chown(top / "linked", 0, 0)
    (top / "symlink").unlink()
    (top / "symlink").mkdir()
    (top / "fifo").unlink()
    (top / "device").rename(top / "symlink" / "moved")
    (top / "directory").rename(top / "empty" / "moved")
    (top / "empty" / "new").write_bytes(b"new")
    os.utime(top, (9, 9))


def assert_same(shown: Record, recorded: Record) -> None:
    assert shown == recorded, f"shown / recorded:\n{describe(shown, recorded)}"


@pytest.fixture
def top(mounted: Mounted) -> Path:
    """Return the directory `top` of a mount, with a tree in it."""
    directory = mounted.path / "top"
    directory.mkdir()
    make_tree(directory)
    return directory


def test_a_snapshot_shows_what_was_recorded_whatever_is_done_later(mounted: Mounted, top: Path) -> None:
    recorded = [record(top)]
    mounted.snapshot("first")
    change_everything(top)
    recorded.append(record(top))
    mounted.snapshot("second")
    assert recorded[0] != recorded[1]
    shutil.rmtree(top)
    top.mkdir()
    for _ in range(2):
        for label, was in zip(("first", "second"), recorded, strict=True):
            assert_same(record(mounted.path / ".snapshots" / label / "top"), was)
        assert list(top.iterdir()) == []
        mounted.remount()


def test_a_snapshot_is_the_same_by_number_label_latest_and_from_every_directory(
    mounted: Mounted, top: Path
) -> None:
    txn = mounted.snapshot("label")
    recorded = record(top)
    for name in (str(txn), "label", "latest"):
        assert_same(record(mounted.path / ".snapshots" / name / "top"), recorded)
        assert_same(record(top / ".snapshots" / name), recorded)
    (top / "directory").rename(mounted.path / "elsewhere")
    below = {
        path.removeprefix(b"directory/"): seen
        for path, seen in recorded.items()
        if path.startswith(b"directory/")
    }
    shown = record(mounted.path / "elsewhere" / ".snapshots" / "label")
    assert {path: seen._replace(inode=0) for path, seen in shown.items() if path != b"."} == {
        path: seen._replace(inode=0) for path, seen in below.items()
    }


def test_a_snapshots_directory_is_listed_like_any_other(mounted: Mounted) -> None:
    names = {f"name-{number}" for number in range(1000)}
    for name in names:
        (mounted.path / name).touch()
    shown = mounted.path / ".snapshots" / str(mounted.snapshot())
    for name in names:
        (mounted.path / name).unlink()
    with DirectoryStream(shown) as stream:
        positions = []
        while True:
            position, name_ = stream.tell(), stream.read()
            positions.append((position, name_))
            if name_ is None:
                break
        for position, name_ in positions[::-17]:
            stream.seek(position)
            assert stream.read() == name_
    assert len(positions) == len(names) + 3
    assert {os.fsdecode(name) for _, name in positions if name} == names | {".", ".."}


# ------------------------------------------------------------------------------------ refusals


CHANGES: dict[str, Callable[[Path], object]] = {
    "open for writing": lambda top: os.open(top / "file", os.O_WRONLY),
    "open for both": lambda top: os.open(top / "file", os.O_RDWR),
    "open for appending": lambda top: os.open(top / "file", os.O_WRONLY | os.O_APPEND),
    "open truncating": lambda top: os.open(top / "file", os.O_RDONLY | os.O_TRUNC),
    "create": lambda top: os.open(top / "new", os.O_CREAT),
    "mknod": lambda top: os.mknod(top / "new", stat.S_IFIFO | 0o600),
    "mkdir": lambda top: (top / "new").mkdir(),
    "mkdir below": lambda top: (top / "directory" / "new").mkdir(),
    "symlink": lambda top: (top / "new").symlink_to("x"),
    "link within": lambda top: os.link(top / "file", top / "new"),
    "unlink": lambda top: (top / "file").unlink(),
    "rmdir": lambda top: (top / "empty").rmdir(),
    "truncate": lambda top: os.truncate(top / "file", 1),
    "chmod": lambda top: (top / "file").chmod(0o777),
    "chmod of a directory": lambda top: (top / "directory").chmod(0o777),
    "chown": lambda top: os.chown(top / "file", 1, 1),
    "lchown": lambda top: os.lchown(top / "symlink", 1, 1),
    "utimensat": lambda top: os.utime(top / "file", (1, 1)),
    "utimensat now": lambda top: os.utime(top / "directory"),
    "setxattr": lambda top: os.setxattr(top / "file", "user.new", b"1"),
    "replace an attribute": lambda top: os.setxattr(top / "file", "user.note", b"1", os.XATTR_REPLACE),
    "set an acl": lambda top: os.setxattr(top / "file", acl.ACCESS, ACL),
    "remove an acl": lambda top: os.removexattr(top / "file", acl.ACCESS),
    "removexattr": lambda top: os.removexattr(top / "file", "user.note"),
    "link from the live tree": lambda top: os.link(top / "../../../top/file", top / "new"),
    "rename into": lambda top: (top / "../../../top/file").rename(top / "new"),
    "rename onto": lambda top: (top / "../../../top/file").rename(top / "file"),
    "rename the top": lambda top: top.rename(top.parent / "new"),
    "unlink of a missing name": lambda top: (top / "directory" / "file").unlink(),
}
LEAVING: dict[str, Callable[[Path], object]] = {
    "rename out": lambda top: (top / "file").rename(top / "../../../out"),
    "rename a directory out": lambda top: (top / "directory").rename(top / "../../../out"),
    "link out": lambda top: os.link(top / "file", top / "../../../out"),
    "rename between snapshots": lambda top: (top / "file").rename(top / "../../other/top/new"),
}


@pytest.fixture(scope="module")
def shown(shared: Mounted) -> Path:
    """Return `top` of a snapshot of the shared mount, by a label; another snapshot is `other`."""
    directory = shared.path / "top"
    directory.mkdir()
    make_tree(directory)
    shared.snapshot("one")
    (directory / "later").touch()
    shared.snapshot("other")
    return Path(os.path.realpath(shared.path / ".snapshots" / "one" / "top"))


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_of_a_snapshot_fails_with_erofs(shared: Mounted, shown: Path, name: str) -> None:
    before = record(shown), record(shared.path / "top")
    with pytest.raises(OSError, match="Read-only file system") as caught:
        CHANGES[name](shown)
    assert caught.value.errno == errno.EROFS
    assert (record(shown), record(shared.path / "top")) == before


@pytest.mark.parametrize("name", LEAVING)
def test_leaving_a_snapshot_fails_with_exdev_or_erofs_so_that_mv_copies(
    shared: Mounted, shown: Path, name: str
) -> None:
    before = record(shown)
    with pytest.raises(OSError, match=r"cross-device|Read-only") as caught:
        LEAVING[name](shown)
    assert caught.value.errno == (errno.EROFS if "between" in name else errno.EXDEV)
    assert record(shown) == before
    assert not (shared.path / "out").exists()


def test_what_changes_nothing_works_in_a_snapshot(shown: Path) -> None:
    with (shown / "file").open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
            assert mapped[:256] == bytes(range(256))
        os.fsync(file.fileno())
        assert os.lseek(file.fileno(), 0, os.SEEK_HOLE) == 256_000
    assert os.access(shown / "file", os.R_OK)
    # By the mode, as the kernel decides without us; see docs/posix.md.
    assert os.access(shown / "file", os.W_OK)
    assert os.statvfs(shown).f_namemax == 255


def test_permissions_of_a_snapshot_are_those_of_its_time(shared: Mounted, shown: Path) -> None:
    (shared.path / "top" / "file").chmod(0o666)
    with acting_as(CAROL), pytest.raises(PermissionError):
        (shown / "file").read_bytes()
    with acting_as(ALICE):
        assert (shown / "file").read_bytes()[:2] == b"\0\1"
        assert "trusted.secret" not in os.listxattr(shown / "file")


def test_the_directory_snapshots_itself_takes_only_snapshots(shared: Mounted, shown: Path) -> None:
    snapshots = shared.path / ".snapshots"
    for work, code in (
        ((snapshots / "file").touch, errno.EROFS),
        (lambda: (snapshots / "link").symlink_to("one"), errno.EROFS),
        (lambda: (snapshots / "one").rename(snapshots / "two"), errno.EROFS),
        (lambda: snapshots.rename(shared.path / "moved"), errno.EPERM),
        (snapshots.rmdir, errno.EPERM),
        (snapshots.mkdir, errno.EEXIST),
        ((snapshots / "one").mkdir, errno.EEXIST),
        ((snapshots / "absent").stat, errno.ENOENT),
        ((snapshots / ("n" * 256)).stat, errno.ENAMETOOLONG),
        ((snapshots / ("n" * 256)).mkdir, errno.ENAMETOOLONG),
        (lambda: snapshots.chmod(0o777), errno.EROFS),
        (lambda: os.setxattr(snapshots, "user.a", b""), errno.EROFS),
    ):
        with pytest.raises(OSError, match=r".") as caught:
            work()
        assert caught.value.errno == code, errno.errorcode[caught.value.errno or 0]
    assert ".snapshots" not in os.listdir(shared.path)
