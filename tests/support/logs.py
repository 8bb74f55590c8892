"""A logged WARNING means that a human must act. So a test that causes one must say so, or it fails."""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Iterator


class WarningCollector(logging.Handler):
    """Keeps the records of level WARNING and above that no test has expected."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep `record`."""
        self.records.append(record)

    def describe(self) -> str:
        """Return what was kept, a line each."""
        return "\n".join(f"{r.name} {r.levelname}: {r.getMessage()}" for r in self.records)


COLLECTOR = WarningCollector()


@contextlib.contextmanager
def assert_logs(pattern: str, *, level: int = logging.WARNING, count: int = 1) -> Iterator[None]:
    """Expect, and consume, `count` records of exactly `level` whose message matches `pattern` (re.search)."""
    before = list(COLLECTOR.records)
    yield
    fresh = [r for r in COLLECTOR.records if r not in before]
    hits = [r for r in fresh if r.levelno == level and re.search(pattern, r.getMessage())]
    COLLECTOR.records[:] = [r for r in COLLECTOR.records if r not in hits]
    assert len(hits) == count, (
        f"{len(hits)} records of {logging.getLevelName(level)} match {pattern!r}, expected {count}; "
        f"logged: {[r.getMessage() for r in fresh]}"
    )
