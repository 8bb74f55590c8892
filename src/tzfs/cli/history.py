"""snapshot, snapshots, snapshot-delete, diff, rollback, fork."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import click

from tzfs.cli import output
from tzfs.cli.base import State, pass_state

if TYPE_CHECKING:
    from tzfs.session import Session


def _connect(state: State, name: str) -> Session:
    """Return a session with a filesystem of the store."""
    from tzfs.session import connect  # noqa: PLC0415

    store = state.open_store()
    return connect(store, store.get(name))


@click.command()
@click.argument("name")
@click.option("-m", "--label", metavar="LABEL", help="A name for it, of letters, digits, '.', '_' and '-'.")
@pass_state
def snapshot(state: State, name: str, label: str | None) -> None:
    """Keep the tree as it is now, and print the number of the snapshot.

    An unchanged tree gives the last snapshot again.
    """
    with _connect(state, name) as session:
        click.echo(session.call("snapshot", label=label)["txn"])


@click.command()
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@pass_state
def snapshots(state: State, name: str, *, as_json: bool) -> None:
    """List the snapshots, oldest first."""
    with _connect(state, name) as session:
        found = session.call("snapshots")["snapshots"]
    if as_json:
        output.print_json(found)
        return
    output.print_table(
        ("TXN", "TAKEN", "LABELS"),
        [(str(row["txn"]), output.moment(row["created_ns"]), " ".join(row["labels"])) for row in found],
    )


@click.command("snapshot-delete")
@click.argument("name")
@click.argument("snapshot_names", metavar="TXN|LABEL...", nargs=-1, required=True)
@pass_state
def snapshot_delete(state: State, name: str, snapshot_names: tuple[str, ...]) -> None:
    """Delete snapshots with all their labels; what only they held is freed in the background."""
    with _connect(state, name) as session:
        session.call("snapshot_delete", names=list(snapshot_names))


_SIGNS: Final = {"added": "+", "removed": "-", "changed": "~", "renamed": ">"}


@click.command()
@click.argument("name")
@click.argument("old", metavar="TXN|LABEL")
@click.argument("new", metavar="[TXN|LABEL]", required=False)
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@pass_state
def diff(state: State, name: str, old: str, new: str | None, *, as_json: bool) -> None:
    """Show what changed since a snapshot, or between two, and which program did it first.

    \b
    + added    - removed    ~ changed    > renamed
    """  # noqa: D301 the escape is click's: keep these lines as they are
    with _connect(state, name) as session:
        changes = session.call("diff", old=old, new=new)["changes"]
    if as_json:
        output.print_json(changes)
        return
    for change in changes:
        path = output.escape(change["path"])
        if change["old_path"] is not None:
            path = f"{output.escape(change['old_path'])} -> {path}"
        writer = change["writer"]
        who = f"{output.escape(writer['program'])}[{writer['pid']}]"
        click.echo(f"{_SIGNS[change['kind']]} {path}\t{who}")


@click.command()
@click.argument("name")
@click.argument("goal", metavar="TXN|LABEL")
@pass_state
def rollback(state: State, name: str, goal: str) -> None:
    """Make the tree what it was at a snapshot, mounted or not.

    The present becomes a snapshot first, whose number is printed: rolling back to that one undoes this.
    """
    with _connect(state, name) as session:
        click.echo(session.call("rollback", name=goal)["txn"])


@click.command()
@click.argument("source", metavar="NAME[@TXN|@LABEL]")
@click.argument("name", metavar="NEW_NAME")
@pass_state
def fork(state: State, source: str, name: str) -> None:
    """Make a new filesystem of another as it is, or as it was at a snapshot.

    It shares the bytes on disk and depends on nobody: each goes its own way from here.
    """
    from tzfs import fork as forks  # noqa: PLC0415

    origin, _, snapshot_name = source.partition("@")
    forks.fork(state.open_store(), origin, snapshot_name or None, name)


COMMANDS: Final = (snapshot, snapshots, snapshot_delete, diff, rollback, fork)
