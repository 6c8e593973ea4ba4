"""Keeps a stream to one peer with a higher id: dial, hello, hold, and again after a jittered pause.

Owns: `PeerDialer`, one task.
Never: gives up; touches the loop with a look-up; sends the hello to anyone but the node it means to reach.
Invariants: the handshake itself checks that the certificate names the peer, so that not a byte of a stranger's stream
is read; pauses lie in retry_min_s/2 … retry_max_s and start small after a stream that worked.
"""

from __future__ import annotations

import asyncio
import random
from typing import Final

import grpc
import grpc.aio

from hypercluster.credentials import tls
from hypercluster.errors import MalformedError
from hypercluster.raft import peer_hello, peer_wire
from hypercluster.raft.peer_hello import Refusal
from hypercluster.raft.peer_link import PeerLink
from hypercluster.raft.peer_listener import METHOD, REASON_KEY, SERVICE
from hypercluster.raft.peer_registry import PeerRegistry
from hypercluster.raft.peer_timing import PeerTiming
from hypercluster.raft.resolve import Resolver, grpc_target, split_address
from hypercluster.values import Incarnation, NodeId

_TOLD: Final = (Refusal.QUARANTINE_DIFFERS.value, Refusal.LOST_LOG.value)  # these come with words
_PATH: Final = f"/{SERVICE}/{METHOD}"


class PeerDialer:
    """Made on a running loop; dials until `cancel`."""

    def __init__(
        self,
        registry: PeerRegistry,
        files: tls.ReloadingFiles,
        resolver: Resolver,
        timing: PeerTiming,
        rng: random.Random,
        peer: NodeId,
        address: str,
    ) -> None:
        self.address = address
        self._registry = registry
        self._files = files
        self._resolver = resolver
        self._timing = timing
        self._rng = rng
        self._peer = peer
        self.task = asyncio.create_task(self._run(), name=f"dial {peer}")

    def cancel(self) -> None:
        self.task.cancel()

    async def _run(self) -> None:
        failures = 0
        while True:
            try:
                worked = await self._dial()
            except (OSError, ValueError, MalformedError) as error:
                worked = False
                self._registry.problem(self._peer, str(error))
            except grpc.aio.AioRpcError as error:
                worked = False
                # A hello that was still being written when the refusal came hides the refusal behind INTERNAL.
                vague = error.code() is grpc.StatusCode.INTERNAL
                self._registry.problem(self._peer, _words(error), vague=vague)
            except asyncio.CancelledError:
                raise
            except BaseException as error:
                self._registry.fatal(error)
                raise
            failures = 0 if worked else failures + 1
            longest = min(self._timing.retry_max_s, self._timing.retry_min_s * 2 ** min(failures, 10))
            await asyncio.sleep(longest * (0.5 + self._rng.random() / 2))

    async def _dial(self) -> bool:
        """True when the stream was used. Raises OSError, ValueError, MalformedError, AioRpcError."""
        registry = self._registry
        local = registry.local
        host, port = split_address(self.address)
        addresses = await self._resolver.resolve(host, self._timing.dial_timeout_s)
        options = self._timing.dialer_options() + tls.expect_node(local.cluster_id, self._peer)
        credentials = tls.channel_credentials(self._files.current())
        channel = grpc.aio.secure_channel(grpc_target(addresses, port), credentials, options=options)
        try:
            call: grpc.aio.StreamStreamCall[bytes, bytes] = channel.stream_stream(_PATH)()
            async with asyncio.timeout(self._timing.dial_timeout_s):
                await call.write(peer_wire.one(peer_hello.write_hello(local)))
                message: object = await call.read()
            frames = peer_wire.split(message) if isinstance(message, bytes) else []
            hello = peer_hello.read_hello(frames[0]) if len(frames) == 1 else None
            if hello is None:
                registry.count(Refusal.BAD_HELLO, self._peer)
                return False
            refusal = registry.judge(hello, self._peer)
            if refusal is not None:
                registry.count(refusal, self._peer, registry.detail(refusal, hello))
                return False
            link = PeerLink(self._peer, Incarnation(hello.incarnation), call.read, call.write, registry.deliver)
            await registry.hold(link, hello.client_address)
            if link.bad_message:
                registry.count(Refusal.BAD_MESSAGE, self._peer)
            return not link.bad_message
        finally:
            await channel.close()


def _words(error: grpc.aio.AioRpcError) -> str:
    reasons = [value for key, value in (error.trailing_metadata() or ()) if key == REASON_KEY]
    if reasons and reasons[0] in _TOLD:
        return f"the peer refused: {reasons[0]!s:.40}: {(error.details() or '')[:500]}"
    if reasons:
        return f"the peer refused: {reasons[0]!s:.40}"
    return f"{error.code().name}: {(error.details() or '')[:200]!r}"
