"""What every command stands on: the error boundary, the exit statuses, the store.

A command parses, calls one function and prints. Whatever that function raises arrives here and
becomes one line on stderr and an exit status; a traceback is shown only with --debug.
"""

from __future__ import annotations

import sqlite3
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from tzfs import errors
from tzfs.cli.output import escape

if TYPE_CHECKING:
    from tzfs.store import Store

REFUSED: Final = 1
USAGE: Final = 2
NOT_FOUND: Final = 3
CONFLICT: Final = 4
SYSTEM: Final = 5
BUG: Final = 70
"""EX_SOFTWARE of sysexits.h."""

EXIT_STATUSES: Final = """\b
Exit status:
   0  done
   1  refused, or `check` found damage
   2  wrong usage: an option, a name or a size that cannot be
   3  not found: filesystem, snapshot, store or mount point
   4  conflict: name taken, mounted, busy, not in that status
   5  the system: disk, permissions, /dev/fuse, a daemon that does not answer
  70  a bug in tzfs; --debug shows where
"""

_STATUSES: Final[tuple[tuple[tuple[type[BaseException], ...], int], ...]] = (
    (
        (
            errors.UnknownFilesystem,
            errors.NotAStore,
            errors.NoEntry,
            errors.StoreMissing,
            errors.MountpointMissing,
        ),
        NOT_FOUND,
    ),
    (
        (
            errors.NameTaken,
            errors.Exists,
            errors.Mounted,
            errors.WrongStatus,
            errors.StoreLocked,
            errors.MountpointBusy,
            errors.Busy,
        ),
        CONFLICT,
    ),
    ((errors.InvalidName, errors.Invalid, errors.NameTooLong), USAGE),
    (
        (errors.CheckFailed, errors.ReadOnly, errors.NewerCatalog, errors.NewerFormat, errors.NotFormatted),
        REFUSED,
    ),
    ((errors.TzfsError, OSError, sqlite3.Error), SYSTEM),
)

_ADVICE: Final[tuple[tuple[type[errors.TzfsError], str], ...]] = (
    (errors.SnapshotMissing, "`tzfs snapshots NAME` lists those there are"),
    (errors.Exists, "choose another label, or delete the snapshot that has it"),
    (errors.ReadOnly, "`tzfs unarchive` it, mount it without --read-only, or make its disk writable"),
    (errors.StoreFull, "the disk under the store is full, make room there"),
    (errors.StoreCorrupt, "the disk has lost bytes, restore the filesystem from a backup"),
    (errors.StoreMissing, "the store has lost its database, restore it from a backup"),
    (errors.NotFormatted, "its creation did not end, restore it from a backup or delete it"),
    (errors.NewerFormat, "use a newer tzfs"),
    (errors.StoreLocked, "wait for the process that uses it to end"),
)
"""What to do, where the error comes from the core, which knows no commands."""


class Failure(click.ClickException):
    """A command that failed: one line, and an exit status of the table above."""

    def __init__(self, message: str, exit_status: int) -> None:
        """Fail with `message`."""
        super().__init__(message)
        self.exit_status = exit_status


def failure(error: Exception) -> Failure:
    """Return what a person is told of an error."""
    for classes, status in _STATUSES:
        if isinstance(error, classes):
            return Failure(_message(error), status)
    text = f"internal error: {type(error).__name__}: {error}: please report it, with the output of --debug"
    return Failure(text, BUG)


def _message(error: Exception) -> str:
    """Return what is wrong and what to do, on one line."""
    if isinstance(error, OSError):
        return errors.describe_os_error(error)
    text = str(error) or type(error).__name__
    if isinstance(error, errors.StoreUnreadable):
        return text
    for kind, advice in _ADVICE:
        if isinstance(error, kind):
            return f"{text}: {advice}"
    return text


@dataclass
class State:
    """What the group's own options said. store: None is the default of this user."""

    store: Path | None = None
    debug: bool = False

    def open_store(self, *, create: bool = False) -> Store:
        """Open the store, and remove from it what is due."""
        from tzfs.store import Store, default_path  # noqa: PLC0415 --help needs no database

        store = Store.open(self.store or default_path(), create=create)
        store.sweep()
        return store


pass_state = click.make_pass_decorator(State, ensure=True)


def run(command: click.Command, program: str, arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status: the boundary where every error becomes one line."""
    state = State()
    try:
        status = command.main(arguments, prog_name=program, standalone_mode=False, obj=state)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return USAGE
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx else program
        return _complain(f"{error.format_message().rstrip('.')} (see `{path} --help`)", USAGE)
    except Failure as error:
        return _complain(error.message, error.exit_status)
    except click.ClickException as error:
        return _complain(error.format_message(), REFUSED)
    except click.Abort:
        return _complain("stopped, nothing was done", REFUSED)
    except Exception as error:  # noqa: BLE001 the traceback is there for those who ask
        if state.debug:
            traceback.print_exc(file=sys.stderr)
        found = failure(error)
        return _complain(found.message, found.exit_status)
    return status if isinstance(status, int) else 0


def _complain(message: str, status: int) -> int:
    """Print the one line, and return the status."""
    click.echo(f"tzfs: {escape(' '.join(message.split()))}", err=True)
    return status
