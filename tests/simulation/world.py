"""A simulated cluster under a seed: nodes, clients, faults, and the judgement at the end (CH-1 to CH-3).

Owns: `World` and its life: faults and load, then everything heals, then liveness and the final comparison.
Invariants are checked after every event; a failing run raises ViolationError and is replayed by its seed alone.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from hypercluster.client.lane_types import Settled, Verdict
from hypercluster.node.leases import Asked, Renewed
from hypercluster.pb.v1 import command_pb2 as pb
from hypercluster.pb.v1.workspace_command_pb2 import LogBatch
from hypercluster.raft.engine import ReadOutcome, ReadReady
from hypercluster.state_machine.oplog import read_ops
from hypercluster.state_machine.workspace.oplog import scan_log
from hypercluster.values import Incarnation, Index, Member, Membership, NodeId, Role, Suffrage
from tests.simulation.client import SimClient, Workload
from tests.simulation.drawing import Draw, share
from tests.simulation.events import EventQueue
from tests.simulation.faults import Fault
from tests.simulation.invariants import Invariants, ViolationError
from tests.simulation.lock_rules import LockRules
from tests.simulation.lock_workload import Lockers, LockWorkload
from tests.simulation.network import SimNetwork
from tests.simulation.node import SCOPE, Life, SimNode
from tests.simulation.open_files import OpenFiles, OpenRules, short_keep
from tests.simulation.sim_leases import renew
from tests.simulation.virtual_tasks import VirtualTasks
from tests.simulation.workload import HUB_SPACE, FileWorkload, HubWorkload, Shared

HEAL_S = 40.0  # virtual seconds in which a healed cluster must have answered everything
SETTLE_STEP_S = 0.1  # how often it is asked whether everything is answered and equal
RESTORE_EVERY = 5  # settle steps
HEALING_PROBES_S = 1.5  # reads are probed as often for so long after the healing; by then one leader is in place
CALM_FACTOR = 10.0
LOCK_WAKE_S = 0.05


@dataclass(slots=True)
class Summary:
    """Of one run that held."""

    seed: int
    invoked: int = 0
    ok: int = 0
    refused: int = 0
    unknown: int = 0
    not_done: int = 0
    faults: int = 0
    reads: int = 0
    terms: int = 0
    entries: int = 0
    checks: int = 0
    grants: int = 0
    guarded: int = 0
    fenced: int = 0
    permits: int = 0
    reclaims: int = 0
    opens: int = 0
    reaped: int = 0
    trace: str = ""
    virtual_s: float = 0.0
    checkpoints_installed: int = 0
    faults_by_name: dict[str, int] = field(default_factory=dict)


class Paced:
    """A workload that spreads its share of the run's operations over the run's duration, in bursts."""

    def __init__(
        self, inner: Workload, share: int, burst: int, events: EventQueue, duration_s: float, at_once: int = 0
    ) -> None:
        self._inner, self._share, self._burst, self._events, self._duration_s = inner, share, burst, events, duration_s
        self._given = 0
        self._allowed = at_once

    def next_command(self) -> tuple[bytes, bytes, bytes] | None:
        if self._given >= self._allowed:
            progress = self._events.now / (0.95 * self._duration_s)
            due = int(self._share * min(1.0, progress))
            if due - self._given < min(self._burst, self._share - self._given) or self._given >= self._share:
                return None
            self._allowed = due
        found = self._inner.next_command()
        if found is not None:
            self._given += 1
        return found

    def settled(self, command: bytes, settled: Settled) -> None:
        self._inner.settled(command, settled)


class World:
    heal_s = HEAL_S
    patience = 1.0
    at_once = 0  # operations of each client that wait for no burst
    probe_s = (0.01, 0.05)  # reads are probed after the first and at most the second more

    def __init__(self, drawn: Draw) -> None:
        self.drawn = drawn
        self.rng = random.Random(f"world/{drawn.seed}")
        self.events = EventQueue()
        self.invariants = Invariants()
        self.network = SimNetwork(self.events, self.rng, drawn.weather)
        self.summary = Summary(drawn.seed)
        self.tasks = VirtualTasks(self.events)
        self.lock_rules = LockRules(self.events)
        self.healing = False
        self._probe_until = drawn.duration_s + HEALING_PROBES_S
        self._told_index = 0
        self.wiped: list[NodeId] = []
        founding = Membership(
            Index(0),
            drawn.nodes,
            tuple(
                Member(
                    NodeId(f"n{i}"),
                    Incarnation(b"%016d" % i),
                    f"n{i}:1",
                    Suffrage.VOTER if i <= drawn.nodes else Suffrage.LEARNER,
                )
                for i in range(1, drawn.nodes + drawn.learners + 1)
            ),
        )
        self.voters = [m.node_id for m in founding.members if m.suffrage is Suffrage.VOTER]
        self.nodes = {
            m.node_id: SimNode(
                m.node_id,
                m.incarnation,
                founding,
                self.events,
                random.Random(self.rng.getrandbits(64)),
                self.network,
                self.invariants,
                drawn.disk,
                drawn.tuning,
            )
            for m in founding.members
        }
        self._shared = Shared()
        self.clients = [self._client(i) for i in range(drawn.clients)]
        self._locked = Shared()
        self._known = Lockers(self._locked, drawn.takes_over, drawn.semaphores)
        self.open_rules = OpenRules(self.events, self._locked) if drawn.tuning.opens else None
        self._lockers: list[LockWorkload] = []
        self.clients += [self._lock_client(i) for i in range(drawn.lock_clients)]
        for node in self.nodes.values():
            node.lock_rules, node.open_rules = self.lock_rules, self.open_rules
            self.events.after(self.rng.random() * 0.2, node.start)
        for at, fault in drawn.faults:
            self.events.at(at, partial(self._inject, fault))
        self.events.at(0.5, self._probe_reads)

    def _client(self, number: int) -> SimClient:
        drawn, rng = self.drawn, random.Random(self.rng.getrandbits(64))
        name = f"c{number}"
        inner: Workload
        if number % 2:
            inner = HubWorkload(name, rng, keys=rng.choice([2, 8, 40]))
        else:
            inner = FileWorkload(name, rng, self._shared, creates_workspace=number == 0)
        of_run, burst = share(drawn, number), rng.choice([1, 10, 30, 60])
        workload = Paced(inner, of_run, burst, self.events, drawn.duration_s, self.at_once)
        return SimClient(
            name,
            self.events,
            rng,
            self.network,
            self.voters,
            self,
            workload,
            self.invariants,
            in_flight_max=rng.choice([4, 30, 120]),
            wake_s=drawn.client_wake_s,
            patience=self.patience,
        )

    def _lock_client(self, number: int) -> SimClient:
        rng = random.Random(f"locks/{self.drawn.seed}/{number}")
        name = f"l{number}"

        def send(asked: Sequence[Asked], opens: Sequence[bytes], answered: Callable[[Sequence[Renewed]], None]) -> None:
            names = self.voters
            node = self.nodes[client.node if rng.random() < 0.8 else rng.choice(names)]
            workspace_id, delay_s = self._locked.workspace_id, self.network.delay_s

            def back(found: Sequence[Renewed]) -> None:
                self.events.after(delay_s(), lambda: answered(found))

            self.events.after(delay_s(), lambda: renew(self.tasks, node, name, workspace_id, asked, back, opens))

        opens = None if self.open_rules is None else OpenFiles(name, rng, self._locked, self.events, self.open_rules)
        workload = LockWorkload(name, rng, self._known, self.events, self.lock_rules, send, opens, prepares=number == 0)
        self._lockers.append(workload)
        client = SimClient(
            name,
            self.events,
            rng,
            self.network,
            self.voters,
            self,
            workload,
            self.invariants,
            in_flight_max=4,
            wake_s=LOCK_WAKE_S,
            patience=self.patience,
        )
        return client

    # --- what faults and clients use --------------------------------------------------------------------

    def submit(self, node: NodeId, message: bytes, principal: str, sink: Callable[[list[pb.Acks]], None]) -> bool:
        def answered(acks: list[pb.Acks]) -> None:
            for ack in acks:
                self._check_majority(node, ack.raft_index)
            sink(acks)

        return self.nodes[node].submit(message, principal, answered)

    def _check_majority(self, node: NodeId, index: int) -> None:
        """What a node tells a client is on a majority of the disks by then (CL-2, D-9)."""
        if index <= self._told_index or self.summary.faults_by_name.get("lose disk"):
            return  # told before; or a disk that held it has been taken away since
        self._told_index = index
        self.invariants.checks += 1
        holders = [name for name in self.voters if self.nodes[name].durable_index() >= index]
        if len(holders) < len(self.voters) // 2 + 1:
            raise ViolationError("answered before a majority had it", f"{node} told {index}, on disk at {holders}")

    def up(self) -> list[SimNode]:
        return [n for n in self.nodes.values() if n.life is not None]

    def down(self) -> list[SimNode]:
        return [n for n in self.nodes.values() if n.life is None]

    def leader(self) -> SimNode | None:
        """The one of the highest term that says it leads."""
        found = [n for n in self.up() if n.life is not None and n.life.engine.role() is Role.LEADER]
        return max(found, key=lambda n: n.life.engine.term() if n.life else 0, default=None)

    def restart_later(self, node: SimNode, delay_s: float) -> None:
        def again() -> None:
            if node.life is None:
                node.start()

        self.events.after(delay_s, again)

    def _inject(self, fault: Fault) -> None:
        if self.healing:
            return
        self.events.trace(f"fault {fault.name}")
        if fault.inject(self, self.rng):
            self.summary.faults += 1
            self.summary.faults_by_name[fault.name] = self.summary.faults_by_name.get(fault.name, 0) + 1

    # --- linearizable reads -----------------------------------------------------------------------------------

    def _probe_reads(self) -> None:
        """A read that begins after an acknowledgement must see it (CL-10)."""
        for node in self.up():
            life = node.life
            if life is not None and (life.engine.role() is Role.LEADER or self.rng.random() < 0.1):
                self._probe_read(node, life)
        pause = 1.0 if self.events.now < self._probe_until else CALM_FACTOR
        least_s, more_s = self.probe_s
        self.events.after((least_s + self.rng.random() * more_s) * pause, self._probe_reads)

    def _probe_read(self, node: SimNode, life: Life) -> None:
        known = self.invariants.highest_answer

        def done(outcome: ReadOutcome) -> None:
            if isinstance(outcome, ReadReady):
                self.summary.reads += 1
                served = life.machine.applied.index
                if served < known:
                    raise ViolationError("stale read", f"{node.node_id} served at {served}, {known} was acknowledged")

        node.gate.do("reader", lambda: life.engine.read_index(done))

    # --- the run ------------------------------------------------------------------------------------------------

    def run(self) -> Summary:
        with self.tasks.running(), short_keep(wanted=self.drawn.tuning.opens):
            try:
                return self.run_through()
            finally:
                self.tasks.end()

    def run_through(self) -> Summary:
        """Inside of `tasks.running()`."""
        self._run_until(self.drawn.duration_s)
        self._heal()
        self._settle()
        self._final_checks()
        return self._finish()

    def _run_until(self, when: float) -> None:
        self.events.run_until(when)

    def _heal(self) -> None:
        self.healing = True
        self.network.heal_all()
        weather, disk = self.drawn.weather, self.drawn.disk
        weather.spike_chance = weather.break_chance = weather.client_break_chance = 0.0
        disk.slow_chance = 0.0
        for node in self.nodes.values():
            node.gate.resume()
            node.clock.wall_offset_ns = 0
            node.clock.drift_ppm = 0
            node.disk.set_capacity(None)
            node.disk.fail_sync_at(-1)  # one that was ordered and has not come yet never comes
            if node.life is None:
                node.start()
        for client in self.clients:
            client.stopped = True
        for locker in self._lockers:
            locker.stopped = True

    def _settle(self) -> None:
        """Liveness: every command is answered, and every node applies the same index."""
        deadline = self.events.now + self.heal_s
        steps = 0
        while self.events.now < deadline:
            self._run_until(self.events.now + SETTLE_STEP_S)
            steps += 1
            if steps % RESTORE_EVERY == 0:
                self._restore_members()
            if self._is_settled():
                return
        states = [_state(node) for node in self.nodes.values()]
        raise ViolationError("no progress after healing", "; ".join(states) + f"; pending {self._pending()}")

    def _pending(self) -> list[int]:
        return [c.pending for c in self.clients]

    def _restore_members(self) -> None:
        """The operator's part after a lost disk: learner in, then promoted (QUO-1, CL-15)."""
        leader = self.leader()
        if leader is None or leader.life is None or not self.wiped:
            return
        engine = leader.life.engine
        members = {m.node_id: m for m in engine.membership().members}
        name = self.wiped[0]
        node = self.nodes[name]
        have = members.get(name)
        if have is not None and have.incarnation != node.incarnation:
            members.pop(name)
        elif have is None:
            members[name] = Member(name, node.incarnation, f"{name}:1", Suffrage.LEARNER)
        elif have.suffrage is Suffrage.LEARNER:
            members[name] = Member(name, node.incarnation, f"{name}:1", Suffrage.VOTER)
        elif engine.commit_index() >= engine.membership().index:
            self.wiped.pop(0)
            return
        wanted = Membership(Index(0), engine.membership().configured_voters, tuple(members[k] for k in sorted(members)))
        engine.change_membership(wanted, lambda outcome: self.events.trace(f"member {name} {type(outcome).__name__}"))

    def _is_settled(self) -> bool:
        if any(self._pending()) or self.down() or self.wiped or self.leader() is None:
            return False
        applied = {n.life.machine.applied.index for n in self.up() if n.life is not None}
        commits = {n.life.engine.wal.last_index for n in self.up() if n.life is not None}
        return len(applied) == 1 and applied == commits

    # --- the judgement ----------------------------------------------------------------------------------------------

    def _final_checks(self) -> None:
        lives = [n.life for n in self.nodes.values() if n.life is not None]
        digests = {bytes(life.machine.applied.digest) for life in lives}
        if len(digests) != 1:
            raise ViolationError("divergent state", "digests differ after healing")
        first, *others = self.nodes.values()
        if any(not node.storage.store.same_pairs(first.storage.store) for node in others):
            raise ViolationError("divergent state", "stored pairs differ after healing")
        self.invariants.check_answers(self._positions(first))  # of all of them: their stored pairs are equal

    def _positions(self, node: SimNode) -> dict[tuple[bytes, int], tuple[bytes, int]]:
        """Everything the op logs of `node` hold: (space, position) -> (client, seq)."""
        store = node.storage.store
        found: dict[tuple[bytes, int], tuple[bytes, int]] = {
            (HUB_SPACE, op.server_seq): (op.client_id, op.client_seq) for op in read_ops(store, SCOPE, 1)
        }
        for workspace in filter(None, (self._shared.workspace_id, self._locked.workspace_id)):
            for part in scan_log(store, workspace, 1):
                for record in LogBatch.FromString(part.batch).records:
                    found[(workspace, record.log_index)] = (record.client_id, record.client_seq)
        return found

    def _finish(self) -> Summary:
        out = self.summary
        for client in self.clients:
            out.invoked += client.invoked
            out.ok += client.outcomes[Verdict.OK]
            out.refused += client.outcomes[Verdict.REFUSED]
            out.unknown += client.outcomes[Verdict.UNKNOWN]
            out.not_done += client.outcomes[Verdict.NOT_DONE]
        out.terms = len(self.invariants.leaders)
        out.entries = len(self.invariants.applied)
        out.checks = self.invariants.checks
        out.virtual_s = self.events.now
        out.checkpoints_installed = sum(node.installs for node in self.nodes.values())
        rules = self.lock_rules
        out.grants, out.guarded, out.fenced = rules.grants, rules.writes, rules.fenced
        out.permits, out.reclaims = rules.permits, rules.reclaims
        if self.open_rules is not None:
            out.opens, out.reaped = self.open_rules.leases, self.open_rules.reaped
        out.trace = self.events.trace_digest()
        return out


def _state(node: SimNode) -> str:
    life = node.life
    if life is None:
        return f"{node.node_id} down"
    s = life.engine.status()
    members = ",".join(f"{m.node_id}{'' if m.suffrage is Suffrage.VOTER else '?'}" for m in s.membership.members)
    links = ",".join(f"{p.node_id}:{p.match_index}{'' if p.connected else '!'}" for p in s.peers)
    return (
        f"{s.node_id} {s.role.value} term {s.term} leader {s.leader} log {s.base_index}..{s.last_index} durable "
        f"{s.durable_index} commit {s.commit_index} applied {s.applied_index} members {members} peers {links} "
        f"{s.refusing_writes} {s.stopped}"
    )
