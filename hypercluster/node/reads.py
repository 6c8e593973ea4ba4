"""Reads of the state at the freshness a caller asks for (CL-10).

Owns: when a read may look at the state: ReadIndex rounds shared by all reads of one turn, waits for an index,
and how stale a follower's answer may be.
Never: answers a linearizable read from belief: the leader has confirmed its term with a majority after the read
arrived, and its own first entry is applied, or the read is turned away.
Invariants: waiting reads are bounded in number and each ends by its deadline; the caller looks at the state in the
same turn of the loop in which its wait ends, so what it sees is at least what was confirmed.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable
from dataclasses import dataclass

from hypercluster import limits
from hypercluster.errors import BehindError, MalformedError, QueueFullError, WrongClusterError
from hypercluster.node.standing import Standing
from hypercluster.node.words import Turns
from hypercluster.raft.engine import Engine, NotProposed, ReadOutcome
from hypercluster.telemetry.metrics import Metrics
from hypercluster.values import ClusterId, HistoryId, Index, NodeId, ReadLevel

STALENESS_UNKNOWN_MS = 4_294_967_295


@dataclass(frozen=True, slots=True)
class ReadWish:
    """What the caller asks for. `staleness_max_ms` 0 means any."""

    level: ReadLevel = ReadLevel.LINEARIZABLE
    min_index: int = 0
    staleness_max_ms: int = 0
    cluster_id: bytes = b""


@dataclass(frozen=True, slots=True)
class ReadPoint:
    """How fresh the state is that the caller may now read."""

    applied_index: int
    term: int
    staleness_ms: int
    node_id: NodeId
    history_id: HistoryId


class Reads:
    """One a node. `staleness_ms` is the engine's bound on this node's state, None when it hears no leader."""

    def __init__(
        self,
        engine: Engine,
        standing: Standing,
        applied_index: Callable[[], Index],
        staleness_ms: Callable[[], int | None],
        turns: Turns,
        metrics: Metrics,
        *,
        node_id: NodeId,
        cluster_id: ClusterId,
        history_id: HistoryId,
        pending_max: int = limits.READS_PENDING_MAX,
    ) -> None:
        self._engine = engine
        self._standing = standing
        self._applied_index = applied_index
        self._staleness_ms = staleness_ms
        self._turns = turns
        self._metrics = metrics
        self._node_id = node_id
        self._cluster_id = cluster_id
        self._history_id = history_id
        self._pending_max = pending_max
        self._pending = 0
        self._arrived: list[asyncio.Future[ReadOutcome]] = []
        self._waits: list[tuple[int, int, asyncio.Future[None]]] = []  # heap by index
        self._order = 0

    @property
    def pending(self) -> int:
        return self._pending

    def applied_index(self) -> int:
        return int(self._applied_index())

    async def point(self, wish: ReadWish, timeout_s: float) -> ReadPoint:
        """Returns when the state may be read as wished. Raises the turn-away that fits."""
        self._check(wish)
        if self._pending >= self._pending_max:
            raise QueueFullError(f"{self._pending} reads wait on this node, limit READS_PENDING_MAX")
        began_s = self._turns.time()
        self._pending += 1
        try:
            async with asyncio.timeout(timeout_s):
                staleness_ms = await self._wait(wish)
        except TimeoutError:
            raise BehindError(
                f"{self._node_id} has applied index {self._applied_index()} and could not answer in "
                f"{timeout_s:.1f} s (min_index {wish.min_index})"
            ) from None
        finally:
            self._pending -= 1
        self._metrics.reads.labels(wish.level.name.lower()).inc()
        self._metrics.read_wait_seconds.observe(self._turns.time() - began_s)
        return ReadPoint(
            int(self._applied_index()), self._standing.term(), staleness_ms, self._node_id, self._history_id
        )

    def _check(self, wish: ReadWish) -> None:
        if wish.cluster_id and wish.cluster_id != self._cluster_id:
            raise WrongClusterError(f"this is cluster {self._cluster_id.hex()}, not {wish.cluster_id.hex()}")
        if wish.staleness_max_ms and wish.level is not ReadLevel.BOUNDED_STALE:
            raise MalformedError("read.staleness_max_ms: only for bounded-stale reads")

    async def _wait(self, wish: ReadWish) -> int:
        """Upper bound of the staleness, in ms."""
        match wish.level:
            case ReadLevel.LINEARIZABLE:
                await self._confirmed()
                await self.wait_applied(wish.min_index)
                return 0
            case ReadLevel.LEADER_LOCAL:
                self._standing.require_leads()
                await self.wait_applied(wish.min_index)
                return STALENESS_UNKNOWN_MS
            case ReadLevel.BOUNDED_STALE:
                await self.wait_applied(wish.min_index)
                return self._bounded(wish.staleness_max_ms)

    def _bounded(self, staleness_max_ms: int) -> int:
        staleness_ms = self._staleness_ms()
        if staleness_max_ms and (staleness_ms is None or staleness_ms > staleness_max_ms):
            known = f"up to {staleness_ms} ms old" if staleness_ms is not None else "of unknown age (no leader heard)"
            raise BehindError(f"the state of {self._node_id} is {known}, limit {staleness_max_ms} ms")
        return STALENESS_UNKNOWN_MS if staleness_ms is None else min(staleness_ms, STALENESS_UNKNOWN_MS - 1)

    # -- ReadIndex --------------------------------------------------------------------------------

    async def _confirmed(self) -> None:
        """This node led, confirmed by a majority, at a moment after the call began."""
        self._standing.require_leads()
        waiter: asyncio.Future[ReadOutcome] = asyncio.get_running_loop().create_future()
        self._arrived.append(waiter)
        if len(self._arrived) == 1:
            self._turns.call_soon(self._start_round)
        outcome = await waiter
        if isinstance(outcome, NotProposed):
            raise self._standing.turn_away(outcome)
        # The engine said "applied"; waiting costs nothing then, and holds if it ever answers earlier.
        await self.wait_applied(outcome.index)

    def _start_round(self) -> None:
        """One engine call for every read of this turn."""
        waiters, self._arrived = self._arrived, []

        def done(outcome: ReadOutcome) -> None:
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_result(outcome)

        self._engine.read_index(done)

    # -- waits for an index -----------------------------------------------------------------------

    async def wait_applied(self, index: int) -> None:
        if index <= self._applied_index():
            return
        self._order += 1
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waits, (index, self._order, waiter))
        try:
            await waiter
        finally:
            if waiter.cancelled():
                self._drop_cancelled()

    def _drop_cancelled(self) -> None:
        """A wait for an index that never comes must not stay in the heap for ever."""
        if len(self._waits) > 2 * self._pending + 16:
            self._waits = [entry for entry in self._waits if not entry[2].done()]
            heapq.heapify(self._waits)

    def on_applied(self, index: int) -> None:
        """Called by the apply loop after each entry."""
        waits = self._waits
        while waits and waits[0][0] <= index:
            waiter = heapq.heappop(waits)[2]
            if not waiter.done():
                waiter.set_result(None)


def staleness_ms(now_ns: int, fresh_ns: int) -> int | None:
    """How old the state here may be; None when no leader has answered yet (CL-10)."""
    return None if fresh_ns == 0 else max(0, -(-(now_ns - fresh_ns) // 1_000_000))
