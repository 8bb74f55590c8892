"""Repair: damage of every kind that `check` finds is mended, or what is left of it is in lost+found."""

import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from support.dump import tree
from support.scenarios import ALICE, find, new, pattern, prepare
from tzfs import cli, keys
from tzfs.check import check
from tzfs.cli.base import REFUSED
from tzfs.filesystem import Filesystem
from tzfs.kv import MemoryStore
from tzfs.records import AttributeChanges, Counters, encode_counters
from tzfs.repair import repair
from tzfs.session import connect
from tzfs.store import Store
from tzfs.versions import scan_all


def mended(engine: MemoryStore) -> tuple[Filesystem, list[str]]:
    """Repair, and open anew."""
    done = repair(Filesystem(engine))
    fs = Filesystem(engine)
    assert check(fs) == [], done
    return fs, done


def head(fs: Filesystem, path: str) -> bytes:
    """Return the key of the record of an inode."""
    return keys.head(keys.inode(find(fs, path)))


def test_a_sound_filesystem_is_left_as_it_is() -> None:
    engine = MemoryStore()
    before = tree(prepare(engine))
    fs, done = mended(engine)
    assert done == []
    assert tree(fs) == before


def _wrong_counters(fs: Filesystem) -> None:
    fs.store.write({keys.COUNTERS: encode_counters(Counters(5, 1, 2, 3))})


def _lost_inode(fs: Filesystem) -> None:
    fs.store.write({head(fs, "later"): None})


def _lost_directory(fs: Filesystem) -> None:
    fs.store.write({head(fs, "d"): None})


def _lost_entry(fs: Filesystem) -> None:
    k = keys.entry(1, fs.directories.cookie(b"big"), b"big")
    fs.store.write({keys.head(k): None})


def _lost_chunk(fs: Filesystem) -> None:
    inode = fs.lookup(1, b"big")
    (key, _), *_ = scan_all(fs.store, *keys.chunks(inode.content))
    fs.store.write({key: None})


def _loose_chunk(fs: Filesystem) -> None:
    fs.store.write({keys.chunk(77_777, 3, 1): b"nobody's"})


def _wrong_nlink(fs: Filesystem) -> None:
    key = head(fs, "a")
    value = bytearray(fs.store.get(key) or b"")
    value[9 + 5 + 3] = 9
    fs.store.write({key: bytes(value)})


def _lost_mark(fs: Filesystem) -> None:
    for key, _ in scan_all(fs.store, *keys.meta_range(b"O")):
        fs.store.write({key: None})


def _garbage(fs: Filesystem) -> None:
    fs.store.write({head(fs, "a"): b"\0garbage", keys.past(keys.inode(2), 1): b"\0"})


def _lost_root(fs: Filesystem) -> None:
    fs.store.write({head(fs, ""): None})


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (_wrong_counters, "the totals are"),
        (_lost_inode, "is lost"),
        (_lost_directory, "lost+found"),
        (_lost_entry, "lost+found/#"),
        (_lost_chunk, "read as zeros"),
        (_loose_chunk, "named by no record"),
        (_wrong_nlink, "has nlink"),
        (_lost_mark, "left to reclaim"),
        (_garbage, "was removed"),
        (_lost_root, "the root directory was lost"),
    ],
    ids=lambda value: value.__name__.strip("_") if callable(value) else "",
)
def test_damage_is_mended_and_told(damage: Callable[[Filesystem], None], words: str) -> None:
    engine = MemoryStore()
    fs = prepare(engine)
    untouched = fs.read(find(fs, "full/x"), 0, 100)
    damage(fs)
    assert check(Filesystem(engine)) != []
    fs, done = mended(engine)
    assert any(words in text for text in done), done
    if damage is not _lost_root:
        assert fs.read(find(fs, "full/x"), 0, 100) == untouched
    while fs.reclaim():
        pass
    assert check(fs) == []
    # It goes on as any other.
    new(fs, "fresh", pattern(3000))
    fs.snapshot(b"fresh")
    fs.rollback(b"fresh")
    assert check(fs) == []


def test_what_lost_its_name_keeps_its_content_in_lost_and_found() -> None:
    engine = MemoryStore()
    fs = prepare(engine)
    number = find(fs, "big")
    data = fs.read(number, 0, 100_000)
    _lost_entry(fs)
    fs, _ = mended(engine)
    assert fs.read(find(fs, f"lost+found/#{number}"), 0, 100_000) == data


def test_any_record_may_be_lost() -> None:
    for seed in range(40):
        rng = random.Random(seed)
        engine = MemoryStore()
        fs = prepare(engine)
        pairs = list(scan_all(engine, keys.HEAD, b"i")) + list(scan_all(engine, *keys.meta_range(b"O")))
        gone = {key: None for key, _ in rng.sample(pairs, 5)}
        engine.write(gone)
        try:
            fs, _ = mended(engine)
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {json.dumps([key.hex() for key in gone])}") from error
        fs.setattr(1, AttributeChanges(mode=0o700), ALICE)


def test_the_command_says_what_it_mended_and_the_filesystem_is_clean_then(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "store", create=True)
    row = store.create("lab")
    with connect(store, row) as session:
        fs = session.filesystem  # type: ignore[attr-defined]
        name = b"file\n\x1b[2J"
        number = new(fs, name.decode(), pattern(3000))
        fs.store.write({keys.head(keys.entry(1, fs.directories.cookie(name), name)): None})
    runner = CliRunner()
    arguments = ["--store", str(store.path), "check", "lab"]
    assert runner.invoke(cli.tzfs, arguments).exit_code == REFUSED
    result = runner.invoke(cli.tzfs, [*arguments, "--repair"])
    assert result.exit_code == 0
    assert f"lost+found/#{number}" in result.stderr
    assert "lab is clean" in result.stdout
    store.archive("lab")
    assert runner.invoke(cli.tzfs, [*arguments, "--repair"]).exit_code != 0
