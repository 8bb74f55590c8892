"""The examples in docstrings and in docs/api.md run, and the page names every public name."""

import doctest
import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import tzfs

PAGE = Path(__file__).parents[2] / "docs" / "api.md"


@pytest.mark.parametrize("module", ["tzfs", "tzfs.api.store"])
def test_the_examples_of_docstrings_run(module: str, tmp_path: Path) -> None:
    runner = doctest.DocTestRunner()
    for number, example in enumerate(doctest.DocTestFinder().find(importlib.import_module(module))):
        example.globs["tmp_path"] = tmp_path / str(number)
        runner.run(example)
    assert runner.summarize().attempted > 0
    assert runner.summarize().failed == 0


def test_the_examples_of_the_page_run(tmp_path: Path) -> None:
    test = doctest.DocTestParser().get_doctest(
        PAGE.read_text(), {"tmp_path": tmp_path}, "api.md", str(PAGE), 0
    )
    result = doctest.DocTestRunner().run(test)
    assert result.attempted > 10
    assert result.failed == 0


def public_classes() -> dict[str, type]:
    """Return the public names; all of them are classes."""
    return {name: getattr(tzfs, name) for name in tzfs.__all__}


def public_members(kind: type) -> dict[str, object]:
    """Return the methods, properties and fields of a class, without those of `tuple` or an error."""
    foreign = {name for base in (tuple, OSError) for name in dir(base)}
    members = {name: found for name, found in inspect.getmembers(kind) if name not in foreign}
    return {name: found for name, found in members.items() if not name.startswith("_")}


def test_the_page_names_every_public_name() -> None:
    text = PAGE.read_text()
    missing = [name for name in tzfs.__all__ if f"`{name}" not in text]
    for kind in (tzfs.Store, tzfs.Filesystem, tzfs.Snapshot):
        missing += [f"{kind.__name__}.{name}" for name in public_members(kind) if f"`{name}" not in text]
    for kind in (tzfs.FilesystemInfo, tzfs.Stat, tzfs.Entry, tzfs.Change):
        missing += [f"{kind.__name__}.{name}" for name in public_members(kind) if name not in text]
    assert missing == []


def test_every_public_name_says_what_it_is() -> None:
    silent = [name for name, kind in public_classes().items() if not inspect.getdoc(kind)]
    for name, kind in public_classes().items():
        fields = {*getattr(kind, "_fields", ()), "errno"}  # these are told by their class, and on the page
        silent += [
            f"{name}.{member}"
            for member, found in public_members(kind).items()
            if member not in fields and not getattr(found, "__doc__", None)
        ]
    assert silent == []


def words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text))


@pytest.mark.parametrize(
    "kind",
    [
        tzfs.Store, tzfs.Tree, tzfs.Filesystem, tzfs.Snapshot,
        tzfs.AsyncStore, tzfs.AsyncTree, tzfs.AsyncFilesystem, tzfs.AsyncSnapshot,
    ],
)  # fmt: skip
def test_every_class_with_calls_says_what_is_atomic_and_durable(kind: type) -> None:
    assert {"atomic", "durable"} <= words((inspect.getdoc(kind) or "").lower())


def test_every_call_is_in_an_example_that_runs() -> None:
    modules = [importlib.import_module(name) for name in ("tzfs", "tzfs.api.store")]
    found = [test for module in modules for test in doctest.DocTestFinder().find(module)]
    found.append(doctest.DocTestParser().get_doctest(PAGE.read_text(), {}, "api.md", str(PAGE), 0))
    code = "".join(example.source for test in found for example in test.examples)
    used = set(re.findall(r"\.(\w+)", code))
    calls = {
        f"{kind.__name__}.{name}"
        for kind in (tzfs.Store, tzfs.Filesystem, tzfs.Snapshot)
        for name in public_members(kind)
    }
    assert {call for call in calls if call.partition(".")[2] not in used} == set()


def test_importing_tzfs_alone_loads_no_database() -> None:
    code = "import sys, tzfs, tzfs.cli; print('rocksdict' in sys.modules, 'tzfs.api' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "False False\n"
