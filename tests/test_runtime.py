"""The lock and the mount record: what others see, and what a killed process leaves."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tzfs import runtime
from tzfs.runtime import MountRecord

RECORD = MountRecord("/mnt/lab", 4711, 5, read_only=False)


def test_only_one_holds_the_lock(tmp_path: Path) -> None:
    held = runtime.try_lock(tmp_path)
    assert held is not None
    assert runtime.is_open(tmp_path)
    assert runtime.holder_pid(tmp_path) == os.getpid()
    assert runtime.try_lock(tmp_path) is None
    held.close()
    held.close()
    assert not runtime.is_open(tmp_path)
    with runtime.try_lock(tmp_path) as again:  # type: ignore[union-attr]
        assert again is not None


def test_looking_does_not_drop_a_lock_of_the_same_process(tmp_path: Path) -> None:
    with runtime.try_lock(tmp_path):  # type: ignore[union-attr]
        for _ in range(2):
            assert runtime.is_open(tmp_path)
            assert runtime.try_lock(tmp_path) is None


def test_a_mount_is_seen_while_it_is_announced(tmp_path: Path) -> None:
    assert runtime.current_mount(tmp_path) is None
    with runtime.try_lock(tmp_path) as held:  # type: ignore[union-attr]
        assert runtime.current_mount(tmp_path) is None
        held.announce(RECORD)
        assert runtime.current_mount(tmp_path) == RECORD
        held.withdraw()
        assert runtime.current_mount(tmp_path) is None
        assert not (tmp_path / "mount.json").exists()


def test_a_lock_without_an_announcement_does_not_revive_an_old_record(tmp_path: Path) -> None:
    with runtime.try_lock(tmp_path) as held:  # type: ignore[union-attr]
        held.announce(RECORD)
    assert runtime.last_mount(tmp_path) == RECORD
    with runtime.try_lock(tmp_path):  # type: ignore[union-attr]
        assert runtime.current_mount(tmp_path) is None


def test_waiting_ends_at_the_deadline_or_when_it_is_pointless(tmp_path: Path) -> None:
    with runtime.try_lock(tmp_path):  # type: ignore[union-attr]
        assert runtime.lock(tmp_path, wait_s=0.05) is None
        assert runtime.lock(tmp_path, wait_s=3600, give_up=lambda: True) is None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": 3}', "null"])
def test_a_damaged_record_is_no_record(tmp_path: Path, text: str) -> None:
    (tmp_path / "mount.json").write_text(text)
    assert runtime.last_mount(tmp_path) is None


HOLD = """
import sys, pathlib, signal
from tzfs import runtime
held = runtime.try_lock(pathlib.Path(sys.argv[1]))
held.announce(runtime.MountRecord("/mnt/lab", 1, 1, False))
print("held", flush=True)
signal.pause()
"""


def test_a_killed_process_leaves_neither_lock_nor_mount(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == b"held\n"
            assert runtime.current_mount(tmp_path) is not None
            assert runtime.try_lock(tmp_path) is None
        finally:
            holder.send_signal(signal.SIGKILL)
            holder.wait(10)
    assert runtime.current_mount(tmp_path) is None
    assert runtime.last_mount(tmp_path) is not None
    with runtime.lock(tmp_path, wait_s=5) as held:  # type: ignore[union-attr]
        assert held is not None
