"""The mount as working directory, temporary directory, and store of another mount: nothing hangs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from soak.mounted import Mounted
from support import machine

pytestmark = pytest.mark.mount

ROOT = Path(__file__).parents[2]


def test_tests_of_the_suite_run_in_a_mount() -> None:
    with Mounted("outer") as outer:
        place = outer.mountpoint / "tmp"
        place.mkdir()
        done = subprocess.run(
            [
                *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--rootdir={ROOT}"),
                *("-c", ROOT / "pyproject.toml", ROOT / "tests" / "test_store.py"),
                *("-k", "new_filesystem or comes_back or renaming or archived_filesystem"),
            ],
            cwd=outer.mountpoint,
            env={**os.environ, "TMPDIR": str(place), "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        assert done.returncode == 0, done.stdout[-2000:]
        assert outer.check() == "clean"


def test_a_store_in_a_mount_serves_another_mount() -> None:
    with Mounted("outer") as outer, Mounted("inner") as inner:
        inner.tzfs("umount", "inner")
        inner.store = outer.mountpoint / "store"
        inner.tzfs("create", "inner")
        inner.mount()
        file = inner.mountpoint / "file"
        with file.open("wb") as opened:
            opened.write(b"x" * 300_000)
            opened.flush()
            os.fsync(opened.fileno())
        # Each in its turn writes out what the kernel holds dirty, the outer one with the inner one's log.
        inner.tzfs("snapshot", "inner")
        outer.tzfs("snapshot", "outer")
        assert file.read_bytes() == b"x" * 300_000
        assert inner.check() == "clean"
        inner.tzfs("umount", "inner")
        assert outer.check() == "clean"
        machine.wait_until(lambda: not os.path.ismount(inner.mountpoint))
