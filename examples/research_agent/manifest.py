"""What happened, in SQLite: one row a workflow, one row an attempt."""

from __future__ import annotations

import sqlite3
import threading
import time
from pathlib import Path
from typing import Any, Final

_SCHEMA: Final = """
-- One row: how the run was called and how it ended. Times in s since 1970.
CREATE TABLE IF NOT EXISTS run (
    seed INTEGER, backend TEXT, failure_rate REAL, concurrency INTEGER, kill_every_s REAL,
    started REAL, ended REAL, kills INTEGER, compared INTEGER, lost INTEGER
);
CREATE TABLE IF NOT EXISTS workflows (
    number INTEGER PRIMARY KEY, name TEXT, topic TEXT, field TEXT,
    -- running, done, failed (gave up, or found something lost), stopped
    status TEXT, started REAL, ended REAL, error TEXT
);
CREATE TABLE IF NOT EXISTS attempts (
    workflow INTEGER, step TEXT, attempt INTEGER,
    -- done, repeat (an earlier attempt had done it), injected, killed (the filesystem went away), lost
    outcome TEXT, recovered INTEGER, started REAL, seconds REAL, error TEXT
);
"""


class Manifest:
    """The database of one run. Safe in threads."""

    def __init__(self, path: Path, *, fresh: bool = False) -> None:
        """Open it; `fresh` begins a new one."""
        if fresh:
            path.unlink(missing_ok=True)
        self._lock = threading.Lock()
        self._database = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._database.row_factory = sqlite3.Row
        self._database.execute("PRAGMA journal_mode=WAL")
        self._database.executescript(_SCHEMA)

    def _execute(self, text: str, *values: object) -> list[dict[str, Any]]:
        with self._lock:
            return [dict(row) for row in self._database.execute(text, values)]

    def begin_run(self, **columns: object) -> None:
        """Note how the run was called."""
        names = ", ".join((*columns, "started"))
        marks = ", ".join("?" * (len(columns) + 1))
        self._execute(f"INSERT INTO run ({names}) VALUES ({marks})", *columns.values(), time.time())

    def end_run(self, *, kills: int, compared: int, lost: int) -> None:
        """Note how it ended."""
        self._execute(
            "UPDATE run SET ended = ?, kills = ?, compared = ?, lost = ?", time.time(), kills, compared, lost
        )

    def begin_workflow(self, number: int, name: str, topic: str, field: str) -> None:
        """Note that a workflow runs."""
        self._execute(
            "INSERT OR REPLACE INTO workflows VALUES (?, ?, ?, ?, 'running', ?, NULL, NULL)",
            number, name, topic, field, time.time(),
        )  # fmt: skip

    def end_workflow(self, number: int, status: str, error: str | None) -> None:
        """Note how a workflow ended."""
        self._execute(
            "UPDATE workflows SET status = ?, ended = ?, error = ? WHERE number = ?",
            status, time.time(), error, number,
        )  # fmt: skip

    def attempt(
        self,
        number: int,
        step: str,
        attempt: int,
        outcome: str,
        began: float,
        error: str | None,
        *,
        recovered: bool,
    ) -> None:
        """Note an attempt at a step."""
        self._execute(
            "INSERT INTO attempts VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            number, step, attempt, outcome, int(recovered), began, time.time() - began, error,
        )  # fmt: skip

    def run(self) -> dict[str, Any]:
        """Return the row of the run."""
        return self._execute("SELECT * FROM run")[0]

    def workflows(self) -> list[dict[str, Any]]:
        """Return the workflows, in order."""
        return self._execute("SELECT * FROM workflows ORDER BY number")

    def attempts(self) -> list[dict[str, Any]]:
        """Return the attempts, in order."""
        return self._execute("SELECT * FROM attempts ORDER BY workflow, started")

    def close(self) -> None:
        """Close the database."""
        self._database.close()
