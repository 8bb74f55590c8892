"""The API and programs on the mount that write one file at the same time: neither loses what it wrote."""

from __future__ import annotations

import contextlib
import os
import stat
import threading
from collections.abc import Callable, Iterator
from typing import Self

import pytest

import tzfs
from support import machine
from support.mounting import Mounted

pytestmark = pytest.mark.mount

ROUNDS = 150
LINE = 40
"""Bytes of a line: it divides no page, so pages hold lines of both writers."""


@pytest.fixture(scope="module", params=["writeback", "nowriteback"])
def mounted(request: pytest.FixtureRequest) -> Iterator[Mounted]:
    """Mount one filesystem for all tests of this module, in either way of caching."""
    reason = machine.missing_fuse()
    if reason is not None:
        pytest.skip(reason)
    made = Mounted(machine.make_workspace())
    try:
        made.ok("create", made.name)
        made.mount(*(["-o", "nowriteback"] if request.param == "nowriteback" else []))
        yield made
        made.finish()
    finally:
        machine.remove_workspace(made.workspace)


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
