"""The same random operations on a mount of tzfs and on a directory of the host, and what may differ.

Each step runs one operation on both sides and compares the outcome, then everything that can be seen of
both trees: types, modes, owners, links, sizes, contents, targets, attributes, and which times were changed.
Now and then a snapshot is taken: it must show the tree exactly as it was recorded, at once and after all that
follows.
"""

# The rules bear the names of system calls.
# ruff: noqa: PTH120

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import subprocess
from typing import Any, Final, NamedTuple

import hypothesis.strategies as st
from hypothesis import HealthCheck, Phase, note, settings
from hypothesis import seed as with_seed
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from support import strategies as s
from support.differences import TMPFILE
from support.observe import Record, alike, describe, moved, record
from support.operations import Outcome, Tree
from support.sides import Sides
from support.syscalls import RENAME_WHITEOUT, wait_for_tick
from support.users import ROOT, User
from tzfs import acl
from tzfs.acl import AclEntry

_ACLS: Final = frozenset({acl.ACCESS, acl.DEFAULT})
_MODE_ACL_SIZE: Final = len(acl.encode((AclEntry(acl.USER_OBJ, 0, acl.UNDEFINED_ID),) * 3))
"""Of an ACL that says what a mode says: it is kept as the mode, which may be the same already."""
_EMPTY_ACLS: Final = frozenset({b"", acl.encode(())})

STEPS_PER_EXAMPLE: Final = 50


class Kept(NamedTuple):
    """A snapshot, what it must show for ever, and a read-only disk with the same tree to compare it with."""

    label: str
    tree: Record
    shown: Tree
    frozen: Tree


class AgainstHost(RuleBasedStateMachine):
    """One example: two trees that start empty and are treated alike. `compare` binds `sides`."""

    sides: Sides
    operations: int
    _examples = 0

    def __init__(self) -> None:
        super().__init__()
        type(self)._examples += 1
        self._name = f"case-{os.getpid()}-{type(self)._examples}"
        self.tops = [self.sides.tzfs / self._name, self.sides.host / self._name]
        for top in self.tops:
            top.mkdir()
            (top / "top").mkdir()
        self.tzfs, self.host = (Tree(os.fsencode(top / "top")) for top in self.tops)
        self._opened = 0
        self._kept: list[Kept] = []
        self._records: tuple[Record, Record] = ({}, {})

    # ------------------------------------------------------------------------------- the comparison

    def both(
        self, operation: str, *arguments: object, user: User = ROOT, umask: int = 0, times: bool = True
    ) -> Outcome:
        """Run an operation on both sides, compare, and return the outcome; times: which moved, too."""
        wait_for_tick()
        ours = self.tzfs.run(user, umask, operation, *arguments)
        theirs = self.host.run(user, umask, operation, *arguments)
        called = f"{operation}{arguments!r} as {user}, umask {umask:03o}"
        note(f"{called}: {_short(ours)}")
        if ours != theirs:
            known = (TMPFILE.case, TMPFILE.host, TMPFILE.tzfs)
            assert (operation, _word(theirs), _word(ours)) == known, (
                f"{called}\n  tzfs: {_short(ours)}\n  host: {_short(theirs)}"
            )
        self._compare(called, times=times)
        type(self).operations += 1
        return ours

    def _compare(self, called: str, *, times: bool) -> None:
        """Compare all that can be seen of both sides, and what the last operation changed of the times."""
        now = record(self.tzfs.top), record(self.host.top)
        ours, theirs = alike(now[0]), alike(now[1])
        assert ours == theirs, f"after {called}, tzfs / host:\n{describe(ours, theirs)}"
        ours_moved, theirs_moved = (moved(*pair) for pair in zip(self._records, now, strict=True))
        assert ours_moved == theirs_moved or not times, (
            f"(mtime, ctime) changed by {called}, tzfs / host:\n{describe(ours_moved, theirs_moved)}"
        )
        self._records = now
        for number in self.tzfs.files:
            ours_open, theirs_open = (tree.run(ROOT, 0, "fstat", number) for tree in (self.tzfs, self.host))
            assert ours_open == theirs_open, f"open file {number} after {called}"

    def teardown(self) -> None:
        """Compare what stood under no name, hold each snapshot against its record, and remove everything."""
        try:
            for number in self.tzfs.files:
                contents = [tree.run(ROOT, 0, "pread", number, 0, 1 << 20) for tree in (self.tzfs, self.host)]
                assert contents[0] == contents[1], f"content of open file {number}"
            for kept in self._kept:
                self._compare_snapshot(kept)
        finally:
            for tree in (self.tzfs, self.host):
                tree.close_all()
            for kept in self._kept:
                # Two labels of one unchanged tree are one snapshot, which goes with the first of them.
                with contextlib.suppress(FileNotFoundError):
                    (self.sides.mountpoint / ".snapshots" / kept.label).rmdir()
                shutil.rmtree(self.sides.kept / kept.label)
            for top in self.tops:
                shutil.rmtree(top)

    # ------------------------------------------------------------------------------- names

    @initialize(mode=st.sampled_from([0o755, 0o777, 0o1777, 0o2777, 0o3775]), tree=s.first_trees)
    def begin(self, mode: int, tree: list[tuple[User, tuple[object, ...]]]) -> None:
        """Choose what the top directory is like, and make most of the names, so that operations meet some."""
        self.both("chmod", b".", 0o777)
        for who, (operation, *arguments) in tree:
            self.both(str(operation), *arguments, user=who)
        self.both("chmod", b".", mode)
        for path, flags in ((b"a", os.O_RDONLY), (b"b", os.O_RDWR)):
            self._opened += 1
            self.both("open", self._opened, path, flags, 0)

    @rule(path=s.paths, mode=s.modes, who=s.users, umask=s.umasks)
    def mkdir(self, path: bytes, mode: int, who: User, umask: int) -> None:
        """mkdir(2)."""
        self.both("mkdir", path, mode, user=who, umask=self._umask(path, umask))

    @rule(path=s.paths, kind=s.file_types, mode=s.modes, who=s.users, umask=s.umasks)
    def mknod(self, path: bytes, kind: int, mode: int, who: User, umask: int) -> None:
        """mknod(2)."""
        device = os.makedev(1, 3) if kind in {stat.S_IFCHR, stat.S_IFBLK} else 0
        self.both("mknod", path, kind | mode, device, user=who, umask=self._umask(path, umask))

    @rule(text=s.targets, path=s.paths, who=s.users)
    def symlink(self, text: bytes, path: bytes, who: User) -> None:
        """symlink(2)."""
        self.both("symlink", text, path, user=who)

    @rule(old=s.paths, new=s.paths, follow=st.booleans(), who=s.users)
    def link(self, old: bytes, new: bytes, follow: bool, who: User) -> None:
        """linkat(2)."""
        self.both("link", old, new, follow, user=who)

    @rule(path=s.paths, who=s.users)
    def unlink(self, path: bytes, who: User) -> None:
        """unlink(2), of open files too."""
        self.both("unlink", path, user=who)

    @rule(path=s.paths, who=s.users)
    def rmdir(self, path: bytes, who: User) -> None:
        """rmdir(2)."""
        self.both("rmdir", path, user=who)

    @rule(old=s.paths, new=s.paths, flags=s.rename_flags, who=s.users)
    def rename(self, old: bytes, new: bytes, flags: int, who: User) -> None:
        """renameat2(2). ext4 stamps directories even where it refuses to leave a whiteout, after trying."""
        self.both("rename", old, new, flags, user=who, times=flags != RENAME_WHITEOUT)

    @rule(path=s.paths, who=s.users, follow=st.booleans())
    def look(self, path: bytes, who: User, follow: bool) -> None:
        """stat(2), readlink(2), readdir(3), access(2)."""
        self.both("stat", path, follow, user=who)
        self.both("readlink", path, user=who)
        self.both("listdir", path, user=who)
        for mode in (os.R_OK, os.W_OK, os.X_OK):
            self.both("access", path, mode, user=who)

    @rule(path=s.paths, gone=s.names, made=s.names, who=s.users)
    def list_changing(self, path: bytes, gone: bytes, made: bytes, who: User) -> None:
        """readdir(3) while names come and go, and rewinddir(3)."""
        self.both("list_changing", path, gone, made, user=who)

    # ------------------------------------------------------------------------------- attributes

    @rule(path=s.paths, mode=s.modes, who=s.users)
    def chmod(self, path: bytes, mode: int, who: User) -> None:
        """chmod(2)."""
        self.both("chmod", path, mode, user=who)

    @rule(path=s.paths, uid=s.ids, gid=s.ids, follow=st.booleans(), who=s.users)
    def chown(self, path: bytes, uid: int, gid: int, follow: bool, who: User) -> None:
        """chown(2)."""
        if uid == gid == -1 and _is_set_gid_only(self._stat(path, follow)[0]):
            who = ROOT  # SET_GID
        self.both("chown", path, uid, gid, follow, user=who)

    @rule(path=s.paths, size=s.sizes, who=s.users)
    def truncate(self, path: bytes, size: int, who: User) -> None:
        """truncate(2)."""
        self.both("truncate", path, size, user=who, times=self._size(path) != size)  # SAME_SIZE

    @rule(path=s.paths, atime=s.times, mtime=s.times, follow=st.booleans(), who=s.users)
    def utimens(self, path: bytes, atime: int, mtime: int, follow: bool, who: User) -> None:
        """utimensat(2)."""
        self.both("utimens", path, atime, mtime, follow, user=who)

    @rule(path=s.paths, pair=s.xattrs, flags=s.xattr_flags, follow=st.booleans(), who=s.users)
    def setxattr(self, path: bytes, pair: tuple[bytes, bytes], flags: int, follow: bool, who: User) -> None:
        """setxattr(2), of ACLs too."""
        times = not self._is_set(self._value("getxattr", path, pair[0], follow), pair[1])
        self.both("setxattr", path, *pair, flags, follow, user=who, times=times)

    @rule(path=s.paths, name=s.xattr_names, who=s.users)
    def getxattr(self, path: bytes, name: bytes, who: User) -> None:
        """getxattr(2), listxattr(2)."""
        self.both("getxattr", path, name, user=who)
        self.both("listxattr", path, user=who)

    @rule(path=s.paths, name=s.xattr_names, who=s.users)
    def removexattr(self, path: bytes, name: bytes, who: User) -> None:
        """removexattr(2)."""
        times = not (name in _ACLS and self._value("getxattr", path, name) is None)
        self.both("removexattr", path, name, user=who, times=times)

    # ------------------------------------------------------------------------------- open files

    @precondition(lambda self: len(self.tzfs.files) < 6)
    @rule(path=s.paths, flags=s.open_flags, mode=s.modes, who=s.users, umask=s.umasks)
    def open(self, path: bytes, flags: int, mode: int, who: User, umask: int) -> None:
        """open(2); the file stays open."""
        self._opened += 1
        umask = self._umask(path, umask)
        self.both("open", self._opened, path, flags, mode, user=who, umask=umask)

    @rule(path=s.paths, who=s.users)
    def tmpfile(self, path: bytes, who: User) -> None:
        """open(2) with O_TMPFILE."""
        self.both("tmpfile", path, user=who)

    @precondition(lambda self: self.tzfs.files)
    @rule(data=st.data())
    def close(self, data: st.DataObject) -> None:
        """close(2)."""
        self.both("close", self._any_file(data))

    @precondition(lambda self: self.tzfs.files)
    @rule(data=st.data(), content=s.contents, offset=s.sizes, who=s.users)
    def write(self, data: st.DataObject, content: bytes, offset: int, who: User) -> None:
        """write(2) or pwrite(2), past the end too."""
        number = self._any_file(data)
        if _is_set_gid_only(os.fstat(self.host.files[number]).st_mode):
            who = ROOT  # SET_GID
        if data.draw(st.booleans(), "at an offset"):
            self.both("pwrite", number, offset, content, user=who)
        else:
            self.both("write", number, content, user=who)

    @precondition(lambda self: self.tzfs.files)
    @rule(data=st.data(), size=s.sizes, offset=s.sizes, whence=s.whences)
    def read(self, data: st.DataObject, size: int, offset: int, whence: int) -> None:
        """lseek(2), read(2), pread(2)."""
        number = self._any_file(data)
        if not stat.S_ISDIR(os.fstat(self.host.files[number]).st_mode):
            # Positions in a directory are each filesystem's own.
            self.both("seek", number, offset, whence)
        self.both("read", number, size)
        self.both("pread", number, offset, size)

    @precondition(lambda self: self.tzfs.files)
    @rule(data=st.data(), size=s.sizes, mode=s.modes, who=s.users)
    def change_open(self, data: st.DataObject, size: int, mode: int, who: User) -> None:
        """ftruncate(2), fchmod(2), fsync(2)."""
        number = self._any_file(data)
        self.both("ftruncate", number, size, user=who)
        self.both("fchmod", number, mode, user=who)
        self.both("fsync", number)

    @precondition(lambda self: self.tzfs.files)
    @rule(data=st.data(), uid=s.ids, gid=s.ids, atime=s.times, mtime=s.times, who=s.users)
    def change_owner_open(
        self, data: st.DataObject, uid: int, gid: int, atime: int, mtime: int, who: User
    ) -> None:
        """fchown(2), futimens(3)."""
        number = self._any_file(data)
        if uid == gid == -1 and _is_set_gid_only(os.fstat(self.host.files[number]).st_mode):
            who = ROOT  # SET_GID
        self.both("fchown", number, uid, gid, user=who)
        self.both("futimens", number, atime, mtime, user=who)

    @precondition(lambda self: self.tzfs.files)
    @rule(data=st.data(), pair=s.xattrs, flags=s.xattr_flags, who=s.users)
    def change_xattr_open(
        self, data: st.DataObject, pair: tuple[bytes, bytes], flags: int, who: User
    ) -> None:
        """fsetxattr(2), fgetxattr(2), flistxattr(2), fremovexattr(2)."""
        number = self._any_file(data)
        name, value = pair
        times = not self._is_set(self._value("fgetxattr", number, name), value)
        self.both("fsetxattr", number, name, value, flags, user=who, times=times)
        self.both("flistxattr", number)
        self.both("fgetxattr", number, name, user=who)
        if data.draw(st.booleans(), "remove it"):
            times = not (name in _ACLS and self._value("fgetxattr", number, name) is None)
            self.both("fremovexattr", number, name, user=who, times=times)

    @precondition(lambda self: self.tzfs.files)
    @rule(data=st.data(), flags=s.reopen_flags, name=s.names, who=s.users)
    def find_open(self, data: st.DataObject, flags: int, name: bytes, who: User) -> None:
        """open(2) and linkat(2) of what is open, by its descriptor: names do not matter, none may be left."""
        number = self._any_file(data)
        self.both("reopen", number, flags, user=who)
        self.both("relink", number, name, user=who)

    @precondition(lambda self: self.tzfs.files)
    @rule(data=st.data(), name=s.names, new=s.names, flags=s.open_flags, mode=s.modes, who=s.users)
    def in_open_directory(
        self, data: st.DataObject, name: bytes, new: bytes, flags: int, mode: int, who: User
    ) -> None:
        """openat(2) and its like below an open directory, which may be removed: no default ACL, no umask."""
        number = self._any_file(data)
        self.both("openat", number, name, flags, mode, user=who)
        self.both("mkdirat", number, new, mode, user=who)
        self.both("renameat", number, name, new, user=who)
        self.both("unlinkat", number, name, user=who)
        self.both("fdlist", number, user=who)

    @precondition(lambda self: self.tzfs.files)
    @rule(data=st.data(), content=s.contents, offset=s.sizes, shared=st.booleans())
    def map_write(self, data: st.DataObject, content: bytes, offset: int, shared: bool) -> None:
        """mmap(2), a store into it, munmap(2)."""
        self.both("map_write", self._any_file(data), offset, content, shared)

    @precondition(lambda self: self.tzfs.files)
    @rule(data=st.data(), count=s.sizes)
    def copy(self, data: st.DataObject, count: int) -> None:
        """copy_file_range(2) and sendfile(2)."""
        source, target = self._any_file(data), self._any_file(data)
        self.both(data.draw(st.sampled_from(["copy_range", "sendfile"])), source, target, count)

    def _any_file(self, data: st.DataObject) -> int:
        return data.draw(st.sampled_from(sorted(self.tzfs.files)), "file")

    # ------------------------------------------------------------------------------- snapshots

    @precondition(lambda self: len(self._kept) < 3)
    @rule()
    def snapshot(self) -> None:
        """Take a snapshot: it shows what is recorded now, times and all."""
        label = f"{self._name}-{len(self._kept)}"
        snapshot = self.sides.mountpoint / ".snapshots" / label
        snapshot.mkdir()
        # With the directory above, which a symlink to ".." reaches.
        subprocess.run(["cp", "-a", self.tops[1], self.sides.kept / label], check=True, timeout=60)
        relative = os.path.relpath(os.fsdecode(self.tzfs.top), self.sides.mountpoint)
        shown, frozen = (
            Tree(os.fsencode(top)) for top in (snapshot / relative, self.sides.frozen / label / "top")
        )
        kept = Kept(label, record(self.tzfs.top), shown, frozen)
        self._kept.append(kept)
        self._compare_snapshot(kept)

    @precondition(lambda self: self._kept)
    @rule(data=st.data(), paths=st.lists(s.paths, min_size=2, max_size=4), name=s.xattr_names, who=s.users)
    def look_back(self, data: st.DataObject, paths: list[bytes], name: bytes, who: User) -> None:
        """Read in a snapshot as a user: as from a read-only disk with the same tree."""
        kept = data.draw(st.sampled_from(self._kept))
        follow = data.draw(st.booleans())
        for path in paths:
            for operation, *arguments in (
                ("stat", path, follow),
                ("readlink", path),
                ("listdir", path),
                ("content", path),
                ("getxattr", path, name),
                ("listxattr", path),
                ("access", path, os.R_OK),
                ("access", path, os.X_OK),
            ):
                shown, frozen, text = self._in_snapshot(kept, who, operation, *arguments)
                assert shown == frozen, text

    @precondition(lambda self: self._kept)
    @rule(data=st.data(), changes=st.lists(s.changes, min_size=4, max_size=8), who=s.users)
    def change_the_past(self, data: st.DataObject, changes: list[tuple[str, object]], who: User) -> None:
        """Change a snapshot: refused wherever a read-only disk refuses it.

        Not always with its errno: a read-only mount answers EROFS before it looks at names and permissions.
        And the kernel lets succeed, without asking anybody, what does nothing (`_may_do_nothing`).
        """
        kept = data.draw(st.sampled_from(self._kept))
        for change in changes:
            shown, frozen, text = self._in_snapshot(kept, who, *change)
            nothing_done = shown == ("ok", None) and _may_do_nothing(*change)
            refused = frozen == ("error", "EROFS") and (shown[0] == "error" or nothing_done)
            assert refused or shown == frozen, text
        self._compare_snapshot(kept)

    def _in_snapshot(
        self, kept: Kept, who: User, operation: str, *arguments: object
    ) -> tuple[Outcome, Outcome, str]:
        """Run an operation in a snapshot and on its read-only copy; return both outcomes, and a text."""
        type(self).operations += 1
        shown, frozen = (tree.run(who, 0, operation, *arguments) for tree in (kept.shown, kept.frozen))
        called = f"{operation}{arguments!r} as {who} in snapshot {kept.label}"
        return shown, frozen, f"{called}\n  tzfs: {_short(shown)}\n  host: {_short(frozen)}"

    def _size(self, path: bytes) -> int:
        """Return the size of a file, -1 if there is none."""
        return self._stat(path, follow=True)[4]

    def _stat(self, path: bytes, follow: bool) -> tuple[Any, ...]:
        """Return what `stat` of both sides tells, of a file of the host; mode 0, size -1 if there is none."""
        outcome, value = self.host.run(ROOT, 0, "stat", path, follow)
        return value if outcome == "ok" and isinstance(value, tuple) else (0, 0, 0, 0, -1)

    def _value(self, getter: str, where: bytes | int, name: bytes, *follow: bool) -> object:
        """Return the value of an attribute on the host, None if there is none."""
        outcome, value = self.host.run(ROOT, 0, getter, where, name, *follow)
        return value if outcome == "ok" else None

    @staticmethod
    def _is_set(now: object, value: bytes) -> bool:
        """Tell whether setting `value` may change nothing: `SAME_XATTR`, and `NO_ACL`."""
        return now == value or (now is None and (value in _EMPTY_ACLS or len(value) == _MODE_ACL_SIZE))

    def _umask(self, path: bytes, umask: int) -> int:
        """Return the umask to make a file with: 0 where there is a default ACL (`UMASK`)."""
        parent = os.path.dirname(os.path.realpath(self.host.top + b"/" + path))
        with contextlib.suppress(OSError):
            return 0 if acl.DEFAULT.decode() in os.listxattr(parent) else umask
        return umask

    def _compare_snapshot(self, kept: Kept) -> None:
        shown = record(kept.shown.top)
        assert shown == kept.tree, f"snapshot {kept.label}, shown / recorded:\n{describe(shown, kept.tree)}"


def _word(outcome: Outcome) -> str:
    return "ok" if outcome[0] == "ok" else str(outcome[1])


def _may_do_nothing(operation: str, *arguments: object) -> bool:
    """Tell of a rename between two names of one file, and a default ACL taken from what is no directory."""
    if operation == "setxattr":
        return arguments[1] == acl.DEFAULT and arguments[2] in _EMPTY_ACLS
    return operation == "rename" or (operation == "removexattr" and arguments[1] == acl.DEFAULT)


def _is_set_gid_only(mode: int) -> bool:
    """Tell whether a mode has the set-group-ID bit without group execution: `SET_GID`."""
    return mode & (stat.S_ISGID | stat.S_IXGRP) == stat.S_ISGID


def _short(outcome: Outcome) -> str:
    text = repr(outcome[1])
    return f"{outcome[0]} {text if len(text) < 300 else f'{text[:280]}... ({len(text)})'}"


def compare(sides: Sides, *, seed: int, examples: int, shrink: bool = True) -> int:
    """Run the machine with a seed and return how many operations were alike. Raises AssertionError."""

    class Here(AgainstHost):
        operations = 0

    Here.sides = sides
    phases = [Phase.generate, Phase.shrink] if shrink else [Phase.generate]
    run_state_machine_as_test(
        with_seed(seed)(Here),
        settings=settings(
            max_examples=examples,
            stateful_step_count=STEPS_PER_EXAMPLE,
            phases=phases,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
            report_multiple_bugs=False,
            print_blob=False,
        ),
    )
    return Here.operations
