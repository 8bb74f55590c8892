"""Listing directories: positions, names that come and go meanwhile, and sizes beyond every buffer."""

# The system calls themselves, by their names.
# ruff: noqa: PTH208

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from support.syscalls import DirectoryStream

pytestmark = pytest.mark.mount

MANY = 2000
"""Some eighty of the kernel's buffers. The million is `python -m tests.soak directory`."""


def fill(directory: Path, count: int = MANY) -> set[bytes]:
    """Make files, and return their names."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        for number in range(count):
            os.close(os.open(f"name-{number}", os.O_CREAT | os.O_EXCL | os.O_WRONLY, dir_fd=descriptor))
    finally:
        os.close(descriptor)
    return {b"name-%d" % number for number in range(count)}


def test_a_listing_has_every_name_once_and_the_dots_first(place: Path) -> None:
    names = fill(place)
    with DirectoryStream(place) as stream:
        assert [stream.read(), stream.read()] == [b".", b".."]
        listed = list(stream.names())
        assert stream.read() is None
    assert len(listed) == MANY
    assert set(listed) == names


def test_telldir_and_seekdir_go_to_every_position_in_any_order(place: Path) -> None:
    fill(place, 500)
    with DirectoryStream(place) as stream:
        positions = []
        while True:
            position, name = stream.tell(), stream.read()
            positions.append((position, name))
            if name is None:
                break
        assert len({position for position, _ in positions}) == len(positions)
        for position, name in [*positions[::-1], *positions[::7], *positions[::-13]]:
            stream.seek(position)
            assert stream.read() == name


def test_a_position_holds_although_names_before_and_after_it_go(place: Path) -> None:
    fill(place, 1000)
    with DirectoryStream(place) as stream:
        first = [stream.read() for _ in range(400)]
        position = stream.tell()
        rest = list(stream.names())
        gone = {name for name in first[2::2] if name is not None} | set(rest[::3])
        for name in gone:
            (place / os.fsdecode(name)).unlink()
        (place / "new").touch()
        os.listdir(place)
        stream.seek(position)
        again = list(stream.names())
    assert [name for name in again if name != b"new"] == [name for name in rest if name not in gone]


def test_rewinddir_shows_what_has_come_and_gone(place: Path) -> None:
    names = fill(place, 300)
    with DirectoryStream(place) as stream:
        list(stream.names())
        (place / "new").touch()
        (place / "name-7").unlink()
        stream.rewind()
        assert set(stream.names()) == names - {b"name-7"} | {b"new"}


def test_two_listings_of_one_directory_do_not_disturb_each_other(place: Path) -> None:
    names = fill(place, 1000)
    with DirectoryStream(place) as one, DirectoryStream(place) as other:
        seen: tuple[list[bytes], list[bytes]] = ([], [])
        for left, right in zip(one.names(), other.names(), strict=True):
            seen[0].append(left)
            seen[1].append(right)
    assert set(seen[0]) == set(seen[1]) == names
    assert len(seen[0]) == len(seen[1]) == len(names)


def test_removing_while_listing_empties_a_directory_in_one_pass(place: Path) -> None:
    """As rm -r does."""
    fill(place)
    with DirectoryStream(place) as stream:
        for name in stream.names():
            (place / os.fsdecode(name)).unlink()
    assert os.listdir(place) == []


def test_renaming_while_listing_ends_and_skips_nothing(place: Path) -> None:
    names = fill(place, 1000)
    renamed = set()
    with DirectoryStream(place) as stream:
        for count, name in enumerate(stream.names()):
            assert count < 5000, "a listing must not chase its own new names for ever"
            if name in names:
                (place / os.fsdecode(name)).rename(place / f"moved-{count}")
                renamed.add(name)
    assert renamed == names
    assert len(os.listdir(place)) == len(names)


def test_what_stands_while_others_come_and_go_is_listed_exactly_once(place: Path) -> None:
    standing = fill(place)
    end = threading.Event()

    def churn() -> None:
        number = 0
        while not end.is_set():
            (place / f"coming-{number % 50}").touch()
            (place / f"coming-{(number + 25) % 50}").unlink(missing_ok=True)
            (place / f"moving-{number % 3}").touch()
            (place / f"moving-{number % 3}").rename(place / f"moving-{(number + 1) % 3}")
            number += 1

    thread = threading.Thread(target=churn)
    thread.start()
    try:
        for _ in range(10):
            listed = [os.fsencode(name) for name in os.listdir(place)]
            stood = [name for name in listed if name in standing]
            assert len(stood) == len(standing)
            assert set(stood) == standing
    finally:
        end.set()
        thread.join(60)
    assert not thread.is_alive()


def test_a_directory_with_long_names_needs_many_buffers_and_comes_whole(place: Path) -> None:
    names = {f"{number:03}".ljust(255, "n") for number in range(200)}
    for name in names:
        (place / name).touch()
    assert set(os.listdir(place)) == names


def test_dot_and_dotdot_are_the_directory_and_its_parent_also_after_a_move(place: Path) -> None:
    (place / "a" / "b").mkdir(parents=True)
    (place / "c").mkdir()

    def numbers(path: Path) -> dict[str, int]:
        with os.scandir(path) as _:
            pass
        return {name: (path / name).stat().st_ino for name in (".", "..")}

    here = (place / "a" / "b").stat().st_ino
    assert numbers(place / "a" / "b") == {".": here, "..": (place / "a").stat().st_ino}
    (place / "a" / "b").rename(place / "c" / "b")
    assert numbers(place / "c" / "b") == {".": here, "..": (place / "c").stat().st_ino}
    assert os.path.realpath(place / "c" / "b" / "..") == os.fspath(place / "c")


def test_a_listing_tells_types_and_inode_numbers_as_stat_does(place: Path) -> None:
    (place / "file").touch()
    (place / "directory").mkdir()
    (place / "symlink").symlink_to("x")
    os.mkfifo(place / "fifo")
    with os.scandir(place) as entries:
        for entry in entries:
            status = os.lstat(entry.path)
            assert entry.inode() == status.st_ino
            kinds = {
                "file": entry.is_file(follow_symlinks=False),
                "directory": entry.is_dir(follow_symlinks=False),
                "symlink": entry.is_symlink(),
            }
            assert [name for name, is_it in kinds.items() if is_it] == [
                name for name in kinds if name == entry.name
            ]
