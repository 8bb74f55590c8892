"""The command line: one group `tzfs`, a module for each family of commands.

    base        errors and exit statuses, the store
    params      sizes and durations
    output      tables, escaping, JSON
    lifecycle   create, list, info, rename, archive, unarchive, delete, undelete, purge
    mounting    mount, umount, and the helper of mount(8)
    history     snapshot, snapshots, snapshot-delete, diff, rollback, fork
    care        check, scrub, recover

These modules import click and no more; what a command needs, it imports itself, so that `tzfs --help`
and shell completion do not load a database.
"""

from __future__ import annotations

import sys
from pathlib import Path

import click

from tzfs.cli import care, history, lifecycle, looking, mounting
from tzfs.cli.base import EXIT_STATUSES, State, pass_state, run


@click.group(epilog=EXIT_STATUSES, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--store",
    type=click.Path(path_type=Path, readable=False),
    metavar="DIR",
    help="The directory of the filesystems.  [default: $TZFS_STORE, or tzfs in $XDG_DATA_HOME]",
)
@click.option("--debug", is_flag=True, help="Show tracebacks; a mount logs every request.")
@click.version_option(package_name="tzfs", message="tzfs %(version)s")
@pass_state
def tzfs(state: State, store: Path | None, debug: bool) -> None:  # noqa: FBT001 as click passes it
    """Filesystems with time travel.

    \b
    tzfs create lab --quota 10G       make a filesystem
    tzfs mount lab ~/lab              use it with any program
    tzfs snapshot lab -m before       keep the tree as it is now
    ls ~/lab/.snapshots/before/       look back, in any directory
    tzfs umount lab

    A filesystem is named [NAMESPACE/]NAME.
    """  # noqa: D301 the escape is click's: keep these lines as they are
    state.store = store
    state.debug = debug


for _family in (lifecycle, mounting, history, looking, care):
    for _command in _family.COMMANDS:
        tzfs.add_command(_command)


def main() -> None:
    """Run the command line."""
    sys.exit(run(tzfs, "tzfs"))


def mount_helper() -> None:
    """Run as mount.fuse.tzfs, for mount(8) and /etc/fstab."""
    sys.exit(run(mounting.mount_helper, "mount.fuse.tzfs"))
