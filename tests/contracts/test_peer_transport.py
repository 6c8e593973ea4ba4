"""The contract of `PeerTransport`, over gRPC with mutual TLS and over the network inside one process."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import pytest

from hypercluster.errors import InvariantError
from hypercluster.limits import PEER_FRAME_BYTES_MAX, PEER_IN_FLIGHT_BYTES_MAX
from hypercluster.raft.peer_hello import LocalNode
from hypercluster.raft.peer_transport import GrpcPeerTransport
from hypercluster.values import Incarnation, Index, Member, Membership, NodeId, Suffrage
from tests.fakes import certs
from tests.fakes.memory_transport import MemoryNetwork, MemoryPeerTransport
from tests.fakes.tcp_proxy import TcpProxy
from tests.fakes.waiting import eventually, never

N1, N2, N3 = NodeId("n1"), NodeId("n2"), NodeId("n3")


@dataclass
class Node:
    """A transport and all that it reported, in order."""

    transport: GrpcPeerTransport | MemoryPeerTransport
    told: list[tuple[str, NodeId]] = field(default_factory=list)
    frames: list[tuple[NodeId, bytes]] = field(default_factory=list)
    fatal: list[BaseException] = field(default_factory=list)
    react: Callable[[NodeId, bytes], None] | None = None

    def start(self) -> None:
        self.transport.start(self._frame, self._up, self._down)

    def up(self, peer: NodeId) -> bool:
        """Whether the latest word about the peer was that it is connected."""
        return next((word for word, who in reversed(self.told) if who == peer), "") == "up"

    def of(self, peer: NodeId) -> list[bytes]:
        return [frame for sender, frame in self.frames if sender == peer]

    def _frame(self, peer: NodeId, frame: bytes) -> None:
        assert self.up(peer), "a frame of a peer that is not connected"
        self.frames.append((peer, frame))
        if self.react is not None:
            self.react(peer, frame)

    def _up(self, peer: NodeId) -> None:
        assert not self.up(peer), "connected twice without a word between"
        self.told.append(("up", peer))

    def _down(self, peer: NodeId) -> None:
        assert self.up(peer), "disconnected without having been connected"
        self.told.append(("down", peer))


def incarnation(node_id: NodeId, life: int = 0) -> Incarnation:
    return Incarnation(f"{node_id}/{life}".encode().ljust(16, b"."))


class Network(Protocol):
    async def add(self, node_id: NodeId, *, life: int = 0) -> Node:
        """Another life replaces the transport of the one before, which must be closed."""

    def address(self, node_id: NodeId) -> str: ...

    async def cut(self, a: NodeId, b: NodeId) -> None: ...

    async def heal(self, a: NodeId, b: NodeId) -> None: ...

    async def pause(self, node_id: NodeId) -> None: ...

    async def resume(self, node_id: NodeId) -> None: ...

    async def close(self) -> None: ...


class InMemory:
    def __init__(self) -> None:
        self._network = MemoryNetwork()
        self._nodes: list[Node] = []

    async def add(self, node_id: NodeId, *, life: int = 0) -> Node:
        fatal: list[BaseException] = []
        transport = MemoryPeerTransport(
            self._network, node_id, incarnation(node_id, life), f"{node_id}.example:7000", fatal.append
        )
        node = Node(transport, fatal=fatal)
        self._nodes.append(node)
        return node

    def address(self, node_id: NodeId) -> str:
        return f"{node_id}.example:6000"

    async def cut(self, a: NodeId, b: NodeId) -> None:
        self._network.cut(a, b)

    async def heal(self, a: NodeId, b: NodeId) -> None:
        self._network.heal(a, b)

    async def pause(self, node_id: NodeId) -> None:
        self._network.pause(node_id)

    async def resume(self, node_id: NodeId) -> None:
        self._network.resume(node_id)

    async def close(self) -> None:
        for node in self._nodes:
            node.transport.close()


class OverGrpc:
    """Every node listens behind a relay, by which its wire is cut. One relay a listener suffices for two nodes."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._transports: list[GrpcPeerTransport] = []
        self._proxies: dict[NodeId, TcpProxy] = {}
        self._ports: dict[NodeId, int] = {}

    async def add(self, node_id: NodeId, *, life: int = 0) -> Node:
        fatal: list[BaseException] = []
        transport = GrpcPeerTransport(
            LocalNode(certs.CLUSTER, node_id, incarnation(node_id, life), f"{node_id}.example:7000", "0.1"),
            certs.files(self._directory / f"{node_id}-{life}", certs.node(node_id)),
            rng=random.Random(life),
            on_fatal=fatal.append,
        )
        self._transports.append(transport)
        port = await transport.listen("127.0.0.1:0")
        if node_id in self._proxies:
            await self._proxies[node_id].stop()
        self._proxies[node_id] = TcpProxy("127.0.0.1", port)
        self._ports[node_id] = await self._proxies[node_id].start()
        return Node(transport, fatal=fatal)

    def address(self, node_id: NodeId) -> str:
        return f"127.0.0.1:{self._ports[node_id]}"

    async def cut(self, a: NodeId, b: NodeId) -> None:
        self._proxies[max(a, b)].cut()

    async def heal(self, a: NodeId, b: NodeId) -> None:
        self._proxies[max(a, b)].heal()

    async def pause(self, node_id: NodeId) -> None:
        self._proxies[node_id].clog()

    async def resume(self, node_id: NodeId) -> None:
        self._proxies[node_id].heal()

    async def close(self) -> None:
        for transport in self._transports:
            transport.close()
        for proxy in self._proxies.values():
            await proxy.stop()
        for transport in self._transports:
            await transport.wait_closed()


@pytest.fixture(params=["grpc", "memory"])
async def network(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Network]:
    made: Network = OverGrpc(tmp_path) if request.param == "grpc" else InMemory()
    made_nodes: list[Node] = []
    add = made.add

    async def remember(node_id: NodeId, *, life: int = 0) -> Node:
        made_nodes.append(await add(node_id, life=life))
        return made_nodes[-1]

    made.add = remember  # type: ignore[method-assign]
    yield made
    await made.close()
    # The callbacks above assert: what they raise is reported as fatal, and looked at here.
    assert not [error for node in made_nodes for error in node.fatal]


def membership(network: Network, *nodes: NodeId, lives: dict[NodeId, int] | None = None) -> Membership:
    members = tuple(
        Member(n, incarnation(n, (lives or {}).get(n, 0)), network.address(n), Suffrage.VOTER) for n in sorted(nodes)
    )
    return Membership(Index(1), 3, members)


async def pair(network: Network) -> tuple[Node, Node]:
    a, b = await network.add(N1), await network.add(N2)
    for node in (a, b):
        node.start()
        node.transport.set_peers(membership(network, N1, N2))
    await eventually(lambda: a.up(N2) and b.up(N1), "both connected")
    return a, b


async def test_frames_arrive_in_order_both_ways(network: Network) -> None:
    a, b = await pair(network)
    rng = random.Random(1)
    sent = [i.to_bytes(4, "big") + rng.randbytes(rng.choice((0, 10, 3_000, 200_000))) for i in range(300)]
    for frame in sent:
        assert a.transport.send(N2, frame)
        assert b.transport.send(N1, frame[:100])
    await eventually(lambda: len(b.frames) == len(a.frames) == 300, "all delivered")
    assert b.of(N1) == sent
    assert a.of(N2) == [frame[:100] for frame in sent]
    await eventually(lambda: a.transport.queued_bytes(N2) == 0 == b.transport.queued_bytes(N1), "queues empty")


async def test_a_frame_sent_while_being_told_of_the_connection_arrives(network: Network) -> None:
    a, b = await network.add(N1), await network.add(N2)
    for node in (a, b):
        node.transport.start(
            node._frame,
            lambda who, node=node: (node._up(who), node.transport.send(who, b"first"))[0],  # type: ignore[misc]
            node._down,
        )
        node.transport.set_peers(membership(network, N1, N2))
    await eventually(lambda: a.of(N2) == b.of(N1) == [b"first"], "first frames")


async def test_nothing_is_sent_to_who_is_not_connected(network: Network) -> None:
    a = await network.add(N1)
    a.start()
    assert not a.transport.send(N2, b"x")
    assert a.transport.queued_bytes(N2) == 0
    a.transport.set_peers(membership(network, N1))
    assert not a.transport.send(N3, b"x")


async def test_a_frame_over_the_limit_is_a_defect_of_the_sender(network: Network) -> None:
    a, b = await pair(network)
    with pytest.raises(InvariantError):
        a.transport.send(N2, bytes(PEER_FRAME_BYTES_MAX + 1))
    largest = random.Random(2).randbytes(PEER_FRAME_BYTES_MAX)
    assert a.transport.send(N2, largest)
    await eventually(lambda: b.of(N1) == [largest], "the largest frame")


@pytest.mark.req("CL-13")
async def test_a_peer_that_does_not_read_fills_its_queue_and_no_more(network: Network) -> None:
    a, b = await pair(network)
    await network.pause(N2)
    frame = bytes(1 << 20)
    accepted = 0
    # The sockets and gRPC take some; then the queue stands at its limit.
    for _ in range(400):
        accepted += a.transport.send(N2, accepted.to_bytes(4, "big") + frame)
        await asyncio.sleep(0)
        assert a.transport.queued_bytes(N2) <= PEER_IN_FLIGHT_BYTES_MAX
    assert accepted < 100
    assert not a.transport.send(N2, frame)
    assert a.transport.queued_bytes(N2) > PEER_IN_FLIGHT_BYTES_MAX - 2 * len(frame)
    await network.resume(N2)
    await eventually(lambda: len(b.of(N1)) == accepted or not b.up(N1), "delivered after all, or cut for silence")
    got = [int.from_bytes(f[:4], "big") for f in b.of(N1)]
    assert got == list(range(len(got)))


async def test_after_a_cut_nothing_old_arrives_and_order_starts_anew(network: Network) -> None:
    a, b = await pair(network)
    await network.cut(N1, N2)
    await eventually(lambda: not a.up(N2) and not b.up(N1), "both noticed")
    assert not a.transport.send(N2, b"lost")
    await network.heal(N1, N2)
    await eventually(lambda: a.up(N2) and b.up(N1), "both connected again")
    assert a.transport.send(N2, b"new")
    await eventually(lambda: b.of(N1) == [b"new"], "the new frame alone")
    assert a.told == [("up", N2), ("down", N2), ("up", N2)]
    assert b.told == [("up", N1), ("down", N1), ("up", N1)]


async def test_cuts_at_any_moment_leave_a_prefix_of_each_connection(network: Network) -> None:
    """Frames carry (connection, number): what arrives of each connection is 0, 1, 2, … without a hole."""
    a, b = await pair(network)
    rng = random.Random(3)
    epochs: list[list[int]] = []
    for epoch in range(6):
        accepted = 0
        for number in range(rng.randrange(1, 60)):
            body = bytes((epoch,)) + number.to_bytes(4, "big") + bytes(rng.choice((0, 20_000)))
            accepted += a.transport.send(N2, body)
            if rng.random() < 0.2:
                await asyncio.sleep(0)
        epochs.append([accepted])
        await network.cut(N1, N2)
        await eventually(lambda: not a.up(N2) and not b.up(N1), "both noticed")
        await network.heal(N1, N2)
        await eventually(lambda: a.up(N2) and b.up(N1), "both connected again")
    for epoch, (accepted,) in enumerate(epochs):
        got = [int.from_bytes(f[1:5], "big") for f in b.of(N1) if f[0] == epoch]
        assert got == list(range(len(got)))
        assert len(got) <= accepted
    order = [f[0] for f in b.of(N1)]
    assert order == sorted(order)


@pytest.mark.req("CL-15")
async def test_another_incarnation_is_not_spoken_to(network: Network) -> None:
    a, b = await pair(network)
    a.frames.clear()
    a.transport.set_peers(membership(network, N1, N2, lives={N2: 1}))  # n2 lost its directory and has a new life
    assert not a.transport.send(N2, b"x")
    await eventually(lambda: not a.up(N2) and not b.up(N1), "the old life is dropped")
    await never(lambda: a.up(N2) or a.frames, "the old life speaks", 0.7)
    b.transport.close()
    if isinstance(b.transport, GrpcPeerTransport):
        await b.transport.wait_closed()
    again = await network.add(N2, life=1)
    again.start()
    both = membership(network, N1, N2, lives={N2: 1})
    a.transport.set_peers(both)
    again.transport.set_peers(both)
    await eventually(lambda: a.up(N2) and again.up(N1), "the new life is heard")


@pytest.mark.req("CL-15")
async def test_a_removed_member_is_cut_off_and_stays_so(network: Network) -> None:
    a, b = await pair(network)
    a.transport.set_peers(membership(network, N1))
    assert not a.transport.send(N2, b"x")
    assert not b.frames
    await eventually(lambda: not a.up(N2) and not b.up(N1), "cut off")
    await never(lambda: a.up(N2), "the removed member is back", 0.7)
    assert a.transport.client_address(N2) == ""


async def test_three_nodes_and_a_learner_speak_with_each_other(network: Network) -> None:
    nodes = {n: await network.add(n) for n in (N1, N2, N3)}
    whole = membership(network, N1, N2, N3)
    members = tuple(
        Member(m.node_id, m.incarnation, m.address, Suffrage.LEARNER if m.node_id == N3 else m.suffrage)
        for m in whole.members
    )
    for node in nodes.values():
        node.start()
        node.transport.set_peers(Membership(Index(1), 3, members))
    await eventually(lambda: all(x.up(p) for n, x in nodes.items() for p in nodes if p != n), "all connected")
    for sender, node in nodes.items():
        for to in nodes:
            assert node.transport.send(to, f"{sender}>{to}".encode()) is (to != sender)
    for to, node in nodes.items():
        await eventually(lambda node=node: len(node.frames) == 2, "two frames each")  # type: ignore[misc]
        assert sorted(node.frames) == sorted((s, f"{s}>{to}".encode()) for s in nodes if s != to)


async def test_client_addresses_come_with_the_hello(network: Network) -> None:
    a, b = await pair(network)
    assert a.transport.client_address(N2) == "n2.example:7000"
    assert b.transport.client_address(N1) == "n1.example:7000"
    assert a.transport.client_address(N1) == "n1.example:7000"
    assert a.transport.client_address(N3) == ""
    await network.cut(N1, N2)
    await eventually(lambda: not a.up(N2), "noticed")
    assert a.transport.client_address(N2) == "n2.example:7000"  # a hint may outlive the stream


async def test_no_callback_comes_from_inside_a_call_or_after_close(network: Network) -> None:
    a, b = await pair(network)
    told = list(a.told)
    a.transport.set_peers(membership(network, N1))
    assert a.told == told
    await eventually(lambda: not a.up(N2), "told later")
    a.transport.set_peers(membership(network, N1, N2))
    assert a.told[-1] == ("down", N2)
    await eventually(lambda: a.up(N2) and b.up(N1), "connected again")
    told = list(a.told)
    assert b.transport.send(N1, b"late")
    a.transport.close()
    a.transport.close()
    frames = len(a.frames)
    await eventually(lambda: not b.up(N1), "the other side notices")
    assert a.told == told
    assert len(a.frames) == frames
    assert not a.transport.send(N2, b"x")


async def test_what_a_callback_raises_is_fatal_and_seen(network: Network) -> None:
    a, b = await pair(network)

    def fail(_: NodeId, frame: bytes) -> None:
        raise InvariantError(frame.decode())

    b.react = fail
    assert a.transport.send(N2, b"boom")
    await eventually(lambda: b.fatal, "the defect is reported")
    assert [str(error) for error in b.fatal] == ["boom"]
    b.fatal.clear()


async def test_a_peer_dropped_while_its_frames_are_delivered_is_heard_no_more(network: Network) -> None:
    a, b = await pair(network)
    b.react = lambda _peer, _frame: b.transport.set_peers(membership(network, N2))
    for i in range(50):
        a.transport.send(N2, bytes((i,)))
    await eventually(lambda: b.frames and not b.up(N1), "dropped")
    assert b.of(N1) == [b"\0"]
