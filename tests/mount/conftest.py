"""One mount for all tests of a module that need no state of their own, and a directory in it for each."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import machine
from support.mounting import Mounted, mounting

_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def shared() -> Iterator[Mounted]:
    """Return a filesystem mounted with the default options, open to other users where that is allowed."""
    options = ["--allow-other"] if machine.can_allow_other() else []
    with mounting() as make:
        yield make(mount=[*options, "-o", "suid,dev"])


@pytest.fixture
def place(shared: Mounted, request: pytest.FixtureRequest) -> Path:
    """Return an empty directory on the shared mount, open to everybody."""
    directory = shared.path / f"test-{next(_numbers)}"
    directory.mkdir()
    directory.chmod(0o777)
    return directory


@pytest.fixture
def root() -> None:
    """Skip where this is not root: other users, devices, trusted attributes cannot be tried."""
    if not machine.is_root():
        pytest.skip("only root can take another identity, make devices, or set trusted attributes")
