"""Real processes: a command on which apply stops is taken out, and nodes compare what they took out (CL-16)."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import time
from pathlib import Path

import grpc
import pytest

from hypercluster.node.answers import REASONS
from hypercluster.pb.v1 import command_pb2
from tests.integration.cluster import Cluster, eventually
from tests.integration.operating import becomes_voter, command, members, rejoin, same_state
from tests.integration.test_three_nodes import write, write_until_acknowledged


@pytest.mark.req("CL-16")
async def test_a_command_that_stops_apply_is_taken_out_on_every_node(tmp_path: Path) -> None:
    bad = ("--bad", "apply_raises")
    async with Cluster(tmp_path, module="tests.known_bad.serve", arguments=bad) as cluster:
        leader = await cluster.leader()
        await write(cluster, leader, 1, 1, "a", '"1"')
        index, ordinal = await poisoned(cluster, leader, 2)
        code, said = await command("wal", "quarantine", cluster.data(leader), index - 1)
        assert code == 1, "what was applied, or holds no command, is not taken out"
        code, said = await command("wal", "quarantine", cluster.data(leader), index, 7)
        assert code == 1 and "ordinal 7" in said, said
        for name in cluster.plans:
            code, said = await command("wal", "quarantine", cluster.data(name), index, ordinal, "--json")
            assert code == 0, said
            assert json.loads(said) == {"quarantined": [{"index": index, "ordinal": ordinal}]}
        for name in cluster.plans:
            cluster.start(name)
        leader = await cluster.leader(20)
        acks = await write_judged(cluster, 2)
        assert (list(acks.reason), acks.raft_index) == ([REASONS["INTERNAL"]], index), "stored, like any refusal"
        await write_until_acknowledged(cluster, 3, 1, "b", '"1"')
        await same_state(cluster)

        # On one node only, while the others run a release that applies it: they refuse that node, and say why.
        second, ordinal = await poisoned(cluster, await cluster.leader(), 4)
        odd = "n1"
        code, said = await command("wal", "quarantine", cluster.data(odd), second, ordinal)
        assert code == 0, said
        cluster.start(odd)
        cluster.module, cluster.arguments = "hypercluster.cli.main", ()
        for name in ("n2", "n3"):
            cluster.start(name)
        await write_until_acknowledged(cluster, 5, 1, "c", '"1"')
        what = f"command {ordinal} of entry {second} is quarantined on {odd} and was applied on"
        end = time.monotonic() + 15
        while what not in (found := (await members(cluster))[odd]).problem:
            assert time.monotonic() < end, found
            await asyncio.sleep(0.05)
        assert "QUARANTINE_DIFFERS" in found.problem and not found.connected
        for name in ("n2", "n3"):
            await eventually(lambda name=name: f"{what} {name}" in cluster.log(name), f"{name} says why", 15)
        await eventually(lambda: f"entry {second} is quarantined on {odd}" in cluster.log(odd), "n1 is told", 15)
        cluster.kill(odd)
        done = await rejoin(cluster, odd)
        cluster.start(odd)
        await becomes_voter(cluster, odd, done["incarnation"])
        code, said = await command("wal", "quarantine", cluster.data(odd), "--json")
        assert json.loads(said) == {"quarantined": [{"index": index, "ordinal": 0}]}, (
            "the list of the cluster it joined"
        )
        await same_state(cluster)


async def poisoned(cluster: Cluster, leader: str, lane: int) -> tuple[int, int]:
    """A command on which this build's apply raises: the nodes stop one after the other, as they come to apply it.
    The last has no majority left to tell it that the entry is committed; it is stopped. (index, ordinal)"""
    before = {name: len(cluster.log(name)) for name in cluster.plans}
    with contextlib.suppress(grpc.aio.AioRpcError):
        await write(cluster, leader, lane, 1, "poison", '"x"')

    def stopped() -> list[str]:
        return [name for name, process in cluster.processes.items() if process.poll() is not None]

    await eventually(lambda: len(stopped()) >= 2, "the nodes that apply it stop", 20)
    found = set()
    for name in stopped():
        said = cluster.log(name)[before[name] :]
        assert cluster.processes[name].returncode == 4
        match = re.search(r"stopped: apply of entry (\d+) failed at command (\d+): ZeroDivisionError", said)
        assert match is not None, said
        assert f"`hypercluster wal quarantine DATA_DIR {match[1]} {match[2]}`" in said
        found.add((int(match[1]), int(match[2])))
    for name, process in cluster.processes.items():
        if process.poll() is None:
            await cluster.stop(name)
    assert len(found) == 1
    return found.pop()


async def write_judged(cluster: Cluster, lane: int) -> command_pb2.Acks:
    """The poisoned command again, with its key, until it is answered by what was judged."""
    end = time.monotonic() + 15
    while True:
        with contextlib.suppress(grpc.aio.AioRpcError):
            acks = await write(cluster, await cluster.leader(15), lane, 1, "poison", '"x"')
            if acks.raft_index:
                return acks
        assert time.monotonic() < end, "never answered"
        await asyncio.sleep(0.02)


@pytest.mark.long
@pytest.mark.req("CL-16")
async def test_without_the_comparison_two_states_speak_with_each_other(tmp_path: Path) -> None:
    """What the product refuses, on a build that compares nothing: the states differ, and only the digests tell."""
    bad = ("--bad", "apply_raises")
    async with Cluster(tmp_path, module="tests.known_bad.serve", arguments=bad) as cluster:
        index, ordinal = await poisoned(cluster, await cluster.leader(), 2)
        code, said = await command("wal", "quarantine", cluster.data("n1"), index, ordinal)
        assert code == 0, said
        cluster.arguments = ("--bad", "any_quarantine")
        for name in cluster.plans:
            cluster.start(name)
        await cluster.leader(20)
        await eventually(lambda: any("DIVERGED" in cluster.log(name) for name in cluster.plans), "digests differ", 20)
        assert not any("QUARANTINE_DIFFERS" in cluster.log(name) for name in cluster.plans)
