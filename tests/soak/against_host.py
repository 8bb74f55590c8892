"""The comparison of tests/mount/test_against_host.py, for as long as wanted: rounds of one seed each."""

from __future__ import annotations

import argparse
import time
import traceback

from soak.mounted import Mounted
from support.against_host import compare
from support.sides import Sides, make_sides

DESCRIPTION = "the same random operations on a mount and on a directory of the host, compared step by step"

EXAMPLES_PER_ROUND = 100


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--seconds", type=float, default=600, help="begin no round after this [600]")
    parser.add_argument("--seed", type=int, default=1, help="of the first round; the next has the next [1]")
    parser.add_argument("--shrink", action="store_true", help="look for the shortest example; takes minutes")


def run(arguments: argparse.Namespace) -> int:
    """Compare in rounds until the time is over or a difference was found; 0 if there was none."""
    started = time.monotonic()
    seed = arguments.seed
    with Mounted("against-host", mount_options=("--allow-other", "-o", "suid,dev")) as mounted:
        mounted.mountpoint.chmod(0o755)
        sides = make_sides(mounted.mountpoint, mounted.workspace)
        while time.monotonic() - started < arguments.seconds:
            if not _round(mounted, sides, seed, shrink=arguments.shrink):
                return 1
            seed += 1
        findings = mounted.check()
        seconds = time.monotonic() - started
        rounds = seed - arguments.seed
        mounted.report(f"seeds {arguments.seed} to {seed - 1}, {rounds} rounds, {seconds:.0f} s, {findings}")
        return int(findings != "clean")


def _round(mounted: Mounted, sides: Sides, seed: int, *, shrink: bool) -> bool:
    """Run one seed, say what it did, and tell whether both sides were alike."""
    started = time.monotonic()
    try:
        steps = compare(sides, seed=seed, examples=EXAMPLES_PER_ROUND, shrink=shrink)
    except Exception:  # noqa: BLE001 - whatever it is, it belongs to this seed
        mounted.report(f"seed {seed}: differs\n{traceback.format_exc(limit=-3)}")
        return False
    mounted.report(f"seed {seed}: {steps} operations alike in {time.monotonic() - started:.0f} s")
    return True
