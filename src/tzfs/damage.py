"""What a filesystem has lost without an error to anybody, until a person has been told by `check` or `scrub`.

Damaged data is EIO to whoever reads it. Damage in the engine's log is not: the tree is an earlier one, and
looks sound. So who opens the database and finds that writes it, a line of JSON each, into a file beside it;
`tzfs info` and `tzfs mount` show it, `tzfs check` and `tzfs scrub` show it for the last time.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from pathlib import Path
from typing import Final, NamedTuple

NAME: Final = "damage.json"
"""In the filesystem's directory, beside its database."""


class Note(NamedTuple):
    """One thing that was lost. found_ns: when that was seen, since 1970."""

    found_ns: int
    text: str


def note(directory: Path, text: str) -> None:
    """Add a note, durably. What the disk refuses then is not noted: `OSError` is for nobody here."""
    line = json.dumps(Note(time.time_ns(), text)._asdict()) + "\n"
    with contextlib.suppress(OSError), (directory / NAME).open("a") as file:
        file.write(line)
        file.flush()
        os.fsync(file.fileno())


def notes(directory: Path) -> list[Note]:
    """Return what was noted and not yet acknowledged; what is no note (a line cut short) still counts."""
    found = []
    try:
        lines = (directory / NAME).read_text(errors="replace").splitlines()
    except OSError:
        return []
    for line in lines:
        try:
            found.append(Note(**json.loads(line)))
        except (ValueError, TypeError):
            found.append(Note(0, line))
    return found


def acknowledge(directory: Path) -> None:
    """Forget the notes: a person was told."""
    (directory / NAME).unlink(missing_ok=True)
