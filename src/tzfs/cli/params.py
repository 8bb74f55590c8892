"""Parameters that a person types: sizes and durations."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Final

import click

_POWERS: Final = {letter: power for power, letter in enumerate("kmgtpe", start=1)}
_SIZE: Final = re.compile(r"(\d+(?:\.\d+)?)\s*(?:([kmgtpe])(i?b)?|b)?\Z", re.IGNORECASE)
_SIZE_MAX: Final = 2**63 - 1
_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)([smhdw]?)\Z")


def parse_size(text: str) -> int:
    """Return bytes: 10G, 512M and 64KiB count in 1024s, 10GB in 1000s. ValueError if it is no size."""
    match = _SIZE.match(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is no size: use a number and K, M, G or T, as in 10G or 64KiB")
    number, letter, rest = match.groups()
    base = 1000 if rest is not None and rest.lower() == "b" else 1024
    # Decimal, because a float has no room for the digits of a size beyond 8 PiB.
    size_bytes = int(Decimal(number) * base ** (_POWERS[letter.lower()] if letter else 0))
    if size_bytes > _SIZE_MAX:
        raise ValueError(f"{text!r} is too large: 8 EiB less one byte is the most")
    return size_bytes


def parse_duration(text: str) -> float:
    """Return seconds: 90, 90s, 15m, 12h, 7d, 2w. ValueError if it is no duration."""
    match = _DURATION.match(text.strip().lower())
    if match is None:
        raise ValueError(f"{text!r} is no duration: use a number and s, m, h, d or w, as in 7d")
    return float(match[1]) * _SECONDS[match[2] or "s"]


class SizeType(click.ParamType[int]):
    """A size in bytes."""

    name = "size"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """See `parse_size`."""
        if isinstance(value, int):
            return value
        try:
            return parse_size(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


class DurationType(click.ParamType[float]):
    """A duration in seconds."""

    name = "duration"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """See `parse_duration`."""
        if isinstance(value, (int, float)):
            return float(value)
        try:
            return parse_duration(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


SIZE: Final = SizeType()
DURATION: Final = DurationType()
