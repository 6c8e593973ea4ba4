"""Processes that are killed, stand still, or are restarted one by one.

Owns: the nemeses kill-*, pause-*, rolling-restart and fall-behind.
Never: touches a process but through the cluster; starts one that it did not end itself.
Invariants: `heal` starts and resumes exactly this nemesis's victims, at any moment, also twice; `probe` asks the kernel
whether any process stands still, and each victim for its status from where the clients are.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Callable, Sequence

from chaos.seams import ClusterUnderTest

PROCESSES = frozenset({"processes"})
NOTHING: frozenset[str] = frozenset()
LEADER_S = 10.0
HEALTHY_S = 60.0
BEHIND_S = 40.0  # how long a follower stays down at most until the logs of the others do not reach back to it
LOOK_S = 0.1


async def leader_or_any(cluster: ClusterUnderTest, rng: random.Random) -> str:
    """Where another fault left no leader, any node is as good a victim."""
    with contextlib.suppress(TimeoutError):
        return await cluster.leader(LEADER_S)
    return rng.choice(list(cluster.nodes))


async def not_well(cluster: ClusterUnderTest, nodes: Sequence[str]) -> str:
    """'' when each of them runs and answers, and no process of the cluster stands still."""
    paused = [node for node in cluster.nodes if cluster.is_paused(node)]
    if paused:
        return f"stopped by a signal: {', '.join(paused)}"
    if gone := [node for node in nodes if not cluster.is_running(node)]:
        return f"not running: {', '.join(gone)}"
    views = await asyncio.gather(*(cluster.status(node) for node in nodes))
    silent = [node for node, view in zip(nodes, views, strict=True) if view is None]
    return f"no status from {', '.join(silent)}" if silent else ""


async def stands_still(cluster: ClusterUnderTest, node: str) -> None:
    """Raises RuntimeError unless it does soon after it was told to."""
    if not await _seen_within(2.0, lambda: cluster.is_paused(node)):
        raise RuntimeError(f"{node} does not stand still after SIGSTOP")


class Kill:
    """SIGKILL of some nodes at the same moment, as near as one process can bring it about."""

    needs = NOTHING
    excludes = PROCESSES

    def __init__(self, whom: str) -> None:
        """one, leader, minority, majority or all."""
        self.name = f"kill-{whom}"
        self._whom = whom
        self._victims: tuple[str, ...] = ()

    async def begin(self, cluster: ClusterUnderTest, rng: random.Random) -> str:
        victims = await self._choose(cluster, rng)
        self._victims = tuple(victims)
        for node in victims:
            cluster.kill(node)
        return f"kills {', '.join(victims)}"

    async def _choose(self, cluster: ClusterUnderTest, rng: random.Random) -> list[str]:
        nodes = list(cluster.nodes)
        smaller = (len(nodes) - 1) // 2
        match self._whom:
            case "one":
                return rng.sample(nodes, 1)
            case "leader":
                return [await leader_or_any(cluster, rng)]
            case "minority":
                return rng.sample(nodes, smaller)
            case "majority":
                return rng.sample(nodes, smaller + 1)
            case "all":
                return nodes
            case _:
                raise ValueError(f"whom: {self._whom!r}, must be one, leader, minority, majority or all")

    async def heal(self, cluster: ClusterUnderTest) -> None:
        for node in self._victims:
            cluster.start(node)

    async def probe(self, cluster: ClusterUnderTest) -> str:
        return await not_well(cluster, self._victims)


class Pause:
    """SIGSTOP: the node holds its connections and its lease in mind, and says nothing."""

    needs = NOTHING
    excludes = PROCESSES

    def __init__(self, whom: str) -> None:
        """one or leader."""
        self.name = f"pause-{whom}"
        self._whom = whom
        self._victims: tuple[str, ...] = ()

    async def begin(self, cluster: ClusterUnderTest, rng: random.Random) -> str:
        match self._whom:
            case "one":
                victim = rng.choice(list(cluster.nodes))
            case "leader":
                victim = await leader_or_any(cluster, rng)
            case _:
                raise ValueError(f"whom: {self._whom!r}, must be one or leader")
        self._victims = (victim,)
        cluster.pause(victim)
        await stands_still(cluster, victim)
        return f"pauses {victim}"

    async def heal(self, cluster: ClusterUnderTest) -> None:
        for node in self._victims:
            cluster.resume(node)

    async def probe(self, cluster: ClusterUnderTest) -> str:
        return await not_well(cluster, self._victims)


class RollingRestart:
    """Every node is stopped in order and started again, the leader last, as an operator upgrades a cluster.

    It runs beside the load while the time of the fault passes; `heal` waits for its end. A node that does not end with
    status 0 is what it looks for: `probe` says so for ever.
    """

    name = "rolling-restart"
    needs = NOTHING
    # A step waits until the whole cluster is well, which nothing else may hold up.
    excludes = frozenset({"processes", "network", "disks", "clocks", "members"})

    def __init__(self) -> None:
        self._steps: asyncio.Task[None] | None = None
        self._wrong: list[str] = []

    async def begin(self, cluster: ClusterUnderTest, rng: random.Random) -> str:
        self._wrong = []
        leader = await leader_or_any(cluster, rng)
        order = [node for node in cluster.nodes if node != leader]
        rng.shuffle(order)
        order.append(leader)
        self._steps = asyncio.create_task(self._restart_all(cluster, order))
        return f"restarts {', '.join(order)}"

    async def _restart_all(self, cluster: ClusterUnderTest, order: Sequence[str]) -> None:
        for node in order:
            status = await cluster.stop(node)
            if status != 0:
                self._wrong.append(f"{node} ended with status {status} when it was asked to stop")
            cluster.start(node)
            await cluster.healthy(HEALTHY_S)

    async def heal(self, cluster: ClusterUnderTest) -> None:
        steps, self._steps = self._steps, None
        try:
            if steps is not None:
                await steps
        finally:
            for node in cluster.nodes:
                cluster.start(node)

    async def probe(self, cluster: ClusterUnderTest) -> str:
        return "; ".join(self._wrong) or await not_well(cluster, cluster.nodes)


class FallBehind:
    """A follower is down until the logs of all the others begin behind what it has: it must take a checkpoint.

    Without load the logs are not cut, and it comes back after BEHIND_S all the same; `took_checkpoint` says which.
    """

    name = "fall-behind"
    needs = NOTHING
    excludes = frozenset({"processes", "members"})

    def __init__(self) -> None:
        self._victim = ""
        self._had_index = 0
        self._down_since_s = 0.0
        self.took_checkpoint = False

    async def begin(self, cluster: ClusterUnderTest, rng: random.Random) -> str:
        leader = await cluster.leader(LEADER_S)
        self._victim = rng.choice([node for node in cluster.nodes if node != leader])
        view = await cluster.status(self._victim)
        # Another follower's log tells as much of what it had, and a little more does no harm.
        view = view or await cluster.status(leader)
        self._had_index = view.commit_index if view is not None else 0
        self._down_since_s = time.monotonic()
        self.took_checkpoint = False
        cluster.kill(self._victim)
        return f"{self._victim} is down from index {self._had_index} until the other logs begin behind it"

    async def heal(self, cluster: ClusterUnderTest) -> None:
        if not self._victim:
            return
        while not cluster.is_running(self._victim):
            others = [node for node in cluster.nodes if node != self._victim]
            views = await asyncio.gather(*(cluster.status(node) for node in others))
            self.took_checkpoint = all(view is not None and view.base_index > self._had_index for view in views)
            if self.took_checkpoint or time.monotonic() > self._down_since_s + BEHIND_S:
                cluster.start(self._victim)
            else:
                await asyncio.sleep(LOOK_S)

    async def probe(self, cluster: ClusterUnderTest) -> str:
        """Also: it has everything that was committed when this was asked."""
        if not self._victim:
            return ""
        if wrong := await not_well(cluster, [self._victim]):
            return wrong
        try:
            await cluster.healthy(1.0)
        except TimeoutError as error:
            return str(error)
        return ""


async def _seen_within(deadline_s: float, condition: Callable[[], bool]) -> bool:
    end_s = time.monotonic() + deadline_s
    while not condition():
        if time.monotonic() > end_s:
            return False
        await asyncio.sleep(0.01)
    return True
