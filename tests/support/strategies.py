"""What the comparison with the host draws its arguments from.

Few names, so that operations meet; a few sizes on both sides of a page and of a chunk; every kind of caller.
"""

from __future__ import annotations

import os
import stat
from typing import Final

import hypothesis.strategies as st

from support import syscalls
from support.users import ALICE, BOB, CAROL, ROOT, User
from tzfs import acl

_NAMES: Final = (b"a", b"b", b"c")

_ODD_PATHS: Final = (
    b"",
    b".",
    b"a/.",
    b"a/..",
    b"b/",
    b"a//b",
    b"\xff\n\xfe",
    b"n" * 255,
    b"n" * 256,
    b"a/" + b"n" * 255,
    b"a/" + b"n" * 256,
)

paths = st.integers(0, 11).flatmap(
    lambda die: (
        st.sampled_from(_ODD_PATHS)
        if die == 11
        else st.lists(st.sampled_from(_NAMES), min_size=1, max_size=2 if die < 9 else 3).map(b"/".join)
    )
)
"""Nearly all are one or two of three names deep, so that most of them mean something after a few steps."""

names = st.sampled_from(_NAMES)

targets = st.sampled_from([b"a", b"b", b"c", b"a/b", b"../b", b".", b"nowhere", b"x" * 4000])

modes = st.one_of(
    st.sampled_from([0o644, 0o666, 0o755, 0o777, 0o4755, 0o2755, 0o2644, 0o6777, 0o1777, 0o600, 0o770, 0]),
    st.integers(0, 0o7777),
)
umasks = st.sampled_from([0, 0, 0o022, 0o077])
file_types = st.sampled_from([stat.S_IFREG, stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFBLK])
users = st.sampled_from([ROOT, ROOT, ALICE, BOB, CAROL])
ids = st.sampled_from([-1, 0, ALICE.uid, BOB.uid, CAROL.uid])

sizes = st.one_of(
    st.sampled_from([0, 1, 4095, 4096, 4097, 65535, 65536, 65537, 131072, 200_000]), st.integers(0, 200_000)
)
contents = st.builds(
    lambda pattern, count: pattern * count,
    st.sampled_from([b"x", b"\0", b"tzfs\n", bytes(range(256))]),
    st.sampled_from([0, 1, 7, 300]),
)
whences = st.sampled_from([os.SEEK_SET, os.SEEK_CUR, os.SEEK_END])
rename_flags = st.sampled_from(
    [
        0,
        0,
        0,
        syscalls.RENAME_NOREPLACE,
        syscalls.RENAME_EXCHANGE,
        syscalls.RENAME_WHITEOUT,
        syscalls.RENAME_NOREPLACE | syscalls.RENAME_EXCHANGE,
        1 << 7,
    ]
)
times = st.one_of(
    st.sampled_from([syscalls.NOW, syscalls.OMIT, 0, -1, 1_000_000_001]),
    st.integers(-(2**31) + 1, 2**33).map(lambda seconds: seconds * 10**9 + 7),
)

open_flags = st.builds(
    lambda access, others: access | sum(set(others)),
    st.sampled_from([os.O_RDONLY, os.O_WRONLY, os.O_RDWR, os.O_RDWR]),
    st.lists(
        st.sampled_from(
            [
                os.O_CREAT,
                os.O_CREAT,
                os.O_EXCL,
                os.O_TRUNC,
                os.O_APPEND,
                os.O_NOFOLLOW,
                os.O_DIRECTORY,
                os.O_SYNC,
                os.O_NOATIME,
                os.O_PATH,
            ]
        ),
        max_size=3,
    ),
)
reopen_flags = st.builds(
    lambda access, others: access | sum(set(others)),
    st.sampled_from([os.O_RDONLY, os.O_WRONLY, os.O_RDWR]),
    st.lists(st.sampled_from([os.O_TRUNC, os.O_APPEND, os.O_CREAT, os.O_DIRECTORY]), max_size=2),
)


def _first(path: bytes) -> st.SearchStrategy[tuple[User, tuple[object, ...]]]:
    """Return what makes a name: (who, (operation, its arguments)); it fails where something is not there."""
    file = st.tuples(st.just("mknod"), st.just(path), modes.map(lambda mode: stat.S_IFREG | mode), st.just(0))
    directory = st.tuples(st.just("mkdir"), st.just(path), st.sampled_from([0o777, 0o755, 0o1777, 0o2777]))
    link = st.tuples(st.just("link"), st.just(b"b"), st.just(path), st.just(False))
    symlink = st.tuples(st.just("symlink"), targets, st.just(path))
    return st.tuples(users, st.one_of(file, file, directory, directory, link, symlink))


first_trees = st.tuples(
    st.just((ROOT, ("mkdir", b"a", 0o777))),
    st.just((ROOT, ("mknod", b"b", stat.S_IFREG | 0o666, 0))),
    *map(_first, (b"c", b"a/a", b"a/b", b"c/a", b"a/a/b", b"c/b")),
).map(list)
"""A few names to begin with, some of which the parents are missing for."""

# ------------------------------------------------------------------------------------ extended attributes

xattr_names = st.sampled_from(
    [
        b"user.a",
        b"user.b",
        b"trusted.t",
        b"security.s",
        b"security.capability",
        b"system.posix_acl_access",
        b"system.posix_acl_default",
        b"system.unknown",
        b"user.",
        b"nonamespace",
        b"user." + b"n" * 251,
    ]
)
xattr_flags = st.sampled_from([0, 0, os.XATTR_CREATE, os.XATTR_REPLACE])

_CAPABILITY: Final = bytes.fromhex("0100000200040000000000000000000000000000")
"""cap_net_raw=ep, version 2: what setcap(8) writes."""

_permissions = st.integers(0, 7)
_named = st.lists(
    st.tuples(
        st.sampled_from([acl.USER, acl.GROUP]), _permissions, st.sampled_from([ALICE.uid, BOB.uid, CAROL.uid])
    ),
    max_size=2,
    unique_by=lambda entry: (entry[0], entry[2]),
)


@st.composite
def acls(draw: st.DrawFn) -> bytes:
    """Return the value of an ACL, valid unless it has named entries and lacks the mask."""
    entries = [
        acl.AclEntry(acl.USER_OBJ, draw(_permissions), acl.UNDEFINED_ID),
        acl.AclEntry(acl.GROUP_OBJ, draw(_permissions), acl.UNDEFINED_ID),
        acl.AclEntry(acl.OTHER, draw(_permissions), acl.UNDEFINED_ID),
    ]
    entries += [acl.AclEntry(*entry) for entry in draw(_named)]
    if draw(st.integers(0, 9)) < 8:
        entries.append(acl.AclEntry(acl.MASK, draw(_permissions), acl.UNDEFINED_ID))
    return acl.encode(tuple(sorted(entries, key=lambda entry: (entry.tag, entry.id))))


_acl_names = st.sampled_from([b"system.posix_acl_access", b"system.posix_acl_default"])

xattrs = st.one_of(
    st.tuples(xattr_names, st.sampled_from([b"", b"1", b"value", b"v" * 200, _CAPABILITY])),
    st.tuples(_acl_names, acls()),
    st.tuples(_acl_names, st.sampled_from([b"\x02\0\0\0", b"\x01\0\0\0", b""])),
    st.just((b"security.capability", _CAPABILITY)),
)
"""(name, value)."""

changes = st.one_of(
    st.tuples(st.just("mkdir"), paths, modes),
    st.tuples(st.just("mknod"), paths, st.just(stat.S_IFREG | 0o644), st.just(0)),
    st.tuples(st.just("symlink"), targets, paths),
    st.tuples(st.just("link"), paths, paths, st.booleans()),
    st.tuples(st.just("unlink"), paths),
    st.tuples(st.just("rmdir"), paths),
    st.tuples(st.just("rename"), paths, paths, rename_flags),
    st.tuples(st.just("chmod"), paths, modes),
    st.tuples(st.just("chown"), paths, ids, ids, st.booleans()),
    st.tuples(st.just("truncate"), paths, sizes),
    st.tuples(st.just("utimens"), paths, times, times, st.booleans()),
    st.builds(
        lambda path, pair, flags, follow: ("setxattr", path, *pair, flags, follow),
        paths,
        xattrs,
        xattr_flags,
        st.booleans(),
    ),
    st.tuples(st.just("removexattr"), paths, xattr_names),
    st.tuples(st.just("touch"), paths, open_flags, modes),
)
"""(operation, its arguments): what a read-only tree must refuse, unless it changes nothing."""
