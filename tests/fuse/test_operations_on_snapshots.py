"""The handlers on `.snapshots` and in it, called as pyfuse3 calls them, without a mount."""

from __future__ import annotations

import errno
import os
import stat

import pyfuse3
import pytest
from pyfuse3 import EntryAttributes

from support.adapter import CTX, ROOT, SNAPSHOTS, Mount, refused
from support.kernel import Fields, ReaddirBuffer
from tzfs.fuse.views import SNAPSHOTS_NAME


async def test_mkdir_in_dot_snapshots_takes_a_snapshot_of_what_was_flushed_before(mount: Mount) -> None:
    number = await mount.create(b"f", b"old")
    entrance = await mount.ops.mkdir(SNAPSHOTS, b"label", 0o755, CTX)
    assert mount.calls == ["flush in txn 1"]
    assert entrance.entry_timeout == 0
    info = await mount.ops.open(number, os.O_WRONLY, CTX)
    await mount.ops.write(info.fh, 0, b"new")
    kept = await mount.ops.lookup(entrance.st_ino, b"f", CTX)
    assert kept.st_ino not in (number, 0)
    assert await mount.content(kept.st_ino) == b"old"
    assert await mount.content(number) == b"new"


async def test_a_label_that_is_taken_is_eexist_and_one_that_is_none_einval(mount: Mount) -> None:
    await mount.ops.mkdir(SNAPSHOTS, b"label", 0o755, CTX)
    with refused(errno.EEXIST):
        await mount.ops.mkdir(SNAPSHOTS, b"label", 0o755, CTX)
    for label in (b"7", b"latest", b"a b"):
        with refused(errno.EINVAL):
            await mount.ops.mkdir(SNAPSHOTS, label, 0o755, CTX)


async def test_rmdir_in_dot_snapshots_deletes_the_snapshot(mount: Mount) -> None:
    await mount.ops.mkdir(SNAPSHOTS, b"label", 0o755, CTX)
    await mount.ops.rmdir(SNAPSHOTS, b"label", CTX)
    assert mount.fs.snapshots() == []


async def test_everything_else_in_history_is_erofs(mount: Mount) -> None:
    ops = mount.ops
    live = await mount.create(b"f", b"data")
    entrance = await mount.snapshot()
    kept = (await ops.lookup(entrance, b"f", CTX)).st_ino
    wanted, fields = EntryAttributes(), Fields(update_mode=True)
    changes = [
        lambda ino=ino: ops.setattr(ino, wanted, fields, None, CTX) for ino in (SNAPSHOTS, entrance, kept)
    ]
    changes += [
        lambda ino=ino: ops.setxattr(ino, b"user.x", b"1", CTX) for ino in (SNAPSHOTS, entrance, kept)
    ]
    changes += [lambda ino=ino: ops.removexattr(ino, b"user.x", CTX) for ino in (SNAPSHOTS, entrance, kept)]
    for flags in (os.O_WRONLY, os.O_RDWR, os.O_RDONLY | os.O_TRUNC):
        changes.append(lambda flags=flags: ops.open(kept, flags, CTX))
    for parent in (SNAPSHOTS, entrance):
        changes += [
            lambda parent=parent: ops.create(parent, b"x", 0o644, os.O_WRONLY, CTX),
            lambda parent=parent: ops.mknod(parent, b"x", stat.S_IFIFO, 0, CTX),
            lambda parent=parent: ops.symlink(parent, b"x", b"t", CTX),
            lambda parent=parent: ops.link(live, parent, b"x", CTX),
            lambda parent=parent: ops.unlink(parent, b"f", CTX),
            lambda parent=parent: ops.rename(ROOT, b"f", parent, b"x", 0, CTX),
            lambda parent=parent: ops.rename(parent, b"f", parent, b"x", 0, CTX),
        ]
    changes += [lambda: ops.mkdir(entrance, b"x", 0o755, CTX), lambda: ops.rmdir(entrance, b"x", CTX)]
    for change in changes:
        with refused(errno.EROFS):
            await change()


async def test_moving_and_linking_out_of_a_snapshot_is_exdev(mount: Mount) -> None:
    await mount.create(b"f")
    entrance = await mount.snapshot()
    kept = (await mount.ops.lookup(entrance, b"f", CTX)).st_ino
    with refused(errno.EXDEV):
        await mount.ops.rename(entrance, b"f", ROOT, b"g", 0, CTX)
    with refused(errno.EXDEV):
        await mount.ops.rename(SNAPSHOTS, b"1", ROOT, b"g", 0, CTX)
    with refused(errno.EXDEV):
        await mount.ops.link(kept, ROOT, b"g", CTX)


async def test_the_reserved_name_is_refused_to_every_operation(mount: Mount) -> None:
    ops, name = mount.ops, SNAPSHOTS_NAME
    live = await mount.create(b"f")
    for make in (
        lambda: ops.create(ROOT, name, 0o644, os.O_WRONLY, CTX),
        lambda: ops.mkdir(ROOT, name, 0o755, CTX),
        lambda: ops.mknod(ROOT, name, stat.S_IFIFO, 0, CTX),
        lambda: ops.symlink(ROOT, name, b"t", CTX),
        lambda: ops.link(live, ROOT, name, CTX),
    ):
        with refused(errno.EEXIST):
            await make()
    for move in (
        lambda: ops.unlink(ROOT, name, CTX),
        lambda: ops.rmdir(ROOT, name, CTX),
        lambda: ops.rename(ROOT, name, ROOT, b"x", 0, CTX),
        lambda: ops.rename(ROOT, b"f", ROOT, name, 0, CTX),
    ):
        with refused(errno.EPERM):
            await move()


async def test_a_listing_of_dot_snapshots_keeps_only_the_views_that_the_kernel_took(
    mount: Mount, monkeypatch: pytest.MonkeyPatch
) -> None:
    for label in (b"a", b"b", b"c"):
        await mount.ops.take_snapshot(label)
    buffer = ReaddirBuffer(monkeypatch)
    buffer.room = 4
    fh = await mount.ops.opendir(SNAPSHOTS, CTX)
    await mount.ops.readdir(fh, 0, pyfuse3.ReaddirToken())
    lines = buffer.take()
    assert [line.name for line in lines] == [b".", b"..", b"1", b"a"]
    assert all(line.entry_timeout == 0 for line in lines)
    assert len(mount.ops._views) == 1
    await mount.ops.forget([(lines[-1].st_ino, 1)])
    assert len(mount.ops._views) == 0


async def test_a_file_open_in_a_snapshot_is_read_even_after_its_view_was_forgotten(mount: Mount) -> None:
    await mount.create(b"f", b"old")
    await mount.ops.take_snapshot(b"label")
    entrance = (await mount.ops.lookup(SNAPSHOTS, b"label", CTX)).st_ino
    kept = (await mount.ops.lookup(entrance, b"f", CTX)).st_ino
    info = await mount.ops.open(kept, os.O_RDONLY, CTX)
    await mount.ops.forget([(entrance, 1), (kept, 1)])
    assert await mount.ops.read(info.fh, 0, 10) == b"old"
    with refused(errno.ESTALE):
        await mount.ops.getattr(kept, CTX)
