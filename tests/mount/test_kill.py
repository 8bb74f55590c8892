"""kill -9 of the daemon under writers: a few rounds of `python -m tests.soak kill`."""

import os

import pytest

from soak import kill
from soak.mounted import Mounted

pytestmark = pytest.mark.mount


def test_after_kill_9_everything_that_was_closed_or_synced_is_there() -> None:
    seed = int(os.environ.get("TZFS_TEST_SEED", "1"))
    with Mounted("kill") as mounted, mounted.store_beside("journals") as journals:
        wrong, promised = kill.rounds(mounted, journals, 2, seed)
    assert wrong == [], f"seed {seed}"
    assert promised > 10
