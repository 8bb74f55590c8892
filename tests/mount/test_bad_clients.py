"""Bad clients of the control socket and bad names: refused or escaped, and the mount does not notice."""

import contextlib
import json
import os
import random
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from soak.mounted import Mounted
from support import machine
from tzfs import control
from tzfs.admin import COMMANDS
from tzfs.cli import base

pytestmark = pytest.mark.mount

SEED = int(os.environ.get("TZFS_TEST_SEED", "1"))
EVIL = [
    b"line\nbreak",
    b"\x1b[31mred\x1b]0;title\x07",
    b"\xff\xfe",
    b"tab\tquote\"'",
    b"-rf",
    b"[bold]",
    b"%s%n",
]


@pytest.fixture(scope="module")
def mounted() -> Iterator[Mounted]:
    with Mounted("bad") as made:
        yield made
        assert made.check() == "clean"


def connect(directory: Path) -> socket.socket:
    """Return a connection to the daemon; BlockingIOError when too many wait already."""
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(20)
    try:
        with control.socket_address(directory) as address:
            client.connect(address)
    except BaseException:
        client.close()
        raise
    return client


def exchange(directory: Path, data: bytes) -> bytes:
    """Send bytes and the end; return what comes back."""
    received = b""
    with connect(directory) as client, contextlib.suppress(BrokenPipeError, ConnectionResetError):
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)
        while block := client.recv(65536):
            received += block
    return received


def memory_bytes(pid: int) -> int:
    """Return the resident memory of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def rubbish(rng: random.Random) -> bytes:
    """Return a request that is none."""
    whole = control.encode({"command": rng.choice(sorted(COMMANDS)), "arguments": {"name": "x"}})
    return rng.choice(
        [
            rng.randbytes(rng.randrange(2000)),
            rng.randbytes(500) + b"\n",
            whole[: rng.randrange(len(whole) - 1)],
            b"[" * 5000 + b"\n",
            b'{"command": "' + b"x" * 100_000 + b'"}\n',
            b'{"command": "info", "arguments": {"a": 1e999}}\n',
            b'{"command": "info", "bytes": %d}\n' % rng.randrange(-5, 1 << 40),
            b'{"command": "file_put", "bytes": 9, "arguments": {"data": {"bytes": 9}}}\n' + rng.randbytes(12),
            b'{"command": "file_put", "bytes": %d}\n' % rng.randrange(1 << 20) + rng.randbytes(2000),
        ]
    )


def argument(rng: random.Random) -> Any:  # noqa: ANN401 - any of JSON
    """Return a value of any JSON type."""
    return rng.choice(
        [
            None,
            True,
            -1,
            10**30,
            1.5,
            "",
            "\udcff\n\0",
            "\ud800",
            b"\n\0",
            b"x" * 9999,
            {"bytes": 1},
            [],
            [1],
            ["x" * 300],
            {},
            {"a": []},
        ]
    )


def test_rubbish_is_refused_in_bounded_memory_and_the_mount_answers_meanwhile(mounted: Mounted) -> None:
    directory, pid = Path(mounted.info()["path"]), mounted.pid
    before = memory_bytes(pid)
    slowest = 0.0
    stop = threading.Event()

    def use() -> None:
        nonlocal slowest
        while not stop.wait(0.002):
            started = time.perf_counter()
            (mounted.mountpoint / "used").write_bytes(b"x" * 100)
            slowest = max(slowest, time.perf_counter() - started)

    user = threading.Thread(target=use)
    user.start()
    try:
        rng = random.Random(SEED)
        for _ in range(200):
            exchange(directory, rubbish(rng))
        for _ in range(8):
            exchange(directory, b"x" * (5 << 20))
        crowd = []
        with contextlib.suppress(BlockingIOError, TimeoutError):
            for _ in range(2000):
                client = connect_at_once(directory)
                crowd.append(client)
                client.send(b'{"comm')
        for client in crowd:
            client.close()
    finally:
        stop.set()
        user.join(60)
    assert len(crowd) > 30
    assert mounted.info()["pid"] == pid
    assert memory_bytes(pid) - before < 64 << 20
    assert slowest < 5


def connect_at_once(directory: Path) -> socket.socket:
    """Return a connection; BlockingIOError when it would have to wait."""
    client = socket.socket(socket.AF_UNIX)
    client.setblocking(False)
    try:
        with control.socket_address(directory) as address:
            client.connect(address)
    except BaseException:
        client.close()
        raise
    return client


def test_arguments_of_any_type_are_refused_and_are_no_bug(mounted: Mounted) -> None:
    directory = Path(mounted.info()["path"])
    rng = random.Random(SEED)
    names = ["label", "names", "name", "old", "new", "x", "path", "data"]
    for command in sorted(COMMANDS):
        for _ in range(25):
            arguments = {name: argument(rng) for name in rng.sample(names, rng.randrange(3))}
            answer = json.loads(
                exchange(directory, control.encode({"command": command, "arguments": arguments}))
            )
            if not answer["ok"]:
                told = answer["error"]["message"]
                assert "the daemon failed" not in told, f"seed {SEED}: {command} {arguments}: {told}"


@pytest.mark.skipif(not machine.is_root(), reason="only root can become another user")
def test_another_user_cannot_reach_the_daemon(mounted: Mounted) -> None:
    directory = mounted.info()["path"]
    program = (
        "import os, socket, sys; os.setresuid(12345, 12345, 12345)\n"
        "s = socket.socket(socket.AF_UNIX)\n"
        "try: s.connect(sys.argv[1] + '/control.sock')\n"
        "except PermissionError: print('refused')"
    )
    done = subprocess.run(
        ["python3", "-c", program, directory], capture_output=True, text=True, timeout=30, check=True
    )
    assert done.stdout == "refused\n"


def test_names_that_are_no_text_are_escaped_and_never_a_traceback(mounted: Mounted) -> None:
    mounted.tzfs("snapshot", "bad", "-m", "names")
    for name in EVIL:
        Path(os.fsdecode(os.fsencode(mounted.mountpoint) + b"/" + name)).write_bytes(b"x")
    shown = mounted.tzfs("diff", "bad", "names")
    assert "\x1b" not in shown
    assert shown.replace("\t", "").replace("\n", "").isprintable(), "but for what separates columns and rows"
    assert len(shown.splitlines()) == len(EVIL)
    told = json.loads(mounted.tzfs("diff", "bad", "names", "--json"))
    paths = {os.fsencode(change["path"]) for change in (told if isinstance(told, list) else told["changes"])}
    assert set(EVIL) <= paths
    for name in ("a\nb", "\x1b[31m", "../x", "", "a/b/c", "x" * 300):
        for command in (["create", "--", name], ["info", "--", name], ["snapshot", "bad", "-m", name]):
            with pytest.raises(RuntimeError) as refused:
                mounted.tzfs(*command)
            assert f"exit {base.BUG}" not in str(refused.value)
            assert "\x1b" not in str(refused.value).partition("exit ")[2]


def test_store_and_mount_point_may_be_reached_by_symlinks(tmp_path: Path) -> None:
    with Mounted("links") as made:
        made.tzfs("umount", "links")
        store, place = made.workspace / "store-link", made.workspace / "mnt-link"
        store.symlink_to(made.store)
        place.symlink_to(made.mountpoint)
        made.store, made.mountpoint = store, place
        made.mount()
        (place / "file").write_text("hello")
        assert (made.workspace / "mnt" / "file").read_text() == "hello"
        made.tzfs("snapshot", "links")
        made.tzfs("umount", str(place))
        assert not (made.workspace / "mnt" / "file").exists()
        assert made.check() == "clean"
