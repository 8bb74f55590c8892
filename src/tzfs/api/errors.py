"""What the API raises: the classes of `tzfs.errors`, each of them also the `OSError` of its errno.

The core's errors are no `OSError`s, so that an error of the host's own files is never taken for one of a
filesystem of ours. A program, though, has `except FileNotFoundError:` in its fingers. So at the edge each
class is joined with what Python makes of its errno: a `NoEntry` that is raised here is a
`FileNotFoundError` as well.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from tzfs import errors
from tzfs.errors import TzfsError

_PLAIN: tuple[type[TzfsError], ...] = (
    errors.NoEntry,
    errors.Exists,
    errors.NotDirectory,
    errors.IsDirectory,
    errors.NotEmpty,
    errors.ReadOnly,
)
"""Errors whose errno says all when a path stands beside it; the texts of the others say more."""


_joined_classes: dict[type[TzfsError], type[TzfsError]] = {}


def _joined(kind: type[TzfsError]) -> type[TzfsError]:
    """Return the class that is `kind` and the `OSError` of its errno."""
    if kind not in _joined_classes:
        builtin = type(OSError(kind.errno, ""))
        names = {"__module__": kind.__module__, "__doc__": kind.__doc__, "__qualname__": kind.__qualname__}
        _joined_classes[kind] = type(kind.__name__, (kind, builtin), names)
    return _joined_classes[kind]


def os_error(error: TzfsError, path: str | None = None) -> TzfsError:
    """Return `error` as a program expects it: with errno, strerror and filename."""
    if hasattr(error, "strerror"):
        return error
    text = os.strerror(error.errno) if path is not None and type(error) in _PLAIN else str(error)
    text = text or os.strerror(error.errno)
    arguments = (error.errno, text) if path is None else (error.errno, text, path)
    return _joined(type(error))(*arguments).with_traceback(error.__traceback__)


@contextmanager
def raising(path: str | None = None) -> Iterator[None]:
    """Raise the `TzfsError`s of a block as the API does."""
    try:
        yield
    except TzfsError as error:
        raise os_error(error, path) from None
