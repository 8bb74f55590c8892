"""The table of commands, over a filesystem that nobody has mounted."""

import json
import stat

import pytest

from tzfs import admin
from tzfs.errors import ControlError, SnapshotMissing
from tzfs.filesystem import Filesystem
from tzfs.records import NOBODY


def change(fs: Filesystem, name: bytes) -> None:
    fs.mknod(1, name, stat.S_IFREG | 0o644, 0, NOBODY)


def test_every_result_is_json(filesystem: Filesystem) -> None:
    change(filesystem, b"a")
    admin.run(filesystem, "snapshot", {"label": "one"})
    for command, arguments in (
        ("snapshot", {"label": None}),
        ("snapshots", {}),
        ("info", {}),
        ("check", {}),
        ("snapshot_delete", {"names": ["one"]}),
    ):
        result = admin.run(filesystem, command, arguments)
        assert json.loads(json.dumps(result)) == result


def test_snapshots_are_listed_with_their_labels(filesystem: Filesystem) -> None:
    change(filesystem, b"a")
    assert admin.snapshot(filesystem, label="one")["txn"] == 1
    assert admin.snapshot(filesystem, label="two")["txn"] == 1
    change(filesystem, b"b")
    admin.snapshot(filesystem)
    found = admin.snapshots(filesystem)["snapshots"]
    assert [(row["txn"], sorted(row["labels"])) for row in found] == [(1, ["one", "two"]), (2, [])]


def test_deleting_several_deletes_all_or_none(filesystem: Filesystem) -> None:
    for name in (b"a", b"b", b"c"):
        change(filesystem, name)
        admin.snapshot(filesystem, label=name.decode())
    with pytest.raises(SnapshotMissing):
        admin.snapshot_delete(filesystem, names=["a", "nothere"])
    assert len(admin.snapshots(filesystem)["snapshots"]) == 3
    assert admin.snapshot_delete(filesystem, names=["c", "1", "a", "latest"]) == {"deleted": [1, 3]}
    assert admin.info(filesystem)["last_snapshot"]["labels"] == ["b"]


@pytest.mark.parametrize(
    ("command", "arguments"),
    [("frobnicate", {}), ("snapshot", {"lable": "x"}), ("snapshot_delete", {}), ("run", {})],
)
def test_an_unknown_command_or_argument_is_refused(
    filesystem: Filesystem, command: str, arguments: admin.Json
) -> None:
    with pytest.raises(ControlError):
        admin.run(filesystem, command, arguments)
