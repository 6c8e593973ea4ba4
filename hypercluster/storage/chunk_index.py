"""Which chunk lies where: the index over the chunk segments, in a small RocksDB of its own.

Owns: places by hash, how far the segments are indexed, dead bytes by segment, totals.
Never: holds content. It can be rebuilt from the segments: an empty index makes the store scan them all.
Invariants: a batch holds places together with the position they reach, so a reopen finds both or neither; only
durable records are ever put here, so RocksDB may flush whenever it likes (its own log is off).
Threads: reads on any, writes under the chunk store's sync lock.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from rocksdict import BlockBasedOptions, Cache, DBCompressionType, Options, Rdict, RdictIter, WriteBatch

from hypercluster.limits import KIB, MIB
from hypercluster.storage.chunk_segment import HASH_BYTES, Place
from hypercluster.storage.rocks_errors import check_iterator, opening_error, writing_error
from hypercluster.storage.rocks_options import write_options
from hypercluster.values import ChunkHash

PLACE: Final = struct.Struct(">III")
POSITION_KEY: Final = b"position"  # shorter than a hash: the two can not meet
POSITION: Final = struct.Struct(">IQ")
TOTALS_KEY: Final = b"totals"
TOTALS: Final = struct.Struct(">QQ")
DEAD_PREFIX: Final = b"dead"
DEAD: Final = struct.Struct(">Q")
CACHE_BYTES: Final = 32 * MIB
WAY_OUT: Final = "Remove that directory: it is rebuilt at start"
MEMTABLE_BYTES: Final = 8 * MIB


def _options() -> Options:
    options = Options(raw_mode=True)
    options.create_if_missing(True)
    options.set_write_buffer_size(MEMTABLE_BYTES)
    options.set_max_background_jobs(1)
    options.set_compression_type(DBCompressionType.none())  # hashes do not compress
    options.set_max_open_files(64)
    options.set_max_log_file_size(MIB)
    options.set_keep_log_file_num(2)
    options.set_stats_dump_period_sec(0)
    options.set_stats_persist_period_sec(0)
    table = BlockBasedOptions()
    table.set_bloom_filter(10, False)
    table.set_block_cache(Cache(CACHE_BYTES))
    table.set_cache_index_and_filter_blocks(True)
    table.set_block_size(4 * KIB)
    options.set_block_based_table_factory(table)
    return options


class ChunkIndex:
    """Opened by ChunkStore alone."""

    def __init__(self, path: str) -> None:
        self._path = path
        try:
            self._database = Rdict(path, _options())
        except Exception as error:  # the binding knows one exception type only
            raise opening_error(path, error, WAY_OUT) from error
        self._write_options = write_options(no_slowdown=False)

    def place(self, chunk_hash: bytes) -> Place | None:
        raw = self._database.get(chunk_hash)
        return None if raw is None else Place(*PLACE.unpack(raw))

    def position(self) -> tuple[int, int]:
        """Records below (segment, offset) are indexed, and were durable when they were."""
        raw = self._database.get(POSITION_KEY)
        if raw is None:
            return 0, 0
        segment, offset = POSITION.unpack(raw)
        return segment, offset

    def totals(self) -> tuple[int, int]:
        """(chunks, content bytes)"""
        raw = self._database.get(TOTALS_KEY)
        if raw is None:
            return 0, 0
        count, size_bytes = TOTALS.unpack(raw)
        return count, size_bytes

    def dead_bytes(self) -> dict[int, int]:
        found: dict[int, int] = {}
        for key, value in self._pairs(DEAD_PREFIX):
            if not key.startswith(DEAD_PREFIX):
                break
            if len(key) == len(DEAD_PREFIX) + 4:
                found[int.from_bytes(key[len(DEAD_PREFIX) :], "big")] = DEAD.unpack(value)[0]
        return found

    def _pairs(self, start: bytes) -> Iterator[tuple[bytes, bytes]]:
        iterator = self._database.iter()
        iterator.seek(start)
        return self._walk(iterator)

    def _walk(self, iterator: RdictIter) -> Iterator[tuple[bytes, bytes]]:
        while iterator.valid():
            yield iterator.key(), iterator.value()
            iterator.next()
        check_iterator(iterator, self._path, WAY_OUT)

    def write(
        self,
        places: Mapping[ChunkHash, Place],
        removed: Iterable[ChunkHash],
        position: tuple[int, int],
        totals: tuple[int, int],
        dead_bytes: Mapping[int, int | None],
    ) -> None:
        """One batch. `dead_bytes` None forgets a segment."""
        batch = WriteBatch(raw_mode=True)
        for chunk_hash in removed:
            batch.delete(chunk_hash)
        for chunk_hash, place in places.items():
            batch.put(chunk_hash, PLACE.pack(place.segment, place.offset, place.length))
        batch.put(POSITION_KEY, POSITION.pack(*position))
        batch.put(TOTALS_KEY, TOTALS.pack(*totals))
        for segment, size_bytes in dead_bytes.items():
            key = DEAD_PREFIX + segment.to_bytes(4, "big")
            if size_bytes is None:
                batch.delete(key)
            else:
                batch.put(key, DEAD.pack(size_bytes))
        try:
            self._database.write(batch, self._write_options)
        except Exception as error:  # the binding knows one exception type only
            raise writing_error(self._path, error) from error

    def flush(self) -> None:
        """Blocks. One family, so one flush call is atomic; it releases the interpreter lock."""
        try:
            self._database.flush()
        except Exception as error:  # the binding knows one exception type only
            raise writing_error(self._path, error) from error

    def hashes(self, after: bytes = b"") -> Iterator[ChunkHash]:
        """Hashes above `after` as they were at the call, in order."""
        return (ChunkHash(key) for key, _ in self._pairs(after) if len(key) == HASH_BYTES and key > after)

    def close(self) -> None:
        self._database.close()
