"""The daemon's end of the control socket: serves `tzfs.control` as one trio task.

Nothing that a client does may cost the mount anything: requests are bounded in size, connections in
number, and both ends of a conversation in time.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import socket
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import trio

from tzfs.control import (
    REQUEST_BYTES_MAX,
    SOCKET_NAME,
    Json,
    content_length,
    decode,
    encode,
    error_answer,
    require_version,
    socket_address,
    unpack,
)
from tzfs.errors import ControlError, TzfsError

log = logging.getLogger(__name__)

CONNECTIONS_MAX: Final = 32
"""At a time; who comes then waits in the backlog of listen(2)."""
IDLE_S: Final = 60.0
"""How long a connection may be silent between two requests, if it has no files open."""
TRANSFER_S: Final = 10.0
"""How long a client may take to send a request that it began, or to take an answer."""
_RECEIVE_BYTES: Final = 1 << 18
_UCRED = struct.Struct("3i")
"""struct ucred of unix(7): pid, uid, gid."""

Handler = Callable[[str, Json], Awaitable[Json]]
"""Runs a command with its arguments; what it raises as `TzfsError` becomes the answer."""


class Conversation:
    """What a daemon keeps for one connection."""

    def __init__(self, handler: Handler) -> None:
        """Answer with `handler`."""
        self.handler = handler

    def may_be_silent(self) -> bool:
        """Tell whether the client may be silent for longer than `IDLE_S`."""
        return False

    def close(self) -> None:
        """End it."""


def listen(directory: Path) -> socket.socket:
    """Bind the control socket of the filesystem in `directory`, replacing one that a dead daemon left.

    The caller holds the directory's lock, so no living daemon can own the name.
    """
    (directory / SOCKET_NAME).unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    # On Linux the mode of the socket becomes the mode of the name that bind(2) makes: it is never
    # open to others, not even between bind and a chmod.
    os.fchmod(listener.fileno(), 0o600)
    with socket_address(directory) as address:
        listener.bind(address)
    listener.listen(CONNECTIONS_MAX)
    return listener


async def run(listener: socket.socket, begin: Callable[[], Conversation]) -> None:
    """Serve until cancelled, each connection with a conversation of its own; closes `listener` then."""
    server = trio.socket.from_stdlib_socket(listener)
    free = trio.CapacityLimiter(CONNECTIONS_MAX)
    with server:
        async with trio.open_nursery() as nursery:
            while True:
                token = object()
                await free.acquire_on_behalf_of(token)
                connection, _ = await server.accept()
                nursery.start_soon(_serve, connection, begin(), free, token)


async def _serve(
    connection: trio.socket.SocketType,
    conversation: Conversation,
    free: trio.CapacityLimiter,
    token: object,
) -> None:
    """Serve one connection to its end."""
    try:
        with connection:
            if not _is_allowed(connection):
                log.warning("a process of another user asked on the control socket and was refused")
                return
            await _converse(trio.SocketStream(connection), conversation)
    except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError):
        log.info("a client of the control socket hung up or was too slow")
    finally:
        conversation.close()
        free.release_on_behalf_of(token)


def _is_allowed(connection: trio.socket.SocketType) -> bool:
    """Tell whether the peer is our user or root."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    _, uid, _ = _UCRED.unpack(credentials)
    return uid in (0, os.geteuid())


async def _converse(stream: trio.SocketStream, conversation: Conversation) -> None:
    """Answer request after request."""
    pending = bytearray()
    while True:
        line = await _receive_line(stream, pending, math.inf if conversation.may_be_silent() else IDLE_S)
        if line is None:
            return
        length = 0
        with contextlib.suppress(ControlError):  # which is answered below
            length = content_length(decode(line))
        content = await _receive_content(stream, pending, length)
        if content is None:
            return
        try:
            answer = await _answer(line, content, conversation.handler)
        except TzfsError as error:
            answer = error_answer(error)
        except Exception as error:
            # A bug in a command must not end the mount that happens to serve it.
            log.exception("command failed: %.200r", line)
            answer = error_answer(ControlError(f"the daemon failed: {type(error).__name__}, see its log"))
        with trio.fail_after(TRANSFER_S):
            await stream.send_all(encode(answer))


async def _receive_line(stream: trio.SocketStream, pending: bytearray, idle_s: float) -> bytes | None:
    """Return the next line, None at the end; `pending` holds what came after the last one.

    A client that sends too much without a line's end, or too slowly, is hung up on.
    """
    while (end := pending.find(b"\n")) < 0:
        if len(pending) > REQUEST_BYTES_MAX:
            log.warning("a request of more than %d bytes was refused", REQUEST_BYTES_MAX)
            return None
        with trio.fail_after(TRANSFER_S if pending else idle_s):
            received = await stream.receive_some(_RECEIVE_BYTES)
        if not received:
            return None
        pending += received
    line = bytes(pending[:end])
    del pending[: end + 1]
    return line


async def _receive_content(stream: trio.SocketStream, pending: bytearray, length: int) -> bytes | None:
    """Return what follows a line, None at the end."""
    with trio.fail_after(TRANSFER_S):
        while len(pending) < length:
            received = await stream.receive_some(_RECEIVE_BYTES)
            if not received:
                return None
            pending += received
    content = bytes(pending[:length])
    del pending[:length]
    return content


async def _answer(line: bytes, content: bytes, handler: Handler) -> Json:
    """Return the answer to one request."""
    request = decode(line)
    content_length(request)
    command, arguments = request.get("command"), request.get("arguments", {})
    if not isinstance(command, str) or not isinstance(arguments, dict):
        raise ControlError("a request has a command and arguments")
    unpack(request, content)
    if command == "version":
        return {"ok": True, "result": {}}
    result = await handler(command, arguments)
    if any(isinstance(value, bytes) for value in result.values()):
        require_version(request)
    return {"ok": True, "result": result}
