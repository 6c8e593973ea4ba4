"""The contract of the durable log (CL-2 to CL-6).

Owns: `LogEntry`, `HardState`, `WriteAheadLog`, `SyncJob`.
How durability works: every mutation is buffered in memory in call order and belongs to the open *generation*.
`take_job()` closes the generation and hands out one job whose `run()` writes and syncs it, on any thread;
`finish(job)`, back on the loop, makes it durable. At most one job is out at a time. Reads (entry, term_at, …)
see buffered mutations at once. What must not leave the node before it is durable waits for
`durable_generation >= the generation it saw`.
Errors: a failed write or sync raises `DiskFailedError` (CL-4), and the log is unusable afterwards; a full disk
raises `DiskFullError` from `append` before anything is buffered (the reserve keeps room for hard state,
truncation and compaction); damage found on open raises `DamagedError`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from hypercluster.values import Index, NodeId, Term


@dataclass(frozen=True, slots=True)
class LogEntry:
    """`payload` is opaque here; its first byte is the entry type (log/entry.py)."""

    index: Index
    term: Term
    payload: bytes


@dataclass(frozen=True, slots=True)
class HardState:
    """What a node must not forget: its term, and whom it voted for in it (None: nobody)."""

    term: Term
    voted_for: NodeId | None


@dataclass(frozen=True, slots=True)
class OpenReport:
    """What `open` found and did, for the node's log and for `wal inspect`."""

    segments: int
    first_index: Index
    last_index: Index
    torn_bytes: int  # cut off at the end; 0 when the tail was clean
    torn_entries_hint: str  # words for people; '' when the tail was clean


class SyncJob(Protocol):
    @property
    def generation(self) -> int: ...

    @property
    def bytes_total(self) -> int: ...

    def run(self) -> None:
        """Writes and syncs. Blocking; any thread; exactly once. Raises DiskFailedError."""


class WriteAheadLog(Protocol):
    @property
    def base_index(self) -> Index:
        """Compaction point: entries above it are here. 0 in a new log."""

    @property
    def base_term(self) -> Term: ...

    @property
    def last_index(self) -> Index: ...

    @property
    def last_term(self) -> Term: ...

    @property
    def durable_index(self) -> Index:
        """Highest index covered by a finished sync (at most last_index; lower after a truncation)."""

    @property
    def hard_state(self) -> HardState: ...

    @property
    def commit_index(self) -> Index:
        """The highest commit index saved; on open at most last_index and at least base_index."""

    @property
    def generation(self) -> int:
        """The generation that the next buffered mutation belongs to."""

    @property
    def durable_generation(self) -> int:
        """Every mutation of this and earlier generations is on disk."""

    @property
    def dirty(self) -> bool:
        """Something is buffered that no job has taken."""

    def append(self, entries: list[LogEntry]) -> None:
        """Consecutive from last_index + 1."""

    def truncate_from(self, index: Index) -> None:
        """Removes `index` and everything above it. Never at or below commit_index or base_index (InvariantError)."""

    def save_hard_state(self, state: HardState) -> None:
        """The term never falls."""

    def save_commit_index(self, index: Index) -> None:
        """A hint for restart, buffered; needs no sync of its own (does not by itself make the log dirty)."""

    def compact_to(self, index: Index) -> None:
        """Moves the base up to `index` <= last_index; whole segments below it are deleted later, off the hot path."""

    def reset_to(self, index: Index, term: Term) -> None:
        """After a checkpoint that the log does not match: the log becomes empty with this base. All or nothing.
        Keeps hard state."""

    def entry(self, index: Index) -> LogEntry: ...

    def entries(self, first: Index, bytes_max: int) -> list[LogEntry]:
        """From `first` (> base_index) on, at least one if there is one, at most `bytes_max` of payload beyond it."""

    def term_at(self, index: Index) -> Term | None:
        """None below base_index or above last_index; base_term at base_index."""

    def take_job(self) -> SyncJob | None:
        """None when nothing is dirty or a job is out."""

    def finish(self, job: SyncJob) -> None:
        """The job's run() returned: its generation is durable."""

    def sync(self) -> None:
        """take_job, run and finish, inline: for start-up and tools."""

    def close(self) -> None: ...
