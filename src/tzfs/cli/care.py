"""check, scrub, recover."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

import click

from tzfs.cli import output
from tzfs.cli.base import REFUSED, Failure, State, pass_state
from tzfs.cli.params import SIZE

if TYPE_CHECKING:
    from tzfs.catalog import FilesystemRow
    from tzfs.filesystem import Filesystem
    from tzfs.rocks import RocksStore
    from tzfs.scrub import Damage
    from tzfs.store import Store

_REPAIRS_MAX: Final = 4


@click.command()
@click.argument("name")
@click.option(
    "--repair", "is_repaired", is_flag=True, help="Mend what can be mended, say what, and check again."
)
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@pass_state
def check(state: State, name: str, *, is_repaired: bool, as_json: bool) -> None:
    """Check every invariant of a filesystem, mounted or not; damage is status 1.

    A repair needs it unmounted. What cannot be put back where it was is in lost+found then.
    """
    from tzfs.session import connect  # noqa: PLC0415

    store = state.open_store()
    row = store.get(name)
    if is_repaired:
        for text in _repair(store, row):
            click.echo(f"tzfs: {output.escape(text)}", err=True)
    with connect(store, row) as session:
        findings = session.call("check")["findings"]
    lost = _tell_lost(store, row)
    if as_json:
        output.print_json(findings)
    else:
        for finding in findings:
            click.echo(f"invariant {finding['invariant']}: {output.escape(finding['text'])}")
    if findings:
        raise Failure(
            f"{row.full_name} is damaged, {_count(len(findings), 'finding')}: "
            "`tzfs check --repair` mends what it can; docs/format.md explains the numbers",
            REFUSED,
        )
    if lost:
        raise Failure(f"{row.full_name} is sound, but has lost what is said above", REFUSED)
    if not as_json:
        click.echo(f"{row.full_name} is clean")


def _tell_lost(store: Store, row: FilesystemRow) -> bool:
    """Say what was lost unnoticed, for the last time; tell whether anything was."""
    from tzfs import damage  # noqa: PLC0415

    directory = store.directory(row)
    notes = damage.notes(directory)
    for note in notes:
        click.echo(f"tzfs: found {output.moment(note.found_ns)}: {output.escape(note.text)}", err=True)
    if notes:
        damage.acknowledge(directory)
    return bool(notes)


def _repair(store: Store, row: FilesystemRow) -> Iterator[str]:
    """Repair, again while something was done: what is mended may show what else is to mend."""
    from tzfs.errors import Mounted, WrongStatus  # noqa: PLC0415
    from tzfs.repair import repair  # noqa: PLC0415
    from tzfs.session import LocalSession, connect  # noqa: PLC0415

    for _ in range(_REPAIRS_MAX):
        with connect(store, row) as session:
            if not isinstance(session, LocalSession):
                raise Mounted(f"{row.full_name} is mounted: `tzfs umount {row.full_name}` before a repair")
            if session.filesystem.read_only:
                raise WrongStatus(f"{row.full_name} is archived: `tzfs unarchive {row.full_name}` first")
            done = repair(session.filesystem)
        yield from done
        if not done:
            return


@click.command()
@click.argument("name")
@click.option("--rate", type=SIZE, default=None, metavar="SIZE", help="Read at most so much a second.")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@pass_state
def scrub(state: State, name: str, rate: int | None, *, as_json: bool) -> None:
    """Read and verify every byte of a filesystem, mounted or not, and name the files that are hit.

    It works on a copy made of hard links, so a mount goes on meanwhile. Damage is status 1.
    """
    from tzfs import scrub as scrubbing  # noqa: PLC0415
    from tzfs import stand_in  # noqa: PLC0415
    from tzfs.filesystem import Filesystem  # noqa: PLC0415
    from tzfs.rocks import RocksStore  # noqa: PLC0415
    from tzfs.session import connect  # noqa: PLC0415

    store = state.open_store()
    row = store.get(name)
    with connect(store, row) as session:
        copy = session.checkpoint()
    try:
        scrubbing.forget_cached_pages(copy)
        engine = RocksStore.open(copy, read_only=True)
        try:
            fs = Filesystem(engine, read_only=True)
            read_bytes, damage = _scrub(engine, fs, rate, quiet=as_json)
            hits = list(scrubbing.hits(fs)) if damage else []
        finally:
            engine.close()
    finally:
        stand_in.remove(copy)
    lost = _tell_lost(store, row)
    # The copy is gone; its tables are those of the database, under the same names.
    database = str(store.database(row))
    damage = [area._replace(error=area.error.replace(str(copy), database)) for area in damage]
    if as_json:
        found = [{"path": os.fsdecode(hit.path), "snapshot": hit.snapshot, "what": hit.what} for hit in hits]
        areas = [{"space": area.space, "first": area.first.hex(), "error": area.error} for area in damage]
        output.print_json({"read_bytes": read_bytes, "damage": areas, "hits": found})
    else:
        for area in damage:
            click.echo(f"unreadable: {area.space} from key {area.first.hex()}: {output.escape(area.error)}")
        for hit in hits:
            where = f"snapshot {hit.snapshot}" if hit.snapshot else "live"
            click.echo(f"hit: {output.escape(os.fsdecode(hit.path))} ({where}): {hit.what}")
    if damage:
        raise Failure(
            f"{row.full_name}: the disk has lost {_count(len(damage), 'area')}: "
            + (
                "restore what is hit from a backup; reading it gives EIO"
                if hits
                else "no file of the tree or of a snapshot is hit"
            ),
            REFUSED,
        )
    if lost:
        raise Failure(f"{row.full_name}: what is left is sound, but see above", REFUSED)
    if not as_json:
        click.echo(f"{row.full_name}: {output.size(read_bytes)} read, all of it is sound")


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _scrub(engine: RocksStore, fs: Filesystem, rate: int | None, *, quiet: bool) -> tuple[int, list[Damage]]:
    """Scrub with a progress bar, if somebody looks; return the bytes read, and the damage."""
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn  # noqa: PLC0415

    from tzfs import scrub as scrubbing  # noqa: PLC0415

    read_bytes, damage, began = 0, [], time.monotonic()
    columns = (BarColumn(), DownloadColumn(binary_units=True), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=quiet, transient=True) as progress:
        task = progress.add_task("scrub", total=max(fs.usage().stored_bytes, 1))
        for step in scrubbing.scrub(engine, fs.chunk_size):
            read_bytes += step.read_bytes
            if step.damage is not None:
                damage.append(step.damage)
            progress.update(task, completed=read_bytes)
            if rate:
                time.sleep(max(0.0, read_bytes / rate - (time.monotonic() - began)))
    return read_bytes, damage


@click.command()
@click.argument("identifier", metavar="ID")
@click.argument("name")
@pass_state
def recover(state: State, identifier: str, name: str) -> None:
    """Give a filesystem a name again whose row in the catalog is damaged or lost.

    ID is the directory below filesystems/; `tzfs list` names those that need it. Nothing in it is changed.
    """
    state.open_store(create=True).recover(identifier, name)


COMMANDS: Final = (check, scrub, recover)
