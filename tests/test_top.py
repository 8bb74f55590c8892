"""Counting requests, and what is made of the counts."""

import json
import os
import re
import signal
import subprocess
from pathlib import Path

import pytest

from support.mounting import TZFS, Mounted
from tzfs import top
from tzfs.errors import UnknownFilesystem
from tzfs.fuse.counters import Counters
from tzfs.store import Store


def counts_of(*latencies_ns: int) -> list[int]:
    counts = Counters().kind("any")
    for latency_ns in latencies_ns:
        counts[latency_ns.bit_length()] += 1
    return counts


def test_percentiles_are_right_to_a_factor_of_two() -> None:
    latencies = [20_000] * 90 + [150_000] * 9 + [9_000_000]
    counts = counts_of(*latencies)
    for percent, expected_us in ((50, 20), (90, 20), (99, 150), (100, 9000)):
        found = top.percentile(counts, percent)
        assert found is not None
        assert expected_us / 2 <= found <= expected_us * 2


def test_nothing_counted_has_no_percentile() -> None:
    assert top.percentile(counts_of(), 50) is None
    assert top.summary(counts_of())["count"] == 0


def test_control_c_is_how_top_ends(tmp_path: Path) -> None:
    Store.open(tmp_path / "store", create=True)
    command = [*TZFS, "--store", str(tmp_path / "store"), "top", "--interval", "0.1"]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert running.stdout is not None
        assert running.stdout.readline() == "nothing is mounted\n"
        running.send_signal(signal.SIGINT)
        _, complaint = running.communicate(timeout=60)
    finally:
        running.kill()
    assert (running.returncode, complaint) == (0, "")


@pytest.mark.mount
def test_top_counts_what_programs_do(mounted: Mounted) -> None:
    before = top.look(Store.open(mounted.store), None)
    (mounted.path / "a").write_bytes(b"x" * 5000)
    for _ in range(20):
        (mounted.path / "missing").exists()
    (mounted.path / "a").read_bytes()
    os.listdir(mounted.path)  # noqa: PTH208 one readdir
    mounted.snapshot("one")
    now = top.look(Store.open(mounted.store), mounted.name)
    assert now[0]["bytes_written"] - before[0]["bytes_written"] == 5000
    assert now[0]["kinds"]["create"]["count"] == 1
    assert now[0]["kinds"]["write"]["p50_us"] > 0
    # One request for the missing name, and none for what was just written: the rest are hits of the kernel's.
    assert now[0]["kinds"]["lookup"]["count"] - before[0]["kinds"].get("lookup", {"count": 0})["count"] < 20
    assert "read" not in now[0]["kinds"]
    text = "\n".join(top.lines(before, now))
    assert "1 snapshots" in text
    assert re.search(r"caches: \d+% of \d+ records from memory; engine: .* not yet in files", text)
    cached, earlier = now[0]["engine_cache"], before[0]["engine_cache"]
    assert cached["hits"] > earlier["hits"], "what was written is known"
    assert cached["misses"] > earlier["misses"], "missing was never asked for"
    assert 0 < cached["unflushed_bytes"] < cached["blocks_bytes_max"]
    assert 0 <= cached["blocks_bytes"] <= cached["blocks_bytes_max"]
    assert "create" in text
    shown = json.loads(mounted.ok("top", "--json"))
    assert shown[0]["name"] == mounted.name
    assert "create" in mounted.ok("top", mounted.name, "--count", "1", "--interval", "0.1") or shown
    mounted.unmount()
    with pytest.raises(UnknownFilesystem, match="not mounted"):
        top.look(Store.open(mounted.store), mounted.name)
    mounted.mount()
