"""Which operation moves which time: of the object, of its directory, and what still holds after a remount."""

from __future__ import annotations

import mmap
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from support import syscalls
from support.mounting import Mounted
from support.syscalls import NOW, OMIT, wait_for_tick

pytestmark = pytest.mark.mount

NOTHING = ()
C = ("ctime",)
MC = ("mtime", "ctime")
MTIME = ("mtime",)

SECOND = 10**9


def times_of(path: Path) -> dict[str, int]:
    status = path.lstat()
    return {"atime": status.st_atime_ns, "mtime": status.st_mtime_ns, "ctime": status.st_ctime_ns}


def moved(before: dict[str, int], path: Path) -> tuple[str, ...]:
    after = times_of(path)
    return tuple(name for name in ("mtime", "ctime") if before[name] != after[name])


def write(directory: Path) -> None:
    with (directory / "file").open("r+b", buffering=0) as file:
        file.write(b"x")


def write_nothing(directory: Path) -> None:
    with (directory / "file").open("r+b", buffering=0) as file:
        file.write(b"")


def append(directory: Path) -> None:
    with (directory / "file").open("ab", buffering=0) as file:
        file.write(b"x")


def read(directory: Path) -> None:
    (directory / "file").read_bytes()


def map_write(directory: Path) -> None:
    with (directory / "file").open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
        mapped[0] = 1
        mapped.flush()


def ftruncate_to(size: int) -> Callable[[Path], None]:
    def ftruncate(directory: Path) -> None:
        with (directory / "file").open("r+b") as file:
            os.ftruncate(file.fileno(), size)

    return ftruncate


class Case(NamedTuple):
    """An operation on a directory with `file`, `other`, `directory` and `symlink`; what moves of each."""

    name: str
    work: Callable[[Path], object]
    parent: tuple[str, ...]
    object: tuple[str, ...] = NOTHING
    at: str = "file"


CASES = [
    Case("create", lambda d: (d / "new").touch(), MC),
    Case("open an existing file with O_CREAT", lambda d: os.close(os.open(d / "file", os.O_CREAT)), NOTHING),
    Case("open with O_TRUNC", lambda d: (d / "file").open("wb").close(), NOTHING, MC),
    Case("write", write, NOTHING, MC),
    Case("write nothing", write_nothing, NOTHING),
    Case("append", append, NOTHING, MC),
    Case("mapped write", map_write, NOTHING, MC),
    Case("read", read, NOTHING),
    Case("truncate to shorter", lambda d: os.truncate(d / "file", 1), NOTHING, MC),
    Case("truncate to longer", lambda d: os.truncate(d / "file", 100), NOTHING, MC),
    Case("truncate to the same", lambda d: os.truncate(d / "file", 7), NOTHING),
    Case("ftruncate to shorter", ftruncate_to(1), NOTHING, MC),
    Case("ftruncate to the same", ftruncate_to(7), NOTHING, MC),
    Case("chmod", lambda d: (d / "file").chmod(0o600), NOTHING, C),
    Case("chmod to the same", lambda d: (d / "file").chmod(0o644), NOTHING, C),
    Case("chmod of a directory", lambda d: (d / "directory").chmod(0o700), NOTHING, C, "directory"),
    Case("chown", lambda d: os.chown(d / "file", os.getuid(), os.getgid()), NOTHING, C),
    Case("lchown", lambda d: os.lchown(d / "symlink", os.getuid(), os.getgid()), NOTHING, C, "symlink"),
    Case("utimensat", lambda d: os.utime(d / "file", (1, 1)), NOTHING, MC),
    Case("utimensat OMIT NOW", lambda d: syscalls.utimensat(d / "file", OMIT, NOW), NOTHING, MC),
    Case("utimensat NOW OMIT", lambda d: syscalls.utimensat(d / "file", NOW, OMIT), NOTHING, C),
    Case("utimensat OMIT OMIT", lambda d: syscalls.utimensat(d / "file", OMIT, OMIT), NOTHING),
    Case("setxattr", lambda d: os.setxattr(d / "file", "user.a", b"1"), NOTHING, C),
    Case("getxattr", lambda d: os.getxattr(d / "other", "user.old"), NOTHING, NOTHING, "other"),
    Case("removexattr", lambda d: os.removexattr(d / "other", "user.old"), NOTHING, C, "other"),
    Case("link", lambda d: os.link(d / "file", d / "new"), MC, C),
    Case("unlink one of two", lambda d: (d / "second").unlink(), MC, C),
    Case("rename", lambda d: (d / "other").rename(d / "file"), MC, C),
    Case("rename to its own other name", lambda d: (d / "file").rename(d / "second"), NOTHING),
    Case("rename a directory", lambda d: (d / "directory").rename(d / "moved"), MC, C, "moved"),
    Case("symlink", lambda d: (d / "new").symlink_to("file"), MC),
    Case("readlink", lambda d: (d / "symlink").readlink(), NOTHING, NOTHING, "symlink"),
    Case("mkdir", lambda d: (d / "new").mkdir(), MC),
    Case("mkdir below", lambda d: (d / "directory" / "new").mkdir(), NOTHING, MC, "directory"),
    Case("rmdir", lambda d: (d / "directory").rmdir(), MC),
    Case("readdir", lambda d: list(d.iterdir()), NOTHING),
    Case("stat", lambda d: (d / "file").stat(), NOTHING),
]


def prepare(directory: Path) -> None:
    """Make what the cases work on."""
    (directory / "file").write_bytes(b"content")
    (directory / "file").chmod(0o644)
    (directory / "other").touch()
    os.setxattr(directory / "other", "user.old", b"1")
    (directory / "directory").mkdir()
    (directory / "symlink").symlink_to("file")
    os.link(directory / "file", directory / "second")


def origin(case: Case) -> str:
    """Return what the object of a case is called before it."""
    return {"rename": "other", "rename a directory": "directory"}.get(case.name, case.at)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_an_operation_moves_the_times_it_should_and_no_other(place: Path, case: Case) -> None:
    prepare(place)
    parent, target = times_of(place), times_of(place / origin(case))
    wait_for_tick()
    before = time.clock_gettime_ns(syscalls.CLOCK_REALTIME_COARSE)
    case.work(place)
    assert moved(parent, place) == case.parent
    if (place / case.at).exists():
        assert moved(target, place / case.at) == case.object
        now = times_of(place / case.at)
        assert now["ctime"] >= before or "ctime" not in case.object
    if case.parent == MC:
        now = times_of(place)
        assert now["mtime"] == now["ctime"]
        assert before <= now["mtime"] <= time.time_ns()


def test_a_rename_to_another_directory_moves_the_times_of_both(place: Path) -> None:
    (place / "a").mkdir()
    (place / "b").mkdir()
    (place / "a" / "file").touch()
    before = {name: times_of(place / name) for name in ("a", "b")}
    above = times_of(place)
    wait_for_tick()
    (place / "a" / "file").rename(place / "b" / "file")
    assert {name: moved(before[name], place / name) for name in before} == {"a": MC, "b": MC}
    assert moved(above, place) == NOTHING


def test_a_failed_operation_moves_nothing(place: Path) -> None:
    (place / "directory").mkdir()
    (place / "directory" / "file").touch()
    before = times_of(place), times_of(place / "directory"), times_of(place / "directory" / "file")
    wait_for_tick()
    for work in (
        (place / "directory").rmdir,
        (place / "directory").unlink,
        (place / "directory").mkdir,
        lambda: os.setxattr(place / "directory" / "file", "unknown.a", b""),
        lambda: os.removexattr(place / "directory" / "file", "user.absent"),
        lambda: os.link(place / "directory" / "file", place / "directory"),
        lambda: (place / "absent").rename(place / "directory"),
        lambda: (place / "directory").rename(place / "directory" / "below"),
    ):
        with pytest.raises(OSError, match=r"directory|exists|supported|available|Invalid"):
            work()
    after = times_of(place), times_of(place / "directory"), times_of(place / "directory" / "file")
    assert after == before


@pytest.mark.parametrize(
    "when",
    [
        0,
        1,
        -1,
        -SECOND - 1,
        2**31 * SECOND,
        2**32 * SECOND + 5,
        9_000_000_000 * SECOND,
        -9_000_000_000 * SECOND,
    ],
)
@pytest.mark.parametrize("kind", ["file", "directory", "symlink"])
def test_times_far_before_and_after_today_come_back_to_the_nanosecond(
    place: Path, kind: str, when: int
) -> None:
    path = place / kind
    {"file": path.touch, "directory": path.mkdir, "symlink": lambda: path.symlink_to("x")}[kind]()
    syscalls.utimensat(path, when + 7, when, follow=False)
    assert (path.lstat().st_atime_ns, path.lstat().st_mtime_ns) == (when + 7, when)


def test_all_times_are_the_same_after_a_remount(mounted: Mounted) -> None:
    """What the kernel shows from its caches is what the daemon has stored."""
    directories = []
    for number in range(len(CASES)):
        directory = mounted.path / str(number)
        directory.mkdir()
        directories.append(directory)
        prepare(directory)
        # The kernel must have no times left to write out, which would cover what the daemon stored.
        with (directory / "file").open() as file:
            os.fsync(file.fileno())
    wait_for_tick()
    for directory, case in zip(directories, CASES, strict=True):
        case.work(directory)
    paths = [path for directory in directories for path in (directory, *directory.rglob("*"))]
    assert len(paths) > 5 * len(CASES)
    shown = {path: times_of(path) for path in paths}
    mounted.remount()
    assert {path: times_of(path) for path in paths} == shown


def test_without_the_writeback_cache_the_daemon_stamps_the_same(
    make_mounted: Callable[..., Mounted],
) -> None:
    """But for truncation to the same size, where it stamps as ext4 does."""
    mounted = make_mounted(mount=("-o", "nowriteback"))
    for case in CASES:
        directory = mounted.path / case.name
        directory.mkdir()
        prepare(directory)
        parent, target = times_of(directory), times_of(directory / origin(case))
        wait_for_tick()
        case.work(directory)
        assert moved(parent, directory) == case.parent, case.name
        if (directory / case.at).exists():
            expected = MC if case.name == "truncate to the same" else case.object
            assert moved(target, directory / case.at) == expected, case.name


def test_reading_leaves_the_access_time_alone(place: Path) -> None:
    """As with the option noatime; see docs/posix.md."""
    file = place / "file"
    file.write_bytes(b"content")
    before = times_of(file), times_of(place)
    wait_for_tick()
    file.read_bytes()
    list(place.iterdir())
    assert (times_of(file), times_of(place)) == before


def test_the_clock_of_the_mount_is_that_of_the_host(place: Path, tmp_path: Path) -> None:
    (place / "first").touch()
    wait_for_tick()
    (tmp_path / "second").touch()
    wait_for_tick()
    (place / "third").touch()
    stamps = [path.stat().st_mtime_ns for path in (place / "first", tmp_path / "second", place / "third")]
    assert stamps == sorted(stamps)
