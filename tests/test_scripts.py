"""The set-up on a machine that lacks something: what would be installed, and what is said."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from support import machine

ROOT = Path(__file__).parent.parent
BASH = shutil.which("bash") or "/bin/bash"


class Machine:
    """A PATH with just these programs; apt-get is one that writes down what it is asked for."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.installed = directory / "installed"
        self.add("apt-get", f'echo "$@" >>{self.installed}')

    def add(self, name: str, script: str) -> None:
        program = self.directory / name
        program.write_text(f"#!{BASH}\n{script}\n")
        program.chmod(0o755)

    def add_python(self, modules_and_headers: str) -> None:
        """Add a Python 3.12 that answers the script's questions."""
        answers = "*sys.executable*) echo python3;; *%d.%d*) echo 3.12;;"
        self.add("python3", f'case "$2" in {answers} *ensurepip*|*Python.h*) {modules_and_headers};; esac')

    def link(self, *names: str) -> None:
        for name in names:
            found = shutil.which(name)
            assert found is not None
            (self.directory / name).symlink_to(found)

    def run(self, call: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [BASH, "-c", f"set -euo pipefail; source {ROOT}/scripts/bootstrap; {call}"],
            env={"PATH": os.fspath(self.directory), "HOME": os.fspath(self.directory)},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    def packages(self) -> set[str]:
        """Return what apt-get was told to install."""
        lines = self.installed.read_text().splitlines()
        return {word for line in lines if "install" in line for word in line.split() if word[0] != "-"} - {
            "install"
        }


@pytest.fixture
def bare(tmp_path: Path) -> Machine:
    """Return a machine with what every Debian has, and nothing of what tzfs needs."""
    made = Machine(tmp_path)
    made.link("bash", "cat", "dirname", "env", "head", "sha256sum")
    made.add("id", "echo 0")
    return made


def test_a_bare_machine_gets_everything_in_one_go(bare: Machine) -> None:
    done = bare.run("install_system test")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("\n") == 1
    assert bare.packages() >= {
        "fuse3",
        "libfuse3-dev",
        "pkg-config",
        "gcc",
        "libc6-dev",
        "git",
        "acl",
        "python3",
    }


def test_a_machine_with_python_gets_the_headers_of_that_version_alone(bare: Machine) -> None:
    bare.link("fusermount3", "git")
    bare.add("setfacl", "")
    bare.add("cc", "")
    bare.add("pkg-config", "")
    bare.add_python("exit 1")
    assert bare.run("install_system test").returncode == 0
    assert bare.packages() == {"python3.12-venv", "python3.12-dev"}


def test_what_is_there_is_not_installed(bare: Machine) -> None:
    for name in ("fusermount3", "cc", "pkg-config", "git", "setfacl"):
        bare.add(name, "")
    bare.add_python("exit 0")
    done = bare.run("install_system test")
    assert (done.returncode, done.stderr) == (0, "")
    assert not bare.installed.exists()


def test_without_root_and_without_sudo_it_says_what_to_do(bare: Machine) -> None:
    bare.add("id", "echo 1000")
    done = bare.run("install_system")
    assert done.returncode == 1
    assert "please run as root" in done.stderr
    assert "fuse3" in done.stderr


def test_another_distribution_is_told_what_is_missing(bare: Machine) -> None:
    (bare.directory / "apt-get").unlink()
    done = bare.run("install_system")
    assert done.returncode == 1
    assert done.stderr.startswith("tzfs: please install what these Debian packages hold")


def test_an_old_python_is_refused_by_its_version(bare: Machine) -> None:
    bare.add("python3", "exit 1")
    done = bare.run("install_environment")
    assert done.returncode == 1
    assert "no Python 3.11 or later" in done.stderr


def test_scripts_and_tests_say_the_same_words_when_nothing_can_be_mounted() -> None:
    text = (ROOT / "scripts/bootstrap").read_text()
    source = Path(machine.__file__).read_text()
    for words in ("/dev/fuse is missing: nothing", "/dev/fuse cannot be opened: no permission"):
        assert words in text
        assert words in source
