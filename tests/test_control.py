"""The control socket: what it answers, whom it refuses, and what no client can do to it."""

import logging
import os
import socket
import stat
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from support.logs import assert_logs
from tzfs import control, control_server
from tzfs.control import Client, Json
from tzfs.errors import ControlError, DaemonGone, SnapshotMissing


async def echo(command: str, arguments: Json) -> Json:
    if command == "missing":
        raise SnapshotMissing("no snapshot 7")
    if command == "bug":
        raise ZeroDivisionError
    if command == "bytes":
        return {"data": b"x"}
    if command == "put":
        return {"command": command, **arguments}
    return {"command": command, "arguments": arguments}


@asynccontextmanager
async def serving(directory: Path) -> AsyncIterator[None]:
    listener = control_server.listen(directory)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(control_server.run, listener, lambda: control_server.Conversation(echo))
        yield
        nursery.cancel_scope.cancel()


async def in_thread(function: Callable[[], Json]) -> Json:
    return await trio.to_thread.run_sync(function)


def ask(directory: Path, command: str, **arguments: object) -> Json:
    with Client(directory, timeout_s=20) as client:
        return client.call(command, **arguments)


async def test_a_command_and_its_arguments_arrive_and_the_result_comes_back(tmp_path: Path) -> None:
    async with serving(tmp_path):
        answer = await in_thread(lambda: ask(tmp_path, "snapshot", label="a", names=["\udcff\n", "ä"]))
    assert answer == {"command": "snapshot", "arguments": {"label": "a", "names": ["\udcff\n", "ä"]}}


async def test_content_travels_as_it_is(tmp_path: Path) -> None:
    content = os.urandom(control.CONTENT_BYTES_MAX - 2)

    def twice() -> Json:
        with Client(tmp_path) as client:
            assert client.call("next", label="a")["arguments"] == {"label": "a"}
            return client.call("put", data=content, more=b"\n{", none=b"", label="\udcff")

    async with serving(tmp_path):
        answer = await in_thread(twice)
    assert answer == {"command": "put", "data": content, "more": b"\n{", "none": b"", "label": "\udcff"}


async def test_content_that_is_no_part_of_a_message_is_refused(tmp_path: Path) -> None:
    lines = [
        b'{"command": "x", "bytes": -1}',
        b'{"command": "x", "bytes": true}',
        b'{"command": "x", "bytes": 99999999}',
        b'{"command": "x", "bytes": 1, "arguments": {}}\n?',
        b'{"command": "x", "bytes": 1, "arguments": {"a": {"bytes": 2}}}\n?',
        b'{"command": "x", "arguments": {"a": {"bytes": 1}}}',
        b'{"command": "x", "arguments": {"a": {"bytes": null}}}',
        b'{"command": "x", "bytes": 1, "arguments": {"a": {"bytes": -1}, "b": {"bytes": 2}}}\n?',
    ]
    async with serving(tmp_path):
        for line in lines:
            end = b"" if line.endswith(b"?") else b"\n"
            sent = line + end + control.encode({"command": "next"})
            answers = (await trio.to_thread.run_sync(raw, tmp_path, sent)).splitlines()
            assert [control.decode(answer)["ok"] for answer in answers] == [False, True], line
        cut = b'{"command": "x", "bytes": 5, "arguments": {"a": {"bytes": 5}}}\n?'
        assert await trio.to_thread.run_sync(raw, tmp_path, cut) == b""


async def test_a_client_of_the_first_version_is_told_so_when_content_would_travel(tmp_path: Path) -> None:
    async with serving(tmp_path):
        for line, is_served in (
            (b'{"command": "info", "arguments": {}}', True),
            (b'{"command": "bytes", "arguments": {}}', False),
        ):
            answer = control.decode(await trio.to_thread.run_sync(raw, tmp_path, line + b"\n"))
            assert answer["ok"] is is_served
    assert "different versions" in answer["error"]["message"]


def test_a_daemon_of_the_first_version_is_told_so_before_content_travels(tmp_path: Path) -> None:
    answers = {
        "info": b'{"ok":true,"result":{"txn":1}}\n',
        "version": b'{"ok":false,"error":{"class":"ControlError","message":"no such command"}}\n',
        "read": b'{"ok":true,"result":{"data":{"base64":"eA=="}}}\n',
    }
    listener = control_server.listen(tmp_path)

    def serve() -> None:
        connection, _ = listener.accept()
        with connection, connection.makefile("rb") as lines:
            for line in lines:
                connection.sendall(answers[control.decode(line)["command"]])

    daemon = threading.Thread(target=serve)
    daemon.start()
    with Client(tmp_path, timeout_s=20) as client:
        assert client.call("info") == {"txn": 1}
        for command, arguments in (("write", {"data": b"x"}), ("read", {})):
            with pytest.raises(ControlError, match="different versions"):
                client.call(command, **arguments)
    daemon.join(20)
    listener.close()
    assert not daemon.is_alive()


async def test_a_connection_carries_many_requests(tmp_path: Path) -> None:
    def many() -> Json:
        with Client(tmp_path) as client:
            return {"commands": [client.call(str(number))["command"] for number in range(100)]}

    async with serving(tmp_path):
        assert await in_thread(many) == {"commands": [str(number) for number in range(100)]}


async def test_an_error_is_raised_at_the_other_end_and_the_server_goes_on(tmp_path: Path) -> None:
    async with serving(tmp_path):
        with pytest.raises(SnapshotMissing, match="no snapshot 7"):
            await in_thread(lambda: ask(tmp_path, "missing"))
        assert (await in_thread(lambda: ask(tmp_path, "next")))["command"] == "next"


async def test_a_bug_in_a_command_is_logged_and_the_server_goes_on(tmp_path: Path) -> None:
    async with serving(tmp_path):
        with (
            assert_logs("command failed", level=logging.ERROR),
            pytest.raises(ControlError, match="ZeroDivision"),
        ):
            await in_thread(lambda: ask(tmp_path, "bug"))
        assert (await in_thread(lambda: ask(tmp_path, "next")))["command"] == "next"


async def test_the_socket_is_for_its_owner_and_replaces_one_left_behind(tmp_path: Path) -> None:
    for _ in range(2):
        async with serving(tmp_path):
            assert stat.S_IMODE((tmp_path / control.SOCKET_NAME).stat().st_mode) == 0o600
    with pytest.raises(DaemonGone):
        Client(tmp_path)


def test_without_a_socket_the_daemon_is_gone(tmp_path: Path) -> None:
    with pytest.raises(DaemonGone):
        Client(tmp_path)
    with pytest.raises(DaemonGone):
        Client(tmp_path / "none")


async def test_a_path_longer_than_a_socket_address_works(tmp_path: Path) -> None:
    deep = tmp_path.joinpath(*["d" * 100] * 4)
    deep.mkdir(parents=True)
    async with serving(deep):
        assert (await in_thread(lambda: ask(deep, "hello")))["command"] == "hello"


def raw(directory: Path, data: bytes) -> bytes:
    """Send bytes and return all that comes back until the server hangs up."""
    with socket.socket(socket.AF_UNIX) as client, control.socket_address(directory) as address:
        client.settimeout(20)
        client.connect(address)
        received = b""
        try:
            client.sendall(data)
            client.shutdown(socket.SHUT_WR)
            while block := client.recv(65536):
                received += block
        except (BrokenPipeError, ConnectionResetError):
            pass
        return received


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"command": 5}',
        b'{"command": "x", "arguments": []}',
        b"\xff\xfe",
        b"[" * 9999,
    ],
    ids=["empty", "cut", "list", "null", "number", "arguments", "bytes", "deep"],
)
async def test_nonsense_gets_an_error_and_the_connection_goes_on(tmp_path: Path, line: bytes) -> None:
    async with serving(tmp_path):
        answer = await trio.to_thread.run_sync(raw, tmp_path, line + b"\n" + control.encode({"command": "x"}))
    first, second = answer.splitlines()
    assert control.decode(first)["ok"] is False
    assert control.decode(second)["ok"] is True


async def test_a_request_without_end_is_hung_up_on(tmp_path: Path) -> None:
    async with serving(tmp_path):
        with assert_logs("was refused"):
            assert await trio.to_thread.run_sync(raw, tmp_path, b"x" * (control.REQUEST_BYTES_MAX * 3)) == b""
        assert (await in_thread(lambda: ask(tmp_path, "next")))["command"] == "next"


async def test_a_slow_client_is_hung_up_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control_server, "TRANSFER_S", 0.05)
    monkeypatch.setattr(control_server, "IDLE_S", 0.05)
    async with serving(tmp_path):
        with socket.socket(socket.AF_UNIX) as client, control.socket_address(tmp_path) as address:
            client.connect(address)
            client.sendall(b'{"comm')
            client.settimeout(20)
            assert await trio.to_thread.run_sync(client.recv, 1) == b""


async def test_more_clients_than_connections_wait_for_their_turn(tmp_path: Path) -> None:
    results: list[Json] = []

    async def one() -> None:
        results.append(await in_thread(lambda: ask(tmp_path, "hello")))

    async with serving(tmp_path):
        idle = [socket.socket(socket.AF_UNIX) for _ in range(control_server.CONNECTIONS_MAX - 1)]
        with control.socket_address(tmp_path) as address:
            for client in idle:
                client.connect(address)
        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(one)
        for client in idle:
            client.close()
    assert len(results) == 10


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
async def test_another_user_is_refused_even_with_access_to_the_socket(tmp_path: Path) -> None:
    async with serving(tmp_path):
        for path, mode in ((tmp_path, 0o755), (tmp_path / control.SOCKET_NAME, 0o666)):
            await trio.Path(path).chmod(mode)
        with assert_logs("another user"):
            assert await trio.to_thread.run_sync(_ask_as, 12345, tmp_path) == b""


def _ask_as(uid: int, directory: Path) -> bytes:
    """Ask in a forked process of another user; the credentials of a socket are those of connect(2)."""
    readable, writable = os.pipe()
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.fchdir(descriptor)
            os.setresuid(uid, uid, uid)
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(20)
                client.connect(control.SOCKET_NAME)
                os.write(writable, client.recv(100))
            status = 0
        finally:
            os._exit(status)
    os.close(writable)
    os.close(descriptor)
    received = os.read(readable, 100)
    os.close(readable)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    return received
