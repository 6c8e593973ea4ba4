"""Who may call what: one table for every RPC this process serves on the client listener (SEC-2).

Owns: the table. The interceptor refuses a method that has no row, and a test compares the rows with the
protos, so that an RPC without an entry can not exist.
Never: looks at the content of a request; scopes and lanes are bound to principals in apply (D-7).
Invariants: a certificate of this cluster is needed for everything; health and reflection tell nothing but names.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum


class Access(Enum):
    """What a caller must be."""

    MEMBER = "member"  # any client or node certificate of this cluster
    ADMIN = "admin"  # a client whose name is in `access.admins`; nobody where that is empty
    OPERATOR = "operator"  # a client whose name is in `access.operators`, or any client where that is empty


_MEMBER_METHODS = {
    "CommandService": ("Stream", "Call"),
    "HubService": ("Get", "List", "Versions"),
    "WorkspaceService": (
        "List",
        "Barrier",
        "Stat",
        "ReadDir",
        "Extents",
        "ChunkNeed",
        "FetchChunks",
        "WatchLog",
        "TreeSnapshot",
        "ListSnapshots",
        "TakeSnapshot",
        "SnapshotManifest",
        "IntentStatus",
        "Proof",
        "Workers",
        "Session",
    ),
    "CoordinationService": ("WatchEvents", "Renew", "Locks", "Hazards", "Reservations", "Settings"),
    "ClusterService": ("Status", "Members"),
}

ACCESS: Mapping[str, Access] = {
    **{f"/hypercluster.v1.{s}/{m}": Access.MEMBER for s, methods in _MEMBER_METHODS.items() for m in methods},
    "/hypercluster.v1.ClusterService/TransferLeader": Access.OPERATOR,
    "/hypercluster.v1.ClusterService/AddMember": Access.ADMIN,
    "/hypercluster.v1.ClusterService/PromoteMember": Access.ADMIN,
    "/hypercluster.v1.ClusterService/RemoveMember": Access.ADMIN,
    "/grpc.health.v1.Health/Check": Access.MEMBER,
    "/grpc.health.v1.Health/Watch": Access.MEMBER,
    "/grpc.health.v1.Health/List": Access.MEMBER,
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": Access.MEMBER,
}

# The peer listener's one service: it checks its callers itself, against the membership (raft/peer_transport.py).
PEER_METHODS = frozenset({"/hypercluster.v1.PeerService/Exchange"})
