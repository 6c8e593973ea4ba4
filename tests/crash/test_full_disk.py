"""Full disks under real nodes: writes are refused by name, reads go on, nothing is lost, and room brings them back.

Every node has an ext4 file system of its own; a file is put beside the data until little, or nothing, is free.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import grpc
import pytest

from chaos.cluster.image import PowerDisk, why_not
from hypercluster.client.client import Client
from hypercluster.limits import DISK_LOW_BYTES, MIB, WAL_RESERVE_BYTES, WAL_SEGMENT_BYTES
from hypercluster.node.answers import REASONS
from tests.integration.cluster import Cluster, eventually
from tests.integration.test_three_nodes import read, write, write_until_acknowledged

DISK_BYTES = 2 << 30  # sparse
PATIENCE_S = 60.0
EXIT_REFUSED = 1

pytestmark = [pytest.mark.root, pytest.mark.long, pytest.mark.timeout(600)]


@pytest.fixture
def opened() -> Iterator[ExitStack]:
    """Disks are removed last, whatever happens."""
    reason = why_not()
    if reason:
        pytest.skip(reason)
    with ExitStack() as stack:
        yield stack


class SmallDisks:
    """The disks of a cluster's nodes, by name; `fill` and `clear` them."""

    def __init__(self, cluster: Cluster, opened: ExitStack) -> None:
        self._disks: dict[str, PowerDisk] = {}
        for name in cluster.plans:
            disk = PowerDisk(cluster.directory / f"{name}.image", cluster.data(name), DISK_BYTES)
            opened.callback(disk.remove)
            disk.mount()
            self._disks[name] = disk

    def free_bytes(self, name: str) -> int:
        return self._disks[name].free_bytes()

    def fill(self, name: str, leave_bytes: int) -> None:
        """With 0, until the file system says that it is full."""
        self._disks[name].fill(leave_bytes)

    def clear(self, name: str) -> None:
        self._disks[name].clear()


async def until(look: Callable[[], Awaitable[object]], what: str) -> None:
    end = time.monotonic() + PATIENCE_S
    while not await look():
        assert time.monotonic() < end, f"not within {PATIENCE_S} s: {what}"
        await asyncio.sleep(0.05)


@pytest.mark.req("CL-4")
async def test_a_leader_short_of_room_hands_over_and_comes_back(tmp_path: Path, opened: ExitStack) -> None:
    cluster = Cluster(tmp_path)
    disks = SmallDisks(cluster, opened)
    async with cluster, Client(cluster.client_settings()) as client:
        await client.hub.set("metadata", b"before", b"1")
        full = await cluster.leader()
        disks.fill(full, DISK_LOW_BYTES - 16 * MIB)
        others = set(cluster.plans) - {full}

        async def handed_over() -> bool:
            return await cluster.leader() in others

        await until(handed_over, "another node leads")
        written = await client.hub.set("metadata", b"meanwhile", b"2")
        statuses = await cluster.all_applied(written.raft_index, PATIENCE_S)
        assert {s.node_id for s in statuses} == set(cluster.plans), "the full node still takes what others decide"
        answer = await read(cluster, full, "meanwhile", level=2, min_index=written.raft_index)
        assert answer.records[0].payload == b"2", "and is read from"
        for name in others:  # nobody else is left to lead
            disks.fill(name, DISK_LOW_BYTES - 16 * MIB)
        await refuses_writes(cluster)
        await until(lambda: changed_nothing(cluster), "a refused write changes nothing")
        for name in cluster.plans:
            disks.clear(name)
        await client.hub.set("metadata", b"after", b"3")
        for key, value in ((b"before", b"1"), (b"meanwhile", b"2"), (b"after", b"3")):
            assert (await client.hub.get("metadata", key)).payload == value
        assert all(process.poll() is None for process in cluster.processes.values()), "no node was restarted"


async def refuses_writes(cluster: Cluster) -> None:
    """Whoever leads answers DISK_FULL, changes nothing, and serves linearizable reads all the while."""
    in_a_row = 0

    async def look() -> bool:
        nonlocal in_a_row
        with contextlib.suppress(grpc.aio.AioRpcError):
            leader = await cluster.leader()
            acks = await write(cluster, leader, 50 + in_a_row, 1, "asked", '"x"')
            if list(acks.reason) == [REASONS["DISK_FULL"]]:
                assert "disk is full" in acks.message
                assert acks.raft_index == 0
                assert (await read(cluster, leader, "before")).records[0].payload == b"1"
                in_a_row += 1
            else:  # before the node has looked, or in the moment of a handover
                in_a_row = 0
        return in_a_row >= 20

    await until(look, "writes are refused with DISK_FULL, and reads go on")


async def refuses_to_start(cluster: Cluster, name: str) -> None:
    """Not one byte is left: it says so, and calls nothing damaged."""
    await cluster.restart(name)
    process = cluster.processes[name]
    await eventually(lambda: process.poll() is not None, f"{name} ends", PATIENCE_S)
    last = cluster.log(name).splitlines()[-1]
    assert process.returncode == EXIT_REFUSED, last
    assert re.match(r"error: no room .*/data/.*Make room on this disk, then start the node again", last), last


async def changed_nothing(cluster: Cluster) -> bool:
    """What is asked for now is refused, and leaves no trace."""
    with contextlib.suppress(grpc.aio.AioRpcError):
        leader = await cluster.leader()
        acks = await write(cluster, leader, 99, 1, "refused", '"x"')
        assert list(acks.reason) in ([REASONS["DISK_FULL"]], [REASONS["NOT_LEADER"]]), acks
        assert not (await read(cluster, leader, "refused")).records[0].found
        return list(acks.reason) == [REASONS["DISK_FULL"]]
    return False


@pytest.mark.req("CL-4")
async def test_a_follower_without_a_byte_left_holds_nobody_up_and_catches_up(tmp_path: Path, opened: ExitStack) -> None:
    """More is written meanwhile than its log has room for, reserve included."""
    cluster = Cluster(tmp_path)
    disks = SmallDisks(cluster, opened)
    async with cluster, Client(cluster.client_settings()) as client:
        workspace = await client.create_workspace("full")
        await write_until_acknowledged(cluster, 1, 1, "before", '"1"')
        leader = await cluster.leader()
        full = sorted(set(cluster.plans) - {leader})[0]
        disks.fill(full, 0)
        goal_bytes = WAL_SEGMENT_BYTES * 2 + WAL_RESERVE_BYTES
        made = await workspace.ops.create(bytes(16), b"large")
        for at in range(0, goal_bytes, MIB):
            await workspace.ops.write(made.inode_id, os.urandom(MIB), at)
        index = (await client.hub.set("metadata", b"after", b"2")).raft_index
        behind = await cluster.status(full)
        running = cluster.processes[full].poll() is None
        print(f"{full}: {behind and behind.last_index} of {index}, free {disks.free_bytes(full)}, running {running}")
        assert running, cluster.log(full)[-2000:]
        assert behind is not None and behind.last_index < index, "it had no room for all of it"
        assert (await read(cluster, full, "before", level=2)).records[0].payload == b'"1"', "it is still read from"
        disks.clear(full)
        statuses = await cluster.all_applied(index, PATIENCE_S)
        assert len({s.digest for s in statuses if s.applied_index == index}) <= 1
        assert {s.node_id for s in statuses} == set(cluster.plans)
        answer = await read(cluster, full, "after", level=2, min_index=index)
        assert answer.records[0].payload == b"2"


@pytest.mark.req("CL-4")
async def test_three_disks_without_a_byte_left_lose_nothing(tmp_path: Path, opened: ExitStack) -> None:
    """They fill up as disks do: the nodes have a look before the last byte is gone."""
    cluster = Cluster(tmp_path)
    disks = SmallDisks(cluster, opened)
    async with cluster:
        await write_until_acknowledged(cluster, 1, 1, "before", "1")
        for name in cluster.plans:
            disks.fill(name, DISK_LOW_BYTES - 16 * MIB)
        await refuses_writes(cluster)
        for name in cluster.plans:
            disks.fill(name, 0)
        await refuses_writes(cluster)
        for name in cluster.plans:
            await refuses_to_start(cluster, name)
        for name in cluster.plans:
            disks.clear(name)
            cluster.start(name)
        index, leader = await write_until_acknowledged(cluster, 1, 2, "after", "2")
        await cluster.all_applied(index, PATIENCE_S)
        for key, value in (("before", b"1"), ("after", b"2")):
            assert (await read(cluster, leader, key)).records[0].payload == value
