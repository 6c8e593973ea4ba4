"""Peer streams over gRPC with mutual TLS: `GrpcPeerTransport`, the `PeerTransport` of real nodes (CL-1, SEC-1).

Owns: putting listener, dialers and registry together. See TRANSPORT.md.
Never: parses a frame beyond the hello, keeps a frame for a peer that is not connected, or resolves a name on the loop.
Invariants: a frame is delivered only from a stream whose certificate and hello were judged against the membership of
that moment, and not after that member left; at most one link a peer; no callback comes from inside a call of this
object, and none after `close`.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

from hypercluster.credentials import tls
from hypercluster.credentials.names import node_subject
from hypercluster.errors import MalformedError
from hypercluster.raft.peer_dialer import PeerDialer
from hypercluster.raft.peer_hello import LocalNode
from hypercluster.raft.peer_listener import PeerListener
from hypercluster.raft.peer_registry import Admit, PeerRegistry
from hypercluster.raft.peer_timing import PeerTiming
from hypercluster.raft.resolve import Resolver
from hypercluster.values import Membership, NodeId


class GrpcPeerTransport:
    """`await listen()`, then `start(…)`, then `set_peers(…)`; `close()`, then `await wait_closed()`."""

    def __init__(
        self,
        local: LocalNode,
        files: tls.ReloadingFiles,
        *,
        rng: random.Random,
        on_fatal: Callable[[BaseException], None],
        resolver: Resolver | None = None,
        timing: PeerTiming | None = None,
        applied_index: Callable[[], int] = lambda: 0,
        admit: Admit = lambda _incarnation, _birth, _members: True,
    ) -> None:
        """`on_fatal` gets whatever a callback of the engine raises. Raises MalformedError when the certificate is not
        this node's."""
        subject = files.current().subject
        own = node_subject(local.cluster_id, local.node_id)
        if subject != own:
            raise MalformedError(
                f"the certificate is {subject.uri()}, the data directory is of {own.uri()}: give this node its own "
                "certificate, or its own data directory"
            )
        self._local = local
        self._files = files
        self._rng = rng
        self._timing = timing or PeerTiming()
        self._resolver = resolver or Resolver()
        self._registry = PeerRegistry(local, on_fatal, applied_index, admit)
        self._listener = PeerListener(self._registry, files, self._timing)
        self._dialers: dict[NodeId, PeerDialer] = {}
        self._stopping: asyncio.Task[None] | None = None
        self._ended: list[asyncio.Task[None]] = []

    async def listen(self, address: str) -> int:
        """Binds host:port (port 0: any) and answers the port. Streams are refused until `start`.

        Raises OSError, ValueError, MalformedError."""
        return await self._listener.listen(address, self._resolver)

    def start(
        self,
        on_frame: Callable[[NodeId, bytes], None],
        on_connected: Callable[[NodeId], None],
        on_disconnected: Callable[[NodeId], None],
    ) -> None:
        self._registry.start(on_frame, on_connected, on_disconnected)
        self._dial()

    def set_peers(self, membership: Membership) -> None:
        self._registry.set_membership(membership)
        self._dial()

    def send(self, to: NodeId, frame: bytes) -> bool:
        link = self._registry.link_of(to)
        return link is not None and link.offer(frame)

    def queued_bytes(self, to: NodeId) -> int:
        link = self._registry.link_of(to)
        return 0 if link is None else link.queued_bytes

    def client_address(self, node_id: NodeId) -> str:
        """host:port of the member's client listener, as of its latest hello; '' when it was never heard."""
        if node_id == self._local.node_id:
            return self._local.client_address
        return self._registry.client_address(node_id)

    def problem(self, node_id: NodeId) -> str:
        """Why there is no stream with it, as far as known; '' when there is one, or nothing is known."""
        return self._registry.problem_of(node_id)

    def refused_counts(self) -> dict[str, int]:
        """Streams refused, by code of `peer_hello.Refusal`; for metrics."""
        return {refusal.value: count for refusal, count in self._registry.refusals.items()}

    def close(self) -> None:
        if self._stopping is None:
            self._registry.close()
            for peer in list(self._dialers):
                self._end_dialer(peer)
            self._stopping = asyncio.get_running_loop().create_task(self._listener.stop())

    async def wait_closed(self) -> None:
        """After `close`: until the port is free and every task is gone."""
        if self._stopping is not None:
            await asyncio.gather(self._stopping, *self._ended, return_exceptions=True)

    def _dial(self) -> None:
        """One dialer for each member above this node: the lower id dials."""
        if not self._registry.running:
            return
        wanted = {m.node_id: m.address for m in self._registry.membership.members if m.node_id > self._local.node_id}
        for peer, dialer in list(self._dialers.items()):
            if wanted.get(peer) != dialer.address:
                self._end_dialer(peer)
        for peer, address in wanted.items():
            if peer not in self._dialers:
                self._dialers[peer] = PeerDialer(
                    self._registry, self._files, self._resolver, self._timing, self._rng, peer, address
                )

    def _end_dialer(self, peer: NodeId) -> None:
        dialer = self._dialers.pop(peer)
        dialer.cancel()
        self._ended = [task for task in self._ended if not task.done()] + [dialer.task]
