"""How RocksDB is set up for tzfs: sizes, tables, compression, and what was measured for each choice."""

from __future__ import annotations

from typing import Final

import rocksdict

from tzfs.keys import DATA, HEAD

BLOCK_CACHE_BYTES: Final = 32 << 20
"""Blocks of SST files kept in memory. What is hot is cached by the kernel above us (entries, attributes,
pages), so this one mainly keeps index blocks and filters, and holds a walk over a large tree together."""
INDEX_BLOCK_BYTES: Final = 4 << 10
"""Blocks of an index or a filter, and what the cache expects of an entry. Measured with a whole filter
in one block, in an LRU cache of 64 shards of half a MiB: beyond 300,000 files two filters of one shard
drove each other out; a create took 270 us instead of 42, a lookup 120 instead of 14, a name of a walk
55 instead of 6."""
RECENT_HEADS: Final = 4096
"""Heads that are kept above the engine (`tzfs.recent`), of some 190 bytes each with their key."""
DATA_READAHEAD_BYTES: Final = 256 << 10
"""What a scan of file content reads at a time. Without it the engine calls readahead(2) every other block: a
large file was read for the first time at 0.4 to 0.5 GiB/s; now it is at 0.8, as with chunks of 64 KiB."""
HEAD_MEMTABLE_BYTES: Final = 16 << 20
DATA_MEMTABLE_BYTES: Final = 32 << 20
WAL_BYTES_MAX: Final = 256 << 20
"""Above this the engine flushes the oldest memtable, so that a restart never replays more."""

SYNC_AT_ONCE_BYTES: Final = 256 << 10
"""So much may be written since the last sync for the next one to count as short."""


def _table_options(*, block_bytes: int, cache: rocksdict.Cache) -> rocksdict.BlockBasedOptions:
    table = rocksdict.BlockBasedOptions()
    table.set_block_cache(cache)
    table.set_block_size(block_bytes)
    table.set_bloom_filter(10, block_based=False)
    # Index and filters in small blocks: no lookup drags a filter of hundreds of KiB into the cache.
    table.set_index_type(rocksdict.BlockBasedIndexType.two_level_index_search())
    table.set_partition_filters(True)
    table.set_metadata_block_size(INDEX_BLOCK_BYTES)
    table.set_pin_top_level_index_and_filter(True)
    table.set_cache_index_and_filter_blocks(True)
    table.set_pin_l0_filter_and_index_blocks_in_cache(True)
    table.set_format_version(5)
    table.set_checksum_type(rocksdict.ChecksumType.xxh3())
    return table


def database_options(*, create: bool) -> rocksdict.Options:
    """Return the options of a database as a whole."""
    options = rocksdict.Options(raw_mode=True)
    options.create_if_missing(create)
    options.create_missing_column_families(create)
    options.set_max_background_jobs(2)
    options.set_max_total_wal_size(WAL_BYTES_MAX)
    options.set_keep_log_file_num(2)
    options.set_max_log_file_size(1 << 20)
    options.set_stats_dump_period_sec(0)
    options.set_stats_persist_period_sec(0)
    options.set_bytes_per_sync(1 << 20)
    # RocksDB tells the kernel that it reads at random, which turns readahead off: reading a large file for
    # the first time went at 0.3 to 0.4 GiB/s with that and at 0.7 to 1.0 without, on the same disk.
    options.set_advise_random_on_open(False)
    # Logs are not recycled: after a power cut RocksDB 9.8 refused some disks ("SST file is ahead of WALs") on
    # which a younger log was lost and had old records in its place (tests/mount/test_power_cut.py).
    options.set_recycle_log_file_num(0)
    options.set_max_open_files(256)
    options.set_is_fd_close_on_exec(True)
    return options


def family_options(space: bytes, cache: rocksdict.Cache) -> rocksdict.Options:
    """Return the options of the column family of one space, and of tables that it is to take in."""
    options = rocksdict.Options(raw_mode=True)
    big = space == DATA
    options.set_block_based_table_factory(_table_options(block_bytes=(16 if big else 4) << 10, cache=cache))
    options.set_write_buffer_size(
        DATA_MEMTABLE_BYTES if big else HEAD_MEMTABLE_BYTES if space == HEAD else HEAD_MEMTABLE_BYTES // 4
    )
    options.set_max_write_buffer_number(3)
    options.set_target_file_size_base((64 if big else 16) << 20)
    options.set_level_compaction_dynamic_level_bytes(True)
    options.set_compression_type(rocksdict.DBCompressionType.lz4())
    options.set_memtable_prefix_bloom_ratio(0.05)
    options.set_memtable_whole_key_filtering(True)
    return options
