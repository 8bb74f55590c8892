"""Many of something at once: open files, and connections to the control socket. All bounded, nothing lost."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import resource
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from soak.mounted import Mounted
from support import machine
from tzfs import control, control_server

pytestmark = pytest.mark.mount

FILES = 21_000
PROCESSES = 3
"""That have them open: a process may have no more than some thousands on many machines."""
CONNECTIONS = 3_000


def allow(descriptors: int) -> None:
    """Let this process have so many descriptors; ValueError or PermissionError where it may not."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, max(descriptors, hard)))


@pytest.fixture(scope="module")
def mounted() -> Iterator[Mounted]:
    """Return a mounted filesystem whose daemon has the usual limit of descriptors."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(1024, hard), hard))
    with Mounted("many") as made:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        yield made
        assert made.check() == "clean"


def memory_bytes(pid: int) -> int:
    """Return the resident memory of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def descriptors(pid: int) -> int:
    """Return how many descriptors a process has open."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def hold(place: Path, numbers: range, turns: Any) -> None:  # noqa: ANN401 - a barrier of multiprocessing
    """Open a file for each number; write every tenth, unlink every hundredth; use and close them."""
    allow(len(numbers) + 200)
    opened = {number: os.open(place / str(number), os.O_RDWR | os.O_CREAT) for number in numbers}
    for number in numbers[::10]:
        assert os.pwrite(opened[number], b"%d" % number, 0)
    for number in numbers[::100]:
        (place / str(number)).unlink()
    turns.wait(60)
    # The test looks at the daemon now.
    turns.wait(60)
    for number in numbers[::10]:
        assert os.pread(opened[number], 20, 0) == b"%d" % number
    assert os.fstat(opened[numbers[100]]).st_nlink == 0
    assert os.fstat(opened[numbers[-1]]).st_size == 0


def test_twenty_thousand_open_files_are_all_usable_and_all_let_go(mounted: Mounted) -> None:
    pid, place = mounted.pid, mounted.mountpoint / "files"
    place.mkdir()
    before, held = memory_bytes(pid), descriptors(pid)
    turns = multiprocessing.Barrier(PROCESSES + 1)
    step = FILES // PROCESSES
    holders = [
        multiprocessing.Process(target=hold, args=(place, range(first, first + step), turns))
        for first in range(0, FILES, step)
    ]
    for holder in holders:
        holder.start()
    turns.wait(60)
    assert descriptors(pid) - held < 10, "an open file takes none of the daemon's"
    assert memory_bytes(pid) - before < 64 << 20
    (place / "one more").write_bytes(b"x")
    assert mounted.info()["usage"]["inodes"] >= FILES - FILES // 100
    turns.wait(60)
    for holder in holders:
        holder.join(60)
        assert holder.exitcode == 0
    # What had no name is reclaimed when nothing holds it: then nothing of it is left.
    named = sum(len(str(number)) for number in range(0, FILES, 10) if number % 100)
    machine.wait_until(lambda: mounted.info()["usage"]["stored_bytes"] == named + 1)


def connect(directory: Path) -> socket.socket | None:
    """Return a connection that does not wait, None where it is refused."""
    client = socket.socket(socket.AF_UNIX)
    client.setblocking(False)
    try:
        with control.socket_address(directory) as address:
            client.connect(address)
    except (BlockingIOError, ConnectionRefusedError):
        client.close()
        return None
    return client


def test_thousands_of_connections_are_refused_beyond_a_limit_and_the_mount_goes_on(
    mounted: Mounted,
) -> None:
    allow(CONNECTIONS + 200)
    pid, directory = mounted.pid, Path(mounted.info()["path"])
    before, held = memory_bytes(pid), descriptors(pid)
    crowd: list[socket.socket] = []
    refused = 0
    probe = mounted.mountpoint / "probe"
    try:
        for number in range(CONNECTIONS):
            client = connect(directory)
            if client is None:
                refused += 1
            else:
                crowd.append(client)
                # Idle, or slow: a request that never ends.
                if number % 2:
                    client.send(b'{"command": "in')
            if number % 100 == 0:
                probe.write_bytes(b"%d" % number)
                assert probe.read_bytes() == b"%d" % number
        assert refused + len(crowd) == CONNECTIONS
        assert len(crowd) <= 3 * control_server.CONNECTIONS_MAX
        assert refused > CONNECTIONS // 2
        assert descriptors(pid) - held <= control_server.CONNECTIONS_MAX + 5
        assert memory_bytes(pid) - before < 32 << 20
    finally:
        for client in crowd:
            client.close()
    assert mounted.info()["pid"] == pid
    machine.wait_until(lambda: descriptors(pid) - held < 5)
    with contextlib.suppress(FileNotFoundError):
        probe.unlink()
