"""POSIX ACLs: their bytes, and the three rules by which they and the mode bits follow each other.

With `enable_acl` the kernel decides permissions by the ACLs that it fetches as extended attributes, but it
leaves to the filesystem what ext4 does inside (fs/posix_acl.c): setting an access ACL sets the mode, chmod
sets the ACL, and a new inode takes the default ACL of its directory. Those are `set_access`, `chmod` and
`inherit`; they take and return attribute values, so the core stores what it is given back.

The value is little-endian (include/uapi/linux/posix_acl_xattr.h): version 2 as 32 bits, then for each entry
16 bits of tag, 16 bits of permissions, 32 bits of uid or gid. Entries stand in the order of the tags.
"""

from __future__ import annotations

import functools
import stat
import struct
from typing import Final, NamedTuple

from tzfs.errors import Invalid, NotSupported

ACCESS: Final = b"system.posix_acl_access"
DEFAULT: Final = b"system.posix_acl_default"

USER_OBJ: Final = 0x01
USER: Final = 0x02
GROUP_OBJ: Final = 0x04
GROUP: Final = 0x08
MASK: Final = 0x10
OTHER: Final = 0x20

UNDEFINED_ID: Final = 0xFFFFFFFF
"""The id of an entry that has none: all but USER and GROUP."""

_VERSION: Final = 2
_HEADER = struct.Struct("<I")
_ENTRY = struct.Struct("<HHI")

_NAMED: Final = (USER, GROUP)
_SINGLE: Final = (USER_OBJ, GROUP_OBJ, MASK, OTHER)
_SHIFT: Final = {USER_OBJ: 6, GROUP_OBJ: 3, OTHER: 0}
"""Where the permissions of an entry stand in a mode."""
_PERMISSIONS: Final = 0o777


class AclEntry(NamedTuple):
    """Who (tag, and id for USER and GROUP) may do what: permissions are 4 read, 2 write, 1 execute."""

    tag: int
    permissions: int
    id: int


Acl = tuple[AclEntry, ...]


@functools.lru_cache(64)
def parse(value: bytes) -> Acl:
    """Return the entries of a valid ACL; an empty one (a bare header) is `()`.

    A program that copies a tree sets the same few ACLs again and again, so the last ones are at hand.

    `NotSupported` for another version; `Invalid` for what acl_valid(3) refuses: wrong length, unknown tags or
    permissions, wrong order, one of USER_OBJ, GROUP_OBJ, OTHER missing, named entries without a MASK.
    """
    body = len(value) - _HEADER.size
    if body < 0 or body % _ENTRY.size:
        raise Invalid(f"ACL of {len(value)} bytes")
    if _HEADER.unpack_from(value)[0] != _VERSION:
        raise NotSupported(f"ACL of version {_HEADER.unpack_from(value)[0]}")
    acl = tuple(AclEntry._make(fields) for fields in _ENTRY.iter_unpack(value[_HEADER.size :]))
    if acl:
        _check(acl)
    return acl


def _check(acl: Acl) -> None:
    tags = [entry.tag for entry in acl]
    if any(entry.permissions & ~0o7 or entry.tag not in (*_SINGLE, *_NAMED) for entry in acl):
        raise Invalid(f"ACL with an unknown tag or permission: {acl}")
    if tags != sorted(tags) or any(tags.count(tag) > 1 for tag in _SINGLE):
        raise Invalid(f"ACL out of order: tags {tags}")
    if not {USER_OBJ, GROUP_OBJ, OTHER} <= set(tags):
        raise Invalid(f"ACL without an owner, group or other entry: tags {tags}")
    if MASK not in tags and any(tag in _NAMED for tag in tags):
        raise Invalid(f"ACL with named entries but no mask: tags {tags}")
    if any(entry.id == UNDEFINED_ID for entry in acl if entry.tag in _NAMED):
        raise Invalid("ACL entry for nobody")


def encode(acl: Acl) -> bytes:
    """Return the attribute value of an ACL; ids of entries that have none become `UNDEFINED_ID`."""
    entries = [
        _ENTRY.pack(tag, permissions, owner if tag in _NAMED else UNDEFINED_ID)
        for tag, permissions, owner in acl
    ]
    return _HEADER.pack(_VERSION) + b"".join(entries)


def permissions(acl: Acl) -> int:
    """Return the nine mode bits that an ACL shows: the mask, where there is one, is the group's."""
    by_tag = {entry.tag: entry.permissions for entry in acl}
    group = by_tag.get(MASK, by_tag[GROUP_OBJ])
    return by_tag[USER_OBJ] << 6 | group << 3 | by_tag[OTHER]


def equivalent_mode(acl: Acl) -> int | None:
    """Return the nine mode bits that say all that the ACL says, or None if it says more."""
    return permissions(acl) if len(acl) == len(_SHIFT) else None


def set_access(value: bytes, mode: int, *, keep_setgid: bool) -> tuple[bytes | None, int]:
    """Return what an access ACL being set leaves: the value to store (None: none), and the new mode.

    An ACL that the mode expresses is not stored. keep_setgid: the caller is a member of the file's group or
    root; otherwise the set-gid bit goes, as chmod(2) has it. An empty ACL leaves the mode alone and none.
    """
    acl = parse(value)
    if not acl:
        return None, mode
    if not keep_setgid:
        mode &= ~stat.S_ISGID
    mode = mode & ~_PERMISSIONS | permissions(acl)
    return (None if equivalent_mode(acl) is not None else encode(acl)), mode


def chmod(value: bytes, mode: int) -> bytes:
    """Return the stored access ACL after a chmod to `mode`: the group bits go to the mask if there is one."""
    acl = parse(value)
    shifts = _SHIFT if MASK not in [entry.tag for entry in acl] else {USER_OBJ: 6, MASK: 3, OTHER: 0}
    changed = tuple(
        entry._replace(permissions=mode >> shifts[entry.tag] & 0o7) if entry.tag in shifts else entry
        for entry in acl
    )
    return encode(changed)


def inherit(value: bytes, mode: int) -> tuple[bytes | None, int]:
    """Return the access ACL (None: none) and the mode of an inode made with `mode` under a default ACL.

    Each of owner, mask (or group) and other is allowed what both the default ACL and `mode` allow. A new
    directory takes the default ACL itself besides; a symlink takes nothing and must not come here.
    """
    acl = parse(value)
    if not acl:
        return None, mode
    restricted = permissions(acl) & mode
    access = chmod(value, restricted)
    return (None if equivalent_mode(acl) is not None else access), mode & ~_PERMISSIONS | restricted
