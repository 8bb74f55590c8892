"""The page: one file, with data, style and script in it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from importlib import resources
from typing import Any


@dataclass(frozen=True)
class Card:
    """A figure at the top. tone: "good", "bad", "warn" or "" for its colour."""

    value: str
    label: str
    tone: str = ""


@dataclass(frozen=True)
class Badge:
    """A few words in a row of the table; tone as of a card."""

    text: str
    tone: str = ""


@dataclass(frozen=True)
class Row:
    """A line of the table. explorer: which of the filesystems it opens, None for none."""

    name: str
    title: str
    tag: str
    badges: list[Badge]
    explorer: int | None


@dataclass(frozen=True)
class Report:
    """All that a page shows. filesystems: from `collect`, with the blobs that they share."""

    title: str
    subtitle: str
    cards: list[Card]
    filesystems: list[dict[str, Any]]
    blobs: dict[str, dict[str, Any]]
    rows: list[Row] = field(default_factory=list)
    row_name: str = "filesystem"


def render(report: Report) -> str:
    """Return the page.

    Data goes in as JSON in which every "<" is escaped, so that nothing in it can end the element; lone
    surrogates, which stand for bytes that are no UTF-8, are escapes anyway.
    """
    data = json.dumps(asdict(report), separators=(",", ":")).replace("<", "\\u003c")
    page = _part("page.html")
    return (
        page.replace("/*STYLE*/", _part("page.css"))
        .replace("/*SCRIPT*/", _part("page.js"))
        .replace("/*DATA*/", data)
    )


def _part(name: str) -> str:
    return resources.files("tzfs.report").joinpath(name).read_text("utf-8")
