"""The host's disk full, and the quota: an errno to who writes, all else goes on, and it is over by itself."""

import contextlib
import errno
import os
import stat
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from soak.mounted import Mounted
from support import machine
from tzfs import history, hostspace
from tzfs.records import NOBODY
from tzfs.session import connect
from tzfs.store import Store

pytestmark = [
    pytest.mark.mount,
    pytest.mark.skipif(not machine.is_root(), reason="only root can mount a small tmpfs as the disk"),
]
MIB = 1 << 20
BLOCK = os.urandom(256 << 10)


@contextlib.contextmanager
def on_a_small_disk(size: int, *options: str) -> Iterator[Mounted]:
    """Mount a filesystem whose store is alone on a disk of `size` bytes."""
    mounted = Mounted("full", mount_options=options)
    mounted.store.mkdir()
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", mounted.store], check=True, timeout=30
    )
    with mounted:
        yield mounted
        subprocess.run(["umount", mounted.mountpoint], check=True, timeout=60)
        machine.wait_until(lambda: mounted.info()["pid"] is None)
        assert mounted.check() == "clean"


def fill(directory: Path) -> tuple[list[Path], int]:
    """Write files until one is refused; return those that were closed without an error, and the errno."""
    whole = []
    for number in range(100_000):
        path = directory / f"file{number}"
        try:
            with path.open("wb", buffering=0) as file:
                for _ in range(4):
                    file.write(BLOCK)
        except OSError as error:
            return whole, error.errno or 0
        whole.append(path)
    raise AssertionError("nothing was refused")


def fill_disk(mounted: Mounted) -> Path:
    """Take what is left of the disk, as another program would."""
    hog = mounted.store / "hog"
    with hog.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(BLOCK)
    with hog.open("ab", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"x" * 512)
    return hog


@pytest.mark.parametrize("options", [(), ("-onowriteback",)], ids=["writeback", "through"])
def test_a_disk_that_tzfs_fills_refuses_growth_and_nothing_else(options: tuple[str, ...]) -> None:
    with on_a_small_disk(96 * MIB, *options) as mounted:
        whole, refused = fill(mounted.mountpoint)
        assert refused == errno.ENOSPC
        assert len(whole) > 10
        assert all(path.read_bytes() == BLOCK * 4 for path in whole)
        mounted.tzfs("snapshot", "full", "-m", "while-full")
        kept, *gone = whole
        for path in gone:
            path.unlink()
        mounted.tzfs("snapshot-delete", "full", "while-full")
        pid = mounted.pid

        def there_is_room() -> bool:
            with contextlib.suppress(OSError):
                (mounted.mountpoint / "after").write_bytes(BLOCK)
                return True
            return False

        # What was deleted leaves the disk when the engine compacts it, or when other files go.
        subprocess.run(["mount", "-o", f"remount,size={192 * MIB}", mounted.store], check=True, timeout=30)
        machine.wait_until(there_is_room)
        assert (mounted.mountpoint / "after").read_bytes() == BLOCK
        assert kept.read_bytes() == BLOCK * 4
        assert mounted.pid == pid


def test_a_disk_that_another_program_fills_leaves_reading_and_deleting(tmp_path: Path) -> None:
    with on_a_small_disk(64 * MIB) as mounted:
        files = [mounted.mountpoint / f"before{number}" for number in range(8)]
        for path in files:
            path.write_bytes(BLOCK)
        hog = fill_disk(mounted)
        refused = set()
        for number in range(40):
            try:
                (mounted.mountpoint / f"new{number}").write_bytes(BLOCK)
            except OSError as error:
                refused.add(error.errno)
        assert refused == {errno.ENOSPC}
        assert all(path.read_bytes() == BLOCK for path in files)
        machine.wait_until(lambda: _deletes(files[0]))
        for path in files[1:4]:
            path.unlink()
        mounted.tzfs("snapshot", "full")
        assert os.statvfs(mounted.mountpoint).f_bavail == 0
        hog.unlink()
        machine.wait_until(lambda: _writes(mounted.mountpoint / "after"))
        machine.wait_until((Path(mounted.info()["path"]) / hostspace.RESERVE_NAME).exists)
        assert (mounted.mountpoint / "after").read_bytes() == BLOCK
        assert sorted(path for path in files if path.exists()) == files[4:]


@pytest.mark.slow
def test_a_rollback_that_the_disk_stops_goes_on_by_itself_and_nothing_half_done_is_seen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of more keys than one step takes; the second step is refused once."""
    mounted = Mounted("back")
    mounted.mountpoint.mkdir()
    try:
        mounted.tzfs("create", "back")
        store = Store.open(mounted.store)
        with connect(store, store.get("back")) as session:
            fs = session.filesystem  # type: ignore[attr-defined]
            fs.mknod(1, b"kept", stat.S_IFREG | 0o644, 0, NOBODY)
            fs.snapshot(b"goal")
            for number in range(history.KEYS_A_STEP // 2 + 100):
                fs.mknod(1, b"new%d" % number, stat.S_IFREG | 0o644, 0, NOBODY)
        monkeypatch.setenv("TZFS_FAILPOINTS", "rollback_step.before=error:2")
        mounted.mount()
        monkeypatch.delenv("TZFS_FAILPOINTS")
        pid = mounted.pid
        assert (mounted.mountpoint / "new7").exists()
        with pytest.raises(RuntimeError, match="rollback_step"):
            mounted.tzfs("rollback", "back", "goal")
        seen: list[list[str] | int] = []

        def is_done() -> bool:
            try:
                seen.append(sorted(path.name for path in mounted.mountpoint.iterdir()))
            except OSError as error:
                seen.append(error.errno or 0)
            return seen[-1] == ["kept"]

        machine.wait_until(is_done)
        assert all(look in (errno.EIO, ["kept"]) for look in seen)
        # What the kernel kept of the present is taken from it last.
        machine.wait_until(lambda: not (mounted.mountpoint / "new7").exists())
        assert mounted.info()["returning_to"] is None
        assert mounted.pid == pid
        assert mounted.check() == "clean"
    finally:
        machine.remove_workspace(mounted.workspace)


def _deletes(path: Path) -> bool:
    with contextlib.suppress(OSError):
        path.unlink()
    return not path.exists()


def _writes(path: Path) -> bool:
    with contextlib.suppress(OSError):
        path.write_bytes(BLOCK)
        return True
    return False


@pytest.mark.parametrize("options", [(), ("-onowriteback",)], ids=["writeback", "through"])
def test_eight_writers_meet_the_quota_and_hear_of_it(options: tuple[str, ...]) -> None:
    quota = 8 * MIB
    whole: list[list[Path]] = [[] for _ in range(8)]
    errors: list[int] = []

    def write(directory: Path, closed: list[Path]) -> None:
        directory.mkdir()
        found, number = fill(directory)
        closed += found
        errors.append(number)

    with Mounted("quota", options=("--quota", str(quota)), mount_options=options) as mounted:
        writers = [
            threading.Thread(target=write, args=(mounted.mountpoint / str(at), whole[at])) for at in range(8)
        ]
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join(60)
        assert errors == [errno.ENOSPC] * 8
        used = mounted.info()["usage"]["stored_bytes"]
        assert quota - len(BLOCK) * 4 <= used <= quota
        assert all(path.read_bytes() == BLOCK * 4 for found in whole for path in found)
        subprocess.run(["rm", "-rf", *mounted.mountpoint.iterdir()], check=True, timeout=60)
        machine.wait_until(lambda: _writes(mounted.mountpoint / "after"))
        assert mounted.check() == "clean"


def test_who_writes_on_hears_of_a_full_quota_from_write() -> None:
    """Without fsync and without close, as a runaway `yes >file`; and hears of each loss once."""
    with Mounted("quota", options=("--quota", str(8 * MIB))) as mounted:
        path = mounted.mountpoint / "file"
        command = ["dd", "if=/dev/zero", f"of={path}", "bs=1M", "count=1M", "conv=notrunc"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        assert (done.returncode, "No space left" in done.stderr) == (1, True), done.stderr
        machine.wait_until(lambda: mounted.info()["usage"]["stored_bytes"] == 8 * MIB)
        path.unlink()
        machine.wait_until(lambda: _writes(mounted.mountpoint / "after"))
        assert (mounted.mountpoint / "after").read_bytes() == BLOCK
        assert mounted.check() == "clean"


def test_a_disk_that_is_full_during_reclaim_and_a_snapshot_leaves_reading_and_recovers() -> None:
    """Another program takes all room while removed files are taken apart and a snapshot is taken."""
    with on_a_small_disk(96 * MIB) as mounted:
        kept = mounted.mountpoint / "kept"
        kept.write_bytes(BLOCK)
        for number in range(30):
            (mounted.mountpoint / f"gone{number}").write_bytes(BLOCK * 4)
        mounted.tzfs("snapshot", "full", "-m", "before")
        pid = mounted.pid
        for number in range(30):
            (mounted.mountpoint / f"gone{number}").unlink()
        mounted.tzfs("snapshot-delete", "full", "before")
        hog = fill_disk(mounted)
        # Reclaim has something to do and the snapshots something to write, all the while.
        for number in range(5):
            assert kept.read_bytes() == BLOCK
            with contextlib.suppress(RuntimeError):
                mounted.tzfs("snapshot", "full", "-m", f"full{number}")
            _deletes(mounted.mountpoint / f"gone{number}")
        os.utime(kept)
        machine.wait_until(lambda: mounted.info()["reclaim_backlog"] == 0)
        assert {path.name for path in mounted.mountpoint.iterdir()} == {"kept"}
        assert mounted.info()["usage"]["stored_bytes"] < MIB
        hog.unlink()
        machine.wait_until(lambda: _writes(mounted.mountpoint / "after"))
        mounted.tzfs("snapshot", "full", "-m", "after")
        shown = mounted.mountpoint / ".snapshots" / "after"
        assert sorted(path.name for path in shown.iterdir()) == ["after", "kept"]
        assert (shown / "after").read_bytes() == kept.read_bytes() == BLOCK
        assert mounted.pid == pid
