"""Who may hold a peer stream: the certificate first, then the hello, both against the membership (CL-15, SEC-1).

Owns: `LocalNode`, the hello, the reasons for refusing a stream, and the judgement itself, as pure functions.
Never: I/O; a frame of anyone whose certificate has not been judged.
Invariants: a stream is accepted only if certificate, hello and membership agree on cluster, node id and incarnation.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from typing import Final

from google.protobuf.message import DecodeError

from hypercluster.credentials.names import Role, Subject
from hypercluster.limits import PEER_HELLO_BYTES_MAX
from hypercluster.pb.v1 import peer_pb2
from hypercluster.values import ClusterId, Incarnation, Membership, NodeId

PROTOCOL: Final = 1
_ADDRESS: Final = re.compile(r"(?:[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\]):[0-9]{1,5}")


class Refusal(Enum):
    """Stable codes: on the wire, in the counters and in the node's log."""

    NOT_A_NODE = "NOT_A_NODE"  # no name, or a client's
    WRONG_CLUSTER = "WRONG_CLUSTER"
    NOT_A_MEMBER = "NOT_A_MEMBER"
    WRONG_DIRECTION = "WRONG_DIRECTION"  # the lower id dials
    BAD_HELLO = "BAD_HELLO"  # absent, late, too long or malformed
    WRONG_PROTOCOL = "WRONG_PROTOCOL"
    NAME_MISMATCH = "NAME_MISMATCH"  # the hello names another node than the certificate
    WRONG_INCARNATION = "WRONG_INCARNATION"  # another life of that node's directory, also a removed one
    BAD_MESSAGE = "BAD_MESSAGE"  # a frame over the limit, or no frames at all
    NOT_STARTED = "NOT_STARTED"  # this node is starting or stopping


@dataclass(frozen=True, slots=True)
class LocalNode:
    """What this node says of itself."""

    cluster_id: ClusterId
    node_id: NodeId
    incarnation: Incarnation
    client_address: str  # host:port, for leader hints; '' when it has none
    version: str


def write_hello(local: LocalNode) -> bytes:
    """A serialized PeerFrame."""
    return peer_pb2.PeerFrame(
        hello=peer_pb2.PeerHello(
            cluster_id=local.cluster_id,
            node_id=local.node_id,
            incarnation=local.incarnation,
            protocol=PROTOCOL,
            version=local.version,
            client_address=local.client_address,
        )
    ).SerializeToString()


def read_hello(frame: bytes) -> peer_pb2.PeerHello | None:
    """None when it is no hello."""
    if len(frame) > PEER_HELLO_BYTES_MAX:
        return None
    try:
        parsed = peer_pb2.PeerFrame.FromString(frame)
    except DecodeError:
        return None
    if parsed.WhichOneof("kind") != "hello":
        return None
    hello = parsed.hello
    if hello.client_address and _ADDRESS.fullmatch(hello.client_address) is None:
        return None
    return hello


def judge_certificate(subject: Subject, local: LocalNode, membership: Membership) -> Refusal | None:
    """Of a dialer, before a byte of its stream is read."""
    if subject.role is not Role.NODE:
        return Refusal.NOT_A_NODE
    if subject.cluster_id != local.cluster_id:
        return Refusal.WRONG_CLUSTER
    if membership.find(NodeId(subject.name)) is None:
        return Refusal.NOT_A_MEMBER
    if subject.name >= local.node_id:
        return Refusal.WRONG_DIRECTION
    return None


def judge_hello(hello: peer_pb2.PeerHello, proven: NodeId, local: LocalNode, membership: Membership) -> Refusal | None:
    """`proven`: the node id that the certificate proves."""
    if hello.protocol != PROTOCOL:
        return Refusal.WRONG_PROTOCOL
    if hello.cluster_id != local.cluster_id:
        return Refusal.WRONG_CLUSTER
    if hello.node_id != proven:
        return Refusal.NAME_MISMATCH
    member = membership.find(proven)
    if member is None:
        return Refusal.NOT_A_MEMBER
    if hello.incarnation != member.incarnation:
        return Refusal.WRONG_INCARNATION
    return None
