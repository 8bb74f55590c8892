"""Time travel as a shell sees it: everything written is in the snapshot, and comes back out of it."""

from __future__ import annotations

import filecmp
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from support.mounting import Mounted

pytestmark = pytest.mark.mount


def assert_same_tree(one: Path, other: Path) -> None:
    """Compare two trees with diff(1), names and contents."""
    done = subprocess.run(["diff", "-r", one, other], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def make_tree(directory: Path, generation: int) -> None:
    """Write a few files of many sizes, some of them anew in each generation."""
    for number in range(12):
        below = directory / f"d{number % 3}"
        below.mkdir(exist_ok=True)
        size = [0, 1, 4096, 65536, 65537, 300_000][number % 6]
        (below / f"f{number}-{generation % 2}").write_bytes(os.urandom(size))


def test_what_was_removed_is_in_the_snapshot_and_comes_back_with_cp(mounted: Mounted, tmp_path: Path) -> None:
    make_tree(mounted.path, 0)
    shutil.copytree(mounted.path, tmp_path / "copy", symlinks=True)
    txn = mounted.snapshot("before")
    for entry in mounted.path.iterdir():
        shutil.rmtree(entry)
    assert list(mounted.path.iterdir()) == []
    for name in (str(txn), "before", "latest"):
        assert_same_tree(mounted.path / ".snapshots" / name, tmp_path / "copy")
    everything = f"{mounted.path}/.snapshots/before/."  # a Path would lose the dot
    subprocess.run(["cp", "-a", everything, mounted.path], check=True, timeout=60)
    assert_same_tree(mounted.path, tmp_path / "copy")


def test_each_snapshot_shows_its_own_time_also_after_a_remount(mounted: Mounted, tmp_path: Path) -> None:
    for generation in range(5):
        make_tree(mounted.path, generation)
        (mounted.path / ".snapshots" / f"g{generation}").mkdir()
        shutil.copytree(mounted.path, tmp_path / f"g{generation}")
    for _ in range(2):
        for generation in range(5):
            assert_same_tree(mounted.path / f".snapshots/g{generation}", tmp_path / f"g{generation}")
        mounted.remount()
    (mounted.path / ".snapshots/g2").rmdir()
    for generation in (0, 1, 3, 4):
        assert_same_tree(mounted.path / f".snapshots/g{generation}", tmp_path / f"g{generation}")


def test_a_snapshot_holds_a_write_that_no_one_has_synced(mounted: Mounted) -> None:
    with (mounted.path / "open").open("wb", buffering=0) as file:
        file.write(b"x" * 200_000)
        mounted.snapshot("now")
        file.write(b"y" * 200_000)
        assert (mounted.path / ".snapshots/now/open").read_bytes() == b"x" * 200_000
    assert (mounted.path / "open").stat().st_size == 400_000


def test_a_small_chunk_size_keeps_files_right(make_mounted: Callable[..., Mounted], tmp_path: Path) -> None:
    mounted = make_mounted("--chunk-size", "512")
    make_tree(mounted.path, 0)
    make_tree(tmp_path, 0)
    shutil.copytree(tmp_path, mounted.path, dirs_exist_ok=True)
    mounted.remount()
    for directory in tmp_path.iterdir():
        names = [entry.name for entry in directory.iterdir()]
        assert filecmp.cmpfiles(directory, mounted.path / directory.name, names, shallow=False)[0] == names
