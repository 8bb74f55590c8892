"""create, list, info, rename, archive, unarchive, delete, undelete, purge."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import click

from tzfs.cli import output
from tzfs.cli.base import REFUSED, Failure, State, pass_state
from tzfs.cli.params import DURATION, SIZE

if TYPE_CHECKING:
    from tzfs.catalog import FilesystemRow
    from tzfs.store import Store


@click.command()
@click.argument("name")
@click.option(
    "--quota", type=SIZE, default=0, metavar="SIZE", help="Most bytes of content, history included."
)
@click.option("--inodes", type=click.IntRange(min=1), metavar="N", help="Most files and directories.")
@click.option("--chunk-size", type=SIZE, metavar="SIZE", help="A power of two.  [default: 16K]")
@pass_state
def create(state: State, name: str, quota: int, inodes: int | None, chunk_size: int | None) -> None:
    """Make an empty filesystem, and the store if there is none."""
    from tzfs.volume import CHUNK_SIZE_DEFAULT  # noqa: PLC0415

    if chunk_size is None:
        chunk_size = CHUNK_SIZE_DEFAULT
    store = state.open_store(create=True)
    store.create(name, chunk_size=chunk_size, quota_bytes=quota, inodes_max=inodes or 0)


@click.command("list")
@click.option(
    "--status",
    type=click.Choice(["running", "archived", "deleted", "all"]),
    help="Only those.  [default: all but deleted]",
)
@click.option("--namespace", metavar="N", help="Only those.")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@pass_state
def list_filesystems(state: State, status: str | None, namespace: str | None, *, as_json: bool) -> None:
    """List the filesystems of the store."""
    store = state.open_store()
    rows = store.list(status=None if status == "all" else status, namespace=namespace)
    if status is None:
        rows = [row for row in rows if row.status != "deleted"]
    if as_json:
        output.print_json([_describe(store, row) for row in rows])
    else:
        _print_rows(store, rows)
    damage = store.damage()
    for text in damage[:-1]:
        click.echo(f"tzfs: {output.escape(text)}", err=True)
    if damage:
        raise Failure(damage[-1], REFUSED)


def _print_rows(store: Store, rows: list[FilesystemRow]) -> None:
    """Print the table of `list`."""
    output.print_table(
        ("NAME", "STATUS", "CREATED", "QUOTA", "MOUNTED AT"),
        [
            (
                str(row.full_name),
                row.status,
                output.moment(row.created_ns),
                output.size(row.config.quota_bytes) if row.config.quota_bytes else "-",
                mount.mountpoint if (mount := store.mounted_at(row)) else "-",
            )
            for row in rows
        ],
    )


def _describe(store: Store, row: FilesystemRow) -> dict[str, Any]:
    """Return what the catalog knows of a filesystem; times in ns since 1970, sizes in bytes."""
    mount = store.mounted_at(row)
    return {
        "name": str(row.full_name),
        "id": row.id,
        "namespace": row.namespace,
        "status": row.status,
        "created_ns": row.created_ns,
        "updated_ns": row.updated_ns,
        "deleted_ns": row.deleted_ns,
        "purge_after_ns": row.purge_after_ns,
        **row.config._asdict(),
        "mountpoint": mount.mountpoint if mount else None,
        "pid": mount.pid if mount else None,
        "path": str(store.directory(row)),
    }


@click.command()
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@pass_state
def info(state: State, name: str, *, as_json: bool) -> None:
    """Show status, snapshots, usage, limits, mount point and daemon of a filesystem."""
    store = state.open_store()
    row = store.get(name)
    known = _describe(store, row)
    if row.status != "deleted":
        from tzfs import damage  # noqa: PLC0415
        from tzfs.session import connect  # noqa: PLC0415

        with connect(store, row) as session:
            known |= session.call("info")
        known["damage"] = [note._asdict() for note in damage.notes(store.directory(row))]
        known["mounted_read_only"] = known.pop("read_only") if known["mountpoint"] else None
    if as_json:
        output.print_json(known)
    else:
        output.print_fields(_for_people(known))


def _for_people(known: dict[str, Any]) -> dict[str, Any]:
    """Return what `info` prints, in its order."""
    fields: dict[str, Any] = {
        "name": known["name"],
        "id": known["id"],
        "status": known["status"],
        "created": output.moment(known["created_ns"]),
    }
    if known["status"] == "deleted":
        return fields | {
            "deleted": output.moment(known["deleted_ns"]),
            "bytes kept until": output.moment(known["purge_after_ns"]),
        }
    usage = known["usage"]
    how = " (read-only)" if known["mounted_read_only"] else ""
    fields |= {
        "mounted at": f"{known['mountpoint']}{how}" if known["mountpoint"] else "-",
        "pid": known["pid"],
        "open txn": known["txn"],
        "snapshots": known["snapshots"],
        "live": output.size(usage["live_bytes"]),
        "stored": output.size(usage["stored_bytes"]) + _share(usage["stored_bytes"], usage["quota_bytes"]),
        "quota": output.size(usage["quota_bytes"]) if usage["quota_bytes"] else "none",
        "inodes": f"{usage['inodes']}{_share(usage['inodes'], usage['inodes_max'])}",
        "inodes max": usage["inodes_max"] or "none",
        "chunk size": output.size(known["chunk_size"]),
        "reclaim backlog": known["reclaim_backlog"],
        "path": known["path"],
    }
    for at, note in enumerate(known["damage"], start=1):
        fields[f"LOST ({at})"] = f"{note['text']}; found {output.moment(note['found_ns'])}, see `tzfs check`"
    engine = known.get("engine", {})
    if engine.get("failure"):
        fields["engine"] = f"takes no writes: {engine['failure']}"
    elif engine and not engine["compacts"]:
        fields["engine"] = "a table is damaged, so none is compacted: `tzfs scrub` names the files"
    if known["returning_to"] is not None:
        fields["rollback"] = (
            f"to {known['returning_to']} is half done and waits for room on the disk: files are EIO"
        )
    for task in known.get("tasks", []):
        if task["failures"]:
            fields[f"task {task['name']}"] = f"failed {task['failures']} times, last: {task['last_error']}"
    return fields


def _share(used: int, limit: int) -> str:
    """Return how much of a limit is used, where there is one."""
    return f" ({used * 100 // limit} %)" if limit else ""


@click.command()
@click.argument("name")
@click.argument("new_name")
@pass_state
def rename(state: State, name: str, new_name: str) -> None:
    """Give a filesystem another name; a mount of it goes on."""
    state.open_store().rename(name, new_name)


@click.command()
@click.argument("name")
@pass_state
def archive(state: State, name: str) -> None:
    """Check and compact a filesystem; it is read-only from then on."""
    state.open_store().archive(name)


@click.command()
@click.argument("name")
@pass_state
def unarchive(state: State, name: str) -> None:
    """Make an archived filesystem writable again."""
    state.open_store().unarchive(name)


@click.command()
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option(
    "--grace", type=DURATION, default="7d", show_default=True, metavar="TIME", help="How long undelete works."
)
@pass_state
def delete(state: State, name: str, grace: float, *, yes: bool) -> None:
    """Delete a filesystem; its bytes stay for a while, and undelete brings it back."""
    store = state.open_store()
    row = store.get(name)
    if not yes and row.status != "deleted":
        click.confirm(f"Delete {row.full_name} with all its snapshots?", abort=True, err=True)
    row = store.delete(name, grace_s=grace)
    if grace > 0:
        note = f"until {output.moment(row.purge_after_ns)} `tzfs undelete {row.full_name}` brings it back"
    else:
        note = f"the next command removes the bytes of {row.full_name}"
    click.echo(f"tzfs: {note}", err=True)


@click.command()
@click.argument("name")
@pass_state
def undelete(state: State, name: str) -> None:
    """Bring back the filesystem that was deleted last under this name."""
    state.open_store().undelete(name)


@click.command()
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
@pass_state
def purge(state: State, name: str, *, yes: bool) -> None:
    """Remove the bytes of a deleted filesystem now: nothing brings them back."""
    store = state.open_store()
    if not yes:
        click.confirm(f"Remove the bytes of the deleted filesystem {name} for ever?", abort=True, err=True)
    store.purge(name)


COMMANDS: Final = (create, list_filesystems, info, rename, archive, unarchive, delete, undelete, purge)
