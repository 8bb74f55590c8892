"""What commands print, and what they read: no name can pretend to be anything else."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tzfs.cli import looking, output
from tzfs.cli.params import parse_duration, parse_size


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain name.txt", "plain name.txt"),
        ("Ünïcode 文字", "Ünïcode 文字"),
        ("two\nlines", r"two\nlines"),
        ("\x1b[31mred", r"\x1b[31mred"),
        ("\udcff\udc80", r"\xff\x80"),
        ("right\u202eleft", r"right\u202eleft"),
        ("\ud800", r"\ud800"),
        ("\x7f\x9b", r"\x7f\x9b"),
    ],
)
def test_what_does_not_print_is_escaped(text: str, shown: str) -> None:
    assert output.escape(text) == shown


@given(st.binary())
def test_any_bytes_become_one_printable_line(name: bytes) -> None:
    shown = output.escape(name.decode("utf-8", "surrogateescape"))
    assert shown.isprintable()
    shown.encode("utf-8")


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("512", 512),
        ("512b", 512),
        ("64KiB", 65536),
        ("64k", 65536),
        ("10G", 10 << 30),
        ("10 GiB", 10 << 30),
        ("1.5M", 3 << 19),
        ("10GB", 10**10),
        ("7T", 7 << 40),
        ("9223372036854775807", 2**63 - 1),
    ],
)
def test_a_size_is_read(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text", ["", "G", "-1", "1e9", "10Q", "1.5.2M", "0x10", "10 000", "9E", "nan", "1 G B"]
)
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"size|large"):
        parse_size(text)


@given(st.integers(0, 2**63 - 1))
def test_a_size_in_bytes_is_exact(size: int) -> None:
    assert parse_size(str(size)) == size


@pytest.mark.parametrize(
    ("text", "seconds"), [("0", 0), ("90", 90), ("15m", 900), ("12h", 43200), ("7d", 604800)]
)
def test_a_duration_is_read(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "d", "-1d", "1y", "soon"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="duration"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("size", "shown"), [(0, "0 bytes"), (1023, "1023 bytes"), (1024, "1.0 KiB"), (3 << 29, "1.5 GiB")]
)
def test_a_size_is_shown_for_people(size: int, shown: str) -> None:
    assert output.size(size) == shown


def test_a_table_without_a_terminal_is_plain_and_one_line_a_row(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_table(("NAME", "X"), [("a\nb", "1"), ("long name", "")])
    assert capsys.readouterr().out == "NAME       X\na\\nb       1\nlong name\n"


def test_a_narrow_terminal_gets_lines_that_wrap_instead_of_columns_of_one_character(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    for columns, first in (("20", "NAME  PLACE"), ("100", "")):
        monkeypatch.setenv("COLUMNS", columns)
        output.print_table(("NAME", "PLACE"), [("a\nb", "/somewhere/far/away")])
        shown = capsys.readouterr().out
        assert shown.splitlines()[0].strip() == first
        assert "/somewhere/far/away" in shown
        assert r"a\nb" in shown


@pytest.mark.parametrize("terminal", ["xterm", "dumb"])
def test_what_top_shows_commands_no_terminal_and_fits_its_lines(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], terminal: str
) -> None:
    lines = ["lab on /mnt\n\x1b[31mred \udcff " + "long" * 100, "  2 snapshots"]
    looking._show(lines)
    piped = capsys.readouterr().out
    assert piped.startswith("lab on /mnt\\n\\x1b[31mred \\xff longlong")
    assert len(piped.splitlines()) == 2
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "20")
    monkeypatch.setenv("TERM", terminal)
    looking._show(lines)
    shown = capsys.readouterr().out
    assert (terminal == "xterm") == shown.startswith("\x1b[2J")
    assert shown.removeprefix("\x1b[2J\x1b[1;1H") == "lab on /mnt\\n\\x1b[31\n  2 snapshots\n"
