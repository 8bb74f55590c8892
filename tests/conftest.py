"""What every test stands on: the log guard, the leak check, stores, filesystems and real mounts."""

from __future__ import annotations

import gc
import logging
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.register_assert_rewrite("support")

from support import machine  # noqa: E402 (rewritten only when imported after that)
from support.logs import COLLECTOR  # noqa: E402
from support.mounting import Mounted, mounting  # noqa: E402
from tzfs.check import check  # noqa: E402
from tzfs.filesystem import Filesystem  # noqa: E402
from tzfs.kv import MemoryStore, Store  # noqa: E402
from tzfs.rocks import RocksStore  # noqa: E402


def pytest_report_header() -> str:
    """Say what this machine tests."""
    return machine.capabilities()


def pytest_sessionstart(session: pytest.Session) -> None:
    """Undo what aborted runs left, and listen to the log."""
    # A shell without job control ignores SIGINT for what it starts in the background, and so would programs
    # that are started here, to which some tests send it.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    for workspace in machine.sweep():
        print(f"swept {workspace}, left by an aborted run")  # noqa: T201 (the terminal reporter is not there yet)
    logging.getLogger().addHandler(COLLECTOR)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Set everything imported so far apart, so that the collection after each test is a cheap one."""
    gc.collect()
    gc.freeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a kernel that is not there, and say why."""
    reason = machine.missing_fuse()
    if reason is not None:
        for item in items:
            if item.get_closest_marker("mount"):
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(autouse=True)
def _no_unexpected_warning() -> Iterator[None]:
    COLLECTOR.records.clear()
    yield
    unexpected = COLLECTOR.describe()
    COLLECTOR.records.clear()
    if unexpected:
        pytest.fail(f"logged, and not expected with assert_logs:\n{unexpected}", pytrace=False)


@pytest.fixture(autouse=True)
def _no_leak() -> Iterator[None]:
    """Let go of cycles now, so that a leaked file shows in the test that leaked it (warnings are errors)."""
    yield
    gc.collect()


@pytest.fixture(params=["memory", "rocks"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """Return an empty store of each engine in turn."""
    engine: Store
    engine = MemoryStore() if request.param == "memory" else RocksStore.open(tmp_path / "db", create=True)
    yield engine
    engine.close()


@pytest.fixture
def filesystem(store: Store) -> Iterator[Filesystem]:
    """Return a new filesystem on each engine in turn; at the end all invariants of docs/format.md hold."""
    Filesystem.format(store)
    fs = Filesystem(store)
    yield fs
    assert check(fs) == []


@pytest.fixture
def make_mounted() -> Iterator[Callable[..., Mounted]]:
    """Return what `mounting` yields. Tests that use it bear the mark `mount`."""
    with mounting() as make:
        yield make


@pytest.fixture
def mounted(make_mounted: Callable[..., Mounted]) -> Mounted:
    """Return a mounted filesystem with the options that users have by default."""
    return make_mounted()
