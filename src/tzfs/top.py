"""What mounted filesystems do: looks at their daemons' counters, and what lies between two looks.

Of the caches: a lookup, getattr or read that is counted is one that the kernel's caches did not answer. What
they did answer no daemon hears of, and nobody counts it for one filesystem. Of what a request then needs,
the hits among the records kept above the engine (`tzfs.recent`) are counted. Of the engine's own cache the
size is told: its hits would be counted at the price of a look at the clock for each read.
"""

from __future__ import annotations

from typing import Any, Final

from tzfs.catalog import FilesystemRow
from tzfs.errors import DaemonGone, UnknownFilesystem
from tzfs.session import connect
from tzfs.store import Store

Json = dict[str, Any]

STATISTICS: Final = "statistics"
"""Command of a daemon only: what `info` tells, and its counters."""
PERCENTILES: Final = (50, 90, 99)
_UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")


def look(store: Store, name: str | None) -> list[Json]:
    """Return the counters of one mounted filesystem, or of all. `UnknownFilesystem` if it is not mounted."""
    rows = store.list() if name is None else [store.get(name)]
    found = []
    for row in rows:
        if store.mounted_at(row) is not None:
            counted = _ask(store, row)
            if counted is not None:
                found.append(counted)
    if name is not None and not found:
        raise UnknownFilesystem(
            f"{name} is not mounted: there is nothing to count, `tzfs info` tells the rest"
        )
    return found


def _ask(store: Store, row: FilesystemRow) -> Json | None:
    """Return what a daemon counted, None if it ended meanwhile."""
    try:
        with connect(store, row) as session:
            counted = session.call(STATISTICS)
    except DaemonGone:
        return None
    mount = store.mounted_at(row)
    counted["name"] = str(row.full_name)
    counted["mountpoint"] = mount.mountpoint if mount else None
    for counts in counted["requests"].values():
        counts[:] = counts[: max((place for place, count in enumerate(counts) if count), default=0) + 1]
    counted["kinds"] = {kind: summary(counts) for kind, counts in counted["requests"].items()}
    return counted


def summary(counts: list[int]) -> Json:
    """Return how many requests were counted, and their latencies in microseconds."""
    total = sum(counts)
    latencies = {f"p{percent}_us": percentile(counts, percent) for percent in PERCENTILES}
    return {"count": total, **latencies}


def percentile(counts: list[int], percent: float) -> float | None:
    """Return the latency in microseconds that `percent` of the requests stay below, to a factor of two.

    Within a power of two they are taken to be spread evenly; None if nothing was counted.
    """
    total = sum(counts)
    if not total:
        return None
    wanted, seen = total * percent / 100, 0
    for place, count in enumerate(counts):
        if count and seen + count >= wanted:
            low = 0 if place == 0 else 2 ** (place - 1)
            latency_ns: float = low + (2**place - low) * (wanted - seen) / count
            return round(latency_ns / 1000, 3)
        seen += count
    return None


def lines(before: list[Json], now: list[Json]) -> list[str]:
    """Return what to show of the time between two looks, for each filesystem that both saw."""
    earlier = {found["name"]: found for found in before}
    shown: list[str] = []
    for found in now:
        shown += _about(earlier.get(found["name"], found), found)
    return shown or ["nothing is mounted"]


def _about(before: Json, now: Json) -> list[str]:
    seconds = max(now["at_s"] - before["at_s"], 1e-9)
    rates = {}
    for kind, counts in now["requests"].items():
        old = before["requests"].get(kind, [])
        fresh = [count - (old[place] if place < len(old) else 0) for place, count in enumerate(counts)]
        if any(fresh):
            rates[kind] = summary(fresh)
    usage = now["usage"]
    quota = f" of {_size(usage['quota_bytes'])}" if usage["quota_bytes"] else ""
    total = sum(rate["count"] for rate in rates.values()) / seconds
    read, written = (now[key] - before[key] for key in ("bytes_read", "bytes_written"))
    moved = f"{_size(read / seconds)}/s read, {_size(written / seconds)}/s written"
    cache = now["engine_cache"]
    blocks = f"{_size(cache['blocks_bytes'])} of {_size(cache['blocks_bytes_max'])} blocks"
    hits, misses = (cache[key] - before["engine_cache"][key] for key in ("hits", "misses"))
    asked = hits + misses
    known = f"{hits / asked:.0%} of {asked} records from memory" if asked else "no record asked for"
    held = f"{now['snapshots']} snapshots, {_size(usage['stored_bytes'])}{quota} stored"
    shown = [
        f"{now['name']} on {now['mountpoint']}  {total:.0f} requests/s, {moved}",
        f"  {held}, {usage['inodes']} inodes, reclaim backlog {now['reclaim_backlog']}",
        f"  caches: {known}; engine: {blocks}, {_size(cache['unflushed_bytes'])} not yet in files",
    ]
    if rates:
        heads = "".join(f"{f'p{percent} us':>11}" for percent in PERCENTILES)
        shown.append(f"  {'REQUEST':<14}{'PER SECOND':>12}{heads}")
    for kind, rate in sorted(rates.items(), key=lambda item: -item[1]["count"]):
        latencies = "".join(f"{rate[f'p{percent}_us']:>11.1f}" for percent in PERCENTILES)
        shown.append(f"  {kind:<14}{rate['count'] / seconds:>12.1f}{latencies}")
    return shown


def _size(size_bytes: float) -> str:
    unit = 0
    while size_bytes >= 1024 and unit < len(_UNITS) - 1:
        size_bytes, unit = size_bytes / 1024, unit + 1
    return f"{size_bytes:.1f} {_UNITS[unit]}" if unit else f"{size_bytes:.0f} B"
