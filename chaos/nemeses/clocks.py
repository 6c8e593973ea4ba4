"""Wall clocks that jump, and that run too fast or too slow (CH-4).

Owns: `ClockJump`, `ClockDrift`.
Never: touches a monotonic clock, nor the clock of the machine: only what one node's process is told.
Invariants: one node at a time is wrong, so that the median of the voters stays right (D-5). Healing is a second jump,
the other way.
"""

from __future__ import annotations

import random
from typing import Final

from chaos.nemeses.on_hosts import LEADER, ONE, OnHosts, choose, listed
from chaos.seams import ClusterUnderTest, Nemesis

JUMP_S: Final = (60.0, 600.0)
DRIFT: Final = (0.01, 0.05)
SKEW_MS_MAX: Final = 500


class _Clocks(OnHosts):
    needs = frozenset({"shim"})
    excludes = frozenset({"clocks"})
    disk = False
    clock = True

    async def probe(self, cluster: ClusterUnderTest) -> str:
        """Also what the node itself makes of its clock, beside its peers'."""
        if wrong := await super().probe(cluster):
            return wrong
        for node in self._broken:
            view = await cluster.status(node)
            if view is not None and abs(view.clock_skew_ms) > SKEW_MS_MAX:
                return f"{node} says that its clock is {view.clock_skew_ms} ms off"
        return ""


class ClockJump(_Clocks):
    """Minutes forward or backward, at once."""

    name = "clock-jump"

    async def begin(self, cluster: ClusterUnderTest, rng: random.Random) -> str:
        offset_s = rng.uniform(*JUMP_S) * rng.choice((-1, 1))
        nodes = await choose(cluster, rng, rng.choice((ONE, LEADER)))
        self._break(cluster, nodes, lambda host: host.clock(offset_s * 1e3))
        await self._is_felt(cluster)
        return f"the clock of {listed(nodes)} jumped by {offset_s:+.0f} s"


class ClockDrift(_Clocks):
    """Some percent too fast or too slow."""

    name = "clock-drift"

    async def begin(self, cluster: ClusterUnderTest, rng: random.Random) -> str:
        rate = 1.0 + rng.uniform(*DRIFT) * rng.choice((-1, 1))
        nodes = await choose(cluster, rng, rng.choice((ONE, LEADER)))
        self._break(cluster, nodes, lambda host: host.clock(0.0, rate))
        await self._is_felt(cluster)
        return f"the clock of {listed(nodes)} runs {rate:.3f} times as fast as it should"


def make() -> list[Nemesis]:
    """New ones: each remembers what it broke."""
    return [ClockJump(), ClockDrift()]
