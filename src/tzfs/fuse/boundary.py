"""The errno boundary: what a handler raises becomes the answer of a system call, and one log line.

pyfuse3 ends the mount on any exception but FUSEError. So every handler stands behind `request` (or
`notice`, for what gets no answer), and nothing else in tzfs turns errors into errnos.
"""

from __future__ import annotations

import errno
import functools
import logging
import time
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, TypeVar

import pyfuse3
from pyfuse3 import FUSEError

from tzfs import failpoints
from tzfs.errors import FsError, StoreError
from tzfs.fuse.counters import COUNTERS

_log = logging.getLogger("tzfs.fuse")
_requests = logging.getLogger("tzfs.request")

_SHOWN_BYTES = 64
"""Names are shown whole as a rule; data is shown as its length."""

P = ParamSpec("P")
R = TypeVar("R")
Handler = Callable[P, Coroutine[Any, Any, R]]


def request(handler: Handler[P, R]) -> Handler[P, R]:
    """Make `handler` raise nothing but FUSEError, count each call, and log it at DEBUG.

    FsError and StoreError carry their errno; a bug is EIO, with its traceback in the log. At other log levels
    the cost is one `isEnabledFor`, which logging caches.
    """
    name = handler.__name__
    counts, clock, note = COUNTERS.kind(name), time.perf_counter_ns, COUNTERS.activity.note
    handler = failpoints.point(f"handler.{name}")(handler)

    @functools.wraps(handler)
    async def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        began_ns = clock()
        try:
            if _requests.isEnabledFor(logging.DEBUG):
                return await _logged(name, handler, args, kwargs)
            return await handler(*args, **kwargs)
        except FUSEError:
            raise
        except Exception as error:  # noqa: BLE001 - the boundary is where every error ends
            raise FUSEError(errno_of(error, name, args)) from None
        finally:
            counts[(clock() - began_ns).bit_length()] += 1
            note()

    return wrapper


def notice(handler: Handler[P, None]) -> Handler[P, None]:
    """Make `handler` raise nothing at all: the kernel told us something and waits for no answer."""
    guarded = request(handler)

    @functools.wraps(handler)
    async def wrapper(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            await guarded(*args, **kwargs)
        except FUSEError as error:
            _log.error("%s failed with %s", handler.__name__, error)

    return wrapper


def errno_of(error: Exception, name: str, args: tuple[object, ...]) -> int:
    """Return the errno that `error` becomes, and log it if a human must know of it."""
    if isinstance(error, FsError):
        if error.errno == errno.EIO:
            _log.error("%s: %s: %s", _call(name, args), type(error).__name__, error)
        return error.errno
    if isinstance(error, StoreError):
        _log.error("%s: %s: %s", _call(name, args), type(error).__name__, error)
        return error.errno
    _log.error("%s: a bug", _call(name, args), exc_info=error)
    return errno.EIO


async def _logged(
    name: str,
    handler: Callable[..., Coroutine[Any, Any, R]],
    args: tuple[object, ...],
    kwargs: dict[str, Any],
) -> R:
    start = time.perf_counter()
    code = 0
    try:
        return await handler(*args, **kwargs)
    except FUSEError as error:
        code = error.errno
        raise
    except Exception as error:  # noqa: BLE001 - the boundary is where every error ends
        code = errno_of(error, name, args)
        raise FUSEError(code) from None
    finally:
        elapsed_us = (time.perf_counter() - start) * 1e6
        outcome = errno.errorcode.get(code, str(code)) if code else "ok"
        _requests.debug("%s = %s %.0f us", _call(name, args), outcome, elapsed_us)


def _call(name: str, args: tuple[object, ...]) -> str:
    return f"{name}({', '.join(map(_shown, args[1:]))})"


def _shown(argument: object) -> str:
    if isinstance(argument, bytes):
        return repr(argument) if len(argument) <= _SHOWN_BYTES else f"<{len(argument)} bytes>"
    if argument is None or isinstance(argument, int):
        return str(argument)
    if isinstance(argument, pyfuse3.SetattrFields):
        return "+".join(field[7:] for field in _SETATTR_FIELDS if getattr(argument, field)) or "nothing"
    if hasattr(argument, "pid"):
        return f"pid {argument.pid}"
    if isinstance(argument, list):
        return f"<{len(argument)} items>"
    return f"<{type(argument).__name__}>"


_SETATTR_FIELDS = [field for field in dir(pyfuse3.SetattrFields) if field.startswith("update_")]
