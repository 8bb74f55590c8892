"""The errno boundary: whatever a handler raises, the mount lives, and the log says what a human must know."""

from __future__ import annotations

import errno
import logging

import pytest
from pyfuse3 import FUSEError

from support.kernel import Context
from support.logs import assert_logs
from tzfs.errors import CorruptRecord, NoEntry, NotEmpty, StoreCorrupt, StoreFull, TzfsError
from tzfs.fuse.boundary import notice, request

REQUESTS = "tzfs.request"


class _Handlers:
    """Handlers that raise what they are given, or return it."""

    @request
    async def serve(self, outcome: object, *args: object) -> object:
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    @notice
    async def hear(self, error: Exception) -> None:
        raise error


HANDLERS = _Handlers()


async def _errno(error: Exception) -> int:
    with pytest.raises(FUSEError) as caught:
        await HANDLERS.serve(error)
    return caught.value.errno


async def test_an_answer_passes() -> None:
    assert await HANDLERS.serve(42) == 42


@pytest.mark.parametrize("error", [NoEntry("a"), NotEmpty("b")], ids=["ENOENT", "ENOTEMPTY"])
async def test_a_refusal_becomes_its_errno_and_is_not_logged(error: TzfsError) -> None:
    assert await _errno(error) == error.errno


async def test_a_fuse_error_passes_as_it_is() -> None:
    assert await _errno(FUSEError(errno.ENOSYS)) == errno.ENOSYS


async def test_a_corrupt_record_is_eio_with_its_key_in_the_log() -> None:
    with assert_logs(r"serve\(.*\): CorruptRecord: inode 7", level=logging.ERROR):
        assert await _errno(CorruptRecord("inode 7: 3 bytes")) == errno.EIO


@pytest.mark.parametrize(("error", "code"), [(StoreFull("x"), errno.ENOSPC), (StoreCorrupt("x"), errno.EIO)])
async def test_trouble_of_the_store_becomes_its_errno_and_is_logged(error: TzfsError, code: int) -> None:
    with assert_logs("Store", level=logging.ERROR):
        assert await _errno(error) == code


@pytest.mark.parametrize("error", [KeyError("x"), OSError(errno.ENOSPC, "host"), AssertionError()])
async def test_a_bug_is_eio_with_its_traceback_in_the_log(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    with assert_logs("a bug", level=logging.ERROR):
        assert await _errno(error) == errno.EIO
    assert caplog.records[-1].exc_info is not None


@pytest.mark.parametrize("error", [KeyError("x"), NoEntry("x"), FUSEError(errno.EIO)])
async def test_a_notice_raises_nothing(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    with assert_logs("hear failed", level=logging.ERROR):
        if isinstance(error, KeyError):
            with assert_logs("a bug", level=logging.ERROR):
                await HANDLERS.hear(error)
        else:
            await HANDLERS.hear(error)


async def test_each_request_is_one_line_at_debug(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, REQUESTS):
        await HANDLERS.serve(7, b"name", b"x" * 100, Context(pid=12), [1, 2], None)
        with pytest.raises(FUSEError):
            await HANDLERS.serve(NoEntry("x"))
    lines = [record.getMessage() for record in caplog.records if record.name == REQUESTS]
    assert len(lines) == 2
    assert lines[0].startswith("serve(7, b'name', <100 bytes>, pid 12, <2 items>, None) = ok ")
    assert lines[1].startswith("serve(<NoEntry>) = ENOENT ")
    assert all(line.endswith(" us") for line in lines)


async def test_a_bug_is_logged_once_at_debug_too(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, REQUESTS), assert_logs("a bug", level=logging.ERROR):
        assert await _errno(KeyError("x")) == errno.EIO
