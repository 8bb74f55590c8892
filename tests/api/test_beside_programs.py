"""The API and programs on the mount that write one file at the same time: neither loses what it wrote."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import subprocess
import threading
from collections.abc import Callable, Iterator
from typing import Self

import pytest

import tzfs
from support.mounting import TZFS, Mounted, mounting

pytestmark = pytest.mark.mount

ROUNDS = 150
LINE = 40
"""Bytes of a line: it divides no page, so pages hold lines of both writers."""


@pytest.fixture(scope="module", params=["writeback", "nowriteback"])
def mounted(request: pytest.FixtureRequest) -> Iterator[Mounted]:
    """Mount one filesystem for all tests of this module, in either way of caching."""
    with mounting() as make:
        yield make(mount=["-o", "nowriteback"] if request.param == "nowriteback" else [])


@pytest.fixture
def fs(mounted: Mounted) -> Iterator[tzfs.Filesystem]:
    """Return the mounted filesystem by way of the API, empty."""
    with tzfs.Store.open(mounted.store).open_filesystem(mounted.name) as opened:
        opened.rmtree("/")
        yield opened


class Program(threading.Thread):
    """Calls a function with 0, 1, 2 ... until its `with` block is left; `count` says how often it returned.

    A thread is program enough: its system calls leave the GIL to the API's, and the daemon is a process of
    its own.
    """

    def __init__(self, function: Callable[[int], object]) -> None:
        super().__init__()
        self._function = function
        self._is_over = False
        self._error: BaseException | None = None
        self._counted = threading.Condition()
        self.count = 0

    def run(self) -> None:
        try:
            while not self._is_over:
                self._function(self.count)
                with self._counted:
                    self.count += 1
                    self._counted.notify_all()
        except BaseException as error:  # noqa: BLE001 a thread must tell
            self._error = error

    def wait_for(self, count: int) -> None:
        """Return when the function has returned `count` times."""
        with self._counted:
            assert self._counted.wait_for(lambda: self.count >= count, timeout=60)

    def __enter__(self) -> Self:
        self.start()
        self.wait_for(1)
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over = True
        self.join(60)
        assert not self.is_alive()
        assert self._error is None


def line(writer: str, number: int) -> bytes:
    return f"{writer} {number:0{LINE - len(writer) - 2}}\n".encode()


def numbers(seen: bytes, writer: str) -> list[int]:
    """Return the numbers of a writer's lines in a content that has nothing but whole lines."""
    lines = seen.splitlines(keepends=True)
    assert {len(found) for found in lines} <= {LINE}
    assert b"\0" not in seen
    return [int(found.split()[1]) for found in lines if found.startswith(writer.encode())]


def content(mounted: Mounted, fs: tzfs.Filesystem, name: str) -> bytes:
    """Return what a file holds; the page cache, the live tree and a snapshot must agree upon it."""
    seen = (mounted.path / name).read_bytes()
    assert (mounted.path / name).stat().st_size == len(seen)
    assert fs.read_bytes(name) == seen
    with fs.snapshot() as snapshot:
        assert snapshot.read_bytes(name) == seen
    return seen


@contextlib.contextmanager
def appending(mounted: Mounted, name: str) -> Iterator[Program]:
    """Append lines to a file, without a pause."""
    with (
        (mounted.path / name).open("ab", buffering=0) as file,
        Program(lambda number: file.write(line("program", number))) as program,
    ):
        yield program


def test_what_both_write_between_each_other_survives(mounted: Mounted, fs: tzfs.Filesystem) -> None:
    # Even lines are the API's, odd ones the program's, so that every page has both.
    fs.write_bytes("shared", b"")
    with (mounted.path / "shared").open("r+b", buffering=0) as file, fs.open("shared", "r+b", 0) as ours:
        descriptor = file.fileno()
        with Program(
            lambda number: os.pwrite(descriptor, line("program", number), (2 * (number % ROUNDS) + 1) * LINE)
        ) as program:
            for number in range(ROUNDS):
                ours.seek(2 * number * LINE)
                ours.write(line("api", number))
            program.wait_for(ROUNDS)
    seen = content(mounted, fs, "shared")
    assert numbers(seen, "api") == list(range(ROUNDS))
    last = program.count - ROUNDS
    assert sorted(numbers(seen, "program")) == list(range(last, program.count))


def test_what_both_append_survives(mounted: Mounted, fs: tzfs.Filesystem) -> None:
    with appending(mounted, "log") as program, fs.open("log", "ab", buffering=0) as ours:
        for number in range(ROUNDS):
            ours.write(line("api", number))
    seen = content(mounted, fs, "log")
    assert numbers(seen, "api") == list(range(ROUNDS))
    assert numbers(seen, "program") == list(range(program.count))


def test_changes_that_are_not_of_the_content_leave_it_alone(mounted: Mounted, fs: tzfs.Filesystem) -> None:
    with appending(mounted, "log") as program:
        for number in range(ROUNDS // 5):
            fs.chmod("log", 0o600 if number % 2 else 0o640)
            fs.setxattr("log", "user.number", b"%d" % number)
            fs.utime("log", ns=(number, number))
            fs.link("log", "other")
            fs.remove("other")
            fs.rename("log", "moved")
            fs.rename("moved", "log")
    assert numbers(content(mounted, fs, "log"), "program") == list(range(program.count))
    assert stat.S_IMODE((mounted.path / "log").stat().st_mode) == stat.S_IMODE(fs.stat("log").st_mode)


@pytest.mark.parametrize("way", ["open", "write_bytes", "truncate"])
def test_a_file_that_lost_the_name_it_knows_is_changed_in_turn_by_the_name_that_is_left(
    mounted: Mounted, fs: tzfs.Filesystem, way: str
) -> None:
    with appending(mounted, "log") as program, fs.open("log", "ab", buffering=0) as ours:
        fs.link("log", "other")  # the name that it knows from now on
        fs.remove("other")
        for number in range(ROUNDS // 5):
            if way == "open":
                ours.write(line("api", number))
            elif way == "write_bytes":
                fs.write_bytes("log", line("api", number))
            else:
                fs.truncate("log", 0)
            changed_at = program.count
            program.wait_for(changed_at + 3)
    seen = content(mounted, fs, "log")
    found = numbers(seen, "program")
    assert found == list(range(found[0], program.count))
    assert found[0] <= (0 if way == "open" else changed_at + 1)
    assert numbers(seen, "api") == {"open": list(range(ROUNDS // 5)), "write_bytes": [number]}.get(way, [])


@pytest.mark.parametrize("options", [(), ("-o", "nowriteback")], ids=["writeback", "nowriteback"])
def test_a_daemon_that_may_not_write_a_file_cuts_it_nevertheless(
    make_mounted: Callable[..., Mounted], options: tuple[str, ...]
) -> None:
    if os.geteuid() == 0 and shutil.which("setpriv") is None:
        pytest.skip("setpriv is missing: root cannot give up its right to write every file")
    mounted = make_mounted()
    mounted.unmount()
    # A daemon of root without this right is let past the modes of files no more than another user's.
    give_up = ["setpriv", "--bounding-set=-dac_override"] if os.geteuid() == 0 else []
    command = [*give_up, *TZFS, "mount", mounted.name, str(mounted.path), *options]
    environment = {**os.environ, "TZFS_STORE": str(mounted.store)}
    subprocess.run(command, env=environment, timeout=60, check=True)
    ways: list[Callable[[tzfs.Filesystem, str], object]] = [
        lambda fs, name: fs.write_bytes(name, b"y" * 10),
        lambda fs, name: fs.truncate(name, 10),
        lambda fs, name: fs.open(name, "wb").close(),
    ]
    with tzfs.Store.open(mounted.store).open_filesystem(mounted.name) as fs:
        for number, way in enumerate(ways):
            name, path = f"read-only-{number}", mounted.path / f"read-only-{number}"
            fs.write_bytes(name, b"x" * 1000, mode=0o444)
            with path.open("rb") as file:
                assert len(file.read()) == 1000
                way(fs, name)
                assert os.fstat(file.fileno()).st_size == path.stat().st_size == fs.stat(name).st_size <= 10
            assert path.read_bytes() == fs.read_bytes(name)
            assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(fs.stat(name).st_mode) == 0o444


@pytest.mark.parametrize("length", [0, 3, 2000])
def test_what_is_appended_after_a_file_was_replaced_stands_behind_the_new_content(
    mounted: Mounted, fs: tzfs.Filesystem, length: int
) -> None:
    with appending(mounted, "log") as program:
        for number in range(ROUNDS // 5):
            fs.write_bytes("log", line("api", number) * length)
            replaced_at = program.count
            program.wait_for(replaced_at + 3)
    seen = content(mounted, fs, "log")
    assert numbers(seen, "api") == [number] * length
    assert seen.startswith(line("api", number) * length)
    found = numbers(seen, "program")
    assert found == list(range(found[0], program.count))
    assert found[0] <= replaced_at + 1


def test_what_is_appended_after_a_file_was_cut_survives(mounted: Mounted, fs: tzfs.Filesystem) -> None:
    with appending(mounted, "log") as program:
        for _ in range(ROUNDS // 5):
            fs.truncate("log", 0)
            cut_at = program.count
            program.wait_for(cut_at + 3)
    found = numbers(content(mounted, fs, "log"), "program")
    assert found == list(range(found[0], program.count))
    assert found[0] <= cut_at + 1
