"""Opening a log's directory: make it, or read it back, mend its tail and restore the reserve, in straight lines.

Owns: `open_directory`. Never: a decision about Raft.
Invariants: a log is either there with its first segment or not at all; every step may be cut off by a crash and is
taken again by the next open.
"""

from __future__ import annotations

from dataclasses import dataclass

from hypercluster.errors import DamagedError, DiskFailedError, DiskFullError, check
from hypercluster.limits import KIB
from hypercluster.storage.disk import Disk
from hypercluster.storage.wal.pool import POOL_PREFIX, POOL_SUFFIX, SegmentPool, is_full
from hypercluster.storage.wal.replay import Replayed, mend, replay, segment_numbers, torn_words, way_out
from hypercluster.storage.wal.scan import SEGMENT_BYTES_MAX
from hypercluster.storage.wal.state import LogState
from hypercluster.storage.wal.writer import SegmentWriter
from hypercluster.values import NO_INDEX

SEGMENT_BYTES_MIN = 8 * KIB
_FIRST_POOL_FILE = f"{POOL_PREFIX}{1:08d}{POOL_SUFFIX}"


@dataclass(slots=True)
class Opened:
    disk: Disk
    pool: SegmentPool
    writer: SegmentWriter
    replayed: Replayed
    segment_bytes: int
    torn_bytes: int = 0
    torn_words: str = ""


def open_directory(disk: Disk, directory: str, segment_bytes: int, reserve_bytes: int) -> Opened:
    check(
        SEGMENT_BYTES_MIN <= segment_bytes <= SEGMENT_BYTES_MAX and segment_bytes % 512 == 0,
        f"segment_bytes: {segment_bytes}, must be a multiple of 512 in {SEGMENT_BYTES_MIN}..{SEGMENT_BYTES_MAX}",
    )
    check(reserve_bytes >= 0, f"reserve_bytes: {reserve_bytes}, must not be negative")
    reserve = max(1, -(-reserve_bytes // segment_bytes))
    try:
        disk.mkdir(directory)
        names = disk.listdir(directory)
        numbers = segment_numbers(names)
        if not numbers:
            return _create(disk, directory, names, segment_bytes, reserve)
        return _reopen(disk, directory, names, numbers, segment_bytes, reserve)
    except OSError as error:
        if is_full(error):
            raise DiskFullError(f"no room to open the log in {directory}: {error}") from error
        raise DiskFailedError(f"the log in {directory} can not be opened: {error}") from error


def _create(disk: Disk, directory: str, names: list[str], segment_bytes: int, reserve: int) -> Opened:
    if any(name.endswith(POOL_SUFFIX) and name != _FIRST_POOL_FILE for name in names):
        # The reserve is made after the first segment: it does not stand alone unless segments were removed.
        raise DamagedError(f"{directory} holds the reserve of a log, and none of its segments. {way_out(directory)}")
    pool = SegmentPool(disk, directory, segment_bytes, 0)
    pool.adopt(names)
    state = LogState()
    writer = SegmentWriter(disk, directory, pool, state)
    writer.roll(NO_INDEX)
    pool.reserve = reserve
    pool.fill(reserve)
    return Opened(disk, pool, writer, Replayed(state=state, numbers=[1]), segment_bytes)


def _reopen(
    disk: Disk, directory: str, names: list[str], numbers: list[int], segment_bytes: int, reserve: int
) -> Opened:
    replayed = replay(disk, directory, numbers)
    # Only now, with the log known to be sound, is anything changed.
    pool = SegmentPool(disk, directory, segment_bytes, reserve)
    pool.adopt(names)
    writer = SegmentWriter(disk, directory, pool, replayed.state)
    file = disk.open(writer.path(numbers[-1]))
    # The name may be in the page cache alone, when the crash came before its directory was synced.
    disk.fsync_dir(directory)
    position, torn_bytes = mend(disk, file, replayed)
    writer.resume(file, position)
    assert replayed.tail is not None
    if replayed.tail.last_group_records:
        writer.mark(replayed.state.last_index)
    pool.fill(reserve)
    words = torn_words(replayed)
    replayed.tail_bytes = b""
    return Opened(disk, pool, writer, replayed, segment_bytes, torn_bytes, words)
