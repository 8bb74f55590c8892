"""The catalog: names, uniqueness, formats, and many processes at once."""

import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tzfs.catalog import (
    APPLICATION_ID,
    CATALOG_VERSION,
    DELETED,
    RUNNING,
    Catalog,
    Config,
    FilesystemName,
    FilesystemRow,
    parse_name,
)
from tzfs.errors import (
    CatalogBroken,
    InvalidName,
    NameTaken,
    NewerCatalog,
    NotAStore,
    UnknownFilesystem,
    WrongStatus,
)


def row(
    identifier: str, name: str = "lab", *, namespace: str = "default", status: str = RUNNING
) -> FilesystemRow:
    return FilesystemRow(identifier, namespace, name, status, Config(65536, 0, 0), 1, 1)


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    return Catalog.create(tmp_path / "catalog.db")


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("lab", FilesystemName("default", "lab")),
        ("team-a/lab.2", FilesystemName("team-a", "lab.2")),
        ("_x", FilesystemName("default", "_x")),
        ("n" * 255, FilesystemName("default", "n" * 255)),
    ],
)
def test_a_name_is_taken_apart(text: str, parsed: FilesystemName) -> None:
    assert parse_name(text) == parsed


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/",
        "a/",
        "/a",
        "a/b/c",
        ".hidden",
        "-rf",
        "a b",
        "a\n",
        "a@1",
        "ä",
        "n" * 256,
        "../x",
        "a/../b",
        "\udcff",
    ],
)
def test_a_name_that_breaks_a_rule_is_refused(text: str) -> None:
    with pytest.raises(InvalidName):
        parse_name(text)


def test_a_name_in_the_default_namespace_is_shown_without_it() -> None:
    assert str(parse_name("default/lab")) == "lab"
    assert str(parse_name("team/lab")) == "team/lab"


def test_a_row_comes_back_as_it_was_stored(catalog: Catalog) -> None:
    stored = row("a")._replace(config=Config(4096, 10 << 30, 7), created_ns=-5, updated_ns=2**62)
    catalog.insert(stored)
    assert catalog.find(FilesystemName("default", "lab")) == stored
    assert catalog.get("a") == stored
    assert catalog.rows() == [stored]


def test_two_filesystems_cannot_share_a_name_but_deleted_ones_can(catalog: Catalog) -> None:
    catalog.insert(row("a", status=DELETED)._replace(deleted_ns=1))
    catalog.insert(row("b", status=DELETED)._replace(deleted_ns=2))
    catalog.insert(row("c"))
    with pytest.raises(NameTaken):
        catalog.insert(row("d"))
    catalog.insert(row("e", namespace="team"))
    assert catalog.find(FilesystemName("default", "lab")).id == "c"


def test_the_deleted_one_that_is_found_is_the_last(catalog: Catalog) -> None:
    catalog.insert(row("a", status=DELETED)._replace(deleted_ns=2))
    catalog.insert(row("b", status=DELETED)._replace(deleted_ns=1))
    found = catalog.find_deleted(FilesystemName("default", "lab"))
    assert found is not None
    assert found.id == "a"


def test_rows_are_filtered_and_sorted_by_name(catalog: Catalog) -> None:
    for identifier, name, namespace in (("1", "z", "default"), ("2", "a", "default"), ("3", "a", "team")):
        catalog.insert(row(identifier, name, namespace=namespace))
    assert [found.id for found in catalog.rows()] == ["2", "1", "3"]
    assert [found.id for found in catalog.rows(namespace="team")] == ["3"]
    assert catalog.rows(status=DELETED) == []


def test_an_unknown_name_is_named(catalog: Catalog) -> None:
    with pytest.raises(UnknownFilesystem, match="nothere"):
        catalog.find(FilesystemName("default", "nothere"))


def test_an_update_that_lost_a_race_is_refused(catalog: Catalog) -> None:
    old = row("a")
    catalog.insert(old)
    catalog.update(old, old._replace(name="other", updated_ns=2))
    with pytest.raises(WrongStatus):
        catalog.update(old, old._replace(name="third", updated_ns=3))
    assert catalog.rows()[0].name == "other"


def test_renaming_to_a_taken_name_is_refused(catalog: Catalog) -> None:
    catalog.insert(row("a"))
    catalog.insert(row("b", "other"))
    with pytest.raises(NameTaken):
        catalog.update(row("a"), row("a", "other")._replace(updated_ns=2))


def test_the_file_is_for_its_owner_alone(catalog: Catalog) -> None:
    assert stat.S_IMODE(catalog.path.stat().st_mode) == 0o600


def test_a_newer_catalog_is_refused_and_both_versions_are_named(catalog: Catalog) -> None:
    with sqlite3.connect(catalog.path) as connection:
        connection.execute(f"PRAGMA user_version = {CATALOG_VERSION + 6}")
    connection.close()
    with pytest.raises(NewerCatalog, match=rf"{CATALOG_VERSION + 6}.*{CATALOG_VERSION}"):
        Catalog(catalog.path)


VERSION_1 = (
    """CREATE TABLE filesystems (
    id             TEXT PRIMARY KEY,
    namespace      TEXT NOT NULL,
    name           TEXT NOT NULL,
    status         TEXT NOT NULL CHECK (status IN ('running', 'archived', 'deleted')),
    -- JSON object.
    config         TEXT NOT NULL,
    created_ns     INTEGER NOT NULL,
    updated_ns     INTEGER NOT NULL,
    deleted_ns     INTEGER,
    deleted_from   TEXT,
    -- A comment before the end.
    purge_after_ns INTEGER
) STRICT""",
    "CREATE UNIQUE INDEX names_in_use ON filesystems (namespace, name) WHERE status != 'deleted'",
    """INSERT INTO filesystems VALUES ('a', 'default', 'lab', 'running',
    '{"chunk_size": 65536, "quota_bytes": 0, "inodes_max": 0}', 1, 1, NULL, NULL, NULL)""",
    f"PRAGMA application_id = {APPLICATION_ID}",
    "PRAGMA user_version = 1",
)


def test_a_catalog_of_version_1_is_read_and_gets_its_checksums_with_the_first_change(tmp_path: Path) -> None:
    path = tmp_path / "catalog.db"
    with sqlite3.connect(path) as connection:
        for statement in VERSION_1:
            connection.execute(statement)
    connection.close()
    before = path.read_bytes()
    old = Catalog(path)
    assert old.rows() == [row("a")]
    assert old.get("a") == old.find(row("a").full_name) == row("a")
    assert old.damage() == []
    assert path.read_bytes() == before, "a look changes nothing"
    old.insert(row("b", "other"))
    assert old.rows() == [row("a"), row("b", "other")]
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (CATALOG_VERSION,)
        connection.execute("UPDATE filesystems SET name = 'lost' WHERE id = 'a'")
    connection.close()
    assert old.rows() == [row("b", "other")]
    assert ["row of a is damaged" in text for text in old.damage()] == [True]


def test_every_change_of_a_row_changes_its_checksum(catalog: Catalog) -> None:
    old = row("a")
    catalog.insert(old)
    new = old._replace(name="new", status=DELETED, updated_ns=7, deleted_ns=7, deleted_from="running")
    catalog.update(old, new)
    assert catalog.rows() == [new]
    assert catalog.damage() == []


def test_another_programs_database_is_no_catalog(tmp_path: Path) -> None:
    path = tmp_path / "catalog.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE addresses (name TEXT)")
    connection.close()
    assert APPLICATION_ID
    with pytest.raises(NotAStore):
        Catalog(path)
    with pytest.raises(NotAStore):
        Catalog.create(path)


def test_a_text_file_is_no_catalog(tmp_path: Path) -> None:
    path = tmp_path / "catalog.db"
    path.write_text("hello, this is not a database, and it is long enough to be read as one\n" * 50)
    with pytest.raises(NotAStore):
        Catalog(path)


def test_a_missing_file_is_an_error_with_its_path(tmp_path: Path) -> None:
    with pytest.raises(CatalogBroken, match=r"none\.db"):
        Catalog(tmp_path / "none.db")


INSERT_MANY = """
import sys, pathlib
from tzfs.catalog import Catalog, Config, FilesystemRow
path, worker = pathlib.Path(sys.argv[1]), sys.argv[2]
catalog = Catalog.create(path)
for index in range(10):
    name = f"w{worker}.{index}"
    catalog.insert(FilesystemRow(name, "default", name, "running", Config(65536, 0, 0), 1, 1))
"""


def test_processes_that_create_and_insert_together_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "catalog.db"
    workers = [subprocess.Popen([sys.executable, "-c", INSERT_MANY, path, str(n)]) for n in range(4)]
    assert [worker.wait(60) for worker in workers] == [0] * 4
    assert len(Catalog(path).rows()) == 40
