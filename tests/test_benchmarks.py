"""The benchmarks run, and what they write has the shape that others read. Never how fast: that is no test."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CASES = {
    "create",
    "mkdir",
    "stat, cached",
    "open + write 4 KiB",
    "open + read 4 KiB",
    "rename",
    "unlink",
    "rmdir",
}


@pytest.mark.mount
def test_a_quick_run_writes_every_case_of_every_target_with_samples_and_ratios(tmp_path: Path) -> None:
    result = tmp_path / "result.json"
    other = tmp_path / "other"
    other.mkdir()
    command = [sys.executable, "-m", "benchmarks", "--quick", "--rounds", "2", "--families", "metadata/files"]
    done = subprocess.run(
        [*command, "--against", f"other={other}", "--json", result],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    content = json.loads(result.read_text())
    assert content["format"] == 1
    assert content["rounds"] == 2
    assert {"processors", "kernel", "python", "tzfs"} <= content["machine"].keys()
    cases = content["parts"]["metadata/files"]
    assert cases.keys() >= CASES
    for name in CASES:
        case = cases[name]
        assert case["unit"] == "us"
        assert case["targets"].keys() == {"tzfs", "empty handlers", "host", "other"}
        for figures in case["targets"].values():
            assert len(figures["samples"]) == 2
            assert 0 < figures["min"] <= figures["median"] <= figures["max"]
        assert case["ratios"].keys() == {"empty handlers", "host", "other"}
        assert name in done.stdout
    assert list(other.iterdir()) == []


def test_an_unknown_family_is_refused_by_naming_those_that_exist() -> None:
    command = [sys.executable, "-m", "benchmarks", "--families", "nonsense"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "metadata/files" in done.stderr
