"""The judgement at the end of a long run: what is flat, and what grows."""

import argparse
import random
from pathlib import Path

import pytest

from soak import long
from soak.trend import slope_percent, verdict
from support import machine


def test_a_figure_that_grows_shows_its_growth_over_the_run() -> None:
    assert slope_percent([100 + at for at in range(51)]) == pytest.approx(40.0)
    assert slope_percent([100 - at for at in range(51)]) == pytest.approx(-200 / 3)


def test_noise_and_single_minutes_do_not_decide() -> None:
    rng = random.Random(1)
    noisy = [100 + rng.uniform(-10, 10) for _ in range(60)]
    assert abs(slope_percent(noisy)) < 10
    noisy[57:] = [1000, 2000, 3000]
    assert abs(slope_percent(noisy)) < 10


def test_less_than_two_values_are_flat_and_nothing_divides_by_zero() -> None:
    assert slope_percent([]) == slope_percent([5]) == slope_percent([0, 0, 0]) == 0


def test_a_verdict_knows_both_ways() -> None:
    assert [verdict(percent, 10) for percent in (9, -9, 11, -11)] == ["flat", "flat", "GROWS", "shrinks"]


@pytest.mark.mount
def test_a_long_life_of_a_few_seconds_has_a_line_for_each_interval_and_a_verdict_for_each_figure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reason = machine.missing_fuse()
    if reason is not None:
        pytest.skip(reason)
    parser = argparse.ArgumentParser()
    long.add_arguments(parser)
    where = tmp_path / "figures.json"
    long.run(
        parser.parse_args(["--seconds", "4", "--interval", "1", "--snapshots", "2", "--json", str(where)])
    )
    told = capsys.readouterr().out
    assert "check: clean" in told
    assert "writers failed: []" in told
    for name in long.LIMITS:
        assert f"  {name}" in told
    assert told.count("cpu us/request") >= 3
    assert '"slopes"' in where.read_text()
