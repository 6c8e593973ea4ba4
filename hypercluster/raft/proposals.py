"""Proposals from `propose` to their one answer.

Owns: the queue of what is not in the log yet, the table of what is, and `call_safely`.
Never: appends; decides an outcome. The engine names it, this module delivers it.
Invariants: `done` is called exactly once per proposal; what leaves the queue unanswered was never in a log and is
*definitely not*; what was in the log and lost its leader is *unknown*. Both are bounded in number and bytes. An
exception in a callback is logged and goes no further (S7).
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from hypercluster.limits import PENDING_BYTES_MAX, PENDING_OPS_MAX
from hypercluster.raft.engine import ProposalOutcome
from hypercluster.values import Index, Term

log = logging.getLogger(__name__)


Outcome = TypeVar("Outcome")


def call_safely(done: Callable[[Outcome], None], outcome: Outcome) -> None:
    """Whoever waits may fail, but not the engine with it."""
    try:
        done(outcome)
    except Exception:
        log.exception("a callback of the engine raised")


@dataclass(frozen=True, slots=True)
class Proposal:
    payload: bytes
    context: object
    done: Callable[[ProposalOutcome], None]


class Proposals:
    def __init__(self) -> None:
        self._queue: deque[Proposal] = deque()
        self._in_log: dict[Index, tuple[Term, Proposal]] = {}  # in order of index
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._queue) + len(self._in_log)

    @property
    def queued(self) -> int:
        return len(self._queue)

    def offer(self, proposal: Proposal) -> bool:
        """False when the queue is full, in number or bytes."""
        if len(self) >= PENDING_OPS_MAX or self._bytes + len(proposal.payload) > PENDING_BYTES_MAX:
            return False
        self._bytes += len(proposal.payload)
        self._queue.append(proposal)
        return True

    def take_queue(self) -> list[Proposal]:
        """Everything not yet in the log; the caller files or answers each of them."""
        taken = list(self._queue)
        self._queue.clear()
        return taken

    def put_back(self, proposals: list[Proposal]) -> None:
        self._queue.extendleft(reversed(proposals))

    def file(self, index: Index, term: Term, proposal: Proposal) -> None:
        self._in_log[index] = (term, proposal)

    def answer(self, proposal: Proposal, outcome: ProposalOutcome) -> None:
        self._bytes -= len(proposal.payload)
        call_safely(proposal.done, outcome)

    def find(self, index: Index, term: Term) -> Proposal | None:
        """The proposal that made the entry at `index`, if this node made it in that term and still owes an answer."""
        filed = self._in_log.get(index)
        return None if filed is None or filed[0] != term else filed[1]

    def take(self, index: Index, term: Term) -> Proposal | None:
        proposal = self.find(index, term)
        if proposal is not None:
            del self._in_log[index]
        return proposal

    def take_above(self, index: Index) -> Iterator[Proposal]:
        """Takes out everything in the log above `index`, in order."""
        for above in [i for i in self._in_log if i > index]:
            yield self._in_log.pop(above)[1]

    def take_up_to(self, index: Index) -> Iterator[Proposal]:
        for below in [i for i in self._in_log if i <= index]:
            yield self._in_log.pop(below)[1]
