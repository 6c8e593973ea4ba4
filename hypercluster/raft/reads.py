"""Linearizable reads by rounds (ReadIndex, Raft 6.4), and how stale a node's state may be (CL-10).

Owns: the reads that wait, and `Freshness`: up to which moment of its own CLOCK_BOOTTIME a node's state is complete.
Never: sends; counts a majority (the engine says which round a quorum has confirmed).
Invariants: a read is answered only by a round that began after it arrived, confirmed by a quorum in the same term,
and once the state holds at least the commit index of its arrival and the leader's own no-op. Freshness never counts
an echo that a quorum has not confirmed after the probe came in.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from hypercluster.limits import READS_PENDING_MAX
from hypercluster.raft.engine import NotProposed, ReadOutcome, ReadReady
from hypercluster.values import Index, Term

ROUNDS_KEPT = 256


@dataclass(frozen=True, slots=True)
class WaitingRead:
    index: Index
    round: int
    done: Callable[[ReadOutcome], None]


class ReadRounds:
    """Reads of one term, in order of arrival."""

    def __init__(self) -> None:
        self._waiting: deque[WaitingRead] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, index: Index, round_needed: int, done: Callable[[ReadOutcome], None]) -> bool:
        """False when READS_PENDING_MAX wait already."""
        if len(self._waiting) >= READS_PENDING_MAX:
            return False
        self._waiting.append(WaitingRead(index, round_needed, done))
        return True

    @property
    def round_wanted(self) -> int:
        """The newest round that a read waits for; 0 when none does."""
        return self._waiting[-1].round if self._waiting else 0

    def take_ready(
        self, term: Term, confirmed_round: int, applied: Index
    ) -> list[tuple[Callable[[ReadOutcome], None], ReadOutcome]]:
        ready: list[tuple[Callable[[ReadOutcome], None], ReadOutcome]] = []
        while self._waiting and self._waiting[0].round <= confirmed_round and self._waiting[0].index <= applied:
            read = self._waiting.popleft()
            ready.append((read.done, ReadReady(read.index, term)))
        return ready

    def take_all(self, outcome: NotProposed) -> list[tuple[Callable[[ReadOutcome], None], ReadOutcome]]:
        failed: list[tuple[Callable[[ReadOutcome], None], ReadOutcome]] = [(r.done, outcome) for r in self._waiting]
        self._waiting.clear()
        return failed


class Freshness:
    """`boottime_ns`: everything committed anywhere before this moment of our own clock is applied here."""

    def __init__(self) -> None:
        self.boottime_ns = 0
        self._rounds: deque[tuple[int, int, Index]] = deque(maxlen=ROUNDS_KEPT)  # leader: round, sent at, commit then
        self._marks: deque[tuple[int, Index]] = deque(maxlen=ROUNDS_KEPT)  # moment, index to be applied for it

    def reset(self) -> None:
        """A new term or role: what has not been confirmed yet never will be."""
        self._rounds.clear()
        self._marks.clear()

    def round_sent(self, round_number: int, boottime_ns: int, commit_index: Index) -> None:
        self._rounds.append((round_number, boottime_ns, commit_index))

    def round_confirmed(self, round_number: int, own_no_op: Index) -> None:
        while self._rounds and self._rounds[0][0] <= round_number:
            _, boottime_ns, commit_index = self._rounds.popleft()
            if commit_index >= own_no_op:
                self._mark(boottime_ns, commit_index)

    def echoed(self, boottime_ns: int, commit_index: Index) -> None:
        """A follower: the leader's answer echoes the probe we sent at `boottime_ns`."""
        if boottime_ns:
            self._mark(boottime_ns, commit_index)

    def _mark(self, boottime_ns: int, index: Index) -> None:
        if not self._marks or boottime_ns > self._marks[-1][0]:
            self._marks.append((boottime_ns, index))

    def applied(self, index: Index) -> None:
        while self._marks and self._marks[0][1] <= index:
            self.boottime_ns = max(self.boottime_ns, self._marks.popleft()[0])
