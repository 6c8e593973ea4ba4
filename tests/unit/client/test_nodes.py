"""Reads that look for a node that answers, with nodes that say nothing at all (WS-60, CL-13)."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator

import grpc
import pytest
import pytest_asyncio

from hypercluster.client import nodes as nodes_module
from hypercluster.client.nodes import Nodes
from hypercluster.client.settings import ClientSettings
from hypercluster.client.stubs import workspace_service
from hypercluster.errors import NoQuorumError
from hypercluster.pb.v1 import workspace_pb2 as pb
from tests.fakes.site_node import SiteNode
from tests.unit.client.live.trees import founded


class Deaf(grpc.GenericRpcHandler):
    """Takes every call and answers none, as a node that is paused."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        async def wait(_request: bytes, _context: object) -> bytes:
            self.calls.append(details.method)
            await asyncio.Event().wait()
            return b""

        return grpc.unary_unary_rpc_method_handler(wait)


@pytest_asyncio.fixture
async def deaf() -> AsyncIterator[tuple[str, Deaf]]:
    handler = Deaf()
    server = grpc.aio.server(handlers=(handler,))
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    yield address, handler
    await server.stop(0)


async def barrier(nodes: Nodes, *, any_node: bool = False) -> int:
    answer: pb.BarrierResponse = await nodes.read(
        lambda channel, timeout: workspace_service(channel).Barrier(pb.BarrierRequest(), timeout=timeout),
        "look",
        any_node=any_node,
    )
    return int(answer.workspace.log_index)


@pytest.mark.req("WS-60")
@pytest.mark.parametrize("any_node", [False, True])
async def test_a_node_that_says_nothing_does_not_use_up_the_time_of_a_read(
    deaf: tuple[str, Deaf], any_node: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    address, heard = deaf
    monkeypatch.setattr(nodes_module, "SILENT_S", 0.1)
    async with SiteNode(founded()) as node:
        nodes = Nodes(ClientSettings((address, node.address), read_deadline_s=30.0), random.Random(1))
        nodes.leader, nodes._next_reader = address, 0
        assert await asyncio.wait_for(barrier(nodes, any_node=any_node), 20) == 0
        assert any(method.endswith("Barrier") for method in heard.calls), "the one that is deaf was asked first"
        await nodes.close()


@pytest.mark.req("WS-60")
async def test_a_slow_read_of_a_node_that_is_there_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nodes_module, "SILENT_S", 0.02)
    probes = 0
    go_on = asyncio.Event()

    class Slow(SiteNode):
        async def Barrier(self, request: pb.BarrierRequest, context: object) -> pb.BarrierResponse:
            await go_on.wait()
            return await super().Barrier(request, context)  # type: ignore[arg-type]

        async def Status(self, request: object, context: object) -> object:
            nonlocal probes
            probes += 1
            if probes == 4:
                go_on.set()
            return await super().Status(request, context)  # type: ignore[arg-type]

    async with Slow(founded()) as node:
        nodes = Nodes(ClientSettings((node.address,), read_deadline_s=30.0), random.Random(1))
        nodes.leader = node.address
        monkeypatch.setattr(nodes, "status", lambda address, timeout_s=None: Nodes.status(nodes, address, 10.0))
        assert await asyncio.wait_for(barrier(nodes), 20) == 0
        assert probes >= 4
        await nodes.close()


@pytest.mark.req("WS-60")
async def test_what_a_silent_node_did_is_told_when_nobody_answers(
    deaf: tuple[str, Deaf], monkeypatch: pytest.MonkeyPatch
) -> None:
    address, _ = deaf
    monkeypatch.setattr(nodes_module, "SILENT_S", 0.05)
    nodes = Nodes(ClientSettings((address,), read_deadline_s=0.3, probe_timeout_s=0.05), random.Random(1))
    nodes.leader = address
    with pytest.raises(NoQuorumError, match="does not answer"):
        await barrier(nodes)
    await nodes.close()
