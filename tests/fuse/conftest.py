"""What the tests of the adapter share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support.adapter import Mount
from tzfs import check


@pytest.fixture
def mount() -> Iterator[Mount]:
    mount = Mount()
    yield mount
    assert check.check(mount.fs) == []
