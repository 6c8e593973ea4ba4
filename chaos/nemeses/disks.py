"""Disks that are slow, that fail, or that are full (CH-4).

Owns: `SlowSync`, `FailingSync`, `FullDisk`.
Never: waits longer for a node than its deadline; excuses a node that goes on after its disk has failed.
Invariants: a node whose fsync fails must end by itself (CL-4): if it does not, `begin` raises, and so the run fails.
A full disk fills as disks do: first to where a node must notice, then, a look of the node later, to nearly nothing;
the node must be there all the while.
"""

from __future__ import annotations

import asyncio
import errno
import random
import time
from typing import Final

from chaos.nemeses.on_hosts import ALL, LEADER, LOOK_S, ONE, EndsNodes, NemesisError, OnHosts, choose, listed
from chaos.seams import ClusterUnderTest, Nemesis

DELAY_MS: Final = (20.0, 500.0)
EXIT_S: Final = 20.0  # under any load a node syncs far more often
NEARLY_FULL_BYTES: Final = 200 << 20  # below the room under which a node refuses writes
NEARLY_FULL_S: Final = 1.5  # a node looks every half second
FULL_BYTES: Final = 300 << 10


class SlowSync(OnHosts):
    """Every fsync of one node, of the leader or of all nodes takes 20 to 500 ms more."""

    name = "sync-slow"
    needs = frozenset({"shim"})
    excludes = frozenset({"disks"})

    async def begin(self, cluster: ClusterUnderTest, rng: random.Random) -> str:
        delay_ms = rng.uniform(*DELAY_MS)
        nodes = await choose(cluster, rng, rng.choice((ONE, LEADER, ALL)))
        self._break(cluster, nodes, lambda host: host.sync_delay(delay_ms))
        await self._is_felt(cluster)
        return f"every fsync of {listed(nodes)} takes {delay_ms:.0f} ms more"


class FailingSync(EndsNodes):
    """Every fsync of one node fails; the node ends by itself, and is started again once its disk works."""

    name = "sync-fails"
    needs = frozenset({"shim"})
    excludes = frozenset({"disks", "processes"})

    async def begin(self, cluster: ClusterUnderTest, rng: random.Random) -> str:
        nodes = await choose(cluster, rng, rng.choice((ONE, LEADER)))
        for node in nodes:
            cluster.expect_exit(node)
        self._break(cluster, nodes, lambda host: host.sync_error(errno.EIO))
        end_s = time.monotonic() + EXIT_S
        while running := [node for node in nodes if cluster.is_running(node)]:
            if time.monotonic() > end_s:
                raise NemesisError(
                    f"{listed(running)}: still there {EXIT_S:.0f} s after every fsync began to fail (CL-4)"
                )
            await asyncio.sleep(LOOK_S)
        return f"every fsync of {listed(nodes)} failed, and it ended by itself"


class FullDisk(OnHosts):
    """The disk of one node fills up; it stays, and takes writes again when there is room."""

    name = "disk-full"
    needs = frozenset({"fill"})
    excludes = frozenset({"disks", "processes"})

    async def begin(self, cluster: ClusterUnderTest, rng: random.Random) -> str:
        nodes = await choose(cluster, rng, rng.choice((ONE, LEADER)))
        self._break(cluster, nodes, lambda host: host.fill(NEARLY_FULL_BYTES))
        await asyncio.sleep(NEARLY_FULL_S)
        self._break(cluster, nodes, lambda host: host.fill(FULL_BYTES))
        return f"the disk of {listed(nodes)} has {FULL_BYTES >> 10} KiB left"

    async def probe(self, cluster: ClusterUnderTest) -> str:
        for node in self._broken:
            if not cluster.is_running(node):
                return f"{node} ended on a full disk (CL-4)"
        return await super().probe(cluster)


def make() -> list[Nemesis]:
    """New ones: each remembers what it broke."""
    return [SlowSync(), FailingSync(), FullDisk()]
