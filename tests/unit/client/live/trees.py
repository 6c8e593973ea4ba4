"""Live trees over a `SiteNode`, and their mutations in one line each."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from hypercluster.client.client import Client
from hypercluster.client.lane_types import MS_NS, S_NS, LaneSettings
from hypercluster.client.live.live_tree import LiveSettings, LiveWorkspace
from hypercluster.client.live.ports import ROOT_ID, LiveTree, Process
from hypercluster.client.live.process_lanes import own_process
from hypercluster.client.settings import ClientSettings
from hypercluster.pb.v1 import workspace_command_pb2 as file_pb
from hypercluster.pb.v1.workspace_command_pb2 import FileAck, FileCommand
from tests.fakes.site_node import SiteNode
from tests.unit.workspace.site import Site

ME = own_process()
HASTY = LaneSettings(no_leader_ns=300 * MS_NS, deadline_ns=800 * MS_NS)
PATIENT = LaneSettings(no_leader_ns=20 * S_NS, deadline_ns=60 * S_NS)


@contextlib.asynccontextmanager
async def following(
    node: SiteNode,
    state: Path,
    lane: LaneSettings = PATIENT,
    settings: LiveSettings | None = None,
    others: tuple[SiteNode, ...] = (),
) -> AsyncIterator[LiveWorkspace]:
    addresses = tuple(found.address for found in (node, *others))
    async with (
        Client(ClientSettings(addresses, lane=lane), name=state.name) as client,
        LiveWorkspace(client, node.site.workspace_id, "w", state.name, state, settings) as tree,
    ):
        yield tree


def founded() -> Site:
    site = Site()
    site.found()
    return site


def place(name: bytes, directory: bytes = ROOT_ID) -> file_pb.Place:
    return file_pb.Place(directory=directory, name=name)


async def create(tree: LiveTree, name: bytes, directory: bytes = ROOT_ID, process: Process = ME) -> bytes:
    made = file_pb.Create(place=place(name, directory), mode=0o644, exclusive=True)
    return (await tree.mutate(process, FileCommand(create=made))).inode_id


async def mkdir(tree: LiveTree, name: bytes, directory: bytes = ROOT_ID) -> bytes:
    return (await tree.mutate(ME, FileCommand(mkdir=file_pb.Mkdir(place=place(name, directory), mode=0o755)))).inode_id


async def unlink(tree: LiveTree, name: bytes, directory: bytes = ROOT_ID) -> FileAck:
    return await tree.mutate(ME, FileCommand(unlink=file_pb.Unlink(place=place(name, directory))))


async def rename(tree: LiveTree, source: bytes, target: bytes) -> FileAck:
    return await tree.mutate(ME, FileCommand(rename=file_pb.Rename(source=place(source), target=place(target))))


async def write(tree: LiveTree, inode_id: bytes, content: bytes, offset: int = 0, process: Process = ME) -> FileAck:
    return await tree.mutate(process, FileCommand(write=file_pb.Write(inode_id=inode_id, offset=offset)), content)


async def append(tree: LiveTree, inode_id: bytes, content: bytes) -> FileAck:
    return await tree.mutate(ME, FileCommand(write=file_pb.Write(inode_id=inode_id, append=True)), content)


async def read(tree: LiveTree, inode_id: bytes, offset: int = 0, size: int = 1 << 24) -> bytes:
    return await asyncio.to_thread(tree.view.read, inode_id, offset, size)
