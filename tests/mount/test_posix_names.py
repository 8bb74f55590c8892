"""Names, links, limits and extended attributes, as path_resolution(7), rename(2) and xattr(7) have them."""

# The system calls themselves, by their names.
# ruff: noqa: PTH115, PTH208, PTH211

from __future__ import annotations

import errno
import itertools
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from support import syscalls
from support.mounting import Mounted
from support.syscalls import RENAME_EXCHANGE, RENAME_NOREPLACE, RENAME_WHITEOUT, renameat2

pytestmark = pytest.mark.mount

LONG = "n" * 255
TOO_LONG = "n" * 256


def fails(code: int, work: Callable[[], object]) -> None:
    """Assert that something is refused with an errno."""
    with pytest.raises(OSError) as caught:  # noqa: PT011 - the errno says more than the words
        work()
    assert caught.value.errno == code, errno.errorcode[caught.value.errno or 0]


# ------------------------------------------------------------------------------------ names


@pytest.mark.parametrize(
    "name", [LONG, "\u00e9" * 127, "a\nb", " ", "-", "...", "\\", "\udcff\udcfe", "*"], ids=repr
)
def test_a_name_of_any_bytes_up_to_255_comes_back(place: Path, name: str) -> None:
    (place / name).touch()
    assert os.listdir(place) == [name]
    (place / name).rename(place / "x")
    (place / "x").rename(place / name)
    (place / name).unlink()
    assert os.listdir(place) == []


def test_every_operation_refuses_a_name_of_256_bytes(place: Path) -> None:
    (place / "file").touch()
    long = place / TOO_LONG
    for work in (
        long.touch,
        long.mkdir,
        long.unlink,
        long.rmdir,
        long.stat,
        long.readlink,
        lambda: long.symlink_to("x"),
        lambda: os.mkfifo(long),
        lambda: os.link(place / "file", long),
        lambda: long.rename(place / "new"),
        lambda: (place / "file").rename(long),
        lambda: os.truncate(long, 0),
        lambda: os.listxattr(long),
    ):
        fails(errno.ENAMETOOLONG, work)
    assert os.statvfs(place).f_namemax == 255


def test_a_symlink_holds_4095_bytes_and_no_more(place: Path) -> None:
    (place / "longest").symlink_to("t" * 4095)
    assert len(os.readlink(place / "longest")) == (place / "longest").lstat().st_size == 4095
    fails(errno.ENAMETOOLONG, lambda: (place / "too long").symlink_to("t" * 4096))
    fails(errno.ENOENT, lambda: os.symlink("", place / "empty"))


def test_a_missing_name_is_found_once_it_is_made_and_missing_once_it_is_gone(place: Path) -> None:
    """The kernel keeps both answers for a day."""
    for _ in range(3):
        assert not (place / "file").exists()
        (place / "file").touch()
        assert (place / "file").exists()
        (place / "file").unlink()


# ------------------------------------------------------------------------------------ rename


def test_rename_over_a_directory_that_is_not_empty_fails_with_enotempty(place: Path) -> None:
    (place / "a").mkdir()
    (place / "b" / "c").mkdir(parents=True)
    fails(errno.ENOTEMPTY, lambda: (place / "a").rename(place / "b"))
    (place / "b" / "c").rmdir()
    (place / "a").rename(place / "b")
    assert os.listdir(place) == ["b"]


def test_rename_between_files_and_directories_fails(place: Path) -> None:
    (place / "file").touch()
    (place / "directory").mkdir()
    fails(errno.EISDIR, lambda: (place / "file").rename(place / "directory"))
    fails(errno.ENOTDIR, lambda: (place / "directory").rename(place / "file"))


def test_rename_of_a_directory_below_itself_fails(place: Path) -> None:
    (place / "a" / "b" / "c").mkdir(parents=True)
    fails(errno.EINVAL, lambda: (place / "a").rename(place / "a" / "d"))
    fails(errno.EINVAL, lambda: (place / "a").rename(place / "a" / "b" / "c" / "d"))
    fails(errno.ENOTEMPTY, lambda: (place / "a" / "b" / "c").rename(place / "a"))


def test_rename_between_two_names_of_one_file_does_nothing(place: Path) -> None:
    (place / "a").touch()
    os.link(place / "a", place / "b")
    (place / "a").rename(place / "b")
    assert sorted(os.listdir(place)) == ["a", "b"]
    assert (place / "a").stat().st_nlink == 2


def test_rename_noreplace_fails_where_the_name_is_taken(place: Path) -> None:
    (place / "a").write_text("a")
    (place / "b").write_text("b")
    fails(errno.EEXIST, lambda: renameat2(place / "a", place / "b", RENAME_NOREPLACE))
    renameat2(place / "a", place / "c", RENAME_NOREPLACE)
    assert sorted(os.listdir(place)) == ["b", "c"]


def test_rename_exchange_swaps_a_file_and_a_directory_and_counts_links(place: Path) -> None:
    (place / "left" / "directory" / "below").mkdir(parents=True)
    (place / "right").mkdir()
    (place / "right" / "file").write_text("content")
    renameat2(place / "left" / "directory", place / "right" / "file", RENAME_EXCHANGE)
    assert (place / "left" / "directory").read_text() == "content"
    assert (place / "right" / "file" / "below").is_dir()
    assert (place / "left").stat().st_nlink == 2
    assert (place / "right").stat().st_nlink == 3
    assert (place / "right" / "file" / "..").stat().st_ino == (place / "right").stat().st_ino
    fails(errno.ENOENT, lambda: renameat2(place / "left", place / "absent", RENAME_EXCHANGE))
    below = place / "right" / "file" / "below"
    fails(errno.EINVAL, lambda: renameat2(place / "right", below, RENAME_EXCHANGE))
    fails(errno.EINVAL, lambda: renameat2(below, place / "right", RENAME_EXCHANGE))


@pytest.mark.parametrize("target", ["absent", "file", "elsewhere/file"])
def test_rename_whiteout_leaves_a_device_without_number_under_the_old_name(place: Path, target: str) -> None:
    (place / "elsewhere").mkdir()
    for name in ("moved", "file", "elsewhere/file"):
        (place / name).write_text(name)
    renameat2(place / "moved", place / target, RENAME_WHITEOUT)
    assert (place / target).read_text() == "moved"
    left = (place / "moved").lstat()
    assert (left.st_mode, left.st_rdev, left.st_nlink) == (stat.S_IFCHR, 0, 1)
    fails(
        errno.EEXIST, lambda: renameat2(place / "moved", place / target, RENAME_WHITEOUT | RENAME_NOREPLACE)
    )


def test_renaming_a_directory_with_a_whiteout_counts_links(place: Path) -> None:
    (place / "directory").mkdir()
    renameat2(place / "directory", place / "new", RENAME_WHITEOUT | RENAME_NOREPLACE)
    assert (sorted(os.listdir(place)), place.stat().st_nlink) == (["directory", "new"], 3)
    assert stat.S_ISCHR((place / "directory").lstat().st_mode)


@pytest.mark.parametrize(
    "flags", [RENAME_WHITEOUT | RENAME_EXCHANGE, RENAME_NOREPLACE | RENAME_EXCHANGE, 1 << 10]
)
def test_other_rename_flags_fail_with_einval(place: Path, flags: int) -> None:
    (place / "a").touch()
    (place / "b").touch()
    fails(errno.EINVAL, lambda: renameat2(place / "a", place / "b", flags))


# ------------------------------------------------------------------------------------ links


def test_a_directory_has_two_links_and_one_for_each_subdirectory(place: Path) -> None:
    def links() -> int:
        return place.stat().st_nlink

    assert links() == 2
    (place / "a").mkdir()
    (place / "b").mkdir()
    (place / "file").touch()
    assert links() == 4
    (place / "a").rename(place / "b" / "a")
    assert (links(), (place / "b").stat().st_nlink) == (3, 3)
    (place / "b" / "a").rename(place / "c")
    (place / "c").rename(place / "b")
    assert links() == 3
    (place / "b").rmdir()
    assert links() == 2


def test_a_file_counts_its_names_whoever_asks(place: Path) -> None:
    (place / "a").touch()
    with (place / "a").open() as file:
        for count, name in enumerate("bcd", 2):
            os.link(place / "a", place / name)
            assert os.fstat(file.fileno()).st_nlink == (place / name).stat().st_nlink == count
        for count, name in ((3, "a"), (2, "c"), (1, "b"), (0, "d")):
            (place / name).unlink()
            assert os.fstat(file.fileno()).st_nlink == count


def test_a_directory_cannot_have_another_name(place: Path) -> None:
    (place / "a").mkdir()
    fails(errno.EPERM, lambda: os.link(place / "a", place / "b"))


def test_an_open_file_lives_on_without_a_name(place: Path) -> None:
    with (place / "file").open("w+b", buffering=0) as file:
        file.write(b"before")
        (place / "file").unlink()
        file.write(b" and after")
        os.fchmod(file.fileno(), 0o600)
        os.setxattr(file.fileno(), "user.note", b"kept")
        os.fsync(file.fileno())
        file.seek(0)
        assert file.read() == b"before and after"
        status = os.fstat(file.fileno())
        assert (status.st_nlink, status.st_size, stat.S_IMODE(status.st_mode)) == (0, 16, 0o600)
        assert os.getxattr(file.fileno(), "user.note") == b"kept"
        itself = f"/proc/self/fd/{file.fileno()}"
        fails(errno.ENOENT, lambda: os.link(itself, place / "again", src_dir_fd=file.fileno()))


def test_an_open_file_that_was_replaced_lives_on_beside_the_new_one(place: Path) -> None:
    (place / "file").write_text("old")
    (place / "new").write_text("new")
    with (place / "file").open() as file:
        (place / "new").rename(place / "file")
        assert (file.read(), (place / "file").read_text()) == ("old", "new")


def test_a_removed_directory_that_is_somebodys_working_directory_is_empty_and_takes_nothing(
    place: Path,
) -> None:
    (place / "gone").mkdir()
    descriptor = os.open(place / "gone", os.O_RDONLY)
    try:
        (place / "gone").rmdir()
        assert os.fstat(descriptor).st_nlink == 0
        assert os.listdir(descriptor) == []
        fails(errno.ENOENT, lambda: os.open("file", os.O_CREAT, dir_fd=descriptor))
        fails(errno.ENOENT, lambda: os.mkdir("directory", dir_fd=descriptor))
        fails(errno.ENOENT, lambda: os.stat("..file", dir_fd=descriptor))
    finally:
        os.close(descriptor)


def test_what_lived_on_without_a_name_is_gone_after_a_remount(mounted: Mounted) -> None:
    used = os.statvfs(mounted.path).f_files - os.statvfs(mounted.path).f_ffree
    with (mounted.path / "file").open("wb") as file:
        file.write(b"x" * 100_000)
        (mounted.path / "file").unlink()
    mounted.remount()
    assert os.listdir(mounted.path) == []
    assert os.statvfs(mounted.path).f_files - os.statvfs(mounted.path).f_ffree == used


# ------------------------------------------------------------------------------------ types


def test_special_files_keep_their_type_mode_and_device(place: Path, root: None) -> None:
    made = {
        "fifo": (stat.S_IFIFO | 0o640, 0),
        "socket": (stat.S_IFSOCK | 0o600, 0),
        "character": (stat.S_IFCHR | 0o666, os.makedev(1, 3)),
        "block": (stat.S_IFBLK | 0o600, os.makedev(259, 1_048_575)),
        "regular": (stat.S_IFREG | 0o604, 0),
    }
    old = os.umask(0)
    try:
        for name, (mode, device) in made.items():
            os.mknod(place / name, mode, device)
    finally:
        os.umask(old)
    seen = {name: ((place / name).stat().st_mode, (place / name).stat().st_rdev) for name in made}
    assert seen == made
    assert (place / "character").read_bytes() == b""


def test_a_fifo_and_a_unix_socket_work(place: Path) -> None:
    os.mkfifo(place / "fifo")
    reading = os.open(place / "fifo", os.O_RDONLY | os.O_NONBLOCK)
    writing = os.open(place / "fifo", os.O_WRONLY)
    try:
        os.write(writing, b"through")
        assert os.read(reading, 10) == b"through"
    finally:
        os.close(reading)
        os.close(writing)


# ------------------------------------------------------------------------------------ extended attributes


def test_attributes_are_set_created_replaced_listed_and_removed(place: Path) -> None:
    file = place / "file"
    file.touch()
    fails(errno.ENODATA, lambda: os.setxattr(file, "user.a", b"1", os.XATTR_REPLACE))
    os.setxattr(file, "user.a", b"1", os.XATTR_CREATE)
    fails(errno.EEXIST, lambda: os.setxattr(file, "user.a", b"2", os.XATTR_CREATE))
    os.setxattr(file, "user.a", b"2", os.XATTR_REPLACE)
    os.setxattr(file, "user.b", b"")
    assert {name: os.getxattr(file, name) for name in os.listxattr(file)} == {"user.a": b"2", "user.b": b""}
    os.removexattr(file, "user.a")
    fails(errno.ENODATA, lambda: os.getxattr(file, "user.a"))
    fails(errno.ENODATA, lambda: os.removexattr(file, "user.a"))


def test_a_value_has_up_to_64_kib_and_a_name_up_to_255_bytes(place: Path) -> None:
    file = place / "file"
    file.touch()
    value = bytes(range(256)) * 256
    name = "user." + "n" * 250
    os.setxattr(file, name, value)
    assert os.getxattr(file, name) == value
    fails(errno.E2BIG, lambda: os.setxattr(file, name, value + b"x"))
    fails(errno.ERANGE, lambda: os.setxattr(file, name + "n", b""))


@pytest.mark.parametrize("name", ["system.unknown", "unknown.a", "noname"])
def test_an_attribute_of_an_unknown_namespace_is_not_supported(place: Path, name: str) -> None:
    (place / "file").touch()
    fails(errno.EOPNOTSUPP, lambda: os.setxattr(place / "file", name, b""))
    fails(errno.EOPNOTSUPP, lambda: os.getxattr(place / "file", name))
    fails(errno.EOPNOTSUPP, lambda: os.removexattr(place / "file", name))


def test_directories_have_user_attributes_and_symlinks_and_fifos_have_not(place: Path) -> None:
    os.setxattr(place, "user.a", b"1")
    assert os.getxattr(place, "user.a") == b"1"
    (place / "symlink").symlink_to("x")
    os.mkfifo(place / "fifo")
    for path in (place / "symlink", place / "fifo"):
        fails(errno.EPERM, lambda path=path: os.setxattr(path, "user.a", b"", follow_symlinks=False))


def test_trusted_attributes_are_roots(place: Path, root: None) -> None:
    from support.users import ALICE, acting_as  # noqa: PLC0415 - only root gets here

    (place / "file").touch()
    (place / "file").chmod(0o666)
    for name in ("trusted.a", "security.a", "user.a"):
        os.setxattr(place / "file", name, b"1")
    assert set(os.listxattr(place / "file")) == {"trusted.a", "security.a", "user.a"}
    with acting_as(ALICE):
        assert set(os.listxattr(place / "file")) == {"security.a", "user.a"}
        fails(errno.ENODATA, lambda: os.getxattr(place / "file", "trusted.a"))
        fails(errno.EPERM, lambda: os.setxattr(place / "file", "trusted.a", b"2"))


def test_a_thousand_attributes_of_one_file_are_listed(place: Path) -> None:
    (place / "file").touch()
    names = [f"user.{number}" for number in range(1000)]
    for name in names:
        os.setxattr(place / "file", name, name.encode())
    assert sorted(os.listxattr(place / "file")) == sorted(names)
    assert all(os.getxattr(place / "file", name) == name.encode() for name in names)


# ------------------------------------------------------------------------------------ refused


def test_what_pyfuse3_has_no_handler_for_is_refused_as_documented(place: Path) -> None:
    with (place / "file").open("w+b") as file:
        descriptor = file.fileno()
        os.ftruncate(descriptor, 10_000)
        for mode in (0, syscalls.FALLOC_FL_KEEP_SIZE):
            fails(errno.EOPNOTSUPP, lambda mode=mode: syscalls.fallocate(descriptor, mode, 0, 4096))
        assert os.lseek(descriptor, 0, os.SEEK_DATA) == 0
        assert os.lseek(descriptor, 0, os.SEEK_HOLE) == 10_000
        os.posix_fallocate(descriptor, 0, 20_000)
        assert os.fstat(descriptor).st_size == 20_000
    fails(errno.EOPNOTSUPP, lambda: os.open(place, os.O_TMPFILE | os.O_RDWR))


def test_inode_numbers_and_generations_are_never_used_twice(place: Path) -> None:
    seen = set()
    for _, kind in itertools.product(range(5), ("file", "directory")):
        path = place / kind
        path.touch() if kind == "file" else path.mkdir()
        seen.add(path.stat().st_ino)
        path.unlink() if kind == "file" else path.rmdir()
    assert len(seen) == 10
