"""The examples in docstrings and in docs/api.md run, and the page names every public name."""

import doctest
import importlib
import inspect
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


def test_the_page_names_every_public_name() -> None:
    text = PAGE.read_text()
    missing = [name for name in tzfs.__all__ if f"`{name}" not in text]
    for kind in (tzfs.Store, tzfs.Filesystem, tzfs.Snapshot):
        missing += [
            f"{kind.__name__}.{name}"
            for name, _ in inspect.getmembers(kind)
            if not name.startswith("_") and f"`{name}" not in text
        ]
    assert missing == []


def test_importing_tzfs_alone_loads_no_database() -> None:
    code = "import sys, tzfs, tzfs.cli; print('rocksdict' in sys.modules, 'tzfs.api' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "False False\n"
