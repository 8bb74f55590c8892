"""POSIX ACLs (acl(5)) through the kernel, and through the programs that people use."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from support.mounting import Mounted
from support.users import ALICE, BOB, CAROL, User, acting_as, umask
from tzfs import acl
from tzfs.acl import GROUP, GROUP_OBJ, MASK, OTHER, USER, USER_OBJ

pytestmark = [pytest.mark.mount, pytest.mark.usefixtures("root")]

ACCESS = acl.ACCESS.decode()
DEFAULT = acl.DEFAULT.decode()
NOBODY = acl.UNDEFINED_ID

needs_setfacl = pytest.mark.skipif(shutil.which("setfacl") is None, reason="setfacl is missing (package acl)")


def an_acl(*entries: tuple[int, int] | tuple[int, int, int]) -> bytes:
    """Return the value of an ACL: (tag, permissions) or (tag, permissions, id)."""
    return acl.encode(
        tuple(acl.AclEntry(*entry, *([NOBODY] if len(entry) == 2 else [])) for entry in entries)
    )


ALICE_READS = an_acl((USER_OBJ, 6), (USER, 4, ALICE.uid), (GROUP_OBJ, 0), (MASK, 4), (OTHER, 0))


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def may(user: User, path: Path) -> str:
    """Return what a user may do with a file: r, w and x."""
    with acting_as(user):
        modes = {"r": os.R_OK, "w": os.W_OK, "x": os.X_OK}
        return "".join(name for name, mode in modes.items() if os.access(path, mode, effective_ids=True))


def run(*command: str | Path) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout


def dump(directory: Path) -> str:
    """Return `getfacl -R` of a directory, by names from it on."""
    done = subprocess.run(
        ["getfacl", "-R", "-n", "."], cwd=directory, check=True, capture_output=True, text=True, timeout=60
    )
    return done.stdout


# ------------------------------------------------------------------------------------ access


def test_an_access_acl_lets_in_whom_it_names_and_is_decided_by_the_kernel(place: Path) -> None:
    file = place / "file"
    file.touch()
    file.chmod(0o600)
    assert may(ALICE, file) == ""
    os.setxattr(file, ACCESS, ALICE_READS)
    assert (may(ALICE, file), may(BOB, file), mode_of(file)) == ("r", "", 0o640)
    os.removexattr(file, ACCESS)
    assert may(ALICE, file) == ""


def test_a_named_group_counts_supplementary_members(place: Path) -> None:
    file = place / "file"
    file.touch()
    value = an_acl((USER_OBJ, 6), (GROUP_OBJ, 0), (GROUP, 6, CAROL.gid), (MASK, 6), (OTHER, 0))
    os.setxattr(file, ACCESS, value)
    assert [may(user, file) for user in (ALICE, BOB, CAROL)] == ["", "rw", "rw"]


def test_chmod_moves_the_mask_and_setting_an_acl_moves_the_mode(place: Path) -> None:
    file = place / "file"
    file.touch()
    value = an_acl((USER_OBJ, 7), (USER, 7, ALICE.uid), (GROUP_OBJ, 5), (MASK, 7), (OTHER, 1))
    os.setxattr(file, ACCESS, value)
    assert mode_of(file) == 0o771
    file.chmod(0o640)
    entries = {(entry.tag, entry.permissions) for entry in acl.parse(os.getxattr(file, ACCESS))}
    assert entries == {(USER_OBJ, 6), (USER, 7), (GROUP_OBJ, 5), (MASK, 4), (OTHER, 0)}
    assert may(ALICE, file) == "r"


def test_an_acl_that_says_no_more_than_a_mode_is_the_mode(place: Path) -> None:
    file = place / "file"
    file.touch()
    os.setxattr(file, ACCESS, an_acl((USER_OBJ, 7), (GROUP_OBJ, 5), (OTHER, 1)))
    assert (mode_of(file), os.listxattr(file)) == (0o751, [])


def test_setting_an_acl_as_a_stranger_to_the_group_drops_set_gid(place: Path) -> None:
    file = place / "file"
    file.touch()
    os.chown(file, ALICE.uid, CAROL.gid)
    file.chmod(0o2755)
    with acting_as(ALICE):
        os.setxattr(file, ACCESS, ALICE_READS)
    assert not mode_of(file) & stat.S_ISGID


def test_only_the_owner_sets_an_acl_and_only_a_directory_has_a_default_one(place: Path) -> None:
    file = place / "file"
    file.touch()
    with acting_as(ALICE), pytest.raises(PermissionError):
        os.setxattr(file, ACCESS, ALICE_READS)
    with pytest.raises(PermissionError):
        os.setxattr(file, DEFAULT, ALICE_READS)
    with pytest.raises(OSError, match="Invalid argument"):
        os.setxattr(file, ACCESS, ALICE_READS[:-3])


# ------------------------------------------------------------------------------------ default

INHERITED = an_acl((USER_OBJ, 7), (USER, 7, ALICE.uid), (GROUP_OBJ, 5), (MASK, 7), (OTHER, 0))


def test_a_default_acl_is_inherited_by_files_and_down_by_directories(place: Path) -> None:
    os.setxattr(place, DEFAULT, INHERITED)
    with umask(0):
        (place / "directory" / "below").mkdir(parents=True)
        (place / "directory" / "file").touch(0o666)
        os.mkfifo(place / "fifo", 0o600)
        (place / "symlink").symlink_to("x")
    for name in ("directory", "directory/below"):
        assert os.getxattr(place / name, DEFAULT) == INHERITED
        assert os.getxattr(place / name, ACCESS) == INHERITED
    assert mode_of(place / "directory" / "file") == 0o660
    assert DEFAULT not in os.listxattr(place / "directory" / "file")
    assert may(ALICE, place / "directory" / "file") == "rw"
    assert mode_of(place / "fifo") == 0o600
    assert os.listxattr(place / "symlink", follow_symlinks=False) == []


def test_the_umask_is_applied_under_a_default_acl_too(place: Path) -> None:
    """Forced, see docs/posix.md: pyfuse3 leaves the umask to the kernel."""
    os.setxattr(place, DEFAULT, INHERITED)
    with umask(0o077):
        (place / "file").touch(0o666)
    assert mode_of(place / "file") == 0o600


def test_a_default_acl_that_is_taken_away_is_inherited_no_more(place: Path) -> None:
    os.setxattr(place, DEFAULT, INHERITED)
    os.removexattr(place, DEFAULT)
    os.removexattr(place, DEFAULT)
    (place / "file").touch()
    assert os.listxattr(place / "file") == []
    with pytest.raises(OSError, match="No data") as caught:
        os.getxattr(place, DEFAULT)
    assert caught.value.errno == errno.ENODATA


# ------------------------------------------------------------------------------------ programs


def make_tree(top: Path) -> None:
    (top / "a" / "b").mkdir(parents=True)
    for name in ("file", "a/file", "a/b/file"):
        (top / name).write_text(name)
    (top / "a" / "link").symlink_to("file")


@needs_setfacl
def test_setfacl_r_and_getfacl_come_back_to_the_same_after_restore(place: Path, tmp_path: Path) -> None:
    make_tree(place)
    run("setfacl", "-R", "-m", f"u:{ALICE.uid}:rX,g:{CAROL.gid}:rwX", place)
    run("setfacl", "-R", "-d", "-m", f"u:{BOB.uid}:rwx", place)
    dumped = dump(place)
    assert f"user:{ALICE.uid}:r-x" in dumped
    assert f"default:user:{BOB.uid}:rwx" in dumped
    (tmp_path / "acls").write_text(dumped)
    run("setfacl", "-R", "-b", place)
    assert dump(place) != dumped
    subprocess.run(["setfacl", f"--restore={tmp_path / 'acls'}"], cwd=place, check=True, timeout=60)
    assert dump(place) == dumped


@needs_setfacl
def test_cp_a_and_tar_keep_acls_attributes_owners_and_times(place: Path, tmp_path: Path) -> None:
    source = place / "source"
    source.mkdir()
    make_tree(source)
    run("setfacl", "-R", "-m", f"u:{ALICE.uid}:rwX,d:g:{CAROL.gid}:rX", source)
    os.setxattr(source / "file", "user.note", b"kept")
    os.chown(source / "a" / "file", ALICE.uid, CAROL.gid)
    outside = tmp_path / "outside"
    run("cp", "-a", source, outside)
    run("cp", "-a", outside, place / "back")
    assert dump(place / "back") == dump(source)
    assert os.getxattr(place / "back" / "file", "user.note") == b"kept"
    assert (place / "back" / "a" / "file").stat().st_mtime_ns == (source / "a" / "file").stat().st_mtime_ns
    run("tar", "--acls", "--xattrs", "-C", source, "-cf", tmp_path / "t.tar", ".")
    (place / "untarred").mkdir()
    run("tar", "--acls", "--xattrs", "-C", place / "untarred", "-xpf", tmp_path / "t.tar")
    assert dump(place / "untarred") == dump(source)


@pytest.fixture
def opened(make_mounted: Callable[..., Mounted]) -> Mounted:
    """Return a mount that other users may enter."""
    return make_mounted(mount=("--allow-other",))


@needs_setfacl
def test_acls_are_shown_and_obeyed_in_a_snapshot_as_they_were(opened: Mounted) -> None:
    top = opened.path / "top"
    top.mkdir()
    make_tree(top)
    (top / "file").chmod(0o600)
    run("setfacl", "-R", "-m", f"u:{ALICE.uid}:rX,d:u:{BOB.uid}:rX", top)
    recorded = dump(top)
    (opened.path / ".snapshots" / "before").mkdir()
    run("setfacl", "-R", "-b", top)
    shown = opened.path / ".snapshots" / "before" / "top"
    assert dump(shown) == recorded
    assert (may(ALICE, shown / "file"), may(ALICE, top / "file")) == ("r", "")
    assert (shown / "file").read_text() == "file"
    opened.remount("--allow-other")
    assert dump(shown) == recorded
    run("cp", "-a", shown, opened.path / "restored")
    assert dump(opened.path / "restored") == recorded
