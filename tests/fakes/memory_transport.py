"""`PeerTransport` inside one process: a network of queues with links that can be cut and readers that can be paused.

Owns: `MemoryNetwork`, `MemoryPeerTransport`. Keeps the whole contract: FIFO, bounded queues, frames of members only,
one link a pair, callbacks of their own turn, the old link told of before the new one is used.
Never: loses a frame of a link that stays, or moves one onto the next link.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from hypercluster.errors import check
from hypercluster.limits import PEER_FRAME_BYTES_MAX, PEER_IN_FLIGHT_BYTES_MAX
from hypercluster.values import Incarnation, Membership, NodeId

FRAME_COST_BYTES = 64
_Callbacks = tuple[Callable[[NodeId, bytes], None], Callable[[NodeId], None], Callable[[NodeId], None]]


class _Link:
    """Both directions between two transports."""

    def __init__(self, a: MemoryPeerTransport, b: MemoryPeerTransport) -> None:
        self.ends = (a, b)
        self.open = True
        self.queues: dict[NodeId, deque[bytes]] = {a.node_id: deque(), b.node_id: deque()}  # by receiver
        self.queued_bytes = {a.node_id: 0, b.node_id: 0}

    def other(self, end: MemoryPeerTransport) -> MemoryPeerTransport:
        return self.ends[1] if end is self.ends[0] else self.ends[0]


class MemoryNetwork:
    """Used on one loop."""

    def __init__(self) -> None:
        self.transports: dict[NodeId, MemoryPeerTransport] = {}
        self.links: dict[frozenset[NodeId], _Link] = {}
        self._cut: set[frozenset[NodeId]] = set()
        self._paused: set[NodeId] = set()

    def cut(self, a: NodeId, b: NodeId) -> None:
        pair = frozenset((a, b))
        self._cut.add(pair)
        self.drop(pair)

    def heal(self, a: NodeId, b: NodeId) -> None:
        self._cut.discard(frozenset((a, b)))
        self.review()

    def pause(self, node_id: NodeId) -> None:
        """`node_id` does not read."""
        self._paused.add(node_id)

    def resume(self, node_id: NodeId) -> None:
        self._paused.discard(node_id)
        for link in self.links.values():
            if node_id in link.queues:
                self.pump(link)

    def review(self) -> None:
        """Drops the links that may not be, makes those that should be."""
        for pair, link in list(self.links.items()):
            a, b = link.ends
            if not (a.accepts(b) and b.accepts(a)):
                self.drop(pair)
        asyncio.get_running_loop().call_soon(self._connect)

    def drop(self, pair: frozenset[NodeId]) -> None:
        link = self.links.pop(pair, None)
        if link is not None:
            link.open = False
            for end in link.ends:
                asyncio.get_running_loop().call_soon(end.tell_disconnected, link.other(end).node_id, link)

    def pump(self, link: _Link) -> None:
        asyncio.get_running_loop().call_soon(self._deliver, link)

    def _connect(self) -> None:
        ordered = sorted(self.transports.values(), key=lambda t: t.node_id)
        for position, a in enumerate(ordered):
            for b in ordered[position + 1 :]:
                pair = frozenset((a.node_id, b.node_id))
                if pair not in self.links and pair not in self._cut and a.accepts(b) and b.accepts(a):
                    self.links[pair] = link = _Link(a, b)
                    a.tell_connected(b, link)
                    b.tell_connected(a, link)

    def _deliver(self, link: _Link) -> None:
        for end in link.ends:
            queue = link.queues[end.node_id]
            while queue and link.open and end.node_id not in self._paused:
                frame = queue.popleft()
                link.queued_bytes[end.node_id] -= len(frame) + FRAME_COST_BYTES
                end.receive(link.other(end).node_id, frame)


class MemoryPeerTransport:
    def __init__(
        self,
        network: MemoryNetwork,
        node_id: NodeId,
        incarnation: Incarnation,
        client_address: str = "",
        on_fatal: Callable[[BaseException], None] | None = None,
    ) -> None:
        self.node_id = node_id
        self.incarnation = incarnation
        self._network = network
        self._client_address = client_address
        self._client_addresses: dict[NodeId, str] = {}
        self._on_fatal = on_fatal
        self._members: dict[NodeId, Incarnation] = {}
        self._callbacks: _Callbacks | None = None
        self._announced: dict[NodeId, _Link] = {}

    def start(
        self,
        on_frame: Callable[[NodeId, bytes], None],
        on_connected: Callable[[NodeId], None],
        on_disconnected: Callable[[NodeId], None],
    ) -> None:
        check(self._callbacks is None, "the peer transport is started once")
        self._callbacks = (on_frame, on_connected, on_disconnected)
        self._network.transports[self.node_id] = self
        self._network.review()

    def set_peers(self, membership: Membership) -> None:
        self._members = {m.node_id: m.incarnation for m in membership.members}
        for node_id in self._client_addresses.keys() - self._members.keys():
            del self._client_addresses[node_id]
        self._network.review()

    def send(self, to: NodeId, frame: bytes) -> bool:
        check(len(frame) <= PEER_FRAME_BYTES_MAX, f"a peer frame of {len(frame)} bytes is over the limit")
        link = self._link(to)
        cost = len(frame) + FRAME_COST_BYTES
        if link is None or link.queued_bytes[to] + cost > PEER_IN_FLIGHT_BYTES_MAX:
            return False
        link.queues[to].append(frame)
        link.queued_bytes[to] += cost
        self._network.pump(link)
        return True

    def queued_bytes(self, to: NodeId) -> int:
        link = self._link(to)
        return 0 if link is None else link.queued_bytes[to]

    def client_address(self, node_id: NodeId) -> str:
        return self._client_address if node_id == self.node_id else self._client_addresses.get(node_id, "")

    def close(self) -> None:
        self._callbacks = None
        if self._network.transports.get(self.node_id) is self:
            del self._network.transports[self.node_id]
            for pair in [p for p, link in self._network.links.items() if self in link.ends]:
                self._network.drop(pair)

    def accepts(self, other: MemoryPeerTransport) -> bool:
        return self._callbacks is not None and self._members.get(other.node_id) == other.incarnation

    def tell_connected(self, other: MemoryPeerTransport, link: _Link) -> None:
        before = self._announced.get(other.node_id)
        if before is not None:
            self.tell_disconnected(other.node_id, before)
        if self._callbacks is not None and link.open:
            self._announced[other.node_id] = link
            self._client_addresses[other.node_id] = other.client_address(other.node_id)
            self._guard(lambda callbacks: callbacks[1](other.node_id))

    def tell_disconnected(self, peer: NodeId, link: _Link) -> None:
        """Only of the link that was told of last: its successor told of its loss already."""
        if self._announced.get(peer) is link:
            del self._announced[peer]
            self._guard(lambda callbacks: callbacks[2](peer))

    def receive(self, peer: NodeId, frame: bytes) -> None:
        self._guard(lambda callbacks: callbacks[0](peer, frame))

    def _guard(self, call: Callable[[_Callbacks], None]) -> None:
        if self._callbacks is None:
            return
        try:
            call(self._callbacks)
        except BaseException as error:
            if self._on_fatal is None:
                raise
            self._on_fatal(error)

    def _link(self, peer: NodeId) -> _Link | None:
        return self._network.links.get(frozenset((self.node_id, peer)))
