"""The commands as a person types them, on filesystems that are not mounted."""

import json
import sqlite3
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tzfs import check, cli
from tzfs.cli import base, lifecycle
from tzfs.filesystem import Filesystem
from tzfs.records import NOBODY
from tzfs.rocks import RocksStore
from tzfs.store import Store


class Result(NamedTuple):
    """What a command said and how it ended."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:  # noqa: ANN401
        return json.loads(self.out)


Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Return a function that runs `tzfs` with these arguments on a store of the test's own."""
    monkeypatch.setenv("TZFS_STORE", str(tmp_path / "store"))

    def call(*arguments: str) -> Result:
        capsys.readouterr()
        status = base.run(cli.tzfs, "tzfs", arguments)
        return Result(status, *capsys.readouterr())

    return call


def change(tmp_path: Path, name: str, file: bytes) -> None:
    shelf = Store.open(tmp_path / "store")
    engine = RocksStore.open(shelf.database(shelf.get(name)))
    Filesystem(engine).mknod(1, file, stat.S_IFREG | 0o644, 0, NOBODY)
    engine.close()


def refused(result: Result, status: int, *words: str) -> None:
    """Check that a command failed as it should: its status, and one line with what to do."""
    assert (result.status, result.out) == (status, ""), result
    assert result.err.startswith("tzfs: ")
    assert result.err.count("\n") == 1
    assert "Traceback" not in result.err
    for word in words:
        assert word in result.err


def test_the_life_of_a_filesystem(run: Run, tmp_path: Path) -> None:
    assert run("create", "lab", "--quota", "10G", "--inodes", "1000", "--chunk-size", "64KiB") == (0, "", "")
    change(tmp_path, "lab", b"a")
    assert run("snapshot", "lab", "-m", "first") == (0, "1\n", "")
    assert run("snapshot", "lab") == (0, "1\n", "")
    change(tmp_path, "lab", b"b")
    assert run("snapshot", "lab", "--label", "second") == (0, "2\n", "")
    assert [row["labels"] for row in run("snapshots", "lab", "--json").json] == [["first"], ["second"]]
    assert run("check", "lab") == (0, "lab is clean\n", "")
    assert run("snapshot-delete", "lab", "first", "2").status == 0
    assert run("snapshots", "lab", "--json").json == []
    assert run("rename", "lab", "team/lab").status == 0
    assert run("archive", "team/lab").status == 0
    assert run("unarchive", "team/lab").status == 0
    assert "undelete team/lab" in run("delete", "team/lab", "--yes").err
    assert run("list").out.splitlines()[1:] == []
    assert run("undelete", "team/lab").status == 0
    assert run("info", "team/lab", "--json").json["usage"]["inodes"] == 3
    run("delete", "team/lab", "--yes", "--grace", "0")
    assert run("list", "--status", "all", "--json").json == []


def test_info_says_what_it_is_for_people_and_for_programs(run: Run) -> None:
    run("create", "lab", "--quota", "1.5G")
    info = run("info", "lab", "--json").json
    assert (info["status"], info["txn"], info["snapshots"]) == ("running", 1, 0)
    assert info["usage"] == {
        "inodes": 1,
        "live_bytes": 0,
        "stored_bytes": 0,
        "inodes_max": 0,
        "quota_bytes": 3 << 29,
    }
    assert (info["mountpoint"], info["pid"]) == (None, None)
    out = run("info", "lab").out
    assert "quota:           1.5 GiB\n" in out
    assert "inodes max:      none\n" in out


def test_info_of_a_deleted_one_says_until_when_it_is_kept(run: Run) -> None:
    run("create", "lab")
    run("delete", "lab", "--yes")
    assert "bytes kept until:" in run("info", "lab").out


def test_lists_are_filtered(run: Run) -> None:
    for name in ("a", "b", "team/c"):
        run("create", name)
    run("archive", "a")
    run("delete", "b", "--yes")

    def listed(*arguments: str) -> list[str]:
        return [row["name"] for row in run("list", "--json", *arguments).json]

    assert listed() == ["a", "team/c"]
    assert listed("--status", "archived") == ["a"]
    assert listed("--status", "deleted") == ["b"]
    assert listed("--status", "all") == ["a", "b", "team/c"]
    assert listed("--namespace", "team") == ["team/c"]


def test_report_writes_one_page(run: Run, tmp_path: Path) -> None:
    run("create", "lab")
    change(tmp_path, "lab", b"a")
    run("snapshot", "lab", "-m", "first")
    out = tmp_path / "out.html"
    assert run("report", "lab", str(out)) == (0, "", "")
    text = out.read_text()
    assert "lab: history" in text
    assert '"labels":["first"]' in text
    refused(run("report", "nothing", str(out)), base.NOT_FOUND, "nothing")


def test_top_says_what_is_not_mounted(run: Run) -> None:
    run("create", "lab")
    assert run("top", "--json").json == []
    assert run("top", "--count", "1", "--interval", "0.1").out == "nothing is mounted\n"
    refused(run("top", "lab", "--json"), base.NOT_FOUND, "not mounted", "tzfs info")


def test_deleting_asks(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    run("create", "lab")
    answers = iter([False, True])

    def confirm(text: str, **_: object) -> None:
        assert "lab" in text
        if not next(answers):
            raise lifecycle.click.Abort

    monkeypatch.setattr(lifecycle.click, "confirm", confirm)
    refused(run("delete", "lab"), base.REFUSED, "nothing was done")
    assert run("info", "lab", "--json").json["status"] == "running"
    assert run("delete", "lab").status == 0
    assert run("info", "lab", "--json").json["status"] == "deleted"


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["info", "nope"], base.NOT_FOUND, ["nope", "tzfs list"]),
        (["create", "lab"], base.CONFLICT, ["lab"]),
        (["create", "a b"], base.USAGE, ["a b"]),
        (["create", "x\n\x1b[31m"], base.USAGE, [r"x\n\x1b[31m"]),
        (["create", "x", "--quota", "10Q"], base.USAGE, ["10Q", "10G"]),
        (["create", "x", "--inodes", "0"], base.USAGE, ["--inodes"]),
        (["create", "x", "--chunk-size", "1000"], base.USAGE, ["1000"]),
        (["snapshot", "lab", "-m", "latest"], base.USAGE, ["latest"]),
        (["snapshot-delete", "lab", "9"], base.NOT_FOUND, ["9", "tzfs snapshots"]),
        (["snapshot-delete", "lab"], base.USAGE, ["--help"]),
        (["archive", "gone"], base.CONFLICT, ["tzfs undelete gone"]),
        (["delete", "gone", "--yes"], base.CONFLICT, ["tzfs undelete gone"]),
        (["snapshot", "gone"], base.CONFLICT, ["tzfs undelete gone"]),
        (["unarchive", "lab"], base.CONFLICT, ["nothing to do"]),
        (["undelete", "lab"], base.CONFLICT, ["nothing to do"]),
        (["purge", "lab", "--yes"], base.CONFLICT, ["nothing to do"]),
        (["rename", "lab", "kept"], base.CONFLICT, ["kept"]),
        (["snapshot", "kept"], base.REFUSED, ["read-only", "tzfs unarchive"]),
        (["delete", "lab", "--yes", "--grace", "soon"], base.USAGE, ["soon", "7d"]),
        (["list", "--status", "odd"], base.USAGE, ["archived"]),
        (["frobnicate"], base.USAGE, ["frobnicate"]),
        (["umount", "lab"], base.NOT_FOUND, ["not mounted"]),
        (["umount", "/nowhere"], base.NOT_FOUND, ["/nowhere"]),
        (["mount", "gone", "/tmp"], base.CONFLICT, ["tzfs undelete gone"]),
        (["mount", "lab", "/tmp", "-o", "fsname=x"], base.USAGE, ["fsname"]),
        (["mount", "lab", "/tmp", "-o", "ro,poll_us=fast"], base.USAGE, ["poll_us"]),
        (["--store", "/proc/nowhere", "list"], base.NOT_FOUND, ["/proc/nowhere", "tzfs create"]),
        (["--store", "/etc", "list"], base.NOT_FOUND, ["/etc", "--store"]),
        (["--store", "/etc", "create", "x"], base.NOT_FOUND, ["/etc", "--store"]),
    ],
    ids=lambda value: "-".join(value).replace("/", "") if isinstance(value, list) else str(value),
)
def test_a_refusal_is_one_line_and_a_status(
    run: Run, tmp_path: Path, arguments: list[str], status: int, words: list[str]
) -> None:
    for name in ("lab", "gone", "kept"):
        run("create", name)
    change(tmp_path, "kept", b"a")
    run("delete", "gone", "--yes")
    run("archive", "kept")
    refused(run(*arguments), status, *words)


def test_a_newer_store_is_refused_with_both_versions(run: Run, tmp_path: Path) -> None:
    run("create", "lab")
    with sqlite3.connect(tmp_path / "store" / "catalog.db") as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    refused(run("list"), base.REFUSED, "99", "newer tzfs")


def test_a_lost_database_is_named(run: Run, tmp_path: Path) -> None:
    run("create", "lab")
    directory = Path(run("info", "lab", "--json").json["path"])
    (directory / "db").rename(tmp_path / "elsewhere")
    refused(run("info", "lab"), base.NOT_FOUND, "backup")
    (tmp_path / "elsewhere").rename(directory / "db")
    directory.rename(tmp_path / "elsewhere")
    refused(run("info", "lab"), base.CONFLICT, "missing")


def test_damage_is_listed_and_status_1(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    run("create", "lab")
    monkeypatch.setattr(check, "check", lambda _: [check.Finding(3, "inode 7\x1b has no name")])
    result = run("check", "lab")
    assert result.status == base.REFUSED
    assert result.out == "invariant 3: inode 7\\x1b has no name\n"
    assert "damaged" in result.err
    assert run("check", "lab", "--json").json == [{"invariant": 3, "text": "inode 7\x1b has no name"}]
    refused(run("archive", "lab"), base.REFUSED, "tzfs check lab")


def test_a_bug_is_one_line_too_and_debug_shows_where(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    run("create", "lab")

    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("oh")

    monkeypatch.setattr(Store, "rename", broken)
    refused(run("rename", "lab", "x"), base.BUG, "ZeroDivisionError", "--debug")
    result = run("--debug", "rename", "lab", "x")
    assert result.status == base.BUG
    assert "Traceback" in result.err


def test_help_documents_the_exit_statuses(run: Run) -> None:
    out = run("--help").out
    for status in (base.REFUSED, base.USAGE, base.NOT_FOUND, base.CONFLICT, base.SYSTEM, base.BUG):
        assert f"\n  {status:>4}  " in out


@pytest.mark.parametrize("command", sorted(cli.tzfs.commands))
def test_every_command_has_help(run: Run, command: str) -> None:
    result = run(command, "--help")
    assert result.status == 0
    assert command in result.out
