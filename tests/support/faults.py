"""What stands in for another thing: a store that fails when told to, an object with methods exchanged."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from tzfs.errors import StoreFull
from tzfs.kv import Store


class FaultyStore:
    """A `Store` around another, which can refuse a write; a refused one changes nothing."""

    def __init__(self, inner: Store) -> None:
        self.inner = inner
        self.fail_in: int | None = None
        """How many more writes succeed before one is refused; None for all."""
        self.failed = False
        """A write was refused, and nobody has looked yet."""

    def heal(self) -> None:
        """Let writes succeed again."""
        self.fail_in = None
        self.failed = False

    def get(self, key: bytes) -> bytes | None:
        """See `Store.get`."""
        return self.inner.get(key)

    def scan(self, lower: bytes, upper: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        """See `Store.scan`."""
        return self.inner.scan(lower, upper, limit)

    def write(self, batch: Mapping[bytes, bytes | None]) -> None:
        """See `Store.write`."""
        if self.fail_in == 0:
            self.fail_in = None
            self.failed = True
            raise StoreFull("no space left on the disk, says the test")
        if self.fail_in is not None:
            self.fail_in -= 1
        self.inner.write(batch)

    def sync(self) -> None:
        """See `Store.sync`."""
        self.inner.sync()

    def close(self) -> None:
        """See `Store.close`."""
        self.inner.close()


class Instead:
    """An object with other methods in the place of some of its own."""

    def __init__(self, real: object, **methods: Callable[..., object]) -> None:
        self.__dict__.update(methods)
        self._real = real

    def __getattr__(self, name: str) -> object:
        return getattr(self._real, name)
