"""mount, umount, and mount.fuse.tzfs for mount(8)."""

from __future__ import annotations

import os
import select
import shlex
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import click

from tzfs.cli import output
from tzfs.cli.base import CONFLICT, NOT_FOUND, SYSTEM, Failure, State, pass_state

if TYPE_CHECKING:
    from tzfs.catalog import FilesystemRow
    from tzfs.mountpoint import MountEntry, MountOptions
    from tzfs.runtime import MountRecord
    from tzfs.store import Store

ANSWER_TIMEOUT_S: Final = 30.0
END_TIMEOUT_S: Final = 120.0
"""How long umount waits for the daemon, which syncs and closes the database."""

SOON_S: Final = 1.0
"""When umount begins to wonder what keeps the daemon from ending."""

_FOR_MOUNT_ONLY: Final = {
    "defaults", "auto", "noauto", "user", "nouser", "users", "owner", "group", "nofail", "_netdev", "rw",
}  # fmt: skip
"""Options that mount(8) may pass on and that say nothing to us; so does every "x-...", "X-..."."""
_OURS: Final = ("fsname", "subtype")


class ParsedOptions(NamedTuple):
    """What `-o` said. fields: of `MountOptions`. nonempty: mount over files. store: of the helper."""

    fields: dict[str, Any]
    nonempty: bool
    store: Path | None
    remount: bool


def parse_options(texts: Iterable[str]) -> ParsedOptions:
    """Take `-o a,b=c` apart; `click.BadParameter` for what tzfs sets itself."""
    fields: dict[str, Any] = {}
    passed: list[str] = []
    nonempty, remount, store = False, False, None
    for option in filter(None, ",".join(texts).split(",")):
        key, _, value = option.partition("=")
        if key in _OURS:
            raise click.BadParameter(f"{key} is set by tzfs: leave it out", param_hint="-o")
        if key in _FOR_MOUNT_ONLY or key.startswith(("x-", "X-")):
            continue
        if key == "nonempty":
            nonempty = True
        elif key == "remount":
            remount = True
        elif key == "store":
            store = Path(value)
        elif key in _OWN:
            name, convert = _OWN[key]
            fields[name] = _converted(option, convert)
        else:
            passed.append(option)
    return ParsedOptions(fields | {"fuse_options": tuple(passed)}, nonempty, store, remount)


_OWN: Final[dict[str, tuple[str, Callable[[str], float]]]] = {
    "ro": ("read_only", lambda _: True),
    "allow_other": ("allow_other", lambda _: True),
    "nowriteback": ("writeback", lambda _: False),
    "poll_us": ("poll_us", int),
    "sync_interval": ("sync_interval_s", float),
}


def _converted(option: str, convert: Callable[[str], float]) -> float:
    """Return the value of one of our own options."""
    try:
        value = convert(option.partition("=")[2])
    except ValueError:
        raise click.BadParameter(f"{option!r} needs a number", param_hint="-o") from None
    if not isinstance(value, bool) and not 0 <= value < 1e9:
        raise click.BadParameter(f"{option!r} is out of range", param_hint="-o")
    return value


@click.command()
@click.argument("name")
@click.argument("directory", type=click.Path(path_type=Path, readable=False))
@click.option(
    "-o", "options", multiple=True, metavar="OPT,...", help="Options of FUSE and the kernel; see below."
)
@click.option("--foreground", is_flag=True, help="Stay, and log to the terminal as well.")
@click.option("--read-only", is_flag=True, help="Allow no change, and do no background work.")
@click.option("--allow-other", is_flag=True, help="Let other users in, by the modes of the files.")
@click.option(
    "--log-file", type=click.Path(path_type=Path, readable=False), help="[default: daemon.log in the store]"
)
@pass_state
def mount(
    state: State,
    name: str,
    directory: Path,
    options: tuple[str, ...],
    log_file: Path | None,
    *,
    foreground: bool,
    read_only: bool,
    allow_other: bool,
) -> None:
    """Mount a filesystem on a directory; returns when it answers.

    \b
    Options after -o, besides those of FUSE and the kernel (suid, dev, noexec, ...):
      nonempty         mount over a directory that has files
      nowriteback      write through: slower, and times are the daemon's
      sync_interval=S  seconds between syncs of the log  [default: 5]
      poll_us=N        how long to poll for a request before sleeping  [default: 60]
    """  # noqa: D301 the escape is click's: keep these lines as they are
    parsed = parse_options(options)
    fields = parsed.fields | {"foreground": foreground, "debug": state.debug}
    if read_only:
        fields["read_only"] = True
    if allow_other:
        fields["allow_other"] = True
    if log_file is not None:
        fields["log_file"] = log_file.absolute()
    _mount(state, name, directory, fields, nonempty=parsed.nonempty)


def _mount(state: State, name: str, directory: Path, fields: dict[str, Any], *, nonempty: bool) -> None:
    """Mount, in this process or in one of its own."""
    from tzfs import mountpoint  # noqa: PLC0415

    store = state.open_store()
    row = store.get(name)
    path = Path(os.path.realpath(directory))
    _refuse_mounted(store, row)
    mountpoint.require_fuse()
    note = mountpoint.prepare(path, may_hide_files=nonempty)
    _clean_last(store, row)
    if note is not None:
        click.echo(f"tzfs: {note}", err=True)
    options = mountpoint.MountOptions(mountpoint=path, **fields)

    def daemon(ready: Callable[[], None]) -> None:
        # Imported where it is needed: pyfuse3 and trio take as long as all the rest.
        from tzfs import daemon  # noqa: PLC0415

        daemon.mount(store, row, options, ready)

    if options.foreground:
        daemon(lambda: None)
        return
    from tzfs import detach  # noqa: PLC0415

    detach.start(daemon)
    _wait_for_answer(options)
    from tzfs import damage  # noqa: PLC0415

    for lost in damage.notes(store.directory(row)):
        click.echo(f"tzfs: {row.full_name}: {output.escape(lost.text)}: see `tzfs check`", err=True)


def _refuse_mounted(store: Store, row: FilesystemRow) -> None:
    """Raise what makes mounting pointless, before anything is touched: `Mounted`, `WrongStatus`."""
    from tzfs.errors import Mounted, WrongStatus  # noqa: PLC0415

    if row.status == "deleted":
        raise WrongStatus(f"{row.full_name} is deleted: `tzfs undelete {row.full_name}` first")
    found = store.stays_mounted_at(row)
    if found is not None:
        raise Mounted(
            f"{row.full_name} is mounted at {found.mountpoint} already: use it there, or "
            f"`tzfs umount {row.full_name}` first"
        )


def _clean_last(store: Store, row: FilesystemRow) -> None:
    """Clean the place where a daemon of this filesystem died, which may be another than the new one."""
    from tzfs import mountpoint, runtime  # noqa: PLC0415

    left = runtime.last_mount(store.directory(row))
    if left is None or store.mounted_at(row) is not None:
        return
    path = Path(left.mountpoint)
    entry = mountpoint.entry_at(path)
    if entry is not None and entry.kind == mountpoint.KIND and mountpoint.is_stale(path):
        mountpoint.unmount(path, lazy=True)
        click.echo(f"tzfs: {path} was left mounted by a daemon that is dead: cleaned", err=True)


def _wait_for_answer(options: MountOptions) -> None:
    """Return when the mount answers this process, too.

    In a thread, because a request to a FUSE daemon that hangs cannot be timed out by the one who asks.
    """
    asking = threading.Thread(target=os.statvfs, args=(options.mountpoint,), daemon=True)
    asking.start()
    asking.join(ANSWER_TIMEOUT_S)
    if asking.is_alive():
        raise Failure(f"{options.mountpoint} does not answer: see daemon.log in the store", SYSTEM)


@click.command()
@click.argument("target", metavar="DIR|NAME")
@click.option("--lazy", is_flag=True, help="Unmount now for new users, for open files when they are closed.")
@pass_state
def umount(state: State, target: str, *, lazy: bool) -> None:
    """Unmount a filesystem; returns when its daemon has ended."""
    from tzfs import mountpoint  # noqa: PLC0415

    path = Path(os.path.realpath(target))
    entry = mountpoint.entry_at(path)
    if entry is not None and entry.kind != mountpoint.KIND:
        raise Failure(f"{path} is a mount of {entry.kind}, not of tzfs: use umount", NOT_FOUND)
    record = _record_at(state, path) if entry is not None else _record_of(state, target)
    if record is None:
        mountpoint.unmount(path, lazy=lazy or mountpoint.is_stale(path))
    else:
        _end(record, lazy=lazy)


def _end(record: MountRecord, *, lazy: bool) -> None:
    """Unmount what a daemon has mounted, and wait for its end."""
    from tzfs import mountpoint  # noqa: PLC0415

    path = Path(record.mountpoint)
    entry = mountpoint.entry_at(path)
    # Opened before unmounting: as long as the daemon lives, no other process gets its pid.
    try:
        daemon = os.pidfd_open(record.pid)
    except ProcessLookupError:
        daemon = None
    try:
        mountpoint.unmount(path, lazy=lazy)
        if daemon is None or lazy:
            return
        if select.select([daemon], [], [], SOON_S)[0]:
            return
        # The number of its device may be another mount's by now, but that has another source.
        elsewhere = [found for found in mountpoint.mount_table() if entry and _is_same(found, entry)]
        if elsewhere:
            place = elsewhere[0].mountpoint
            raise Failure(
                f"{path} is unmounted, but it is mounted at {place}, too: `umount {place}`", CONFLICT
            )
        if not select.select([daemon], [], [], END_TIMEOUT_S)[0]:
            raise Failure(
                f"process {record.pid} does not end: is it mounted in a container, too? See daemon.log",
                SYSTEM,
            )
    finally:
        if daemon is not None:
            os.close(daemon)


def _is_same(one: MountEntry, other: MountEntry) -> bool:
    """Tell whether two lines of the mount table are one mounted filesystem."""
    return (one.device, one.source) == (other.device, other.source)


def _record_at(state: State, path: Path) -> MountRecord | None:
    """Return the mount record of what is mounted at `path`; None if its store is not the one we know."""
    from tzfs.errors import NotAStore  # noqa: PLC0415

    try:
        store = state.open_store()
    except NotAStore:
        return None
    for row in store.list():
        record = store.mounted_at(row)
        if record is not None and record.mountpoint == os.fspath(path):
            return record
    return None


def _record_of(state: State, target: str) -> MountRecord:
    """Return the mount record of a filesystem by its name."""
    if target.startswith(("/", ".")):
        raise Failure(f"{target} is no mount point: `tzfs list` shows what is mounted where", NOT_FOUND)
    store = state.open_store()
    row = store.get(target)
    record = store.mounted_at(row)
    if record is None:
        raise Failure(f"{row.full_name} is not mounted: {_dead_mount_of(str(row.full_name))}", NOT_FOUND)
    return record


def _dead_mount_of(name: str) -> str:
    """Say what to do about a name that no daemon has announced: one killed while it ended leaves its mount.

    It is not removed unasked, as it may be of another store: the mount table knows only the name.
    """
    from tzfs import mountpoint  # noqa: PLC0415

    for entry in mountpoint.mount_table():
        of_name = (mountpoint.KIND, mountpoint.SOURCE_PREFIX + name) == (entry.kind, entry.source)
        if of_name and mountpoint.is_stale(Path(entry.mountpoint)):
            return (
                f"a dead daemon's mount is left, which `tzfs umount {shlex.quote(entry.mountpoint)}` removes"
            )
    return "nothing to do"


@click.command()
@click.argument("source")
@click.argument("directory", type=click.Path(path_type=Path, readable=False))
@click.option("-o", "options", multiple=True)
@click.option("-t", "kind", hidden=True)
@click.option("-N", "mount_namespace", hidden=True)
@click.option("-s", "sloppy", is_flag=True, hidden=True)
@click.option("-f", "fake", is_flag=True, hidden=True)
@click.option("-n", "no_mtab", is_flag=True, hidden=True)
@click.option("-v", "verbose", is_flag=True, hidden=True)
@pass_state
def mount_helper(
    state: State, /, source: str, directory: Path, options: tuple[str, ...], **ignored: object
) -> None:
    """Mount for mount(8): the filesystem SOURCE on DIRECTORY.

    In /etc/fstab: "lab /mnt/lab fuse.tzfs store=/srv/tzfs,allow_other 0 0". Returns 0 when the mount answers.
    """
    parsed = parse_options(options)
    if parsed.remount:
        # The kernel alone can do this: -i keeps mount(8) from calling us again.
        kept = [option for option in ",".join(options).split(",") if not option.startswith("store=")]
        os.execvp("mount", ["mount", "-i", "-o", ",".join(kept), os.fspath(directory)])  # noqa: S606
    if ignored["fake"]:
        return
    if parsed.store is not None:
        state.store = parsed.store
    given = parsed.fields["fuse_options"]
    fields = parsed.fields | {"fuse_options": (*_as_mount_8_means(given), *given)}
    _mount(state, source.removeprefix("tzfs:"), directory, fields, nonempty=parsed.nonempty)


def _as_mount_8_means(given: tuple[str, ...]) -> list[str]:
    """Return what mount(8) takes for granted, and so never passes on, while libfuse supposes the opposite.

    Only root may have it: a user's mount(8) says nosuid and nodev by itself.
    """
    return [] if os.geteuid() else [option for option in ("suid", "dev") if f"no{option}" not in given]


COMMANDS: Final = (mount, umount)
