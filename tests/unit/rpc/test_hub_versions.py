"""HubService.Versions over a real state: earlier values, and a long walk that lets others have their turn."""

from __future__ import annotations

import asyncio

import pytest

from hypercluster.errors import BehindError, HistoryGoneError
from hypercluster.pb.v1 import hub_pb2, read_pb2
from hypercluster.pb.v1.command_pb2 import RaiseVersionsFloor
from hypercluster.rpc.hub_service import VERSIONS_A_TURN, HubService
from tests.fakes.commands import Replica, client, group, hub_del, hub_set, maintenance, submit
from tests.unit.node.commands import CALLER
from tests.unit.node.test_reads import World
from tests.unit.rpc.test_command_stream import PipeCall

TURNS = 5
STALE = read_pb2.ReadOptions(level=read_pb2.READ_LEVEL_BOUNDED_STALE)


class Hub:
    """A key with one value at index 1, and `TURNS` turns' worth of versions at the indexes after it."""

    def __init__(self) -> None:
        self.replica = Replica()
        self.set(hub_set(b"k", b"0"))
        for number in range(1, TURNS + 1):
            self.set(*[hub_set(b"k", b"%d" % number)] * VERSIONS_A_TURN)
        world = World()
        world.applied = self.replica.index
        self.service = HubService(self.replica.store, world.reads)

    def set(self, *raws: bytes) -> None:
        number = self.replica.index + 1
        message = submit(client(number), 1, raws)
        self.replica.apply(group(message, principal=CALLER.principal, scope=CALLER.scope))

    async def versions(self, at_index: int, limit: int = 0) -> list[hub_pb2.HubVersion]:
        request = hub_pb2.HubVersionsRequest(read=STALE, namespace="metadata", key=b"k", at_index=at_index, limit=limit)
        return list((await self.service.versions(request, PipeCall())).versions)  # type: ignore[arg-type]


@pytest.mark.req("D-18", "HUB-1")
async def test_versions_are_answered_at_an_index_or_newest_first() -> None:
    hub = Hub()
    for index in range(1, TURNS + 2):
        (found,) = await hub.versions(index)
        assert (found.raft_index, found.payload, found.deleted) == (index, b"%d" % (index - 1), False)
    newest = await hub.versions(0, limit=3)
    last = VERSIONS_A_TURN - 1
    assert [(v.raft_index, v.ordinal) for v in newest] == [(TURNS + 1, last - n) for n in range(3)]
    with pytest.raises(BehindError):
        await hub.versions(TURNS + 2)
    hub.set(hub_del(b"k"))
    (found,) = await hub.versions(TURNS + 1)
    assert found.payload == b"%d" % TURNS


@pytest.mark.req("D-18", "CL-13")
async def test_a_long_walk_lets_others_have_their_turn() -> None:
    hub, turns = Hub(), 0
    walk = asyncio.create_task(hub.versions(1))
    while not walk.done():
        await asyncio.sleep(0)
        turns += 1
    assert [found.payload for found in walk.result()] == [b"0"]
    assert turns >= TURNS


@pytest.mark.req("D-18")
async def test_the_floor_may_pass_a_walk() -> None:
    hub = Hub()
    walk = asyncio.create_task(hub.versions(1))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not walk.done()
    raw = maintenance(raise_versions_floor=RaiseVersionsFloor(floor_index=TURNS + 1))
    for seq in range(1, 4):
        hub.replica.apply(group(submit(client(99), seq, [raw]), principal="leader"))
    with pytest.raises(HistoryGoneError):
        await walk
