"""What tests of an operator's commands share: running them, and looking at what the cluster makes of it."""

from __future__ import annotations

import asyncio
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import grpc

from hypercluster.client import members as client_members
from hypercluster.client.nodes import Nodes
from hypercluster.pb.v1 import cluster_pb2
from tests.integration.cluster import Cluster, eventually
from tests.integration.test_three_nodes import write


async def command(*arguments: str | int | Path) -> tuple[int, str]:
    """The exit code and everything that was said."""
    answer = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "hypercluster.cli.main", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=60,
        check=False,
        text=True,
        env={k: v for k, v in os.environ.items() if k != "HYPERCLUSTER_CLIENT"},
    )
    return answer.returncode, answer.stdout


async def rejoin(cluster: Cluster, name: str) -> dict[str, str]:
    code, said = await command("node", "rejoin", "--config", cluster.directory / name / "node.toml", "--json")
    assert code == 0, said
    answer: dict[str, str] = json.loads(said)
    return answer


async def members(cluster: Cluster) -> dict[str, cluster_pb2.PeerInfo]:
    """As a leader confirms them."""
    nodes = Nodes(cluster.client_settings(), random.Random(1))
    try:
        answer = await client_members.members(nodes, 20.0)
    finally:
        await nodes.close()
    return {member.node_id: member for member in answer.members}


async def becomes_voter(cluster: Cluster, name: str, incarnation: str) -> None:
    end = time.monotonic() + 30
    while True:
        found = (await members(cluster))[name]
        assert found.incarnation.hex() == incarnation
        if found.suffrage == "voter" and found.connected:
            return
        assert time.monotonic() < end, f"{name} is not a voter: {found}"
        await asyncio.sleep(0.05)


async def ended(cluster: Cluster, name: str, deadline_s: float = 20.0) -> int:
    process = cluster.processes[name]
    await eventually(lambda: process.poll() is not None, f"{name} ends by itself", deadline_s)
    return process.returncode


def followers(cluster: Cluster, leader: str) -> list[str]:
    return [name for name in cluster.plans if name != leader]


async def same_state(cluster: Cluster) -> None:
    """Every running node comes to the same index, and has the same digest there (CL-17)."""
    end = time.monotonic() + 20
    while True:
        running = [name for name, process in cluster.processes.items() if process.poll() is None]
        found = [status for name in running if (status := await cluster.status(name)) is not None]
        if len(found) == len(running) and len({status.applied_index for status in found}) == 1:
            assert len({status.digest for status in found}) == 1, found
            assert any(found[0].digest)
            return
        assert time.monotonic() < end, f"the nodes do not come to one index: {[s.applied_index for s in found]}"
        await asyncio.sleep(0.05)


async def turned_away(cluster: Cluster, node: str) -> bool:
    """A write through `node` is not acknowledged, whatever is said instead."""
    try:
        acks = await write(cluster, node, 99, 1, "alone", '"x"')
    except grpc.aio.AioRpcError:
        return True
    return any(acks.reason)
