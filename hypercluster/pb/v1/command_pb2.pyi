from hypercluster.pb.v1 import coordination_command_pb2 as _coordination_command_pb2
from hypercluster.pb.v1 import hub_command_pb2 as _hub_command_pb2
from hypercluster.pb.v1 import origin_pb2 as _origin_pb2
from hypercluster.pb.v1 import retention_command_pb2 as _retention_command_pb2
from hypercluster.pb.v1 import workspace_command_pb2 as _workspace_command_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Reason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    REASON_OK: _ClassVar[Reason]
    REASON_PRECONDITION_FAILED: _ClassVar[Reason]
    REASON_ERRNO: _ClassVar[Reason]
    REASON_UNKNOWN_NAMESPACE: _ClassVar[Reason]
    REASON_BAD_OP_TYPE: _ClassVar[Reason]
    REASON_FENCED: _ClassVar[Reason]
    REASON_NO_WORKSPACE: _ClassVar[Reason]
    REASON_EXISTS: _ClassVar[Reason]
    REASON_LIMIT: _ClassVar[Reason]
    REASON_INTERNAL: _ClassVar[Reason]
    REASON_LOCK_HELD_EXPIRING: _ClassVar[Reason]
    REASON_CHAIN_GAP: _ClassVar[Reason]
    REASON_NOT_GENESIS: _ClassVar[Reason]
    REASON_DUPLICATE_GENESIS: _ClassVar[Reason]
    REASON_PREV_MISMATCH: _ClassVar[Reason]
    REASON_FORKED: _ClassVar[Reason]
    REASON_FROZEN: _ClassVar[Reason]
    REASON_UNKNOWN_AUTHOR: _ClassVar[Reason]
    REASON_NO_SESSION: _ClassVar[Reason]
    REASON_SESSION_OWNED: _ClassVar[Reason]
    REASON_IDEMPOTENCY_CONFLICT: _ClassVar[Reason]
    REASON_UNKNOWN: _ClassVar[Reason]
    REASON_FORBIDDEN: _ClassVar[Reason]
    REASON_ABANDONED: _ClassVar[Reason]
    REASON_SESSION_BUSY: _ClassVar[Reason]
    REASON_REQUEST_LIMIT: _ClassVar[Reason]
    REASON_SEQ_GAP: _ClassVar[Reason]
    REASON_CHUNKS_MISSING: _ClassVar[Reason]
    REASON_SCHEMA_CHANGED: _ClassVar[Reason]
    REASON_MALFORMED: _ClassVar[Reason]
    REASON_TOO_LARGE: _ClassVar[Reason]
    REASON_UNAUTHENTICATED: _ClassVar[Reason]
    REASON_NOT_LEADER: _ClassVar[Reason]
    REASON_NO_QUORUM: _ClassVar[Reason]
    REASON_QUEUE_FULL: _ClassVar[Reason]
    REASON_RATE_LIMITED: _ClassVar[Reason]
    REASON_DISK_FULL: _ClassVar[Reason]
    REASON_WRONG_CLUSTER: _ClassVar[Reason]
    REASON_WRONG_WORKSPACE: _ClassVar[Reason]
    REASON_HISTORY_CHANGED: _ClassVar[Reason]
    REASON_SHUTTING_DOWN: _ClassVar[Reason]
    REASON_HOLDER_ALIVE: _ClassVar[Reason]
    REASON_INVALID_SIGNATURE: _ClassVar[Reason]
    REASON_DEPS_TOO_LONG: _ClassVar[Reason]
    REASON_SCHEMA: _ClassVar[Reason]
    REASON_RESET_REQUIRED: _ClassVar[Reason]
    REASON_SNAPSHOT_REQUIRED: _ClassVar[Reason]
    REASON_OUTCOME_UNKNOWN: _ClassVar[Reason]
REASON_OK: Reason
REASON_PRECONDITION_FAILED: Reason
REASON_ERRNO: Reason
REASON_UNKNOWN_NAMESPACE: Reason
REASON_BAD_OP_TYPE: Reason
REASON_FENCED: Reason
REASON_NO_WORKSPACE: Reason
REASON_EXISTS: Reason
REASON_LIMIT: Reason
REASON_INTERNAL: Reason
REASON_LOCK_HELD_EXPIRING: Reason
REASON_CHAIN_GAP: Reason
REASON_NOT_GENESIS: Reason
REASON_DUPLICATE_GENESIS: Reason
REASON_PREV_MISMATCH: Reason
REASON_FORKED: Reason
REASON_FROZEN: Reason
REASON_UNKNOWN_AUTHOR: Reason
REASON_NO_SESSION: Reason
REASON_SESSION_OWNED: Reason
REASON_IDEMPOTENCY_CONFLICT: Reason
REASON_UNKNOWN: Reason
REASON_FORBIDDEN: Reason
REASON_ABANDONED: Reason
REASON_SESSION_BUSY: Reason
REASON_REQUEST_LIMIT: Reason
REASON_SEQ_GAP: Reason
REASON_CHUNKS_MISSING: Reason
REASON_SCHEMA_CHANGED: Reason
REASON_MALFORMED: Reason
REASON_TOO_LARGE: Reason
REASON_UNAUTHENTICATED: Reason
REASON_NOT_LEADER: Reason
REASON_NO_QUORUM: Reason
REASON_QUEUE_FULL: Reason
REASON_RATE_LIMITED: Reason
REASON_DISK_FULL: Reason
REASON_WRONG_CLUSTER: Reason
REASON_WRONG_WORKSPACE: Reason
REASON_HISTORY_CHANGED: Reason
REASON_SHUTTING_DOWN: Reason
REASON_HOLDER_ALIVE: Reason
REASON_INVALID_SIGNATURE: Reason
REASON_DEPS_TOO_LONG: Reason
REASON_SCHEMA: Reason
REASON_RESET_REQUIRED: Reason
REASON_SNAPSHOT_REQUIRED: Reason
REASON_OUTCOME_UNKNOWN: Reason

class Submit(_message.Message):
    __slots__ = ("client_id", "first_seq", "floor", "basis", "workspace_id", "origin", "commands")
    CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    FIRST_SEQ_FIELD_NUMBER: _ClassVar[int]
    FLOOR_FIELD_NUMBER: _ClassVar[int]
    BASIS_FIELD_NUMBER: _ClassVar[int]
    WORKSPACE_ID_FIELD_NUMBER: _ClassVar[int]
    ORIGIN_FIELD_NUMBER: _ClassVar[int]
    COMMANDS_FIELD_NUMBER: _ClassVar[int]
    client_id: bytes
    first_seq: int
    floor: int
    basis: int
    workspace_id: bytes
    origin: _origin_pb2.Origin
    commands: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, client_id: _Optional[bytes] = ..., first_seq: _Optional[int] = ..., floor: _Optional[int] = ..., basis: _Optional[int] = ..., workspace_id: _Optional[bytes] = ..., origin: _Optional[_Union[_origin_pb2.Origin, _Mapping]] = ..., commands: _Optional[_Iterable[bytes]] = ...) -> None: ...

class SubmitBatch(_message.Message):
    __slots__ = ("submits",)
    SUBMITS_FIELD_NUMBER: _ClassVar[int]
    submits: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, submits: _Optional[_Iterable[bytes]] = ...) -> None: ...

class Command(_message.Message):
    __slots__ = ("hub", "file", "chunk_put", "workspace_create", "maintenance", "coordination", "abandon")
    HUB_FIELD_NUMBER: _ClassVar[int]
    FILE_FIELD_NUMBER: _ClassVar[int]
    CHUNK_PUT_FIELD_NUMBER: _ClassVar[int]
    WORKSPACE_CREATE_FIELD_NUMBER: _ClassVar[int]
    MAINTENANCE_FIELD_NUMBER: _ClassVar[int]
    COORDINATION_FIELD_NUMBER: _ClassVar[int]
    ABANDON_FIELD_NUMBER: _ClassVar[int]
    hub: _hub_command_pb2.HubCommand
    file: _workspace_command_pb2.FileCommand
    chunk_put: _workspace_command_pb2.ChunkPut
    workspace_create: _workspace_command_pb2.WorkspaceCreate
    maintenance: MaintenanceCommand
    coordination: _coordination_command_pb2.CoordinationCommand
    abandon: _coordination_command_pb2.Abandon
    def __init__(self, hub: _Optional[_Union[_hub_command_pb2.HubCommand, _Mapping]] = ..., file: _Optional[_Union[_workspace_command_pb2.FileCommand, _Mapping]] = ..., chunk_put: _Optional[_Union[_workspace_command_pb2.ChunkPut, _Mapping]] = ..., workspace_create: _Optional[_Union[_workspace_command_pb2.WorkspaceCreate, _Mapping]] = ..., maintenance: _Optional[_Union[MaintenanceCommand, _Mapping]] = ..., coordination: _Optional[_Union[_coordination_command_pb2.CoordinationCommand, _Mapping]] = ..., abandon: _Optional[_Union[_coordination_command_pb2.Abandon, _Mapping]] = ...) -> None: ...

class MaintenanceCommand(_message.Message):
    __slots__ = ("forget_lane", "raise_versions_floor", "trim_oplog", "lock_steps", "open_lease_changes", "reap", "snapshot_mark", "snapshot_drop", "chunk_collect")
    FORGET_LANE_FIELD_NUMBER: _ClassVar[int]
    RAISE_VERSIONS_FLOOR_FIELD_NUMBER: _ClassVar[int]
    TRIM_OPLOG_FIELD_NUMBER: _ClassVar[int]
    LOCK_STEPS_FIELD_NUMBER: _ClassVar[int]
    OPEN_LEASE_CHANGES_FIELD_NUMBER: _ClassVar[int]
    REAP_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_MARK_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_DROP_FIELD_NUMBER: _ClassVar[int]
    CHUNK_COLLECT_FIELD_NUMBER: _ClassVar[int]
    forget_lane: ForgetLane
    raise_versions_floor: RaiseVersionsFloor
    trim_oplog: TrimOplog
    lock_steps: _coordination_command_pb2.LockSteps
    open_lease_changes: _coordination_command_pb2.OpenLeaseChanges
    reap: _coordination_command_pb2.Reap
    snapshot_mark: _retention_command_pb2.SnapshotMark
    snapshot_drop: _retention_command_pb2.SnapshotDrop
    chunk_collect: _retention_command_pb2.ChunkCollect
    def __init__(self, forget_lane: _Optional[_Union[ForgetLane, _Mapping]] = ..., raise_versions_floor: _Optional[_Union[RaiseVersionsFloor, _Mapping]] = ..., trim_oplog: _Optional[_Union[TrimOplog, _Mapping]] = ..., lock_steps: _Optional[_Union[_coordination_command_pb2.LockSteps, _Mapping]] = ..., open_lease_changes: _Optional[_Union[_coordination_command_pb2.OpenLeaseChanges, _Mapping]] = ..., reap: _Optional[_Union[_coordination_command_pb2.Reap, _Mapping]] = ..., snapshot_mark: _Optional[_Union[_retention_command_pb2.SnapshotMark, _Mapping]] = ..., snapshot_drop: _Optional[_Union[_retention_command_pb2.SnapshotDrop, _Mapping]] = ..., chunk_collect: _Optional[_Union[_retention_command_pb2.ChunkCollect, _Mapping]] = ...) -> None: ...

class ForgetLane(_message.Message):
    __slots__ = ("client_id", "last_seq")
    CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    LAST_SEQ_FIELD_NUMBER: _ClassVar[int]
    client_id: bytes
    last_seq: int
    def __init__(self, client_id: _Optional[bytes] = ..., last_seq: _Optional[int] = ...) -> None: ...

class RaiseVersionsFloor(_message.Message):
    __slots__ = ("floor_index",)
    FLOOR_INDEX_FIELD_NUMBER: _ClassVar[int]
    floor_index: int
    def __init__(self, floor_index: _Optional[int] = ...) -> None: ...

class TrimOplog(_message.Message):
    __slots__ = ("workspace_id", "below_log_index")
    WORKSPACE_ID_FIELD_NUMBER: _ClassVar[int]
    BELOW_LOG_INDEX_FIELD_NUMBER: _ClassVar[int]
    workspace_id: bytes
    below_log_index: int
    def __init__(self, workspace_id: _Optional[bytes] = ..., below_log_index: _Optional[int] = ...) -> None: ...

class Acks(_message.Message):
    __slots__ = ("client_id", "first_seq", "count", "raft_index", "reason", "version", "file", "message", "leader_hint", "retry_after_ms", "term")
    CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    FIRST_SEQ_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    RAFT_INDEX_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    FILE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    LEADER_HINT_FIELD_NUMBER: _ClassVar[int]
    RETRY_AFTER_MS_FIELD_NUMBER: _ClassVar[int]
    TERM_FIELD_NUMBER: _ClassVar[int]
    client_id: bytes
    first_seq: int
    count: int
    raft_index: int
    reason: _containers.RepeatedScalarFieldContainer[int]
    version: _containers.RepeatedScalarFieldContainer[int]
    file: _containers.RepeatedCompositeFieldContainer[_workspace_command_pb2.FileAck]
    message: str
    leader_hint: str
    retry_after_ms: int
    term: int
    def __init__(self, client_id: _Optional[bytes] = ..., first_seq: _Optional[int] = ..., count: _Optional[int] = ..., raft_index: _Optional[int] = ..., reason: _Optional[_Iterable[int]] = ..., version: _Optional[_Iterable[int]] = ..., file: _Optional[_Iterable[_Union[_workspace_command_pb2.FileAck, _Mapping]]] = ..., message: _Optional[str] = ..., leader_hint: _Optional[str] = ..., retry_after_ms: _Optional[int] = ..., term: _Optional[int] = ...) -> None: ...

class AcksBatch(_message.Message):
    __slots__ = ("acks",)
    ACKS_FIELD_NUMBER: _ClassVar[int]
    acks: _containers.RepeatedCompositeFieldContainer[Acks]
    def __init__(self, acks: _Optional[_Iterable[_Union[Acks, _Mapping]]] = ...) -> None: ...
