"""What the nemeses of disks, clocks and power have in common: some nodes, whose hosts are healed and probed.

Owns: `OnHosts`, and how nodes are chosen.
Never: keeps more than the names of the nodes it has to heal.
Invariants: nodes are noted before they are broken, so that `heal` finds them after a `begin` that failed half way; the
same seed chooses the same nodes while the same node leads. Blocking work (mounts, measuring) is kept off the loop.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from typing import Final

from chaos.seams import ClusterUnderTest, Host

ONE, LEADER, MINORITY, ALL = "one", "leader", "minority", "all"
LOOK_S: Final = 0.05
FELT_S: Final = 5.0


class NemesisError(Exception):
    """The cluster did not do what it must when it is broken like this; says which node, and what."""


async def choose(cluster: ClusterUnderTest, rng: random.Random, who: str) -> list[str]:
    """Names of nodes, sorted. Without a leader in time, somebody stands in for it."""
    nodes = sorted(cluster.nodes)
    somebody = rng.choice(nodes)
    match who:
        case "one":
            return [somebody]
        case "leader":
            try:
                return [await cluster.leader()]
            except TimeoutError:
                return [somebody]
        case "minority":
            return sorted(rng.sample(nodes, (len(nodes) - 1) // 2))
        case "all":
            return nodes
    raise ValueError(f"who: {who!r}, must be one of {ONE}, {LEADER}, {MINORITY}, {ALL}")


class OnHosts:
    """`disk` and `clock` say which part of a host it breaks, and so heals."""

    name = ""
    needs: frozenset[str] = frozenset()
    excludes: frozenset[str] = frozenset()
    disk = True
    clock = False

    def __init__(self) -> None:
        self._broken: tuple[str, ...] = ()

    async def heal(self, cluster: ClusterUnderTest) -> None:
        for node in self._broken:
            await asyncio.to_thread(self._heal_one, cluster.hosts[node])

    async def probe(self, cluster: ClusterUnderTest) -> str:
        for node in self._broken:
            if wrong := await asyncio.to_thread(self._probe_one, cluster.hosts[node]):
                return wrong
        return ""

    def _heal_one(self, host: Host) -> None:
        host.heal(disk=self.disk, clock=self.clock)

    def _probe_one(self, host: Host) -> str:
        return host.probe(disk=self.disk, clock=self.clock)

    async def _is_felt(self, cluster: ClusterUnderTest) -> None:
        """Raises NemesisError where a node runs without the shim: its fault would be no fault."""
        end_s = time.monotonic() + FELT_S
        for node in self._broken:
            while cluster.is_running(node) and not await asyncio.to_thread(cluster.hosts[node].steers):
                if time.monotonic() > end_s:
                    raise NemesisError(f"{node} runs, and not under the shim")
                await asyncio.sleep(LOOK_S)  # it was started a moment ago

    def _break(self, cluster: ClusterUnderTest, nodes: Sequence[str], fault: Callable[[Host], None]) -> None:
        self._broken = tuple(nodes)
        for node in nodes:
            fault(cluster.hosts[node])


class EndsNodes(OnHosts):
    """Of which the nodes end too: they are started again once their host is healed."""

    async def heal(self, cluster: ClusterUnderTest) -> None:
        await super().heal(cluster)
        for node in self._broken:
            if not cluster.is_running(node):
                cluster.start(node)

    async def probe(self, cluster: ClusterUnderTest) -> str:
        if wrong := await super().probe(cluster):
            return wrong
        for node in self._broken:
            if not cluster.is_running(node):
                return f"{node} does not run"
            if await cluster.status(node) is None:
                return f"{node} does not answer"
        return ""


def listed(nodes: Sequence[str]) -> str:
    return ", ".join(nodes)
