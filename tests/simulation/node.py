"""One simulated node: the product's engine, WAL, state machine, apply loop and proposer on a disk that forgets.

Owns: `SimNode` with what survives a crash (disk, storage, identity) and what does not (everything of a `Life`), the
loop it runs on, and the delays and failures of its disk.
Never: decides anything for the product; a fault goes in through the disk, the clock or the network.
"""

from __future__ import annotations

import contextlib
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from hypercluster.errors import DiskFailedError, DiskFullError, FatalError
from hypercluster.log.admission import admit
from hypercluster.log.entry import encode_batch, stamp_end
from hypercluster.node.apply_loop import ApplyLoop
from hypercluster.node.checkpoints import AnnouncedCheckpoints
from hypercluster.node.dedupe import stored_answer
from hypercluster.node.fanout import Fanout
from hypercluster.node.leases import Leases
from hypercluster.node.op_log import stored_op_log
from hypercluster.node.open_leases import OpenLeases
from hypercluster.node.opening import referenced_hashes
from hypercluster.node.own_lane import OwnLane
from hypercluster.node.proposer import Admission, Proposer, ProposerSettings
from hypercluster.node.rate_limit import RateSettings
from hypercluster.node.reads import Reads
from hypercluster.node.reaping import Reaping
from hypercluster.node.standing import Standing
from hypercluster.node.words import Verdict
from hypercluster.pb.v1 import command_pb2 as pb
from hypercluster.pb.v1.peer_pb2 import PeerFrame
from hypercluster.raft.adapter import RaftEngine
from hypercluster.raft.driver import EngineDriver
from hypercluster.raft.settings import EngineParts, EngineSettings, Identity
from hypercluster.rpc.acks import encode
from hypercluster.rpc.workspace_service import encode_slice
from hypercluster.state_machine.machine import Machine
from hypercluster.state_machine.meta import genesis, read_cluster
from hypercluster.storage.wal.log import Wal
from hypercluster.telemetry.metrics import Metrics
from hypercluster.values import ClusterId, HistoryId, Incarnation, Index, Membership, NodeId, Role, Scope, Term
from tests.fakes.memory_storage import MemoryNodeStorage
from tests.simulation.events import EventQueue, NodeClock, Timer
from tests.simulation.invariants import Invariants, ViolationError
from tests.simulation.lock_rules import LockRules
from tests.simulation.network import SimNetwork, SimTransport
from tests.simulation.open_files import OpenRules
from tests.simulation.sim_disk import PowerCut, SimDisk
from tests.simulation.sim_leases import LeaseClock, caller_of, look_after, shortened

CLUSTER = ClusterId(b"c" * 16)
HISTORY = HistoryId(b"h" * 16)
SCOPE = Scope("sim", "sim")
WAL_DIRECTORY = "/wal"
UNLIMITED = RateSettings(ops_per_s=1_000_000_000, bytes_per_s=1 << 50, burst_ops=1_000_000_000)


@dataclass(slots=True)
class DiskWeather:
    """How slow a node's disk is; drawn per seed."""

    sync_min_s: float = 0.0001
    sync_max_s: float = 0.003
    slow_chance: float = 0.0
    slow_s: float = 0.2


class Gate:
    """A process that is stopped (SIGSTOP, a long pause) does nothing until it goes on; then it finds everything that
    waited: in order for each source (a socket, the timers), the sources in any order."""

    def __init__(self, rng: random.Random) -> None:
        self.paused = False
        self._rng = rng
        self._waiting: dict[str, deque[Callable[[], None]]] = {}

    def do(self, source: str, call: Callable[[], None]) -> None:
        if self.paused:
            self._waiting.setdefault(source, deque()).append(call)
        else:
            call()

    def resume(self) -> None:
        self.paused = False
        while self._waiting and not self.paused:
            source = self._rng.choice(list(self._waiting))
            call = self._waiting[source].popleft()
            if not self._waiting[source]:
                del self._waiting[source]
            call()

    def forget(self) -> None:
        self.paused = False
        self._waiting.clear()


class SimLoop:
    """The part of asyncio's loop that the shell and the engine's driver use, for one life of a node."""

    def __init__(self, events: EventQueue, gate: Gate, after_each: Callable[[], None]) -> None:
        """`after_each` runs after every callback: what changes in a node changes in one, or is acted on in the next."""
        self._events = events
        self._gate = gate
        self._after_each = after_each
        self.closed = False

    def time(self) -> float:
        return self._events.now

    def is_closed(self) -> bool:
        return self.closed

    def call_soon(self, callback: Callable[..., Any], *args: Any) -> LoopHandle:
        return self.call_at(self._events.now, callback, *args)

    def call_at(self, when: float, callback: Callable[..., Any], *args: Any) -> LoopHandle:
        def run() -> None:
            if self._gate.paused:
                self._gate.do("loop", run)
            elif not self.closed:
                callback(*args)
                self._after_each()

        return LoopHandle(self._events.at(when, run))


class LoopHandle:
    def __init__(self, timer: Timer) -> None:
        self._timer = timer

    def when(self) -> float:
        return self._timer.at

    def cancel(self) -> None:
        self._timer.cancel()


class SimRunner:
    """`SyncRunner`: one job at a time, in order, each after the disk's delay. A crash may leave a job half done."""

    def __init__(self, events: EventQueue, gate: Gate, rng: random.Random, weather: DiskWeather) -> None:
        self._events = events
        self._gate = gate
        self._rng = rng
        self._weather = weather
        self._free_at = 0.0
        self._life = 0
        self._waiting: list[Callable[[], None]] = []

    def submit(self, job: Callable[[], None], done: Callable[[BaseException | None], None]) -> None:
        weather, life = self._weather, self._life
        delay = self._rng.uniform(weather.sync_min_s, weather.sync_max_s)
        if weather.slow_chance and self._rng.random() < weather.slow_chance:
            delay += self._rng.random() * weather.slow_s
        self._free_at = max(self._free_at, self._events.now) + delay
        self._waiting.append(job)

        def run() -> None:
            if life != self._life:
                return
            self._waiting.remove(job)
            error: BaseException | None = None
            try:
                job()
            except (FatalError, OSError, DiskFullError) as raised:
                error = raised
            done(error)

        self._events.at(self._free_at, lambda: self._gate.do("disk", run))

    def crash(self) -> list[Callable[[], None]]:
        """Nothing that waits will report. Returns the jobs, of which the first may have been under way."""
        self._life += 1
        self._free_at = 0.0
        waiting, self._waiting = self._waiting, []
        return waiting


@dataclass(slots=True)
class Life:
    """What a restart makes anew."""

    loop: SimLoop
    wal: Wal
    machine: Machine
    engine: RaftEngine
    driver: EngineDriver
    host: ApplyLoop
    proposer: Proposer
    transport: SimTransport
    fanout: Fanout
    leases: Leases
    opens: OpenLeases | None = None


class WatchedTransport(SimTransport):
    """Tells the invariants what leaves the node: acknowledgements and votes."""

    node: SimNode

    def start(
        self,
        on_frame: Callable[[NodeId, bytes], None],
        on_connected: Callable[[NodeId], None],
        on_disconnected: Callable[[NodeId], None],
    ) -> None:
        gate = self.node.gate

        def heard(peer: NodeId, frame: bytes) -> None:
            if gate.paused:
                gate.do(peer, lambda: on_frame(peer, frame))
            else:
                on_frame(peer, frame)

        super().start(
            heard,
            lambda peer: gate.do(peer, lambda: on_connected(peer)),
            lambda peer: gate.do(peer, lambda: on_disconnected(peer)),
        )

    def send(self, to: NodeId, frame: bytes) -> bool:
        self.node.saw_frame(frame)
        return super().send(to, frame)


class WatchedHost(ApplyLoop):
    """Tells the invariants what the node applies."""

    node: SimNode

    def apply(self, index: Any, term: Any, payload: bytes, context: object) -> Any:
        applied = super().apply(index, term, payload, context)
        self.node.invariants.applies(self.node.node_id, index, term, payload, applied.digest)
        node = self.node
        if node.lock_rules is not None and node.lock_rules.applied(index, applied.events) and node.open_rules:
            node.open_rules.applied(index, applied.changes)
        return applied

    def state_replaced(self) -> None:
        self.node.installs += 1
        super().state_replaced()

    def advance(self, index: Any, term: Any) -> None:
        super().advance(index, term)
        digest = self.digest_at(index) or b""
        self.node.invariants.applies(self.node.node_id, index, term, b"", digest)


@dataclass(slots=True)
class NodeTuning:
    """Small limits, so that segments roll and checkpoints are made within a short run."""

    segment_bytes: int = 256 * 1024
    flush_entries: int = 20
    engine: EngineSettings = field(default_factory=EngineSettings)
    batch_ops: int = 64
    leases: bool = False  # the leader looks after them
    opens: bool = False  # and after what is held open


class SimNode:
    """A machine with a disk. `life` is None while it is down."""

    scope = SCOPE
    lock_rules: LockRules | None = None
    open_rules: OpenRules | None = None

    def __init__(
        self,
        node_id: NodeId,
        incarnation: Incarnation,
        founding: Membership,
        events: EventQueue,
        rng: random.Random,
        network: SimNetwork,
        invariants: Invariants,
        weather: DiskWeather,
        tuning: NodeTuning,
    ) -> None:
        self.node_id = node_id
        self.incarnation = incarnation
        self.founding = founding
        self.invariants = invariants
        self.clock = NodeClock(events)
        self.deaths: list[BaseException] = []
        self.life: Life | None = None
        self.gate = Gate(random.Random(rng.getrandbits(64)))
        self.restarts = 0
        self.installs = 0  # of checkpoints, over all lives
        self._events = events
        self._rng = rng
        self._network = network
        self._weather = weather
        self._tuning = tuning
        self.metrics = Metrics()
        self._fresh_disk()

    def _fresh_disk(self) -> None:
        self.disk = SimDisk(random.Random(self._rng.getrandbits(64)))
        self.disk.mkdir(WAL_DIRECTORY)
        self._syncs = SimRunner(self._events, self.gate, self._rng, self._weather)
        self._bulk = SimRunner(self._events, self.gate, self._rng, self._weather)
        self.storage = MemoryNodeStorage(
            HISTORY, self._bulk, referenced_hashes, flush_entries=self._tuning.flush_entries
        )
        self._durable_when_down = 0
        self._acked: tuple[int, int] | None = None  # term and index of the newest acknowledgement that left
        self._votes: dict[int, str] = {}

    # --- life -----------------------------------------------------------------------------------------

    def start(self) -> None:
        assert self.life is None
        self.restarts += 1
        tuning = self._tuning
        wal, _ = Wal.open(self.disk, WAL_DIRECTORY, segment_bytes=tuning.segment_bytes, reserve_bytes=4096)
        self._check_promises(wal)
        storage = self.storage
        if read_cluster(storage.store) is None:
            storage.store.write(genesis(CLUSTER, HISTORY))
        machine = Machine(storage.store)
        loop = SimLoop(self._events, self.gate, self.look)
        driver = EngineDriver(loop, self.clock)  # type: ignore[arg-type]
        fanout = Fanout(stored_op_log(storage.store, self.clock.wall_ns), loop, self.metrics, encode_slice)
        host = WatchedHost(
            machine,
            storage.store,
            storage.chunks,
            fanout,
            loop,
            self.clock,
            self.metrics,
            on_applied=lambda index: reads.on_applied(index),  # noqa: PLW0108 (made below, over the engine)
            on_events=lambda _, events: leases.on_events(events),
            wake=driver.wake,
        )
        host.node = self
        transport = WatchedTransport(self._network, self.node_id, self.incarnation)
        transport.node = self
        engine = RaftEngine(
            EngineParts(
                identity=Identity(CLUSTER, self.node_id, self.incarnation, client_address=self.node_id),
                initial=self.founding,
                wal=wal,
                host=host,
                checkpoints=AnnouncedCheckpoints(storage.checkpoints, host.state_replaced),
                chunks=storage.chunks,
                transport=transport,
                clock=self.clock,
                syncs=self._syncs,
                bulk=self._bulk,
                rng=random.Random(self._rng.getrandbits(64)),
                wake=driver.wake,
                on_fatal=self._died,
                flushed_index=lambda: storage.store.flushed_index,
                stamp_end=stamp_end,
            ),
            tuning.engine,
        )
        standing = Standing(engine, loop, str)
        proposer = Proposer(
            engine,
            standing,
            Admission(
                admit,
                machine.last_seq,
                lambda group: stored_answer(machine.lane(group.run.client_id), group),
                sign=lambda client_id: leases.sign(client_id),  # noqa: PLW0108 (made below, over the proposer)
                reclaim=lambda run, sink: leases.guard_reclaims(run, sink),  # noqa: PLW0108
            ),
            loop,
            self.clock,
            self.metrics,
            ProposerSettings(ops_max=tuning.batch_ops, rate=UNLIMITED),
            random_bytes=self._rng.randbytes,
            encode=encode_batch,
        )
        reads = Reads(
            engine,
            standing,
            lambda: host.applied_index,
            lambda: None,
            loop,
            self.metrics,
            node_id=self.node_id,
            cluster_id=CLUSTER,
            history_id=HISTORY,
        )
        lane = OwnLane(proposer, standing, random_bytes=self._rng.randbytes)
        clock = LeaseClock(self.clock)
        leases = Leases(storage.store, reads, standing, lane, loop, clock, self.metrics)
        self.life = Life(loop, wal, machine, engine, driver, host, proposer, transport, fanout, leases)
        driver.run(engine)
        if tuning.opens:
            self.life.opens = OpenLeases(storage.store, standing, OwnLane(proposer, standing), clock, self.metrics)
            reaping = Reaping(storage.store, standing, OwnLane(proposer, standing), clock, self.metrics)
            look_after([leases, self.life.opens, reaping], loop)
        elif tuning.leases:
            look_after([leases], loop)

    def crash(self) -> None:
        """Power off: the sync that was under way may have written some of its bytes."""
        if self.life is None:
            return
        self._durable_when_down = self.durable_index()
        life, self.life = self.life, None
        self.gate.forget()
        life.loop.closed = True
        life.driver.close()
        jobs = self._syncs.crash()
        self._bulk.crash()
        if jobs and self._rng.random() < 0.7:
            self.disk.cut_power_at(self._rng.randint(1, 8))
            with contextlib.suppress(PowerCut, FatalError, OSError):
                jobs[0]()
        life.transport.close()
        self.disk.crash()
        self.storage.crash()

    def wipe(self, incarnation: Incarnation, founding: Membership) -> None:
        """The disk is replaced: nothing of the node is left, not even its incarnation (CL-15)."""
        self.crash()
        self._fresh_disk()
        self.incarnation = incarnation
        self.founding = founding

    def _died(self, error: BaseException) -> None:
        self.deaths.append(error)
        self._events.trace(f"{self.node_id} died {type(error).__name__}")
        if not isinstance(error, DiskFailedError):
            raise ViolationError("a node stopped itself", f"{self.node_id}: {type(error).__name__}: {error}")
        self._events.after(0.0, self.crash)

    # --- clients ----------------------------------------------------------------------------------------

    def submit(self, message: bytes, principal: str, sink: Callable[[list[pb.Acks]], None]) -> bool:
        life = self.life
        if life is None:
            return False

        def answer(verdicts: Any) -> None:
            found: list[Verdict] = shortened(verdicts)
            sink(list(pb.AcksBatch.FromString(encode(found)).acks))

        caller = caller_of(principal, SCOPE)
        self.gate.do(principal, lambda: life.proposer.submit(message, caller, answer))
        return True

    # --- what others may see ------------------------------------------------------------------------------

    def saw_frame(self, frame: bytes) -> None:
        """Every frame that leaves. First byte: field number of the kind (peer.proto), wire type 2."""
        life = self.life
        if life is None:
            return
        kind = frame[0] >> 3
        if kind == 3:
            ack = PeerFrame.FromString(frame).append_ack
            if ack.success:
                self.invariants.acknowledges(self.node_id, self.incarnation, Term(ack.term), Index(ack.match_index))
                last = self._acked
                self._acked = (ack.term, max(ack.match_index, last[1] if last and last[0] == ack.term else 0))
        elif kind == 7:
            reply = PeerFrame.FromString(frame).vote_reply
            if reply.granted:
                voted = life.wal.hard_state.voted_for or ""
                first = self._votes.setdefault(reply.term, voted)
                if first != voted:
                    raise ViolationError("two votes", f"{self.node_id} in term {reply.term}: {first} and {voted}")

    def durable_index(self) -> int:
        """The highest index that a power cut now would leave on this node's disk, at the least."""
        if self.life is None:
            return self._durable_when_down
        return max(self.life.wal.durable_index, self.storage.store.flushed_index)

    def _check_promises(self, wal: Wal) -> None:
        """After a power cut: what was acknowledged is on disk, unless a later term may have replaced it."""
        if self._acked is None:
            return
        term, index = self._acked
        self.invariants.checks += 1
        if wal.hard_state.term < term:
            raise ViolationError("term forgotten", f"{self.node_id} acknowledged in {term}, has {wal.hard_state.term}")
        if wal.hard_state.term == term and wal.last_index < index:
            raise ViolationError(
                "acknowledged entry lost", f"{self.node_id}: {index} of term {term}, has {wal.last_index}"
            )

    def look(self) -> None:
        """After every event that may have changed something here."""
        life = self.life
        if life is None or life.engine.stopped:
            return
        engine = life.engine
        if engine.role() is Role.LEADER:
            self.invariants.leads(self.node_id, engine.term())
        if self._acked is not None and self._acked[0] == engine.term():
            self.invariants.holds(self.node_id, self.incarnation, engine.term(), Index(self.durable_index()))
