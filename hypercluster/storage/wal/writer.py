"""Writes groups into the newest segment and rolls to the next: everything that happens on the sync thread.

Owns: the newest segment's file, its write position and chain, and deletion of old segments.
Never: reads the log back, or is called by two threads at once (one job is out at a time).
Invariants:
- A job's records go out as one group, or, past GROUP_BYTES_MAX or the end of a segment, as several in order, each
  whole or not at all.
- Before a new segment gets its name, everything in the one before it is synced, and so is its own head, which
  repeats hard state, base and commit index as of that point of the log.
- An old segment is unlinked only after the record that moved the base has been synced, oldest first.
- An OSError is final (CL-4): `failed` is set, and nothing is written again.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from hypercluster.errors import DiskFailedError, FatalError, check
from hypercluster.limits import KIB, MIB
from hypercluster.storage.disk import Disk, File
from hypercluster.storage.wal.format import (
    GROUP_HEADER_BYTES,
    RECORD_HEADER_BYTES,
    SEGMENT_HEADER_BYTES,
    Record,
    RecordKind,
    SegmentHeader,
    encode_group,
    encode_segment_header,
    group_bytes,
    record,
)
from hypercluster.storage.wal.pool import HEAD_BYTES, SegmentPool
from hypercluster.storage.wal.state import Location, LogState
from hypercluster.values import Index

GROUP_BYTES_MAX: Final = 4 * MIB
STEP_BYTES: Final = 64 * KIB  # zeros written for the next segment beside every sync, and twice the job's own bytes
SEAL_BYTES: Final = group_bytes(RECORD_HEADER_BYTES)  # kept free at the end of every segment
SEGMENT_SUFFIX: Final = ".wal"


def segment_name(number: int) -> str:
    return f"{number:016d}{SEGMENT_SUFFIX}"


def record_bytes_max(segment_bytes: int) -> int:
    """The largest record that fits an empty segment behind its head."""
    return segment_bytes - HEAD_BYTES - group_bytes(0) - SEAL_BYTES


@dataclass(slots=True)
class WritePosition:
    """Where the newest segment stands."""

    number: int
    seed: int  # the CRC of its header
    capacity_bytes: int
    offset: int
    chain: int  # the CRC of its last group header
    group_number: int  # of the last group
    durable_offset: int


@dataclass(slots=True)
class _Group:
    parts: list[bytes] = field(default_factory=list)
    bytes_total: int = 0
    records: int = 0


class SegmentWriter:
    def __init__(self, disk: Disk, directory: str, pool: SegmentPool, state: LogState) -> None:
        self._disk = disk
        self._directory = directory
        self._pool = pool
        self._state = state
        self._file: File | None = None
        self.position = WritePosition(0, 0, 0, 0, 0, 0, 0)
        self.failed: str = ""  # why nothing can be written any more

    def resume(self, file: File, position: WritePosition) -> None:
        self._file = file
        self.position = position

    @property
    def free_bytes(self) -> int:
        """What is left of the newest segment."""
        return max(0, self.position.capacity_bytes - self.position.offset - SEAL_BYTES)

    def path(self, number: int) -> str:
        return f"{self._directory}/{segment_name(number)}"

    def run(self, records: list[Record], durable_index: Index, delete: range, refill_bytes: int) -> list[Location]:
        """Writes, syncs, then unlinks the segments `delete`. Returns where the entries are, in order."""
        if self.failed:
            raise DiskFailedError(self.failed)
        try:
            locations = self.write(records, durable_index) if records else []
            for number in delete:
                self._disk.unlink(self.path(number))
                # Synced one by one, so that no file system can bring back an older one alone.
                self._disk.fsync_dir(self._directory)
            if self._pool.full or self._pool.ready < self._pool.reserve:
                self._pool.fill(self._pool.reserve + 1)
            else:
                self._pool.step(refill_bytes)
        except OSError as error:
            self.failed = f"the log in {self._directory} failed and is not retried: {error}"
            raise DiskFailedError(self.failed) from error
        except (FatalError, Exception) as error:
            # A defect. What of the job is on disk is unknown, so nothing may follow it.
            self.failed = f"the log in {self._directory} stopped: {error}"
            raise
        return locations

    def write(self, records: list[Record], durable_index: Index) -> list[Location]:
        locations: list[Location] = []
        group = _Group()
        # The mark stays where the job began: what this job wrote is not synced yet.
        for change in records:
            size = RECORD_HEADER_BYTES + len(change.payload)
            if group.records and (group.bytes_total + size > GROUP_BYTES_MAX or not self._fits(group, size)):
                self._flush(group, durable_index)
                group = _Group()
            if not self._fits(group, size):
                self.roll(durable_index)
            check(self._fits(group, size), f"a record of {size} bytes does not fit a segment")
            if change.kind is RecordKind.ENTRY:
                at = self.position.offset + GROUP_HEADER_BYTES + group.bytes_total
                locations.append(Location(self.position.number, at, size))
            group.parts.append(change.head)
            if change.payload:
                group.parts.append(change.payload)
            group.bytes_total += size
            group.records += 1
            self._state.apply(change)
        self._flush(group, durable_index)
        self._sync()
        return locations

    def _fits(self, group: _Group, size_bytes: int) -> bool:
        need = group_bytes(group.bytes_total + size_bytes)
        return self.position.offset + need <= self.position.capacity_bytes - SEAL_BYTES

    def _flush(self, group: _Group, durable_index: Index) -> None:
        position = self.position
        assert self._file is not None
        crc, encoded = encode_group(
            position.seed,
            body=b"".join(group.parts),
            number=position.group_number + 1,
            offset=position.offset,
            durable_offset=position.durable_offset,
            durable_index=durable_index,
            record_count=group.records,
            previous=position.chain,
        )
        self._file.pwrite(encoded, position.offset)
        position.offset += len(encoded)
        position.chain = crc
        position.group_number += 1

    def _sync(self) -> None:
        if self.position.durable_offset < self.position.offset:
            assert self._file is not None
            self._file.fdatasync()
            self.position.durable_offset = self.position.offset

    def mark(self, durable_index: Index) -> None:
        """A group without records: states that everything before it is durable."""
        if self.free_bytes >= group_bytes(0):
            self._flush(_Group(), durable_index)
            self._sync()

    def roll(self, durable_index: Index) -> None:
        """Starts the next segment (the first one in a new log)."""
        old, old_file = self.position, self._file
        if old_file is not None:
            self._sync()
        taken = self._pool.take()
        self._file = file = self._disk.open(taken)
        capacity = file.size()
        head = self._state.head_records()
        body = b"".join(part for change in head for part in (change.head, change.payload))
        head_end = SEGMENT_HEADER_BYTES + group_bytes(len(body))
        check(head_end <= HEAD_BYTES, "the head of a segment must stay within its bounds")
        number = old.number + 1
        seed, header = encode_segment_header(
            SegmentHeader(
                number=number,
                capacity_bytes=capacity,
                first_index=Index(self._state.last_index + 1),
                base_index=self._state.base_index,
                base_term=self._state.base_term,
                previous_end=old.offset,
                previous_chain=old.chain,
                head_end=head_end,
            )
        )
        chain, group = encode_group(
            seed,
            body=body,
            number=old.group_number + 1,
            offset=SEGMENT_HEADER_BYTES,
            durable_offset=SEGMENT_HEADER_BYTES,
            durable_index=durable_index,
            record_count=len(head),
            previous=seed,
        )
        file.pwrite(header + group, 0)
        file.fsync()
        self._disk.rename(taken, self.path(number))
        self._disk.fsync_dir(self._directory)
        if old_file is not None:
            self._seal(old, old_file, durable_index)
        self.position = WritePosition(number, seed, capacity, head_end, chain, old.group_number + 1, head_end)

    def _seal(self, old: WritePosition, old_file: File, durable_index: Index) -> None:
        """Leaves word in the old segment that it has a successor, so that a log that lost it is not taken for whole."""
        sealed = record(RecordKind.SEALED)
        _, encoded = encode_group(
            old.seed,
            body=sealed.head,
            number=old.group_number + 1,
            offset=old.offset,
            durable_offset=old.durable_offset,
            durable_index=durable_index,
            record_count=1,
            previous=old.chain,
        )
        if old.offset + len(encoded) <= old.capacity_bytes:
            old_file.pwrite(encoded, old.offset)
            old_file.fdatasync()
        old_file.close()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
