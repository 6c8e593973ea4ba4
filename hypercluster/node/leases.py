"""Leases of locks on the node: renewals answered, expiries proposed, reclaims held back (WS-41 to WS-43, D-6).

Owns: when the timers begin and end with leadership, the reading of all leases by a new leader, the steps on their way,
and the waits of renewals for a verdict.
Never: decides what a lease is (lease_timers.py does, by the clock; apply does, by the log), or keeps anything durable.
Invariants: a renewal is told HELD only after a majority has confirmed this node's term since it arrived, and never
while a step or a reclaim of that lease has no verdict yet; a reclaim goes through only after this node has led,
and heard nothing of the lock's client, for longer than that client counts on it. One message of steps is on its way at
most.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import NamedTuple

from hypercluster.errors import HolderAliveError
from hypercluster.limits import LEASES_A_TURN, LOCK_STEPS_MAX, RENEW_VERDICT_MS, SUBMIT_COMMANDS_MAX
from hypercluster.node.lease_timers import FREE, GRACE, HELD, QUEUED, RETRY_S, LeaseTimers, Renewal, Step, by_workspace
from hypercluster.node.own_lane import OwnLane, was_judged
from hypercluster.node.reads import ReadPoint, Reads, ReadWish
from hypercluster.node.standing import Standing
from hypercluster.node.tenure import Tenure
from hypercluster.node.words import Caller, Sink, Turns, Verdict
from hypercluster.pb.v1.command_pb2 import Command, MaintenanceCommand
from hypercluster.pb.v1.coordination_command_pb2 import LockStep, LockSteps
from hypercluster.raft.engine import Clock
from hypercluster.state_machine.coordination import queries
from hypercluster.state_machine.coordination.events import CoordinationEvent, LockEvent
from hypercluster.state_machine.decoded import HubOp, Run
from hypercluster.state_machine.store import Reader
from hypercluster.telemetry.metrics import Metrics

log = logging.getLogger(__name__)

NO_VERDICT = 0  # LOCK_STATE_UNSPECIFIED: not known yet
LOAD_PAUSE_S = 0.005  # between two pages of leases: others have their turn
STEPS_A_MESSAGE = 20 * LOCK_STEPS_MAX  # a node's own message must fit an entry beside others
STATE_NAMES = {QUEUED: "queued", HELD: "held", GRACE: "grace"}


class Asked(NamedTuple):
    """One lease of a renewal; `token` 0 for a request that was queued when its client last heard of it."""

    lock_id: int
    token: int


class Renewed(NamedTuple):
    """HELD, QUEUED, FREE, or NO_VERDICT: ask again."""

    lock_id: int
    state: int
    token: int


class Leases:
    """One a node. `look` is called now and then."""

    def __init__(
        self,
        reader: Reader,
        reads: Reads,
        standing: Standing,
        lane: OwnLane,
        turns: Turns,
        clock: Clock,
        metrics: Metrics,
    ) -> None:
        self._reader = reader
        self._reads = reads
        self._standing = standing
        self._lane = lane
        self._turns = turns
        self._clock = clock
        self._metrics = metrics
        self.timers = LeaseTimers()
        self._tenure = Tenure(standing)
        self._loaded = False
        self._load_after = (b"", 0)
        self._wanted: list[Step] = []  # to be proposed as soon as the lane is free
        self._waiting: dict[int, list[asyncio.Future[None]]] = {}

    # -- leadership ---------------------------------------------------------------------------------

    def look(self) -> None:
        """Follows leadership, and proposes what is due."""
        self._sync()
        if self._tenure.term:
            if self._lane.idle and not self._wanted:
                now_s, wall_ns = self._clock.monotonic(), self._clock.wall_ns()
                self._wanted += self.timers.due(now_s, wall_ns, STEPS_A_MESSAGE)
            self._flush()
        for state, name in STATE_NAMES.items():
            self._metrics.locks.labels(name).set(self.timers.counts[state])

    def _sync(self) -> None:
        if not self._tenure.changed():
            return
        term = self._tenure.term
        self._wanted.clear()
        self._tell(list(self._waiting))
        if not term:
            self.timers.end()
            return
        self.timers.begin(self._clock.monotonic())
        self._loaded, self._load_after = False, (b"", 0)
        self._load(term)

    def _load(self, term: int) -> None:
        """One page of the state's leases, then the next one in a later turn. Whatever moves meanwhile is told by an
        event, and whoever is renewed before its page is read then."""
        if term != self._tenure.term:
            return
        page = queries.leases(self._reader, self._load_after, LEASES_A_TURN)
        self.timers.see(page.rows, self._clock.monotonic())
        if not page.more:
            self._loaded = True
            log.info("leases begin with a full TTL", extra={"fields": {"term": term, "leases": len(self.timers)}})
            return
        self._load_after = (page.rows[-1].workspace_id, page.rows[-1].lock_id)
        self._turns.call_at(self._turns.time() + LOAD_PAUSE_S, lambda: self._load(term))

    # -- what was applied ---------------------------------------------------------------------------

    def on_events(self, events: Sequence[tuple[bytes, CoordinationEvent]]) -> None:
        """Called by the apply loop, after the store has the entry that they are of."""
        if not self._tenure.term:
            return
        now_s = self._clock.monotonic()
        for _, event in events:
            if isinstance(event, LockEvent):
                self.timers.note(event.lock, now_s)
                self._tell((event.lock.lock_id,))

    def _tell(self, lock_ids: Sequence[int]) -> None:
        for lock_id in lock_ids:
            for waiter in self._waiting.pop(lock_id, ()):
                if not waiter.done():
                    waiter.set_result(None)

    # -- steps --------------------------------------------------------------------------------------

    def _flush(self) -> None:
        if not self._lane.idle or not self._wanted:
            return
        steps, self._wanted = self._wanted[:STEPS_A_MESSAGE], self._wanted[STEPS_A_MESSAGE:]
        pieces = by_workspace(steps)
        for _, left in pieces[SUBMIT_COMMANDS_MAX:]:
            self._wanted += left
        taken = [step for _, piece in pieces[:SUBMIT_COMMANDS_MAX] for step in piece]
        commands = [
            MaintenanceCommand(lock_steps=LockSteps(workspace_id=workspace_id, steps=[_message(s) for s in piece]))
            for workspace_id, piece in pieces[:SUBMIT_COMMANDS_MAX]
        ]
        term = self._tenure.term

        def answered(verdicts: Sequence[Verdict]) -> None:
            if term != self._tenure.term:
                return
            made = self.timers.settle(taken, self._clock.monotonic())
            lock_ids = [step.lock_id for step in taken]
            if not was_judged(verdicts):  # who waits for these asks again, and not at once
                self._turns.call_at(self._turns.time() + RETRY_S, lambda: self._tell(lock_ids))
                return
            self._tell(lock_ids)
            self._count(made)
            self._flush()

        self._lane.propose(commands, answered)

    def _count(self, steps: Sequence[Step]) -> None:
        for step in steps:
            self._metrics.lease_steps.labels("renewed" if step.to_state == HELD else STATE_NAMES[step.from_state]).inc()

    # -- renewals -----------------------------------------------------------------------------------

    async def renew(
        self, workspace_id: bytes, asked: Sequence[Asked], caller: Caller, timeout_s: float
    ) -> tuple[ReadPoint, list[Renewed]]:
        """Answers in the order of `asked`. Raises the turn-away that fits where this node does not lead."""
        self._standing.require_leads()
        self._sync()
        self._try(workspace_id, asked, caller)  # from now on they are not due before a TTL has passed
        self._flush()
        began_s = self._turns.time()
        point = await self._reads.point(ReadWish(), timeout_s)
        until_s = min(began_s + timeout_s, self._turns.time() + RENEW_VERDICT_MS / 1000)
        late = False
        while True:
            self._sync()
            self._standing.require_leads()
            answers = self._try(workspace_id, asked, caller)
            open_ids = [one.lock_id for one in answers if one.state == NO_VERDICT]
            if not open_ids or late:
                break
            late = not await self._verdict(open_ids, until_s - self._turns.time())
        self._flush()
        for one in answers:
            self._metrics.renewals.labels(STATE_NAMES.get(one.state, "lost" if one.state == FREE else "open")).inc()
        return point, answers

    def _try(self, workspace_id: bytes, asked: Sequence[Asked], caller: Caller) -> list[Renewed]:
        return [self._renew(workspace_id, one, caller) for one in asked]

    def _renew(self, workspace_id: bytes, asked: Asked, caller: Caller) -> Renewed:
        timers, now_s = self.timers, self._clock.monotonic()
        lease = timers.find(asked.lock_id)
        if lease is None and not self._loaded:
            row = queries.read_lock(self._reader, workspace_id, asked.lock_id)
            timers.see(() if row is None else (row,), now_s)
            lease = timers.find(asked.lock_id)
        if lease is None or lease.row.workspace_id != workspace_id or lease.row.principal != caller.principal:
            return Renewed(asked.lock_id, FREE, 0)
        match timers.renew(asked.lock_id, asked.token, now_s):
            case Renewal.GONE:
                return Renewed(asked.lock_id, FREE, 0)
            case Renewal.GOOD:
                return Renewed(asked.lock_id, lease.row.state, lease.row.token)
            case Renewal.REVIVE:
                self._wanted.append(timers.revive(asked.lock_id))
            case Renewal.WAIT:
                pass
        return Renewed(asked.lock_id, NO_VERDICT, lease.row.token)

    async def _verdict(self, lock_ids: Sequence[int], timeout_s: float) -> bool:
        """Until there is news of each; False when time is up before there is."""
        if timeout_s <= 0:
            return False
        loop = asyncio.get_running_loop()
        waiters = {lock_id: loop.create_future() for lock_id in lock_ids}
        for lock_id, waiter in waiters.items():
            self._waiting.setdefault(lock_id, []).append(waiter)
        self._flush()  # after that, so that an answer given at once is heard
        try:
            _, late = await asyncio.wait(waiters.values(), timeout=timeout_s)
            return not late
        finally:
            for lock_id, waiter in waiters.items():
                others = self._waiting.get(lock_id, [])
                if waiter in others:
                    others.remove(waiter)
                    if not others:
                        del self._waiting[lock_id]

    # -- reclaims (WS-43) ---------------------------------------------------------------------------

    def sign(self, client_id: bytes) -> None:
        """A command of this client arrived."""
        if self.timers.knows(client_id):
            self.timers.sign(client_id, self._clock.monotonic())

    def guard_reclaims(self, run: Run, sink: Sink) -> Sink:
        """Asked before a run that reclaims locks is proposed. Until its verdict, renewals of those locks wait. Raises
        HolderAliveError."""
        lock_ids = reclaimed(run)
        self._sync()
        now_s = self._clock.monotonic()
        for lock_id in lock_ids:
            if not self._loaded and self.timers.find(lock_id) is None:
                row = queries.read_lock(self._reader, run.workspace_id, lock_id)
                self.timers.see(() if row is None else (row,), now_s)
            pause_s = self.timers.reclaim_pause_s(lock_id, now_s)
            if pause_s > 0:
                raise HolderAliveError(
                    f"lock {lock_id}: its client was heard of within a TTL, or this node has not led for one yet",
                    int(pause_s * 1000) + 1,
                )
        for lock_id in lock_ids:
            self.timers.claim(lock_id, 1)
        term = self._tenure.term

        def told(verdicts: Sequence[Verdict]) -> None:
            if term == self._tenure.term:
                for lock_id in lock_ids:
                    self.timers.claim(lock_id, -1)
                self._tell(lock_ids)
            sink(verdicts)

        return told


def reclaimed(run: Run) -> list[int]:
    """The locks that a run reclaims."""
    return [op.coordination.lock_reclaim.lock_id for op in run.ops if not isinstance(op, HubOp) and is_reclaim(op)]


def is_reclaim(command: Command) -> bool:
    return command.HasField("coordination") and command.coordination.HasField("lock_reclaim")


def _message(step: Step) -> LockStep:
    return LockStep(
        lock_id=step.lock_id,
        token=step.token,
        from_state=step.from_state,  # type: ignore[arg-type]
        to_state=step.to_state,  # type: ignore[arg-type]
        wait_until_ns=step.wait_until_ns,
    )
