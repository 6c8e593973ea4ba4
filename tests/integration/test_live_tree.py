"""Live trees against real nodes: two of them on one workspace, kill -9, elections, no quorum, damaged chunks."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio

from hypercluster.client.client import Client
from hypercluster.client.lane_types import S_NS, LaneSettings
from hypercluster.client.live.live_tree import LiveSettings, LiveWorkspace
from hypercluster.client.live.ports import ROOT_ID, LiveTree, Process
from hypercluster.client.live.process_lanes import own_process
from hypercluster.client.workspace import Workspace
from hypercluster.pb.v1 import workspace_command_pb2 as file_pb
from hypercluster.pb.v1.workspace_command_pb2 import FileCommand
from tests.integration.cluster import Cluster

PATIENT = LaneSettings(no_leader_ns=20 * S_NS, deadline_ns=60 * S_NS)

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Cluster]:
    async with Cluster(tmp_path_factory.mktemp("live"), 3) as running:
        yield running


@contextlib.asynccontextmanager
async def live(
    cluster: Cluster,
    workspace: Workspace,
    state: Path,
    lane: LaneSettings = PATIENT,
    settings: LiveSettings | None = None,
) -> AsyncIterator[LiveWorkspace]:
    async with (
        Client(replace(cluster.client_settings(), lane=lane), name=state.name) as client,
        LiveWorkspace(client, workspace.workspace_id, workspace.name, state.name, state, settings) as tree,
    ):
        yield tree


@pytest_asyncio.fixture(loop_scope="module")
async def client(cluster: Cluster) -> AsyncIterator[Client]:
    async with Client(replace(cluster.client_settings(), lane=PATIENT)) as opened:
        yield opened


ME = own_process()


def place(name: bytes, directory: bytes = ROOT_ID) -> file_pb.Place:
    return file_pb.Place(directory=directory, name=name)


async def create(tree: LiveTree, name: bytes, directory: bytes = ROOT_ID, process: Process = ME) -> bytes:
    command = FileCommand(create=file_pb.Create(place=place(name, directory), mode=0o644, exclusive=True))
    return (await tree.mutate(process, command)).inode_id


async def write(tree: LiveTree, inode_id: bytes, content: bytes, offset: int = 0) -> file_pb.FileAck:
    return await tree.mutate(ME, FileCommand(write=file_pb.Write(inode_id=inode_id, offset=offset)), content)


async def read(tree: LiveTree, inode_id: bytes, offset: int = 0, size: int = 1 << 24) -> bytes:
    return await asyncio.to_thread(tree.view.read, inode_id, offset, size)


async def test_two_trees_see_each_other(client: Client, cluster: Cluster, tmp_path: Path) -> None:
    workspace = await client.create_workspace("two")
    async with live(cluster, workspace, tmp_path / "a") as a, live(cluster, workspace, tmp_path / "b") as b:
        one = await create(a, b"one")
        assert a.view.lookup(ROOT_ID, b"one").inode_id == one
        await write(a, one, b"hello")
        assert await read(a, one) == b"hello"
        big = bytes(range(256)) * 2_000
        await write(a, one, big, 3)
        assert await read(a, one) == b"hel" + big
        await b.barrier()
        assert await read(b, one) == b"hel" + big
        assert b.view.path_of(one) == b"one"
        assert [name for name, _ in b.view.list(ROOT_ID)] == [b"one"]
        print(a.status())
