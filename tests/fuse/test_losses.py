"""A loss is told to those who wrote the file then, once, and to nobody else."""

import pytest

from tzfs.errors import NoSpace
from tzfs.fuse.handles import Handles
from tzfs.fuse.losses import Losses
from tzfs.records import Caller

FILE, OTHER = 7, 8
WRITER, READER = 100, 101


@pytest.fixture
def handles() -> Handles:
    return Handles()


@pytest.fixture
def losses(handles: Handles) -> Losses:
    return Losses(handles)


def _open(handles: Handles, number: int, pid: int, *, writable: bool = True) -> int:
    return handles.open(number, 0, None, Caller(0, 0, pid, b"test"), writable=writable)


def test_a_writer_hears_of_a_loss_once(handles: Handles, losses: Losses) -> None:
    _open(handles, FILE, WRITER)
    losses.tell(FILE, WRITER)
    losses.note(FILE)
    with pytest.raises(NoSpace):
        losses.tell(FILE, WRITER)
    losses.tell(FILE, WRITER)


def test_others_hear_nothing_and_do_not_take_it_from_the_writer(handles: Handles, losses: Losses) -> None:
    _open(handles, FILE, WRITER)
    _open(handles, FILE, READER, writable=False)
    _open(handles, OTHER, READER)
    losses.note(FILE)
    losses.tell(FILE, READER)
    losses.tell(OTHER, READER)
    losses.tell(OTHER, WRITER)
    with pytest.raises(NoSpace):
        losses.tell(FILE, WRITER)


def test_who_has_closed_the_file_was_told_by_that(handles: Handles, losses: Losses) -> None:
    fh = _open(handles, FILE, WRITER)
    losses.note(FILE)
    handles.close(fh)
    _open(handles, FILE, WRITER)
    losses.tell(FILE, WRITER)


def test_an_inode_that_the_kernel_has_forgotten_is_forgotten(handles: Handles, losses: Losses) -> None:
    _open(handles, FILE, WRITER)
    losses.note(FILE)
    losses.forget(FILE)
    losses.tell(FILE, WRITER)
