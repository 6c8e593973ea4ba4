"""Read-only inspection of a log's directory, for `hypercluster wal inspect`: also of one that does not open.

Owns: `inspect`, `inspect_segment` and the records they return.
Never: changes, creates or removes anything; raises because of damage (it is what is being looked at).
Invariants: the verdict is the one that opening the log would come to, by the same code.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from hypercluster.errors import DamagedError
from hypercluster.storage.disk import Disk
from hypercluster.storage.wal.format import (
    GROUP_HEADER_BYTES,
    FormatError,
    GroupHeader,
    Record,
    RecordKind,
    SegmentHeader,
)
from hypercluster.storage.wal.replay import Replayed, replay, segment_numbers, torn_words
from hypercluster.storage.wal.scan import Damage, read_segment, scan_segment
from hypercluster.storage.wal.types import HardState
from hypercluster.storage.wal.writer import segment_name
from hypercluster.values import Index, NodeId, Term


class Verdict(Enum):
    EMPTY = "empty"  # no log here
    SOUND = "sound"
    TORN = "torn"  # opening cuts off the tail, as after a crash
    DAMAGED = "damaged"  # opening refuses


@dataclass(frozen=True, slots=True)
class RecordLine:
    """`index` and `term` are 0 where the kind has none."""

    offset: int
    kind: RecordKind
    index: Index
    term: Term
    payload_bytes: int
    voted_for: NodeId | None


@dataclass(frozen=True, slots=True)
class GroupLine:
    offset: int
    end: int
    number: int
    durable_offset: int
    durable_index: Index
    records: tuple[RecordLine, ...]


@dataclass(frozen=True, slots=True)
class SegmentReport:
    """`header` is None and `damage` set when not even the header verifies."""

    number: int
    path: str
    size_bytes: int
    header: SegmentHeader | None
    groups: tuple[GroupLine, ...]
    end: int
    damage: Damage | None


@dataclass(frozen=True, slots=True)
class Inspection:
    """What opening would find. `explanation` names the first damage or the torn tail; '' when there is none."""

    verdict: Verdict
    explanation: str
    segments: tuple[int, ...]
    base_index: Index
    base_term: Term
    last_index: Index
    commit_index: Index
    hard_state: HardState


def inspect(disk: Disk, directory: str) -> Inspection:
    """Raises OSError when the directory or a segment can not be read at all."""
    numbers = segment_numbers(disk.listdir(directory))
    if not numbers:
        return _inspection(Verdict.EMPTY, f"{directory} holds no segment of a log", Replayed())
    try:
        replayed = replay(disk, directory, numbers)
    except DamagedError as error:
        return _inspection(Verdict.DAMAGED, str(error), Replayed(numbers=numbers))
    words = torn_words(replayed)
    return _inspection(Verdict.TORN if words else Verdict.SOUND, words, replayed)


def _inspection(verdict: Verdict, explanation: str, found: Replayed) -> Inspection:
    state = found.state
    return Inspection(
        verdict=verdict,
        explanation=explanation,
        segments=tuple(found.numbers),
        base_index=state.base_index,
        base_term=state.base_term,
        last_index=state.last_index,
        commit_index=state.commit_index,
        hard_state=state.hard_state,
    )


def inspect_segments(disk: Disk, directory: str) -> Iterator[SegmentReport]:
    """One segment at a time, oldest first, so that a long log needs no more memory than its largest segment."""
    for number in segment_numbers(disk.listdir(directory)):
        yield inspect_segment(disk, directory, number)


def inspect_segment(disk: Disk, directory: str, number: int) -> SegmentReport:
    """Every group that verifies, up to the first that does not."""
    path = f"{directory}/{segment_name(number)}"
    groups: list[GroupLine] = []
    size_bytes = 0
    try:
        content = read_segment(disk, path)
        size_bytes = len(content)
        scan = scan_segment(content, number, lambda group, records: groups.append(_group_line(group, records)))
    except FormatError as error:
        damage = Damage(offset=0, what=str(error), torn=False, bytes_total=size_bytes)
        return SegmentReport(number, path, size_bytes, None, (), 0, damage)
    return SegmentReport(number, path, size_bytes, scan.header, tuple(groups), scan.end, scan.damage)


def _group_line(group: GroupHeader, records: list[Record]) -> GroupLine:
    lines: list[RecordLine] = []
    at = group.offset + GROUP_HEADER_BYTES
    for one in records:
        lines.append(RecordLine(at, one.kind, one.index, one.term, len(one.payload), one.voted_for))
        at += one.size_bytes
    return GroupLine(group.offset, group.end, group.number, group.durable_offset, group.durable_index, tuple(lines))
