"""Extended attributes, the POSIX ACLs among them (xattr(7), acl(5)).

An attribute is a record of its own beside the inode. Of the `system.` namespace only the two ACLs exist:
an access ACL and the mode say the same thing twice, so each change of one is carried to the other here.
"""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING, Final

from tzfs import acl, keys
from tzfs.errors import AttributeRange, AttributeTooBig, Invalid, NoAttribute, NotSupported
from tzfs.records import XATTR_NAME_MAX, XATTR_SIZE_MAX, Caller, Inode, decode_xattr, encode_xattr
from tzfs.versions import scan_all

if TYPE_CHECKING:
    from tzfs.versions import Reader
    from tzfs.volume import Transaction

ACCESS_ACL: Final = b"system.posix_acl_access"
DEFAULT_ACL: Final = b"system.posix_acl_default"
CAPABILITY: Final = b"security.capability"


def require_name(name: bytes) -> None:
    """Refuse a name outside the namespaces that exist: `NotSupported`, `AttributeRange`, `Invalid`."""
    if len(name) > XATTR_NAME_MAX:
        raise AttributeRange(f"{len(name)} bytes, at most {XATTR_NAME_MAX}")
    if name in {ACCESS_ACL, DEFAULT_ACL}:
        return
    namespace, dot, rest = name.partition(b".")
    if not dot or namespace not in {b"user", b"trusted", b"security"}:
        raise NotSupported(f"extended attribute {name!r}")
    if not rest:
        raise Invalid(f"extended attribute {name!r}")


def get(reader: Reader, number: int, name: bytes) -> bytes | None:
    """Return the value of an attribute, None where it is not set."""
    payload = reader.load(keys.xattr(number, name))
    return None if payload is None else decode_xattr(payload)


def require(reader: Reader, number: int, name: bytes) -> bytes:
    """Return the value of an attribute. Raises `NoAttribute`."""
    value = get(reader, number, name)
    if value is None:
        raise NoAttribute(f"{name!r} of inode {number}")
    return value


def names(reader: Reader, number: int) -> list[bytes]:
    """Return the names of an inode's attributes, in byte order."""
    return [keys.split_xattr(k)[1] for k, _ in scan_all(reader, *keys.xattrs(number))]


def put(txn: Transaction, number: int, name: bytes, value: bytes) -> None:
    """Stage a value as it is. Raises `AttributeTooBig`."""
    if len(value) > XATTR_SIZE_MAX:
        raise AttributeTooBig(f"{len(value)} bytes, at most {XATTR_SIZE_MAX}")
    txn.save(keys.xattr(number, name), encode_xattr(value))


def drop(txn: Transaction, number: int, name: bytes) -> None:
    """Stage the end of an attribute, if it is set."""
    txn.remove(keys.xattr(number, name))


def put_access_acl(txn: Transaction, inode: Inode, value: bytes) -> Inode:
    """Stage an access ACL and return the inode with the mode that it implies.

    One that says no more than mode bits is not kept. A caller outside the file's group loses set-group-ID,
    as with chmod(2).
    """
    stored, mode = acl.set_access(value, inode.mode, keep_setgid=is_member(txn.caller, inode.gid))
    if stored is None:
        drop(txn, inode.number, ACCESS_ACL)
    else:
        put(txn, inode.number, ACCESS_ACL, stored)
    return inode._replace(mode=mode)


def put_default_acl(txn: Transaction, inode: Inode, value: bytes) -> None:
    """Stage a default ACL; only a directory has one (`Invalid` otherwise), and an empty one is none."""
    if not inode.is_directory:
        raise Invalid("only a directory has a default ACL")
    entries = acl.parse(value)
    if entries:
        put(txn, inode.number, DEFAULT_ACL, acl.encode(entries))
    else:
        drop(txn, inode.number, DEFAULT_ACL)


def chmod(txn: Transaction, number: int, mode: int) -> None:
    """Carry a changed mode into the access ACL, if there is one."""
    value = get(txn, number, ACCESS_ACL)
    if value is not None:
        put(txn, number, ACCESS_ACL, acl.chmod(value, mode))


def inherit(txn: Transaction, parent: Inode, inode: Inode) -> Inode:
    """Stage what a new inode takes of its parent's default ACL, and return it with the mode that follows."""
    if stat.S_ISLNK(inode.mode):
        return inode
    default = get(txn, parent.number, DEFAULT_ACL)
    if default is None:
        return inode
    access, mode = acl.inherit(default, inode.mode)
    if access is not None:
        put(txn, inode.number, ACCESS_ACL, access)
    if inode.is_directory:
        put(txn, inode.number, DEFAULT_ACL, default)
    return inode._replace(mode=mode)


def is_member(caller: Caller, gid: int) -> bool:
    """Tell whether the caller is root or in a group, supplementary groups included (proc(5))."""
    if caller.uid == 0 or caller.gid == gid:
        return True
    try:
        with open(f"/proc/{caller.pid}/status", "rb") as status:  # noqa: PTH123 - a procfs file, read at once
            groups = next((line for line in status if line.startswith(b"Groups:")), b"Groups:")
    except OSError:
        return False
    return gid in map(int, groups.split()[1:])


def without_set_id(mode: int, gid: int, caller: Caller) -> int:
    """Return the mode without what a writer other than root must not keep, as the kernel has it.

    The kernel asks for that by the mode it sends, but through FUSE forgets set-gid without group execution
    (`fuse_setattr` against `setattr_should_drop_sgid`).
    """
    mode &= ~stat.S_ISUID
    if mode & stat.S_ISGID and (mode & stat.S_IXGRP or not is_member(caller, gid)):
        mode &= ~stat.S_ISGID
    return mode
