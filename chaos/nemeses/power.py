"""The power of one node, of a minority, or of all goes at one moment, and comes back at the end (CH-4).

Owns: `PowerCut`.
Never: lets a node that has seen its disk go live on: it is killed at once, and its exit is expected.
Invariants: all disks are cut before any process is killed, within milliseconds; no node starts before its disk is
mounted again as the cut left it.
"""

from __future__ import annotations

import random

from chaos.nemeses.on_hosts import ALL, MINORITY, ONE, EndsNodes, choose, listed
from chaos.seams import ClusterUnderTest, Nemesis


class PowerCut(EndsNodes):
    """What the nodes did not sync is gone."""

    needs = frozenset({"power"})
    excludes = frozenset({"processes", "disks"})

    def __init__(self, who: str) -> None:
        super().__init__()
        self.name = f"power-{who}"
        self._who = who
        self._is_cut = False

    async def begin(self, cluster: ClusterUnderTest, rng: random.Random) -> str:
        nodes = await choose(cluster, rng, self._who)
        for node in nodes:
            cluster.expect_exit(node)
        self._is_cut = True
        try:
            self._break(cluster, nodes, lambda host: host.power_cut())
        finally:
            for node in nodes:
                cluster.kill(node)
        return f"the power of {listed(nodes)} went"

    async def heal(self, cluster: ClusterUnderTest) -> None:
        if self._is_cut:
            for node in self._broken:  # a disk is not unmounted under a process, whatever became of `begin`
                cluster.kill(node)
        await super().heal(cluster)
        self._is_cut = False


def make() -> list[Nemesis]:
    """New ones: each remembers what it broke."""
    return [PowerCut(ONE), PowerCut(MINORITY), PowerCut(ALL)]
