"""The client listener: services bound to the methods of the protos, behind the gate.

Owns: which Python method answers which RPC (by the descriptor, so that none can be forgotten), health,
reflection, keepalive and size options.
Never: a handler that gRPC parses for us: messages come in as bytes, are bounded first and parsed strictly.
Invariants: every method of every bound service has an implementation, or the process does not start; every unary
call ends by its deadline.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping
from typing import Any

import grpc
from google.protobuf import message_factory
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import Message
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from hypercluster import limits
from hypercluster.errors import DeadlineError
from hypercluster.pb.v1 import cluster_pb2, command_pb2, coordination_pb2, hub_pb2, workspace_pb2
from hypercluster.rpc.calls import Call, parse
from hypercluster.rpc.gate import CALLER, Context, Gate

# Health names of the services; '' is the whole node.
SERVICES: Mapping[str, ServiceDescriptor] = {
    service.full_name: service
    for module in (command_pb2, hub_pb2, workspace_pb2, coordination_pb2, cluster_pb2)
    for service in module.DESCRIPTOR.services_by_name.values()
}

OPTIONS: tuple[tuple[str, int], ...] = (
    # Ours is checked first and answers with a reason code; gRPC's stands behind it.
    ("grpc.max_receive_message_length", 2 * limits.CLIENT_MESSAGE_BYTES_MAX),
    ("grpc.max_send_message_length", 2 * limits.CLIENT_MESSAGE_BYTES_MAX),
    ("grpc.max_metadata_size", 16 * limits.KIB),
    ("grpc.max_concurrent_streams", 1_000),  # a connection
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 2_000),
    ("grpc.http2.max_ping_strikes", 4),
    ("grpc.max_connection_idle_ms", limits.STREAM_IDLE_S * 1_000),
    ("grpc.so_reuseport", 0),
)


class ClientServer:
    """`services` maps full service names to objects with a method for each RPC, in snake case."""

    def __init__(self, services: Mapping[str, object], gate: Gate) -> None:
        self._server = grpc.aio.server(
            interceptors=[gate], options=list(OPTIONS), maximum_concurrent_rpcs=limits.RPCS_MAX
        )
        for name, implementation in services.items():
            self._server.add_generic_rpc_handlers((bind(SERVICES[name], implementation),))
        self._health = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection([*services, health.SERVICE_NAME, reflection.SERVICE_NAME], self._server)
        self._names = ["", *services]

    async def start(self, address: str, credentials: grpc.ServerCredentials) -> int:
        """The port bound. Raises OSError when the address can not be had."""
        try:
            port = self._server.add_secure_port(address, credentials)
        except RuntimeError as error:
            raise OSError(f"can not listen on {address}: {error}") from None
        if port == 0:
            raise OSError(f"can not listen on {address}")
        await self.set_serving(False)
        await self._server.start()
        return port

    async def set_serving(self, serving: bool) -> None:
        """What health says of every service (OBS-2)."""
        state = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
        for name in self._names:
            await self._health.set(name, state)

    async def stop(self, grace_s: float) -> None:
        """Takes no new calls, lets open ones end within `grace_s`, then cancels them (OPS-6)."""
        await self._server.stop(grace_s)


def bind(service: ServiceDescriptor, implementation: object) -> grpc.GenericRpcHandler:
    """Raises AttributeError when a method of the proto has no implementation."""
    handlers = {
        method.name: _handler(method, getattr(implementation, snake(method.name))) for method in service.methods
    }
    return grpc.method_handlers_generic_handler(service.full_name, handlers)


def snake(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


def _handler(method: MethodDescriptor, behaviour: Callable[..., Any]) -> grpc.RpcMethodHandler[Any, Any]:
    request: type[Message] = message_factory.GetMessageClass(method.input_type)
    made: grpc.RpcMethodHandler[Any, Any]
    match (method.client_streaming, method.server_streaming):
        case (False, False):
            made = grpc.unary_unary_rpc_method_handler(_unary(behaviour, request))
        case (False, True):
            made = grpc.unary_stream_rpc_method_handler(_server_stream(behaviour, request))
        case (True, True):
            made = grpc.stream_stream_rpc_method_handler(_both_streams(behaviour))
        case _:
            raise NotImplementedError(f"{method.full_name} streams requests only: no such RPC is served")
    return made


def _unary(behaviour: Callable[..., Any], kind: type[Message]) -> Callable[[bytes, Context], Any]:
    """A Submit goes on as the bytes it came in; admission parses it."""
    raw = kind is command_pb2.Submit

    async def run(content: bytes, context: Context) -> bytes:
        call = Call(context, CALLER.get())
        request = content if raw else parse(kind, content)
        try:
            async with asyncio.timeout(call.timeout_s):
                answer = await behaviour(request, call)
        except TimeoutError:
            raise DeadlineError(f"no answer within {call.timeout_s:.1f} s") from None
        return answer if isinstance(answer, bytes) else answer.SerializeToString()

    return run


def _server_stream(behaviour: Callable[..., Any], kind: type[Message]) -> Callable[[bytes, Context], Any]:
    async def run(content: bytes, context: Context) -> None:
        call = Call(context, CALLER.get())
        try:
            await behaviour(parse(kind, content), call)
        finally:
            call.close()

    return run


def _both_streams(behaviour: Callable[..., Any]) -> Callable[[Any, Context], Any]:
    async def run(_: Any, context: Context) -> None:
        call = Call(context, CALLER.get())
        try:
            await behaviour(call)
        finally:
            call.close()

    return run
