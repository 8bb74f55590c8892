"""The twin for trio gives what the API gives, and a call that is cancelled is done wholly or not at all."""

import inspect
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

import tzfs
from support.mounting import Mounted
from tzfs import errors

NOT_THERE = {"close", "mountpoint", "path"}
"""`aclose` instead; the others are no calls to wait for, and `AsyncStore.get` tells them."""


@pytest.fixture
async def fs(tmp_path: Path) -> AsyncIterator[tzfs.AsyncFilesystem]:
    """Return an empty filesystem; it is clean at the end."""
    async with await tzfs.AsyncStore.open(tmp_path / "store", create=True) as store:
        await store.create("lab")
        async with await store.open_filesystem("lab") as opened:
            yield opened
            assert await opened.check() == []


@pytest.mark.parametrize(
    ("kind", "twin"),
    [
        (tzfs.Store, tzfs.AsyncStore),
        (tzfs.Tree, tzfs.AsyncTree),
        (tzfs.Filesystem, tzfs.AsyncFilesystem),
    ],
)
def test_every_method_has_its_twin_with_the_same_arguments(kind: type, twin: type) -> None:
    for name, method in inspect.getmembers(kind, inspect.isroutine):
        if name.startswith("_") or name in NOT_THERE:
            continue
        other = getattr(twin, name)
        assert list(inspect.signature(method).parameters) == list(inspect.signature(other).parameters), name
        assert other.__doc__, name


async def changed_and_looked_at(fs: Any) -> list[Any]:  # noqa: ANN401 either kind, by way of `awaited`
    """Change a filesystem, and return all that is told of it, times aside."""
    told: list[Any] = [await fs.write_text("a", "one"), await fs.mkdir("d/e", parents=True)]
    await fs.write_bytes(b"d/\xff", b"x" * 700_000)
    first = await fs.snapshot("first")
    await fs.rename("a", "d/b")
    await fs.setxattr("d/b", "user.origin", b"here")
    told += [await fs.listdir("d"), await fs.getxattr("d/b", "user.origin"), (await fs.stat("d/b")).st_size]
    told += [[str(change) for change in await fs.diff("first")], first.txn, first.labels]
    told += [await first.read_text("a"), len(await fs.read_bytes(b"d/\xff")), await first.exists("d/b")]
    undo = await fs.rollback("first")
    told += [undo.txn, await (await fs.at(undo.txn)).read_text("d/b"), await fs.listdir()]
    told += [[found.txn for found in await fs.snapshots()], sorted(e.path for e in await fs.scandir("d"))]
    try:
        await fs.read_bytes("missing")
    except FileNotFoundError as error:
        told += [type(error).__name__, str(error)]
    return [*told, await fs.fork("other", at="first")]


class Awaited:
    """The methods of an object that are not asynchronous, as if they were."""

    def __init__(self, inner: object) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        found = getattr(self._inner, name)
        if not callable(found):
            return found

        async def call(*args: object, **kwargs: object) -> object:
            result = found(*args, **kwargs)
            return Awaited(result) if isinstance(result, tzfs.Snapshot) else result

        return call


async def test_the_results_are_those_of_the_api(fs: tzfs.AsyncFilesystem, tmp_path: Path) -> None:
    store = tzfs.Store.open(tmp_path / "other", create=True)
    store.create("lab")
    with store.open_filesystem("lab") as other:
        expected = await changed_and_looked_at(Awaited(other))
    assert await changed_and_looked_at(fs) == expected


async def test_files_are_as_trio_has_them(fs: tzfs.AsyncFilesystem) -> None:
    async with await fs.open("a", "w") as file:
        await file.write("one\ntwo\n")
    async with await fs.snapshot("before") as before, await before.open("a") as file:
        assert [line async for line in file] == ["one\n", "two\n"]
    with pytest.raises(errors.ReadOnly):
        await before.open("a", "w")
    assert await before.exists("a")
    await fs.mkdir("d/e", parents=True)
    assert [step async for step in fs.walk()] == [("/", ["d"], ["a"]), ("d", ["e"], []), ("d/e", [], [])]


async def test_a_cancelled_call_is_done_when_it_had_begun_and_else_not(fs: tzfs.AsyncFilesystem) -> None:
    lock = fs._inner._connection._lock
    ended = []

    async def write(name: str) -> None:
        try:
            await fs.write_text(name, "all of it")
        finally:
            ended.append(name)

    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            lock.acquire()
            try:
                nursery.start_soon(write, "begun")
                await trio.testing.wait_all_tasks_blocked()
                nursery.start_soon(write, "waiting for its turn")
                await trio.testing.wait_all_tasks_blocked()
                scope.cancel()
                with trio.CancelScope(shield=True):
                    await trio.testing.wait_all_tasks_blocked()
                assert ended == ["waiting for its turn"]  # nobody thinks that the other one is over
            finally:
                lock.release()
    assert scope.cancelled_caught
    assert await fs.listdir() == ["begun"]
    assert await fs.read_text("begun") == "all of it"


async def test_a_filesystem_is_closed_even_when_cancelled(tmp_path: Path) -> None:
    store = await tzfs.AsyncStore.open(tmp_path / "store", create=True)
    await store.create("lab")
    with trio.CancelScope() as scope:
        async with await store.open_filesystem("lab") as fs:
            await fs.write_text("a", "1")
            scope.cancel()
    assert scope.cancelled_caught
    with pytest.raises(ValueError, match="closed"):
        await fs.read_text("a")
    async with await store.open_filesystem("lab") as again:
        assert await again.read_text("a") == "1"


@pytest.mark.mount
async def test_a_mounted_filesystem_is_asked_in_the_same_way(mounted: Mounted) -> None:
    store = await tzfs.AsyncStore.open(mounted.store)
    async with await store.open_filesystem(mounted.name) as fs:
        await fs.write_text("a", "by the API")
        assert await trio.Path(mounted.path / "a").read_text() == "by the API"
        assert (await store.get(fs.name)).mountpoint == mounted.path
