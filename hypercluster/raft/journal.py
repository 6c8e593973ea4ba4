"""The library's journal interface over the durable log.

Owns: the translation of list positions to indexes (position 0 is the virtual base entry: base_index, base_term,
no payload), and the *generations* that say what a message has to wait for before it may leave.
Never: keeps entries itself; wipes the log (the library's `clear` is refused: S9).
Invariants: `log_generation` covers every append and truncation made so far, `hard_generation` every change of term
and vote; the library itself adds nothing but its no-op, which becomes ours.
"""

from __future__ import annotations

from typing import Final, overload

from pysyncobj.journal import Journal

from hypercluster.errors import InvariantError, check
from hypercluster.log.entry import encode_no_op
from hypercluster.storage.wal.types import HardState, LogEntry, WriteAheadLog
from hypercluster.values import Index, NodeId, Term

LIBRARY_NO_OP: Final = b"\x01"
SLICE_BYTES_MAX: Final = 1 << 20  # the library reads one entry at a time; nothing may read the whole log

Row = tuple[bytes, int, int]  # the library's order: command, index, term


class WalJournal(Journal):
    def __init__(self, wal: WriteAheadLog) -> None:
        self.wal = wal
        self.log_generation = 0  # what the log held at start is durable
        self.hard_generation = 0

    # --- what the engine calls ------------------------------

    def append(self, entries: list[LogEntry]) -> None:
        """Raises DiskFullError with nothing appended."""
        generation = self.wal.generation
        self.wal.append(entries)
        self.log_generation = generation

    def truncate_from(self, index: Index) -> None:
        generation = self.wal.generation
        self.wal.truncate_from(index)
        self.log_generation = generation

    def reset_to(self, index: Index, term: Term) -> None:
        generation = self.wal.generation
        self.wal.reset_to(index, term)
        self.log_generation = generation

    # --- what the library calls ------------------------------

    def add(self, command: bytes, idx: int, term: int) -> None:
        check(command == LIBRARY_NO_OP, "the library may add nothing but its no-op")
        self.append([LogEntry(Index(idx), Term(term), encode_no_op())])

    def clear(self) -> None:
        raise InvariantError("the library asked to wipe the log")

    def deleteEntriesFrom(self, entryFrom: int) -> None:
        first = self.wal.base_index + entryFrom
        if first <= self.wal.last_index:
            self.truncate_from(Index(first))

    def deleteEntriesTo(self, entryTo: int) -> None:
        self.wal.compact_to(Index(self.wal.base_index + entryTo))

    def __len__(self) -> int:
        return self.wal.last_index - self.wal.base_index + 1

    @overload
    def __getitem__(self, item: int) -> Row: ...

    @overload
    def __getitem__(self, item: slice) -> list[Row]: ...

    def __getitem__(self, item: int | slice) -> Row | list[Row]:
        if isinstance(item, int):
            position = item if item >= 0 else len(self) + item
            if not 0 <= position < len(self):
                raise IndexError(item)
            return self._row(position)
        start, stop, step = item.indices(len(self))
        check(step == 1, "the journal is read forwards")
        rows: list[Row] = []
        size_bytes = 0
        for position in range(start, stop):
            row = self._row(position)
            rows.append(row)
            size_bytes += len(row[0])
            if size_bytes >= SLICE_BYTES_MAX:
                break
        return rows

    def _row(self, position: int) -> Row:
        if position == 0:
            return b"", self.wal.base_index, self.wal.base_term
        entry = self.wal.entry(Index(self.wal.base_index + position))
        return entry.payload, entry.index, entry.term

    def setRaftCommitIndex(self, raftCommitIndex: int) -> None:
        if raftCommitIndex > self.wal.commit_index:
            self.wal.save_commit_index(Index(raftCommitIndex))

    def getRaftCommitIndex(self) -> int:
        return self.wal.commit_index

    def setCurrentTerm(self, term: int, votedForNodeId: str | None) -> None:
        voted_for = None if votedForNodeId is None else NodeId(votedForNodeId)
        generation = self.wal.generation
        self.wal.save_hard_state(HardState(Term(term), voted_for))
        self.hard_generation = generation

    def getCurrentTerm(self) -> int:
        return self.wal.hard_state.term

    def getVotedForNodeId(self) -> str | None:
        return self.wal.hard_state.voted_for

    def onOneSecondTimer(self) -> None:
        """The library would save its commit index here; ours travels with the log."""

    def _destroy(self) -> None:
        """The log belongs to whoever opened it."""
