"""The op log read through the loss of the node that told it (WS-51, WS-61)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace

import pytest

from hypercluster.client.client import Client
from hypercluster.client.settings import ClientSettings
from hypercluster.client.workspace import Workspace
from hypercluster.errors import HistoryGoneError, NoQuorumError
from hypercluster.pb.v1 import workspace_pb2 as pb
from tests.fakes.site_node import Call, SiteNode
from tests.unit.client.live.trees import founded
from tests.unit.workspace.site import Site


class Teller(SiteNode):
    """Takes a watch without a history; `ends` makes it end the stream after the first slice, as a node that goes."""

    def __init__(self, site: Site) -> None:
        super().__init__(site)
        self.history_id = b""
        self.ends = False

    async def WatchLog(self, request: pb.WatchLogRequest, context: Call) -> AsyncIterator[pb.WatchLogResponse]:
        if request.from_index > self.site.header.log_index + 1:
            yield pb.WatchLogResponse(snapshot_needed=pb.SnapshotNeeded(retained_from=0))
            return
        async for answer in super().WatchLog(request, context):
            if self.ends and answer.WhichOneof("event") == "caught_up":
                return
            yield answer


def filled(count: int) -> Site:
    site = founded()
    for number in range(count):
        site.file(b"%d" % number)
    return site


@pytest.mark.req("WS-51", "WS-61")
async def test_a_log_that_is_followed_goes_on_at_another_node() -> None:
    site = filled(3)
    async with (
        Teller(site) as first,
        Teller(site) as second,
        Client(ClientSettings((first.address, second.address))) as client,
        aclosing(Workspace(client, site.workspace_id, "w").log(1, follow=True)) as records,
    ):
        client.nodes.leader = first.address
        assert [(await anext(records)).log_index for _ in range(3)] == [1, 2, 3]
        first.leads = False
        await first.__aexit__()
        site.file(b"later")
        await second.tell()
        async with asyncio.timeout(20):
            assert (await anext(records)).log_index == 4


@pytest.mark.req("WS-51", "WS-61")
async def test_a_log_that_its_node_ends_early_is_never_taken_for_the_whole() -> None:
    site = filled(5)
    async with Teller(site) as node:
        node.ends = True
        settings = replace(ClientSettings((node.address,)), read_deadline_s=0.3)
        async with Client(settings) as client:
            workspace = Workspace(client, site.workspace_id, "w")
            found: list[int] = []

            async def read(address: str = "") -> None:
                found.extend([record.log_index async for record in workspace.log(1, address=address)])

            with pytest.raises(NoQuorumError, match="ended it"):
                await read()
            with pytest.raises(NoQuorumError, match="ended it"):
                await read(node.address)
            assert found == []
            node.ends = False
            assert [record.log_index async for record in workspace.log(4)] == [4, 5]


@pytest.mark.req("WS-51")
async def test_a_log_below_what_is_kept_says_so_at_once() -> None:
    site = filled(5)
    async with Teller(site) as node:
        node.kept_from = 3
        async with Client(ClientSettings((node.address,))) as client:
            with pytest.raises(HistoryGoneError) as gone:
                [record async for record in Workspace(client, site.workspace_id, "w").log(2)]
            assert gone.value.retained_from == 3
