"""What must hold of locks after every event of a simulated run (CH-3), told from outside the system.

Owns: `LockRules`: who holds what by the events of entries as they are first applied anywhere, what clients count on,
and what became of guarded writes.
Never: asks the state of a node, repairs, tolerates: a ViolationError ends the run.
Invariants, over the whole cluster: tokens rise with every grant (D-10); who holds a target fits beside all others who
do (WS-40); no grant is made, and no lock ends, while a client counts on the opposite: from when it sent the renewal or
the request that was answered, for TTL and grace (D-6); a guarded write is accepted only at an index at which its
token is a holder's, and refused only at one where it is not; every node tells of an entry the same events.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from hypercluster.pb.v1 import coordination_command_pb2 as pb
from hypercluster.state_machine.coordination.events import CoordinationEvent, LockEvent, LockRow
from tests.simulation.events import EventQueue
from tests.simulation.invariants import ViolationError
from tests.simulation.sim_leases import MARGIN_S, ROUNDING_S

HOLDING: Final = frozenset({int(pb.LOCK_STATE_HELD), int(pb.LOCK_STATE_GRACE)})
FREE: Final = int(pb.LOCK_STATE_FREE)
SHARED: Final = int(pb.LOCK_KIND_SHARED)
PERMIT: Final = int(pb.LOCK_KIND_PERMIT)

Target = tuple[bytes, str]  # workspace and name


class Grant(NamedTuple):
    lock_id: int
    token: int
    kind: int
    permits: int
    at_s: float


@dataclass(slots=True)
class _Place:
    """One target. `counted_on`: until when each lock's client does, should nobody take it over."""

    holders: dict[int, Grant] = field(default_factory=dict)  # by lock_id
    granted: dict[int, Grant] = field(default_factory=dict)  # by lock_id, also those that have ended
    ended_s: dict[int, float] = field(default_factory=dict)
    counted_on: dict[int, float] = field(default_factory=dict)
    wanted: set[int] = field(default_factory=set)  # locks that somebody tries to take over


class LockRules:
    """One a run."""

    def __init__(self, events: EventQueue) -> None:
        self._events = events
        self._told: dict[int, tuple[object, ...]] = {}  # by Raft index
        self._places: dict[Target, _Place] = {}
        self._granted_at: dict[int, int] = {}  # token -> Raft index
        self._ended_at: dict[int, int] = {}
        self._newest_token = 0
        self.grants = self.permits = self.reclaims = self.writes = self.fenced = 0

    # --- what nodes apply ------------------------------------------------------------------------------

    def applied(self, index: int, events: Sequence[tuple[bytes, CoordinationEvent]]) -> bool:
        """Of every node; the first that applies an entry tells what it does. False for all others."""
        told = tuple(events)
        first = self._told.setdefault(index, told)
        if first is not told:
            if first != told:
                raise ViolationError("divergent events", f"index {index}: {first} and {told}")
            return False
        for _, event in told:
            if isinstance(event, LockEvent) and not event.cycle:
                self._moved(index, event.lock)
        return True

    def _moved(self, index: int, row: LockRow) -> None:
        place = self._places.setdefault((row.workspace_id, row.name), _Place())
        known = place.holders.get(row.lock_id)
        if row.state == FREE:
            self._ended(index, place, row, known)
        elif row.state in HOLDING and known is None:
            self._granted(index, place, Grant(row.lock_id, row.token, row.kind, row.permits, self._events.now))
        elif known is not None and (row.state not in HOLDING or row.token != known.token):
            raise ViolationError("a lock changed its token", f"index {index}: {known} became {row}")

    def _granted(self, index: int, place: _Place, grant: Grant) -> None:
        if grant.token <= self._newest_token:
            raise ViolationError("token fell", f"index {index}: {grant} after {self._newest_token}")
        self._newest_token = grant.token
        self.grants += 1
        self.permits += grant.kind == PERMIT
        others = list(place.holders.values())
        if not _fits(grant, others):
            raise ViolationError("two lock holders", f"index {index}: {grant} beside {others}")
        counting = [
            place.granted[one] for one, until_s in place.counted_on.items() if until_s > grant.at_s + ROUNDING_S
        ]
        if not _fits(grant, counting):
            raise ViolationError("granted while another counts on it", f"{grant}, and {counting}: {place.counted_on}")
        place.holders[grant.lock_id] = place.granted[grant.lock_id] = grant
        self._granted_at[grant.token] = index

    def _ended(self, index: int, place: _Place, row: LockRow, known: Grant | None) -> None:
        if known is None:
            return  # it was in the queue
        del place.holders[row.lock_id]
        place.ended_s[row.lock_id] = self._events.now
        self._ended_at[known.token] = index
        until_s = place.counted_on.pop(row.lock_id, 0.0) - self._margin_s(place, row.lock_id)
        if until_s > self._events.now + ROUNDING_S:
            raise ViolationError("lost while its client counts on it", f"index {index}: {known}")

    def _margin_s(self, place: _Place, lock_id: int) -> float:
        """A holder stops so long before TTL and grace are over, and a takeover need not wait for the rest (WS-43)."""
        return MARGIN_S if lock_id in place.wanted else 0.0

    # --- what clients know -----------------------------------------------------------------------------

    def counts_on(self, target: Target, lock_id: int, until_s: float) -> None:
        """A client was told that it holds a lock, and so it may until then."""
        place = self._places[target]
        mine = place.granted[lock_id]
        until_s -= self._margin_s(place, lock_id)
        ended_s = place.ended_s.get(lock_id)
        if ended_s is not None and ended_s + ROUNDING_S < until_s:
            raise ViolationError("told of a lock that was lost", f"{mine} ended at {ended_s}, before {until_s}")
        if ended_s is None:
            place.counted_on[lock_id] = max(until_s, place.counted_on.get(lock_id, 0.0))

    def wants(self, target: Target, lock_id: int) -> None:
        """A client tries to take the lock over."""
        self._places[target].wanted.add(lock_id)

    def took(self) -> None:
        self.reclaims += 1

    def gives_back(self, target: Target, lock_id: int) -> None:
        """The client is about to release it, and counts on it no more."""
        self._places[target].counted_on.pop(lock_id, None)

    def wrote(self, token: int, index: int) -> None:
        self.writes += 1
        ended = self._ended_at.get(token)
        if self._granted_at.get(token, index + 1) > index or (ended is not None and ended < index):
            raise ViolationError("an old token wrote", f"{token} at index {index}, ended at {ended}")

    def was_fenced(self, token: int, index: int) -> None:
        self.fenced += 1
        ended = self._ended_at.get(token)
        if ended is None or ended > index:
            raise ViolationError("a holder was fenced", f"{token} at index {index}, ended at {ended}")


def _fits(one: Grant, others: Sequence[Grant]) -> bool:
    if one.kind == PERMIT:
        return len(others) < one.permits and all(other.permits == one.permits for other in others)
    return all(one.kind == other.kind == SHARED for other in others)
