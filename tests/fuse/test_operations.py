"""The handlers, called as pyfuse3 calls them, over a filesystem in memory and without a mount."""

from __future__ import annotations

import errno
import os
import stat

import pyfuse3
import pytest
from pyfuse3 import EntryAttributes

from support.adapter import CTX, ROOT, SNAPSHOTS, Mount, lines, refused
from support.kernel import Context, Fields, ReaddirBuffer
from support.logs import assert_logs
from tzfs.fuse import attributes
from tzfs.fuse.attributes import CACHED_S, statistics
from tzfs.fuse.views import SNAPSHOTS_NAME
from tzfs.records import Usage

# ------------------------------------------------------------------ names and attributes


async def test_a_name_and_its_attributes_may_be_kept_for_a_day(mount: Mount) -> None:
    number = await mount.create(b"f")
    entry = await mount.ops.lookup(ROOT, b"f", CTX)
    assert (entry.st_ino, entry.entry_timeout, entry.attr_timeout) == (number, CACHED_S, CACHED_S)


async def test_a_missing_name_is_an_answer_that_may_be_kept_for_a_day(mount: Mount) -> None:
    entry = await mount.ops.lookup(ROOT, b"missing", CTX)
    assert (entry.st_ino, entry.entry_timeout) == (0, CACHED_S)


async def test_names_under_dot_snapshots_are_asked_for_every_time(mount: Mount) -> None:
    await mount.create(b"f")
    await mount.snapshot()
    entrance = await mount.ops.lookup(SNAPSHOTS, b"1", CTX)
    assert (entrance.entry_timeout, entrance.attr_timeout) == (0, CACHED_S)
    with refused(errno.ENOENT):
        await mount.ops.lookup(SNAPSHOTS, b"2", CTX)
    directory = await mount.ops.lookup(ROOT, SNAPSHOTS_NAME, CTX)
    assert (directory.st_ino, directory.attr_timeout) == (SNAPSHOTS, 0)
    assert (await mount.ops.lookup(entrance.st_ino, b"f", CTX)).entry_timeout == CACHED_S


async def test_attributes_are_all_carried_over(mount: Mount) -> None:
    info, made = await mount.ops.create(ROOT, b"f", 0o104751, os.O_RDWR, Context(uid=12, gid=34))
    await mount.ops.write(info.fh, 0, b"x" * 1000)
    inode = mount.fs.getattr(made.st_ino)
    entry = await mount.ops.getattr(made.st_ino, CTX)
    assert (entry.st_mode, entry.st_uid, entry.st_gid) == (stat.S_IFREG | 0o4751, 12, 34)
    assert (entry.st_nlink, entry.st_size, entry.st_blocks, entry.generation) == (
        1,
        1000,
        2,
        inode.generation,
    )
    times = (entry.st_atime_ns, entry.st_mtime_ns, entry.st_ctime_ns)
    assert times == (inode.atime_ns, inode.mtime_ns, inode.ctime_ns)


async def test_the_struct_of_an_inode_is_built_once_for_each_state_of_it(mount: Mount) -> None:
    number = await mount.create(b"f")
    first = await mount.ops.getattr(number, CTX)
    assert await mount.ops.lookup(ROOT, b"f", CTX) is first
    wanted = EntryAttributes()
    wanted.st_mode = 0o640
    second = await mount.ops.setattr(number, wanted, Fields(update_mode=True), None, CTX)
    assert (stat.S_IMODE(first.st_mode), stat.S_IMODE(second.st_mode)) == (0o644, 0o640)
    assert await mount.ops.getattr(number, CTX) is second


async def test_structs_are_kept_of_so_many_inodes_and_no_more(
    mount: Mount, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attributes, "_BUILT_MAX", 3)
    numbers = [await mount.create(b"f%d" % at) for at in range(10)]
    for number in (*numbers, *reversed(numbers)):
        assert (await mount.ops.getattr(number, CTX)).st_ino == number
        assert len(mount.ops._attributes._built) <= 3


@pytest.mark.parametrize("time_ns", [-1, -(10**18) - 1, 1, 5 * 10**18 + 123456789])
async def test_times_before_1970_and_after_2106_are_exact(mount: Mount, time_ns: int) -> None:
    number = await mount.create(b"f")
    wanted = EntryAttributes()
    wanted.st_atime_ns = wanted.st_mtime_ns = wanted.st_ctime_ns = time_ns
    fields = Fields(update_atime=True, update_mtime=True, update_ctime=True)
    entry = await mount.ops.setattr(number, wanted, fields, None, CTX)
    assert (entry.st_atime_ns, entry.st_mtime_ns, entry.st_ctime_ns) == (time_ns,) * 3
    inode = mount.fs.getattr(number)
    assert (inode.atime_ns, inode.mtime_ns, inode.ctime_ns) == (time_ns,) * 3


@pytest.mark.parametrize(("asked_s", "stored_ns"), [(10**11, 2**63 - 1), (-(10**11), -(2**63))])
async def test_times_beyond_what_can_be_stored_are_the_nearest_that_can(
    mount: Mount, asked_s: int, stored_ns: int
) -> None:
    number = await mount.create(b"f")
    wanted = EntryAttributes()
    wanted.st_atime_ns = wanted.st_mtime_ns = asked_s * 10**9
    entry = await mount.ops.setattr(number, wanted, Fields(update_atime=True, update_mtime=True), None, CTX)
    inode = mount.fs.getattr(number)
    assert (inode.atime_ns, inode.mtime_ns, entry.st_mtime_ns) == (stored_ns,) * 3


async def test_times_that_the_kernel_hands_over_are_written_only_if_they_are_news(
    mount: Mount, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = await mount.create(b"f")
    written: list[object] = []
    write = mount.store.write
    monkeypatch.setattr(mount.store, "write", lambda batch: (written.append(batch), write(batch)))
    kept = await mount.ops.getattr(number, CTX)
    fields = Fields(update_mtime=True, update_ctime=True)
    await mount.ops.setattr(number, kept, fields, None, CTX)
    assert written == []
    kept.st_ctime_ns += 1
    entry = await mount.ops.setattr(number, kept, fields, None, CTX)
    assert len(written) == 1
    assert mount.fs.getattr(number).ctime_ns == entry.st_ctime_ns == kept.st_ctime_ns
    await mount.ops.unlink(ROOT, b"f", CTX)
    kept.st_ctime_ns += 1
    entry = await mount.ops.setattr(number, kept, fields, None, CTX)
    assert entry.st_ctime_ns == kept.st_ctime_ns
    assert len(written) == 2


async def test_setattr_changes_only_what_it_names(mount: Mount) -> None:
    number = await mount.create(b"f", b"0123456789")
    before = mount.fs.getattr(number)
    wanted = EntryAttributes()
    wanted.st_size, wanted.st_uid, wanted.st_mode, wanted.st_mtime_ns = 4, 77, stat.S_IFREG | 0o600, 5
    entry = await mount.ops.setattr(number, wanted, Fields(update_size=True), None, CTX)
    assert (entry.st_size, entry.st_uid, entry.st_mode) == (4, before.uid, before.mode)
    entry = await mount.ops.setattr(number, wanted, Fields(update_uid=True, update_mode=True), None, CTX)
    assert (entry.st_size, entry.st_uid, entry.st_mode) == (4, 77, stat.S_IFREG | 0o600)


async def test_without_the_writeback_cache_a_write_stamps_the_time_and_with_it_does_not() -> None:
    for writeback in (True, False):
        mount = Mount(writeback=writeback)
        assert mount.ops.enable_writeback_cache is writeback
        info, entry = await mount.ops.create(ROOT, b"f", 0o644, os.O_WRONLY, CTX)
        old = EntryAttributes()
        old.st_mtime_ns = 5
        await mount.ops.setattr(entry.st_ino, old, Fields(update_mtime=True), None, CTX)
        await mount.ops.write(info.fh, 0, b"x")
        assert (mount.fs.getattr(entry.st_ino).mtime_ns == 5) is writeback


async def test_every_handler_names_the_program_that_asked(mount: Mount) -> None:
    caller = mount.ops._caller(CTX)
    assert caller[:3] == (1000, 1000, os.getpid())
    assert caller.program not in (b"", b"?")


# -------------------------------------------------------------------- making and removing


async def test_making_and_removing_every_type(mount: Mount) -> None:
    ops = mount.ops
    assert stat.S_ISFIFO((await ops.mknod(ROOT, b"p", stat.S_IFIFO | 0o600, 0, CTX)).st_mode)
    device = await ops.mknod(ROOT, b"n", stat.S_IFCHR | 0o600, os.makedev(1, 3), CTX)
    assert device.st_rdev == os.makedev(1, 3)
    link = await ops.symlink(ROOT, b"s", b"to/where", CTX)
    assert await ops.readlink(link.st_ino, CTX) == b"to/where"
    directory = await ops.mkdir(ROOT, b"d", 0o755, CTX)
    assert directory.st_nlink == 2
    assert (await ops.link(device.st_ino, directory.st_ino, b"m", CTX)).st_nlink == 2
    with refused(errno.ENOTEMPTY):
        await ops.rmdir(ROOT, b"d", CTX)
    await ops.unlink(directory.st_ino, b"m", CTX)
    await ops.rmdir(ROOT, b"d", CTX)
    for name in (b"p", b"n", b"s"):
        await ops.unlink(ROOT, name, CTX)


async def test_create_makes_a_regular_file_whatever_type_the_mode_says(mount: Mount) -> None:
    _, entry = await mount.ops.create(ROOT, b"f", 0o644, os.O_WRONLY, CTX)
    assert stat.S_ISREG(entry.st_mode)


@pytest.mark.parametrize("flags", [2 | 4, 8, 1 << 31])
async def test_unknown_rename_flags_are_einval(mount: Mount, flags: int) -> None:
    await mount.create(b"a")
    with refused(errno.EINVAL):
        await mount.ops.rename(ROOT, b"a", ROOT, b"b", flags, CTX)


async def test_rename_flags_reach_the_core(mount: Mount) -> None:
    a, b = await mount.create(b"a"), await mount.create(b"b")
    with refused(errno.EEXIST):
        await mount.ops.rename(ROOT, b"a", ROOT, b"b", pyfuse3.RENAME_NOREPLACE, CTX)
    await mount.ops.rename(ROOT, b"a", ROOT, b"b", pyfuse3.RENAME_EXCHANGE, CTX)
    assert [mount.fs.lookup(ROOT, name).number for name in (b"a", b"b")] == [b, a]


async def test_a_read_only_filesystem_says_so() -> None:
    mount = Mount(read_only=True)
    with refused(errno.EROFS):
        await mount.ops.mkdir(ROOT, b"d", 0o755, CTX)
    with refused(errno.EROFS):
        await mount.ops.mkdir(SNAPSHOTS, b"label", 0o755, CTX)


# ------------------------------------------------------------------------------- files


async def test_o_trunc_empties_the_file_and_drops_setuid(mount: Mount) -> None:
    number = await mount.create(b"f", b"data")
    wanted = EntryAttributes()
    wanted.st_mode = 0o4755
    await mount.ops.setattr(number, wanted, Fields(update_mode=True), None, CTX)
    await mount.ops.open(number, os.O_WRONLY | os.O_TRUNC, CTX)
    entry = await mount.ops.getattr(number, CTX)
    assert (entry.st_size, stat.S_IMODE(entry.st_mode)) == (0, 0o755)


async def test_a_file_opened_for_writing_only_can_be_read_for_the_page_cache(mount: Mount) -> None:
    number = await mount.create(b"f", b"data")
    info = await mount.ops.open(number, os.O_WRONLY, CTX)
    assert await mount.ops.read(info.fh, 1, 2) == b"at"
    assert info.keep_cache


@pytest.mark.parametrize("made", [True, False], ids=["create", "open"])
async def test_pages_read_beside_direct_writes_are_not_kept_over_an_open(mount: Mount, made: bool) -> None:
    flags = os.O_RDWR | os.O_DIRECT
    if made:
        direct, entry = await mount.ops.create(ROOT, b"f", 0o644, flags, CTX)
        number = entry.st_ino
    else:
        number = await mount.create(b"f")
        assert (await mount.ops.open(number, os.O_RDONLY | os.O_DIRECT, CTX)).keep_cache
        direct = await mount.ops.open(number, flags, CTX)
    assert not (await mount.ops.open(number, os.O_RDONLY, CTX)).keep_cache
    assert (await mount.ops.open(await mount.create(b"g"), os.O_RDONLY, CTX)).keep_cache
    await mount.ops.release(direct.fh)
    assert [(await mount.ops.open(number, os.O_RDONLY, CTX)).keep_cache for _ in range(2)] == [False, False]


async def test_with_an_inode_goes_what_was_noted_of_direct_writes(mount: Mount) -> None:
    direct, entry = await mount.ops.create(ROOT, b"f", 0o644, os.O_WRONLY | os.O_DIRECT, CTX)
    await mount.ops.release(direct.fh)
    await mount.ops.forget([(entry.st_ino, 1)])
    assert (await mount.ops.open(entry.st_ino, os.O_RDONLY, CTX)).keep_cache


async def test_the_writer_in_the_change_log_is_who_opened_the_file(mount: Mount) -> None:
    callers = []
    mount.replace(write=lambda *args, stamp: callers.append(args[3]) or 1)
    info, _ = await mount.ops.create(ROOT, b"f", 0o644, os.O_WRONLY, Context(uid=5, gid=6, pid=os.getpid()))
    await mount.ops.write(info.fh, 0, b"x")
    assert callers[0][:3] == (5, 6, os.getpid())


async def test_a_closed_handle_is_ebadf(mount: Mount) -> None:
    info, _ = await mount.ops.create(ROOT, b"f", 0o644, os.O_WRONLY, CTX)
    await mount.ops.release(info.fh)
    with refused(errno.EBADF):
        await mount.ops.read(info.fh, 0, 1)


async def test_flush_is_declined_so_that_the_kernel_stops_asking(mount: Mount) -> None:
    with refused(errno.ENOSYS):
        await mount.ops.flush(1)


async def test_fsync_of_files_and_directories_waits_for_the_store(mount: Mount) -> None:
    info, _ = await mount.ops.create(ROOT, b"f", 0o644, os.O_WRONLY, CTX)
    await mount.ops.fsync(info.fh, False)
    await mount.ops.fsyncdir(await mount.ops.opendir(ROOT, CTX), True)
    assert mount.calls == ["sync", "sync"]


async def test_a_failing_store_is_an_errno_and_not_the_end(mount: Mount) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise RuntimeError("broken")

    mount.replace(lookup=fail)
    with assert_logs("lookup.*a bug", level=40), refused(errno.EIO):
        await mount.ops.lookup(ROOT, b"x", CTX)


# ----------------------------------------------------------------- lookup counts and orphans


async def _forget(mount: Mount, st_ino: int, lookups: int) -> bool:
    """Forget, and tell whether reclaim has an orphan to take."""
    await mount.ops.forget([(st_ino, lookups)])
    return mount.fs.reclaim_backlog() > 0


async def test_an_open_file_without_a_name_works_until_it_is_forgotten(mount: Mount) -> None:
    info, entry = await mount.ops.create(ROOT, b"f", 0o644, os.O_RDWR, CTX)
    await mount.ops.unlink(ROOT, b"f", CTX)
    await mount.ops.write(info.fh, 0, b"still here")
    while mount.fs.reclaim():
        pass
    assert await mount.ops.read(info.fh, 0, 100) == b"still here"
    await mount.ops.release(info.fh)
    assert await _forget(mount, entry.st_ino, 1)
    while mount.fs.reclaim():
        pass
    with refused(errno.ENOENT):
        await mount.ops.getattr(entry.st_ino, CTX)


async def test_an_orphan_goes_with_the_last_of_its_lookups_and_not_before(mount: Mount) -> None:
    number = await mount.create(b"f")
    await mount.ops.lookup(ROOT, b"f", CTX)
    await mount.ops.lookup(ROOT, b"f", CTX)
    await mount.ops.unlink(ROOT, b"f", CTX)
    assert not await _forget(mount, number, 1)
    assert not await _forget(mount, number, 1)
    assert await _forget(mount, number, 1)


async def test_a_listing_counts_as_a_lookup_of_what_the_kernel_took(
    mount: Mount, monkeypatch: pytest.MonkeyPatch
) -> None:
    buffer = ReaddirBuffer(monkeypatch)
    numbers = [await mount.create(b"f%d" % n) for n in range(3)]
    for number in numbers:
        await mount.ops.forget([(number, 1)])
    buffer.room = 4
    fh = await mount.ops.opendir(ROOT, CTX)
    await mount.ops.readdir(fh, 0, pyfuse3.ReaddirToken())
    taken = [line.st_ino for line in buffer.take()[2:]]
    assert len(taken) == 2
    assert [mount.ops._known[number] for number in numbers] == [int(number in taken) for number in numbers]
    assert mount.ops._known[ROOT] == 0


async def test_an_inode_without_a_name_is_not_found_by_its_number_alone(mount: Mount) -> None:
    number = await mount.create(b"f")
    assert (await mount.ops.lookup(number, b".", CTX)).st_ino == number
    await mount.ops.unlink(ROOT, b"f", CTX)
    with refused(errno.ESTALE):
        await mount.ops.lookup(number, b".", CTX)


async def test_getattr_is_no_lookup(mount: Mount) -> None:
    number = await mount.create(b"f")
    await mount.ops.getattr(number, CTX)
    await mount.ops.unlink(ROOT, b"f", CTX)
    assert await _forget(mount, number, 1)


async def test_forgetting_what_still_has_a_name_leaves_it(mount: Mount) -> None:
    number = await mount.create(b"f")
    assert not await _forget(mount, number, 1)
    assert (await mount.ops.lookup(ROOT, b"f", CTX)).st_ino == number


async def test_forget_never_raises(mount: Mount) -> None:
    mount.replace(release=lambda numbers: 1 / 0)
    with assert_logs("forget", level=40, count=2):
        await mount.ops.forget([(7, 1)])


# ----------------------------------------------------------------------------- directories


async def test_a_listing_has_dot_and_dotdot_first_with_the_right_numbers(
    mount: Mount, monkeypatch: pytest.MonkeyPatch
) -> None:
    buffer = ReaddirBuffer(monkeypatch)
    directory = (await mount.ops.mkdir(ROOT, b"d", 0o755, CTX)).st_ino
    fh = await mount.ops.opendir(directory, CTX)
    await mount.ops.readdir(fh, 0, pyfuse3.ReaddirToken())
    assert [line[:3] for line in buffer.take()] == [(b".", directory, 1), (b"..", ROOT, 2)]


@pytest.mark.parametrize("room", [1, 2, 3, 7, 1000])
async def test_a_listing_is_whole_whatever_the_size_of_the_buffer(
    mount: Mount, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    buffer = ReaddirBuffer(monkeypatch)
    buffer.room = room
    names = {b"name-%d" % n for n in range(100)}
    for name in names:
        await mount.create(name)
    listed = await lines(mount, ROOT, buffer)
    assert len(listed) == 102
    assert set(listed) == names | {b".", b".."}


async def test_dot_snapshots_is_in_no_listing(mount: Mount, monkeypatch: pytest.MonkeyPatch) -> None:
    buffer = ReaddirBuffer(monkeypatch)
    await mount.create(b"f")
    entrance = await mount.snapshot()
    assert await lines(mount, ROOT, buffer) == [b".", b"..", b"f"]
    assert await lines(mount, entrance, buffer) == [b".", b"..", b"f"]


async def test_a_directory_handle_keeps_no_names(mount: Mount, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 1,000 names, the core is asked for as many as the kernel's buffer takes, and one to see the end."""
    for n in range(1000):
        await mount.create(b"%d" % n)
    buffer = ReaddirBuffer(monkeypatch)
    buffer.room = 50
    asked = []
    mount.replace(readdir=lambda *a, **k: asked.append(a[2]) or mount.fs.readdir(*a, **k))
    await lines(mount, ROOT, buffer)
    assert sum(asked) < 1200


# ------------------------------------------------------------------------ attributes, statfs


async def test_trusted_attributes_are_listed_to_root_only(mount: Mount) -> None:
    number = await mount.create(b"f")
    for name in (b"user.a", b"trusted.b", b"security.c"):
        await mount.ops.setxattr(number, name, b"1", Context())
    assert set(await mount.ops.listxattr(number, Context())) == {b"user.a", b"trusted.b", b"security.c"}
    assert set(await mount.ops.listxattr(number, CTX)) == {b"user.a", b"security.c"}


async def test_attributes_of_unknown_namespaces_are_not_supported(mount: Mount) -> None:
    for call in (
        lambda: mount.ops.setxattr(ROOT, b"system.foo", b"1", CTX),
        lambda: mount.ops.getxattr(ROOT, b"system.foo", CTX),
        lambda: mount.ops.removexattr(ROOT, b"nothing", CTX),
    ):
        with refused(errno.EOPNOTSUPP):
            await call()


async def test_a_missing_attribute_is_enodata(mount: Mount) -> None:
    with refused(errno.ENODATA):
        await mount.ops.getxattr(ROOT, b"user.x", CTX)
    with refused(errno.ENODATA):
        await mount.ops.removexattr(ROOT, b"user.x", CTX)


async def test_access_is_left_to_the_kernel(mount: Mount) -> None:
    assert await mount.ops.access(ROOT, os.W_OK, CTX)


async def test_statfs_answers(mount: Mount) -> None:
    data = await mount.ops.statfs(CTX)
    assert (data.f_bsize, data.f_frsize, data.f_namemax, data.f_bfree) == (4096, 4096, 255, 1000)


@pytest.mark.parametrize(
    ("stored", "quota", "host_free", "blocks", "free"),
    [
        pytest.param(40960, 0, 409600, 110, 100, id="no quota"),
        pytest.param(40960, 81920, 409600, 20, 10, id="quota is tighter"),
        pytest.param(40960, 8192000, 409600, 110, 100, id="disk is tighter"),
        pytest.param(81921, 40960, 409600, 21, 0, id="over quota"),
    ],
)
def test_df_tells_what_is_used_and_what_still_fits(
    stored: int, quota: int, host_free: int, blocks: int, free: int
) -> None:
    data = statistics(Usage(3, stored, stored, 0, quota), host_free)
    assert (data.f_blocks, data.f_bfree, data.f_bavail) == (blocks, free, free)


def test_df_counts_inodes_against_their_limit() -> None:
    data = statistics(Usage(3, 0, 0, 10, 0), 0)
    assert (data.f_files, data.f_ffree) == (10, 7)
    over = statistics(Usage(12, 0, 0, 10, 0), 0)
    assert over.f_ffree == 0
