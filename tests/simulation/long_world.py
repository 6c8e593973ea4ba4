"""A day in the life of a cluster and 200 workers, in virtual time (CH-11).

Owns: `LongWorld`: three voters and four learners (the simulated nodes of the short runs, at a slower pace), the
workers, the ring that says which learner mirrors to whom, the detector of the present leader, and what is checked.
Invariants: at every look the ring keeps to its bounds, nobody's silence is overlooked, every queue is within its bound;
what the product keeps does not grow with time; at the end everybody has the whole log, the same on all nodes.
"""

from __future__ import annotations

import gc
import random
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from hypercluster import limits
from hypercluster.node.mirror_ring import MirrorRing
from hypercluster.pb.v1.workspace_command_pb2 import LogBatch
from hypercluster.raft.settings import EngineSettings
from hypercluster.state_machine.workspace.oplog import scan_log
from hypercluster.values import NodeId
from tests.simulation.drawing import Draw
from tests.simulation.faults import Fault
from tests.simulation.invariants import ViolationError
from tests.simulation.long_detector import LOOK_S, Silence, SilenceJudge
from tests.simulation.long_faults import NODE_FAULTS, WORKER_FAULTS
from tests.simulation.long_worker import LogRecord, LongWorker
from tests.simulation.network import Weather
from tests.simulation.node import DiskWeather, NodeTuning, SimNode
from tests.simulation.world import Summary, World

VOTERS, LEARNERS, WORKERS = 3, 4, 200
OPERATIONS_PER_H = 1_200
FIRST_FAULT_S = 60.0
SAMPLES_PER_RUN = 24
LOG_KEEP_ENTRIES, CHECKPOINT_EVERY_ENTRIES = 40, 300
WATCH_EVENTS_MAX = 4  # instead of a thousand: a log of one record in nine seconds would never fill that
GROWTH_FACTOR, GROWTH_SLACK = 1.5, 400  # of live objects of one type, second against first half of the run
GROWTH_FROM_H = 2.0  # a shorter run is still filling what is bounded
LOG_ENTRIES_MAX = 4 * (LOG_KEEP_ENTRIES + CHECKPOINT_EVERY_ENTRIES)  # in one node's log
# What has a bound of its own, far above what half of a run may happen to reach: what the stores hold until they flush,
# the tails of the logs, and the inner nodes of Merkle trees, which follow the files that a day makes and not its hours:
# at most one for every eight leaves, two leaves a file.
BOUNDED = Counter(
    {
        "Change": 20_000,
        "LogEntry": (VOTERS + LEARNERS) * LOG_ENTRIES_MAX,
        "Inner": (VOTERS + LEARNERS) * 24 * OPERATIONS_PER_H * 2 // 8,
    }
)


@dataclass(slots=True)
class LongSummary:
    run: Summary
    hours: float = 0.0
    records: int = 0
    deliveries: int = 0
    skipped: int = 0  # with a snapshot
    cutovers: int = 0
    beats: int = 0
    detected: int = 0
    detect_mean_s: float = 0.0
    detect_max_s: float = 0.0
    false_alarms: int = 0
    ring_moves: int = 0
    ring_windows: int = 0
    ring_changes: int = 0
    replaced: int = 0
    queued_events_max: int = 0
    log_entries_max: int = 0
    objects: dict[str, int] = field(default_factory=dict)


def draw_long(seed: int, hours: float, fault_every_s: float) -> Draw:
    rng = random.Random(f"long/{seed}")
    duration_s = hours * 3600
    faults: list[tuple[float, Fault]] = []
    at = FIRST_FAULT_S
    while (at := at + rng.expovariate(1 / fault_every_s)) < duration_s * 0.95:
        faults.append((at, rng.choice(rng.choice([NODE_FAULTS, WORKER_FAULTS]))))
    engine = EngineSettings(
        heartbeat_ms=2_500,
        election_min_ms=10_000,
        election_max_ms=20_000,
        fallback_ms=12_500,
        transfer_ms=20_000,
        checkpoint_retry_ms=20_000,
        log_keep_entries=LOG_KEEP_ENTRIES,
        checkpoint_every_entries=CHECKPOINT_EVERY_ENTRIES,
        promote_lag_entries_max=20,
    )
    return Draw(
        seed,
        nodes=VOTERS,
        clients=4,
        operations=max(60, int(hours * OPERATIONS_PER_H)),
        duration_s=duration_s,
        faults=tuple(faults),
        weather=Weather(delay_max_s=0.02, spike_chance=0.001, spike_s=2.0, client_break_chance=0.01),
        disk=DiskWeather(sync_max_s=0.01, slow_chance=0.002, slow_s=5.0),
        tuning=NodeTuning(segment_bytes=64 * 1024, flush_entries=40, engine=engine),
        learners=LEARNERS,
        client_wake_s=5.0,
    )


def growth(samples: Sequence[Counter[str]]) -> tuple[Counter[str], dict[str, tuple[int, int]]]:
    """The most there were of each type in the second half, and those of which there were too many beside the first."""
    half = len(samples) // 2
    early, late = Counter[str](), Counter[str]()
    for number, sample in enumerate(samples):
        (early if number < half else late).__ior__(sample)
    early |= BOUNDED
    grown = {kind: (early[kind], n) for kind, n in late.items() if n > early[kind] * GROWTH_FACTOR + GROWTH_SLACK}
    return late, grown


class RingJudge:
    """Sees who holds what, and counts for itself (QUO-5)."""

    def __init__(self) -> None:
        self._members: frozenset[str] = frozenset()
        self._changed_s = 0.0
        self._held: dict[str, str | None] = {}
        self._recent: deque[tuple[float, int]] = deque()
        self.moves = self.windows = self.changes = 0

    def look(self, now_s: float, members: Iterable[str], ring: MirrorRing, streams: Iterable[str]) -> list[str]:
        """The streams that have moved."""
        present = frozenset(members)
        if present != self._members:
            self._members, self._changed_s = present, now_s
            self.changes += 1
        held = {stream: ring.holder(stream) for stream in streams}
        moved = [s for s, holder in held.items() if self._held.get(s) is not None and self._held[s] != holder]
        self._held = held
        if not moved:
            return moved
        if now_s - self._changed_s < limits.RING_STABLE_S:
            raise ViolationError("ring moved too soon", f"{now_s - self._changed_s:.0f} s after the members changed")
        if any(held[stream] not in present for stream in moved):
            raise ViolationError("ring moved to nowhere", f"a target is no member: {sorted(present)}")
        while self._recent and now_s - self._recent[0][0] >= limits.RING_STABLE_S:
            self._recent.popleft()
        self._recent.append((now_s, len(moved)))
        count = sum(number for _, number in self._recent)
        if count > max(1, len(held) // 4):
            raise ViolationError("ring moved too much", f"{count} of {len(held)} streams in one window")
        self.moves, self.windows = self.moves + len(moved), self.windows + 1
        return moved


class LongWorld(World):
    heal_s = 1_800.0
    patience = 20.0
    at_once = 1
    probe_s = (5.0, 10.0)

    def __init__(self, drawn: Draw, workers: int = WORKERS) -> None:
        super().__init__(drawn)
        self.ring = MirrorRing()
        self.silence: Silence | None = None
        self.workers: dict[str, LongWorker] = {}
        self.log_record = LogRecord()
        self.found = LongSummary(self.summary, drawn.duration_s / 3600)
        self._ring_judge = RingJudge()
        self._silence_judge = SilenceJudge()
        self._silence_of: tuple[NodeId, object, int] | None = None
        self._samples: list[Counter[str]] = []
        self._deaths = Counter[NodeId]()  # as of the last look
        self._enrolled = 0
        for _ in range(workers):
            self._enrol()
        self.events.after(LOOK_S, self._look)
        # Between two looks: who was hung up on at a look has gone by then.
        self.events.at(drawn.duration_s / SAMPLES_PER_RUN + LOOK_S / 2, self._sample)

    @property
    def workspace_id(self) -> bytes:
        return self._shared.workspace_id

    # --- workers ----------------------------------------------------------------------------------------------

    def _enrol(self) -> None:
        self._enrolled += 1
        worker = LongWorker(f"w{self._enrolled}", self, random.Random(self.rng.getrandbits(64)))
        self.workers[worker.name] = worker
        self.ring.add(worker.name)
        if self.silence is not None:
            self.silence.enrol(self.events.now, worker.name)
        self.events.after(self.rng.uniform(0.0, 15.0), worker.start)

    def replace_worker(self, worker: LongWorker) -> None:
        worker.retired = True
        worker.stop()
        self.found.beats += worker.beats
        del self.workers[worker.name]
        self.ring.remove(worker.name)
        if self.silence is not None:
            self.silence.forget(worker.name)
        self.found.replaced += 1
        self._enrol()

    def heartbeat(self, node: SimNode, name: str) -> None:
        """At its node; from there to the leader."""
        leader = self.leader()
        if leader is not None and self.reaches(node, leader):
            leader.gate.do("workers", lambda: self._heard(leader, name))

    def reaches(self, node: SimNode, leader: SimNode | None) -> bool:
        """Whether what is sent to `node` comes to the leader soon."""
        if leader is None or node.life is None or node.gate.paused or leader.gate.paused:
            return False
        return node is leader or not self.network.is_cut(node.node_id, leader.node_id)

    def _heard(self, leader: SimNode, name: str) -> None:
        if self.silence is not None and self._silence_of is not None and self._silence_of[0] == leader.node_id:
            self.silence.heard(self.events.now, name)
            if name in self.workers:
                self.workers[name].delivered_at = self.events.now

    # --- looks ------------------------------------------------------------------------------------------------

    def _look(self) -> None:
        now = self.events.now
        leader = self.leader()
        for worker in self.workers.values():
            worker.look(leader)
        if leader is not None and leader.life is not None and not leader.gate.paused:
            self._lead(now, leader)
        for node in self.nodes.values():  # a supervisor starts again what stopped by itself, whenever that was
            if node.life is None and len(node.deaths) > self._deaths[node.node_id]:
                self._deaths[node.node_id] = len(node.deaths)
                self.restart_later(node, self.rng.uniform(5.0, 60.0))
        queued = max((worker.queued_events for worker in self.workers.values()), default=0)
        self.found.queued_events_max = max(self.found.queued_events_max, queued)
        if queued > limits.WATCH_QUEUE_EVENTS_MAX:
            raise ViolationError("queue over its bound", f"{queued} events wait for one watcher")
        self.events.after(LOOK_S, self._look)

    def _lead(self, now: float, leader: SimNode) -> None:
        """What the leader does beside leading: it looks for silence, and keeps the ring."""
        life = leader.life
        assert life is not None
        term = (leader.node_id, life, life.engine.term())
        if self._silence_of != term:
            self._silence_of, self.silence = term, Silence(now, self.workers)
        assert self.silence is not None
        for name, elapsed_s, phi in self.silence.look(now):
            self._silence_judge.suspected(now, self.workers[name], elapsed_s, phi, self.silence.began_s)
        self._silence_judge.look(now, self.silence, self.workers.values())
        peers = life.engine.status().peers
        members = sorted(p.node_id for p in peers if p.connected and p.node_id not in self.voters)
        now_ns = int(now * 1e9)
        self.ring.set_members(now_ns, members)
        self.ring.advance(now_ns)
        moved = self._ring_judge.look(now, members, self.ring, self.workers)
        for name in moved:
            self.events.trace(f"moved {name} {self.ring.holder(name)}")
            self.workers[name].move()

    def _sample(self) -> None:
        """What is alive of the product's own types, and how long the logs are."""
        lives = [node.life for node in self.nodes.values() if node.life is not None]
        longest = max((life.wal.last_index - life.wal.base_index for life in lives), default=0)
        self.found.log_entries_max = max(self.found.log_entries_max, longest)
        if longest > LOG_ENTRIES_MAX:
            raise ViolationError("a log is not compacted", f"{longest} entries, limit {LOG_ENTRIES_MAX}")
        watches, connected = sum(len(life.fanout) for life in lives), sum(w.connected for w in self.workers.values())
        if watches > connected:
            raise ViolationError("watches are left over", f"{watches} are open, {connected} workers are connected")
        if len(self.ring) != len(self.workers) or (self.silence and len(self.silence) != len(self.workers)):
            raise ViolationError("who left is kept", f"{len(self.ring)} streams, {len(self.workers)} workers")
        gc.collect()
        kinds = Counter(type(thing) for thing in gc.get_objects())
        ours = {
            k: n for k, n in kinds.items() if str(k.__module__).startswith(("hypercluster.", "asyncio", "_asyncio"))
        }
        self._samples.append(Counter({k.__qualname__: n for k, n in ours.items()}))
        self.events.after(self.drawn.duration_s / SAMPLES_PER_RUN, self._sample)

    # --- the run ------------------------------------------------------------------------------------------------

    def run_long(self) -> LongSummary:
        with self.tasks.running():
            try:
                self.run_through()
                for worker in self.workers.values():
                    worker.stop()
                self._run_until(self.events.now + 1.0)
                self._check_closed()
            finally:
                self.tasks.end()
        return self._finish_long()

    def _heal(self) -> None:
        super()._heal()
        for worker in self.workers.values():
            worker.slow_s = 0.0
            worker.set_cut(False)
            worker.start()

    def _is_settled(self) -> bool:
        if not super()._is_settled():
            return False
        head = self._head()
        return all(worker.next_index == head + 1 for worker in self.workers.values())

    def _head(self) -> int:
        life = next(iter(self.nodes.values())).life
        found = None if life is None else life.fanout.op_log.head(self.workspace_id)
        return -1 if found is None else found.log_index

    def _final_checks(self) -> None:
        super()._final_checks()
        store = next(iter(self.nodes.values())).storage.store
        log = {
            record.log_index: record.SerializeToString()
            for part in scan_log(store, self.workspace_id, 1)
            for record in LogBatch.FromString(part.batch).records
        }
        if log != self.log_record.at:
            raise ViolationError("another log than was followed", f"{len(log)} and {len(self.log_record.at)} records")
        self._silence_judge.finish(len(self.workers), self.found.hours)
        self._check_growth()

    def _check_growth(self) -> None:
        late, grown = growth(self._samples)
        if grown and self.found.hours >= GROWTH_FROM_H:
            raise ViolationError("memory follows time", f"live objects, first and second half: {grown}")
        self.found.objects = dict(late.most_common(8))

    def _check_closed(self) -> None:
        left = {name: len(n.life.fanout) for name, n in self.nodes.items() if n.life is not None and len(n.life.fanout)}
        if left:
            raise ViolationError("watches are left over", f"after everybody has gone: {left}")

    def _finish_long(self) -> LongSummary:
        found, silence, ring = self.found, self._silence_judge, self._ring_judge
        found.records, found.deliveries = len(self.log_record.at), self.log_record.taken
        found.skipped = self.log_record.skipped
        found.cutovers = sum(int(node.metrics.watch_cutovers._value.get()) for node in self.nodes.values())
        found.beats += sum(worker.beats for worker in self.workers.values())
        found.detected, found.false_alarms = silence.detected, silence.false_alarms
        found.detect_max_s = round(silence.detect_max_s, 1)
        found.detect_mean_s = round(silence.detect_sum_s / max(1, silence.detected), 1)
        found.ring_moves, found.ring_windows, found.ring_changes = ring.moves, ring.windows, ring.changes
        return found
