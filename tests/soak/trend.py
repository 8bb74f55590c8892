"""Whether a figure that is measured again and again stays flat: its slope, robust against outliers."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from itertools import combinations


def slope_percent(values: Sequence[float]) -> float:
    """Return how much a figure grew from the first to the last of its values, in percent of its median.

    The slope is the median of those between all pairs of values (Theil and Sen), so that neither a single
    minute nor a few of them decide. Less than two values have no slope.
    """
    slopes = [
        (values[later] - values[earlier]) / (later - earlier)
        for earlier, later in combinations(range(len(values)), 2)
    ]
    if not slopes:
        return 0.0
    return 100 * statistics.median(slopes) * (len(values) - 1) / max(statistics.median(values), 1e-9)


def verdict(percent: float, limit: float) -> str:
    """Return what a slope means when up to `limit` percent, either way, counts as flat."""
    if abs(percent) <= limit:
        return "flat"
    return "GROWS" if percent > 0 else "shrinks"
