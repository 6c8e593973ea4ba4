"""The archive of a node's op logs: what is trimmed is written here before it is gone (WS-54).

Owns: DATA/archive/oplog/WORKSPACE/FIRST-LAST.seg: which segments there are, joining small ones, and how long they stay.
Never: decides what is trimmed; blocks the loop.
Invariants: no flush of the state that lacks a trimmed record starts before the record is durable here (`synced`), so
whenever the power goes, it is in the one or the other; a record is archived once, however often its trim is replayed;
segments are joined by writing the joined one first. Where a node has got its state from another one, a gap is left, and
the chain goes on over it.
Threads: `trimmed` on the loop; the writing beside it, or by whoever calls `sync`, one at a time.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from hypercluster.errors import DamagedError, DiskFailedError, FatalError, TurnedAwayError
from hypercluster.limits import ARCHIVE_BYTES_MAX, ARCHIVE_KEEP_DAYS, MIB
from hypercluster.pb.v1.workspace_command_pb2 import LogBatch
from hypercluster.storage.archive.segment import (
    NEW,
    SUFFIX,
    Record,
    Segment,
    chain_start,
    open_segment,
    read_segment,
    write_segment,
)
from hypercluster.storage.disk import Disk
from hypercluster.storage.rocks import HeldRecords
from hypercluster.storage.runner import Done, Runner

log = logging.getLogger(__name__)

SMALL_BYTES: Final = 4 * MIB  # a segment below this is joined with its neighbours
JOINED_BYTES_MAX: Final = 64 * MIB
JOIN_AT: Final = 16  # small segments in a row
TAKE: Final = 64
_DAY_NS: Final = 86_400 * 1_000_000_000


@dataclass(frozen=True, slots=True)
class ArchiveSettings:
    keep_days: int = ARCHIVE_KEEP_DAYS
    bytes_max: int = ARCHIVE_BYTES_MAX


@dataclass(frozen=True, slots=True)
class _Trim:
    workspace_id: bytes
    count: int
    held: HeldRecords


class OplogArchive:
    """`storage.barriers.Barrier`."""

    def __init__(
        self,
        path: str,
        disk: Disk,
        runner: Runner,
        history_id: bytes,
        settings: ArchiveSettings,
    ) -> None:
        self._path = path
        self._disk = disk
        self._runner = runner
        self._history_id = history_id
        self._settings = settings
        self.early_drops = 0  # segments that went before their time
        self._segments: dict[bytes, list[Segment]] = {}
        self._pending: deque[_Trim] = deque()
        self._lock = threading.Lock()  # one writer
        self._failed: BaseException | None = None
        self.damaged: list[str] = []
        disk.mkdir(path)
        for name in disk.listdir(path):
            if len(name) == 32:
                self._open(bytes.fromhex(name))

    def _open(self, workspace_id: bytes) -> None:
        directory = self._directory(workspace_id)
        found: list[Segment] = []
        for name in self._disk.listdir(directory):
            path = os.path.join(directory, name)
            if name.endswith(NEW):
                self._disk.unlink(path)  # a writer was killed before the rename
            elif name.endswith(SUFFIX):
                try:
                    found.append(open_segment(self._disk, path))
                except DamagedError as error:
                    self.damaged.append(str(error))
        # Of a join that was killed before it removed its parts, the joined one stays.
        found.sort(key=lambda segment: (segment.first_index, -segment.last_index))
        kept: list[Segment] = []
        for segment in found:
            if kept and segment.last_index <= kept[-1].last_index:
                self._disk.unlink(segment.path)
            else:
                kept.append(segment)
        self._segments[workspace_id] = kept

    # --- reading -----------------------------------------------------------------------------------

    @property
    def size_bytes(self) -> int:
        return sum(segment.size_bytes for segments in list(self._segments.values()) for segment in list(segments))

    def segments(self, workspace_id: bytes) -> tuple[Segment, ...]:
        """In order."""
        return tuple(self._segments.get(workspace_id, ()))

    def workspaces(self) -> list[bytes]:
        return sorted(self._segments)

    # --- what is trimmed -----------------------------------------------------------------------------

    def trimmed(self, workspace_id: bytes, count: int, held: HeldRecords) -> None:
        """The first `count` of the records held leave the op log. Called before the state is without them."""
        self._pending.append(_Trim(workspace_id, count, held))
        self._runner.submit(self.sync, self._noticed)

    def _noticed(self, error: BaseException | None) -> None:
        """The flush that waits for it raises what is kept in `_failed`."""
        del error

    def synced(self) -> bool:
        """Everything that left the op log is durable here."""
        return not self._pending and self._failed is None

    def start_sync(self, done: Done) -> None:
        self._runner.submit(self.sync, done)

    def sync(self) -> None:
        """Blocks until everything trimmed so far is durable here. A failure is final (CL-4)."""
        with self._lock:
            if self._failed is not None:
                raise self._failed
            while self._pending:
                trim = self._pending[0]
                try:
                    self._archive(trim)
                except TurnedAwayError:  # the state was replaced by a checkpoint, in which they are not
                    fields = {"workspace": trim.workspace_id.hex(), "records": trim.count}
                    log.warning("op log records went with a replaced state, unarchived", extra={"fields": fields})
                except OSError as error:
                    self._failed = DiskFailedError(f"writing the op log archive {self._path} failed: {error}")
                    raise self._failed from error
                except FatalError as error:
                    self._failed = error
                    raise
                trim.held.end()
                self._pending.popleft()

    def _archive(self, trim: _Trim) -> None:
        segments = self._segments.setdefault(trim.workspace_id, [])
        archived = segments[-1].last_index if segments else 0
        records = [record for record in _held_records(trim) if _last_index(record[1]) > archived]
        if not records:
            return
        directory = self._directory(trim.workspace_id)
        self._disk.mkdir(directory)
        chain = segments[-1].chain_after if segments else chain_start(self._history_id, trim.workspace_id)
        last_index = _last_index(records[-1][1])
        segments.append(
            write_segment(self._disk, directory, self._history_id, trim.workspace_id, chain, records, last_index)
        )

    def _directory(self, workspace_id: bytes) -> str:
        return os.path.join(self._path, workspace_id.hex())

    # --- upkeep ------------------------------------------------------------------------------------

    def upkeep(self, now_ns: int) -> None:
        """Joins small segments, and lets go of what is too old or too much. Blocks; beside the loop."""
        with self._lock:
            for workspace_id in self.workspaces():
                while self._join(workspace_id):
                    continue
            self._drop_old(now_ns)
            self._drop_over_budget()

    def _join(self, workspace_id: bytes) -> bool:
        """One run of small segments that follow each other without a gap."""
        segments = self._segments[workspace_id]
        begin = 0
        while begin < len(segments):
            end, size_bytes = begin, 0
            while end < len(segments) and self._joins(segments, begin, end, size_bytes):
                size_bytes += segments[end].size_bytes
                end += 1
            if end - begin >= JOIN_AT:
                self._replace(workspace_id, begin, end)
                return True
            begin = max(end, begin + 1)
        return False

    def _joins(self, segments: list[Segment], begin: int, end: int, size_bytes: int) -> bool:
        segment = segments[end]
        if segment.size_bytes >= SMALL_BYTES or size_bytes + segment.size_bytes > JOINED_BYTES_MAX:
            return False
        return end == begin or segment.first_index == segments[end - 1].last_index + 1

    def _replace(self, workspace_id: bytes, begin: int, end: int) -> None:
        segments = self._segments[workspace_id]
        parts = segments[begin:end]

        def records() -> Iterator[Record]:
            for part in parts:
                yield from read_segment(self._disk, part)

        directory = self._directory(workspace_id)
        joined = write_segment(
            self._disk,
            directory,
            parts[0].history_id,
            workspace_id,
            parts[0].chain_before,
            records(),
            parts[-1].last_index,
        )
        if joined.chain_after != parts[-1].chain_after:
            self._disk.unlink(joined.path)
            raise DamagedError(f"the segments {parts[0].path} to {parts[-1].path} do not hold what they were made of")
        segments[begin:end] = [joined]
        self._unlink(parts)

    def _drop_old(self, now_ns: int) -> None:
        for workspace_id, segments in self._segments.items():
            too_old = now_ns - self._settings.keep_days * _DAY_NS
            gone = [segment for segment in segments if segment.last_stamp_ns < too_old]
            self._segments[workspace_id] = [segment for segment in segments if segment not in gone]
            self._unlink(gone)

    def _drop_over_budget(self) -> None:
        """The oldest go early, over all workspaces, and that is said aloud."""
        over_bytes = self.size_bytes - self._settings.bytes_max
        oldest = sorted((s for every in self._segments.values() for s in every), key=lambda s: s.last_stamp_ns)
        for segment in oldest:
            if over_bytes <= 0:
                return
            over_bytes -= segment.size_bytes
            self._segments[segment.workspace_id].remove(segment)
            self._unlink([segment])
            self.early_drops += 1
            fields = {"segment": segment.path, "bytes": segment.size_bytes, "budget": self._settings.bytes_max}
            log.error("the op log archive is over its budget: its oldest part goes early", extra={"fields": fields})

    def _unlink(self, segments: list[Segment]) -> None:
        for segment in segments:
            self._disk.unlink(segment.path)
        for directory in {os.path.dirname(segment.path) for segment in segments}:
            self._disk.fsync_dir(directory)


def _held_records(trim: _Trim) -> Iterator[Record]:
    left = trim.count
    while left > 0:
        pairs = trim.held.take(min(left, TAKE))
        if not pairs:
            return
        left -= len(pairs)
        for key, batch in pairs:
            yield int.from_bytes(key[-8:], "big"), batch


def _last_index(batch: bytes) -> int:
    return LogBatch.FromString(batch).records[-1].log_index
