"""Locks over days of virtual time: what the leader's timers log must come when it may, and not later than it must.

The shell is the product's: proposer, timers, renewals, reclaims, over a real machine. Each command it logs is given to
the second model of locks (tests/unit/coordination/lock_model.py), whose answer, events and rows must be the machine's;
the moment of every step is held against what was renewed and when this leader began (WS-41, WS-43, D-6), on a clock
that no jump of the wall clock moves. Leaders change and lose what was on its way; the wall clock jumps; a semaphore and
rings of owners that wait for each other are among the locks. HYPERCLUSTER_SEED=n replays one seed.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from hypercluster.errors import HyperClusterError
from hypercluster.limits import CLOCK_SKEW_MAX_MS, LOCK_GRACE_MS, LOCK_GRAPH_STEPS_MAX, LOCK_MARGIN_MS, LOCK_TTL_MS
from hypercluster.log.entry import decode_entry
from hypercluster.node.lease_timers import FREE, GRACE, HELD, QUEUED
from hypercluster.pb.v1.command_pb2 import Command
from hypercluster.pb.v1.coordination_command_pb2 import LockStep
from hypercluster.state_machine.coordination import queries
from hypercluster.state_machine.coordination.events import LockEvent
from hypercluster.state_machine.decoded import DecodedGroup, HubOp
from hypercluster.state_machine.outcome import FileOutcome
from hypercluster.values import Index, NodeId, Role, Term
from tests.known_bad import eager_leases, lock_builds
from tests.properties.test_locks import said
from tests.unit.coordination import table
from tests.unit.coordination.lock_model import EXCLUSIVE, PERMIT, SHARED, Answer, LockModel
from tests.unit.node.commands import client, submit
from tests.unit.node.locks import CALLER, LockNode

SEEDS = [int(os.environ["HYPERCLUSTER_SEED"])] if "HYPERCLUSTER_SEED" in os.environ else list(range(10))
STEPS = 90
LANES = range(1, 6)
TARGETS = ("a", "b", "sem")
TTL_S, GRACE_S, MARGIN_S = LOCK_TTL_MS / 1000, LOCK_GRACE_MS / 1000, LOCK_MARGIN_MS / 1000
SILENCE_S = TTL_S + GRACE_S - MARGIN_S
EARLY_S = 1e-6  # what rounding may take away
LATE_S = 1.2  # looks every quarter of a second, a step for each state, and one that has to be proposed again
DEADLOCK = 7


@dataclass
class Times:
    """Of one request. `sure_s`: its client was told that it has a full TTL from then; `may_s`: nobody can have begun
    one later; `state_s`: since when it is in its state."""

    sure_s: float
    may_s: float
    state_s: float


@dataclass
class Leader:
    since_s: float
    flows_s: float  # since when all that it proposes is committed at once


@dataclass
class Walk:
    seed: int
    node: LockNode
    model: LockModel = field(default_factory=LockModel)
    times: dict[int, Times] = field(default_factory=dict)
    heard_s: dict[int, float] = field(default_factory=dict)  # by client
    clients: dict[bytes, int] = field(default_factory=dict)
    lives: dict[int, int] = field(default_factory=dict)  # of a lane, whose commands may be lost with a leader
    answers: list[Answer] = field(default_factory=list)
    met: set[str] = field(default_factory=set)
    term: int = 3
    jumped_s: float = 0.0  # when the wall clock did

    def __post_init__(self) -> None:
        self.draw = random.Random(self.seed)
        self.leader = Leader(self.now_s, self.now_s)
        self.apply = self.node.host.apply
        self.node.host.apply = self.follow  # type: ignore[method-assign]

    @property
    def now_s(self) -> float:
        return self.node.turns.now_s

    def say(self, what: str) -> str:
        return f"seed {self.seed}, {self.now_s:.2f} s: {what}"

    # -- the log ------------------------------------------------------------------------------------

    def follow(self, index: Index, term: Term, payload: bytes, context: object) -> Any:
        """One entry, given to the machine and to the model."""
        applied = self.apply(index, term, payload, context)
        entry, stamp = decode_entry(payload), 0
        self.model.told.clear()
        for group, result in zip(entry.groups, applied.groups, strict=True):
            (run,) = result.runs
            for number, op in enumerate(group.run.ops):
                assert not isinstance(op, HubOp)
                reason = run.reasons[number] if run.reasons else 0
                version = run.versions[number] if run.versions else 0
                outcome = (run.files[number] if run.files else None) or FileOutcome(reason, present_index=version)
                expected = self.judge(int(entry.committed_at_ns) + stamp, group, op)
                stamp += 1
                if expected is not None:
                    assert said(outcome) == expected, self.say(f"{op}: {said(outcome)}, expected {expected}")
                    self.answers.append(expected)
        events = [event for _, event in applied.events if isinstance(event, LockEvent)]
        found = [(event.kind, event.lock.lock_id) for event in events]
        assert found == self.model.told, self.say(f"events {found}, expected {self.model.told}")
        self.note(events)
        return applied

    def judge(self, stamp: int, group: DecodedGroup, command: Command) -> Answer | None:
        """The model's answer; None for what is no business of its."""
        number = self.clients.get(bytes(group.run.client_id), 0)
        if command.HasField("maintenance"):
            steps = command.maintenance.lock_steps.steps
            return ("made", sum(self.step(stamp, step) for step in steps))
        if not command.HasField("coordination"):
            return None
        op = command.coordination
        if op.HasField("lock_acquire"):
            asked = op.lock_acquire
            owner, target = (number, asked.handle_id), asked.target.name
            return self.model.acquire(
                stamp, owner, group.worker, target, asked.kind, asked.permits,
                asked.wait, asked.wait_ms, asked.one_at_a_time,
            )  # fmt: skip
        if op.HasField("lock_release"):
            return self.model.release(stamp, number, op.lock_release.lock_id)
        taken = op.lock_reclaim
        old = self.model.find(taken.lock_id)
        if old is not None and old.token == taken.token and old.owner[0] != number:
            due_s = max(self.heard_s[old.owner[0]], self.leader.since_s) + SILENCE_S
            assert self.now_s >= due_s - EARLY_S, self.say(f"{old} is taken over before {due_s:.2f}")
            self.met.add("reclaimed")
        return self.model.reclaim(stamp, (number, taken.handle_id), group.worker, taken.lock_id, taken.token)

    def step(self, stamp: int, step: LockStep) -> bool:
        asked = self.model.find(step.lock_id)
        if not self.model.step(stamp, step.lock_id, step.token, step.from_state, step.to_state, step.wait_until_ns):
            return False
        assert asked is not None
        times, begun_s = self.times[asked.id], self.leader.since_s
        match step.from_state, step.to_state:
            case (2, 3):
                due_s = max(times.sure_s, begun_s) + TTL_S
            case (3, 4):
                due_s = max(times.state_s + GRACE_S, begun_s + TTL_S if begun_s > times.state_s else 0.0)
                self.met.add("expired")
            case (3, 2):
                due_s = times.state_s
                self.met.add("renewed in its grace")
            case _:
                due_s = 0.0 if step.wait_until_ns else max(times.sure_s, begun_s) + TTL_S + GRACE_S
                self.met.add("wait over" if step.wait_until_ns else "silent wait over")
        assert self.now_s >= due_s - EARLY_S, self.say(f"{asked} moved to {step.to_state} before {due_s:.2f}")
        return True

    def note(self, events: list[LockEvent]) -> None:
        for event in events:
            row = event.lock
            if row.state == FREE:
                self.times.pop(row.lock_id, None)
                continue
            known = self.times.get(row.lock_id)
            sure_s = known.sure_s if known is not None and row.state == GRACE else self.now_s
            self.times[row.lock_id] = Times(sure_s, self.now_s, self.now_s)

    # -- what must be ---------------------------------------------------------------------------------

    def check(self) -> None:
        rows = queries.list_locks(self.node.state, self.node.workspace_id, 0, 10_000).rows
        found = [(row.lock_id, row.state, row.token) for row in rows]
        expected = sorted((asked.id, asked.state, asked.token) for asked in self.model.all)
        assert found == expected, self.say(f"locks {found}, expected {expected}")
        led_s = max(self.leader.since_s, self.leader.flows_s)
        for asked in self.model.all:
            times = self.times[asked.id]
            least_s = max(times.may_s, times.state_s, led_s)
            span_s = TTL_S if asked.state == HELD else TTL_S + GRACE_S if asked.state == QUEUED else GRACE_S
            if asked.state == GRACE and self.leader.since_s >= times.state_s:
                span_s = TTL_S
            assert self.now_s < least_s + span_s + LATE_S, self.say(f"{asked} goes on after {least_s + span_s:.2f}")
            if asked.state == QUEUED and asked.until and self.now_s > max(led_s, self.jumped_s) + LATE_S:
                late_ns = self.node.turns.wall_ns() - asked.until
                assert late_ns < LATE_S * 1e9, self.say(f"{asked} waits {late_ns / 1e9:.2f} s too long")

    # -- what clients do ------------------------------------------------------------------------------

    def of(self, lane: int) -> int:
        """The number of the lane's present client."""
        return lane + 1_000 * self.lives.get(lane, 0)

    def do(self, lane: int, command: Command) -> Answer | None:
        """None when it is turned away."""
        number = self.of(lane)
        self.clients[bytes(client(number))] = number
        self.answers.clear()
        reason, _ = self.node.do(number, command, CALLER)
        self.heard_s[number] = self.now_s
        assert self.answers or reason, self.say(f"{command} was not answered")
        return self.answers[-1] if self.answers else None

    def acquire(self) -> None:
        draw, target = self.draw, self.draw.choice(TARGETS)
        kind = PERMIT if target == "sem" else draw.choice([SHARED, EXCLUSIVE, EXCLUSIVE])
        wait, handle = draw.random() < 0.8, draw.choice([1, 2])
        wait_ms = draw.choice([0, 0, 500, 4_000, 9_000]) if wait else 0
        permits_asked = 2 if kind == PERMIT else 0
        command = table.acquire(target, kind, handle, wait=wait, wait_ms=wait_ms, permits=permits_asked)
        self.do(draw.choice(LANES), command)
        permits = self.model.holders("sem")
        assert len(permits) <= 2, self.say(f"{permits} hold two permits")
        self.met |= {"semaphore full"} if len(permits) == 2 else set()

    def release(self) -> None:
        asked = self.draw.choice(self.model.all)
        if asked.owner[0] in map(self.of, LANES):
            self.do(asked.owner[0] % 1_000, table.release(asked.id))

    def reclaim(self) -> None:
        asked = self.draw.choice(self.model.all)
        lane = self.draw.choice(LANES)
        if self.do(lane, table.reclaim(asked.id, max(asked.token, 1), handle=3)) is None:
            self.met.add("held back")
            due_s = max(self.heard_s[asked.owner[0]], self.leader.since_s) + SILENCE_S
            assert self.now_s < due_s, self.say(f"{asked} may be taken over since {due_s:.2f}")

    async def renew(self) -> None:
        """Some of what there is; now and then the round takes its time."""
        asked = [(one.id, one.token) for one in self.model.all if self.draw.random() < 0.6]
        sent_s = self.now_s
        task = self.node.renewing(*asked)
        self.heard(asked)
        if self.draw.random() < 0.3:
            await self.node.turn()
            self.pass_time(self.draw.choice([0.3, 1.0, 2.5]))
        self.heard(asked)
        try:
            found = await self.node.finish(task)
        except HyperClusterError:
            self.met.add("no round")
            return
        for renewed in found:
            row = self.model.find(renewed.lock_id)
            assert renewed.state != 0, self.say(f"no verdict on {renewed}")
            assert renewed.state == (FREE if row is None else row.state), self.say(f"{renewed} of {row}")
            if row is not None:
                times = self.times[row.id]
                times.sure_s, times.may_s = max(times.sure_s, sent_s), self.now_s

    def heard(self, asked: list[tuple[int, int]]) -> None:
        """The leader looks at a renewal when it comes, and again when its round is confirmed."""
        for lock_id, token in asked:
            row = self.model.find(lock_id)
            if row is not None and token in (0, row.token):
                self.heard_s[row.owner[0]] = self.times[lock_id].may_s = self.now_s

    def ring(self, size: int) -> None:
        """Owners of whom each holds one thing and waits for the next: the last wait is refused, and all are named."""
        lanes = self.draw.sample(range(100, 200), size)
        held = [self.do(lane, table.acquire(f"r{lane}", one_at_a_time=True)) for lane in lanes]
        order = self.draw.sample(range(size), size)
        for place in order[:-1]:
            self.do(lanes[place], table.acquire(f"r{lanes[place - 1]}", one_at_a_time=True))
        told: list[LockEvent] = []
        heard = self.node.host._on_events
        self.node.host._on_events = lambda index, events: told.extend(event for _, event in events)  # type: ignore[misc]
        last = order[-1]
        self.do(lanes[last], table.acquire(f"r{lanes[last - 1]}", one_at_a_time=True))
        self.node.host._on_events = heard
        (event,) = told
        assert (event.kind, len(event.cycle)) == (DEADLOCK, size), self.say(f"a ring of {size}: {event}")
        self.met.add("deadlock")
        for lane in lanes:
            for asked in [one for one in self.model.all if one.owner[0] == self.of(lane)]:
                self.do(lane, table.release(asked.id))
        assert all(held) and not any(one.target.startswith("r") for one in self.model.all)

    # -- what befalls it --------------------------------------------------------------------------------

    def jump(self) -> None:
        """No leader's clock is further off: it would have handed over (D-5)."""
        self.jumped_s = self.now_s
        self.node.turns.wall_offset_ns = int(self.draw.uniform(-1, 1) * CLOCK_SKEW_MAX_MS * 1_000_000)

    def fail_over(self) -> None:
        """What is on its way is lost, or a beginning of it is applied by the next leader. Whoever sent it goes on under
        another name."""
        node, draw = self.node, self.draw
        for lane in draw.sample(LANES, 2):
            self.send(lane)
        node.leases.look()
        node.turns.settle()
        node.engine.fail_reads("NOT_LEADER", "n2")
        lost = list(node.engine.proposals)
        kept = draw.randrange(len(lost) + 1)
        node.engine.follow("n2")
        node.standing.forget()
        while node.engine.proposals:
            node.engine.lose()
        self.leader.since_s = self.now_s  # whoever leads now knows of no renewal
        for proposal in lost[:kept]:
            node.host.apply(Index(node.engine.next_index), Term(self.term), proposal.payload, None)
            node.engine.next_index += 1
        node.pass_time(draw.choice([0.1, 1.0, TTL_S + 1]), commits=False)
        self.term += 2
        node.engine.now = replace(node.engine.now, role=Role.LEADER, leader=NodeId("n1"), term=Term(self.term))
        node.standing.forget()
        self.leader = Leader(self.now_s, self.now_s)
        node.leases.look()
        self.met.add("another leader")

    def send(self, lane: int) -> None:
        """A command whose answer nobody waits for, by a client that does nothing else any more."""
        number = self.of(lane)
        self.lives[lane] = self.lives.get(lane, 0) + 1
        self.clients[bytes(client(number))] = number
        seq = self.node.seqs.get(number, 0) + 1
        command = table.acquire(self.draw.choice(("a", "b")), self.draw.choice([SHARED, EXCLUSIVE]))
        self.node.send(submit(client(number), seq, command, workspace_id=self.node.workspace_id))
        self.heard_s[number] = self.now_s

    def pass_time(self, span_s: float) -> None:
        self.node.pass_time(span_s)

    async def run(self) -> None:
        usual: list[Callable[[], Any]] = [self.release, self.reclaim, self.renew]
        always: list[Callable[[], Any]] = [self.acquire, self.jump, self.fail_over]
        for number in range(STEPS):
            action = self.draw.choices([*usual, *always], [4, 4, 7, 10, 2, 0.7])[0]
            done = action() if self.model.all or action in always else None
            if done is not None:
                await done
            if number % (STEPS // 3) == 7:
                self.ring(2 + (3 * self.seed + number // (STEPS // 3)) % 9)
            self.check()
            self.pass_time(self.draw.choice([0.0, 0.3, 1.0, 1.7, 3.0]))
            self.check()


async def walk(seed: int) -> Walk:
    made = Walk(seed, LockNode())
    await made.run()
    return made


@pytest.mark.req("D-6", "WS-40", "WS-41", "WS-43", "WS-47")
async def test_what_is_logged_of_locks_comes_in_its_time() -> None:
    met: set[str] = set()
    for seed in SEEDS:
        met |= (await walk(seed)).met
    wanted = {
        "reclaimed", "held back", "expired", "renewed in its grace", "wait over", "silent wait over", "another leader",
        "semaphore full", "deadlock",
    }  # fmt: skip
    assert len(SEEDS) == 1 or met >= wanted, f"never seen: {wanted - met}"


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.req("D-6", "WS-40", "WS-41", "WS-43", "WS-47")
async def test_hundreds_of_walks_through_time() -> None:
    for seed in range(1_000, 1_300):
        await walk(seed)


@pytest.mark.req("CH-10")
@pytest.mark.parametrize("name", ["no_grace", "granted_while_held", "one_permit_too_many", "deadlocks_wait"])
async def test_a_broken_lock_table_is_seen_in_time(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lock_builds.BUILDS[name](monkeypatch.setattr)
    await _seen()


@pytest.mark.req("CH-10")
@pytest.mark.parametrize("name", ["leases_of_another_term", "reclaim_after_a_ttl"])
async def test_broken_leases_are_seen_in_time(name: str) -> None:
    with eager_leases.BUILDS[name]():
        await _seen()


@pytest.mark.req("CH-10")
async def test_leases_by_the_wall_clock_are_seen() -> None:
    for seed in range(20):
        node = LockNode()
        turns = node.turns
        turns.monotonic = lambda turns=turns: turns.wall_ns() / 1e9  # type: ignore[method-assign, misc]
        try:
            await Walk(seed, node).run()
        except AssertionError:
            return
    pytest.fail("not noticed in 20 walks")


async def _seen() -> None:
    for seed in range(20):
        try:
            await walk(seed)
        except (AssertionError, HyperClusterError):
            return
    pytest.fail("not noticed in 20 walks")


@pytest.mark.req("WS-47")
async def test_a_wait_behind_a_longer_chain_than_is_followed_ends_by_its_time() -> None:
    node = LockNode()
    count = LOCK_GRAPH_STEPS_MAX + 1
    held = [node.lock(n, table.acquire(f"t{n}", one_at_a_time=True)) for n in range(1, count + 1)]
    for n in range(1, count):
        assert node.lock(n, table.acquire(f"t{n + 1}", one_at_a_time=True)).state == QUEUED
    closing = node.lock(count, table.acquire("t1", wait_ms=3_000, one_at_a_time=True))
    assert closing.state == QUEUED
    node.pass_time(2.5)
    assert node.state_of(closing.lock_id) == QUEUED
    node.pass_time(1.0)
    assert node.state_of(closing.lock_id) == FREE
    assert all(node.state_of(one.lock_id) == HELD for one in held)
