"""Being somebody else for a while: only root can."""

from __future__ import annotations

import contextlib
import ctypes
import os
import pickle
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple, TypeVar

Result = TypeVar("Result")

_libc: Final = ctypes.CDLL(None, use_errno=True)

_SYS_SETRESUID: Final = {"x86_64": 117, "aarch64": 147}
_SYS_SETRESGID: Final = {"x86_64": 119, "aarch64": 149}
_SYS_SETGROUPS: Final = {"x86_64": 116, "aarch64": 159}
_MACHINE: Final = os.uname().machine
_SAME: Final = -1

CHILD_TIMEOUT_S: Final = 60
"""A child that hangs in the filesystem must not hold the test run."""


class User(NamedTuple):
    """Who: uid, gid, supplementary groups."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()


ROOT: Final = User(0, 0)
ALICE: Final = User(1001, 1001)
BOB: Final = User(1002, 1002, (1001, 1003))
CAROL: Final = User(1003, 1003)
"""bob is a member of alice's and carol's groups by supplementary groups only."""


def can_switch() -> bool:
    """Tell whether another identity can be taken on, on this machine, as this user."""
    return os.geteuid() == 0 and _MACHINE in _SYS_SETRESUID


def _call(number: int, *arguments: object) -> None:
    if _libc.syscall(number, *arguments) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def _take_on(user: User) -> None:
    groups = (ctypes.c_uint * len(user.groups))(*user.groups)
    _call(_SYS_SETGROUPS[_MACHINE], len(user.groups), groups)
    _call(_SYS_SETRESGID[_MACHINE], _SAME, user.gid, _SAME)
    _call(_SYS_SETRESUID[_MACHINE], _SAME, user.uid, _SAME)


@contextlib.contextmanager
def acting_as(user: User) -> Iterator[None]:
    """Do what is inside as another user, in this thread.

    Credentials belong to threads; it is the C library that changes all of a process at once. The system calls
    themselves change those of this thread: effective ids, and with root's the capabilities. A fork for each
    operation would cost a hundred times as much.
    """
    if user == ROOT:
        yield
        return
    groups = os.getgroups()
    try:
        # Within: what interrupts a test may come in the middle of the change.
        _take_on(user)
        yield
    finally:
        _call(_SYS_SETRESUID[_MACHINE], _SAME, 0, _SAME)
        _take_on(User(0, 0, tuple(groups)))


@contextlib.contextmanager
def umask(mask: int) -> Iterator[None]:
    """Have a file mode creation mask."""
    old = os.umask(mask)
    try:
        yield
    finally:
        os.umask(old)


def in_child(work: Callable[[], Result], user: User = ROOT) -> Result:
    """Run `work` in a process of its own, as a user for good; return what it returns, raise what it raises.

    For what holds on to a process: mount namespaces, real ids, locks. `work` runs between fork and exit, so
    it starts no threads.
    """
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        _run_child(work, user, writing)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        answer = pipe.read()
    _, status = os.waitpid(pid, 0)
    if not answer:
        raise AssertionError(f"the child ended with status {status} and no answer")
    good, value = pickle.loads(answer)
    if not good:
        raise value
    return value  # type: ignore[no-any-return]


def _run_child(work: Callable[[], object], user: User, writing: int) -> None:
    """Run `work`, send (True, result) or (False, error), and end without the parent's clean-up."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(CHILD_TIMEOUT_S)
    try:
        if user != ROOT:
            os.setgroups(user.groups)
            os.setresgid(user.gid, user.gid, user.gid)
            os.setresuid(user.uid, user.uid, user.uid)
        answer: tuple[bool, object] = (True, work())
    except BaseException as error:  # noqa: BLE001 - whatever it is, the parent raises it
        answer = (False, error)
    try:
        os.write(writing, pickle.dumps(answer))
    except Exception:  # noqa: BLE001 - an error that cannot be pickled still has words
        os.write(writing, pickle.dumps((False, AssertionError(repr(answer)))))
    finally:
        sys.stderr.flush()
        os._exit(0)
