"""Names and attributes: one directory of files, one kind of call after the other; and listings."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from benchmarks.measuring import Part, Sample, Sizes, Steps, timed
from benchmarks.targets import Target, Unmeasurable

_PAGE = os.urandom(4096)


def _create(path: str) -> None:
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))


def _write_page(path: str) -> None:
    descriptor = os.open(path, os.O_WRONLY)
    os.write(descriptor, _PAGE)
    os.close(descriptor)


def _read_page(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    os.read(descriptor, 4096)
    os.close(descriptor)


def _stat_missing(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.stat(path + ".missing")


def _calls(top: Path, count: int) -> list[tuple[str, Callable[[str], object], list[str]]]:
    """Return (case, call, its arguments) in an order in which each finds what it needs."""
    files = [os.fspath(top / f"f{number:06d}") for number in range(count)]
    renamed = [path + ".renamed" for path in files]
    directories = [os.fspath(top / f"d{number:06d}") for number in range(count)]
    links = [os.fspath(top / f"l{number:06d}") for number in range(count)]
    return [
        ("create", _create, files),
        ("mkdir", os.mkdir, directories),
        ("stat, uncached", os.stat, files),
        ("stat, cached", os.stat, files),
        ("stat, missing", _stat_missing, files),
        ("open + write 4 KiB", _write_page, files),
        ("open + read 4 KiB", _read_page, files),
        ("chmod", lambda path: os.chmod(path, 0o600), files),
        ("setxattr", lambda path: os.setxattr(path, "user.colour", b"green"), files),
        ("rename", lambda path: os.rename(path, path + ".renamed"), files),
        ("symlink", lambda path: os.symlink("f000000", path), links),
        ("unlink", os.unlink, renamed),
        ("rmdir", os.rmdir, directories),
    ]


def files(target: Target, sizes: Sizes) -> Steps:
    """Yield microseconds a call, of each kind of call on files and directories."""
    top = target.directory("metadata")
    try:
        for case, call, paths in _calls(top, sizes.files):
            if case == "stat, uncached":
                try:
                    target.drop_caches()
                except Unmeasurable as error:
                    yield Sample(case, None, "us", str(error))
                    continue

            def work(call: Callable[[str], object] = call, paths: list[str] = paths) -> None:
                for path in paths:
                    call(path)

            yield timed(case, "us", work, len(paths))._replace(keeps_turn=case == "stat, uncached")
    finally:
        shutil.rmtree(top, ignore_errors=True)


def list_with_stat(path: Path) -> int:
    """List a directory, ask for the attributes of each name, and return how many there are."""
    count = 0
    with os.scandir(path) as entries:
        for entry in entries:
            entry.stat(follow_symlinks=False)
            count += 1
    return count


def listings(target: Target, sizes: Sizes) -> Steps:
    """Yield microseconds a name of listings with attributes; the directories stay for the next round."""
    for count in sizes.listings:
        top = target.root / f"listing-{count}"
        if not top.exists():
            top.mkdir()
            for number in range(count):
                _create(f"{top}/name-of-{number:06d}")

        def work(top: Path = top) -> None:
            list_with_stat(top)

        for how in ("uncached", "cached"):
            case = f"list {count:,} names with stat, {how}"
            try:
                if how == "uncached":
                    target.drop_caches()
            except Unmeasurable as error:
                yield Sample(case, None, "us", str(error))
                continue
            yield timed(case, "us", work, count)._replace(keeps_turn=how == "uncached")


PARTS = (
    Part("metadata", "files", files, settles=False),
    Part("metadata", "listings", listings, settles=False),
)
