"""Records that were read or written last, kept in memory: what one request asks for, the next asks for again.

When a program makes a file its directory is looked at three times, and the absent name twice. ADR 007 has
the figures.
"""

from __future__ import annotations

import enum
from typing import Any, Final


class Unknown(enum.Enum):
    """The type of `UNKNOWN`."""

    UNKNOWN = enum.auto()


UNKNOWN: Final = Unknown.UNKNOWN
"""Nothing is known of a key; None says that it is known to be absent."""


class Recent:
    """Values by key, at least the last `size` that were put, at most twice as many.

    Two generations: when the young one is full it becomes the old one, whose rest is forgotten; what is asked
    for in the old one moves to the young. Of one thread, as whoever reads a value and puts it here must not
    be overtaken by who writes a newer one.
    """

    __slots__ = ("_old", "_size", "_young", "hits", "misses")

    def __init__(self, size: int) -> None:
        self._size = size
        self.hits = 0
        self.misses = 0
        self._young: dict[bytes, bytes | None] = {}
        self._old: dict[bytes, bytes | None] = {}

    def get(self, key: bytes) -> bytes | Unknown | None:
        """Return what was put last under `key`, or `UNKNOWN`."""
        value = self._young.get(key, UNKNOWN)
        if value is UNKNOWN:
            value = self._old.pop(key, UNKNOWN)
            if value is UNKNOWN:
                self.misses += 1
                return value
            self.put(key, value)
        self.hits += 1
        return value

    def put(self, key: bytes, value: bytes | None) -> None:
        """Keep a value, None for a key that is absent."""
        self._young[key] = value
        if len(self._young) > self._size:
            self._old, self._young = self._young, {}

    def clear(self) -> None:
        """Know nothing."""
        self._young, self._old = {}, {}


class Decoded:
    """What heads were decoded to last, at most `size` of them.

    Each stands beside the very bytes that it was decoded from. As long as the store gives these, and not just
    the like of them, nothing has changed and they need no second look: nobody has to say when one is stale.
    """

    __slots__ = ("_known", "_size")

    def __init__(self, size: int) -> None:
        self._size = size
        self._known: dict[bytes, tuple[bytes, Any]] = {}

    def get(self, k: bytes, head: bytes) -> Any:  # noqa: ANN401 - whatever its caller has put there
        """Return what `head`, the head of K, was decoded to, None where that is not known."""
        known = self._known.get(k)
        return known[1] if known is not None and known[0] is head else None

    def put(self, k: bytes, head: bytes, value: object) -> None:
        """Remember what a head was decoded to, or encoded from."""
        if len(self._known) >= self._size and k not in self._known:
            self._known.clear()
        self._known[k] = (head, value)
