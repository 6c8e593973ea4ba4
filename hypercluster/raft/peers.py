"""What a node knows about each other member.

Owns: `Peer`: the stream's state, what is in flight, what was heard last, and the library's name for the node.
Never: decides anything; match and next index stay in the library's own tables.
Invariants: a peer's frames count only while its hello named the incarnation that the configuration holds (CL-15);
`in_flight_bytes` is the sum of what was sent in append frames and not acknowledged.
"""

from __future__ import annotations

import zlib
from collections import deque
from dataclasses import dataclass, field

from pysyncobj.node import Node

from hypercluster.raft.engine import CheckpointMeta
from hypercluster.values import Incarnation, Index, Member, NodeId, Suffrage


class PeerNode(Node):
    """The library keeps nodes in sets: a hash that does not vary with the process keeps their order the same."""

    def __hash__(self) -> int:
        return zlib.crc32(self.id.encode())


@dataclass(slots=True)
class CheckpointSession:
    """One checkpoint on its way to one peer."""

    meta: CheckpointMeta
    sent: int = 0  # bytes
    acked: int = 0
    progress_s: float = 0.0


@dataclass(slots=True)
class Peer:
    member: Member
    node: PeerNode
    active: bool = True  # in the newest configuration; otherwise only in one that may still come back
    connected: bool = False
    hello: Incarnation | None = None  # of the stream that is or was last open
    refused: bool = False  # its hello named another cluster or protocol
    verified: bool = False  # an acknowledgement of this term placed its log
    in_flight: deque[tuple[Index, int]] = field(default_factory=deque)  # last index and bytes of each append frame
    in_flight_bytes: int = 0
    rewound_round: int = 0  # rejections of rounds up to here are answers to what was given up already
    acked_round: int = 0
    heard_s: float = float("-inf")
    hello_sent_s: float = float("-inf")
    fsync_us: int = 0
    unfit: bool = False
    probe_waiting: tuple[int, int] | None = None  # its clock, our round when it came
    probe_echo_ns: int = 0
    session: CheckpointSession | None = None
    session_after_s: float = 0.0

    @property
    def node_id(self) -> NodeId:
        return self.member.node_id

    @property
    def is_voter(self) -> bool:
        return self.active and self.member.suffrage is Suffrage.VOTER

    def sent(self, last: Index, size_bytes: int) -> None:
        self.in_flight.append((last, size_bytes))
        self.in_flight_bytes += size_bytes

    def acknowledged(self, match: Index) -> None:
        while self.in_flight and self.in_flight[0][0] <= match:
            self.in_flight_bytes -= self.in_flight.popleft()[1]

    def forget_flight(self) -> None:
        self.in_flight.clear()
        self.in_flight_bytes = 0

    def new_term(self) -> None:
        """Nothing that was known in another leadership counts."""
        self.verified = False
        self.forget_flight()
        self.rewound_round = 0
        self.acked_round = 0
        self.heard_s = float("-inf")
        self.unfit = False
        self.probe_waiting = None
        self.probe_echo_ns = 0
        self.session = None
        self.session_after_s = 0.0
