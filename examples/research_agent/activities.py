"""One activity: verify what the step before left, perhaps fail, write, take a snapshot.

Running one again is always right. Where its snapshot is there already, it is done. Where the files are not
what the step before left (an attempt died halfway, an agent went mad), the tree is rolled back to that
step's snapshot first; the wreck stays in the history, for whoever wants to know.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from .content import LABELS, STEPS, Files, Job
from .workspace import Workspace

DAMAGES: Final = ("stopped halfway", "scribbled over a file", "deleted everything")


class InjectedFailure(Exception):
    """The activity failed, as it was told to."""


class Lost(Exception):
    """Something is not what it must be, and no retry can help: what must never happen."""


class Outcome(NamedTuple):
    """How an attempt went: an earlier one had done it all; it began with a rollback."""

    is_repeat: bool
    is_recovered: bool


def chance_of_failure(rate: float, attempt: int, attempts_max: int) -> float:
    """Return how likely an attempt, from 1, fails: half as likely each time, and never the last."""
    return 0.0 if attempt >= attempts_max else rate / 2 ** (attempt - 1)


def perform(work: Workspace, job: Job, step: int, damage: str | None) -> Outcome:
    """Do step `step` (from 1) of a job; with `damage`, do that instead and raise `InjectedFailure`.

    Raises `Lost` when a snapshot does not hold what it must, OSError when the filesystem cannot be reached.
    """
    label, before = LABELS[step], LABELS[step - 1]
    known = work.labels()
    if label in known:
        require(work.tree(label), job.state(step), f"{job.name} at {label}")
        return Outcome(is_repeat=True, is_recovered=False)
    if step == 1 and before not in known:
        work.snapshot(before)
    require(work.tree(before), job.state(step - 1), f"{job.name} at {before}")
    is_recovered = work.tree(None) != job.state(step - 1)
    if is_recovered:
        work.rollback(before)
        require(work.tree(None), job.state(step - 1), f"{job.name} rolled back to {before}")
    if damage is not None:
        _do_damage(work, job, step, damage)
        raise InjectedFailure(f"{STEPS[step - 1]} {damage}")
    _write(work, job.state(step - 1), job.state(step))
    require(work.tree(None), job.state(step), f"{job.name} after {STEPS[step - 1]}")
    work.snapshot(label)
    return Outcome(is_repeat=False, is_recovered=is_recovered)


def _write(work: Workspace, old: Files, new: Files) -> None:
    for path, data in new.items():
        if old.get(path) != data:
            work.write(path, data)
    for path in old.keys() - new.keys():
        work.remove(path)


def _do_damage(work: Workspace, job: Job, step: int, damage: str) -> None:
    """Leave the tree in a state in which nobody should find it."""
    old, new = job.state(step - 1), job.state(step)
    changed = sorted(path for path in new if new[path] != old.get(path))
    for path in changed[: max(1, len(changed) // 2)]:
        work.write(path, new[path][: len(new[path]) // 2])
    if damage == DAMAGES[1] and old:
        work.write(min(old), b"\x00\xff this was a file once \xde\xad")
    elif damage == DAMAGES[2]:
        for path in work.tree(None):
            work.remove(path)


def require(found: Files, expected: Files, what: str) -> None:
    """Raise `Lost`, saying what is missing, too much or different."""
    if found == expected:
        return
    missing, more = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
    other = sorted(path for path in found.keys() & expected.keys() if found[path] != expected[path])
    raise Lost(f"{what}: missing {missing}, too much {more}, different {other}")


def verify(work: Workspace, job: Job) -> int:
    """Check every step of a finished job, and the present; return the number of files compared. `Lost`."""
    compared = 0
    missing = set(LABELS) - work.labels()
    if missing:
        raise Lost(f"{job.name}: no snapshot {', '.join(sorted(missing))}")
    for step, label in enumerate(LABELS):
        require(work.tree(label), job.state(step), f"{job.name} at {label}")
        compared += len(job.state(step))
    require(work.tree(None), job.state(len(STEPS)), f"{job.name} now")
    return compared + len(job.state(len(STEPS)))
