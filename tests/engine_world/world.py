"""Several engines in one process, every step by hand: time, frames, ticks, syncs, crashes.

Owns: `World`: nodes with disks that outlive them, links that are FIFO while up, one clock. Nothing happens unless a
test asks for it, and the same calls in the same order give the same outcome in any process.
"""

from __future__ import annotations

import dataclasses
import random
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from hypercluster.raft.adapter import RaftEngine
from hypercluster.raft.engine import Committed, ProposalOutcome, ReadOutcome
from hypercluster.raft.settings import EngineParts, EngineSettings, Identity
from hypercluster.values import ClusterId, Incarnation, Index, Member, Membership, NodeId, Role, Suffrage
from tests.engine_world.memory_wal import LogDisk, MemoryWal
from tests.engine_world.state import HistoryHost, MemoryCheckpoints, StateDisk

CLUSTER = ClusterId(b"c" * 16)
WALL_NS = 1_700_000_000_000_000_000


def incarnation(name: str, life: int = 0) -> Incarnation:
    return Incarnation(f"{name}-{life}".encode().ljust(16, b"."))


def members(names: Iterable[str], *, learners: Iterable[str] = (), voters: int | None = None) -> Membership:
    names, learners = list(names), set(learners)
    listed = tuple(
        Member(NodeId(n), incarnation(n), f"{n}:1", Suffrage.LEARNER if n in learners else Suffrage.VOTER)
        for n in sorted({*names, *learners})
    )
    return Membership(Index(0), len(names) if voters is None else voters, listed)


class NodeClock:
    def __init__(self, world: World) -> None:
        self._world = world
        self.wall_ahead_ns = 0

    def monotonic(self) -> float:
        return self._world.now

    def boottime_ns(self) -> int:
        return int(self._world.now * 1e9)

    def wall_ns(self) -> int:
        return WALL_NS + int(self._world.now * 1e9) + self.wall_ahead_ns


class HandRunner:
    """A `SyncRunner` whose jobs wait until a test runs them; `auto` runs each at once."""

    def __init__(self) -> None:
        self.jobs: deque[tuple[Callable[[], None], Callable[[BaseException | None], None]]] = deque()
        self.auto = False
        self._running = False

    def submit(self, job: Callable[[], None], done: Callable[[BaseException | None], None]) -> None:
        self.jobs.append((job, done))
        if self.auto and not self._running:
            self._running = True
            while self.jobs:
                self.run_one()
            self._running = False

    def run_one(self) -> bool:
        if not self.jobs:
            return False
        job, done = self.jobs.popleft()
        error: BaseException | None = None
        try:
            job()
        except BaseException as failure:
            error = failure
        done(error)
        return True


class LinkTransport:
    def __init__(self, world: World, name: str) -> None:
        self._world, self.name = world, name
        self.known: set[str] = set()
        self.closed = False

    def start(
        self,
        on_frame: Callable[[NodeId, bytes], None],
        on_connected: Callable[[NodeId], None],
        on_disconnected: Callable[[NodeId], None],
    ) -> None:
        self.on_frame, self.on_connected, self.on_disconnected = on_frame, on_connected, on_disconnected

    def set_peers(self, membership: Membership) -> None:
        self.known = {m.node_id for m in membership.members}
        self._world.relink_due = True

    def send(self, to: NodeId, frame: bytes) -> bool:
        return not self.closed and self._world.carry(self.name, to, frame)

    def queued_bytes(self, to: NodeId) -> int:
        return sum(map(len, self._world.links.get((self.name, to), ())))

    def close(self) -> None:
        self.closed = True


@dataclass
class SimNode:
    name: str
    initial: Membership
    life: int = 0
    log: LogDisk = field(default_factory=LogDisk)
    state: StateDisk = field(default_factory=StateDisk)
    wall_ahead_ns: int = 0
    up: bool = False
    fatal: BaseException | None = None


class World:
    manual_bulk = False  # True: verifying a checkpoint is a step of its own, as a sync is

    def __init__(
        self, names: str = "abc", *, voters: str = "", seed: int = 1, settings: EngineSettings | None = None,
        auto_sync: bool = True,
    ) -> None:  # fmt: skip
        self.rng = random.Random(seed)
        self.settings = settings or EngineSettings()
        self.auto_sync = auto_sync
        self.now = 1000.0
        self.auto_bulk = auto_sync or not self.manual_bulk
        self.names = list(names)
        self.links: dict[tuple[str, str], deque[bytes]] = {}
        self.swallowed: set[tuple[str, str]] = set()  # one-way cuts: sent, never delivered
        self.wires: set[tuple[str, str]] = set()
        self.relink_due = False
        self.nodes: dict[str, SimNode] = {}
        self.engines: dict[str, RaftEngine] = {}
        self.hosts: dict[str, HistoryHost] = {}
        self.wals: dict[str, MemoryWal] = {}
        self.syncs: dict[str, HandRunner] = {}
        self.bulks: dict[str, HandRunner] = {}
        self.clocks: dict[str, NodeClock] = {}
        self.checkpoints: dict[str, MemoryCheckpoints] = {}
        self.wakes: dict[str, int] = {}
        self.on_apply: Callable[[str, int, int, bytes], None] = lambda *_: None
        for name in names:
            self.nodes[name] = SimNode(name, members(voters or names))
            self.start(name)
        self.connect_all()

    # --- nodes ---------------------------------------------------------------------

    def start(self, name: str) -> RaftEngine:
        node = self.nodes[name]
        node.up, node.fatal = True, None
        host = HistoryHost(node.state, lambda i, t, p: self.on_apply(name, i, t, p))
        wal = MemoryWal(node.log)
        clock = NodeClock(self)
        clock.wall_ahead_ns = node.wall_ahead_ns
        runner, bulk = HandRunner(), HandRunner()
        runner.auto, bulk.auto = self.auto_sync, self.auto_bulk
        checkpoints = MemoryCheckpoints(host, f"{name}{self.rng.randrange(10**6)}")
        parts = EngineParts(
            identity=Identity(CLUSTER, NodeId(name), incarnation(name, node.life)),
            initial=node.initial,
            wal=wal,
            host=host,
            checkpoints=checkpoints,
            chunks=checkpoints,
            transport=LinkTransport(self, name),
            clock=clock,
            syncs=runner,
            bulk=bulk,
            rng=random.Random(self.rng.randrange(1 << 30)),
            wake=lambda: self.wakes.__setitem__(name, self.wakes.get(name, 0) + 1),
            on_fatal=lambda error: setattr(node, "fatal", error),
            flushed_index=lambda: Index(node.state.applied),
            stamp_end=lambda payload: int.from_bytes(payload[2:10], "big") if payload[:2] == b"\x10S" else 0,
        )
        self.hosts[name], self.wals[name], self.syncs[name] = host, wal, runner
        self.clocks[name], self.checkpoints[name], self.bulks[name] = clock, checkpoints, bulk
        engine = self.engines[name] = self.make_engine(parts)
        engine.start()
        return engine

    def make_engine(self, parts: EngineParts) -> RaftEngine:
        return RaftEngine(parts, self.settings)

    def crash(self, name: str, rng: random.Random | None = None) -> None:
        self.nodes[name].up = False
        self.wals[name].crash(rng)
        dying = self.engines.pop(name)
        self.relink()
        dying.parts = dataclasses.replace(dying.parts, wake=lambda: None)
        dying.stop()

    def restart(self, name: str) -> RaftEngine:
        engine = self.start(name)
        self.relink()
        return engine

    # --- links ---------------------------------------------------------------------

    def _transport(self, name: str) -> LinkTransport:
        transport = self.engines[name].parts.transport
        assert isinstance(transport, LinkTransport)
        return transport

    def connect(self, one: str, other: str) -> None:
        """The wire is there; a stream comes up when both ends want it."""
        self.wires.add((min(one, other), max(one, other)))
        self.relink()

    def disconnect(self, one: str, other: str) -> None:
        self.wires.discard((min(one, other), max(one, other)))
        self.relink()

    def relink(self) -> None:
        self.relink_due = False
        for one in self.names:
            for other in self.names:
                if one < other:
                    wanted = (one, other) in self.wires and self._both_want(one, other)
                    if wanted and (one, other) not in self.links:
                        self._link_up(one, other)
                    elif not wanted and (one, other) in self.links:
                        self._link_down(one, other)

    def _both_want(self, one: str, other: str) -> bool:
        if one not in self.engines or other not in self.engines:
            return False
        here, there = self._transport(one), self._transport(other)
        return other in here.known and one in there.known and not here.closed and not there.closed

    def _link_up(self, one: str, other: str) -> None:
        for a, b in ((one, other), (other, one)):
            self.links[a, b] = deque()
            self.swallowed.discard((a, b))
        for a, b in ((one, other), (other, one)):
            self._transport(a).on_connected(NodeId(b))

    def _link_down(self, one: str, other: str) -> None:
        del self.links[one, other], self.links[other, one]
        for a, b in ((one, other), (other, one)):
            if a in self.engines:
                self._transport(a).on_disconnected(NodeId(b))

    def connect_all(self) -> None:
        for one in self.names:
            for other in self.names:
                if one < other:
                    self.wires.add((one, other))
        self.relink()

    def isolate(self, name: str) -> None:
        for other in self.names:
            self.disconnect(name, other)

    def rejoin(self, name: str) -> None:
        for other in self.names:
            if other != name:
                self.connect(name, other)

    def carry(self, source: str, target: str, frame: bytes) -> bool:
        queue = self.links.get((source, target))
        if queue is None:
            return False
        if (source, target) not in self.swallowed:
            queue.append(frame)
        return True

    def deliver(self, source: str, target: str, count: int = 1) -> int:
        """Up to `count` frames; how many there were."""
        done = 0
        while done < count and self.links.get((source, target)):
            frame = self.links[source, target].popleft()
            if not self._transport(target).closed:
                self._transport(target).on_frame(NodeId(source), frame)
            done += 1
        return done

    def drop(self, source: str, target: str) -> None:
        self.links[source, target].clear()

    # --- time ------------------------------------------------------------------------

    def tick(self, *names: str) -> None:
        for name in names or sorted(self.engines):
            self.engines[name].tick()

    def flush(self, *pairs: tuple[str, str]) -> None:
        """Delivers and ticks until nothing moves, on all links or on these."""
        for _ in range(1000):
            moved = 0
            if self.relink_due:
                self.relink()
            for source, target in list(pairs) or sorted(self.links):
                moved += self.deliver(source, target, 1000)
            for name in sorted(self.engines):
                if self.wakes.pop(name, 0):
                    self.engines[name].tick()
                    moved += 1
            if not moved:
                return
        raise AssertionError("the cluster does not come to rest")

    def run(self, seconds: float, step_s: float = 0.02) -> None:
        """Time passes, timers fire, everything is delivered."""
        until = self.now + seconds
        while self.now < until:
            self.now += step_s
            self.tick()
            self.flush()

    def elect(self, name: str, seconds: float = 5.0) -> RaftEngine:
        """Lets only `name` time out, and waits until it leads and everybody reachable has applied its no-op."""
        engine = self.engines[name]
        deadline = self.now + seconds
        while not (engine.is_leader() and engine.commit_index() >= engine.own_no_op()):
            assert self.now < deadline, f"{name} was not elected: {engine.status()}"
            for other, peer in self.engines.items():
                if other != name:
                    peer._SyncObj__raftElectionDeadline = self.now + 1.0
            self.now += 0.02
            self.tick()
            self.flush()
        self.run(0.1)
        return engine

    def time_out(self, name: str) -> None:
        """Its election timer has just run out, and its loop is on time."""
        self.engines[name]._SyncObj__raftElectionDeadline = self.now
        self.engines[name]._promised_s = self.now
        self.tick(name)

    def leader(self, seconds: float = 10.0) -> RaftEngine:
        deadline = self.now + seconds
        while True:
            leaders = [e for e in self.engines.values() if e.role() is Role.LEADER]
            best = max(leaders, key=lambda e: e.term(), default=None)
            if best is not None and best.commit_index() >= best.own_no_op() > 0:
                return best
            assert self.now < deadline, "no leader"
            self.run(0.1)

    # --- work ------------------------------------------------------------------------

    def propose(self, name: str, text: str | bytes) -> list[ProposalOutcome]:
        """The list gets the outcome when there is one."""
        payload = b"\x10" + (text.encode() if isinstance(text, str) else text)
        outcomes: list[ProposalOutcome] = []
        self.engines[name].propose(payload, text, outcomes.append)
        return outcomes

    def commit(self, name: str, text: str) -> Committed:
        outcomes = self.propose(name, text)
        self.flush()
        assert len(outcomes) == 1
        assert isinstance(outcomes[0], Committed), outcomes
        return outcomes[0]

    def read(self, name: str) -> list[ReadOutcome]:
        outcomes: list[ReadOutcome] = []
        self.engines[name].read_index(outcomes.append)
        return outcomes

    def applied(self, name: str) -> list[str]:
        return [payload[1:].decode() for _, _, payload in self.hosts[name].history]
