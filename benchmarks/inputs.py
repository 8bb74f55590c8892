"""What the real work works on: a library tree, an archive, a repository, a wheel, a C project.

All is made on the host's disk from Python's own standard library or from nothing, so that no network is
needed and two machines of one Python version do the same work.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sysconfig
import zipfile
from pathlib import Path
from typing import NamedTuple

from benchmarks.measuring import Sizes

_GIT = {
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_SYSTEM": os.devnull,
    "GIT_AUTHOR_NAME": "bench",
    "GIT_AUTHOR_EMAIL": "bench@localhost",
    "GIT_COMMITTER_NAME": "bench",
    "GIT_COMMITTER_EMAIL": "bench@localhost",
}
ENVIRONMENT = {**os.environ, **_GIT}
WHEEL = "benchwheel-1.0-py3-none-any.whl"
OTHER_BRANCH = "other"


class Inputs(NamedTuple):
    """Where each thing is."""

    library: Path
    archive: Path
    repository: Path
    wheel: Path
    sources: Path


def make(top: Path, sizes: Sizes) -> Inputs:
    """Make all of it below `top`, unless it is there."""
    inputs = Inputs(
        top / "library", top / "library.tar", top / "repository", top / "wheel" / WHEEL, top / "sources"
    )
    if not inputs.sources.exists():
        _library(inputs.library, sizes.library_files)
        subprocess.run(["tar", "cf", inputs.archive, "-C", top, "library"], check=True)
        _repository(inputs.repository, inputs.library, sizes.library_files // 8)
        _wheel(inputs.wheel, inputs.library, sizes.library_files // 16)
        _sources(inputs.sources, sizes.sources)
    return inputs


def _library(goal: Path, count: int) -> None:
    """Copy the first `count` files of the standard library, installed packages left aside."""
    source = Path(sysconfig.get_path("stdlib"))
    copied = 0
    for directory, names, files in os.walk(source):
        names[:] = sorted(set(names) - {"site-packages"})
        there = goal / Path(directory).relative_to(source)
        there.mkdir(parents=True, exist_ok=True)
        for name in sorted(files):
            if copied == count:
                return
            shutil.copy2(Path(directory, name), there / name, follow_symlinks=False)
            copied += 1


def _python_files(library: Path, count: int) -> list[Path]:
    return [path.relative_to(library) for path in sorted(library.rglob("*.py"))[:count]]


def _git(where: Path, *arguments: str) -> None:
    subprocess.run(["git", "-C", where, *arguments], check=True, capture_output=True, env=ENVIRONMENT)


def _repository(goal: Path, library: Path, count: int) -> None:
    """Make a repository with two branches that differ in every third file."""
    goal.mkdir()
    _git(goal, "init", "--quiet", "--initial-branch=main")
    files = _python_files(library, count)
    for file in files:
        (goal / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(library / file, goal / file)
    _git(goal, "add", "--all")
    _git(goal, "commit", "--quiet", "--message=first")
    _git(goal, "checkout", "--quiet", "-b", OTHER_BRANCH)
    for file in files[::3]:
        with (goal / file).open("a", encoding="utf-8") as text:
            text.write("# changed\n")
    _git(goal, "commit", "--quiet", "--all", "--message=second")
    _git(goal, "checkout", "--quiet", "main")


def _wheel(goal: Path, library: Path, count: int) -> None:
    """Make a wheel of some modules, which nobody imports."""
    goal.parent.mkdir()
    information = "benchwheel-1.0.dist-info"
    with zipfile.ZipFile(goal, "w", zipfile.ZIP_DEFLATED) as wheel:
        record = []
        for file in _python_files(library, count):
            name = f"benchwheel/{file}"
            wheel.write(library / file, name)
            record.append(f"{name},,\n")
        wheel.writestr(f"{information}/METADATA", "Metadata-Version: 2.1\nName: benchwheel\nVersion: 1.0\n")
        wheel.writestr(
            f"{information}/WHEEL",
            "Wheel-Version: 1.0\nGenerator: tzfs benchmarks\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        )
        record += [f"{information}/{name},,\n" for name in ("METADATA", "WHEEL", "RECORD")]
        wheel.writestr(f"{information}/RECORD", "".join(record))


def _sources(goal: Path, count: int) -> None:
    """Make a C program of `count` modules that include a common header and are linked together."""
    goal.mkdir()
    names = [f"module{number:03d}" for number in range(count)]
    declared = "".join(f"int {name}(int);\n" for name in names)
    (goal / "all.h").write_text(f"#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\n{declared}")
    for name in names:
        helpers = "".join(
            f"static int {name}_{step}(int x) {{ return x * {step + 3} + {step}; }}\n" for step in range(20)
        )
        calls = "".join(f"    x = {name}_{step}(x);\n" for step in range(20))
        (goal / f"{name}.c").write_text(
            f'#include "all.h"\n{helpers}int {name}(int x)\n{{\n{calls}    return x;\n}}\n'
        )
    called = "".join(f"    x = {name}(x);\n" for name in names)
    (goal / "main.c").write_text(
        f'#include "all.h"\nint main(void)\n{{\n    int x = 1;\n{called}'
        '    printf("%d\\n", x);\n    return 0;\n}\n'
    )
    objects = " ".join(f"{name}.o" for name in [*names, "main"])
    (goal / "Makefile").write_text(
        f"CFLAGS = -O1\nprogram: {objects}\n\t$(CC) -o $@ {objects}\n{objects}: all.h\n"
    )
