"""A peer that takes nothing has no call for long, over real gRPC (CL-13)."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest

from hypercluster import limits
from hypercluster.rpc import gate as gates
from hypercluster.rpc.calls import Call
from hypercluster.rpc.gate import CALLER, Gate, GateSettings
from hypercluster.telemetry.metrics import Metrics
from tests.unit.node.commands import CALLER as SOMEBODY

METHOD = "/hypercluster.v1.WorkspaceService/WatchLog"


@pytest.mark.req("CL-13")
async def test_a_peer_that_takes_nothing_holds_no_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its status can not be sent either, and the call must not wait for that."""
    monkeypatch.setattr(limits, "STREAM_STALL_S", 0.05)
    monkeypatch.setattr(gates, "ABORT_S", 0.05)
    metrics = Metrics()
    ended = asyncio.Event()

    class Counting(Gate):
        def ended(self, method: str, code: grpc.StatusCode) -> None:
            super().ended(method, code)
            ended.set()

    async def watch(_: bytes, context: Any) -> None:
        call = Call(context, CALLER.get())
        try:
            while True:
                await call.write(bytes(200_000))
        finally:
            call.close()

    server = grpc.aio.server(interceptors=[Counting(lambda _: SOMEBODY, GateSettings(), metrics, lambda _: None)])
    _, service, method = METHOD.split("/")
    handlers: dict[str, Any] = {method: grpc.unary_stream_rpc_method_handler(watch)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        call: Any = channel.unary_stream(METHOD)(b"")
        await call.read()
        await asyncio.wait_for(ended.wait(), 10)
        assert metrics.rpcs_open.labels(METHOD)._value.get() == 0
        assert metrics.rpcs.labels(METHOD, "ABORTED")._value.get() == 1
        call.cancel()
    await server.stop(None)
