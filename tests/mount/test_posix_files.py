"""File content by every way that programs have: reads and writes, mappings, pipes, rings, locks, watches."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import resource
import signal
import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support import syscalls, uring
from support.mounting import Mounted
from support.syscalls import Inotify
from support.users import in_child
from tzfs.volume import CHUNK_SIZE_DEFAULT

pytestmark = pytest.mark.mount

SIZE_MAX = 2**63 - 1
CHUNK = CHUNK_SIZE_DEFAULT


def fails(code: int, work: Callable[[], object]) -> None:
    """Assert that something is refused with an errno."""
    with pytest.raises(OSError) as caught:  # noqa: PT011 - the errno says more than the words
        work()
    assert caught.value.errno == code, errno.errorcode[caught.value.errno or 0]


@pytest.fixture
def file(place: Path) -> Iterator[int]:
    """Return a descriptor of a new file `file`."""
    descriptor = os.open(place / "file", os.O_CREAT | os.O_RDWR)
    yield descriptor
    os.close(descriptor)


# ------------------------------------------------------------------------------------ sizes


def test_a_file_is_as_long_as_an_offset_can_be_and_stores_nothing_for_holes(file: int) -> None:
    os.ftruncate(file, SIZE_MAX)
    status = os.fstat(file)
    assert (status.st_size, status.st_blocks) == (SIZE_MAX, 0)
    assert os.pread(file, 10, SIZE_MAX - 10) == bytes(10)
    assert os.pwrite(file, b"end", SIZE_MAX - 3) == 3
    assert os.pread(file, 4, SIZE_MAX - 4) == b"\0end"
    os.fsync(file)
    assert os.fstat(file).st_blocks <= 2 * CHUNK // 512


def test_nothing_is_written_beyond_the_longest_file(file: int) -> None:
    """Where an offset would overflow, the kernel itself says EINVAL; at a limit of the process, EFBIG."""
    assert os.pwrite(file, b"123", SIZE_MAX - 3) == 3
    fails(errno.EINVAL, lambda: os.ftruncate(file, -1))
    fails(errno.EINVAL, lambda: os.pwrite(file, b"x", SIZE_MAX))

    def limited() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (CHUNK, CHUNK))
        os.ftruncate(file, CHUNK)
        fails(errno.EFBIG, lambda: os.ftruncate(file, CHUNK + 1))
        fails(errno.EFBIG, lambda: os.pwrite(file, b"x", CHUNK))

    in_child(limited)
    assert os.fstat(file).st_size == CHUNK


def test_blocks_are_those_that_are_stored(mounted: Mounted) -> None:
    path = mounted.path / "file"
    with path.open("wb") as file:
        file.write(b"x" * CHUNK)
        file.seek(1 << 40)
        file.write(b"y" * CHUNK)
    mounted.remount()
    status = path.stat()
    assert status.st_size == (1 << 40) + CHUNK
    assert 0 < status.st_blocks * 512 <= 3 * CHUNK


@pytest.mark.parametrize("size", [1, 4095, 4096, 4097, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK + 7])
def test_what_is_cut_off_comes_back_as_zeros(file: int, size: int) -> None:
    os.write(file, b"x" * 4 * CHUNK)
    os.ftruncate(file, size)
    os.ftruncate(file, 4 * CHUNK)
    assert os.pread(file, 5 * CHUNK, 0) == b"x" * size + bytes(4 * CHUNK - size)


# ------------------------------------------------------------------------------------ open flags


def test_open_flags_mean_what_open_2_says(place: Path) -> None:
    (place / "file").write_bytes(b"content")
    (place / "symlink").symlink_to("file")
    (place / "dangling").symlink_to("made")
    fails(errno.EEXIST, lambda: os.open(place / "file", os.O_CREAT | os.O_EXCL))
    fails(errno.EEXIST, lambda: os.open(place / "dangling", os.O_CREAT | os.O_EXCL))
    fails(errno.ELOOP, lambda: os.open(place / "symlink", os.O_NOFOLLOW))
    fails(errno.ENOTDIR, lambda: os.open(place / "file", os.O_DIRECTORY))
    fails(errno.EISDIR, lambda: os.open(place, os.O_WRONLY))
    fails(errno.ENOENT, lambda: os.open(place / "absent", os.O_RDONLY))
    os.close(os.open(place / "dangling", os.O_CREAT | os.O_WRONLY))
    assert (place / "made").exists()
    os.close(os.open(place / "file", os.O_WRONLY | os.O_TRUNC))
    assert (place / "file").stat().st_size == 0


def test_appends_of_two_descriptors_follow_each_other_wherever_they_stand(place: Path) -> None:
    flags = os.O_CREAT | os.O_WRONLY | os.O_APPEND
    one, other = os.open(place / "file", flags), os.open(place / "file", flags)
    try:
        for number in range(50):
            os.write(one, b"%02d" % number)
            os.lseek(other, 0, os.SEEK_SET)
            os.write(other, b"--")
        os.pwrite(one, b"last", 0)
    finally:
        os.close(one)
        os.close(other)
    assert (place / "file").read_bytes() == b"".join(b"%02d--" % number for number in range(50)) + b"last"


def test_o_direct_reads_and_writes_what_others_see(place: Path, file: int) -> None:
    os.write(file, b"a" * 8192)
    direct = os.open(place / "file", os.O_RDWR | os.O_DIRECT)
    try:
        with mmap.mmap(-1, 4096) as aligned:
            assert os.preadv(direct, [aligned], 4096) == 4096
            assert aligned[:] == b"a" * 4096
            aligned[:] = b"b" * 4096
            assert os.pwritev(direct, [aligned], 4096) == 4096
        assert os.pread(file, 8192, 0) == b"a" * 4096 + b"b" * 4096
    finally:
        os.close(direct)


# ------------------------------------------------------------------------------------ mappings


def test_a_shared_mapping_and_writes_see_each_other(file: int) -> None:
    os.ftruncate(file, 3 * CHUNK)
    with mmap.mmap(file, 0) as mapped:
        mapped[CHUNK - 2 : CHUNK + 2] = b"maps"
        assert os.pread(file, 4, CHUNK - 2) == b"maps"
        os.pwrite(file, b"written", 2 * CHUNK)
        assert mapped[2 * CHUNK : 2 * CHUNK + 7] == b"written"
        mapped.flush()


def test_a_mapping_outlives_its_descriptor_and_its_name(mounted: Mounted) -> None:
    path, kept = mounted.path / "file", mounted.path / "kept"
    path.write_bytes(bytes(CHUNK))
    os.link(path, kept)
    with path.open("r+b") as opened:
        mapped = mmap.mmap(opened.fileno(), 0)
    path.unlink()
    mapped[:5] = b"still"
    mapped.close()
    mounted.remount()
    assert kept.read_bytes()[:6] == b"still\0"


def test_a_private_mapping_changes_nothing(file: int) -> None:
    os.write(file, b"content")
    with mmap.mmap(file, 7, flags=mmap.MAP_PRIVATE) as mapped:
        mapped[:7] = b"changed"
    assert os.pread(file, 7, 0) == b"content"


def test_a_program_runs_from_the_mount(place: Path) -> None:
    program = place / "program"
    program.write_bytes(Path("/bin/true").read_bytes())
    program.chmod(0o755)
    assert os.spawnv(os.P_WAIT, program, ["program"]) == 0
    with program.open("rb"):
        pid = os.posix_spawn("/bin/sleep", ["sleep", "0"], {})
        os.waitpid(pid, 0)


# ------------------------------------------------------------------------------------ moving bytes


def test_sendfile_splice_and_copy_file_range_move_content(place: Path, file: int) -> None:
    content = bytes(range(256)) * 1024
    os.write(file, content)
    target = os.open(place / "target", os.O_CREAT | os.O_RDWR)
    reading, writing = os.pipe()
    try:
        assert os.sendfile(target, file, 0, len(content)) == len(content)
        assert os.pread(target, len(content), 0) == content
        os.ftruncate(target, 0)
        moved = 0
        while moved < len(content):
            taken = os.splice(file, writing, 32768, offset_src=moved)
            while taken:
                given = os.splice(reading, target, taken, offset_dst=moved)
                moved, taken = moved + given, taken - given
        assert os.pread(target, len(content), 0) == content
        assert os.copy_file_range(file, target, 100, 0, 2 * len(content)) == 100
        assert os.fstat(target).st_size == 2 * len(content) + 100
        assert os.pread(target, 100, 2 * len(content)) == content[:100]
    finally:
        for descriptor in (target, reading, writing):
            os.close(descriptor)


def test_sendfile_to_a_socket_as_web_servers_do(file: int) -> None:
    os.write(file, b"x" * 50_000)
    left, right = socket.socketpair()
    with left, right:
        assert os.sendfile(left.fileno(), file, 0, 50_000) > 0
        assert set(right.recv(50_000)) == {ord("x")}


def test_io_uring_writes_reads_and_syncs(file: int) -> None:
    reason = uring.missing()
    if reason is not None:
        pytest.skip(reason)
    with uring.Ring() as ring:
        content = ctypes.create_string_buffer(b"through the ring", 16)
        assert ring.run(uring.OP_WRITE, file, content, CHUNK - 8) == 16
        assert ring.run(uring.OP_FSYNC, file, content, 0) == 0
        found = ctypes.create_string_buffer(32)
        assert ring.run(uring.OP_READ, file, found, CHUNK - 16) == 24
        assert found.raw[:24] == bytes(8) + b"through the ring"


def test_every_kind_of_sync_succeeds(place: Path, file: int) -> None:
    os.write(file, b"x")
    os.fsync(file)
    os.fdatasync(file)
    directory = os.open(place, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
    synchronous = os.open(place / "sync", os.O_CREAT | os.O_WRONLY | os.O_SYNC)
    try:
        assert os.write(synchronous, b"x" * CHUNK) == CHUNK
    finally:
        os.close(synchronous)


def test_an_unknown_ioctl_fails_with_enotty(file: int) -> None:
    fails(errno.ENOTTY, lambda: fcntl.ioctl(file, 0x5401, bytes(64)))


# ------------------------------------------------------------------------------------ locks


def test_flock_excludes_other_opens(place: Path, file: int) -> None:
    other = os.open(place / "file", os.O_RDWR)
    try:
        fcntl.flock(file, fcntl.LOCK_SH)
        fcntl.flock(other, fcntl.LOCK_SH | fcntl.LOCK_NB)
        fails(errno.EAGAIN, lambda: fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB))
        fcntl.flock(file, fcntl.LOCK_UN)
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        os.close(other)


def test_posix_locks_exclude_other_processes_by_range(place: Path, file: int) -> None:
    fcntl.lockf(file, fcntl.LOCK_EX, 10, 0)

    def others() -> tuple[int, int]:
        descriptor = os.open(place / "file", os.O_RDWR)
        refused = 0
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 5)
        except OSError as error:
            refused = error.errno or 0
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 10, 10)
        flock = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 1, 0)
        holder = struct.unpack("hhqqi4x", fcntl.fcntl(descriptor, fcntl.F_GETLK, flock))[4]
        return refused, holder

    assert in_child(others) == (errno.EAGAIN, os.getpid())


def test_open_file_description_locks_exclude_other_opens_by_range(place: Path, file: int) -> None:
    def lock(descriptor: int, start: int) -> None:
        flock = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, start, 10, 0)
        fcntl.fcntl(descriptor, syscalls.F_OFD_SETLK, flock)

    other = os.open(place / "file", os.O_RDWR)
    try:
        lock(file, 0)
        fails(errno.EAGAIN, lambda: lock(other, 5))
        lock(other, 10)
    finally:
        os.close(other)


def test_a_lease_tells_its_holder_before_another_opens_the_file(place: Path, file: int) -> None:
    told: list[int] = []
    before = signal.signal(signal.SIGIO, lambda number, _: told.append(number))
    try:
        fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        assert fcntl.fcntl(file, fcntl.F_GETLEASE) == fcntl.F_WRLCK
        other = place / "file"
        fails(errno.EAGAIN, lambda: in_child(lambda: os.open(other, os.O_RDONLY | os.O_NONBLOCK)))
        assert told == [signal.SIGIO]
        fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_UNLCK)
        assert in_child(lambda: os.open(other, os.O_RDONLY | os.O_NONBLOCK)) > 0
    finally:
        signal.signal(signal.SIGIO, before)


# ------------------------------------------------------------------------------------ watches


def test_inotify_tells_what_programs_do_in_a_directory(place: Path) -> None:
    mask = (
        syscalls.IN_CREATE
        | syscalls.IN_CLOSE_WRITE
        | syscalls.IN_MOVED_FROM
        | syscalls.IN_MOVED_TO
        | syscalls.IN_DELETE
    )
    with Inotify(place, mask) as watch:
        (place / "file").write_text("x")
        (place / "file").rename(place / "moved")
        (place / "moved").unlink()
        assert watch.events() == [
            (syscalls.IN_CREATE, b"file"),
            (syscalls.IN_CLOSE_WRITE, b"file"),
            (syscalls.IN_MOVED_FROM, b"file"),
            (syscalls.IN_MOVED_TO, b"moved"),
            (syscalls.IN_DELETE, b"moved"),
        ]
