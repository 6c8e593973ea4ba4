from hypercluster.pb.v1 import peer_pb2 as _peer_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class StatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class NodeStatus(_message.Message):
    __slots__ = ("node_id", "role", "term", "leader", "leader_client_address", "last_index", "durable_index", "commit_index", "applied_index", "base_index", "digest", "peers", "refusing_writes", "cluster_id", "history_id", "version", "clock_skew_ms", "disk_free_bytes", "disk_total_bytes", "fsync_p95_us", "commit_p50_us", "commit_p99_us", "started_at_ns", "leader_since_ns", "workers_connected", "worker_problems")
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    TERM_FIELD_NUMBER: _ClassVar[int]
    LEADER_FIELD_NUMBER: _ClassVar[int]
    LEADER_CLIENT_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    LAST_INDEX_FIELD_NUMBER: _ClassVar[int]
    DURABLE_INDEX_FIELD_NUMBER: _ClassVar[int]
    COMMIT_INDEX_FIELD_NUMBER: _ClassVar[int]
    APPLIED_INDEX_FIELD_NUMBER: _ClassVar[int]
    BASE_INDEX_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    PEERS_FIELD_NUMBER: _ClassVar[int]
    REFUSING_WRITES_FIELD_NUMBER: _ClassVar[int]
    CLUSTER_ID_FIELD_NUMBER: _ClassVar[int]
    HISTORY_ID_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    CLOCK_SKEW_MS_FIELD_NUMBER: _ClassVar[int]
    DISK_FREE_BYTES_FIELD_NUMBER: _ClassVar[int]
    DISK_TOTAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    FSYNC_P95_US_FIELD_NUMBER: _ClassVar[int]
    COMMIT_P50_US_FIELD_NUMBER: _ClassVar[int]
    COMMIT_P99_US_FIELD_NUMBER: _ClassVar[int]
    STARTED_AT_NS_FIELD_NUMBER: _ClassVar[int]
    LEADER_SINCE_NS_FIELD_NUMBER: _ClassVar[int]
    WORKERS_CONNECTED_FIELD_NUMBER: _ClassVar[int]
    WORKER_PROBLEMS_FIELD_NUMBER: _ClassVar[int]
    node_id: str
    role: str
    term: int
    leader: str
    leader_client_address: str
    last_index: int
    durable_index: int
    commit_index: int
    applied_index: int
    base_index: int
    digest: bytes
    peers: _containers.RepeatedCompositeFieldContainer[PeerInfo]
    refusing_writes: str
    cluster_id: bytes
    history_id: bytes
    version: str
    clock_skew_ms: int
    disk_free_bytes: int
    disk_total_bytes: int
    fsync_p95_us: int
    commit_p50_us: int
    commit_p99_us: int
    started_at_ns: int
    leader_since_ns: int
    workers_connected: int
    worker_problems: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, node_id: _Optional[str] = ..., role: _Optional[str] = ..., term: _Optional[int] = ..., leader: _Optional[str] = ..., leader_client_address: _Optional[str] = ..., last_index: _Optional[int] = ..., durable_index: _Optional[int] = ..., commit_index: _Optional[int] = ..., applied_index: _Optional[int] = ..., base_index: _Optional[int] = ..., digest: _Optional[bytes] = ..., peers: _Optional[_Iterable[_Union[PeerInfo, _Mapping]]] = ..., refusing_writes: _Optional[str] = ..., cluster_id: _Optional[bytes] = ..., history_id: _Optional[bytes] = ..., version: _Optional[str] = ..., clock_skew_ms: _Optional[int] = ..., disk_free_bytes: _Optional[int] = ..., disk_total_bytes: _Optional[int] = ..., fsync_p95_us: _Optional[int] = ..., commit_p50_us: _Optional[int] = ..., commit_p99_us: _Optional[int] = ..., started_at_ns: _Optional[int] = ..., leader_since_ns: _Optional[int] = ..., workers_connected: _Optional[int] = ..., worker_problems: _Optional[_Iterable[str]] = ...) -> None: ...

class PeerInfo(_message.Message):
    __slots__ = ("node_id", "incarnation", "peer_address", "client_address", "suffrage", "connected", "match_index", "in_flight_bytes", "fsync_us", "last_contact_ms", "promote", "problem")
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    PEER_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    CLIENT_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    SUFFRAGE_FIELD_NUMBER: _ClassVar[int]
    CONNECTED_FIELD_NUMBER: _ClassVar[int]
    MATCH_INDEX_FIELD_NUMBER: _ClassVar[int]
    IN_FLIGHT_BYTES_FIELD_NUMBER: _ClassVar[int]
    FSYNC_US_FIELD_NUMBER: _ClassVar[int]
    LAST_CONTACT_MS_FIELD_NUMBER: _ClassVar[int]
    PROMOTE_FIELD_NUMBER: _ClassVar[int]
    PROBLEM_FIELD_NUMBER: _ClassVar[int]
    node_id: str
    incarnation: bytes
    peer_address: str
    client_address: str
    suffrage: str
    connected: bool
    match_index: int
    in_flight_bytes: int
    fsync_us: int
    last_contact_ms: int
    promote: bool
    problem: str
    def __init__(self, node_id: _Optional[str] = ..., incarnation: _Optional[bytes] = ..., peer_address: _Optional[str] = ..., client_address: _Optional[str] = ..., suffrage: _Optional[str] = ..., connected: _Optional[bool] = ..., match_index: _Optional[int] = ..., in_flight_bytes: _Optional[int] = ..., fsync_us: _Optional[int] = ..., last_contact_ms: _Optional[int] = ..., promote: _Optional[bool] = ..., problem: _Optional[str] = ...) -> None: ...

class TransferLeaderRequest(_message.Message):
    __slots__ = ("to",)
    TO_FIELD_NUMBER: _ClassVar[int]
    to: str
    def __init__(self, to: _Optional[str] = ...) -> None: ...

class TransferLeaderResponse(_message.Message):
    __slots__ = ("leader", "term")
    LEADER_FIELD_NUMBER: _ClassVar[int]
    TERM_FIELD_NUMBER: _ClassVar[int]
    leader: str
    term: int
    def __init__(self, leader: _Optional[str] = ..., term: _Optional[int] = ...) -> None: ...

class MembersRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class MembersResponse(_message.Message):
    __slots__ = ("index", "configured_voters", "quorum", "members", "cluster_id", "history_id", "leader", "quarantined")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    CONFIGURED_VOTERS_FIELD_NUMBER: _ClassVar[int]
    QUORUM_FIELD_NUMBER: _ClassVar[int]
    MEMBERS_FIELD_NUMBER: _ClassVar[int]
    CLUSTER_ID_FIELD_NUMBER: _ClassVar[int]
    HISTORY_ID_FIELD_NUMBER: _ClassVar[int]
    LEADER_FIELD_NUMBER: _ClassVar[int]
    QUARANTINED_FIELD_NUMBER: _ClassVar[int]
    index: int
    configured_voters: int
    quorum: int
    members: _containers.RepeatedCompositeFieldContainer[PeerInfo]
    cluster_id: bytes
    history_id: bytes
    leader: str
    quarantined: _containers.RepeatedCompositeFieldContainer[_peer_pb2.QuarantinedCommand]
    def __init__(self, index: _Optional[int] = ..., configured_voters: _Optional[int] = ..., quorum: _Optional[int] = ..., members: _Optional[_Iterable[_Union[PeerInfo, _Mapping]]] = ..., cluster_id: _Optional[bytes] = ..., history_id: _Optional[bytes] = ..., leader: _Optional[str] = ..., quarantined: _Optional[_Iterable[_Union[_peer_pb2.QuarantinedCommand, _Mapping]]] = ...) -> None: ...

class AddMemberRequest(_message.Message):
    __slots__ = ("node_id", "incarnation", "peer_address", "promote")
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    PEER_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    PROMOTE_FIELD_NUMBER: _ClassVar[int]
    node_id: str
    incarnation: bytes
    peer_address: str
    promote: bool
    def __init__(self, node_id: _Optional[str] = ..., incarnation: _Optional[bytes] = ..., peer_address: _Optional[str] = ..., promote: _Optional[bool] = ...) -> None: ...

class PromoteMemberRequest(_message.Message):
    __slots__ = ("node_id", "incarnation")
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    node_id: str
    incarnation: bytes
    def __init__(self, node_id: _Optional[str] = ..., incarnation: _Optional[bytes] = ...) -> None: ...

class RemoveMemberRequest(_message.Message):
    __slots__ = ("node_id", "incarnation")
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    node_id: str
    incarnation: bytes
    def __init__(self, node_id: _Optional[str] = ..., incarnation: _Optional[bytes] = ...) -> None: ...
