"""How RocksDB is opened: every tuning value of the state database in one place.

Owns: `RocksSettings` and the construction of rocksdict options from it.
Never: opens anything.
Invariants: atomic flush is on for every family (CL-7); RocksDB never starts a flush by itself, because a flush
must wait for the chunk store (CL-8): a memtable may hold `MEMTABLE_BYTES_MAX`, far above what the store lets
pile up, and the store asks for each flush through the write buffer limit they share.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Final

from rocksdict import (
    BlockBasedOptions,
    Cache,
    DBCompressionType,
    Options,
    WriteBufferManager,
    WriteOptions,
)

from hypercluster import limits
from hypercluster.errors import check
from hypercluster.limits import KIB, MIB
from hypercluster.values import NodeId

MEMTABLE_BYTES_MAX: Final = 1024 * MIB  # a bound RocksDB must never reach by itself
BLOCK_CACHE_BYTES: Final = 128 * MIB
UNFLUSHED_FLUSHES_MAX: Final = 4  # commits stall when this many flushes' worth waits in memory
BLOOM_BITS_PER_KEY: Final = 10

check(UNFLUSHED_FLUSHES_MAX * limits.FLUSH_BYTES * 2 <= MEMTABLE_BYTES_MAX, "RocksDB must not flush by itself")


@dataclass(frozen=True, slots=True)
class RocksSettings:
    """What an operator or a test may choose of the state database."""

    flush_bytes: int = limits.FLUSH_BYTES
    flush_entries: int = limits.FLUSH_ENTRIES
    block_cache_bytes: int = BLOCK_CACHE_BYTES
    background_jobs: int = 2

    @classmethod
    def staggered(cls, node_id: NodeId) -> RocksSettings:
        """Flush points that differ from node to node: three nodes that flush at one instant triple the p99."""
        share = 60 + zlib.crc32(node_id.encode()) % 41  # 60 to 100 percent
        return cls(
            flush_bytes=limits.FLUSH_BYTES * share // 100,
            flush_entries=limits.FLUSH_ENTRIES * share // 100,
        )


def table_options(cache: Cache) -> BlockBasedOptions:
    table = BlockBasedOptions()
    table.set_bloom_filter(BLOOM_BITS_PER_KEY, False)
    table.set_block_cache(cache)
    table.set_cache_index_and_filter_blocks(True)  # or memory grows with the data (PERF-5)
    table.set_pin_l0_filter_and_index_blocks_in_cache(True)
    table.set_block_size(8 * KIB)
    table.set_format_version(5)
    return table


def database_options(settings: RocksSettings, cache: Cache, buffers: WriteBufferManager) -> Options:
    """For the database and for each of its families."""
    options = Options(raw_mode=True)
    options.create_if_missing(True)
    options.create_missing_column_families(True)
    options.set_atomic_flush(True)
    options.set_write_buffer_manager(buffers)
    options.set_write_buffer_size(MEMTABLE_BYTES_MAX)
    options.set_max_write_buffer_number(6)
    options.set_arena_block_size(MIB)
    options.set_allow_concurrent_memtable_write(False)  # one writer
    options.set_max_background_jobs(settings.background_jobs)
    options.set_compression_type(DBCompressionType.lz4())
    options.set_level_compaction_dynamic_level_bytes(True)
    options.set_level_zero_file_num_compaction_trigger(4)
    options.set_level_zero_slowdown_writes_trigger(40)
    options.set_level_zero_stop_writes_trigger(64)
    options.set_target_file_size_base(64 * MIB)
    options.set_max_bytes_for_level_base(256 * MIB)
    options.set_bytes_per_sync(MIB)  # even write-back: or the last sync of a file delays the log's
    options.set_max_open_files(512)
    options.set_max_file_opening_threads(2)
    options.set_max_log_file_size(4 * MIB)
    options.set_keep_log_file_num(4)
    options.set_stats_dump_period_sec(0)
    options.set_stats_persist_period_sec(0)
    options.set_paranoid_checks(True)
    options.set_is_fd_close_on_exec(True)
    options.set_block_based_table_factory(table_options(cache))
    return options


def write_options(*, no_slowdown: bool) -> WriteOptions:
    """RocksDB's own log stays off: ours already holds every entry."""
    options = WriteOptions()
    options.disable_wal = True  # type: ignore[method-assign, assignment]
    options.no_slowdown = no_slowdown
    check(bool(options.no_slowdown) is no_slowdown, "the binding takes these as attributes")
    return options
