"""The leader's timers over locks and waits: when each lease ends unless its holder speaks (WS-41, D-6).

Owns: a volatile view of every lease (held, in grace, queued) with the moment it is due, what is proposed for it and
not yet judged, and when each client was last heard of.
Never: a clock (`now_s` is monotonic time passed in), a proposal, an answer; state, which only logged steps change.
Invariants: a lease is due a full TTL after this leader first saw it, after its last renewal, and after each logged
move, never earlier; while a step or a reclaim of a lease is on its way there is no second one, and a renewal is told to
wait for the verdict; a step carries the token and state it saw, so one that comes late does nothing.
What a view of another term said is worth nothing: `begin` starts anew.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final, NamedTuple

from hypercluster.limits import LOCK_GRACE_MS, LOCK_MARGIN_MS, LOCK_STEPS_MAX, LOCK_TTL_MS
from hypercluster.pb.v1 import coordination_command_pb2 as pb
from hypercluster.state_machine.coordination.events import LockRow

QUEUED: Final = int(pb.LOCK_STATE_QUEUED)
HELD: Final = int(pb.LOCK_STATE_HELD)
GRACE: Final = int(pb.LOCK_STATE_GRACE)
FREE: Final = int(pb.LOCK_STATE_FREE)

LOOKS_A_TURN: Final = 4_000
ENDS_OVER_MAX: Final = 4_096
RETRY_S: Final = 0.25  # a step that was judged and not made, or not judged at all, is due again after this


class Renewal(Enum):
    """What a renewal finds."""

    GONE = "gone"  # no such lease, or under another token
    GOOD = "good"  # held or queued, and due a full TTL later from now
    WAIT = "wait"  # the verdict on something that may end it is not there yet
    REVIVE = "revive"  # in its grace: only a logged step makes it held again


class Step(NamedTuple):
    """One LockStep to propose. `wait_until_ns` is the deadline of a wait that is over, 0 for all others."""

    workspace_id: bytes
    lock_id: int
    token: int
    from_state: int
    to_state: int
    wait_until_ns: int = 0


@dataclass(slots=True)
class Lease:
    """One lock or queued request, as the leader's own state has it."""

    row: LockRow
    due_s: float
    entry_s: float | None = None  # when it is looked at next, not after `due_s`; None: no entry
    step: Step | None = None  # proposed and not judged
    claims: int = 0  # reclaims proposed and not judged
    asked_s: float = 0.0  # when a renewal came that waits for a verdict


@dataclass(slots=True)
class _Client:
    leases: int
    heard_s: float


_SPAN_S: Final = {
    HELD: LOCK_TTL_MS / 1000,
    GRACE: LOCK_GRACE_MS / 1000,
    QUEUED: (LOCK_TTL_MS + LOCK_GRACE_MS) / 1000,
}
_NEXT: Final = {HELD: GRACE, GRACE: FREE, QUEUED: FREE}
TTL_S: Final = LOCK_TTL_MS / 1000
# A full TTL (WS-43), and what of the grace a holder may count on: after that it knows that its lock may be another's.
# No shorter time is as safe: a holder that renewed and was cut off then counts on its lock for so long from when it
# sent the renewal; after a TTL alone another would have it for a second meanwhile.
SILENCE_S: Final = (LOCK_TTL_MS + LOCK_GRACE_MS - LOCK_MARGIN_MS) / 1000


class LeaseTimers:
    """Of one leader. Lock ids are stamps, so one of them never names two leases."""

    def __init__(self) -> None:
        self._leases: dict[int, Lease] = {}
        self._clients: dict[bytes, _Client] = {}
        self._due: list[tuple[float, int]] = []  # heap; what is not its lease's `entry_s` is left over from before
        self._ends: list[tuple[int, int]] = []  # heap of waits with a deadline: stamp, lock_id; some are over already
        self._led_since_s: float | None = None  # None: does not lead
        self.counts: Counter[int] = Counter()  # leases by state

    # -- leadership ---------------------------------------------------------------------------------

    def begin(self, now_s: float) -> None:
        """This node leads a new term: nothing is known but what the state says (`see`)."""
        self.end()
        self._led_since_s = now_s

    def end(self) -> None:
        self._leases.clear()
        self._clients.clear()
        self._due.clear()
        self._ends.clear()
        self.counts.clear()
        self._led_since_s = None

    @property
    def leads(self) -> bool:
        return self._led_since_s is not None

    def __len__(self) -> int:
        return len(self._leases)

    # -- what the state says --------------------------------------------------------------------------

    def see(self, rows: Iterable[LockRow], now_s: float) -> None:
        """Rows of the state: those not known yet begin with a full TTL, in grace as well (D-6)."""
        for row in rows:
            if row.lock_id not in self._leases:
                self._add(row, now_s + max(_SPAN_S[row.state], TTL_S), now_s)

    def note(self, row: LockRow, now_s: float) -> None:
        """A lock as an applied event left it: it was granted or queued, it moved, or it ended."""
        if row.state == FREE:
            self._drop(row.lock_id)
            return
        lease = self._leases.get(row.lock_id)
        if lease is None:
            self._add(row, now_s + _SPAN_S[row.state], now_s)
            return
        self.counts[lease.row.state] -= 1
        self.counts[row.state] += 1
        lease.row = row
        lease.step = None
        lease.due_s = now_s + _SPAN_S[row.state]
        self._enter(lease, lease.due_s)

    def _add(self, row: LockRow, due_s: float, now_s: float) -> None:
        lease = self._leases[row.lock_id] = Lease(row, due_s)
        self.counts[row.state] += 1
        client = self._clients.get(row.client_id)
        if client is None:
            self._clients[row.client_id] = _Client(1, now_s)
        else:
            client.leases += 1
        self._enter(lease, due_s)
        self._enter_end(row)

    def _drop(self, lock_id: int) -> None:
        lease = self._leases.pop(lock_id, None)
        if lease is None:
            return
        self.counts[lease.row.state] -= 1
        client = self._clients[lease.row.client_id]
        client.leases -= 1
        if not client.leases:
            del self._clients[lease.row.client_id]

    def _enter(self, lease: Lease, when_s: float) -> None:
        """It will be looked at by then. Who is looked at early is put back, so a renewal costs no entry."""
        if lease.entry_s is None or when_s < lease.entry_s:
            lease.entry_s = when_s
            heapq.heappush(self._due, (when_s, lease.row.lock_id))

    def _enter_end(self, row: LockRow) -> None:
        """A deadline may be a day away, and the wait over at once: what such waits leave behind goes when it has become
        more than what is there."""
        if row.state != QUEUED or not row.wait_until_ns:
            return
        heapq.heappush(self._ends, (row.wait_until_ns, row.lock_id))
        if len(self._ends) > ENDS_OVER_MAX + 2 * self.counts[QUEUED]:
            rows = (lease.row for lease in self._leases.values())
            self._ends = [(row.wait_until_ns, row.lock_id) for row in rows if row.state == QUEUED and row.wait_until_ns]
            heapq.heapify(self._ends)

    # -- what clients say -------------------------------------------------------------------------------

    def find(self, lock_id: int) -> Lease | None:
        return self._leases.get(lock_id)

    def knows(self, client_id: bytes) -> bool:
        """Whether the client has a lease: asked for every command that arrives, so it is quick."""
        return client_id in self._clients

    def sign(self, client_id: bytes, now_s: float) -> None:
        """A command or a renewal of this client arrived."""
        client = self._clients.get(client_id)
        if client is not None:
            client.heard_s = now_s

    def renew(self, lock_id: int, token: int, now_s: float) -> Renewal:
        """`token` 0 stands for a request that was queued when its client last heard of it."""
        lease = self._leases.get(lock_id)
        if lease is None or (token and token != lease.row.token):
            return Renewal.GONE
        self.sign(lease.row.client_id, now_s)
        lease.asked_s = now_s
        if lease.step is not None or lease.claims:
            return Renewal.WAIT
        if lease.row.state == GRACE:
            return Renewal.REVIVE
        lease.due_s = max(lease.due_s, now_s + _SPAN_S[lease.row.state])
        return Renewal.GOOD

    # -- what is due --------------------------------------------------------------------------------------

    def due(self, now_s: float, wall_ns: int, count_max: int) -> list[Step]:
        """Steps to propose now, those of waits that are over first. Each is on its way until `settle` or `note`."""
        steps: list[Step] = []
        while len(steps) < count_max and self._ends and self._ends[0][0] <= wall_ns:
            until_ns, lock_id = heapq.heappop(self._ends)
            lease = self._leases.get(lock_id)
            if lease is not None and lease.row.state == QUEUED and lease.step is None:
                steps.append(self._step(lease, FREE, until_ns))
        looks = LOOKS_A_TURN  # many that were renewed may come up at once: the rest of them at the next call
        while looks and len(steps) < count_max and self._due and self._due[0][0] <= now_s:
            looks -= 1
            when_s, lock_id = heapq.heappop(self._due)
            lease = self._leases.get(lock_id)
            if lease is None or lease.entry_s != when_s:
                continue
            lease.entry_s = None
            if lease.step is not None:
                continue  # `settle` or `note` enters it again
            if lease.claims:
                self._enter(lease, max(lease.due_s, now_s + RETRY_S))
            elif lease.due_s > now_s:
                self._enter(lease, lease.due_s)
            else:
                steps.append(self._step(lease, _NEXT[lease.row.state], 0))
        return steps

    def revive(self, lock_id: int) -> Step:
        """The step that makes a lease in its grace held again. The lease must be REVIVE to a renewal."""
        return self._step(self._leases[lock_id], HELD, 0)

    def _step(self, lease: Lease, to_state: int, until_ns: int) -> Step:
        row = lease.row
        lease.step = Step(row.workspace_id, row.lock_id, row.token, row.state, to_state, until_ns)
        return lease.step

    def settle(self, steps: Sequence[Step], now_s: float) -> list[Step]:
        """These were judged, or never will be: what `note` has not moved is due again soon. Answers what it has."""
        made: list[Step] = []
        for step in steps:
            lease = self._leases.get(step.lock_id)
            if lease is None or lease.step is not step:
                made.append(step)
                continue
            lease.step = None
            # A renewal that came meanwhile counts: it is to find the lease before another expiry is proposed.
            lease.due_s = max(lease.due_s, lease.asked_s + _SPAN_S[lease.row.state])
            self._enter(lease, max(lease.due_s, now_s + RETRY_S))
            self._enter_end(lease.row)
        return made

    # -- reclaim (WS-43) ------------------------------------------------------------------------------------

    def reclaim_pause_s(self, lock_id: int, now_s: float) -> float:
        """How long a reclaim has to wait: until this leader has led for SILENCE_S, and the present client of the lock
        has been silent for as long. 0: it may be proposed, and apply judges it."""
        if self._led_since_s is None:
            return SILENCE_S
        pause_s = self._led_since_s + SILENCE_S - now_s
        lease = self._leases.get(lock_id)
        if lease is not None:
            pause_s = max(pause_s, self._clients[lease.row.client_id].heard_s + SILENCE_S - now_s)
        return max(0.0, pause_s)

    def claim(self, lock_id: int, change: int) -> None:
        """A reclaim of the lock was let through (+1), or has its verdict (-1)."""
        lease = self._leases.get(lock_id)
        if lease is not None:
            lease.claims = max(0, lease.claims + change)


def by_workspace(steps: Sequence[Step]) -> list[tuple[bytes, list[Step]]]:
    """In pieces of one command each, at most LOCK_STEPS_MAX steps of one workspace."""
    pieces: dict[bytes, list[list[Step]]] = {}
    for step in steps:
        of_workspace = pieces.setdefault(step.workspace_id, [[]])
        if len(of_workspace[-1]) == LOCK_STEPS_MAX:
            of_workspace.append([])
        of_workspace[-1].append(step)
    return [(workspace_id, piece) for workspace_id, found in pieces.items() for piece in found]
