"""The leader's lease timers on a simulated node, and how a client's renewal comes there.

Owns: `LeaseClock`, under which leases are as many times shorter as a run is shorter than real use; the regular look;
`renew`, one renewal as the service makes it; whose worker a client is; the pauses that refusals ask for.
Never: decides about a lease: node/leases.py does, and the log.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from hypercluster.errors import HyperClusterError
from hypercluster.limits import LOCK_GRACE_MS, LOCK_MARGIN_MS, LOCK_TTL_MS
from hypercluster.node.leases import Asked, Leases, Renewed
from hypercluster.node.open_leases import OpenLeases
from hypercluster.node.reaping import Reaping
from hypercluster.node.words import Caller, Verdict
from hypercluster.pb.v1.command_pb2 import REASON_HOLDER_ALIVE
from hypercluster.values import Scope
from tests.simulation.events import NodeClock

if TYPE_CHECKING:
    from tests.simulation.node import SimLoop, SimNode
    from tests.simulation.virtual_tasks import VirtualTasks

LEASE_RATE: Final = 10.0  # a run of ten seconds sees as many leases end as one of 100 would
TTL_S: Final = LOCK_TTL_MS / 1000 / LEASE_RATE
COUNTED_ON_S: Final = (LOCK_TTL_MS + LOCK_GRACE_MS) / 1000 / LEASE_RATE
MARGIN_S: Final = LOCK_MARGIN_MS / 1000 / LEASE_RATE
ROUNDING_S: Final = 1e-6
LOCK_WORKER: Final = "host"  # of all clients that lock
LOCKERS: Final = "l"  # what their names begin with
LOOK_S: Final = 0.05
RENEW_TIMEOUT_S: Final = 0.4


@dataclass(frozen=True, slots=True)
class LeaseClock:
    """Monotonic time LEASE_RATE times as fast; deadlines are stamps, and the wall clock is the node's."""

    clock: NodeClock

    def monotonic(self) -> float:
        return self.clock.monotonic() * LEASE_RATE

    def boottime_ns(self) -> int:
        return self.clock.boottime_ns()

    def wall_ns(self) -> int:
        return self.clock.wall_ns()


def caller_of(principal: str, scope: Scope) -> Caller:
    return Caller(principal, scope, LOCK_WORKER if principal.startswith(LOCKERS) else principal)


def shortened(verdicts: Iterable[Verdict]) -> list[Verdict]:
    """A lock that can not be taken over yet can be sooner than the leader says."""
    return [
        one._replace(retry_after_ms=1 + int(one.retry_after_ms / LEASE_RATE))
        if REASON_HOLDER_ALIVE in one.reasons
        else one
        for one in verdicts
    ]


def look_after(parts: Sequence[Leases | OpenLeases | Reaping], loop: SimLoop) -> None:
    """Now and again, as long as the node's life lasts."""

    def look() -> None:
        for part in parts:
            part.look()
        loop.call_at(loop.time() + LOOK_S, look)

    loop.call_soon(look)


def renew(
    tasks: VirtualTasks,
    node: SimNode,
    principal: str,
    workspace_id: bytes,
    asked: Sequence[Asked],
    answered: Callable[[Sequence[Renewed]], None],
    opens: Sequence[bytes] | None = None,
) -> None:
    """`answered` is called unless the node turns it away, dies, or takes too long. `opens`: all that it holds open."""
    life = node.life
    if life is None:
        return
    caller = caller_of(principal, node.scope)

    async def work() -> None:
        try:
            _, found = await life.leases.renew(workspace_id, asked, caller, RENEW_TIMEOUT_S)
            if opens is not None and life.opens is not None:
                life.opens.report(workspace_id, caller.worker, principal.encode(), opens)
        except HyperClusterError:
            return
        if node.life is life and not node.gate.paused:
            answered(found)

    node.gate.do(principal, lambda: tasks.start(work()) and None)
