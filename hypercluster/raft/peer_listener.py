"""The peer port: a gRPC listener that speaks only to enrolled nodes (SEC-1, SEC-3).

Owns: `PeerListener`, the limits of its connections, and the order of judgement: TLS 1.3 handshake, certificate against
the membership, hello, and only then frames.
Never: reads a byte of a stream whose certificate was refused; listens on more than the address it was given.
Invariants: whoever does not get through a step in time is disconnected; every refusal of a stream is one status,
PERMISSION_DENIED (UNAVAILABLE while starting), with its code in the trailing metadata, and is counted.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Final, NoReturn

import grpc
import grpc.aio

from hypercluster.credentials import tls
from hypercluster.errors import MalformedError, UnauthenticatedError
from hypercluster.pb.v1 import peer_pb2
from hypercluster.raft import peer_hello, peer_wire
from hypercluster.raft.peer_hello import Refusal
from hypercluster.raft.peer_link import PeerLink
from hypercluster.raft.peer_registry import PeerRegistry
from hypercluster.raft.peer_timing import PeerTiming
from hypercluster.raft.resolve import Resolver, grpc_target, split_address
from hypercluster.values import Incarnation, NodeId

SERVICE: Final = "hypercluster.v1.PeerService"
METHOD: Final = "Exchange"
REASON_KEY: Final = "hypercluster-reason"


class PeerListener:
    def __init__(self, registry: PeerRegistry, files: tls.ReloadingFiles, timing: PeerTiming) -> None:
        self._registry = registry
        self._files = files
        self._timing = timing
        self._server: grpc.aio.Server | None = None

    async def listen(self, address: str, resolver: Resolver) -> int:
        """`address` is host:port, port 0 for any; answers the port. Raises OSError, ValueError, MalformedError."""
        host, port = split_address(address)
        literal = (await resolver.resolve(host, self._timing.dial_timeout_s))[0]
        server = grpc.aio.server(options=self._timing.listener_options())
        # No (de)serializers: bytes in, bytes out. A parser would run before the certificate was judged.
        method: grpc.RpcMethodHandler[Any, Any] = grpc.stream_stream_rpc_method_handler(self._exchange)
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {METHOD: method}),))
        try:
            bound = server.add_secure_port(
                grpc_target([literal], port).split(":", 1)[1], tls.server_credentials(self._files)
            )
        except RuntimeError as error:
            raise OSError(f"can not listen for peers on {address}: {error}") from error
        await server.start()
        self._server = server
        return bound

    async def stop(self) -> None:
        """Idempotent. Streams are cut."""
        if self._server is not None:
            await self._server.stop(None)

    async def _exchange(self, _: AsyncIterator[bytes], context: grpc.aio.ServicerContext[Any, Any]) -> None:
        """One dialer's stream, from the first moment."""
        registry = self._registry
        if not registry.running:
            await self._refuse(context, Refusal.NOT_STARTED, "this node")
        try:
            subject = tls.subject_of(context.auth_context())
        except UnauthenticatedError:
            await self._refuse(context, Refusal.NOT_A_NODE, "a certificate without a name of ours")
        refusal = peer_hello.judge_certificate(subject, registry.local, registry.membership)
        if refusal is not None:
            await self._refuse(context, refusal, subject.uri())
        dialer = NodeId(subject.name)
        hello = await self._read_hello(context)
        if hello is None:
            await self._refuse(context, Refusal.BAD_HELLO, dialer)
        refusal = registry.judge(hello, dialer)
        if refusal is not None:
            await self._refuse(context, refusal, dialer, registry.detail(refusal, hello))
        await context.write(peer_wire.one(peer_hello.write_hello(registry.local)))
        link = PeerLink(dialer, Incarnation(hello.incarnation), context.read, context.write, registry.deliver)
        await registry.hold(link, hello.client_address)
        if link.bad_message:
            await self._refuse(context, Refusal.BAD_MESSAGE, dialer)

    async def _read_hello(self, context: grpc.aio.ServicerContext[Any, Any]) -> peer_pb2.PeerHello | None:
        try:
            message: object = await asyncio.wait_for(context.read(), self._timing.hello_timeout_s)
            frames = peer_wire.split(message) if isinstance(message, bytes) else []
        except (TimeoutError, MalformedError):
            return None
        return peer_hello.read_hello(frames[0]) if len(frames) == 1 else None

    async def _refuse(
        self, context: grpc.aio.ServicerContext[Any, Any], refusal: Refusal, who: str, detail: str = ""
    ) -> NoReturn:
        """`detail` is told to the other side, too: only for a node whose hello was judged."""
        self._registry.count(refusal, who, detail)
        code = grpc.StatusCode.UNAVAILABLE if refusal is Refusal.NOT_STARTED else grpc.StatusCode.PERMISSION_DENIED
        # The stranger learns the code and nothing of the cluster.
        await context.abort(code, detail or refusal.value, ((REASON_KEY, refusal.value),))
        raise AssertionError("abort raises")
