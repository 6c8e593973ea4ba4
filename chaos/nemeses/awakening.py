"""A leader that stands still while another takes its place, and wakes before it can hear of that.

Owns: the nemesis leader-wakes-alone. What was sent to the node while it stood still waits in its sockets; when it goes
on it takes itself for the leader for as long as it grants itself to hear from a majority, and whatever it answers
clients without one in that time is wrong.
Never: cuts before the node stands still: it would have stepped down by itself; clients reach it all the time.
Invariants: nothing of the new leader's first messages reaches it, because the cut is there before an election can end;
`heal` lets it be alone and awake for ALONE_S, then makes the network whole; again it only does the latter.
"""

from __future__ import annotations

import asyncio
import random

from chaos.nemeses.partitions import NETWORK, between, not_whole, seen_to_be_cut
from chaos.nemeses.processes import PROCESSES, leader_or_any, not_well, stands_still
from chaos.seams import ClusterUnderTest

ALONE_S = 1.0  # longer than a leader believes without a majority


class LeaderWakesAlone:
    name = "leader-wakes-alone"
    needs = frozenset({"cut"})
    excludes = PROCESSES | NETWORK

    def __init__(self) -> None:
        self._victim = ""

    async def begin(self, cluster: ClusterUnderTest, rng: random.Random) -> str:
        self._victim = victim = await leader_or_any(cluster, rng)
        cluster.pause(victim)
        pairs = between([victim], [node for node in cluster.nodes if node != victim])
        await cluster.network.cut(pairs)
        await stands_still(cluster, victim)
        await seen_to_be_cut(cluster, self.name, pairs)
        return f"{victim} stands still, and is alone"

    async def heal(self, cluster: ClusterUnderTest) -> None:
        victim, self._victim = self._victim, ""
        try:
            if victim:
                cluster.resume(victim)
                await asyncio.sleep(ALONE_S)
        finally:
            await cluster.network.heal()

    async def probe(self, cluster: ClusterUnderTest) -> str:
        return await not_well(cluster, cluster.nodes) or await not_whole(cluster)
