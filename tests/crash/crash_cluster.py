"""Crash points of a whole node: one of three is started armed, under load, until it has killed itself (CH-7).

Owns: `CrashCluster`: what leads a node past a point, its restart without the point, and the verdict at the end.
Never: kills at a moment of its own, but to bring a node behind, or to arm it.
Invariants: a round ends when the node that was killed has opened its directory without a word of complaint and has
applied what was committed by then. What was acknowledged is judged once, at the end, over all rounds.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import grpc

from hypercluster.client import members as client_members
from hypercluster.client.nodes import Nodes
from hypercluster.client.stubs import cluster_service
from hypercluster.errors import HyperClusterError
from hypercluster.pb.v1 import cluster_pb2
from tests.crash.crash_points import BEHIND, MEMBERS, NODE, CrashPoint, hit_so_far
from tests.crash.load import Load
from tests.crash.rounds import RefusedToStart, Verdict, verdict
from tests.integration.cluster import FAST_RATE, Cluster

REACHED_S = 120.0  # on however few cores, with whatever else they do
BACK_S = 120.0
NUDGE_S = 2.0  # without the point reached, leadership is moved, since some points need a new term: at first after this
LOG_KEEP_ENTRIES = 100
SETTINGS = {
    **FAST_RATE,
    "raft": {"log_keep_entries": LOG_KEEP_ENTRIES, "checkpoint_every_entries": 100},
    "retention": {"snapshot_every_s": 1, "snapshots_kept": 2},
}
STRANGER, STRANGER_LIFE, NOWHERE = "n9", b"\x09" * 16, "127.0.0.1:9"


def make_cluster(directory: Path) -> Cluster:
    return Cluster(directory, settings=SETTINGS)


class CrashCluster:
    def __init__(self, cluster: Cluster, load: Load, hits: Path, seed: int) -> None:
        self._cluster = cluster
        self._load = load
        self._hits = hits
        self._rng = random.Random(seed)
        self._nudge_s = NUDGE_S
        self._nodes = Nodes(cluster.client_settings(), random.Random(seed))

    async def kill_at(self, driver: str, point: CrashPoint, call: int) -> None:
        """One round. Raises AssertionError, or RefusedToStart."""
        victim = self._rng.choice(sorted(self._cluster.plans))
        self._cluster.kill(victim)
        if driver == BEHIND:
            await self._leave_behind()
        self._start_armed(victim, point, call)
        self._nudge_s = NUDGE_S
        began_s = time.monotonic()
        lead_past = {NODE: self._move_leadership, BEHIND: self._wait, MEMBERS: self._change_members}[driver]
        try:
            await self._until_dead(victim, point, lead_past)
        finally:
            self._cluster.kill(victim)
        assert point.name in hit_so_far(self._hits)
        found = await self._comes_back(victim)
        print(f"{point}, call {call}, {victim}: {time.monotonic() - began_s:.1f} s, {found}", flush=True)

    async def verdict(self) -> Verdict:
        """Over all rounds; nobody writes any more."""
        await self._load.stop(REACHED_S)
        await self._set_stranger(False)
        await self._nodes.close()
        return await verdict(self._cluster, self._load)

    def _start_armed(self, victim: str, point: CrashPoint, call: int) -> None:
        cluster = self._cluster
        before = cluster.module, cluster.arguments
        cluster.module, cluster.arguments = "tests.crash.killed", (point.name, str(call), str(self._hits))
        try:
            cluster.start(victim)
        finally:
            cluster.module, cluster.arguments = before

    async def _until_dead(self, victim: str, point: CrashPoint, lead_past: Callable[[str], Awaitable[None]]) -> None:
        process = self._cluster.processes[victim]
        leading = asyncio.ensure_future(self._lead(victim, lead_past))
        end_s = time.monotonic() + REACHED_S
        try:
            while process.poll() is None:
                self._check_others(victim)
                if leading.done():
                    leading.result()
                assert time.monotonic() < end_s, f"{point} was not reached within {REACHED_S} s"
                await asyncio.sleep(0.01)
        finally:
            leading.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await leading
        words = self._cluster.log(victim)[-500:]
        assert process.returncode == -signal.SIGKILL, f"{point}: ended with {process.returncode}: {words}"

    async def _lead(self, victim: str, lead_past: Callable[[str], Awaitable[None]]) -> None:
        while True:
            with contextlib.suppress(HyperClusterError, grpc.aio.AioRpcError, AssertionError):
                await lead_past(victim)
            await asyncio.sleep(0.05)

    # --- what leads past a point ---------------------------------------------------------------------

    async def _wait(self, _victim: str) -> None:
        await asyncio.sleep(NUDGE_S)

    async def _move_leadership(self, _victim: str) -> None:
        """Ever more seldom: on a machine that is short of time nothing else would happen."""
        await asyncio.sleep(self._nudge_s)
        self._nudge_s *= 2
        leader = await self._cluster.leader()
        await self._transfer(leader, "")

    async def _transfer(self, leader: str, to: str) -> None:
        stub = cluster_service(self._cluster.channel(leader))
        await stub.TransferLeader(cluster_pb2.TransferLeaderRequest(to=to), timeout=5)

    async def _change_members(self, victim: str) -> None:
        """Through the victim as the leader."""
        leader = await self._cluster.leader()
        if leader != victim:
            await self._transfer(leader, victim)
        for there in (True, False):
            await self._set_stranger(there)

    async def _set_stranger(self, there: bool) -> None:
        """A learner that never runs is a member, or not."""
        if there:
            await client_members.add_member(self._nodes, STRANGER, STRANGER_LIFE, NOWHERE, promote=False)
        else:
            await client_members.remove_member(self._nodes, STRANGER, STRANGER_LIFE)

    async def _leave_behind(self) -> None:
        """Until the node that is down must be sent a checkpoint: the log begins behind what it can have."""
        leader = await self._cluster.leader()
        first = await self._cluster.status(leader)
        assert first is not None
        end_s = time.monotonic() + REACHED_S
        while (status := await self._cluster.status(leader)) is None or status.base_index <= first.last_index:
            assert time.monotonic() < end_s, f"the log of {leader} was not compacted within {REACHED_S} s"
            await asyncio.sleep(0.02)

    # --- afterwards ----------------------------------------------------------------------------------

    async def _comes_back(self, victim: str) -> str:
        """Without the point: it opens what is left, and catches up with what is committed now."""
        cluster = self._cluster
        said = len(cluster.log(victim))
        cluster.start(victim)
        goal = 0
        end_s = time.monotonic() + BACK_S
        while True:
            self._check_others(victim)
            if cluster.processes[victim].poll() is not None:
                raise RefusedToStart(f"{victim}: {cluster.log(victim)[said:][-1000:]}")
            if not goal:
                with contextlib.suppress(AssertionError):
                    status = await cluster.status(await cluster.leader(1.0, other_than=victim))
                    goal = status.commit_index if status is not None else 0
            own = await cluster.status(victim)
            if goal and own is not None and own.applied_index >= goal:
                break
            assert time.monotonic() < end_s, f"{victim} did not come to {goal} within {BACK_S} s"
            await asyncio.sleep(0.02)
        complaints = [line for line in cluster.log(victim)[said:].splitlines() if '"level": "error"' in line]
        assert complaints == []
        return f"applied {own.applied_index}"

    def _check_others(self, victim: str) -> None:
        self._load.check_alive()
        for name, process in self._cluster.processes.items():
            if name != victim and process.poll() is not None:
                raise RefusedToStart(f"{name} ended by itself: {self._cluster.log(name)[-1000:]}")


async def rejoin_killed_at(cluster: Cluster, victim: str, point: CrashPoint, hits: Path) -> None:
    """`node rejoin` kills itself at the point."""
    config = str(cluster.directory / victim / "node.toml")
    command = [
        sys.executable,
        "-m",
        "tests.crash.killed",
        point.name,
        "1",
        str(hits),
        "node",
        "rejoin",
        "--config",
        config,
    ]
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    said, _ = await asyncio.wait_for(process.communicate(), REACHED_S)
    assert process.returncode == -signal.SIGKILL, f"{point}: {said.decode()}"
    assert point.name in hit_so_far(hits)
