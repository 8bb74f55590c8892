"""check."""

from __future__ import annotations

from typing import Final

import click

from tzfs.cli import output
from tzfs.cli.base import REFUSED, Failure, State, pass_state


@click.command()
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@pass_state
def check(state: State, name: str, *, as_json: bool) -> None:
    """Check every invariant of a filesystem, mounted or not; damage is status 1."""
    from tzfs.session import connect  # noqa: PLC0415

    store = state.open_store()
    row = store.get(name)
    with connect(store, row) as session:
        findings = session.call("check")["findings"]
    if as_json:
        output.print_json(findings)
    else:
        for finding in findings:
            click.echo(f"invariant {finding['invariant']}: {output.escape(finding['text'])}")
    if findings:
        raise Failure(
            f"{row.full_name} is damaged, {len(findings)} findings: copy what is readable to a new "
            "filesystem; docs/format.md explains the numbers",
            REFUSED,
        )
    if not as_json:
        click.echo(f"{row.full_name} is clean")


COMMANDS: Final = (check,)
