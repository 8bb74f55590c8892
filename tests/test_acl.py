"""The ACL codec, and the rules that tie ACLs and modes together (fs/posix_acl.c)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tzfs import acl
from tzfs.acl import AclEntry
from tzfs.errors import Invalid, NotSupported

NONE = acl.UNDEFINED_ID


def _minimal(owner: int, group: int, other: int) -> acl.Acl:
    return (
        AclEntry(acl.USER_OBJ, owner, NONE),
        AclEntry(acl.GROUP_OBJ, group, NONE),
        AclEntry(acl.OTHER, other, NONE),
    )


def _extended(owner: int, user: int, group: int, mask: int, other: int) -> acl.Acl:
    return (
        AclEntry(acl.USER_OBJ, owner, NONE),
        AclEntry(acl.USER, user, 1000),
        AclEntry(acl.GROUP_OBJ, group, NONE),
        AclEntry(acl.MASK, mask, NONE),
        AclEntry(acl.OTHER, other, NONE),
    )


PERMISSION = st.integers(0, 7)
ID = st.integers(0, 2**32 - 2)


@st.composite
def _acls(draw: st.DrawFn) -> acl.Acl:
    users = [AclEntry(acl.USER, draw(PERMISSION), n) for n in draw(st.lists(ID, max_size=3))]
    groups = [AclEntry(acl.GROUP, draw(PERMISSION), n) for n in draw(st.lists(ID, max_size=3))]
    mask = [AclEntry(acl.MASK, draw(PERMISSION), NONE)] if users or groups or draw(st.booleans()) else []
    owner, group, other = _minimal(draw(PERMISSION), draw(PERMISSION), draw(PERMISSION))
    return (owner, *users, group, *groups, *mask, other)


# What `setfacl -m u:1000:rw- FILE` on a file of mode 0640 stores, byte by byte.
GOLDEN = bytes.fromhex(
    "02000000"
    "01000600ffffffff"
    "02000600e8030000"
    "04000400ffffffff"
    "10000600ffffffff"
    "20000000ffffffff"
)  # fmt: skip


def test_the_golden_value_parses_and_encodes() -> None:
    entries = _extended(6, 6, 4, 6, 0)
    assert acl.parse(GOLDEN) == entries
    assert acl.encode(entries) == GOLDEN


@given(_acls())
def test_every_acl_survives_the_round_trip(entries: acl.Acl) -> None:
    assert acl.parse(acl.encode(entries)) == entries


@pytest.mark.parametrize("length", [n for n in range(len(GOLDEN)) if n != 4])
def test_every_truncation_is_invalid(length: int) -> None:
    with pytest.raises(Invalid):
        acl.parse(GOLDEN[:length])


def test_a_trailing_byte_is_invalid() -> None:
    with pytest.raises(Invalid):
        acl.parse(GOLDEN + b"\0")


def test_another_version_is_not_supported() -> None:
    with pytest.raises(NotSupported):
        acl.parse(b"\3" + GOLDEN[1:])


@pytest.mark.parametrize(
    "entries",
    [
        pytest.param(_minimal(8, 0, 0), id="unknown permission"),
        pytest.param((*_minimal(7, 5, 5), AclEntry(0x40, 0, NONE)), id="unknown tag"),
        pytest.param(_minimal(7, 5, 5)[:2], id="no other"),
        pytest.param(_minimal(7, 5, 5)[1:], id="no owner"),
        pytest.param(tuple(reversed(_minimal(7, 5, 5))), id="order"),
        pytest.param((_minimal(7, 5, 5)[0], *_minimal(7, 5, 5)), id="owner twice"),
        pytest.param((*_extended(7, 7, 5, 7, 5)[:3], _extended(7, 7, 5, 7, 5)[4]), id="named without mask"),
    ],
)
def test_a_malformed_acl_is_invalid(entries: acl.Acl) -> None:
    with pytest.raises(Invalid):
        acl.parse(acl.encode(entries))


def test_a_named_entry_needs_an_id() -> None:
    with pytest.raises(Invalid):
        acl.parse(GOLDEN.replace(bytes.fromhex("e8030000"), bytes.fromhex("ffffffff")))


def test_only_a_minimal_acl_is_equivalent_to_a_mode() -> None:
    assert acl.equivalent_mode(_minimal(7, 5, 4)) == 0o754
    assert acl.equivalent_mode(_extended(7, 7, 5, 3, 4)) is None
    assert acl.permissions(_extended(7, 7, 5, 3, 4)) == 0o734


def test_setting_an_acl_that_a_mode_expresses_stores_none() -> None:
    value, mode = acl.set_access(acl.encode(_minimal(6, 4, 0)), 0o104755, keep_setgid=True)
    assert (value, mode) == (None, 0o104640)


def test_setting_an_extended_acl_puts_the_mask_into_the_group_bits() -> None:
    value, mode = acl.set_access(GOLDEN, 0o102600, keep_setgid=True)
    assert (value, mode) == (GOLDEN, 0o102660)


def test_setting_an_acl_drops_setgid_for_a_stranger_to_the_group() -> None:
    assert acl.set_access(GOLDEN, 0o102600, keep_setgid=False)[1] == 0o100660


def test_an_empty_acl_leaves_the_mode_alone() -> None:
    assert acl.set_access(acl.encode(()), 0o102600, keep_setgid=False) == (None, 0o102600)


def test_chmod_changes_the_mask_and_not_the_group_entry() -> None:
    assert acl.parse(acl.chmod(GOLDEN, 0o100751)) == _extended(7, 6, 4, 5, 1)


def test_chmod_without_a_mask_changes_the_group_entry() -> None:
    assert acl.parse(acl.chmod(acl.encode(_minimal(7, 7, 7)), 0o640)) == _minimal(6, 4, 0)


@given(_acls(), st.integers(0, 0o7777))
def test_after_chmod_the_acl_shows_that_mode(entries: acl.Acl, mode: int) -> None:
    assert acl.permissions(acl.parse(acl.chmod(acl.encode(entries), mode))) == mode & 0o777


def test_a_new_inode_is_allowed_what_default_acl_and_mode_both_allow() -> None:
    value, mode = acl.inherit(acl.encode(_extended(7, 7, 5, 7, 1)), 0o100664)
    assert value is not None
    assert acl.parse(value) == _extended(6, 7, 5, 6, 0)
    assert mode == 0o100660


def test_a_minimal_default_acl_leaves_only_a_mode() -> None:
    assert acl.inherit(acl.encode(_minimal(7, 5, 0)), 0o040777) == (None, 0o040750)


@given(_acls(), st.integers(0, 0o7777))
def test_inheriting_never_allows_more_than_was_asked_for(entries: acl.Acl, mode: int) -> None:
    value, inherited = acl.inherit(acl.encode(entries), mode)
    assert inherited & ~mode == 0
    if value is not None:
        assert acl.permissions(acl.parse(value)) == inherited & 0o777
