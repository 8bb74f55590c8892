"""How a command reaches a mounted filesystem: JSON lines on a Unix socket, and bytes behind them.

    <store>/filesystems/<id>/control.sock     mode 0600; the server checks the peer's uid besides

    request   {"version": 2, "command": "snapshot", "arguments": {"label": "before"}}
    answer    {"version": 2, "ok": true, "result": {...}}
              {"version": 2, "ok": false, "error": {"class": "SnapshotMissing", "message": "..."}}

One object a line, in order; a connection carries any number. Where an argument or a field of a result is
bytes, content of files, the line has {"bytes": LENGTH} in its place, and "bytes": LENGTH of all of them
together; they follow the line, one after the other.

In version 1 content was part of the line. Both ends tell a client and a daemon of different versions apart
before content travels between them; all else they can say to each other.

This module is the protocol and the client, which is synchronous and imports little, because a command
line waits for it; `tzfs.control_server` is the other end.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from tzfs import errors
from tzfs.closing import Closing
from tzfs.errors import ControlError, DaemonGone, TzfsError

SOCKET_NAME: Final = "control.sock"
VERSION: Final = 2
REQUEST_BYTES_MAX: Final = 1 << 20
"""A request is a command and a few names; what is longer is not one of ours."""
CONTENT_BYTES_MAX: Final = 1 << 20
"""What may follow a line: a slice of content or an extended attribute."""
ANSWER_BYTES_MAX: Final = 1 << 28
"""An answer lists snapshots or changes: about 100 bytes each, so millions of them fit."""
ANSWER_TIMEOUT_S: Final = 600.0
"""How long a client waits: a snapshot writes out what the kernel holds dirty, which may be gigabytes."""
CONNECT_TIMEOUT_S: Final = 10
"""How long a client waits for its turn when too many are connected already."""
_TIMEVAL = struct.Struct("ll")

Json = dict[str, Any]


def encode(message: Json) -> bytes:
    """Return a message as it travels. Names that are no UTF-8 do as lone surrogates, which JSON escapes.

    Bytes may be values of its "arguments" or its "result".
    """
    message = {"version": VERSION, **message}
    contents: list[bytes] = []
    for key in _CARRIERS:
        fields = message.get(key)
        if isinstance(fields, dict):
            contents += [value for value in fields.values() if isinstance(value, bytes)]
            message[key] = {name: _replaced(value) for name, value in fields.items()}
    if contents:
        message["bytes"] = sum(map(len, contents))
    line = json.dumps(message, separators=(",", ":")).encode("ascii") + b"\n"
    return b"".join([line, *contents])


_CARRIERS: Final = ("arguments", "result")


def _replaced(value: object) -> object:
    return {"bytes": len(value)} if isinstance(value, bytes) else value


def decode(line: bytes) -> Json:
    """Return the object of one line; `ControlError` if it is none."""
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        raise ControlError("not a line of JSON") from None
    if not isinstance(message, dict):
        raise ControlError("not a JSON object")
    return message


def content_length(message: Json) -> int:
    """Return how many bytes follow a line; `ControlError` for what is no such number."""
    length = message.get("bytes", 0)
    if type(length) is not int or not 0 <= length <= CONTENT_BYTES_MAX:
        raise ControlError(f"what follows a line is up to {CONTENT_BYTES_MAX} bytes")
    return length


def unpack(message: Json, content: bytes) -> Json:
    """Return what `encode` was given, from a line and what followed it; `ControlError` if they differ."""
    place = 0
    for key in _CARRIERS:
        fields = message.get(key)
        if not isinstance(fields, dict):
            continue
        for name, value in fields.items():
            if isinstance(value, dict) and value.keys() == {"bytes"}:
                length = value["bytes"]
                if type(length) is not int or not 0 <= length <= len(content) - place:
                    raise ControlError("less bytes follow a line than it has")
                fields[name] = content[place : place + length]
                place += length
    if place != len(content):
        raise ControlError("more bytes follow a line than it has")
    return message


def require_version(message: Json) -> None:
    """Raise `ControlError` unless the other end speaks this version."""
    if message.get("version") != VERSION:
        raise ControlError(
            "the daemon and this program are of different versions of tzfs: unmount and mount again"
        )


def error_answer(error: TzfsError) -> Json:
    """Return the answer that makes `call` raise the same class at the other end."""
    return {"ok": False, "error": {"class": type(error).__name__, "message": str(error)}}


def raise_error(answer: Json) -> None:
    """Raise what an answer says went wrong; return if nothing did."""
    if answer.get("ok") is not True:
        raise _error_from(answer.get("error"))


def _error_from(description: object) -> TzfsError:
    """Return the error that an answer describes."""
    if not isinstance(description, dict):
        return ControlError("the daemon failed without a reason")
    kind = getattr(errors, str(description.get("class")), None)
    if not (isinstance(kind, type) and issubclass(kind, TzfsError)):
        kind = ControlError
    return kind(str(description.get("message", "")))


@contextlib.contextmanager
def socket_address(directory: Path) -> Iterator[str]:
    """Yield a name of the socket in `directory` that fits a sockaddr_un, however deep the store is.

    The 108 bytes of unix(7) are less than a path may have; the descriptor of the directory is a short
    way to the same place.
    """
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}/{SOCKET_NAME}"
    finally:
        os.close(descriptor)


class Client(Closing):
    """A connection to the daemon of one mounted filesystem."""

    def __init__(self, directory: Path, *, timeout_s: float = ANSWER_TIMEOUT_S) -> None:
        """Connect to the daemon of the filesystem in `directory`; `DaemonGone` if there is none."""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        # Not settimeout, which makes the socket non-blocking: on such a one connect(2) does not wait for
        # room in the backlog of listen(2) but fails with EAGAIN. A send timeout bounds it as well.
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _TIMEVAL.pack(CONNECT_TIMEOUT_S, 0))
        try:
            with socket_address(directory) as address:
                self._socket.connect(address)
        except BlockingIOError as error:
            self._socket.close()
            raise ControlError("the daemon is too busy to answer: try again") from error
        except PermissionError as error:
            self._socket.close()
            raise ControlError("only the user who mounted it, and root, can ask its daemon") from error
        except OSError as error:
            self._socket.close()
            raise DaemonGone(f"no daemon answers in {directory}") from error
        self._socket.settimeout(timeout_s)
        self._lines = self._socket.makefile("rb")
        self._is_known = False

    def call(self, command: str, **arguments: object) -> Json:
        """Run a command in the daemon and return its result; raises what it raised there."""
        if not self._is_known and any(isinstance(value, bytes) for value in arguments.values()):
            require_version(self._ask("version", {}))
            self._is_known = True
        answer = self._ask(command, arguments)
        raise_error(answer)
        result = answer.get("result")
        if not isinstance(result, dict):
            raise ControlError("the daemon's answer has no result")
        if any(isinstance(value, dict) and value.keys() == {"base64"} for value in result.values()):
            require_version(answer)
        return result

    def _ask(self, command: str, arguments: Json) -> Json:
        """Return the answer to one request."""
        try:
            self._socket.sendall(encode({"command": command, "arguments": arguments}))
            line = self._lines.readline(ANSWER_BYTES_MAX)
            if line.endswith(b"\n"):
                answer = decode(line)
                length = content_length(answer)
                content = self._lines.read(length)
                if len(content) == length:
                    return unpack(answer, content)
        except TimeoutError:
            raise ControlError("the daemon does not answer: see its log, daemon.log in the store") from None
        except OSError as error:
            raise DaemonGone("the daemon ended while it was asked: see its log, daemon.log") from error
        raise DaemonGone("the daemon ended while it was asked: see its log, daemon.log")

    def is_alive(self) -> bool:
        """Tell whether the daemon is still there: it hangs up when it ends, and on who is silent for long."""
        # Between question and answer there is nothing to read but the end.
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        return not poll.poll(0)

    def close(self) -> None:
        """Hang up."""
        self._lines.close()
        self._socket.close()
