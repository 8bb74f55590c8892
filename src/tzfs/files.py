"""Files by path: the commands by which a program uses a filesystem without the kernel's help.

They stand beside those of `tzfs.admin` and are run like them: by the daemon of a mounted filesystem, for who
asks on its control socket, and otherwise by the program itself. Each is one operation of the core, so it is
atomic, and returns what it found as JSON, in which content is bytes (`tzfs.control` carries them),
and what it changed, for the caches of whoever stands above.

A path is text (`os.fsdecode`) from the root; a leading slash says nothing more. Symlinks are followed inside
the filesystem: an absolute target begins at its root, wherever it is mounted. `.snapshots/NAME` leads into
history as it does on a mount. `at` is the txn of a snapshot, None is the present.
"""

from __future__ import annotations

import functools
import inspect
import os
import stat as modes
import types
import typing
from collections.abc import Callable
from typing import Any, Final, NamedTuple, TypeVar

from tzfs.errors import (
    ControlError,
    Exists,
    FsError,
    Invalid,
    IsDirectory,
    NoEntry,
    NotDirectory,
    ReadOnly,
    TooManySymlinks,
)
from tzfs.filesystem import Filesystem
from tzfs.history import Restored
from tzfs.records import AttributeChanges, Caller, Inode

Json = dict[str, Any]
R = TypeVar("R")
Outcome = tuple[Json, Restored | None]
"""The result, and what the command changed: None for those that change nothing."""

SLICE_BYTES: Final = 512 << 10
"""The most content that one command carries; a message may have 1 MiB."""
LIST_MAX: Final = 1000
"""Entries of one page of a listing: some 400 bytes each as JSON."""
SYMLINKS_MAX: Final = 40
"""Symlinks in one path, as path_resolution(7) has it."""
SNAPSHOTS_NAME: Final = b".snapshots"


class Found(NamedTuple):
    """Where a path leads. inode: None when only the last name is missing. at: the moment that it is of."""

    parent: int
    name: bytes
    inode: Inode | None
    at: int | None


def find(fs: Filesystem, path: str, at: int | None, *, follow: bool = True) -> Found:
    """Walk a path; of a missing one all but the last name must be there.

    Raises `NoEntry`, `NotDirectory`, `NameTooLong`, `SnapshotMissing`, `TooManySymlinks`.
    """
    pending = os.fsencode(path).split(b"/")[::-1]
    parent, last, inode = fs.ROOT, b"", fs.getattr(fs.ROOT, at)
    symlinks = 0
    while pending:
        name = pending.pop()
        if name in {b"", b"."}:
            continue
        if name == SNAPSHOTS_NAME and at is None:
            if not pending:
                return Found(inode.number, name, None, None)
            at = fs.find_snapshot(pending.pop()).txn
            inode = fs.getattr(inode.number, at)
            continue
        directory = inode.number
        try:
            inode = fs.lookup(directory, name, at)
        except NoEntry:
            if any(part not in {b"", b"."} for part in pending):
                raise
            return Found(directory, name, None, at)
        if modes.S_ISLNK(inode.mode) and (pending or follow):
            symlinks += 1
            if symlinks > SYMLINKS_MAX:
                raise TooManySymlinks(f"{path}: more than {SYMLINKS_MAX} symlinks")
            pending += inode.target.split(b"/")[::-1]
            inode = fs.getattr(fs.ROOT if inode.target.startswith(b"/") else directory, at)
            continue
        parent, last = directory, name
    return Found(parent, last, inode, at)


def _existing(fs: Filesystem, path: str, at: int | None, *, follow: bool = True) -> tuple[Inode, int | None]:
    """Return the inode of a path, and the moment that it is of. Raises `NoEntry`."""
    found = find(fs, path, at, follow=follow)
    if found.inode is None:
        raise NoEntry(path)
    return found.inode, found.at


def _live(fs: Filesystem, path: str, *, follow: bool = True) -> Found:
    """Return where a change of `path` belongs. Raises `ReadOnly` in history, `Invalid` for no name."""
    found = find(fs, path, None, follow=follow)
    if found.at is not None:
        raise ReadOnly(f"{path}: history does not change")
    if found.name in {b"", b".."}:
        raise Invalid(f"{path!r} names no entry of a directory")
    if found.name == SNAPSHOTS_NAME:
        raise Exists(".snapshots is there, although hidden")
    return found


def _live_inode(fs: Filesystem, path: str, *, follow: bool = True) -> Inode:
    """Return a live inode to change; the root is one. Raises `NoEntry`, `ReadOnly`."""
    inode, at = _existing(fs, path, None, follow=follow)
    if at is not None:
        raise ReadOnly(f"{path}: history does not change")
    return inode


def describe(inode: Inode) -> Json:
    """Return what a program is told of an inode; times in ns since 1970, sizes in bytes."""
    return {field: getattr(inode, field) for field in _TOLD}


_TOLD: Final = (
    "number", "mode", "nlink", "uid", "gid", "rdev", "size", "stored_bytes",
    "atime_ns", "mtime_ns", "ctime_ns", "btime_ns",
)  # fmt: skip


def caller_of(arguments: Json) -> Caller:
    """Return the writer that the arguments of a changing command name."""
    return _caller(arguments["who"])


def _caller(who: Json) -> Caller:
    """Return the writer: who may ask at all is this user or root, so what it says of itself is believed."""
    return Caller(int(who["uid"]), int(who["gid"]), int(who["pid"]), os.fsencode(str(who["program"])))


def _changed(*found: Found, inodes: tuple[int, ...] = ()) -> Restored:
    """Return what the coming or going of these names changed."""
    numbers = set(inodes)
    for place in found:
        numbers.add(place.parent)
        if place.inode is not None:
            numbers.add(place.inode.number)
    return Restored(numbers, {(place.parent, place.name) for place in found})


# Reading


def stat(fs: Filesystem, *, path: str, at: int | None = None, follow: bool = True) -> Outcome:
    """Return attributes, of a symlink itself if not told to follow."""
    return describe(_existing(fs, path, at, follow=follow)[0]), None


def read_link(fs: Filesystem, *, path: str, at: int | None = None) -> Outcome:
    """Return the target of a symlink."""
    inode, at = _existing(fs, path, at, follow=False)
    return {"target": os.fsdecode(fs.readlink(inode.number, at))}, None


def listing(fs: Filesystem, *, path: str, at: int | None = None, after: int = 0) -> Outcome:
    """Return up to `LIST_MAX` entries beyond the cookie `after`; "next" is where to go on, or None."""
    inode, at = _existing(fs, path, at)
    if not inode.is_directory:
        raise NotDirectory(path)
    entries = fs.readdir(inode.number, after, LIST_MAX, at)
    told = [{"name": os.fsdecode(entry.name), **describe(entry.inode)} for entry in entries]
    return {"entries": told, "next": entries[-1].cookie if len(entries) == LIST_MAX else None}, None


def read(fs: Filesystem, *, path: str, at: int | None = None) -> Outcome:
    """Return the attributes of a file and its first slice of content."""
    inode, at = _existing(fs, path, at)
    if inode.is_directory:
        raise IsDirectory(path)
    return {**describe(inode), "at": at, "data": fs.read(inode.number, 0, SLICE_BYTES, at)}, None


def find_file(fs: Filesystem, *, path: str, at: int | None = None) -> Outcome:
    """Return the number of a file to read, and the moment that it is of."""
    inode, at = _existing(fs, path, at)
    if inode.is_directory:
        raise IsDirectory(path)
    return {"number": inode.number, "at": at}, None


def read_slice(fs: Filesystem, *, number: int, offset: int, size: int, at: int | None = None) -> Outcome:
    """Return content of an inode, at most `SLICE_BYTES` and shorter at the end, and the size of the file."""
    content = fs.read(number, offset, min(size, SLICE_BYTES), at)
    return {"data": content, "size": fs.getattr(number, at).size}, None


def get_attribute(
    fs: Filesystem, *, path: str, attribute: str, at: int | None = None, follow: bool = True
) -> Outcome:
    """Return an extended attribute, see getxattr(2)."""
    inode, at = _existing(fs, path, at, follow=follow)
    return {"data": fs.getxattr(inode.number, os.fsencode(attribute), at)}, None


def list_attributes(fs: Filesystem, *, path: str, at: int | None = None, follow: bool = True) -> Outcome:
    """Return the names of the extended attributes, see listxattr(2)."""
    inode, at = _existing(fs, path, at, follow=follow)
    return {"names": [os.fsdecode(name) for name in fs.listxattr(inode.number, at)]}, None


def close(_fs: Filesystem, *, number: int) -> Outcome:  # noqa: ARG001
    """Say that a file found by `find_file` or `open_file` is not needed any more."""
    return {}, None


# Changing


def put(fs: Filesystem, *, path: str, data: bytes, mode: int, who: Json) -> Outcome:
    """Make `data` the whole content of a file, which is made if need be: one transaction."""
    found = _live(fs, path)
    if found.inode is not None and found.inode.is_directory:
        raise IsDirectory(path)
    inode = fs.put(found.parent, found.name, data, mode, _caller(who))
    if found.inode is not None:
        return describe(inode), Restored({inode.number}, set())
    return describe(inode), _changed(found, inodes=(inode.number,))


def open_file(fs: Filesystem, *, path: str, mode: int, flags: int, who: Json) -> Outcome:
    """Find a file for writing; flags are O_CREAT, O_EXCL and O_TRUNC of open(2)."""
    found = find(fs, path, None)
    if found.inode is None or flags & os.O_EXCL:
        found = _live(fs, path)
    inode = found.inode
    if inode is None:
        if not flags & os.O_CREAT:
            raise NoEntry(path)
        inode = fs.mknod(found.parent, found.name, modes.S_IFREG | modes.S_IMODE(mode), 0, _caller(who))
        return describe(inode), _changed(found, inodes=(inode.number,))
    if flags & os.O_EXCL:
        raise Exists(path)
    if inode.is_directory:
        raise IsDirectory(path)
    if found.at is not None:
        raise ReadOnly(f"{path}: history does not change")
    if not flags & os.O_TRUNC:
        return describe(inode), Restored(set(), set())
    return describe(fs.truncate_on_open(inode.number, _caller(who))), Restored({inode.number}, set())


def write_slice(fs: Filesystem, *, number: int, offset: int | None, data: bytes, who: Json) -> Outcome:
    """Write at `offset`, or at the end when it is None; returns the offset beyond what was written."""
    if offset is None:
        offset = fs.getattr(number).size
    fs.write(number, offset, data, _caller(who), stamp=True)
    return {"end": offset + len(data)}, Restored({number}, set())


def truncate(fs: Filesystem, *, number: int, size: int, who: Json) -> Outcome:
    """Give a file another size, see ftruncate(2)."""
    fs.setattr(number, AttributeChanges(size=size), _caller(who))
    return {}, Restored({number}, set())


def set_attributes(fs: Filesystem, *, path: str, changes: Json, who: Json, follow: bool = True) -> Outcome:
    """Change mode, uid, gid, size, atime_ns, mtime_ns: those that `changes` names."""
    inode = _live_inode(fs, path, follow=follow)
    inode = fs.setattr(inode.number, AttributeChanges(**changes), _caller(who))
    return describe(inode), Restored({inode.number}, set())


def make_directory(fs: Filesystem, *, path: str, mode: int, who: Json) -> Outcome:
    """Make a directory, see mkdir(2)."""
    found = _live(fs, path, follow=False)
    inode = fs.mkdir(found.parent, found.name, mode, _caller(who))
    return describe(inode), _changed(found, inodes=(inode.number,))


def make_symlink(fs: Filesystem, *, path: str, target: str, who: Json) -> Outcome:
    """Make a symlink at `path`, see symlink(2)."""
    found = _live(fs, path, follow=False)
    inode = fs.symlink(found.parent, found.name, os.fsencode(target), _caller(who))
    return describe(inode), _changed(found, inodes=(inode.number,))


def make_link(fs: Filesystem, *, path: str, target: str, who: Json) -> Outcome:
    """Give the file `target` the further name `path`, see link(2)."""
    inode = _live_inode(fs, target, follow=False)
    found = _live(fs, path, follow=False)
    fs.link(inode.number, found.parent, found.name, _caller(who))
    return {}, _changed(found, inodes=(inode.number,))


def unlink(fs: Filesystem, *, path: str, who: Json) -> Outcome:
    """Take the name of a file away."""
    found = _live(fs, path, follow=False)
    fs.unlink(found.parent, found.name, _caller(who))
    return {}, _changed(found)


def remove_directory(fs: Filesystem, *, path: str, who: Json) -> Outcome:
    """Remove an empty directory, see rmdir(2)."""
    found = _live(fs, path, follow=False)
    fs.rmdir(found.parent, found.name, _caller(who))
    return {}, _changed(found)


def rename(fs: Filesystem, *, path: str, target: str, flags: int, who: Json) -> Outcome:
    """Rename `path` to `target`, see renameat2(2) for the flags."""
    old, new = _live(fs, path, follow=False), _live(fs, target, follow=False)
    fs.rename(
        old_parent=old.parent,
        old_name=old.name,
        new_parent=new.parent,
        new_name=new.name,
        flags=flags,
        caller=_caller(who),
    )
    return {}, _changed(old, new)


def set_attribute(
    fs: Filesystem, *, path: str, attribute: str, data: bytes, who: Json, follow: bool = True
) -> Outcome:
    """Set an extended attribute, see setxattr(2)."""
    inode = _live_inode(fs, path, follow=follow)
    fs.setxattr(inode.number, os.fsencode(attribute), data, _caller(who))
    return {}, Restored({inode.number}, set())


def remove_attribute(fs: Filesystem, *, path: str, attribute: str, who: Json, follow: bool = True) -> Outcome:
    """Remove an extended attribute, see removexattr(2)."""
    inode = _live_inode(fs, path, follow=follow)
    fs.removexattr(inode.number, os.fsencode(attribute), _caller(who))
    return {}, Restored({inode.number}, set())


COMMANDS: Final[dict[str, Callable[..., Outcome]]] = {
    f"file_{function.__name__}": function
    for function in (
        stat, read_link, listing, read, find_file, read_slice, close, get_attribute, list_attributes,
        put, open_file, write_slice, truncate, set_attributes, make_directory, make_symlink, make_link,
        unlink, remove_directory, rename, set_attribute, remove_attribute,
    )
}  # fmt: skip


def run(fs: Filesystem, command: str, arguments: Json) -> Outcome:
    """Run a command of the table; `ControlError` if its arguments do not fit."""
    return call(COMMANDS[command], fs, command, arguments)


def call(function: Callable[..., R], fs: Filesystem, command: str, arguments: Json) -> R:
    """Call a function with arguments that came from another process; `ControlError` if they do not fit."""
    require_arguments(function, command, arguments)
    return function(fs, **arguments)


def require_arguments(function: Callable[..., object], command: str, arguments: Json) -> None:
    """Raise `ControlError` unless `arguments` are of a function's names and types, besides the filesystem."""
    try:
        _signature(function).bind(None, **arguments)
    except TypeError as error:
        raise ControlError(f"{command}: {error}: is the daemon of another version?") from None
    kinds = _kinds(function)
    for name, value in arguments.items():
        if not _is_of(value, kinds[name]):
            raise ControlError(f"{command}: {name} has another type: is the daemon of another version?")


@functools.cache
def _kinds(function: Callable[..., object]) -> dict[str, Any]:
    """Return the types of a function's arguments."""
    return typing.get_type_hints(function)


def _is_of(value: object, kind: Any) -> bool:  # noqa: ANN401 - a type, or a form of typing
    """Tell whether a value that came as JSON is of a type of an argument."""
    if isinstance(kind, types.UnionType):
        return any(_is_of(value, part) for part in typing.get_args(kind))
    if typing.get_origin(kind) is list:
        return isinstance(value, list) and all(_is_of(item, typing.get_args(kind)[0]) for item in value)
    if kind is int:
        return type(value) is int and -(2**63) <= value < 2**63
    if kind is str:
        return isinstance(value, str) and _is_name(value)
    return not isinstance(kind, type) or isinstance(value, kind)


def _is_name(text: str) -> bool:
    """Tell whether a text stands for bytes; not all of JSON's surrogates do."""
    try:
        os.fsencode(text)
    except UnicodeEncodeError:
        return False
    return True


@functools.cache
def _signature(function: Callable[..., object]) -> inspect.Signature:
    """Return a signature; making one takes longer than most commands."""
    return inspect.signature(function)


def concerned(fs: Filesystem, arguments: Json) -> set[int]:
    """Return the inodes that a command with these arguments is about; none where a path leads nowhere."""
    numbers: set[int] = set()
    if isinstance(arguments.get("number"), int):
        numbers.add(arguments["number"])
    for key in ("path", "target"):
        try:
            found = find(fs, str(arguments[key]), arguments.get("at"))
        except (KeyError, NoEntry, NotDirectory, TooManySymlinks):
            continue
        numbers.add(found.parent)
        if found.inode is not None:
            numbers.add(found.inode.number)
    return numbers


def entry_of(fs: Filesystem, path: str, number: int) -> tuple[int, bytes] | None:
    """Return the live entry at which a path ends, None unless it names inode `number`."""
    try:
        found = find(fs, path, None)
    except FsError:
        return None
    is_it = found.at is None and found.inode is not None and found.inode.number == number
    return (found.parent, found.name) if is_it else None


class ContentChange(NamedTuple):
    """What a command will do to a regular file that is there, beside its mode and its owner.

    size: what it will be, None: as large as `data` makes it. data: what will be written, None: nothing.
    atime_ns, mtime_ns: None: now, for mtime, and as it is.
    """

    inode: Inode
    size: int | None = None
    data: bytes | None = None
    atime_ns: int | None = None
    mtime_ns: int | None = None


def content_change(fs: Filesystem, command: str, arguments: Json) -> ContentChange | None:
    """Return what a command changes in content, size or times; None if it will not, or cannot."""
    changes = arguments.get("changes", {})
    size, data = changes.get("size", arguments.get("size")), arguments.get("data")
    if command == "file_put":
        size = len(arguments["data"])
    elif command == "file_open_file" and arguments["flags"] & os.O_TRUNC:
        size = 0
    elif command not in {"file_write_slice", "file_truncate"} and changes.keys().isdisjoint(_CONTENT):
        return None
    try:
        if "number" in arguments:
            inode = fs.getattr(arguments["number"])
        else:
            inode, at = _existing(fs, arguments["path"], None, follow=arguments.get("follow", True))
            if at is not None:
                return None
    except FsError:
        return None
    if not inode.is_regular:
        return None
    return ContentChange(inode, size, data, changes.get("atime_ns"), changes.get("mtime_ns"))


_CONTENT: Final = frozenset({"size", "atime_ns", "mtime_ns"})
