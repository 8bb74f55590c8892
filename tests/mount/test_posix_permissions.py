"""Owners, modes, set-ID bits and capabilities, as inode(7) and capabilities(7) have them."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from support.users import ALICE, BOB, CAROL, User, acting_as, umask

pytestmark = [pytest.mark.mount, pytest.mark.usefixtures("root")]

CAPABILITY = "security.capability"
NET_RAW = bytes.fromhex("0100000200200000000000000000000000000000")
"""cap_net_raw=ep, version 2: what setcap(8) writes."""


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def owner_of(path: Path) -> tuple[int, int]:
    status = path.lstat()
    return status.st_uid, status.st_gid


def fails(code: int, work: Callable[[], object]) -> None:
    """Assert that something is refused with an errno."""
    with pytest.raises(OSError) as caught:  # noqa: PT011 - the errno says more than the words
        work()
    assert caught.value.errno == code, errno.errorcode[caught.value.errno or 0]


def make_each_type(directory: Path) -> list[Path]:
    """Make one file of each type that can be made."""
    (directory / "file").touch()
    (directory / "directory").mkdir()
    (directory / "symlink").symlink_to("file")
    os.mkfifo(directory / "fifo")
    os.mknod(directory / "socket", stat.S_IFSOCK | 0o644)
    return sorted(directory.iterdir())


# ------------------------------------------------------------------------------------ owners


def test_a_new_file_belongs_to_who_made_it(place: Path) -> None:
    with acting_as(BOB):
        made = make_each_type(place)
    assert {owner_of(path) for path in made} == {(BOB.uid, BOB.gid)}


def test_a_set_gid_directory_gives_its_group_to_what_is_made_in_it_and_the_bit_to_directories(
    place: Path,
) -> None:
    os.chown(place, 0, CAROL.gid)
    place.chmod(0o2777)
    with acting_as(ALICE):
        made = make_each_type(place)
    assert {owner_of(path) for path in made} == {(ALICE.uid, CAROL.gid)}
    assert [path.name for path in made if mode_of(path) & stat.S_ISGID] == ["directory"]


def test_a_file_made_set_gid_keeps_the_bit_only_for_a_member_of_the_group(place: Path) -> None:
    os.chown(place, 0, CAROL.gid)
    place.chmod(0o2777)
    for user in (ALICE, BOB):
        with acting_as(user), umask(0):
            os.close(os.open(place / str(user.uid), os.O_CREAT, 0o2775))
    assert not mode_of(place / str(ALICE.uid)) & stat.S_ISGID
    assert mode_of(place / str(BOB.uid)) & stat.S_ISGID, "bob has carol's group as a supplementary one"


def test_a_renamed_file_keeps_owner_and_group_even_in_a_set_gid_directory(place: Path) -> None:
    (place / "directory").mkdir()
    os.chown(place / "directory", 0, CAROL.gid)
    (place / "directory").chmod(0o2777)
    with acting_as(ALICE):
        (place / "file").touch()
        (place / "file").rename(place / "directory" / "file")
    assert owner_of(place / "directory" / "file") == (ALICE.uid, ALICE.gid)


@pytest.mark.parametrize("mask", [0, 0o022, 0o077, 0o777], ids=oct)
def test_the_umask_takes_bits_from_what_is_made(place: Path, mask: int) -> None:
    with acting_as(ALICE), umask(mask):
        (place / "directory").mkdir(0o777)
        os.close(os.open(place / "file", os.O_CREAT, 0o666))
        os.mkfifo(place / "fifo", 0o666)
        (place / "symlink").symlink_to("file")
    assert mode_of(place / "directory") == 0o777 & ~mask
    assert mode_of(place / "file") == mode_of(place / "fifo") == 0o666 & ~mask
    assert mode_of(place / "symlink") == 0o777


# ------------------------------------------------------------------------------------ who may


def test_permission_is_checked_for_owner_group_supplementary_group_and_others(place: Path) -> None:
    file = place / "file"
    file.write_text("x")
    os.chown(file, ALICE.uid, CAROL.gid)
    file.chmod(0o460)
    allowed = {}
    modes = (os.R_OK, os.W_OK, os.X_OK)
    for name, user in {"alice": ALICE, "bob": BOB, "carol": CAROL, "dora": User(1004, 1004)}.items():
        with acting_as(user):
            allowed[name] = [os.access(file, mode, effective_ids=True) for mode in modes]
    assert allowed == {
        "alice": [True, False, False],
        "bob": [True, True, False],
        "carol": [True, True, False],
        "dora": [False, False, False],
    }


def test_a_sticky_directory_lets_only_owners_remove_and_rename(place: Path) -> None:
    place.chmod(0o1777)
    with acting_as(ALICE):
        (place / "file").touch()
        (place / "directory").mkdir()
    with acting_as(BOB):
        (place / "mine").touch()
        fails(errno.EPERM, (place / "file").unlink)
        fails(errno.EPERM, (place / "directory").rmdir)
        fails(errno.EPERM, lambda: (place / "file").rename(place / "moved"))
        fails(errno.EPERM, lambda: (place / "mine").rename(place / "file"))
        (place / "mine").unlink()
    with acting_as(ALICE):
        (place / "file").rename(place / "moved")
        (place / "moved").unlink()
        (place / "directory").rmdir()


def test_only_root_gives_a_file_away_and_an_owner_changes_the_group_to_one_of_theirs(place: Path) -> None:
    file = place / "file"
    with acting_as(BOB):
        file.touch()
        fails(errno.EPERM, lambda: os.chown(file, ALICE.uid, -1))
        fails(errno.EPERM, lambda: os.chown(file, -1, 4711))
        os.chown(file, -1, CAROL.gid)
    assert owner_of(file) == (BOB.uid, CAROL.gid)
    with acting_as(ALICE):
        fails(errno.EPERM, lambda: file.chmod(0o777))


def test_chmod_by_a_stranger_to_the_group_drops_set_gid(place: Path) -> None:
    file = place / "file"
    file.touch()
    os.chown(file, ALICE.uid, CAROL.gid)
    with acting_as(ALICE):
        file.chmod(0o2755)
    assert mode_of(file) == 0o755
    os.chown(file, BOB.uid, CAROL.gid)
    with acting_as(BOB):
        file.chmod(0o2755)
    assert mode_of(file) == 0o2755


# ------------------------------------------------------------------------------------ set-ID bits


def write(path: Path) -> None:
    with path.open("r+b", buffering=0) as file:
        file.write(b"changed")


def truncate(path: Path) -> None:
    os.truncate(path, 1)


def ftruncate(path: Path) -> None:
    with path.open("r+b", buffering=0) as file:
        file.truncate(1)


def open_truncating(path: Path) -> None:
    path.open("wb").close()


CHANGES = [write, truncate, ftruncate, open_truncating]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize(
    ("before", "after"),
    [(0o6777, 0o777), (0o4666, 0o666), (0o2777, 0o777)],
    ids=["suid sgid", "suid", "sgid"],
)
def test_a_change_by_a_stranger_takes_set_id_bits_and_capabilities(
    place: Path, change: Callable[[Path], None], before: int, after: int
) -> None:
    file = place / "file"
    file.write_bytes(b"content")
    file.chmod(before)
    os.setxattr(file, CAPABILITY, NET_RAW)
    with acting_as(ALICE):
        change(file)
    assert mode_of(file) == after
    assert CAPABILITY not in os.listxattr(file)


@pytest.mark.parametrize("change", [truncate, ftruncate, open_truncating])
def test_truncation_by_a_stranger_to_the_group_takes_set_gid_without_x_too(
    place: Path, change: Callable[[Path], None]
) -> None:
    file = place / "file"
    file.write_bytes(b"content")
    file.chmod(0o2666)
    with acting_as(ALICE):
        change(file)
    assert mode_of(file) == 0o666


def test_writing_leaves_set_gid_without_x_to_a_stranger_as_the_kernel_does_not_ask(place: Path) -> None:
    """Forced, see docs/posix.md: fuse_setattr of the kernel takes set-gid for an execution mark only."""
    file = place / "file"
    file.write_bytes(b"content")
    file.chmod(0o2666)
    with acting_as(ALICE):
        write(file)
    assert mode_of(file) == 0o2666


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_by_a_member_of_the_group_keeps_set_gid_without_x_which_is_no_set_id(
    place: Path, change: Callable[[Path], None]
) -> None:
    file = place / "file"
    file.write_bytes(b"content")
    os.chown(file, 0, CAROL.gid)
    file.chmod(0o2666)
    with acting_as(BOB):
        change(file)
    assert mode_of(file) == 0o2666


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_by_root_keeps_set_id_bits(place: Path, change: Callable[[Path], None]) -> None:
    file = place / "file"
    file.write_bytes(b"content")
    file.chmod(0o6777)
    change(file)
    assert mode_of(file) == 0o6777


def test_chown_takes_set_id_bits_and_capabilities_of_files_but_not_of_directories(place: Path) -> None:
    file, directory = place / "file", place / "directory"
    file.touch()
    directory.mkdir()
    for path in (file, directory):
        os.chown(path, BOB.uid, BOB.gid)
        path.chmod(0o6775)
    os.setxattr(file, CAPABILITY, NET_RAW)
    with acting_as(BOB):
        os.chown(file, -1, CAROL.gid)
        os.chown(directory, -1, CAROL.gid)
    assert (mode_of(file), mode_of(directory)) == (0o775, 0o6775)
    assert CAPABILITY not in os.listxattr(file)


def test_chown_by_an_owner_outside_the_group_takes_set_gid_without_x_too(place: Path) -> None:
    file = place / "file"
    file.touch()
    os.chown(file, BOB.uid, 4711)
    file.chmod(0o2666)
    with acting_as(BOB):
        os.chown(file, -1, CAROL.gid)
    assert mode_of(file) == 0o666


def test_chown_by_root_takes_set_id_bits_too(place: Path) -> None:
    (place / "file").touch(0o777)
    (place / "file").chmod(0o6777)
    os.chown(place / "file", ALICE.uid, ALICE.gid)
    assert mode_of(place / "file") == 0o777


def test_o_trunc_on_a_file_without_set_id_bits_leaves_mode_and_other_attributes_alone(place: Path) -> None:
    file = place / "file"
    file.write_bytes(b"content")
    file.chmod(0o666)
    os.setxattr(file, "user.note", b"kept")
    with acting_as(ALICE):
        open_truncating(file)
    assert (mode_of(file), file.stat().st_size, os.getxattr(file, "user.note")) == (0o666, 0, b"kept")
