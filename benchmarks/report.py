"""What comes out: tables for people, JSON for programs."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
from pathlib import Path
from typing import Any

import rich.box
from rich.console import Console
from rich.table import Table

from benchmarks.measuring import RATES, Book, Case, Sizes

FORMAT = 1
"""Of the JSON."""


def _figure(value: float) -> str:
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def cell(case: Case, label: str) -> str:
    """Return median and spread of a target."""
    samples = case.samples.get(label)
    if not samples:
        return "-" if label not in case.notes else "failed"
    median = _figure(case.median(label) or 0.0)
    if len(samples) == 1:
        return median
    return f"{median} ({_figure(min(samples))}-{_figure(max(samples))})"


def ratio_cell(case: Case, label: str, other: str) -> str:
    """Return the ratio of medians, and of the best samples; below 1, `label` is ahead."""
    ratio = case.ratio(label, other)
    if ratio is None:
        return ""
    best = case.ratio(label, other, of_best=True) or 0.0
    return f"{ratio:.2f}" if len(case.samples[label]) == 1 else f"{ratio:.2f} ({best:.2f})"


def labels_of(cases: dict[str, Case]) -> list[str]:
    """Return the targets of a part, in the order in which they were given."""
    found: dict[str, None] = {}
    for case in cases.values():
        found.update(dict.fromkeys([*case.samples, *case.notes]))
    return list(found)


def table(title: str, cases: dict[str, Case], labels: list[str]) -> Table:
    """Return a table of a part; the first target is the one compared with all others."""
    first, *others = labels
    result = Table(
        title=f"{title}: median (min-max); ratios of {first}'s time to the other's, below 1 it is ahead: "
        "of medians (of the best)"
    )
    result.box = rich.box.SIMPLE
    result.add_column("case")
    result.add_column("unit")
    for label in labels:
        result.add_column(label, justify="right")
    for label in others:
        result.add_column(f": {label}", justify="right")
    for name, case in cases.items():
        result.add_row(
            name,
            case.unit,
            *(cell(case, label) for label in labels),
            *(ratio_cell(case, first, label) for label in others),
        )
    return result


def show(console: Console, title: str, cases: dict[str, Case], labels: list[str]) -> None:
    """Print the table of a part, and why cases are missing."""
    console.print(table(title, cases, labels))
    for name, case in cases.items():
        for label, note in case.notes.items():
            console.print(f"{name}, {label}: {note}", style="dim", markup=False)


def machine() -> dict[str, Any]:
    """Return what a reader of figures wants to know of the machine, and no names."""
    return {
        "processors": len(os.sched_getaffinity(0)),
        "kernel": platform.release().split("-")[0],
        "python": platform.python_version(),
        "pyfuse3": importlib.metadata.version("pyfuse3"),
        "rocksdict": importlib.metadata.version("rocksdict"),
        "tzfs": importlib.metadata.version("tzfs"),
    }


def document(book: Book, labels: dict[str, list[str]], sizes: Sizes, rounds: int) -> dict[str, Any]:
    """Return all that was measured, as JSON will have it."""
    parts: dict[str, Any] = {}
    for title, cases in book.items():
        first, *others = labels[title]
        parts[title] = {
            name: {
                "unit": case.unit,
                "more_is_better": case.unit in RATES,
                "targets": {
                    label: {
                        "median": case.median(label),
                        "min": min(found),
                        "max": max(found),
                        "samples": found,
                    }
                    for label, found in case.samples.items()
                },
                "ratios": {other: case.ratio(first, other) for other in others},
                "ratios_of_best": {other: case.ratio(first, other, of_best=True) for other in others},
                "notes": case.notes,
            }
            for name, case in cases.items()
        }
    return {
        "format": FORMAT,
        "machine": machine(),
        "sizes": sizes.__dict__,
        "rounds": rounds,
        "parts": parts,
    }


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write the JSON; an earlier file is replaced at once."""
    fresh = path.with_name(path.name + ".new")
    fresh.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    fresh.replace(path)
