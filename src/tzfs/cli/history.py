"""snapshot, snapshots, snapshot-delete."""

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


COMMANDS: Final = (snapshot, snapshots, snapshot_delete)
