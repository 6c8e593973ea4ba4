"""Nobody is granted a lock while another may believe that it holds it (D-6, WS-41 to WS-43).

Clients acquire, renew, release, reclaim; rounds are confirmed late or fail; proposals are applied late, lost, or lost
and applied by the next leader; leadership goes away and comes back. What a client may believe follows from its answers
alone: a grant or a renewal holds for TTL and grace, less a margin, from when it was *sent*.
HYPERCLUSTER_SEED=n replays one seed.
"""

from __future__ import annotations

import asyncio
import os
import random
from dataclasses import dataclass, replace

import pytest

from hypercluster.errors import HyperClusterError
from hypercluster.log.admission import admit
from hypercluster.log.entry import batch_of, encode_batch
from hypercluster.node.lease_timers import FREE, GRACE, HELD, QUEUED
from hypercluster.node.leases import Renewed
from hypercluster.pb.v1 import coordination_pb2 as pb
from hypercluster.pb.v1.command_pb2 import Command, MaintenanceCommand, Submit
from hypercluster.pb.v1.coordination_command_pb2 import LockStep, LockSteps
from hypercluster.state_machine.coordination import queries
from hypercluster.state_machine.coordination.events import LockEvent
from hypercluster.state_machine.decoded import DecodedGroup
from hypercluster.values import Index, Nanos, NodeId, Role, Term
from tests.known_bad.eager_leases import BUILDS
from tests.unit.node.commands import CALLER, SCOPE, client, submit
from tests.unit.node.locks import COUNTED_S, GRACE_S, TTL_S, LockNode, acquire, reclaim, release

SEEDS = [int(os.environ["HYPERCLUSTER_SEED"])] if "HYPERCLUSTER_SEED" in os.environ else list(range(24))
STEPS = 250
LANES = range(1, 4)
TARGETS = ("x",)
GRANTED, RELEASED = int(pb.LOCK_EVENT_KIND_GRANTED), int(pb.LOCK_EVENT_KIND_RELEASED)


@dataclass
class Belief:
    """What one client knows of its request for one target."""

    lane: int
    target: str
    lock_id: int = 0
    token: int = 0
    until_s: float = 0.0  # it holds the lock until then, for all it knows


@dataclass
class Renewing:
    belief: Belief
    sent_s: float
    task: asyncio.Task[list[Renewed]]


class Overlap(AssertionError):
    """Two clients may believe that they hold one lock."""


class Walk:
    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.draw = random.Random(seed)
        self.node = LockNode()
        self.beliefs: dict[int, Belief] = {}  # by lock_id
        self.renewals: list[Renewing] = []
        self.seqs = dict.fromkeys(LANES, 0)
        self.lives = dict.fromkeys(LANES, 0)  # a client whose command may be lost goes on under another id
        self.term = 3
        self.slow = False  # rounds and commits come when the draw says so, not at once
        self.grants = self.believed = 0
        self.node.host._on_events = self.on_events

    @property
    def now_s(self) -> float:
        return self.node.turns.now_s

    def on_events(self, index: int, events: object) -> None:
        self.node._on_events(index, events)
        for _, event in events:  # type: ignore[attr-defined]
            if not isinstance(event, LockEvent):
                continue
            lock = event.lock
            if event.kind == RELEASED:
                self.beliefs.pop(lock.lock_id, None)
            if event.kind == GRANTED:
                self.grants += 1
                for other in self.beliefs.values():
                    if other.target == lock.name and other.lock_id != lock.lock_id and other.until_s > self.now_s:
                        left_s = other.until_s - self.now_s
                        raise Overlap(
                            f"seed {self.seed}: lock {lock.lock_id} on {lock.name} is granted while client "
                            f"{other.lane} may count on its own for {left_s:.2f} s more"
                        )

    # -- what clients do ------------------------------------------------------------------------------

    def send(self, lane: int, command: Command) -> None:
        """Not waited for: its answer comes whenever the entry is applied."""
        sent_s, life = self.now_s, self.lives[lane]
        seq = self.seqs[lane] = self.seqs[lane] + 1

        def sink(verdicts: object) -> None:
            (verdict,) = verdicts  # type: ignore[misc]
            if not verdict.raft_index:
                if life == self.lives[lane]:
                    self.lives[lane], self.seqs[lane] = life + 1, 0
                return
            file = verdict.files[0] if verdict.files else None
            if file is None or file.lock is None or (verdict.reasons and verdict.reasons[0]):
                return
            acquired = command.coordination.lock_acquire
            if command.coordination.HasField("lock_release"):
                self.beliefs.pop(file.lock.lock_id, None)
                return
            if file.lock.lock_id in self.beliefs:
                return  # it had the lock already: to be told so again renews nothing
            target = acquired.target.name or self.target_of(command.coordination.lock_reclaim.lock_id)
            held = self.beliefs[file.lock.lock_id] = Belief(lane, target, file.lock.lock_id)
            if file.lock.state == HELD:
                held.token = file.lock.token
                held.until_s = max(held.until_s, sent_s + COUNTED_S)
                self.believed += 1

        message = submit(client(lane + 100 * life), seq, command, workspace_id=self.node.workspace_id)
        self.node.proposer.submit(message, CALLER, sink)

    def target_of(self, lock_id: int) -> str:
        known = self.beliefs.get(lock_id)
        return known.target if known is not None else ""

    def renew(self) -> None:
        if not self.beliefs or len(self.renewals) > 6:
            return
        belief = self.draw.choice(list(self.beliefs.values()))
        task = self.node.renewing((belief.lock_id, belief.token))
        self.renewals.append(Renewing(belief, self.now_s, task))

    def hear(self) -> None:
        """Answers to renewals that have come."""
        for one in [one for one in self.renewals if one.task.done()]:
            self.renewals.remove(one)
            error = one.task.exception()
            if error is not None:
                assert isinstance(error, HyperClusterError), error
                continue
            (found,) = one.task.result()
            belief = one.belief
            if found.state == FREE:
                self.beliefs.pop(belief.lock_id, None)
            elif found.state == HELD and belief.lock_id in self.beliefs:
                belief.token = found.token
                belief.until_s = max(belief.until_s, one.sent_s + COUNTED_S)
                self.believed += 1

    # -- what befalls the node --------------------------------------------------------------------------

    def fail_over(self) -> None:
        """Leadership is lost with what is in flight, of which the next leader applies a beginning."""
        node, draw = self.node, self.draw
        node.engine.fail_reads("NOT_LEADER", "n2")
        lost = list(node.engine.proposals)
        kept = draw.randrange(len(lost) + 1)
        node.engine.follow("n2")
        node.standing.forget()
        while node.engine.proposals:
            node.engine.lose()
        for proposal in lost[:kept]:
            node.host.apply(Index(node.engine.next_index), Term(self.term), proposal.payload, None)
            node.engine.next_index += 1
        if draw.random() < 0.6:
            self.pass_time(draw.choice([0.1, 1.0, TTL_S]))
            for belief in self.beliefs.values():  # the other leader is asked in the meantime
                if draw.random() < 0.7 and node.state_of(belief.lock_id) == HELD:
                    belief.until_s = self.now_s + COUNTED_S
        self.lead_again()

    async def cut_off(self) -> None:
        """This node goes on believing that it leads while another one leads, whom nobody asks to renew anything."""
        node = self.node
        for _ in range(int((TTL_S + GRACE_S + 1) / 0.5)):
            self.renew()
            await self.turns()
            self.hear()
            self.pass_time(0.5)
        node.engine.fail_reads("NOT_LEADER", "n2")
        while node.engine.proposals:
            node.engine.lose()
        rows = queries.leases(node.state, (b"", 0), 1_000).rows
        for frm, to in ((HELD, GRACE), (GRACE, FREE), (QUEUED, FREE)):
            steps = [
                LockStep(lock_id=row.lock_id, token=row.token, from_state=frm, to_state=to)  # type: ignore[arg-type]
                for row in rows
                if (row.state == QUEUED) == (frm == QUEUED) and self.draw.random() < (0.2 if frm == QUEUED else 0.9)
            ]
            if steps:
                self.apply_of_another(LockSteps(workspace_id=node.workspace_id, steps=steps))
        self.lead_again()

    def apply_of_another(self, steps: LockSteps) -> None:
        """An entry of the leader that this node did not know of."""
        node = self.node
        index = Index(node.engine.next_index)
        node.engine.next_index += 1
        raw = Command(maintenance=MaintenanceCommand(lock_steps=steps)).SerializeToString()
        message = Submit(client_id=client(10_000 + index), first_seq=1, basis=index - 1, commands=[raw])
        content = message.SerializeToString()
        run = admit(content, maintenance=True)
        node.engine.stamp_ns = max(node.engine.stamp_ns + 1, node.turns.wall_ns())
        entry = batch_of(Nanos(node.engine.stamp_ns), bytes(16), [DecodedGroup(content, "node:n2", SCOPE, "", run)])
        node.host.apply(index, Term(self.term + 1), encode_batch(entry), None)
        node.turns.settle()

    def lead_again(self) -> None:
        self.term += 2
        engine = self.node.engine
        engine.now = replace(engine.now, role=Role.LEADER, leader=NodeId("n1"), term=Term(self.term))
        self.node.standing.forget()

    async def turns(self) -> None:
        for _ in range(6):
            await asyncio.sleep(0)

    def pass_time(self, span_s: float) -> None:
        self.node.pass_time(span_s, commits=False)

    def commit(self) -> None:
        self.node.turns.settle()
        if self.node.engine.proposals:
            self.node.engine.stamp_ns = max(self.node.engine.stamp_ns, self.node.turns.wall_ns())
            self.node.commit()

    async def step(self) -> None:
        node, draw = self.node, self.draw
        match draw.choices(range(11), [10, 12, 3, 4, 6, 4, 1, 0.7, 0.4, 14, 4])[0]:
            case 0:
                lane = draw.choice(LANES)
                self.send(lane, acquire(draw.choice(TARGETS), wait=draw.random() < 0.8))
            case 1:
                self.renew()
            case 2 if self.beliefs:
                belief = draw.choice(list(self.beliefs.values()))
                belief.until_s = 0.0  # it stops before it says so
                self.send(belief.lane, release(belief.lock_id))
            case 3 if self.beliefs:
                belief = draw.choice(list(self.beliefs.values()))
                lane = draw.choice([lane for lane in LANES if lane != belief.lane])
                self.send(lane, reclaim(belief.lock_id, belief.token or 1))
            case 4:
                node.engine.confirm_reads(node.host.applied_index)
            case 5:
                self.commit()
            case 6:
                node.engine.fail_reads("NO_QUORUM")
            case 7:
                self.fail_over()
            case 8:
                await self.cut_off()
            case 10:
                self.slow = not self.slow
            case _:
                self.pass_time(draw.choice([0.3, 1.0, 2.0, 3.0]))
        await self.turns()
        if not self.slow:
            for _ in range(3):
                node.engine.confirm_reads(node.host.applied_index)
                node.work()
                await self.turns()
        self.hear()

    async def run(self) -> None:
        try:
            for _ in range(STEPS):
                await self.step()
        finally:
            for one in self.renewals:
                one.task.cancel()
            await asyncio.gather(*(one.task for one in self.renewals), return_exceptions=True)
        print(f"seed {self.seed}: {self.grants} grants, {self.believed} answers that a lock is held")


@pytest.mark.req("D-6", "WS-43")
async def test_no_lock_is_granted_while_another_client_may_count_on_it() -> None:
    grants = believed = 0
    for seed in SEEDS:
        walk = Walk(seed)
        await walk.run()
        grants, believed = grants + walk.grants, believed + walk.believed
    assert len(SEEDS) == 1 or (grants > 120 and believed > 300), "too little happened to show anything"


@pytest.mark.req("D-6", "CH-10")
@pytest.mark.parametrize("name", sorted(BUILDS))
async def test_a_build_that_breaks_one_rule_of_leases_is_found(name: str) -> None:
    with BUILDS[name]():
        for seed in range(40):
            walk = Walk(seed)
            try:
                await walk.run()
            except Overlap:
                return
    pytest.fail(f"{name} was not noticed in 40 runs")
