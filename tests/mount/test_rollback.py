"""A rollback on a mount: nothing that the kernel had cached of the present outlives it.

The kernel keeps names, missing names, attributes, listings and pages for a day. Each test fills those caches,
rolls back, and looks again by every way that a program may hold on to a file.
"""

# The system calls themselves, by their names.
# ruff: noqa: PTH208

from __future__ import annotations

import contextlib
import mmap
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import tzfs
from support.mounting import Mounted
from support.observe import Record, describe, record

pytestmark = pytest.mark.mount

LENGTH = 3 * 65536 + 100


def make_goal(top: Path) -> None:
    """Make a tree with one of everything that can be cached."""
    for name in ("stays", "shrinks", "grows", "goes", "replaced"):
        (top / name).write_bytes(b"before" * (LENGTH // 6))
    os.setxattr(top / "stays", "user.note", b"before")
    os.setxattr(top / "stays", "user.removed", b"before")
    os.utime(top / "stays", ns=(1_000_000_001, 2_000_000_002))
    (top / "twin").hardlink_to(top / "stays")
    (top / "link").symlink_to("stays")
    (top / "directory" / "goes").mkdir(parents=True)
    for name in ("kept", "removed"):
        (top / "directory" / name).write_text(name)
    (top / "moved" / "below").mkdir(parents=True)


def change_everything(top: Path) -> None:
    """Make each thing of the goal something else."""
    (top / "stays").write_bytes(b"after." * (LENGTH // 6))
    (top / "stays").chmod(0o600)
    os.setxattr(top / "stays", "user.note", b"after")
    os.removexattr(top / "stays", "user.removed")
    os.setxattr(top / "stays", "user.new", b"after")
    os.truncate(top / "shrinks", 10)
    with (top / "grows").open("ab") as file:
        file.write(b"after" * LENGTH)
    (top / "goes").unlink()
    (top / "new").write_text("after")
    (top / "replaced").unlink()
    (top / "replaced").mkdir()
    (top / "twin").unlink()
    (top / "link").unlink()
    (top / "link").symlink_to("new")
    (top / "directory" / "removed").unlink()
    (top / "directory" / "added").write_text("after")
    (top / "directory" / "goes").rmdir()
    (top / "moved").rename(top / "directory" / "moved")


NAMES = (
    "stays",
    "shrinks",
    "grows",
    "goes",
    "replaced",
    "new",
    "twin",
    "link",
    "directory",
    "moved",
    "never",
)


def fill_caches(top: Path) -> None:
    """Let the kernel learn all there is, and what there is not."""
    record(top)
    for name in (*NAMES, "directory/removed", "directory/added", "directory/goes", "directory/moved"):
        assert os.path.lexists(top / name) == os.path.lexists(top / name)


def without_ctime(found: Record) -> Record:
    """Return a record without ctimes: the kernel stamps one when it is told of size and mtime."""
    return {path: seen._replace(ctime_ns=0) for path, seen in found.items()}


@contextlib.contextmanager
def descriptors(*paths: Path) -> Iterator[list[int]]:
    """Have files and directories open for a while."""
    opened = [os.open(path, os.O_RDONLY) for path in paths]
    try:
        yield opened
    finally:
        for descriptor in opened:
            os.close(descriptor)


@pytest.mark.parametrize("options", [(), ("-o", "nowriteback")], ids=["writeback", "nowriteback"])
def test_a_file_that_lost_the_name_it_knew_has_its_old_content_under_the_other(
    mounted: Mounted, options: tuple[str, ...]
) -> None:
    mounted.remount(*options)
    names = [f"{number:04}" for number in range(3000)]  # more than one look takes
    for name in names:
        (mounted.path / name).touch()
    log = mounted.path / "1500"
    log.write_bytes(b"before")
    (mounted.path / "other").hardlink_to(log)
    (mounted.path / "other").unlink()
    mounted.snapshot("before")
    with log.open("ab") as file:
        file.write(b" and after")
    with log.open("rb") as reader:
        assert reader.read() == b"before and after"
        mounted.ok("rollback", mounted.name, "before")
        reader.seek(0)
        assert reader.read() == log.read_bytes() == b"before"
        assert os.fstat(reader.fileno()).st_size == log.stat().st_size == 6


@pytest.fixture
def top(mounted: Mounted) -> Path:
    """Return a directory that is as at the snapshot `goal` no more, and that the kernel knows by heart."""
    top = mounted.path / "top"
    top.mkdir()
    make_goal(top)
    mounted.snapshot("goal")
    fill_caches(top)
    change_everything(top)
    fill_caches(top)
    return top


def test_after_a_rollback_all_is_as_recorded_whatever_was_cached(mounted: Mounted, top: Path) -> None:
    goal = record(mounted.path / ".snapshots" / "goal" / "top")
    assert record(top) != goal
    assert not (top / "goes").exists()
    mounted.ok("rollback", mounted.name, "goal")
    assert (top / "goes").read_bytes() == b"before" * (LENGTH // 6)
    assert [name for name in NAMES if not os.path.lexists(top / name)] == ["new", "never"]
    assert sorted(os.listdir(top / "directory")) == ["goes", "kept", "removed"]
    found = without_ctime(record(top))
    assert found == without_ctime(goal), describe(found, without_ctime(goal))
    mounted.remount()
    again = record(top)
    assert again == goal, describe(again, goal)


def test_after_a_rollback_descriptors_and_mappings_show_the_goal(mounted: Mounted, top: Path) -> None:
    """One that the goal has not lives on without a name, as after unlink(2)."""
    content = b"before" * (LENGTH // 6)
    with descriptors(top / "stays", top / "grows", top / "shrinks", top / "directory", top / "new") as opened:
        stays, grows, shrinks, directory, new = opened
        mapped = mmap.mmap(stays, mmap.PAGESIZE, prot=mmap.PROT_READ)
        with mapped:
            assert mapped[:6] == b"after."
            assert (os.pread(stays, 6, 0), os.pread(new, 10, 0)) == (b"after.", b"after")
            assert sorted(os.listdir(directory)) == ["added", "kept", "moved"]
            mounted.ok("rollback", mounted.name, "goal")
            assert mapped[:] == content[: mmap.PAGESIZE]
        for descriptor in (stays, grows, shrinks):
            assert os.fstat(descriptor).st_size == len(content)
            assert os.pread(descriptor, LENGTH, 0) == content
        assert os.getxattr(stays, "user.note") == b"before"
        assert os.fstat(stays).st_mtime_ns == 2_000_000_002
        assert os.fstat(stays).st_nlink == 2
        assert sorted(os.listdir(directory)) == ["goes", "kept", "removed"]
        assert os.stat("removed", dir_fd=directory).st_size == len("removed")
        with pytest.raises(FileNotFoundError):
            os.stat("added", dir_fd=directory)
        assert os.fstat(new).st_nlink == 0
        assert os.pread(new, 10, 0) == b"after"


def test_after_a_rollback_a_working_directory_leads_to_the_goal(mounted: Mounted, top: Path) -> None:
    with contextlib.chdir(top / "directory"):
        assert Path("added").read_text() == "after"
        assert not Path("removed").exists()
        mounted.ok("rollback", mounted.name, "goal")
        assert sorted(os.listdir()) == ["goes", "kept", "removed"]
        assert Path("removed").read_text() == "removed"
        assert not Path("added").exists()
        assert Path("../moved/below").is_dir()
        Path("made").write_text("after the rollback")
    assert (top / "directory" / "made").read_text() == "after the rollback"


def test_after_a_rollback_a_file_that_is_open_for_writing_goes_on_from_the_goal(
    mounted: Mounted, top: Path
) -> None:
    """With dirty pages, whose size and times the kernel believes to know better than the daemon."""
    content = b"before" * (LENGTH // 6)
    appending = os.open(top / "shrinks", os.O_RDWR | os.O_APPEND)
    try:
        os.write(appending, b"dirty")
        mounted.ok("rollback", mounted.name, "goal")
        present = mounted.path / ".snapshots" / "latest" / "top" / "shrinks"
        assert present.read_bytes() == b"beforebefodirty"
        assert os.fstat(appending).st_size == len(content)
        os.write(appending, b"appended")
        os.fsync(appending)
        assert os.pread(appending, 2 * LENGTH, 0) == content + b"appended"
    finally:
        os.close(appending)
    mounted.remount()
    assert (top / "shrinks").read_bytes() == content + b"appended"


def test_a_file_that_a_rollback_takes_away_stays_what_it_is_for_who_has_it_open(mounted: Mounted) -> None:
    """As after unlink(2): read, written, mapped and cut, with what was dirty and what was never cached."""
    page = mmap.PAGESIZE
    mounted.snapshot("goal")
    path = mounted.path / "late"
    path.write_bytes(b"a" * LENGTH)
    mounted.remount()
    reading, writing = os.open(path, os.O_RDONLY), os.open(path, os.O_RDWR)
    try:
        os.setxattr(path, "user.note", b"late")
        with (
            mmap.mmap(writing, 2 * page) as shared,
            mmap.mmap(reading, page, prot=mmap.PROT_READ, flags=mmap.MAP_PRIVATE) as private,
        ):
            assert (shared[0], private[0]) == (ord("a"), ord("a"))
            os.pwrite(writing, b"dirty", 65536)
            shared[page] = ord("b")
            mounted.ok("rollback", mounted.name, "goal")
            assert not path.exists()
            expected = bytearray(b"a" * LENGTH)
            expected[page : page + 1], expected[65536:65541] = b"b", b"dirty"
            present = mounted.path / ".snapshots" / "latest" / "late"
            assert present.read_bytes() == expected
            assert (os.fstat(reading).st_nlink, os.fstat(reading).st_size) == (0, LENGTH)
            assert (shared[:], private[:]) == (expected[: 2 * page], expected[:page])
            assert os.pread(reading, LENGTH, 0) == expected
            assert os.getxattr(reading, "user.note") == b"late"
            shared[0] = ord("c")
            shared.flush()
            os.pwrite(writing, b"more", 2 * 65536)
            os.fsync(writing)
        expected[:1], expected[2 * 65536 : 2 * 65536 + 4] = b"c", b"more"
        os.posix_fadvise(reading, 0, 0, os.POSIX_FADV_DONTNEED)
        assert os.pread(reading, LENGTH, 0) == expected
        os.ftruncate(writing, 70_000)
        assert os.pread(reading, LENGTH, 0) == expected[:70_000]
        assert present.stat().st_size == LENGTH
    finally:
        os.close(reading)
        os.close(writing)
    mounted.unmount()
    assert mounted.ok("check", mounted.name).strip() == f"{mounted.name} is clean"


def test_what_was_written_right_before_a_rollback_is_in_the_snapshot_of_the_present(mounted: Mounted) -> None:
    """Although the kernel has sent but a part of it by then."""
    content = os.urandom(8 << 20)
    path = mounted.path / "file"
    path.write_bytes(b"before")
    mounted.snapshot("goal")
    with tzfs.Store.open(mounted.store).open_filesystem(mounted.name) as fs, path.open("r+b", 0) as file:
        assert fs.read_bytes("file") == b"before"
        os.pwrite(file.fileno(), content, 0)
        present = fs.rollback("goal")
        assert os.pread(file.fileno(), 10, 0) == b"before"
        assert present.read_bytes("file") == content


def test_a_file_that_comes_back_is_for_who_has_it_open_what_it_was_then(mounted: Mounted) -> None:
    mounted.snapshot("goal")
    path = mounted.path / "late"
    path.write_bytes(b"a" * LENGTH)
    mounted.snapshot("present")
    opened = os.open(path, os.O_RDWR)
    try:
        mounted.ok("rollback", mounted.name, "goal")
        os.pwrite(opened, b"in between", 65536)
        os.ftruncate(opened, 70_000)
        mounted.ok("rollback", mounted.name, "present")
        assert (os.fstat(opened).st_nlink, os.pread(opened, 2 * LENGTH, 0)) == (1, b"a" * LENGTH)
        os.pwrite(opened, b"now", 0)
        assert path.read_bytes() == b"now" + b"a" * (LENGTH - 3)
    finally:
        os.close(opened)


def test_a_directory_that_comes_back_is_whole_though_somebody_works_in_what_it_was(mounted: Mounted) -> None:
    """The kernel finds no name ever again in a directory that was removed, as long as it has it."""
    top, goal = mounted.path, [Path("f"), Path("sub"), Path("sub/f")]

    def names() -> list[Path]:
        return sorted(path.relative_to(top / "d") for path in (top / "d").rglob("*"))

    (top / "d" / "sub").mkdir(parents=True)
    for directory in ("d", "d/sub"):
        (top / directory / "f").write_text(directory)
    txn = mounted.snapshot()
    for _ in range(3):
        held = [os.open(top / directory, os.O_RDONLY | os.O_DIRECTORY) for directory in ("d", "d/sub")]
        try:
            shutil.rmtree(top / "d")
            mounted.ok("rollback", mounted.name, str(txn))
            assert names() == goal
            assert (top / "d" / "sub" / "f").read_text() == "d/sub"
            (top / "d" / "new").mkdir()
            (top / "d" / "new").rmdir()
            assert sorted(entry.name for entry in os.scandir(top / "d")) == ["f", "sub"]
        finally:
            for descriptor in held:
                os.close(descriptor)
        assert names() == goal


def test_a_directory_that_a_rollback_takes_away_is_empty_for_who_works_in_it(mounted: Mounted) -> None:
    mounted.snapshot("goal")
    (mounted.path / "late").mkdir()
    with contextlib.chdir(mounted.path / "late"):
        Path("file").write_text("late")
        mounted.ok("rollback", mounted.name, "goal")
        assert (Path().stat().st_nlink, os.listdir()) == (0, [])
        with pytest.raises(FileNotFoundError):
            Path("more").write_text("more")
