"""What the adapter remembers of the kernel."""

from __future__ import annotations

import os
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tzfs.errors import BadHandle
from tzfs.fuse import handles
from tzfs.fuse.handles import UNKNOWN_PROGRAM, Handles, LookupCounts, Programs
from tzfs.records import NOBODY


@given(st.lists(st.tuples(st.sampled_from([1, 2, 31, 32, 33, 2**40 - 1]), st.integers(1, 3), st.booleans())))
def test_lookup_counts_behave_like_a_dict_of_counts(steps: list[tuple[int, int, bool]]) -> None:
    counts, model = LookupCounts(), dict[int, int]()
    for number, lookups, is_add in steps:
        if is_add:
            for _ in range(lookups):
                counts.add(number)
            model[number] = model.get(number, 0) + lookups
        else:
            left = model.get(number, 0) - lookups
            assert counts.subtract(number, lookups) == (left <= 0)
            model[number] = max(left, 0)
        assert counts[number] == model[number]
    for number in model:
        counts.subtract(number, model[number])
    assert not counts._pages


def test_a_known_inode_takes_less_than_20_bytes_and_none_when_forgotten() -> None:
    counts = LookupCounts()
    tracemalloc.start()
    try:
        for number in range(1, 100_001):
            counts.add(number)
        known, _ = tracemalloc.get_traced_memory()
        for number in range(1, 100_001):
            counts.subtract(number, 1)
    finally:
        tracemalloc.stop()
    assert known < 20 * 100_000
    assert not counts._pages


def test_handles_are_numbers_of_their_own_and_never_come_twice() -> None:
    table = Handles()
    first = table.open(7, 0, None, NOBODY)
    second = table.open(7, 0, None, NOBODY)
    table.close(first)
    third = table.open(7, 0, None, NOBODY)
    assert len({first, second, third}) == 3
    assert table[second].number == 7
    with pytest.raises(BadHandle):
        table[first]


def test_closing_twice_is_ignored() -> None:
    table = Handles()
    fh = table.open(7, 0, None, NOBODY)
    table.close(fh)
    table.close(fh)
    assert len(table) == 0


def test_a_program_is_known_by_its_pid() -> None:
    with open("/proc/self/comm", "rb") as comm:  # noqa: PTH123
        assert Programs().name(os.getpid()) == comm.read().rstrip(b"\n")


def test_a_process_that_is_gone_or_of_the_kernel_has_no_program() -> None:
    programs = Programs()
    assert programs.name(0) == UNKNOWN_PROGRAM
    assert programs.name(2**31 - 1) == UNKNOWN_PROGRAM


def test_a_program_is_read_again_after_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    names = iter([b"sh", b"gcc"])
    monkeypatch.setattr(handles.time, "monotonic", lambda: now)
    monkeypatch.setattr(handles, "_read_program", lambda pid: next(names))
    programs = Programs()
    assert [programs.name(5), programs.name(5)] == [b"sh", b"sh"]
    now += handles._PROGRAM_EXPIRES_S
    assert programs.name(5) == b"gcc"


def test_the_memory_of_programs_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handles, "_read_program", lambda pid: b"x")
    programs = Programs()
    for pid in range(3 * handles._PROGRAMS_MAX):
        programs.name(pid)
    assert len(programs._known) <= handles._PROGRAMS_MAX
