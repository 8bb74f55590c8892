"""What is held until it is closed: `with` and `close` in one place, for all that have them."""

from __future__ import annotations

from types import TracebackType
from typing import Self


class Closing:
    """A context manager by way of `close`."""

    def close(self) -> None:
        """Let go of what is held."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()
