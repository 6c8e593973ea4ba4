"""`Wal`: the durable log of a node. The contract is types.py, the bytes are format.py, the reasons DESIGN.md.

Owns: the logical log (terms, hard state, base, commit index, generations), what is buffered, how much room there is.
Never: touches the disk on the loop, except to read an old entry back and to ask how much room is free.
Invariants:
- Memory is ahead of the disk by the buffered mutations and by the one job that is out, never by anything else.
- `durable_index` only grows by `finish`; a truncation or a reset lowers it at once, also for the job that is out.
- An entry is buffered only when there is room for it beyond the reserve.
"""

from __future__ import annotations

from hypercluster.errors import DiskFailedError, DiskFullError, TooLargeError, check
from hypercluster.limits import ENTRY_BYTES_MAX, WAL_RESERVE_BYTES, WAL_SEGMENT_BYTES, WAL_TAIL_CACHE_BYTES
from hypercluster.storage.disk import Disk
from hypercluster.storage.wal.format import (
    RECORD_HEADER_BYTES,
    Record,
    RecordKind,
    group_bytes,
    hard_state_record,
    record,
)
from hypercluster.storage.wal.opening import Opened, open_directory
from hypercluster.storage.wal.reader import EntryReader, TailCache
from hypercluster.storage.wal.replay import follow
from hypercluster.storage.wal.state import Location
from hypercluster.storage.wal.types import HardState, LogEntry, OpenReport, SyncJob
from hypercluster.storage.wal.writer import STEP_BYTES, SegmentWriter, record_bytes_max
from hypercluster.values import Index, Term

_GROUP_OVERHEAD_BYTES = group_bytes(0)
VOTED_FOR_BYTES_MAX = 255
_ENTRY = RecordKind.ENTRY


class WalJob:
    """`SyncJob`: what one generation asks of the disk."""

    __slots__ = ("_durable_index", "_ran", "_writer", "bytes_total", "delete", "generation", "locations", "records")

    def __init__(
        self, writer: SegmentWriter, records: list[Record], generation: int, bytes_total: int, durable_index: Index
    ) -> None:
        self._writer = writer
        self._durable_index = durable_index
        self._ran = False
        self.records = records
        self.generation = generation
        self.bytes_total = bytes_total
        self.delete = range(0)
        self.locations: list[Location] = []

    @property
    def done(self) -> bool:
        return self._ran

    def run(self) -> None:
        check(not self._ran, "a job runs once")
        refill = STEP_BYTES + 2 * self.bytes_total
        self.locations = self._writer.run(self.records, self._durable_index, self.delete, refill)
        self._ran = True


class Wal:
    """`WriteAheadLog`. Use `Wal.open`."""

    def __init__(self, directory: str, opened: Opened, tail_cache_bytes: int) -> None:
        state = opened.replayed.state
        self._directory = directory
        self._disk = opened.disk
        self._pool = opened.pool
        self._writer = opened.writer
        self._segment_bytes = opened.segment_bytes
        self._terms = opened.replayed.terms
        self._locations = opened.replayed.locations
        self._cache = TailCache(tail_cache_bytes)
        self._reader = EntryReader(opened.disk, directory)
        self._hard_state = state.hard_state
        self._base_index = state.base_index
        self._base_term = state.base_term
        self._commit_index = self._commit_saved = state.commit_index
        self._last_index = self._durable_index = state.last_index
        self._generation = 1
        self._durable_generation = 0
        self._pending: list[Record] = []
        self._pending_bytes = 0
        self._job: WalJob | None = None
        self._job_durable_index = self._durable_index  # what durable_index becomes when the job finishes
        self._oldest_segment = opened.replayed.numbers[0]
        self._delete_below = self._oldest_segment
        self._room_wanted = False
        self._active_free_bytes = self._writer.free_bytes
        self._entry_bytes_max = min(ENTRY_BYTES_MAX, record_bytes_max(self._segment_bytes) - RECORD_HEADER_BYTES)
        self._find_deletable()

    @classmethod
    def open(
        cls,
        disk: Disk,
        directory: str,
        *,
        segment_bytes: int = WAL_SEGMENT_BYTES,
        reserve_bytes: int = WAL_RESERVE_BYTES,
        tail_cache_bytes: int = WAL_TAIL_CACHE_BYTES,
    ) -> tuple[Wal, OpenReport]:
        """Makes the log when the directory is empty. Raises DamagedError, DiskFailedError, or DiskFullError when there
        is no room to make it; a log that is there opens on a full disk."""
        opened = open_directory(disk, directory, segment_bytes, reserve_bytes)
        wal = cls(directory, opened, tail_cache_bytes)
        report = OpenReport(
            segments=len(opened.replayed.numbers),
            first_index=Index(wal.base_index + 1),
            last_index=wal.last_index,
            torn_bytes=opened.torn_bytes,
            torn_entries_hint=opened.torn_words,
        )
        return wal, report

    # --- what the log holds ---------------------------------------------------------------------

    @property
    def base_index(self) -> Index:
        return self._base_index

    @property
    def base_term(self) -> Term:
        return self._base_term

    @property
    def last_index(self) -> Index:
        return self._last_index

    @property
    def last_term(self) -> Term:
        return self._base_term if self._last_index == self._base_index else self._terms.at(self._last_index)

    @property
    def durable_index(self) -> Index:
        return self._durable_index

    @property
    def hard_state(self) -> HardState:
        return self._hard_state

    @property
    def commit_index(self) -> Index:
        return self._commit_index

    @property
    def generation(self) -> int:
        return self._generation

    @property
    def durable_generation(self) -> int:
        return self._durable_generation

    @property
    def dirty(self) -> bool:
        return bool(self._pending) or self._room_wanted or self._delete_below > self._oldest_segment

    def term_at(self, index: Index) -> Term | None:
        if index == self._base_index:
            return self._base_term
        if not self._base_index < index <= self._last_index:
            return None
        return self._terms.at(index)

    def entry(self, index: Index) -> LogEntry:
        self._check_usable()
        check(
            self._base_index < index <= self._last_index,
            f"entry {index} of a log of {self._base_index + 1} to {self._last_index}",
        )
        cached = self._cache.get(index)
        if cached is not None:
            return cached
        check(index <= self._durable_index, f"entry {index} is neither in memory nor on disk")
        return self._reader.read(self._locations.at(index), index, self._terms.at(index))

    def entries(self, first: Index, bytes_max: int) -> list[LogEntry]:
        self._check_usable()
        check(first > self._base_index, f"entries from {first} of a log that begins at {self._base_index + 1}")
        found: list[LogEntry] = []
        total = 0
        for index in range(first, self._last_index + 1):
            cached = self._cache.get(Index(index))
            if cached is None and found:
                location = self._locations.at(Index(index))
                if total + location.size_bytes - RECORD_HEADER_BYTES > bytes_max:
                    break
            entry = cached or self.entry(Index(index))
            total += len(entry.payload)
            if found and total > bytes_max:
                break
            found.append(entry)
        return found

    # --- mutations: buffered, in call order -------------------------------------------------------

    def append(self, entries: list[LogEntry]) -> None:
        self._check_usable()
        total = 0
        index, term = self._last_index, self.last_term
        for entry in entries:
            check(entry.index == index + 1, f"entry {entry.index} is appended behind {index}")
            check(entry.term >= term, f"entry {entry.index} has term {entry.term}, the one before it {term}")
            if len(entry.payload) > self._entry_bytes_max:
                raise TooLargeError(f"payload: {len(entry.payload)} bytes, at most {self._entry_bytes_max} are allowed")
            index, term = entry.index, entry.term
            total += len(entry.payload) + RECORD_HEADER_BYTES
        self._require_room(total)
        for entry in entries:
            self._pending.append(record(_ENTRY, entry.index, entry.term, entry.payload))
            self._terms.append(entry.index, entry.term)
            self._cache.add(entry)
        self._pending_bytes += total
        self._last_index = index
        self._cache.evict(self._durable_index)

    def truncate_from(self, index: Index) -> None:
        self._check_usable()
        check(
            index > self._commit_index and index > self._base_index,
            f"truncation from {index} of a log committed to {self._commit_index}, base {self._base_index}",
        )
        if index > self._last_index:
            return
        self._buffer(record(RecordKind.TRUNCATE_FROM, index))
        self._last_index = Index(index - 1)
        self._lower_durable(self._last_index)
        self._terms.truncate_from(index)
        self._cache.truncate_from(index)

    def save_hard_state(self, state: HardState) -> None:
        self._check_usable()
        now = self._hard_state
        check(state.term >= now.term, f"the term would fall from {now.term} to {state.term}")
        if state.term == now.term:
            if state.voted_for == now.voted_for:
                return
            check(now.voted_for is None, f"a second vote in term {now.term}: {now.voted_for}, then {state.voted_for}")
        if state.voted_for is not None and len(state.voted_for.encode()) > VOTED_FOR_BYTES_MAX:
            raise TooLargeError(f"voted_for: at most {VOTED_FOR_BYTES_MAX} bytes are allowed")
        self._buffer(hard_state_record(state.term, state.voted_for))
        self._hard_state = state

    def save_commit_index(self, index: Index) -> None:
        self._check_usable()
        check(index <= self._last_index, f"commit index {index} above the last entry {self._last_index}")
        self._commit_index = max(self._commit_index, index)

    def compact_to(self, index: Index) -> None:
        self._check_usable()
        check(index <= self._last_index, f"compaction to {index} above the last entry {self._last_index}")
        if index <= self._base_index:
            return
        term = self._terms.at(index)
        self._buffer(record(RecordKind.BASE, index, term))
        self._base_index, self._base_term = index, term
        self._commit_index = max(self._commit_index, index)
        self._terms.drop_to(index)
        self._cache.drop_to(Index(min(index, self._durable_index)))

    def reset_to(self, index: Index, term: Term) -> None:
        self._check_usable()
        check(index >= self._commit_index, f"reset to {index} below the commit index {self._commit_index}")
        self._buffer(record(RecordKind.RESET, index, term))
        self._lower_durable(self._base_index)
        self._base_index, self._base_term = index, term
        self._last_index = self._commit_index = index
        self._terms.clear()
        self._cache.clear()

    def _buffer(self, change: Record) -> None:
        self._pending.append(change)
        self._pending_bytes += change.size_bytes

    def _lower_durable(self, index: Index) -> None:
        self._durable_index = min(self._durable_index, index)
        self._job_durable_index = min(self._job_durable_index, index)

    # --- room (CL-4) --------------------------------------------------------------------------------

    def _require_room(self, bytes_wanted: int) -> None:
        """Raises DiskFullError unless `bytes_wanted` more fit what is allocated beyond the reserve, or what is free."""
        in_flight = self._job.bytes_total + _GROUP_OVERHEAD_BYTES if self._job else 0
        need = in_flight + self._pending_bytes + bytes_wanted + 2 * _GROUP_OVERHEAD_BYTES
        spare = self._pool.ready - self._pool.reserve
        if spare >= 0 and need <= self._active_free_bytes:
            return
        further = self._segments_for(need)
        if 0 < further <= spare:
            return
        try:
            free = self._disk.free_bytes(self._directory)
        except OSError as error:
            raise DiskFailedError(f"the free room of {self._directory} can not be read: {error}") from error
        missing = self._pool.missing_bytes
        if free >= missing + (further - 1) * self._segment_bytes and not self._pool.full:
            return
        # A job that only makes room: when it finishes, the log takes entries again.
        self._room_wanted = free >= min(missing, self._segment_bytes)
        raise DiskFullError(
            f"no room for {bytes_wanted} bytes of log in {self._directory}: {free} bytes are free, the reserve is kept"
        )

    def _segments_for(self, bytes_wanted: int) -> int:
        """New segments that take records of so many bytes; at the end of each, less than one entry stays unused."""
        capacity = record_bytes_max(self._segment_bytes)
        if bytes_wanted <= capacity:
            return 1
        return -(-bytes_wanted // max(1, capacity - self._entry_bytes_max))

    # --- durability -----------------------------------------------------------------------------------

    def take_job(self) -> SyncJob | None:
        self._check_usable()
        if self._job is not None or not self.dirty:
            return None
        if self._commit_index > self._commit_saved:
            self._buffer(record(RecordKind.COMMIT, self._commit_index))
            self._commit_saved = self._commit_index
        job = WalJob(self._writer, self._pending, self._generation, self._pending_bytes, self._durable_index)
        job.delete = range(self._oldest_segment, self._delete_below)
        self._reader.forget_below(self._delete_below)
        self._job = job
        self._job_durable_index = self._last_index
        self._pending = []
        self._pending_bytes = 0
        self._room_wanted = False
        self._generation += 1
        return job

    def finish(self, job: SyncJob) -> None:
        self._check_usable()
        check(job is self._job and isinstance(job, WalJob), "finish of a job that is not out")
        assert isinstance(job, WalJob)
        check(job.done, "finish of a job that has not run")
        self._job = None
        at = iter(job.locations)
        for change in job.records:
            if change.kind is _ENTRY:
                where = next(at)
                self._locations.append(change.index, where.segment, where.offset, where.size_bytes)
            else:
                follow(self._locations, change, 0, 0)
        self._durable_index = self._job_durable_index
        self._durable_generation = job.generation
        self._active_free_bytes = self._writer.free_bytes
        self._oldest_segment = max(self._oldest_segment, job.delete.stop)
        self._find_deletable()
        self._cache.drop_to(Index(min(self._base_index, self._durable_index)))
        self._cache.evict(self._durable_index)

    def _find_deletable(self) -> None:
        lowest = self._locations.lowest_segment()
        self._delete_below = max(self._oldest_segment, self._writer.position.number if lowest is None else lowest)

    def sync(self) -> None:
        self._check_usable()
        check(self._job is None, "sync while a job is out")
        while (job := self.take_job()) is not None:
            job.run()
            self.finish(job)

    def _check_usable(self) -> None:
        if self._writer.failed:
            raise DiskFailedError(self._writer.failed)

    def close(self) -> None:
        """What is buffered and not synced is lost, as in a crash."""
        self._writer.close()
        self._pool.close()
        self._reader.close()
