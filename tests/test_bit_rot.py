"""Flipped bits in every file of a database: an error or the truth, never other bytes."""

import contextlib
import errno
import json
import os
import random
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from support import machine
from support.dump import Tree
from support.mounting import Mounted
from support.scenarios import ALICE, find, new
from tzfs import api, cli, keys
from tzfs.check import check
from tzfs.cli.base import BUG, REFUSED, SYSTEM
from tzfs.errors import CorruptRecord, FsError, StoreError, TzfsError
from tzfs.filesystem import Filesystem
from tzfs.records import AttributeChanges
from tzfs.rocks import RocksStore
from tzfs.session import connect
from tzfs.store import Store

SEED = int(os.environ.get("TZFS_TEST_SEED", "1"))
FILES = 60


def content(number: int) -> bytes:
    """Return what a file holds: random, so that no compression takes its place on the disk."""
    return random.Random(number).randbytes(20_000)


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a database with tables of several blocks, and something in the log behind them."""
    path = tmp_path_factory.mktemp("rot") / "db"
    engine = RocksStore.open(path, create=True)
    Filesystem.format(engine)
    fs = Filesystem(engine)
    for number in range(FILES):
        new(fs, f"file{number}", content(number))
    fs.snapshot(b"one")
    new(fs, "later", content(1000))
    engine.flush()
    for number in range(3):
        new(fs, f"logged{number}", content(2000 + number))
    engine.sync()
    # A copy, for closing would flush the log.
    copy = path.with_name("copy")
    shutil.copytree(path, copy)
    engine.close()
    return copy


def look(path: Path) -> Iterator[tuple[str, bytes | None]]:
    """Open a database and yield every file with its content, None where it cannot be read."""
    engine = RocksStore.open(path)
    try:
        fs = Filesystem(engine)
        names = [f"file{number}" for number in range(FILES)] + ["later", *(f"logged{at}" for at in range(3))]
        for name in names:
            try:
                yield name, fs.read(find(fs, name), 0, 30_000)
            except (FsError, StoreError):
                yield name, None
        with contextlib.suppress(FsError, StoreError):
            check(fs)
    finally:
        engine.close()


def truth(name: str) -> bytes:
    """Return what a file of the origin holds."""
    if name == "later":
        return content(1000)
    return content(2000 + int(name[6:]) if name.startswith("logged") else int(name[4:]))


def flip(path: Path, rng: random.Random) -> int:
    """Turn one bit of a file around; return where."""
    at = rng.randrange(path.stat().st_size)
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes((byte ^ 1 << rng.randrange(8),)))
    return at


@pytest.mark.parametrize("pattern", ["*.sst", "MANIFEST-*", "CURRENT", "OPTIONS-*", "IDENTITY"])
def test_a_flipped_bit_never_gives_wrong_data(origin: Path, tmp_path: Path, pattern: str) -> None:
    rng = random.Random(f"{SEED} {pattern}")
    for _ in range(12):
        copy = tmp_path / "db"
        shutil.copytree(origin, copy)
        victim = rng.choice([path for path in sorted(copy.glob(pattern)) if path.stat().st_size])
        at = flip(victim, rng)
        try:
            found = dict(look(copy))
        except TzfsError:
            found = {}
        for name, data in found.items():
            assert data in (None, truth(name)), f"seed {SEED}: {name} after a flip at {victim.name}:{at}"
        shutil.rmtree(copy)


def test_a_flipped_bit_in_the_log_gives_an_earlier_tree_and_says_so(origin: Path, tmp_path: Path) -> None:
    rng = random.Random(SEED)
    for _ in range(8):
        copy = tmp_path / "db"
        shutil.copytree(origin, copy)
        victim = max(path for path in copy.glob("*.log") if path.stat().st_size)
        at = flip(victim, rng)
        engine = RocksStore.open(copy)
        dropped = engine.dropped()
        engine.close()
        assert dropped, f"seed {SEED}: a flip at {at}"
        found = dict(look(copy))
        # A file is made, and then written: an earlier tree may have it empty.
        assert all(data in (None, b"", truth(name)) for name, data in found.items())
        assert found["file0"] == truth("file0")
        shutil.rmtree(copy)


@pytest.fixture
def shelf(tmp_path: Path) -> Store:
    """Return a store whose filesystem `lab` has lost the middle of one file."""
    store = Store.open(tmp_path / "store", create=True)
    row = store.create("lab")
    with connect(store, row) as session:
        fs = session.filesystem  # type: ignore[attr-defined]
        fs.mkdir(1, b"d", 0o755, ALICE)
        for number in range(FILES):
            new(fs, f"d/file{number}", content(number))
        fs.snapshot(b"one")
    needle = content(7)[5000:5100]
    for table in store.database(row).glob("*.sst"):
        data = table.read_bytes()
        if needle in data:
            at = data.index(needle)
            table.write_bytes(data[:at] + bytes(4) + data[at + 4 :])
            return store
    raise AssertionError("the file is in no table")


def spoil(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


@pytest.mark.parametrize(
    ("pattern", "harm", "words"),
    [
        ("MANIFEST-*", spoil, "/MANIFEST-{} is damaged, .* backup"),
        ("MANIFEST-*", lambda path: os.truncate(path, 0), "/MANIFEST-{} is damaged, .* backup"),
        ("MANIFEST-*", Path.unlink, "/MANIFEST-{} is missing, .* backup"),
        ("CURRENT", spoil, "/CURRENT is damaged: .*`echo MANIFEST-{} > .*/CURRENT`"),
        ("CURRENT", cut, "/CURRENT is damaged: .*`echo MANIFEST-{} > .*/CURRENT`"),
        ("CURRENT", Path.unlink, "/CURRENT is damaged: .*`echo MANIFEST-{} > .*/CURRENT`"),
        ("*.sst", cut, r"\.sst has [0-9]+ bytes where [0-9]+ were written: .* backup"),
        ("*.sst", Path.unlink, r"\.sst is missing, .* backup"),
    ],
)
def test_a_database_that_does_not_open_says_which_file_it_is_and_what_to_do(
    shelf: Store,
    capsys: pytest.CaptureFixture[str],
    pattern: str,
    harm: Callable[[Path], None],
    words: str,
) -> None:
    database = shelf.database(shelf.get("lab"))
    (manifest,) = database.glob("MANIFEST-*")
    number = manifest.name.removeprefix("MANIFEST-")
    harm(max(database.glob(pattern), key=lambda path: path.stat().st_size))
    for command in ("info", "check", "scrub", "snapshots"):
        assert cli.run(cli.tzfs, "tzfs", ["--store", str(shelf.path), command, "lab"]) == SYSTEM
        told = capsys.readouterr()
        assert re.search(f"{database}.*{words.format(number)}", told.err), told.err
        assert told.err.count("\n") == 1
        assert told.out == ""
    if pattern == "CURRENT":
        advised = told.err.partition("`")[2].partition("`")[0]
        subprocess.run(["sh", "-c", advised], check=True)
        assert cli.run(cli.tzfs, "tzfs", ["--store", str(shelf.path), "info", "lab"]) == 0


def test_what_the_disk_lost_is_eio_and_the_rest_is_readable(shelf: Store) -> None:
    with connect(shelf, shelf.get("lab")) as session:
        fs = session.filesystem  # type: ignore[attr-defined]
        found: Tree = {}
        errors: list[StoreError] = []
        for number in range(FILES):
            try:
                found[b"%d" % number] = (fs.read(find(fs, f"d/file{number}"), 0, 30_000),)
            except StoreError as error:
                errors.append(error)
    assert b"7" not in found
    assert {error.errno for error in errors} == {errno.EIO}
    assert all("key 64" in str(error) for error in errors), "the key of a chunk, in the log of a mount"
    assert len(found) >= FILES - 4
    assert all(data == content(int(name)) for name, (data,) in found.items())


def test_scrub_names_the_files_that_are_hit(shelf: Store) -> None:
    runner = CliRunner()
    arguments = ["--store", str(shelf.path), "scrub", "lab"]
    result = runner.invoke(cli.tzfs, [*arguments, "--json"])
    assert result.exit_code == REFUSED
    told = json.loads(result.stdout)
    assert {"path": "/d/file7", "snapshot": None, "what": "content"} in told["hits"]
    assert {"path": "/d/file7", "snapshot": 1, "what": "content"} in told["hits"]
    assert 0 < len(told["hits"]) <= 8
    assert told["damage"][0]["space"] == "file content"
    table = re.search(r"/[^ ]*[.]sst", told["damage"][0]["error"])
    assert table is not None
    assert Path(table[0]).exists(), "not that of the copy, which is gone"
    result = runner.invoke(cli.tzfs, [*arguments, "--rate", "100M"])
    assert "hit: /d/file7 (live): content" in result.stdout
    assert "has lost 1 area: restore" in result.stderr
    assert not list(shelf.directory(shelf.get("lab")).glob("checkpoint-*"))


def test_scrub_of_a_sound_filesystem_says_how_much_it_read(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "store", create=True)
    with connect(store, store.create("lab")) as session:
        new(session.filesystem, "file", content(1))  # type: ignore[attr-defined]
    result = CliRunner().invoke(cli.tzfs, ["--store", str(store.path), "scrub", "lab"])
    assert result.exit_code == 0
    assert "all of it is sound" in result.stdout


@pytest.fixture
def hurt(tmp_path: Path) -> Store:
    """Return a store whose filesystem has lost the records of three inodes, in one directory."""
    store = Store.open(tmp_path / "store", create=True)
    row = store.create("lab")
    with connect(store, row) as session:
        fs = session.filesystem  # type: ignore[attr-defined]
        fs.mkdir(1, b"d", 0o755, ALICE)
        for name in ("a", "b", "c", "e"):
            new(fs, f"d/{name}", content(1))
        fs.mkdir(find(fs, "d"), b"sub", 0o755, ALICE)
        new(fs, "d/sub/inside", content(2))
        fs.snapshot(b"one")
        new(fs, "d/sub/later", content(3))
        fs.setattr(find(fs, "d/b"), AttributeChanges(mode=0o600), ALICE)
        fs.unlink(find(fs, "d"), b"c", ALICE)
        fs.link(find(fs, "d/e"), find(fs, "d"), b"f", ALICE)
        numbers = [find(fs, "d/b"), find(fs, "d/sub")]
        fs.store.write({keys.HEAD + keys.inode(number): b"no record" for number in numbers})
    return store


def test_a_damaged_inode_hides_no_other_name(hurt: Store) -> None:
    with connect(hurt, hurt.get("lab")) as session:
        fs = session.filesystem  # type: ignore[attr-defined]
        directory = find(fs, "d")
        listed = {entry.name: entry.inode.mode for entry in fs.readdir(directory, 0, 100)}
        assert sorted(listed) == [b"a", b"b", b"e", b"f", b"sub"]
        assert {name for name, mode in listed.items() if not mode} == {b"b", b"sub"}
        for name in (b"b", b"sub"):
            with pytest.raises(CorruptRecord):
                fs.lookup(directory, name)
        told = {(change.kind, change.path) for change in fs.diff(b"one")}
        assert ("removed", b"d/c") in told
        assert ("added", b"d/f") in told
        # What stood in the lost records, their place too, is lost with them.
        lost = b"#%d" % fs.directories.find(fs.versions.live, directory, b"sub")
        assert {("changed", lost), ("added", lost + b"/later")} <= told
        past = {entry.name: entry.inode.mode for entry in fs.readdir(directory, 0, 100, at=1)}
        assert sorted(past) == [b"a", b"b", b"c", b"e", b"sub"]


def test_walks_of_the_api_and_the_report_go_on_behind_a_damaged_inode(hurt: Store, tmp_path: Path) -> None:
    with api.Store(hurt).open_filesystem("lab") as fs:
        assert [(entry.name, entry.is_file()) for entry in sorted(fs.scandir("d"))] == [
            ("a", True), ("b", False), ("e", True), ("f", True), ("sub", False),
        ]  # fmt: skip
        with pytest.raises(OSError, match="d/b") as refused:
            fs.read_bytes("d/b")
        assert refused.value.errno == errno.EIO
        assert {name for _, _, names in fs.walk("/") for name in names} >= {"a", "b", "e", "f"}
    out = tmp_path / "page.html"
    assert cli.run(cli.tzfs, "tzfs", ["--store", str(hurt.path), "report", "lab", str(out)]) == 0
    assert "d/sub" in out.read_text()


@pytest.mark.mount
def test_a_mount_lists_a_damaged_file_by_its_name_and_its_lstat_is_eio(hurt: Store, tmp_path: Path) -> None:
    reason = machine.missing_fuse()
    if reason is not None:
        pytest.skip(reason)
    mounted = Mounted(machine.make_workspace())
    shutil.copytree(hurt.path, mounted.store)
    mounted.mount()
    try:
        for directory in (mounted.path / "d", mounted.path / ".snapshots" / "latest" / "d"):
            for _ in range(2):
                names = {entry.name for entry in os.scandir(directory)}
                assert {"a", "b", "e", "sub"} <= names
            with pytest.raises(OSError, match="Input") as refused:
                (directory / ("b" if "latest" not in str(directory) else "sub")).lstat()
            assert refused.value.errno == errno.EIO
            assert (directory / "a").read_bytes() == content(1)
        done = subprocess.run(
            ["ls", "-l", mounted.path / "d"], capture_output=True, text=True, check=False, timeout=30
        )
        assert " a\n" in done.stdout
        assert "Input/output error" in done.stderr
    finally:
        mounted.unmount()
        machine.remove_workspace(mounted.workspace)


@pytest.mark.mount
def test_a_scrub_of_a_mount_names_the_file_that_is_hit_and_the_mount_goes_on() -> None:
    reason = machine.missing_fuse()
    if reason is not None:
        pytest.skip(reason)
    mounted = Mounted(machine.make_workspace())
    try:
        mounted.ok("create", mounted.name)
        mounted.mount()
        for number in range(8):
            (mounted.path / f"file{number}").write_bytes(content(number))
        assert "all of it is sound" in mounted.ok("scrub", mounted.name)
        needle = content(5)[5000:5100]
        tables = mounted.store.glob("filesystems/*/db/*.sst")
        (table,) = (path for path in tables if needle in path.read_bytes())
        at = table.read_bytes().index(needle)
        with table.open("r+b") as file:
            file.seek(at)
            file.write(bytes(4))
        done = mounted.run("scrub", mounted.name, "--rate", "10M")
        assert done.returncode == REFUSED
        assert "hit: /file5 (live): content" in done.stdout
        assert str(table) in done.stdout, "the table, not a copy of it"
        (mounted.path / "new").write_bytes(content(9))
        mounted.snapshot()
        assert (mounted.path / "new").read_bytes() == content(9)
        mounted.unmount()
    finally:
        machine.remove_workspace(mounted.workspace)


def test_a_flipped_bit_in_the_catalog_is_told_and_never_believed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Store.open(tmp_path / "store", create=True)
    store.create("lab", quota_bytes=1 << 30)
    store.create("team/other")
    store.delete("team/other")
    catalog = store.path / "catalog.db"
    sound = catalog.read_bytes()
    used = [at for at, byte in enumerate(sound) if byte]
    rng = random.Random(SEED)

    def rows() -> tuple[int, list[object]]:
        code = cli.run(cli.tzfs, "tzfs", ["--store", str(store.path), "list", "--status", "all", "--json"])
        out = capsys.readouterr().out
        return code, json.loads(out) if out else []

    assert rows()[0] == 0
    truth = rows()[1]
    for at in rng.sample(used, 200):
        damaged = bytearray(sound)
        damaged[at] ^= 1 << rng.randrange(8)
        catalog.write_bytes(damaged)
        code, found = rows()
        assert code != BUG, f"seed {SEED}: a flip at {at}"
        assert all(row in truth for row in found), f"seed {SEED}: a flip at {at}"
        assert code or found == truth, f"seed {SEED}: a flip at {at}"
        assert cli.run(cli.tzfs, "tzfs", ["--store", str(store.path), "info", "lab"]) != BUG
        capsys.readouterr()
        catalog.write_bytes(sound)
    assert rows() == (0, truth), "and no directory was swept meanwhile"


@pytest.mark.parametrize("loss", ["row damaged", "row lost", "id damaged", "catalog lost"])
def test_a_filesystem_that_the_catalog_has_lost_gets_its_name_back(shelf: Store, loss: str) -> None:
    row = shelf.get("lab")
    if loss == "catalog lost":
        shelf.catalog.path.unlink()
    elif loss == "row lost":
        shelf.catalog.remove(row.id)
    else:
        data = shelf.catalog.path.read_bytes()
        before = row.id.encode() + b"defaultlab"
        after = (b"x" if loss == "id damaged" else row.id[:1].encode()) + row.id[1:].encode()
        after += b"defaultlab" if loss == "id damaged" else b"default\xffab"
        assert before in data
        shelf.catalog.path.write_bytes(data.replace(before, after))
    os.utime(shelf.directory(row), (0, 0))

    def run(*arguments: str) -> tuple[int, str]:
        result = CliRunner().invoke(cli.tzfs, ["--store", str(shelf.path), *arguments])
        return result.exit_code, result.output

    if loss != "catalog lost":
        assert run("list")[0] == REFUSED
        status, told = run("list")
        assert row.id in told, "it was not swept, however old"
        assert status == REFUSED
    assert run("recover", row.id, "found") == (0, "")
    found = Store.open(shelf.path).get("found")
    assert (found.id, found.config, found.status) == (row.id, row.config, row.status)
    assert run("list")[0] == 0
    assert run("recover", row.id, "again")[0] != 0
    with connect(shelf, found) as session:
        assert session.filesystem.read(find(session.filesystem, "d/file0"), 0, 30_000) == content(0)  # type: ignore[attr-defined]
