"""The words every module shares: identifiers, indexes and small frozen records.

Owns: the NewTypes of the index spaces (D-2) and identities (D-20), which are never mixed.
Never: I/O, clocks, randomness, imports from other modules of the package.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import NamedTuple, NewType

# Raft. Index 0 is "before the first entry"; the first entry has index 1.
Index = NewType("Index", int)
Term = NewType("Term", int)
NodeId = NewType("NodeId", str)  # the operator's name of a cluster node, e.g. "n1"
Incarnation = NewType("Incarnation", bytes)  # 16 random bytes, one per life of a data directory (CL-15)
ClusterId = NewType("ClusterId", bytes)  # 16 random bytes
HistoryId = NewType("HistoryId", bytes)  # 16 random bytes, one per life of a cluster (D-17)

# State machine index spaces (D-2): assigned inside apply, never mixed with Index.
LogIndex = NewType("LogIndex", int)  # per workspace, gap-free, one per accepted file operation
ServerSeq = NewType("ServerSeq", int)  # per scope, gap-free, one per accepted hub operation

# Clients (D-7, D-20).
ClientId = NewType("ClientId", bytes)  # 16 bytes, one process or one stored outbox
Seq = NewType("Seq", int)  # client_seq, from 1, +1 a command
Nanos = NewType("Nanos", int)  # nanoseconds since the epoch, or a span of them
FencingToken = NewType("FencingToken", int)

# Workspace (WS-10). Called InodeId here because NodeId is a cluster node.
WorkspaceId = NewType("WorkspaceId", bytes)  # 16 bytes
InodeId = NewType("InodeId", bytes)  # 16 bytes; the specification's "NodeID" of a file or directory
InodeNo = NewType("InodeNo", int)  # u64, st_ino on every worker
ChunkHash = NewType("ChunkHash", bytes)  # BLAKE3-256 of the plain bytes
Digest = NewType("Digest", bytes)  # BLAKE3-256

NO_INDEX = Index(0)
NO_TERM = Term(0)
ZERO_DIGEST = Digest(bytes(32))


class Role(Enum):
    """What a node is in the present term."""

    FOLLOWER = "follower"
    CANDIDATE = "candidate"
    LEADER = "leader"


class Suffrage(IntEnum):
    """What a member may do (D-14): a learner replicates and does not vote."""

    VOTER = 1
    LEARNER = 2


class ReadLevel(IntEnum):
    """How fresh a read must be (CL-10)."""

    LINEARIZABLE = 0  # ReadIndex round after the read arrived
    LEADER_LOCAL = 1  # whatever the leader has applied
    BOUNDED_STALE = 2  # any node; the answer says how stale it may be


@dataclass(frozen=True, slots=True)
class Member:
    """One enrolled node of the cluster; `address` is host:port of its peer listener."""

    node_id: NodeId
    incarnation: Incarnation
    address: str
    suffrage: Suffrage
    promote: bool = False  # a learner that becomes a voter by itself once it has caught up (QUO-1)


@dataclass(frozen=True, slots=True)
class Membership:
    """A Raft configuration and the index of the entry that made it (QUO-1).

    `configured_voters` is the number N the operator configured (D-9): a majority is never fewer
    than N//2+1 disks, whatever the present voting set.
    """

    index: Index
    configured_voters: int
    members: tuple[Member, ...]  # sorted by node_id

    def voters(self) -> tuple[Member, ...]:
        return tuple(m for m in self.members if m.suffrage is Suffrage.VOTER)

    def find(self, node_id: NodeId) -> Member | None:
        return next((m for m in self.members if m.node_id == node_id), None)

    def quorum(self) -> int:
        """How many voters, self included, must hold an entry (D-9)."""
        return max(len(self.voters()) // 2 + 1, self.configured_voters // 2 + 1)


@dataclass(frozen=True, slots=True)
class CheckpointMeta:
    """What a checkpoint holds: state as of `index`, the configuration committed by then, the running digest."""

    checkpoint_id: str
    index: Index
    term: Term
    digest: Digest
    membership: Membership
    bytes_total: int
    last_stamp_ns: int


class Scope(NamedTuple):
    """(org, project): every workspace, session and hub state belongs to one (D-20)."""

    org: str
    project: str
