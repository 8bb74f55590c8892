"""Starting a daemon: the caller returns when the mount answers, or raises what the daemon raised.

    caller ── fork ── (setsid, fork, exit) ── daemon
      │                                          │
      └── waits at a pipe  ◄── one line of JSON ─┘   "ready", or the error

The second fork makes init the daemon's parent, and the new session keeps the terminal's signals from it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import sys
import time
from collections.abc import Callable
from typing import Final

from tzfs import control
from tzfs.errors import MountError, TzfsError, describe_os_error

READY_TIMEOUT_S: Final = 120.0
"""After a crash the engine replays up to 256 MiB of log before the mount can answer."""

Daemon = Callable[[Callable[[], None]], None]
"""Runs until the daemon ends; calls its argument once, when the mount answers."""


def start(daemon: Daemon, *, timeout_s: float = READY_TIMEOUT_S) -> None:
    """Run `daemon` in a process of its own; return when it says that it is ready, raise what it raises.

    Call it with one thread only: fork(2) takes no other along.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    readable, writable = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(readable)
        _become_daemon(daemon, writable)
    os.close(writable)
    os.waitpid(child, 0)
    try:
        answer = _receive(readable, timeout_s)
    finally:
        os.close(readable)
    control.raise_error(answer)


def _become_daemon(daemon: Daemon, writable: int) -> None:
    """Leave session, directory and standard streams behind, run `daemon`, and end the process."""
    status = 1
    try:
        os.setsid()
        if os.fork() > 0:
            os._exit(0)
        os.chdir("/")
        nothing = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(nothing, stream)
        os.close(nothing)
        status = _run(daemon, writable)
    finally:
        # Not sys.exit: the caller's handlers and buffers are copies, and not ours to run or to flush.
        os._exit(status)


def _run(daemon: Daemon, writable: int) -> int:
    """Run `daemon`, report through the pipe how that begins, and return an exit status."""
    report = _Report(writable)
    try:
        daemon(lambda: report.send({"ok": True, "result": {}}))
    except TzfsError as error:
        report.send(control.error_answer(error))
        return 1
    except OSError as error:
        report.send(control.error_answer(MountError(describe_os_error(error))))
        return 1
    except BaseException as error:  # noqa: BLE001 whatever it is, the caller waits to hear of it
        reason = f"the daemon failed: {type(error).__name__}: {error}"
        report.send(control.error_answer(MountError(reason)))
        return 1
    finally:
        logging.shutdown()
    return 0


class _Report:
    """The daemon's end of the pipe: the first line counts, later ones find it closed and are dropped."""

    def __init__(self, writable: int) -> None:
        self._writable: int | None = writable

    def send(self, answer: control.Json) -> None:
        """Send the line, unless one was sent."""
        writable, self._writable = self._writable, None
        if writable is not None:
            with contextlib.suppress(OSError):  # the caller may have given up
                os.write(writable, control.encode(answer))
            os.close(writable)


def _receive(readable: int, timeout_s: float) -> control.Json:
    """Return the line that the daemon sends."""
    deadline = time.monotonic() + timeout_s
    line = b""
    while not line.endswith(b"\n"):
        remaining_s = deadline - time.monotonic()
        if remaining_s <= 0 or not select.select([readable], [], [], remaining_s)[0]:
            raise MountError(
                f"the mount does not answer after {timeout_s:.0f} s: see daemon.log in the store"
            )
        received = os.read(readable, 65536)
        if not received:
            raise MountError("the daemon ended without a word: see daemon.log in the store")
        line += received
    return control.decode(line)
