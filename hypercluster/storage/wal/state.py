"""What the records of a log add up to, without the entries themselves.

Owns: `LogState`, advanced record by record in exactly one way, by replay on open and by the writer, which repeats it
at the head of every new segment; `TermRuns`, the terms of the log as runs; `Locations`, where each entry lies on disk.
Never: I/O.
Invariants: records of one kind mean the same here whether they were just written or are read after a crash; memory
for the log is a few machine words an entry in arrays, never a list of entries.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from dataclasses import dataclass, field
from typing import NamedTuple, assert_never

from hypercluster.errors import check
from hypercluster.storage.wal.format import FormatError, Record, RecordKind, hard_state_record, record
from hypercluster.storage.wal.types import HardState
from hypercluster.values import NO_INDEX, NO_TERM, Index, Term


@dataclass(slots=True)
class LogState:
    hard_state: HardState = field(default_factory=lambda: HardState(NO_TERM, None))
    base_index: Index = NO_INDEX
    base_term: Term = NO_TERM
    commit_index: Index = NO_INDEX
    last_index: Index = NO_INDEX

    def apply(self, change: Record) -> None:
        """Raises FormatError when the record can not follow what came before."""
        match change.kind:
            case RecordKind.ENTRY:
                if change.index != self.last_index + 1:
                    raise FormatError(f"entry {change.index} follows entry {self.last_index}")
                self.last_index = change.index
            case RecordKind.TRUNCATE_FROM:
                if not self.base_index < change.index <= self.last_index + 1:
                    raise FormatError(
                        f"a truncation from {change.index} in a log of {self.base_index + 1} to {self.last_index}"
                    )
                self.last_index = Index(change.index - 1)
            case RecordKind.HARD_STATE:
                if change.term < self.hard_state.term:
                    raise FormatError(f"the term falls from {self.hard_state.term} to {change.term}")
                self.hard_state = HardState(change.term, change.voted_for)
            case RecordKind.COMMIT:
                self.commit_index = max(self.commit_index, change.index)
            case RecordKind.BASE:
                if change.index > self.last_index:
                    raise FormatError(f"a base at {change.index} above the last entry {self.last_index}")
                self._move_base(change)
            case RecordKind.RESET:
                self._move_base(change)
                self.last_index = change.index
            case RecordKind.SEALED:
                pass
            case _ as never:
                assert_never(never)

    def _move_base(self, change: Record) -> None:
        if change.index < self.base_index:
            raise FormatError(f"the base falls from {self.base_index} to {change.index}")
        self.base_index = change.index
        self.base_term = change.term
        self.commit_index = max(self.commit_index, change.index)

    def head_records(self) -> list[Record]:
        """What every new segment repeats, so that an older one can always go."""
        return [
            hard_state_record(self.hard_state.term, self.hard_state.voted_for),
            record(RecordKind.BASE, self.base_index, self.base_term),
            record(RecordKind.COMMIT, self.commit_index),
        ]


class TermRuns:
    """The term of every index above the base, as runs of equal terms."""

    __slots__ = ("_starts", "_terms")

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._terms: list[Term] = []

    def append(self, index: Index, term: Term) -> None:
        if not self._terms or self._terms[-1] != term:
            self._starts.append(index)
            self._terms.append(term)

    def truncate_from(self, index: Index) -> None:
        while self._starts and self._starts[-1] >= index:
            self._starts.pop()
            self._terms.pop()

    def drop_to(self, index: Index) -> None:
        """Forgets runs that end at or below `index`."""
        whole = bisect_right(self._starts, index + 1) - 1
        if whole > 0:
            del self._starts[:whole]
            del self._terms[:whole]

    def clear(self) -> None:
        self._starts.clear()
        self._terms.clear()

    def at(self, index: Index) -> Term:
        """`index` is in the log (the caller has checked)."""
        run = bisect_right(self._starts, index) - 1
        check(run >= 0, f"no term is known for index {index}")
        return self._terms[run]


class Location(NamedTuple):
    segment: int
    offset: int
    size_bytes: int


class Locations:
    """Where the entries that are on disk lie: consecutive indexes from `first`."""

    __slots__ = ("_offsets", "_segments", "_sizes", "first")

    def __init__(self, first: Index) -> None:
        self.first = first
        self._segments = array("I")
        self._offsets = array("I")
        self._sizes = array("I")

    def __len__(self) -> int:
        return len(self._offsets)

    @property
    def next_index(self) -> Index:
        return Index(self.first + len(self._offsets))

    def append(self, index: Index, segment: int, offset: int, size_bytes: int) -> None:
        check(index == self.next_index, f"location of {index} comes after {self.next_index - 1}")
        self._segments.append(segment)
        self._offsets.append(offset)
        self._sizes.append(size_bytes)

    def truncate_from(self, index: Index) -> None:
        keep = max(0, index - self.first)
        for column in (self._segments, self._offsets, self._sizes):
            del column[keep:]
        self.first = min(self.first, index)

    def drop_to(self, index: Index) -> None:
        """Forgets everything at or below `index`."""
        gone = index + 1 - self.first
        if gone > 0:
            for column in (self._segments, self._offsets, self._sizes):
                del column[:gone]
            self.first = Index(index + 1)

    def reset(self, index: Index) -> None:
        for column in (self._segments, self._offsets, self._sizes):
            del column[:]
        self.first = Index(index + 1)

    def at(self, index: Index) -> Location:
        at = index - self.first
        check(0 <= at < len(self._offsets), f"entry {index} has no location on disk")
        return Location(self._segments[at], self._offsets[at], self._sizes[at])

    def lowest_segment(self) -> int | None:
        """The oldest segment that holds one of these entries."""
        return self._segments[0] if self._segments else None
