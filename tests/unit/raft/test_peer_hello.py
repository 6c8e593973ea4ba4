"""The hello: what nodes compare before a stream counts, and that everything of it fits its bound (CL-15, CL-16)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hypercluster.limits import NODE_ADDRESS_BYTES_MAX, PEER_HELLO_BYTES_MAX, QUARANTINED_MAX
from hypercluster.pb.v1 import peer_pb2
from hypercluster.raft.peer_hello import (
    LocalNode,
    QuarantinedAt,
    Refusal,
    judge_hello,
    quarantine_difference,
    quarantine_of,
    read_hello,
    write_hello,
)
from hypercluster.raft.peer_registry import PeerRegistry
from hypercluster.storage.birth import BIRTH_BYTES
from hypercluster.values import ClusterId, Incarnation, Index, Member, Membership, NodeId, Suffrage

CLUSTER = ClusterId(b"c" * 16)


def node(name: str, *quarantined: QuarantinedAt) -> LocalNode:
    return LocalNode(CLUSTER, NodeId(name), Incarnation(name.encode() * 8), f"{name}:7801", "0.1", tuple(quarantined))


MEMBERS = Membership(
    Index(0),
    3,
    tuple(Member(NodeId(n), Incarnation(n.encode() * 8), f"{n}:7802", Suffrage.VOTER) for n in ("n1", "n2", "n3")),
)


def hello_of(local: LocalNode) -> peer_pb2.PeerHello:
    hello = read_hello(write_hello(local))
    assert hello is not None
    return hello


def judged(peer: LocalNode, local: LocalNode) -> Refusal | None:
    return judge_hello(hello_of(peer), peer.node_id, local, MEMBERS)


@pytest.mark.req("CL-16")
@pytest.mark.parametrize(
    ("theirs", "ours", "accepted"),
    [
        ((), (), True),
        (((7, 0),), ((7, 0),), True),
        (((7, 0), (9, None)), ((7, 0), (9, None)), True),
        (((7, 0),), (), False),
        ((), ((7, 0),), False),
        (((7, 0),), ((7, None),), False),
        (((7, 0),), ((7, 1),), False),
        (((7, 0), (9, None)), ((7, 0),), False),
    ],
)
def test_only_equal_quarantines_are_accepted(
    theirs: tuple[QuarantinedAt, ...], ours: tuple[QuarantinedAt, ...], accepted: bool
) -> None:
    expected = None if accepted else Refusal.QUARANTINE_DIFFERS
    assert judged(node("n1", *theirs), node("n2", *ours)) is expected
    assert quarantine_of(hello_of(node("n1", *theirs))) == theirs


@pytest.mark.req("CL-16")
def test_the_words_say_what_differs_where_and_what_to_do() -> None:
    peer, local = hello_of(node("n1", (7, 2))), node("n2")
    words = quarantine_difference(peer, local, 7)
    assert words.startswith("command 2 of entry 7 is quarantined on n1 and was applied on n2")
    assert "`hypercluster node rejoin`" in words
    words = quarantine_difference(peer, local, 6)
    assert words.startswith("command 2 of entry 7 is quarantined on n1 and not on n2: stop n2 and run")
    assert "`hypercluster wal quarantine DATA_DIR 7 2`" in words
    words = quarantine_difference(hello_of(node("n1")), node("n2", (7, None)), 100)
    assert words.startswith("entry 7 is quarantined on n2 and not on n1") and "wal quarantine DATA_DIR 7`" in words
    lying = hello_of(node("n1", (7, 2)))
    lying.quarantine_digest = b"x" * 32
    assert judge_hello(lying, NodeId("n1"), node("n2", (7, 2)), MEMBERS) is Refusal.QUARANTINE_DIFFERS
    assert "does not match its list" in quarantine_difference(lying, node("n2", (7, 2)), 0)


@pytest.mark.req("CL-16", "SEC-3")
def test_the_largest_hello_fits_and_a_longer_list_is_none() -> None:
    listed = tuple((2**62 - QUARANTINED_MAX + i, 2**31 - 1) for i in range(QUARANTINED_MAX))
    largest = replace(
        node("n" * 63, *listed),
        client_address="h" * (NODE_ADDRESS_BYTES_MAX - 6) + ":65535",
        version="9" * 64,
        birth=b"b" * BIRTH_BYTES,
    )
    assert len(write_hello(largest)) <= PEER_HELLO_BYTES_MAX
    assert read_hello(write_hello(largest)) is not None
    assert read_hello(write_hello(replace(largest, quarantined=(*listed, (2**62, 1))))) is None
    assert read_hello(write_hello(replace(node("n1"), birth=b"b" * (BIRTH_BYTES - 1)))) is None


@pytest.mark.req("CL-15")
def test_an_empty_log_under_a_known_incarnation_is_refused_and_told_why() -> None:
    met: list[tuple[Incarnation, bytes]] = []

    def admit(incarnation: Incarnation, birth: bytes, members: object) -> bool:
        met.append((incarnation, birth))
        return len(met) == 1

    registry = PeerRegistry(node("n2"), lambda _: None, admit=admit)
    registry.membership = MEMBERS
    hello = hello_of(replace(node("n1"), birth=b"b" * BIRTH_BYTES))
    assert registry.judge(hello, NodeId("n1")) is None
    assert registry.judge(hello, NodeId("n1")) is Refusal.LOST_LOG
    assert met == [(b"n1" * 8, b"b" * 16)] * 2
    assert "`hypercluster node rejoin --config node.toml`" in registry.detail(Refusal.LOST_LOG, hello)
    assert registry.judge(hello_of(node("n9")), NodeId("n9")) is Refusal.NOT_A_MEMBER
    assert len(met) == 2, "a stranger is not noted"
