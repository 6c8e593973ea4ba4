"""The life of a node between "everything is open" and "everything is closed" (OPS-6).

Owns: what runs at intervals (gauges, health, upkeep, loop lag), the order of a graceful stop and its time
budget, and what a fatal error becomes.
Never: opens anything.
Invariants: a stop, however it begins, ends within STOP_MS; leadership is handed over before the servers go; the first
fatal error is the one reported, and nothing is served after it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from hypercluster import limits
from hypercluster.errors import FatalError, InvariantError
from hypercluster.node.maintenance import Maintenance
from hypercluster.node.proposer import Proposer
from hypercluster.node.report import Reporter
from hypercluster.raft.engine import Engine, ProposalOutcome
from hypercluster.telemetry.metrics import Metrics
from hypercluster.values import NodeId, Role

log = logging.getLogger(__name__)

LOOK_S = 0.25
LAG_PROBE_S = 0.1
DRAIN_S = 2.0
TRANSFER_S = 2.5
SERVER_GRACE_S = 1.5
CLOSE_S = 3.0


@dataclass(frozen=True, slots=True)
class Hooks:
    """What the lifecycle tells the servers, which lie above it."""

    set_serving: Callable[[bool], Awaitable[None]]
    stop_servers: Callable[[float], Awaitable[None]]  # grace in seconds
    close_engine: Callable[[], Awaitable[None]]
    close_directory: Callable[[], None]  # blocks: flushes


class Fatal:
    """Takes the first fatal error of a process."""

    def __init__(self) -> None:
        self.error: BaseException | None = None
        self._happened = asyncio.Event()

    def __call__(self, error: BaseException) -> None:
        if self.error is None:
            self.error = error
            log.critical("the node must stop", extra={"fields": {"error": repr(error)}})
            self._happened.set()

    async def wait(self) -> None:
        await self._happened.wait()

    def watch_loop(self, loop: asyncio.AbstractEventLoop) -> None:
        """A fatal error raised in a callback of the loop is fatal, too; others are logged."""

        def on_error(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
            error = context.get("exception")
            if isinstance(error, FatalError):
                self(error)
            elif error is not None:
                log.error(context.get("message", "error in a callback"), exc_info=error)
            else:
                log.error(context.get("message", "error in the loop"))

        loop.set_exception_handler(on_error)


class Lifecycle:
    def __init__(
        self,
        engine: Engine,
        proposer: Proposer,
        reporter: Reporter,
        maintenance: Maintenance,
        metrics: Metrics,
        fatal: Fatal,
        hooks: Hooks,
        looks: Sequence[Callable[[], None]] = (),
    ) -> None:
        """`looks` are called at the same intervals as the upkeep."""
        self._engine = engine
        self._proposer = proposer
        self._reporter = reporter
        self._maintenance = maintenance
        self._metrics = metrics
        self._fatal = fatal
        self._hooks = hooks
        self._looks = tuple(looks)
        self._seen_leader: tuple[NodeId | None, int] = (None, 0)
        self._admitted = 0
        self.serving = False

    async def run(self, stop: asyncio.Event) -> BaseException | None:
        """Until `stop` is set or a fatal error happens, then stops everything. The fatal error, if there was one."""
        watch = asyncio.create_task(self._watch())
        lag = asyncio.create_task(self._measure_lag())
        ends: list[asyncio.Task[Any]] = [
            asyncio.create_task(stop.wait()),
            asyncio.create_task(self._fatal.wait()),
        ]
        try:
            await asyncio.wait([*ends, watch, lag], return_when=asyncio.FIRST_COMPLETED)
            for task in (watch, lag):  # they end only by an error
                if task.done() and task.exception() is not None:
                    self._fatal(InvariantError(f"upkeep failed: {task.exception()!r}"))
        finally:
            for task in (watch, lag, *ends):
                task.cancel()
            await asyncio.gather(watch, lag, *ends, return_exceptions=True)
        if self._fatal.error is not None:
            await self._stop_now()
        else:
            await self._stop_gracefully()
        return self._fatal.error

    # -- while it runs ----------------------------------------------------------------------------

    async def _watch(self) -> None:
        while True:
            status = self._reporter.observe()
            if (status.leader, status.term) != self._seen_leader:
                self._seen_leader = (status.leader, status.term)
                fields = {"leader": status.leader, "term": status.term, "role": status.role.value}
                log.info("leader changed", extra={"fields": fields})
            ready = not self._reporter.not_ready()
            if ready != self.serving:
                self.serving = ready
                await self._hooks.set_serving(ready)
            self._maintenance.look()
            for look in self._looks:
                look()
            metrics, proposer = self._metrics, self._proposer
            metrics.pending_commands.set(proposer.pending_ops)
            metrics.pending_bytes.set(proposer.pending_bytes)
            metrics.held_bytes.set(proposer.held_bytes)
            metrics.intent_rate.set((proposer.admitted_ops - self._admitted) / LOOK_S)
            self._admitted = proposer.admitted_ops
            await asyncio.sleep(LOOK_S)

    async def _measure_lag(self) -> None:
        """How late a timer fires: what every command waits for besides its own work."""
        loop = asyncio.get_running_loop()
        while True:
            due_s = loop.time() + LAG_PROBE_S
            await asyncio.sleep(LAG_PROBE_S)
            self._metrics.loop_lag_seconds.observe(max(0.0, loop.time() - due_s))

    # -- the end ----------------------------------------------------------------------------------

    async def _stop_gracefully(self) -> None:
        """Readiness off, no new work, leadership away, streams drained, everything closed."""
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        log.info("stopping")
        await self._hooks.set_serving(False)
        idle = asyncio.Event()
        self._proposer.stop(idle.set)
        await _within(DRAIN_S, idle.wait(), "commands in flight")
        await self._hand_over()
        await _within(2 * SERVER_GRACE_S, self._hooks.stop_servers(SERVER_GRACE_S), "servers")
        await _within(CLOSE_S, self._hooks.close_engine(), "engine and peers")
        if self._fatal.error is not None:
            return  # it happened on the way: closing would flush a state that is not to be trusted
        try:
            await loop.run_in_executor(None, self._hooks.close_directory)
        except FatalError as error:
            self._fatal(error)
            return
        log.info("stopped", extra={"fields": {"took_ms": int((loop.time() - began_s) * 1000)}})

    async def _hand_over(self) -> None:
        status = self._engine.status()
        others = [m for m in status.membership.voters() if m.node_id != status.node_id]
        if status.role is not Role.LEADER or not others:
            return
        done = asyncio.Event()

        def finished(outcome: ProposalOutcome | None) -> None:
            log.info("leadership handed over", extra={"fields": {"outcome": repr(outcome)}})
            done.set()

        self._engine.transfer_leadership(None, finished)
        await _within(TRANSFER_S, done.wait(), "leadership transfer")

    async def _stop_now(self) -> None:
        """After a fatal error: nothing is flushed, because nothing is to be trusted further."""
        await _within(1.0, self._hooks.stop_servers(0.0), "servers")
        await _within(1.0, self._hooks.close_engine(), "engine and peers")


async def _within(limit_s: float, work: Awaitable[Any], what: str) -> None:
    """A step of the stop that takes longer is left behind; the next one must have its time."""
    try:
        async with asyncio.timeout(limit_s):
            await work
    except TimeoutError:
        log.warning("a step of the stop took too long", extra={"fields": {"step": what, "limit_s": limit_s}})


STOP_BUDGET_S = DRAIN_S + TRANSFER_S + 2 * SERVER_GRACE_S + CLOSE_S
assert STOP_BUDGET_S <= limits.STOP_MS / 1000 + 0.5
