"""How commands print: escaped names, tables, sizes, times, JSON.

Names are whatever bytes a program chose: a newline would fake a row, an escape sequence would
command the terminal. Everything that is not ours goes through `escape`; JSON escapes by itself.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

import click

_UNITS: Final = ("bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")
_TABLE_WIDTH_MIN: Final = 60


def escape(text: str) -> str:
    r"""Return `text` with what does not print as escapes, and bytes that are no UTF-8 as `\xNN`."""
    return "".join(character if character.isprintable() else _escaped(character) for character in text)


def _escaped(character: str) -> str:
    """Return the escape of one character; a lone surrogate stands for the byte that it hides."""
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")


def print_json(value: object) -> None:
    """Print a value for programs."""
    click.echo(json.dumps(value, indent=2))


def size(size_bytes: int) -> str:
    """Return a size for people, such as "1.5 GiB"."""
    value, unit = float(size_bytes), 0
    while value >= 1024 and unit < len(_UNITS) - 1:
        value, unit = value / 1024, unit + 1
    return f"{size_bytes} bytes" if unit == 0 else f"{value:.1f} {_UNITS[unit]}"


def moment(time_ns: int | None) -> str:
    """Return a time in ns since 1970 as local time, to the second."""
    if time_ns is None:
        return "-"
    return datetime.fromtimestamp(time_ns // 10**9).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows under column heads: with rich on a terminal, else padded with spaces for awk and cut.

    On a narrow terminal as well: columns of three characters are harder to read than lines that wrap.
    """
    cells = [[escape(cell) for cell in row] for row in rows]
    if sys.stdout.isatty() and terminal_width() >= _TABLE_WIDTH_MIN:
        _print_rich_table(columns, cells)
        return
    lines = [list(columns), *cells]
    widths = [max(len(line[index]) for line in lines) for index in range(len(columns))]
    for line in lines:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def terminal_width() -> int:
    """Return how many characters a line of the terminal has; 80 where nobody says."""
    return shutil.get_terminal_size().columns


def _print_rich_table(columns: Sequence[str], cells: Sequence[Sequence[str]]) -> None:
    """Print for eyes."""
    # Imported here, because the import takes as long as most commands.
    from rich.box import SIMPLE_HEAD  # noqa: PLC0415
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in cells:
        table.add_row(*(Text(cell) for cell in row))  # Text: no cell is markup
    Console().print(table)


def print_fields(fields: dict[str, Any]) -> None:
    """Print "name: value" lines, the values aligned; None is left out."""
    shown = {name: str(value) for name, value in fields.items() if value is not None}
    width = max(map(len, shown), default=0) + 1
    for name, value in shown.items():
        click.echo(f"{name + ':':<{width}} {escape(value)}")
