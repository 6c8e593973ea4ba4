"""One workload process: workers that take turns, write down what they do, and end when they are told.

Owns: the order of events of an operation, the replacement of logical clients, and the end within STOP_S.
Never: knows what a workload does.
Invariants: the invoke is written before the library is called, the end as soon as the library has answered; whatever
ends a worker, an operation it had open ends `info`; after an info its logical client is closed and never used again.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Awaitable, Callable
from typing import Any

from chaos.records import FAIL, INFO, OK
from chaos.seams import LoadPlan
from chaos.workloads.logical import Crew, LogicalClient, NotDoneError, kind_of
from chaos.workloads.operations import Operation, Script, StoppedError
from chaos.workloads.pace import Turns
from chaos.workloads.recorder import Recorder
from hypercluster.errors import HyperClusterError

OPERATION_S_MAX = 20.0  # the library has given up long before; else it is a defect that a run must survive
STOP_GRACE_S = 6.0  # for what is open when the end is asked for: longer than the library's own deadline
AGAIN_S = 0.2
ORPHAN_LOOK_S = 1.0


class Load:
    """Runs a script until `stop` is set."""

    def __init__(
        self, plan: LoadPlan, script: Script, recorder: Recorder, stop: asyncio.Event, parent: int = 0
    ) -> None:
        """`parent`: the process without which it ends; 0 for the present one."""
        self.plan = plan
        self.stop = stop
        self.rng = random.Random(plan.seed)
        self._parent = parent or os.getppid()
        self._script = script
        self._recorder = recorder
        self._turns = Turns(plan.ops_per_s, plan.workers, stop)
        self._crew = Crew(plan, self.rng)

    async def run(self) -> None:
        """Returns within STOP_GRACE_S and the closing of the clients once `stop` is set. Raises what is a defect."""
        work = asyncio.create_task(self._work())
        watching = asyncio.create_task(self._watch_parent())
        stopping = asyncio.create_task(self.stop.wait())
        try:
            await asyncio.wait({work, stopping}, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.wait({work}, timeout=STOP_GRACE_S)
            if not work.done():
                work.cancel()
                await asyncio.wait({work})
            if not work.cancelled() and work.exception() is not None:
                await work
        finally:
            stopping.cancel()
            watching.cancel()
            await self._crew.close()

    async def _work(self) -> None:
        try:
            await self._script.prepare(self)
        except StoppedError:
            return
        async with asyncio.TaskGroup() as group:
            for number in range(self.plan.workers):
                group.create_task(self._worker(f"w{number}", random.Random(self.rng.getrandbits(64))))

    async def _watch_parent(self) -> None:
        """A load whose runner has died must not go on against the cluster."""
        while not self.stop.is_set():
            await self._turns.pause(ORPHAN_LOOK_S)
            if os.getppid() != self._parent:
                self.stop.set()

    async def _worker(self, place: str, rng: random.Random) -> None:
        who = await self._crew.new(place)
        last = -1
        while (turn := await self._turns.after(last, rng)) is not None:
            last = turn
            operation = await self._script.draw(who, turn)
            if operation is not None and (await self._perform(who, operation))[0] == INFO:
                await self._crew.dismiss(who)
                who = await self._crew.new(place)

    async def _perform(self, who: LogicalClient, operation: Operation) -> tuple[str, str]:
        """(kind, error) as it was written down."""
        who.last_key.clear()
        self._recorder.invoke(who.name, operation.op, operation.key, operation.value, operation.level, operation.extra)
        kind, error, value = INFO, "DEFECT", None
        extra: dict[str, Any] = {}
        try:
            async with asyncio.timeout(OPERATION_S_MAX):
                answer = await operation.run(who)
            kind, error, value = OK, "", answer.value
            extra.update(answer.extra)
            who.saw(extra.get("raft_index", 0))
        except (HyperClusterError, NotDoneError) as failure:
            kind, error = kind_of(failure)
            if version := getattr(failure, "version", 0):
                extra["version"] = version
        except TimeoutError:
            error = "TIMEOUT"
        except asyncio.CancelledError:
            error = "STOPPED"
            raise
        finally:
            if who.last_key.key is not None:
                extra["client_id"], extra["client_seq"] = who.last_key.key
            self._recorder.end(who.name, kind, value, error, extra)
        return kind, error

    # --- what scripts prepare with ------------------------------------------------------------------

    async def until_done(self, what: Callable[[LogicalClient], Awaitable[None]]) -> None:
        while True:
            who = await self._crew.new("setup")
            try:
                await what(who)
                return
            except HyperClusterError:
                await self._turns.pause(AGAIN_S)
            finally:
                await self._crew.dismiss(who)
            if self.stop.is_set():
                raise StoppedError

    async def perform_until(self, operation: Operation, done: Callable[[str, str], bool]) -> None:
        while True:
            who = await self._crew.new("setup")
            try:
                kind, error = await self._perform(who, operation)
            finally:
                await self._crew.dismiss(who)
            if done(kind, error):
                return
            await self._turns.pause(AGAIN_S)
            if self.stop.is_set():
                raise StoppedError


def certainly_there(kind: str, error: str) -> bool:
    """For what is made once: it was made now, or before."""
    return kind == OK or (kind == FAIL and error == "EEXIST")
