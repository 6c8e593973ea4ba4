"""Hazards, reservations and settings over real nodes, a leader's death among them (WS-45, WS-46)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import grpc
import pytest
import pytest_asyncio

from hypercluster.client.client import Client
from hypercluster.client.lane_types import S_NS, LaneSettings
from hypercluster.pb.v1 import coordination_pb2 as pb
from hypercluster.pb.v1 import coordination_pb2_grpc, read_pb2
from hypercluster.pb.v1.command_pb2 import Command
from hypercluster.pb.v1.coordination_command_pb2 import HAZARD_KIND_OVERLAPPING_WRITE
from hypercluster.pb.v1.workspace_command_pb2 import FileAck
from hypercluster.state_machine.workspace.errnos import EACCES
from tests.integration.cluster import START_S, Cluster
from tests.unit.workspace import ops

PATIENT = LaneSettings(no_leader_ns=20 * S_NS, deadline_ns=60 * S_NS)


class Agent:
    """A client of the workspace "w" under the name of an agent."""

    def __init__(self, client: Client, workspace_id: bytes) -> None:
        self.client = client
        self.workspace_id = workspace_id

    async def does(self, command: Command) -> FileAck:
        settled = await self.client.lane().submit(command.SerializeToString(), self.workspace_id)
        return settled.file if settled.file is not None else FileAck()

    def stub(self, cluster: Cluster, node: str) -> coordination_pb2_grpc.CoordinationServiceStub:
        channel = self.client.nodes.channel(cluster.address(node))
        return coordination_pb2_grpc.CoordinationServiceStub(channel)  # type: ignore[no-untyped-call]

    def seen(self) -> read_pb2.ReadOptions:
        """Any node, no older than what this client knows."""
        return read_pb2.ReadOptions(level=read_pb2.READ_LEVEL_BOUNDED_STALE, min_index=self.client.known_index())


@pytest_asyncio.fixture
async def cluster(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Cluster]:
    async with Cluster(tmp_path_factory.mktemp("claims"), 3) as running:
        await running.all_applied(1, START_S)
        yield running


@pytest.mark.req("WS-45", "WS-46", "WS-56")
async def test_two_agents_are_told_of_each_other_and_one_may_keep_the_other_out(cluster: Cluster) -> None:
    settings = replace(cluster.client_settings(), lane=PATIENT)
    async with Client(replace(settings, agent="ann")) as first, Client(replace(settings, agent="bob")) as second:
        workspace = await first.create_workspace("w")
        ann, bob = Agent(first, workspace.workspace_id), Agent(second, workspace.workspace_id)
        made = await ann.does(ops.create(ops.ROOT, b"main.py"))
        request = pb.WatchEventsRequest(workspace_id=ann.workspace_id, everything=True, min_index=first.known_index())
        watches = [ann.stub(cluster, node).WatchEvents(request) for node in cluster.plans]
        for watch in watches:
            assert (await watch.read()).WhichOneof("event") == "held"

        earlier = await ann.does(ops.write(made.inode_id, 0, b"by ann"))
        later = await bob.does(ops.write(made.inode_id, 3, b"by bob"))
        assert (later.hazard.kind, later.hazard.conflicting_log_index) == (
            HAZARD_KIND_OVERLAPPING_WRITE,
            earlier.log_index,
        )
        expected = ("bob", "ann", b"main.py", later.log_index)
        for watch in watches:  # every node tells of it
            async with asyncio.timeout(10):
                told = (await watch.read()).hazard
            assert (told.agent, told.other_agent, told.path, told.log_index) == expected
            watch.cancel()
        for node in cluster.plans:
            listed = await bob.stub(cluster, node).Hazards(
                pb.HazardsRequest(read=bob.seen(), workspace_id=bob.workspace_id), timeout=10
            )
            assert [(one.agent, one.other_agent, one.path, one.log_index) for one in listed.hazards] == [expected]

        reserved = await ann.does(ops.reserve(b"**/*.py", ttl_ms=600_000))
        await ann.does(ops.workspace_set(enforce_reservations=True, local_patterns=b"target/\n"))
        await keeps_bob_out(ann, bob, made.inode_id, reserved.lock.lock_id)
        leader = await cluster.leader()
        cluster.kill(leader)
        await keeps_bob_out(ann, bob, made.inode_id, reserved.lock.lock_id)
        await cluster.restart(leader)
        await cluster.all_applied(first.known_index(), START_S)
        for node in cluster.plans:
            await tells(ann, cluster, node, reserved.lock.lock_id)
        assert (await ann.does(ops.unreserve(reserved.lock.lock_id))).errno == 0
        assert (await bob.does(ops.write(made.inode_id, 0, b"free"))).errno == 0


async def keeps_bob_out(ann: Agent, bob: Agent, inode_id: bytes, reservation_id: int) -> None:
    assert (await bob.does(ops.write(inode_id, 0, b"bob"))).errno == EACCES
    assert (await bob.does(ops.rename(ops.ROOT, b"main.py", ops.ROOT, b"mine"))).errno == EACCES
    mine = await ann.does(ops.under(ops.write(inode_id, 0, b"ann"), reservation_id))
    assert (mine.errno, mine.HasField("hazard")) == (0, False), "it is reserved"


async def tells(ann: Agent, cluster: Cluster, node: str, reservation_id: int) -> None:
    stub = ann.stub(cluster, node)
    try:
        found = await stub.Reservations(
            pb.ReservationsRequest(read=ann.seen(), workspace_id=ann.workspace_id), timeout=30, wait_for_ready=True
        )
        settings = await stub.Settings(
            pb.WorkspaceSettingsRequest(read=ann.seen(), workspace_id=ann.workspace_id), timeout=30, wait_for_ready=True
        )
    except grpc.aio.AioRpcError as error:
        raise AssertionError(f"{node}: {error.details()}") from error
    assert [(one.reservation_id, one.pattern, one.agent) for one in found.reservations] == [
        (reservation_id, b"**/*.py", "ann")
    ]
    assert settings.settings.enforce_reservations
    assert settings.settings.local_patterns == b"target/\n"
