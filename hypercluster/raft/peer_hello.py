"""Who may hold a peer stream: the certificate first, then the hello, both against the membership (CL-15, SEC-1).

Owns: `LocalNode`, the hello, the reasons for refusing a stream, and the judgement itself, as pure functions.
Never: I/O; a frame of anyone whose certificate has not been judged.
Invariants: a stream is accepted only if certificate, hello and membership agree on cluster, node id and incarnation,
and both nodes refuse the same commands as INTERNAL (CL-16): two states made with different lists are not one state.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

from blake3 import blake3
from google.protobuf.message import DecodeError

from hypercluster.credentials.names import Role, Subject
from hypercluster.limits import PEER_HELLO_BYTES_MAX, QUARANTINED_MAX
from hypercluster.pb.v1 import peer_pb2
from hypercluster.storage.birth import BIRTH_BYTES
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
    QUARANTINE_DIFFERS = "QUARANTINE_DIFFERS"  # it refuses other commands than this node does (CL-16)
    LOST_LOG = "LOST_LOG"  # met before, and now without a log: its directory was lost or made by hand (CL-15)
    BAD_MESSAGE = "BAD_MESSAGE"  # a frame over the limit, or no frames at all
    NOT_STARTED = "NOT_STARTED"  # this node is starting or stopping


QuarantinedAt = tuple[int, int | None]  # index; ordinal in the entry, None for all of it


@dataclass(frozen=True, slots=True)
class LocalNode:
    """What this node says of itself."""

    cluster_id: ClusterId
    node_id: NodeId
    incarnation: Incarnation
    client_address: str  # host:port, for leader hints; '' when it has none
    version: str
    quarantined: tuple[QuarantinedAt, ...] = ()  # sorted; fixed while the process lives
    birth: bytes = b""  # 16 random bytes made with its log, and made anew where that is gone (storage/birth.py)


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
            quarantined=[peer_pb2.QuarantinedCommand(index=i, ordinal=o) for i, o in local.quarantined],
            quarantine_digest=quarantine_digest(local.quarantined),
            birth=local.birth,
        )
    ).SerializeToString()


def quarantine_digest(listed: Sequence[QuarantinedAt]) -> bytes:
    """b'' of an empty list."""
    if not listed:
        return b""
    return blake3("".join(f"{i} {'all' if o is None else o}\n" for i, o in listed).encode()).digest()


def quarantine_of(hello: peer_pb2.PeerHello) -> tuple[QuarantinedAt, ...]:
    return tuple((q.index, q.ordinal if q.HasField("ordinal") else None) for q in hello.quarantined)


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
    if len(hello.quarantined) > QUARANTINED_MAX or len(hello.birth) not in (0, BIRTH_BYTES):
        return None
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
    if hello.quarantine_digest != quarantine_digest(local.quarantined):
        return Refusal.QUARANTINE_DIFFERS
    return None


def quarantine_difference(hello: peer_pb2.PeerHello, local: LocalNode, applied_index: int) -> str:
    """What differs, on which node, and what to do about it; the first difference says enough."""
    theirs, ours = set(quarantine_of(hello)), set(local.quarantined)
    peer = hello.node_id
    only_theirs = sorted(theirs - ours, key=lambda q: (q[0], q[1] or 0))
    only_ours = sorted(ours - theirs, key=lambda q: (q[0], q[1] or 0))
    if only_theirs:
        index, ordinal = only_theirs[0]
        what = _command_words(index, ordinal)
        if index <= applied_index:
            return (
                f"{what} is quarantined on {peer} and was applied on {local.node_id}: the two states differ. Keep the "
                f"state of the majority; the other node goes through `hypercluster node rejoin`"
            )
        missing_on = local.node_id
    elif only_ours:
        index, ordinal = only_ours[0]
        what, missing_on = _command_words(index, ordinal), NodeId(peer)
    else:
        return f"the digest of what {peer} quarantines does not match its list"
    quarantined_on = peer if only_theirs else local.node_id
    words = f"{index}" if ordinal is None else f"{index} {ordinal}"
    return (
        f"{what} is quarantined on {quarantined_on} and not on {missing_on}: stop {missing_on} and run "
        f"`hypercluster wal quarantine DATA_DIR {words}` there, or, if it has applied it, `hypercluster node rejoin` "
        "on the node that is in the minority"
    )


def _command_words(index: int, ordinal: int | None) -> str:
    return f"entry {index}" if ordinal is None else f"command {ordinal} of entry {index}"
