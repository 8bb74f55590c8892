"""What goes into the page: each snapshot's difference, contents once, nothing that could be code."""

import contextlib
import json
import os
import random
import re
import sys
from pathlib import Path
from typing import Any

import pytest

import tzfs
from tzfs.report import Badge, Blobs, Card, Report, Row, collect, render
from tzfs.report.collect import CONTENT_BYTES_MAX

report = sys.modules["tzfs.report.collect"]
"""The module, whose name in its package is that of the function."""


@pytest.fixture
def history(tmp_path: Path) -> tuple[dict[str, Any], Blobs]:
    """Return what is collected of a small filesystem with three snapshots and a present."""
    store = tzfs.Store.open(tmp_path / "store", create=True)
    store.create("lab")
    blobs = Blobs()
    with store.open_filesystem("lab") as fs:
        fs.mkdir("src")
        fs.write_text("src/main.py", "one\ntwo\nthree\n")
        fs.write_bytes("logo.bin", b"\x00\x01binary")
        fs.snapshot("first")
        fs.write_text("src/main.py", "one\n2\nthree\n")
        fs.write_text("copy.py", "one\n2\nthree\n")
        fs.snapshot()
        fs.remove("logo.bin")
        fs.symlink("src/main.py", "link")
        fs.mkdir("empty")
        fs.snapshot("third")
        fs.write_bytes(b"<script>\xff", b"<img src=x onerror=alert(1)>")
        fs.write_bytes("big", b"\xe2\x9c\x93" * CONTENT_BYTES_MAX)
        return collect(fs, blobs), blobs


def test_each_step_is_what_changed(history: tuple[dict[str, Any], Blobs]) -> None:
    steps = history[0]["snapshots"]
    assert [(step["txn"], step["labels"]) for step in steps] == [
        (1, ["first"]),
        (2, []),
        (3, ["third"]),
        (None, []),
    ]
    assert [sorted(step["set"]) for step in steps[:3]] == [
        ["logo.bin", "src/main.py"],
        ["copy.py", "src/main.py"],
        ["empty", "link"],
    ]
    assert [step["gone"] for step in steps] == [[], [], ["logo.bin"], []]


@pytest.mark.parametrize("files_max", [2000, 8], ids=["all", "some left out"])
@pytest.mark.parametrize("seed", range(8))
def test_what_changed_tells_the_same_as_walking_every_tree(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int, files_max: int
) -> None:
    rng = random.Random(seed)
    monkeypatch.setattr(report, "FILES_MAX", files_max)
    store = tzfs.Store.open(tmp_path / "store", create=True)
    store.create("lab")
    with store.open_filesystem("lab") as fs:
        for _ in range(25):
            for _ in range(rng.randrange(1, 5)):
                with contextlib.suppress(OSError):
                    change_something(fs, rng)
            fs.snapshot()
        quick = collect(fs, Blobs())
        looked = report._changed
        used = []

        def note(*arguments: Any) -> None:  # noqa: ANN401
            used.append(looked(*arguments) is not None)

        monkeypatch.setattr(report, "_changed", note)
        assert collect(fs, Blobs()) == quick
    assert any(used)


def change_something(fs: tzfs.Filesystem, rng: random.Random) -> None:
    """Make a change that may fail."""
    directories = ["", "d/", "d/e/", "f/"]
    path, other = (rng.choice(directories) + rng.choice("abc") for _ in range(2))
    kind = rng.randrange(12)
    if kind < 6:
        fs.write_bytes(path, rng.randbytes(3))
    elif kind < 8:
        fs.mkdir(rng.choice(directories))
    elif kind == 8:
        fs.remove(path)
    elif kind == 9:
        fs.rename(path, other)
    elif kind == 10:
        fs.link(path, other)
    elif rng.random() < 0.5:
        fs.rename("d", "f")
    else:
        fs.rmtree(rng.choice(["d", "f", "d/e"]))


def test_equal_contents_are_kept_once_and_long_ones_are_cut(history: tuple[dict[str, Any], Blobs]) -> None:
    found, blobs = history
    second, last = found["snapshots"][1]["set"], found["snapshots"][3]["set"]
    assert second["copy.py"][3] == second["src/main.py"][3]
    assert "binary" in blobs.contents[found["snapshots"][0]["set"]["logo.bin"][3]]["note"]
    big = blobs.contents[last["big"][3]]
    assert len(big["text"].encode()) <= CONTENT_BYTES_MAX
    assert str(3 * CONTENT_BYTES_MAX) in big["note"]


def test_nothing_in_the_data_can_end_its_element(history: tuple[dict[str, Any], Blobs]) -> None:
    found, blobs = history
    evil = "</script><script>alert(1)</script>"
    row = Row(evil, evil, evil, [Badge(evil)], 0)
    page = render(Report(evil, evil, [Card(evil, evil)], [found], blobs.contents, [row]))
    assert page.count("<script") == 2
    data = json.loads(re.findall(r'id="data">(.*?)</script>', page, re.DOTALL)[0])
    assert data["title"] == evil
    assert os.fsencode(next(iter(data["filesystems"][0]["snapshots"][3]["set"]))) == b"<script>\xff"
    assert "http://" not in page
    assert "https://" not in page
