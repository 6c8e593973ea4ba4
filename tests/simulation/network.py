"""The simulated network: streams between nodes, and datagram-like messages between clients and nodes.

Owns: delays, cuts (two-way and one-way), loss, duplication, reordering; which of them are on is drawn per seed.
A peer stream is FIFO while it lasts, as gRPC's is. A one-way cut swallows one direction silently and, after the
keepalive time, breaks the stream. Loss inside a stream breaks it too: TCP never loses a part and goes on.
Client streams are FIFO too; what was sent on a stream that broke may still arrive, late and after what the next
stream brings, and that is how one command reaches the cluster twice (client.py).
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from hypercluster.values import Membership, NodeId
from tests.simulation.events import EventQueue

KEEPALIVE_S = 3.0
QUEUE_BYTES_MAX = 32 << 20


@dataclass(slots=True)
class Weather:
    """What the network does by itself; drawn per seed (swarm testing, CH-2)."""

    delay_min_s: float = 0.0002
    delay_max_s: float = 0.002
    spike_chance: float = 0.0
    spike_s: float = 0.3
    break_chance: float = 0.0  # per peer frame: the stream breaks, what is in flight is lost
    client_break_chance: float = 0.0  # per client message: the stream breaks before the answer comes
    client_late_s: float = 0.2  # how late a message of a broken stream may still arrive


@dataclass(slots=True)
class Stream:
    """One direction of a peer stream's life: `epoch` tells old frames from new ones."""

    epoch: int = 0
    up: bool = False
    arrives_at: float = 0.0
    queued_bytes: int = 0


class SimTransport:
    """`PeerTransport` of one simulated node."""

    def __init__(self, network: SimNetwork, node_id: NodeId, incarnation: bytes) -> None:
        self._network = network
        self.node_id = node_id
        self.incarnation = incarnation
        self.peers: dict[NodeId, bytes] = {}  # who may speak, and as which incarnation
        self.on_frame: Callable[[NodeId, bytes], None] | None = None
        self.on_connected: Callable[[NodeId], None] | None = None
        self.on_disconnected: Callable[[NodeId], None] | None = None
        self.closed = False

    def start(
        self,
        on_frame: Callable[[NodeId, bytes], None],
        on_connected: Callable[[NodeId], None],
        on_disconnected: Callable[[NodeId], None],
    ) -> None:
        self.on_frame, self.on_connected, self.on_disconnected = on_frame, on_connected, on_disconnected
        self._network.attach(self)

    def set_peers(self, membership: Membership) -> None:
        self.peers = {m.node_id: m.incarnation for m in membership.members if m.node_id != self.node_id}
        self._network.peers_changed(self)

    def send(self, to: NodeId, frame: bytes) -> bool:
        return not self.closed and self._network.send(self.node_id, to, frame)

    def queued_bytes(self, to: NodeId) -> int:
        return self._network.stream(self.node_id, to).queued_bytes

    def close(self) -> None:
        self.closed = True
        self._network.detach(self)


class SimNetwork:
    """Everything between the nodes, and between clients and nodes."""

    def __init__(self, events: EventQueue, rng: random.Random, weather: Weather) -> None:
        self._events = events
        self._rng = rng
        self.weather = weather
        self._transports: dict[NodeId, SimTransport] = {}
        self._streams: dict[tuple[NodeId, NodeId], Stream] = {}
        self._cut: set[tuple[NodeId, NodeId]] = set()
        self.frames = 0

    # --- topology ------------------------------------------------------------------------------------

    def stream(self, source: NodeId, target: NodeId) -> Stream:
        return self._streams.setdefault((source, target), Stream())

    def attach(self, transport: SimTransport) -> None:
        self._transports[transport.node_id] = transport
        for other in sorted(self._transports):
            if other != transport.node_id:
                self._dial_later(transport.node_id, other)

    def detach(self, transport: SimTransport) -> None:
        if self._transports.get(transport.node_id) is transport:
            del self._transports[transport.node_id]
        for other in sorted(self._transports):
            self._break(transport.node_id, other)

    def peers_changed(self, transport: SimTransport) -> None:
        """A stream with somebody who is not a member any more ends; one with a new member begins."""
        for other, there in sorted(self._transports.items()):
            if other == transport.node_id:
                continue
            if self.stream(transport.node_id, other).up:
                if transport.peers.get(other) != there.incarnation:
                    self._events.after(0.0, partial(self._break, transport.node_id, other))
            elif other in transport.peers:
                self._dial_later(transport.node_id, other)

    def cut(self, source: NodeId, target: NodeId) -> None:
        """From now on nothing goes from source to target."""
        self._cut.add((source, target))
        if self.stream(source, target).up or self.stream(target, source).up:
            self._events.after(KEEPALIVE_S, lambda: self._break_if_cut(source, target))

    def heal(self, source: NodeId, target: NodeId) -> None:
        self._cut.discard((source, target))
        self._dial_later(source, target)

    def heal_all(self) -> None:
        for source, target in sorted(self._cut):
            self.heal(source, target)

    def is_cut(self, source: NodeId, target: NodeId) -> bool:
        return (source, target) in self._cut

    def break_stream(self, one: NodeId, other: NodeId) -> None:
        """A connection reset: frames in flight are lost, both ends notice, both dial again."""
        self._break(one, other)
        self._dial_later(one, other)

    # --- peer frames -----------------------------------------------------------------------------------

    def send(self, source: NodeId, target: NodeId, frame: bytes) -> bool:
        stream = self.stream(source, target)
        if not stream.up or stream.queued_bytes + len(frame) > QUEUE_BYTES_MAX:
            return False
        self.frames += 1
        if self.weather.break_chance and self._rng.random() < self.weather.break_chance:
            self._events.after(0.0, lambda: self.break_stream(source, target))
            return True
        stream.queued_bytes += len(frame)
        stream.arrives_at = max(stream.arrives_at, self._events.now + self.delay_s())
        epoch = stream.epoch
        self._events.at(stream.arrives_at, lambda: self._deliver(source, target, epoch, frame))
        return True

    def _deliver(self, source: NodeId, target: NodeId, epoch: int, frame: bytes) -> None:
        stream = self.stream(source, target)
        if stream.epoch != epoch or not stream.up:
            return
        stream.queued_bytes -= len(frame)
        receiver = self._transports.get(target)
        if (source, target) in self._cut or receiver is None or receiver.on_frame is None:
            return
        receiver.on_frame(source, frame)

    def delay_s(self) -> float:
        weather = self.weather
        delay = self._rng.uniform(weather.delay_min_s, weather.delay_max_s)
        if weather.spike_chance and self._rng.random() < weather.spike_chance:
            delay += self._rng.random() * weather.spike_s
        return delay

    # --- connections --------------------------------------------------------------------------------------

    def _dial_later(self, one: NodeId, other: NodeId) -> None:
        self._events.after(0.01 + self._rng.random() * 0.3, lambda: self._dial(one, other))

    def _dial(self, one: NodeId, other: NodeId) -> None:
        a, b = self._transports.get(one), self._transports.get(other)
        if a is None or b is None or (one, other) in self._cut or (other, one) in self._cut:
            return  # heal, restart and membership changes dial again
        if self.stream(one, other).up:
            return
        if a.peers.get(other) != b.incarnation or b.peers.get(one) != a.incarnation:
            if other in a.peers or one in b.peers:
                self._events.after(0.5, lambda: self._dial(one, other))  # one of them will learn of the other
            return
        for source, target in ((one, other), (other, one)):
            stream = self.stream(source, target)
            stream.epoch += 1
            stream.up, stream.arrives_at, stream.queued_bytes = True, self._events.now, 0
        for transport, peer in ((a, other), (b, one)):
            if transport.on_connected is not None and not transport.closed:
                transport.on_connected(peer)

    def _break(self, one: NodeId, other: NodeId) -> None:
        if not self.stream(one, other).up and not self.stream(other, one).up:
            return
        for source, target in ((one, other), (other, one)):
            stream = self.stream(source, target)
            stream.epoch += 1
            stream.up, stream.queued_bytes = False, 0
        for here, there in ((one, other), (other, one)):
            transport = self._transports.get(here)
            if transport is not None and transport.on_disconnected is not None and not transport.closed:
                transport.on_disconnected(there)

    def _break_if_cut(self, source: NodeId, target: NodeId) -> None:
        if (source, target) in self._cut:
            self._break(source, target)
