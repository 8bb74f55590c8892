"""What a tool does not check: the size of functions and modules, docstrings, and that lists agree.

The limits have no exceptions. Who meets one splits the function or the module.
"""

from __future__ import annotations

import ast
import errno
import functools
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tzfs import errors
from tzfs.errors import TzfsError

ROOT = Path(__file__).parent.parent
FUNCTION_LINES_MAX = 70
"""A function fits on a screen."""
MODULE_LINES_MAX = 500

SOURCES = sorted((ROOT / "src").rglob("*.py"))
CODE = [path for name in ("src", "tests", "benchmarks", "examples") for path in (ROOT / name).rglob("*.py")]
SCRIPTS = [path for path in (ROOT / "scripts").iterdir() if path.is_file()]

Function = ast.FunctionDef | ast.AsyncFunctionDef


def os_path(path: Path) -> str:
    """Return a path as a person reads it, from the root of the repository."""
    return str(path.relative_to(ROOT))


def functions(tree: ast.Module) -> Iterator[Function]:
    """Yield every function of a module, those within functions too."""
    return (node for node in ast.walk(tree) if isinstance(node, Function))


def public_functions(node: ast.AST) -> Iterator[Function]:
    """Yield the functions that others can call: not those within functions, nor in private classes."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, Function):
            if not child.name.startswith("_"):
                yield child
        elif not (isinstance(child, ast.ClassDef) and child.name.startswith("_")):
            yield from public_functions(child)


def is_trivial(function: Function) -> bool:
    """Tell whether name and types say all: one statement at most, or an overload or an override."""
    marks = {ast.unparse(decorator).rpartition(".")[2] for decorator in function.decorator_list}
    return len(function.body) <= 1 or not marks.isdisjoint({"overload", "override", "setter"})


class Facts(NamedTuple):
    """What the tests ask of one file, in place of its syntax tree, which would slow the garbage collector."""

    has_docstring: bool
    lines: int
    lengths: list[tuple[str, int]]
    """Of every function: where it is, and its lines."""
    silent: list[str]
    """Public functions and classes that need a docstring and have none."""


@functools.cache
def facts(path: Path) -> Facts:
    """Read a file and parse it, once."""
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text, os_path(path))
    lengths = [
        (
            f"{os_path(path)}:{function.lineno} {function.name}",
            (function.end_lineno or 0) - function.lineno + 1,
        )
        for function in functions(tree)
    ]
    silent: list[Function | ast.ClassDef] = [
        function
        for function in public_functions(tree)
        if not ast.get_docstring(function) and not is_trivial(function)
    ]
    silent += [
        node
        for node in tree.body
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_") and not ast.get_docstring(node)
    ]
    return Facts(
        bool(ast.get_docstring(tree)),
        len(text.splitlines()),
        lengths,
        [f"{os_path(path)}:{node.lineno} {node.name}" for node in silent],
    )


def test_there_is_something_to_check() -> None:
    assert len(SOURCES) > 10
    assert len(CODE) > len(SOURCES)


def test_no_function_is_longer_than_a_screen() -> None:
    lengths = [row for path in CODE for row in facts(path).lengths]
    assert [row for row in lengths if row[1] > FUNCTION_LINES_MAX] == []


def test_no_module_is_longer_than_500_lines() -> None:
    lengths = {os_path(path): facts(path).lines for path in CODE}
    assert {path: length for path, length in lengths.items() if length > MODULE_LINES_MAX} == {}


def test_every_module_says_what_it_is() -> None:
    assert [os_path(p) for p in CODE if p.name != "__init__.py" and not facts(p).has_docstring] == []


def test_every_public_function_and_class_has_a_docstring_or_needs_none() -> None:
    # The tree in the docstring of errors.py says what each of its classes is.
    assert [line for path in SOURCES if path.name != "errors.py" for line in facts(path).silent] == []


def test_no_open_question_is_left_in_the_code() -> None:
    marks = re.compile(r"\b(" + "|".join(["TO" + "DO", "FIX" + "ME", "X" * 3, "HA" + "CK"]) + r")\b")
    found = [
        f"{os_path(path)}:{number} {line.strip()}"
        for path in [*CODE, *SCRIPTS]
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if marks.search(line)
    ]
    assert found == []


# ------------------------------------------------------------------------------------ lists that agree


def requirement_names(requirements: list[str]) -> set[str]:
    """Return the names in a list of requirements."""
    found = {re.match(r"[A-Za-z0-9._-]+", requirement) for requirement in requirements}
    return {match[0] for match in found if match}


def test_every_dependency_has_its_reason_and_every_reason_its_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    to_run = requirement_names(project["project"]["dependencies"])
    others = requirement_names(project["build-system"]["requires"])
    hooks = project["tool"]["hatch"]["build"]["targets"]["wheel"]["hooks"].values()
    extras = project["project"]["optional-dependencies"].values()
    for requirements in (*extras, *(hook["dependencies"] for hook in hooks)):
        others |= requirement_names(requirements)
    page = (ROOT / "docs/dependencies.md").read_text(encoding="utf-8")
    run_part, develop_part = page.split("## To test and to develop")
    assert set(re.findall(r"^\| ([a-z0-9-]+) \|", run_part, re.MULTILINE)) - {"package"} == to_run
    assert set(re.findall(r"^\| ([a-z0-9-]+) \|", develop_part, re.MULTILINE)) - {"package"} == others


def error_classes() -> list[type[TzfsError]]:
    """Return every class of errors.py."""
    return [
        value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, TzfsError)
    ]


@pytest.mark.parametrize("error", error_classes(), ids=lambda error: error.__name__)
def test_every_error_has_one_errno_that_exists(error: type[TzfsError]) -> None:
    assert error.errno in errno.errorcode


def test_file_errors_that_mean_different_things_have_different_errnos() -> None:
    own = [error for error in error_classes() if issubclass(error, errors.FsError) and "errno" in vars(error)]
    assert len({error.errno for error in own}) == len(own)


def test_the_tree_in_the_docstring_of_errors_names_every_class() -> None:
    assert errors.__doc__ is not None
    drawn = set(re.findall(r"\b[A-Z]\w+", errors.__doc__))
    assert {error.__name__ for error in error_classes()} - drawn == set()


def test_the_layers_name_every_module() -> None:
    # import-linter says the same with `exhaustive`; this says it in a run of the tests alone.
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    named = set(re.findall(r"\w+", " ".join(project["tool"]["importlinter"]["contracts"][0]["layers"])))
    there = {path.stem if path.is_file() else path.name for path in (ROOT / "src/tzfs").iterdir()}
    assert there - {"__init__", "__pycache__", "py"} - named == set()


@pytest.mark.parametrize("name", ["scripts/quickstart", "scripts/test", "scripts/bootstrap", ".ci/run"])
def test_scripts_can_be_run(name: str) -> None:
    script = ROOT / name
    assert script.stat().st_mode & 0o111
    assert script.read_text(encoding="utf-8").startswith("#!/usr/bin/env bash\n")
