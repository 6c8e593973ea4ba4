"""A cluster on loopback: processes come, stand still, go and come back, and nothing of it is left at the end."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from chaos.cluster.nodes import Build, NodeEndedError, ProcessCluster
from chaos.cluster.probing import CLIENTS, reach_matrix
from chaos.nemeses import make_nemeses
from tests.chaos.networks import eventually, is_alive, small_cluster

pytestmark = pytest.mark.req("CH-4")


async def test_nodes_are_killed_paused_stopped_and_started(tmp_path: Path) -> None:
    async with small_cluster("local", tmp_path) as cluster:
        assert cluster.nodes == ("n1", "n2", "n3") and cluster.features == frozenset()
        matrix = await reach_matrix(cluster.network, [*cluster.nodes, CLIENTS])
        assert len(matrix) == 12 and all(matrix.values())
        leader = await cluster.leader()
        pid = cluster.pid(leader)
        cluster.start(leader)
        assert cluster.pid(leader) == pid, "one that runs is not started again"

        cluster.pause(leader)
        await eventually(lambda: cluster.is_paused(leader), "it stands still")
        assert await cluster.status(leader) is None and cluster.is_running(leader)
        with pytest.raises(TimeoutError, match=f"{leader} is stopped"):
            await cluster.healthy(0.3)

        async def another_leads() -> bool:
            return await cluster.leader() != leader

        await eventually(another_leads, "the others choose another leader", 15)
        cluster.resume(leader)
        assert not cluster.is_paused(leader)
        await cluster.healthy(20)

        cluster.kill(leader)
        cluster.kill(leader)
        cluster.pause(leader)
        assert not is_alive(pid) and not cluster.is_running(leader) and not cluster.is_paused(leader)
        with pytest.raises(TimeoutError, match=f"{leader} does not run"):
            await cluster.healthy(0.1)
        cluster.start(leader)
        await cluster.healthy(20)
        assert await cluster.stop("n1") == 0
        assert await cluster.stop("n1") == 0, "twice is harmless"
        assert cluster.unexpected_exits() == []
        assert "n1" in cluster.log("n1").read_text()
        pids = [cluster.pid(node) for node in cluster.nodes]
    assert not any(map(is_alive, pids))


async def test_an_end_that_nobody_brought_about_is_told(tmp_path: Path) -> None:
    async with small_cluster("local", tmp_path) as cluster:
        os.kill(cluster.pid("n1"), 9)
        await eventually(lambda: not cluster.is_running("n1"), "n1 ends")
        (words,) = cluster.unexpected_exits()
        assert words.startswith("n1 ended with -9: ")
        cluster.kill("n1")
        cluster.start("n1")
        cluster.kill("n1")
        assert cluster.unexpected_exits() == [words], "still told after it was started and ended on purpose"
        cluster.expect_exit("n2")
        os.kill(cluster.pid("n2"), 9)
        await eventually(lambda: not cluster.is_running("n2"), "n2 ends")
        assert cluster.unexpected_exits() == [words], "a nemesis had said so"
        cluster.start("n2")
        os.kill(cluster.pid("n2"), 9)
        await eventually(lambda: not cluster.is_running("n2"), "n2 ends")
        assert len(cluster.unexpected_exits()) == 2, "that held until it was started again"


async def test_a_cluster_that_does_not_start_says_why_and_leaves_nothing(tmp_path: Path) -> None:
    cluster = small_cluster("local", tmp_path, Build("tests.known_bad.serve", ("--bad", "no_such_build")))
    with pytest.raises(NodeEndedError, match=r"n\d ended with 1: usage: "):
        async with cluster:
            pass
    assert not any(cluster.is_running(node) for node in cluster.nodes)


async def test_the_build_that_is_asked_for_runs(tmp_path: Path) -> None:
    cluster = small_cluster("local", tmp_path, Build("tests.known_bad.serve", ("--bad", "no_fsync")))
    async with cluster:
        assert all("test build: no_fsync" in cluster.log(node).read_text() for node in cluster.nodes)
        for node in cluster.nodes:
            assert (tmp_path / "hosts" / node / "data" / "identity").exists(), "data lies where its host wants it"


async def broken_then_healed(cluster: ProcessCluster, name: str, seed: int) -> None:
    """Begin, wrong when probed, healed, right when probed; and what a run may do besides."""
    nemesis = make_nemeses()[name]
    await nemesis.heal(cluster)  # before anything was broken
    words = await nemesis.begin(cluster, random.Random(seed))
    assert any(node in words for node in cluster.nodes)
    assert await nemesis.probe(cluster) != "", f"{name} can not tell broken from healed"
    await nemesis.heal(cluster)
    await nemesis.heal(cluster)

    async def is_healed() -> bool:
        return await nemesis.probe(cluster) == ""

    await eventually(is_healed, f"{name} is healed", 30)
    await cluster.healthy(30)


async def test_nemeses_of_processes_break_heal_and_know_the_difference(tmp_path: Path) -> None:
    async with small_cluster("local", tmp_path) as cluster:
        for seed, name in enumerate(("kill-leader", "kill-majority", "pause-leader")):
            await broken_then_healed(cluster, name, seed)
        assert cluster.unexpected_exits() == []


@pytest.mark.long
async def test_all_nemeses_of_processes(tmp_path: Path) -> None:
    async with small_cluster("local", tmp_path) as cluster:
        for seed, name in enumerate(("kill-one", "kill-minority", "kill-all", "pause-one", "kill-leader")):
            await broken_then_healed(cluster, name, seed)
        assert cluster.unexpected_exits() == []
