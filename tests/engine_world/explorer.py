"""Random schedules over the engine, and the invariants that must hold after every step (CH-3).

Owns: `Explorer`: one seed decides deliveries, ticks, syncs, time, crashes that lose unsynced log, cuts both ways and
one way, full and failing disks, wrong clocks, checkpoints, configuration steps, reads and proposals; then everything
heals and the cluster must come to agree. A violation raises `Violation` with what was broken.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from hypercluster.errors import DiskFailedError
from hypercluster.pb.v1.peer_pb2 import PeerFrame
from hypercluster.raft.adapter import RaftEngine
from hypercluster.raft.engine import Committed, ProposalOutcome, ReadOutcome, ReadReady
from hypercluster.raft.settings import EngineParts, EngineSettings
from hypercluster.values import Index, Member, Membership, NodeId, Suffrage
from tests.engine_world.world import World, incarnation


class Violation(BaseException):
    """An invariant is broken; the text begins with its name. No `except Exception` of the engine may swallow it."""


@dataclass
class Tally:
    steps: int = 0
    proposed: int = 0
    acknowledged: int = 0
    unknown: int = 0
    reads: int = 0
    crashes: int = 0
    checkpoints_installed: int = 0
    changes: int = 0
    elections: int = 0

    def add(self, other: Tally) -> None:
        for name in self.__dataclass_fields__:
            setattr(self, name, getattr(self, name) + getattr(other, name))


SMALL = EngineSettings(
    append_bytes_max=40,
    append_entries_max=3,
    in_flight_bytes_max=200,
    log_keep_entries=5,
    checkpoint_every_entries=14,
    checkpoint_piece_bytes=96,
    checkpoint_window_bytes=200,
    checkpoint_retry_ms=500,
)
PLAIN = EngineSettings(append_bytes_max=40, append_entries_max=3, in_flight_bytes_max=200)


@dataclass
class Watch:
    """What has been seen, over all nodes and lives."""

    leaders: dict[int, str] = field(default_factory=dict)
    applied: dict[int, tuple[bytes, str]] = field(default_factory=dict)
    where: dict[bytes, int] = field(default_factory=dict)
    entries: dict[tuple[int, int], bytes] = field(default_factory=dict)
    acknowledged: dict[str, tuple[int, float]] = field(default_factory=dict)  # text -> index, when
    acks: dict[tuple[str, int], int] = field(default_factory=dict)  # node, term -> highest acknowledged index


class Explorer:
    def __init__(
        self,
        seed: int,
        *,
        names: str = "abc",
        voters: str = "",
        snapshots: bool = False,
        changes: bool = False,
        faults: bool = True,
        make: Callable[[EngineParts, EngineSettings], RaftEngine] = RaftEngine,
    ) -> None:
        self.seed = seed
        self.rng = random.Random(seed)
        self.tally = Tally()
        self.watch = Watch()
        self.changes, self.faults = changes, faults
        self.down: set[str] = set()
        self._draw_weights()
        self.world = _WatchedWorld(
            self, names, voters=voters, seed=seed, settings=SMALL if snapshots else PLAIN, make=make
        )

    # --- observations ----------------------------------------------------------------

    def on_apply(self, name: str, index: int, term: int, payload: bytes) -> None:
        first = self.watch.applied.setdefault(index, (payload, name))
        if first[0] != payload:
            raise Violation(f"STATE MACHINE SAFETY: at {index} {first[1]} applied {first[0]!r}, {name} {payload!r}")
        if payload and self.watch.where.setdefault(payload, index) != index:
            raise Violation(f"APPLIED TWICE: {payload!r} at {self.watch.where[payload]} and {index}")

    def on_send(self, source: str, frame: bytes) -> None:
        parsed = PeerFrame.FromString(frame)
        if parsed.WhichOneof("kind") == "append_ack" and parsed.append_ack.success:
            key = source, parsed.append_ack.term
            self.watch.acks[key] = max(self.watch.acks.get(key, 0), parsed.append_ack.match_index)
            node = self.world.nodes[source]
            installed = 0 if node.state.latest is None else node.state.latest.index  # durable by rename
            durable = max(node.log.image.last_index, installed)
            if parsed.append_ack.match_index > durable:
                raise Violation(f"ACK BEFORE SYNC: {source} acknowledged {parsed.append_ack.match_index} > {durable}")
        term = _term_of(parsed)
        if term is not None and term > self.world.nodes[source].log.image.hard_state.term:
            raise Violation(f"TERM BEFORE SYNC: {source} speaks of term {term} before its disk knows it")

    def check(self, name: str) -> None:
        engine = self.world.engines.get(name)
        if engine is None:
            return
        fatal = self.world.nodes[name].fatal
        if fatal is not None and not isinstance(fatal, DiskFailedError):
            raise Violation(f"ENGINE SELF-CHECK: {name}: {fatal!r}") from fatal
        if engine.stopped:
            return
        if engine.is_leader():
            if engine.term() not in self.watch.leaders:
                self.tally.elections += 1
            if self.watch.leaders.setdefault(engine.term(), name) != name:
                raise Violation(
                    f"ELECTION SAFETY: term {engine.term()}: {self.watch.leaders[engine.term()]} and {name}"
                )
        acked = self.watch.acks.get((name, engine.term()), 0)
        if engine.wal.last_index < acked:
            raise Violation(f"ACKNOWLEDGED INDEX FELL: {name} has {engine.wal.last_index}, acknowledged {acked}")

    def check_logs(self) -> None:
        for name, engine in sorted(self.world.engines.items()):
            for index in range(engine.wal.base_index + 1, engine.wal.last_index + 1):
                entry = engine.wal.entry(Index(index))
                if self.watch.entries.setdefault((index, entry.term), entry.payload) != entry.payload:
                    raise Violation(f"LOG MATCHING: index {index} term {entry.term} on {name}")
            fresh_s = engine.freshness.boottime_ns / 1e9
            held = {payload for _, _, payload in self.world.hosts[name].history}
            for text, (_, when) in self.watch.acknowledged.items():
                if when < fresh_s - 1e-6 and b"\x10" + text.encode() not in held:
                    raise Violation(f"STALE: {name} claims to be fresh as of {fresh_s}, lacks {text} of {when}")

    # --- steps ---------------------------------------------------------------------------

    def run(self, steps: int) -> Tally:
        for number in range(steps):
            self.tally.steps += 1
            self._step()
            if number % 40 == 0:
                self.check_logs()
        self.heal()
        return self.tally

    def _live(self) -> list[str]:
        return sorted(self.world.engines)

    def _draw_weights(self) -> None:
        """Swarm testing (CH-2): what happens, and how often, is drawn per seed."""
        rng = self.rng
        weights: dict[Callable[[str], None], float] = {
            self._deliver: rng.choice((30, 50)),
            self._tick: rng.choice((12, 18)),
            self._sync: rng.choice((6, 14, 25)),
            self._let_time_pass: rng.choice((6, 10, 16)),
            self._propose: rng.choice((2, 7)),
            self._read: 1,
            self._cut: rng.choice((0.2, 1.5, 3)),
            self._crash: rng.choice((0, 0.3, 1)),
            self._restart: rng.choice((0.5, 2)),
            self._flush: 0.5,
            self._fault: rng.choice((0, 0.4)) if self.faults else 0,
            self._change: rng.choice((1, 3)) if self.changes else 0,
        }
        self._actions, self._weights = list(weights), list(weights.values())
        self._reset_chance = rng.choice((0.1, 0.6))
        self._jumps_s = rng.choice(((0.01, 0.03, 0.06, 0.3), (0.05, 0.1, 0.2, 0.5)))

    def _step(self) -> None:
        world, rng = self.world, self.rng
        if world.relink_due:
            world.relink()
        name = rng.choice(self._live())
        rng.choices(self._actions, self._weights)[0](name)
        for seen in self._live():
            self.check(seen)

    def _deliver(self, name: str) -> None:
        queues = [link for link in sorted(self.world.links) if self.world.links[link]]
        if queues:
            self.world.deliver(*self.rng.choice(queues), self.rng.choice((1, 1, 1, 3)))

    def _tick(self, name: str) -> None:
        self.world.tick(name)

    def _sync(self, name: str) -> None:
        self.world.syncs[name].run_one()
        if self.rng.random() < 0.3:
            self.world.bulks[name].run_one()

    def _let_time_pass(self, name: str) -> None:
        self.world.now += self.rng.choice(self._jumps_s)

    def _flush(self, name: str) -> None:
        self.world.hosts[name].flush()

    def _restart(self, name: str) -> None:
        if self.down:
            back = self.rng.choice(sorted(self.down))
            self.down.discard(back)
            self.world.restart(back)

    def _crash(self, name: str) -> None:
        if len(self.down) >= (len(self.world.names) - 1) // 2:
            return
        self.tally.crashes += 1
        self.down.add(name)
        self.tally.checkpoints_installed += self.world.hosts[name].installed
        self.world.crash(name, self.rng if self.rng.random() < 0.5 else None)

    def _cut(self, name: str) -> None:
        world, rng = self.world, self.rng
        one, other = sorted(rng.sample(world.names, 2))
        if rng.random() < 0.3:
            pair = (one, other) if rng.random() < 0.5 else (other, one)
            world.swallowed ^= {pair}
        elif (one, other) in world.wires:
            world.disconnect(one, other)
            if rng.random() < self._reset_chance:
                world.connect(one, other)  # a reset: what was in flight is lost
        else:
            world.connect(one, other)

    def _fault(self, name: str) -> None:
        world, rng = self.world, self.rng
        node, kind = world.nodes[name], rng.random()
        if kind < 0.4:
            node.log.full = not node.log.full
        elif kind < 0.6:
            node.log.broken = True  # the next sync fails and the node stops; whoever runs it repairs the disk
            while world.syncs[name].run_one():
                pass
            node.log.broken = False
            if world.engines[name].stopped:
                self.tally.crashes += 1
                world.crash(name)
                world.restart(name)
        else:
            node.wall_ahead_ns = world.clocks[name].wall_ahead_ns = rng.choice((0, 0, 5, -5)) * 10**9

    def _leaders(self) -> list[str]:
        return [name for name in self._live() if self.world.engines[name].is_leader()]

    def _propose(self, _: str) -> None:
        leaders = self._leaders()
        if not leaders:
            return
        name = self.rng.choice(leaders)
        for _n in range(self.rng.randint(1, 5)):
            self.tally.proposed += 1
            text = f"c{self.tally.proposed:06d}"
            self.world.engines[name].propose(b"\x10" + text.encode(), None, self._noting(text))

    def _noting(self, text: str) -> Callable[[ProposalOutcome], None]:
        answered: list[ProposalOutcome] = []

        def note(outcome: ProposalOutcome) -> None:
            answered.append(outcome)
            if len(answered) > 1:
                raise Violation(f"ANSWERED TWICE: {text}: {answered}")
            if isinstance(outcome, Committed):
                self.tally.acknowledged += 1
                self.watch.acknowledged[text] = (outcome.index, self.world.now)
            else:
                self.tally.unknown += 1

        return note

    def _read(self, _: str) -> None:
        leaders = self._leaders()
        if not leaders:
            return
        name = self.rng.choice(leaders)
        must = set(self.watch.acknowledged)
        host = self.world.hosts[name]

        def note(outcome: ReadOutcome) -> None:
            if isinstance(outcome, ReadReady):
                self.tally.reads += 1
                held = {payload[1:].decode() for _, _, payload in host.history}
                if must - held:
                    raise Violation(f"STALE READ: {name} lacks {sorted(must - held)[:3]}")

        self.world.engines[name].read_index(note)

    def _change(self, _: str) -> None:
        leaders = self._leaders()
        if not leaders:
            return
        engine = self.world.engines[self.rng.choice(leaders)]
        now = engine.membership()
        wanted = {m.node_id: m for m in now.members}
        pick = NodeId(self.rng.choice(self.world.names))
        member = wanted.get(pick)
        if member is None:
            wanted[pick] = Member(pick, incarnation(pick), f"{pick}:1", Suffrage.LEARNER)
        elif member.suffrage is Suffrage.LEARNER and self.rng.random() < 0.8:
            wanted[pick] = Member(pick, member.incarnation, member.address, Suffrage.VOTER)
        else:
            del wanted[pick]
        listed = tuple(wanted[key] for key in sorted(wanted))
        count = sum(1 for m in listed if m.suffrage is Suffrage.VOTER)

        def note(outcome: ProposalOutcome) -> None:
            self.tally.changes += isinstance(outcome, Committed)

        if count >= 2:
            engine.change_membership(Membership(Index(0), min(now.configured_voters, count), listed), note)

    # --- the end ----------------------------------------------------------------------------

    def heal(self) -> None:
        world = self.world
        for name in world.names:
            world.nodes[name].log.full = False
            world.nodes[name].wall_ahead_ns = 0
            if name in world.clocks:
                world.clocks[name].wall_ahead_ns = 0
        for name in sorted(self.down):
            world.restart(name)
        self.down.clear()
        world.swallowed.clear()
        world.connect_all()
        for name in world.names:
            for runner in (world.syncs[name], world.bulks[name]):
                runner.auto = True
                while runner.run_one():
                    pass
        try:
            world.run(12.0, step_s=0.06)
        finally:
            for name in self._live():
                self.check(name)
        self.check_logs()
        self.tally.checkpoints_installed += sum(host.installed for host in world.hosts.values())
        leaders = self._leaders()
        if len(leaders) != 1:
            roles = [(n, e.role().value, e.term()) for n, e in sorted(world.engines.items())]
            raise Violation(f"LIVENESS: leaders after healing: {leaders} of {roles}")
        engine = world.engines[leaders[0]]
        final = [n for n in world.names if engine.membership().find(NodeId(n)) is not None]
        applied = {n: world.engines[n].applied_index() for n in final}
        if len(set(applied.values())) != 1 or engine.applied_index() != engine.wal.last_index:
            raise Violation(f"LIVENESS: after healing applied {applied}, the log ends at {engine.wal.last_index}")
        for name in final:
            held = {payload[1:].decode() for _, _, payload in world.hosts[name].history}
            lost = sorted(set(self.watch.acknowledged) - held)
            if lost:
                raise Violation(f"ACKNOWLEDGED WRITES LOST: {len(lost)} on {name}, e.g. {lost[:3]}")
        if len({tuple(world.hosts[n].history) for n in final}) != 1:
            raise Violation("REPLICAS DIVERGED after healing")


class _WatchedWorld(World):
    manual_bulk = True

    def __init__(
        self, explorer: Explorer, names: str, *, voters: str, seed: int, settings: EngineSettings,
        make: Callable[[EngineParts, EngineSettings], RaftEngine],
    ) -> None:  # fmt: skip
        self._explorer, self._make = explorer, make
        self.watching = explorer
        super().__init__(names, voters=voters, seed=seed, settings=settings, auto_sync=False)
        self.on_apply = explorer.on_apply

    def make_engine(self, parts: EngineParts) -> RaftEngine:
        return self._make(parts, self.settings)

    def carry(self, source: str, target: str, frame: bytes) -> bool:
        self._explorer.on_send(source, frame) if hasattr(self._explorer, "world") else None
        return super().carry(source, target, frame)


def _term_of(frame: PeerFrame) -> int | None:
    """The sender's own term, where a frame carries it."""
    kind = frame.WhichOneof("kind") or ""
    if kind == "pre_vote" or (kind == "pre_vote_reply" and frame.pre_vote_reply.granted):
        return None  # the term it would have
    message = getattr(frame, kind)
    return int(message.term) if hasattr(message, "term") else None
