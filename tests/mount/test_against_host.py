"""tzfs and ext4, treated alike, look alike; see support/against_host.py for how, and for what may differ."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from support import machine, users
from support.against_host import compare
from support.mounting import Mounted
from support.sides import filesystem_type, make_sides

pytestmark = pytest.mark.mount

EXAMPLES = 8


@pytest.mark.timeout(400)  # seconds on a free machine
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_same_operations_give_the_same_results_as_on_ext4(
    make_mounted: Callable[..., Mounted], seed: int
) -> None:
    if not users.can_switch():
        pytest.skip("only root can act as other users, and this comparison does")
    if filesystem_type(machine.MOUNTS_ROOT.parent) != "ext4":
        pytest.skip(f"{machine.MOUNTS_ROOT.parent} is not on ext4: nothing to compare with")
    mounted = make_mounted(mount=("--allow-other", "-o", "suid,dev"))
    operations = compare(
        make_sides(mounted.path, mounted.workspace), seed=seed, examples=EXAMPLES, shrink=False
    )
    assert operations > EXAMPLES
