"""report: what happened in a run, and the explorer of `tzfs report` over its filesystems, in one page."""

from __future__ import annotations

import collections
from pathlib import Path
from typing import Any

import tzfs
from tzfs.report import Badge, Blobs, Card, Report, Row, collect, render

from .manifest import Manifest


def write(workdir: Path, out: Path, limit: int) -> None:
    """Write the page about a run; the files of `limit` workflows are in it, the eventful first."""
    manifest = Manifest(workdir / "manifest.db")
    try:
        run, workflows, attempts = manifest.run(), manifest.workflows(), manifest.attempts()
    finally:
        manifest.close()
    by_workflow: dict[int, list[dict[str, Any]]] = collections.defaultdict(list)
    for attempt in attempts:
        by_workflow[attempt["workflow"]].append(attempt)
    eventful = sorted(workflows, key=lambda row: (row["status"] == "done", -len(by_workflow[row["number"]])))
    shown = {row["number"]: place for place, row in enumerate(eventful[:limit])}
    blobs = Blobs()
    store = tzfs.Store.open(workdir / "store")
    histories = []
    for row in eventful[:limit]:
        with store.open_filesystem(row["name"]) as fs:
            histories.append(collect(fs, blobs, title=f"{row['topic']} ({row['name']})"))
    rows = [_row(row, by_workflow[row["number"]], shown.get(row["number"])) for row in workflows]
    report = Report(
        title="Research agents that lose nothing",
        subtitle=_subtitle(run),
        cards=_cards(run, workflows, attempts),
        filesystems=histories,
        blobs=blobs.contents,
        rows=rows,
        row_name="workflow",
    )
    out.write_text(render(report), encoding="utf-8")


def _subtitle(run: dict[str, Any]) -> str:
    kills = f", a daemon killed every {run['kill_every_s']:g} s" if run["kill_every_s"] else ""
    seconds = (run["ended"] or run["started"]) - run["started"]
    return (
        f"Failure rate {run['failure_rate']:g}, {run['concurrency']} at a time, {run['backend']} backend"
        f"{kills}, seed {run['seed']}, {seconds:.0f} s"
    )


def _cards(
    run: dict[str, Any], workflows: list[dict[str, Any]], attempts: list[dict[str, Any]]
) -> list[Card]:
    outcomes = collections.Counter(attempt["outcome"] for attempt in attempts)
    done = sum(row["status"] == "done" for row in workflows)
    failed = sum(row["status"] == "failed" for row in workflows)
    retries = outcomes["injected"] + outcomes["killed"]
    return [
        Card(f"{done}/{len(workflows)}", "workflows done", "good" if done == len(workflows) else "warn"),
        Card(str(retries), "retries survived", "good"),
        Card(str(sum(attempt["recovered"] for attempt in attempts)), "rollbacks to the step before"),
        Card(str(run["kills"] or 0), "daemons killed", "warn" if run["kills"] else ""),
        Card(str(run["compared"] or 0), "files verified"),
        Card(str(run["lost"] or 0), "lost", "bad" if run["lost"] else "good"),
        Card(str(failed), "workflows failed", "bad" if failed else "good"),
    ]


def _row(row: dict[str, Any], attempts: list[dict[str, Any]], explorer: int | None) -> Row:
    """Return a workflow's line of the table."""
    tone = {"done": "good", "failed": "bad"}.get(row["status"], "warn")
    badges = [Badge(row["status"], tone)]
    outcomes = collections.Counter(attempt["outcome"] for attempt in attempts)
    if outcomes["injected"]:
        badges.append(Badge(f"{outcomes['injected']} failure{'s' * (outcomes['injected'] > 1)}", "warn"))
    if outcomes["killed"]:
        badges.append(Badge(f"daemon died {outcomes['killed']} times", "bad"))
    rollbacks = sum(attempt["recovered"] for attempt in attempts)
    if rollbacks:
        badges.append(Badge(f"{rollbacks} rollback{'s' * (rollbacks > 1)}"))
    if row["error"]:
        badges.append(Badge(row["error"][:120], "bad"))
    return Row(row["name"], row["topic"], row["field"], badges, explorer)
