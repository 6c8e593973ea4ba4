"""Brings a log's memory back from its segments, and mends the one thing that may be mended: a torn tail.

Owns: `replay` (reads only) and `mend` (cuts the tail, makes what was read durable).
Never: guesses. Whatever is damaged and not a torn tail is a DamagedError that names file, offset and way out.
Invariants:
- Nothing is reported as being in the log before it has been written again and synced: what a crashed process left
  in the page cache, even after a failed fsync, is not yet on the disk.
- A cut tail is zeroed and synced before anything is appended, so that it can not come back behind newer groups.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from hypercluster.errors import REJOIN, DamagedError
from hypercluster.limits import MIB
from hypercluster.storage.disk import Disk, File
from hypercluster.storage.wal.format import (
    GROUP_HEADER_BYTES,
    SEGMENT_HEADER_BYTES,
    FormatError,
    GroupHeader,
    Record,
    RecordKind,
    decode_group_header,
    decode_segment_header,
)
from hypercluster.storage.wal.scan import SegmentScan, read_segment, scan_segment
from hypercluster.storage.wal.state import Locations, LogState, TermRuns
from hypercluster.storage.wal.writer import SEGMENT_SUFFIX, WritePosition, segment_name
from hypercluster.values import Index

_ZERO_BYTES: Final = 1 * MIB
_NAME_DIGITS: Final = 16


def segment_numbers(names: list[str]) -> list[int]:
    stems = (name.removesuffix(SEGMENT_SUFFIX) for name in names if name.endswith(SEGMENT_SUFFIX))
    return sorted(int(stem) for stem in stems if len(stem) == _NAME_DIGITS and stem.isdigit())


def damaged(directory: str, number: int, offset: int, what: str) -> DamagedError:
    return DamagedError(
        f"{directory}/{segment_name(number)} is damaged at offset {offset}: {what}. {way_out(directory)}"
    )


def way_out(directory: str) -> str:
    """`directory` is the log's; the command takes the data directory that it is part of."""
    return f"Nothing was changed. Look with `hypercluster wal inspect {os.path.dirname(directory) or '.'}`. {REJOIN}"


@dataclass(slots=True)
class Replayed:
    """`tail` is the newest segment's scan, `tail_bytes` its content."""

    state: LogState = field(default_factory=LogState)
    terms: TermRuns = field(default_factory=TermRuns)
    locations: Locations = field(default_factory=lambda: Locations(Index(1)))
    numbers: list[int] = field(default_factory=list)
    tail: SegmentScan | None = None
    tail_bytes: bytes = b""
    resync_from: int = 0  # in the newest segment: what lies above has no later witness that it was synced

    def take(self, number: int, group: GroupHeader, records: list[Record]) -> None:
        at = group.offset + GROUP_HEADER_BYTES
        for change in records:
            self.state.apply(change)
            follow(self.locations, change, number, at)
            match change.kind:
                case RecordKind.ENTRY:
                    self.terms.append(change.index, change.term)
                case RecordKind.TRUNCATE_FROM:
                    self.terms.truncate_from(change.index)
                case RecordKind.RESET:
                    self.terms.clear()
                case _:
                    pass
            at += change.size_bytes
        self.resync_from = group.durable_offset


def follow(locations: Locations, change: Record, segment: int, offset: int) -> None:
    """What one record means for where entries lie."""
    match change.kind:
        case RecordKind.ENTRY:
            locations.append(change.index, segment, offset, change.size_bytes)
        case RecordKind.TRUNCATE_FROM:
            locations.truncate_from(change.index)
        case RecordKind.BASE:
            locations.drop_to(change.index)
        case RecordKind.RESET:
            locations.reset(change.index)
        case RecordKind.HARD_STATE | RecordKind.COMMIT | RecordKind.SEALED:
            pass


def replay(disk: Disk, directory: str, numbers: list[int]) -> Replayed:
    """Reads every segment, oldest first. Raises DamagedError; changes nothing."""
    result = Replayed(numbers=numbers)
    before: SegmentScan | None = None
    for number in numbers:
        if before is not None and number != before.header.number + 1:
            raise damaged(directory, before.header.number + 1, 0, "the segment is missing")
        try:
            content = read_segment(disk, f"{directory}/{segment_name(number)}")
            if before is None:
                _start(result, content)
            scan = scan_segment(content, number, partial(result.take, number))
        except FormatError as error:
            raise damaged(directory, number, 0, str(error)) from None
        if before is not None:
            _check_joint(directory, before, scan)
        if scan.damage is not None and not scan.damage.torn:
            raise damaged(directory, number, scan.damage.offset, scan.damage.what)
        before = scan
        result.tail_bytes = content
    if before is not None and before.sealed:
        raise damaged(directory, before.header.number + 1, 0, "the segment is missing")
    result.tail = before
    _check_whole(directory, result)
    return result


def _start(result: Replayed, content: bytes) -> None:
    """The oldest segment that is left says where the log stood when it was made."""
    header = decode_segment_header(content[:SEGMENT_HEADER_BYTES])[1]
    result.state.last_index = Index(header.first_index - 1)
    result.state.base_index = header.base_index
    result.state.base_term = header.base_term
    result.locations = Locations(header.first_index)


def _check_joint(directory: str, before: SegmentScan, scan: SegmentScan) -> None:
    """A segment that has a successor was synced to its end before."""
    if before.joint != (scan.header.previous_end, scan.header.previous_chain):
        what = before.damage.what if before.damage else "a group is missing"
        successor = f"segment {scan.header.number} says that it was synced up to offset {scan.header.previous_end}"
        raise damaged(directory, before.header.number, before.end, f"{what}, and {successor}")


def _check_whole(directory: str, result: Replayed) -> None:
    state, locations = result.state, result.locations
    if locations.first > state.base_index + 1:
        what = f"entries {state.base_index + 1} to {locations.first - 1} are in a segment that is missing"
        raise damaged(directory, result.numbers[0], 0, what)
    locations.drop_to(state.base_index)
    result.terms.drop_to(state.base_index)
    if locations.next_index != state.last_index + 1:
        what = f"the entries end at {locations.next_index - 1} and the log at {state.last_index}"
        raise damaged(directory, result.numbers[-1], 0, what)
    state.commit_index = Index(min(max(state.commit_index, state.base_index), state.last_index))


def mend(disk: Disk, file: File, result: Replayed) -> tuple[WritePosition, int]:
    """Makes the newest segment durable as it was read and zero behind. Returns (position, bytes cut off)."""
    assert result.tail is not None
    tail = result.tail
    torn = tail.damage.bytes_total if tail.damage else 0
    end = tail.end + torn
    for at in range(tail.end, end, _ZERO_BYTES):
        file.pwrite(bytes(min(_ZERO_BYTES, end - at)), at)
    # Written again, not only synced: after a failed fsync the kernel calls pages clean that never reached the disk.
    again = max(result.resync_from, tail.header.head_end)
    if again < tail.end:
        file.pwrite(result.tail_bytes[again : tail.end], again)
    file.fdatasync()
    header = tail.header
    return (
        WritePosition(
            number=header.number,
            seed=tail.seed,
            capacity_bytes=header.capacity_bytes,
            offset=tail.end,
            chain=tail.chain,
            group_number=tail.group_number,
            durable_offset=tail.end,
        ),
        torn,
    )


def torn_words(result: Replayed) -> str:
    """For people: what the cut tail may have held."""
    assert result.tail is not None
    damage = result.tail.damage
    if damage is None:
        return ""
    words = f"{damage.bytes_total} bytes from offset {damage.offset} of segment {result.tail.header.number}"
    words += f" ({damage.what}), behind entry {result.state.last_index}"
    try:
        group = decode_group_header(result.tail.seed, result.tail_bytes, damage.offset)
    except FormatError:
        return words
    return f"{words}; the group there had {group.record_count} records"
