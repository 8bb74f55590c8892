"""A bug in a handler is EIO and a traceback in the log, in a background task a restart: the mount lives."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from soak.mounted import Mounted
from support import machine
from tzfs import failpoints

pytestmark = pytest.mark.mount

ANSWERED = [
    *("lookup", "getattr", "setattr", "readlink", "mknod", "create", "mkdir", "symlink", "link", "unlink"),
    *("rmdir", "rename", "open", "read", "write", "fsync", "opendir", "readdir", "fsyncdir", "statfs"),
    *("getxattr", "setxattr", "listxattr", "removexattr"),
]
UNANSWERED = ["forget", "release", "releasedir"]
TASKS = ["reclaim", "quota", "sync", "space", "losses", "rollback"]
HIT = 9
"""The bug comes at this request of each kind, well after the mount was found to answer."""


def drop_pages(path: Path) -> None:
    """Make the kernel ask for a file's content again."""
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def everything(root: Path, number: int) -> list[Callable[[], object]]:
    """Return one of each system call that leads to a handler, each with a place of its own."""
    place = root / f"round{number}"
    file, other, directory = place / "file", place / "other", place / "directory"

    def sync(path: Path) -> None:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    return [
        place.mkdir,
        lambda: file.write_bytes(b"x" * 5000),
        lambda: os.mknod(place / "node", 0o644),
        file.read_bytes,
        lambda: os.truncate(file, 100),
        lambda: file.chmod(0o600),
        lambda: drop_pages(file),
        lambda: (place / "symlink").symlink_to("somewhere"),
        (place / "symlink").readlink,
        lambda: other.hardlink_to(file),
        lambda: os.setxattr(file, "user.a", b"1"),
        lambda: os.getxattr(file, "user.a"),
        lambda: os.listxattr(file),
        lambda: os.removexattr(file, "user.a"),
        lambda: sync(file),
        lambda: sync(place),
        lambda: list(place.iterdir()),
        lambda: os.statvfs(place),
        (place / ".snapshots").stat,
        directory.mkdir,
        directory.rmdir,
        lambda: other.rename(place / "moved"),
        (place / "moved").unlink,
        (place / "never").stat,
    ]


def run_round(root: Path, number: int) -> int:
    """Do everything once; return how many calls failed with EIO, not those that failed for want of them."""
    failed = 0
    for call in everything(root, number):
        try:
            call()
        except FileNotFoundError:
            pass
        except OSError as error:
            failed += error.errno == errno.EIO
    return failed


def test_a_bug_in_any_handler_is_eio_and_the_mount_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    arming = [f"handler.{name}.before=bug:{HIT}" for name in ANSWERED + UNANSWERED]
    arming += [f"task.{name}.before=bug:1" for name in TASKS]
    with Mounted("bugs", mount_options=("-onowriteback,sync_interval=0.2",)) as mounted:
        monkeypatch.setenv(failpoints.VARIABLE, ",".join(arming))
        mounted.tzfs("umount", "bugs")
        mounted.mount()
        monkeypatch.delenv(failpoints.VARIABLE)
        pid = mounted.pid
        failed = 0
        log = Path(mounted.info()["path"]) / "daemon.log"
        for number in range(60):
            failed += run_round(mounted.mountpoint, number)
        text = log.read_text()
        assert [name for name in ANSWERED if f"failpoint handler.{name}.before" not in text] == []
        assert "Traceback (most recent call last)" in text
        # A handler whose error is not passed on (a lookup within a path walk is) counts only in the log.
        assert failed >= len(ANSWERED) - 4
        assert run_round(mounted.mountpoint, 1000) == 0
        tasks = {task["name"]: task for task in mounted.info()["tasks"]}
        assert {name: tasks[name]["failures"] for name in TASKS} == dict.fromkeys(TASKS, 1)
        assert all("failpoint task" in tasks[name]["last_error"] for name in TASKS)
        assert "failed 1 times" in mounted.tzfs("info", "bugs")
        # The tasks run again: reclaim frees what is removed.
        (mounted.mountpoint / "gone").write_bytes(b"x" * 300_000)
        (mounted.mountpoint / "gone").unlink()
        machine.wait_until(lambda: mounted.info()["usage"]["stored_bytes"] < 300_000)
        assert mounted.pid == pid
        assert mounted.check() == "clean"
