"""What docs/posix.md says does not work, or works otherwise than on a disk: each line of it, tried."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import shutil
import stat
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from support import syscalls
from support.mounting import Mounted
from support.syscalls import wait_for_tick
from support.users import ALICE, BOB, in_child
from tzfs import acl

pytestmark = pytest.mark.mount

libc = ctypes.CDLL(None, use_errno=True)


def fails(code: int, work: Callable[[], object]) -> None:
    """Assert that something is refused with an errno."""
    with pytest.raises(OSError) as caught:  # noqa: PT011 - the errno says more than the words
        work()
    assert caught.value.errno == code, errno.errorcode[caught.value.errno or 0]


def called(result: int) -> int:
    """Return the result of a function of the C library, or raise its errno."""
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


@pytest.mark.parametrize("mode", [0, 1, 2 | 1, 8, 16, 32, 64 | 1])
def test_fallocate_is_not_supported_in_any_mode(place: Path, mode: int) -> None:
    """The modes: plain, keep size, punch, collapse, zero, insert, unshare."""
    (place / "file").write_bytes(b"x" * 10_000)
    with (place / "file").open("r+b") as file:
        fails(errno.EOPNOTSUPP, lambda: syscalls.fallocate(file.fileno(), mode, 0, 4096))
    assert (place / "file").read_bytes() == b"x" * 10_000


def test_posix_fallocate_writes_zeros_and_keeps_what_is_there(place: Path) -> None:
    (place / "file").write_bytes(b"x" * 5000)
    with (place / "file").open("r+b") as file:
        os.posix_fallocate(file.fileno(), 1000, 20_000)
    assert (place / "file").read_bytes() == b"x" * 5000 + bytes(16_000)
    assert (place / "file").stat().st_blocks


IOCTLS = {
    "FS_IOC_GETFLAGS": (0x80086601, errno.ENOTTY),
    "FS_IOC_SETFLAGS": (0x40086602, errno.ENOTTY),
    "FS_IOC_FSGETXATTR": (0x801C581F, errno.ENOTTY),
    "FS_IOC_GETVERSION": (0x80087601, errno.ENOTTY),
    "FS_IOC_FIEMAP": (0xC020660B, errno.EOPNOTSUPP),
}


@pytest.mark.parametrize("name", IOCTLS)
def test_ioctls_of_disks_are_refused(place: Path, name: str) -> None:
    number, code = IOCTLS[name]
    (place / "file").touch()
    with (place / "file").open("rb") as file:
        fails(code, lambda: fcntl.ioctl(file.fileno(), number, bytearray(32)))


def test_a_clone_is_refused_and_cp_copies_instead(place: Path) -> None:
    (place / "file").write_bytes(b"content" * 1000)
    with (place / "file").open("rb") as source, (place / "clone").open("wb") as target:
        ficlone = 0x40049409
        fails(errno.EOPNOTSUPP, lambda: fcntl.ioctl(target.fileno(), ficlone, source.fileno()))
    subprocess.run(["cp", "--reflink=auto", place / "file", place / "copy"], check=True, timeout=60)
    assert (place / "copy").read_bytes() == b"content" * 1000


def test_statx_shows_no_birth_time_and_all_else(place: Path) -> None:
    basic, birth = 0x7FF, 0x800
    buffer = ctypes.create_string_buffer(256)
    called(libc.statx(syscalls.AT_FDCWD, os.fsencode(place), 0, basic | birth, buffer))
    (mask,) = struct.unpack_from("I", buffer.raw)
    assert mask & basic == basic
    assert not mask & birth


def test_disk_quotas_of_users_are_missing(place: Path, root: None) -> None:
    quotactl_fd, get_info = 443, 0x800005 << 8
    directory = os.open(place, os.O_RDONLY)
    try:
        fails(
            errno.ENOSYS,
            lambda: called(libc.syscall(quotactl_fd, directory, get_info, 0, bytes(64))),
        )
    finally:
        os.close(directory)


def test_a_path_descriptor_names_a_file_and_reads_nothing(place: Path) -> None:
    (place / "file").write_bytes(b"content")
    (place / "link").symlink_to("file")
    named = os.open(place / "file", os.O_PATH)
    link = os.open(place / "link", os.O_PATH | os.O_NOFOLLOW)
    try:
        (place / "file").unlink()
        assert (os.fstat(named).st_size, os.fstat(named).st_nlink) == (7, 0)
        assert stat.S_ISLNK(os.fstat(link).st_mode)
        fails(errno.EBADF, lambda: os.read(named, 1))
        assert Path(f"/proc/self/fd/{named}").read_bytes() == b"content"
    finally:
        os.close(named)
        os.close(link)


def test_setting_an_attribute_to_its_value_and_removing_no_acl_stamp_ctime(place: Path) -> None:
    file = place / "file"
    file.touch()
    os.setxattr(file, "user.note", b"same")
    for work in (
        lambda: os.setxattr(file, "user.note", b"same"),
        lambda: os.removexattr(file, acl.ACCESS),
    ):
        before = file.stat()
        wait_for_tick()
        work()
        assert file.stat().st_ctime_ns > before.st_ctime_ns
        assert file.stat().st_mtime_ns == before.st_mtime_ns


def test_fanotify_tells_what_programs_do_on_the_mount(shared: Mounted, place: Path, root: None) -> None:
    mark_mount, modified, closed = 0x1 | 0x10, 0x2, 0x8
    watch = called(libc.fanotify_init(0x1 | 0x2, os.O_RDONLY))
    try:
        path = os.fsencode(shared.path)
        mask = ctypes.c_uint64(modified | closed)
        called(libc.fanotify_mark(watch, mark_mount, mask, syscalls.AT_FDCWD, path))
        (place / "file").write_text("x")
        found = os.read(watch, 4096)
        length, _, _, _, happened, descriptor, pid = struct.unpack_from("IBBHQii", found)
        assert length == 24
        assert Path(f"/proc/self/fd/{descriptor}").readlink() == place / "file"
        os.close(descriptor)
        assert happened & modified
        assert pid == os.getpid()
    finally:
        os.close(watch)


def test_devices_and_set_ids_are_nothing_on_a_mount_unless_root_allows_them(
    make_mounted: Callable[..., Mounted], root: None
) -> None:
    for options, works in (((), False), (("-o", "suid,dev"), True)):
        mounted = make_mounted(mount=("--allow-other", *options))
        mounted.path.chmod(0o755)
        os.mknod(mounted.path / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
        program = mounted.path / "id"
        shutil.copy("/usr/bin/id", program)
        os.chown(program, ALICE.uid, -1)
        program.chmod(0o4755)
        if works:
            (mounted.path / "null").write_bytes(b"x")
        else:
            fails(errno.EACCES, lambda at=mounted.path: (at / "null").write_bytes(b"x"))
        said = in_child(lambda at=program: subprocess.check_output([at, "-u"], timeout=60), BOB)
        assert int(said) == (ALICE.uid if works else BOB.uid)
