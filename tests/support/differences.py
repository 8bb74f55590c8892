"""What may differ between tzfs and ext4 in the comparison: docs/posix.md tells users the same."""

from __future__ import annotations

from typing import Final, NamedTuple


class Difference(NamedTuple):
    """A difference that is not ours to remove.

    case: when. host, tzfs: what comes of it on each side.
    """

    case: str
    host: str
    tzfs: str
    reason: str


TMPFILE: Final = Difference("tmpfile", "ok", "ENOTSUP", "pyfuse3 has no handler for FUSE_TMPFILE")
SAME_SIZE: Final = Difference(
    "truncate(2) to the size that a file has",
    "mtime and ctime are stamped",
    "they are not",
    "the kernel's writeback cache keeps the times and stamps them when the size changes, as POSIX has it",
)
UMASK: Final = Difference(
    "making a file in a directory that has a default ACL",
    "the umask is not applied",
    "it is",
    "pyfuse3 does not ask for FUSE_DONT_MASK, so the kernel applies it before we see the mode",
)
SET_GID: Final = Difference(
    "writing, or chown(-1, -1), by a stranger to the group, of a set-group-ID file without group execution",
    "the bit goes; EPERM if it is not the writer's to change",
    "it stays",
    "fuse_setattr of the kernel takes the bit for a set-ID one only where the group may execute",
)
SAME_XATTR: Final = Difference(
    "setting an attribute to the value that it has, or an ACL that says no more than the mode",
    "nothing changes",
    "ctime is stamped",
    "fuse_setxattr of the kernel stamps it whenever we do not refuse",
)
NO_ACL: Final = Difference(
    "removing an ACL that a file does not have",
    "nothing changes",
    "ctime is stamped",
    "fuse_removexattr of the kernel stamps it whenever we do not refuse, and ext4 does not refuse this",
)
FORCED: Final = (TMPFILE, SAME_SIZE, UMASK, SET_GID, SAME_XATTR, NO_ACL)
"""All of them. The comparison steps around them, or knows their outcomes; nothing else may differ."""
