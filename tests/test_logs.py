"""The net under all other tests: that an unexpected warning cannot pass."""

from __future__ import annotations

import logging

import pytest

from support.logs import COLLECTOR, assert_logs

LOG = logging.getLogger("tzfs.test")


def test_an_expected_warning_is_consumed() -> None:
    with assert_logs("disk is .* full"):
        LOG.warning("the disk is %d %% full", 80)
    assert COLLECTOR.records == []


def test_a_missing_warning_fails() -> None:
    with pytest.raises(AssertionError, match="0 records of WARNING"), assert_logs("disk is full"):
        LOG.info("the disk is full")


def test_a_warning_that_was_not_expected_is_kept_for_the_fixture() -> None:
    with assert_logs("expected"):
        LOG.warning("expected")
        LOG.error("another")
    assert COLLECTOR.describe() == "tzfs.test ERROR: another"
    COLLECTOR.records.clear()
