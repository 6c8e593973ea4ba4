"""Partitions and bad links of real clusters in namespaces: what a cluster makes of them, and that healing is proven."""

from __future__ import annotations

import asyncio
import random
import sys
from pathlib import Path

import pytest

from chaos.cluster.lines import PROJECT
from chaos.cluster.nodes import ProcessCluster
from chaos.cluster.probing import CLIENTS
from chaos.nemeses import make_nemeses
from chaos.nemeses.links import KINDS, slow_paths
from chaos.nemeses.partitions import SHAPES, Partition
from chaos.seams import Link
from tests.chaos.networks import eventually, needs, small_cluster

pytestmark = [pytest.mark.root, pytest.mark.req("CH-4")]


async def write(cluster: ProcessCluster, key: str, value: int) -> None:
    """Acknowledged when this returns: a client's command, run where the clients are."""
    command = [sys.executable, "-m", "hypercluster.cli.main", "hub", "set", key, str(value)]
    process = await asyncio.create_subprocess_exec(
        *cluster.client_prefix,
        *command,
        "--config",
        str(cluster.client_file),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        cwd=PROJECT,
    )
    said, _ = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode == 0, said.decode()


@pytest.mark.parametrize("kind", ["switch", pytest.param("namespaces", marks=pytest.mark.long)])
async def test_an_isolated_leader_loses_its_place_and_the_rest_commits(kind: str, tmp_path: Path) -> None:
    needs(kind)
    async with small_cluster(kind, tmp_path) as cluster:
        old = await cluster.leader()
        before = await cluster.status(old)
        assert before is not None
        nemesis = Partition("leader")
        assert await nemesis.begin(cluster, random.Random(1)) == f"{old} alone"

        async def has_stepped_down() -> bool:
            view = await cluster.status(old)  # clients still reach it
            return view is not None and view.role != "leader"

        async def another_leads() -> bool:
            return await cluster.leader() != old

        await eventually(has_stepped_down, f"{old} says that it leads no more")
        await eventually(another_leads, "one of the others leads")
        await write(cluster, "while-apart", 1)
        new, alone = await cluster.status(await cluster.leader()), await cluster.status(old)
        assert new is not None and new.term > before.term and new.commit_index > before.commit_index
        assert alone is not None and alone.commit_index == before.commit_index, "nothing is committed alone"

        wrong = await nemesis.probe(cluster)
        assert f"{old} does not reach" in wrong
        await nemesis.heal(cluster)
        await nemesis.heal(cluster)
        assert await nemesis.probe(cluster) == ""
        await cluster.healthy(20)
        healed = await cluster.status(old)
        assert healed is not None and healed.applied_index >= new.commit_index
        assert cluster.unexpected_exits() == []


@pytest.mark.long
async def test_a_leader_wakes_alone_and_is_none(tmp_path: Path) -> None:
    needs("switch")
    async with small_cluster("switch", tmp_path) as cluster:
        old = await cluster.leader()
        nemesis = make_nemeses()["leader-wakes-alone"]
        assert await nemesis.begin(cluster, random.Random(1)) == f"{old} stands still, and is alone"

        async def another_leads() -> bool:
            return await cluster.leader() != old

        await eventually(another_leads, "one of the others leads")
        assert cluster.is_paused(old)
        cluster.resume(old)
        assert f"{old} does not reach" in await nemesis.probe(cluster)
        await nemesis.heal(cluster)
        await nemesis.heal(cluster)
        await eventually(lambda: is_healed(cluster, nemesis.name), "it is healed", 20)
        await cluster.healthy(20)
        assert cluster.unexpected_exits() == []


@pytest.mark.long
async def test_slow_links_are_told_from_healed_ones(tmp_path: Path) -> None:
    needs("switch")
    async with small_cluster("switch", tmp_path) as cluster:
        nemesis = make_nemeses()["link-delay"]
        assert ">" in await nemesis.begin(cluster, random.Random(3))
        assert "ms" in await nemesis.probe(cluster)
        await write(cluster, "over-slow-links", 1)
        await nemesis.heal(cluster)
        await eventually(lambda: is_healed(cluster, "link-delay"), "the links are quick again")
        await cluster.network.shape({("n2", "n3"): Link(delay_ms=30.0)})
        assert "n2 to n3 and back takes" in await slow_paths(cluster), "one slow direction is enough"


async def test_clients_reach_a_cluster_that_is_far_away(tmp_path: Path) -> None:
    """Connecting takes three round trips, and a client must wait for them: with less time no attempt ever succeeds."""
    needs("switch")
    async with small_cluster("switch", tmp_path) as cluster:
        far = [pair for node in cluster.nodes for pair in ((node, CLIENTS), (CLIENTS, node))]
        await cluster.network.shape({pair: Link(delay_ms=200.0) for pair in far})
        await write(cluster, "from-far-away", 1)


async def is_healed(cluster: ProcessCluster, name: str) -> bool:
    return await make_nemeses()[name].probe(cluster) == ""


@pytest.mark.long
@pytest.mark.timeout(300)
async def test_every_network_nemesis_breaks_heals_and_leaves_a_whole_cluster(tmp_path: Path) -> None:
    needs("switch")
    seed = int.from_bytes(random.Random().randbytes(3), "big")
    print(f"seed {seed}")
    async with small_cluster("switch", tmp_path) as cluster:
        for name in [*(f"partition-{shape}" for shape in SHAPES), *(f"link-{kind}" for kind in KINDS)]:
            nemesis = make_nemeses()[name]
            await nemesis.heal(cluster)
            await nemesis.begin(cluster, random.Random(seed))
            await nemesis.heal(cluster)
            await eventually(lambda name=name: is_healed(cluster, name), f"{name} is healed", 20)
            await cluster.healthy(30)
            await write(cluster, name, 1)
        assert cluster.unexpected_exits() == []
