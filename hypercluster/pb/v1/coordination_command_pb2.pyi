from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class LockKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    LOCK_KIND_UNSPECIFIED: _ClassVar[LockKind]
    LOCK_KIND_SHARED: _ClassVar[LockKind]
    LOCK_KIND_EXCLUSIVE: _ClassVar[LockKind]
    LOCK_KIND_PERMIT: _ClassVar[LockKind]

class LockState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    LOCK_STATE_UNSPECIFIED: _ClassVar[LockState]
    LOCK_STATE_QUEUED: _ClassVar[LockState]
    LOCK_STATE_HELD: _ClassVar[LockState]
    LOCK_STATE_GRACE: _ClassVar[LockState]
    LOCK_STATE_FREE: _ClassVar[LockState]

class HazardKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    HAZARD_KIND_UNSPECIFIED: _ClassVar[HazardKind]
    HAZARD_KIND_OVERLAPPING_WRITE: _ClassVar[HazardKind]
    HAZARD_KIND_CONCURRENT_RENAME: _ClassVar[HazardKind]
    HAZARD_KIND_WRITE_AFTER_UNLINK: _ClassVar[HazardKind]
LOCK_KIND_UNSPECIFIED: LockKind
LOCK_KIND_SHARED: LockKind
LOCK_KIND_EXCLUSIVE: LockKind
LOCK_KIND_PERMIT: LockKind
LOCK_STATE_UNSPECIFIED: LockState
LOCK_STATE_QUEUED: LockState
LOCK_STATE_HELD: LockState
LOCK_STATE_GRACE: LockState
LOCK_STATE_FREE: LockState
HAZARD_KIND_UNSPECIFIED: HazardKind
HAZARD_KIND_OVERLAPPING_WRITE: HazardKind
HAZARD_KIND_CONCURRENT_RENAME: HazardKind
HAZARD_KIND_WRITE_AFTER_UNLINK: HazardKind

class LockTarget(_message.Message):
    __slots__ = ("inode_id", "name")
    INODE_ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    inode_id: bytes
    name: str
    def __init__(self, inode_id: _Optional[bytes] = ..., name: _Optional[str] = ...) -> None: ...

class CoordinationCommand(_message.Message):
    __slots__ = ("lock_acquire", "lock_release", "lock_reclaim", "reserve", "unreserve", "workspace_set")
    LOCK_ACQUIRE_FIELD_NUMBER: _ClassVar[int]
    LOCK_RELEASE_FIELD_NUMBER: _ClassVar[int]
    LOCK_RECLAIM_FIELD_NUMBER: _ClassVar[int]
    RESERVE_FIELD_NUMBER: _ClassVar[int]
    UNRESERVE_FIELD_NUMBER: _ClassVar[int]
    WORKSPACE_SET_FIELD_NUMBER: _ClassVar[int]
    lock_acquire: LockAcquire
    lock_release: LockRelease
    lock_reclaim: LockReclaim
    reserve: Reserve
    unreserve: Unreserve
    workspace_set: WorkspaceSet
    def __init__(self, lock_acquire: _Optional[_Union[LockAcquire, _Mapping]] = ..., lock_release: _Optional[_Union[LockRelease, _Mapping]] = ..., lock_reclaim: _Optional[_Union[LockReclaim, _Mapping]] = ..., reserve: _Optional[_Union[Reserve, _Mapping]] = ..., unreserve: _Optional[_Union[Unreserve, _Mapping]] = ..., workspace_set: _Optional[_Union[WorkspaceSet, _Mapping]] = ...) -> None: ...

class LockAcquire(_message.Message):
    __slots__ = ("target", "kind", "handle_id", "wait", "wait_ms", "one_at_a_time", "permits")
    TARGET_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    HANDLE_ID_FIELD_NUMBER: _ClassVar[int]
    WAIT_FIELD_NUMBER: _ClassVar[int]
    WAIT_MS_FIELD_NUMBER: _ClassVar[int]
    ONE_AT_A_TIME_FIELD_NUMBER: _ClassVar[int]
    PERMITS_FIELD_NUMBER: _ClassVar[int]
    target: LockTarget
    kind: LockKind
    handle_id: int
    wait: bool
    wait_ms: int
    one_at_a_time: bool
    permits: int
    def __init__(self, target: _Optional[_Union[LockTarget, _Mapping]] = ..., kind: _Optional[_Union[LockKind, str]] = ..., handle_id: _Optional[int] = ..., wait: _Optional[bool] = ..., wait_ms: _Optional[int] = ..., one_at_a_time: _Optional[bool] = ..., permits: _Optional[int] = ...) -> None: ...

class LockRelease(_message.Message):
    __slots__ = ("lock_id",)
    LOCK_ID_FIELD_NUMBER: _ClassVar[int]
    lock_id: int
    def __init__(self, lock_id: _Optional[int] = ...) -> None: ...

class LockReclaim(_message.Message):
    __slots__ = ("lock_id", "token", "handle_id")
    LOCK_ID_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    HANDLE_ID_FIELD_NUMBER: _ClassVar[int]
    lock_id: int
    token: int
    handle_id: int
    def __init__(self, lock_id: _Optional[int] = ..., token: _Optional[int] = ..., handle_id: _Optional[int] = ...) -> None: ...

class Reserve(_message.Message):
    __slots__ = ("pattern", "exclusive", "ttl_ms", "reservation_id")
    PATTERN_FIELD_NUMBER: _ClassVar[int]
    EXCLUSIVE_FIELD_NUMBER: _ClassVar[int]
    TTL_MS_FIELD_NUMBER: _ClassVar[int]
    RESERVATION_ID_FIELD_NUMBER: _ClassVar[int]
    pattern: bytes
    exclusive: bool
    ttl_ms: int
    reservation_id: int
    def __init__(self, pattern: _Optional[bytes] = ..., exclusive: _Optional[bool] = ..., ttl_ms: _Optional[int] = ..., reservation_id: _Optional[int] = ...) -> None: ...

class Unreserve(_message.Message):
    __slots__ = ("reservation_id",)
    RESERVATION_ID_FIELD_NUMBER: _ClassVar[int]
    reservation_id: int
    def __init__(self, reservation_id: _Optional[int] = ...) -> None: ...

class WorkspaceSet(_message.Message):
    __slots__ = ("local_patterns", "enforce_reservations", "quota_bytes", "quota_nodes", "snapshot_every_s", "snapshots_kept")
    LOCAL_PATTERNS_FIELD_NUMBER: _ClassVar[int]
    ENFORCE_RESERVATIONS_FIELD_NUMBER: _ClassVar[int]
    QUOTA_BYTES_FIELD_NUMBER: _ClassVar[int]
    QUOTA_NODES_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_EVERY_S_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOTS_KEPT_FIELD_NUMBER: _ClassVar[int]
    local_patterns: bytes
    enforce_reservations: bool
    quota_bytes: int
    quota_nodes: int
    snapshot_every_s: int
    snapshots_kept: int
    def __init__(self, local_patterns: _Optional[bytes] = ..., enforce_reservations: _Optional[bool] = ..., quota_bytes: _Optional[int] = ..., quota_nodes: _Optional[int] = ..., snapshot_every_s: _Optional[int] = ..., snapshots_kept: _Optional[int] = ...) -> None: ...

class Guard(_message.Message):
    __slots__ = ("target", "token", "history_id")
    TARGET_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    HISTORY_ID_FIELD_NUMBER: _ClassVar[int]
    target: LockTarget
    token: int
    history_id: bytes
    def __init__(self, target: _Optional[_Union[LockTarget, _Mapping]] = ..., token: _Optional[int] = ..., history_id: _Optional[bytes] = ...) -> None: ...

class LockAck(_message.Message):
    __slots__ = ("state", "lock_id", "token", "ttl_ms", "grace_ms", "cycle")
    STATE_FIELD_NUMBER: _ClassVar[int]
    LOCK_ID_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    TTL_MS_FIELD_NUMBER: _ClassVar[int]
    GRACE_MS_FIELD_NUMBER: _ClassVar[int]
    CYCLE_FIELD_NUMBER: _ClassVar[int]
    state: LockState
    lock_id: int
    token: int
    ttl_ms: int
    grace_ms: int
    cycle: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, state: _Optional[_Union[LockState, str]] = ..., lock_id: _Optional[int] = ..., token: _Optional[int] = ..., ttl_ms: _Optional[int] = ..., grace_ms: _Optional[int] = ..., cycle: _Optional[_Iterable[int]] = ...) -> None: ...

class Hazard(_message.Message):
    __slots__ = ("kind", "conflicting_log_index")
    KIND_FIELD_NUMBER: _ClassVar[int]
    CONFLICTING_LOG_INDEX_FIELD_NUMBER: _ClassVar[int]
    kind: HazardKind
    conflicting_log_index: int
    def __init__(self, kind: _Optional[_Union[HazardKind, str]] = ..., conflicting_log_index: _Optional[int] = ...) -> None: ...

class Abandon(_message.Message):
    __slots__ = ("client_id", "through_seq", "basis")
    CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    THROUGH_SEQ_FIELD_NUMBER: _ClassVar[int]
    BASIS_FIELD_NUMBER: _ClassVar[int]
    client_id: bytes
    through_seq: int
    basis: int
    def __init__(self, client_id: _Optional[bytes] = ..., through_seq: _Optional[int] = ..., basis: _Optional[int] = ...) -> None: ...

class LockSteps(_message.Message):
    __slots__ = ("workspace_id", "steps")
    WORKSPACE_ID_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    workspace_id: bytes
    steps: _containers.RepeatedCompositeFieldContainer[LockStep]
    def __init__(self, workspace_id: _Optional[bytes] = ..., steps: _Optional[_Iterable[_Union[LockStep, _Mapping]]] = ...) -> None: ...

class LockStep(_message.Message):
    __slots__ = ("lock_id", "token", "from_state", "to_state", "wait_until_ns")
    LOCK_ID_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    FROM_STATE_FIELD_NUMBER: _ClassVar[int]
    TO_STATE_FIELD_NUMBER: _ClassVar[int]
    WAIT_UNTIL_NS_FIELD_NUMBER: _ClassVar[int]
    lock_id: int
    token: int
    from_state: LockState
    to_state: LockState
    wait_until_ns: int
    def __init__(self, lock_id: _Optional[int] = ..., token: _Optional[int] = ..., from_state: _Optional[_Union[LockState, str]] = ..., to_state: _Optional[_Union[LockState, str]] = ..., wait_until_ns: _Optional[int] = ...) -> None: ...

class OpenLeaseChanges(_message.Message):
    __slots__ = ("workspace_id", "opened", "ended")
    WORKSPACE_ID_FIELD_NUMBER: _ClassVar[int]
    OPENED_FIELD_NUMBER: _ClassVar[int]
    ENDED_FIELD_NUMBER: _ClassVar[int]
    workspace_id: bytes
    opened: _containers.RepeatedCompositeFieldContainer[OpenLease]
    ended: _containers.RepeatedCompositeFieldContainer[OpenLease]
    def __init__(self, workspace_id: _Optional[bytes] = ..., opened: _Optional[_Iterable[_Union[OpenLease, _Mapping]]] = ..., ended: _Optional[_Iterable[_Union[OpenLease, _Mapping]]] = ...) -> None: ...

class OpenLease(_message.Message):
    __slots__ = ("inode_id", "worker")
    INODE_ID_FIELD_NUMBER: _ClassVar[int]
    WORKER_FIELD_NUMBER: _ClassVar[int]
    inode_id: bytes
    worker: str
    def __init__(self, inode_id: _Optional[bytes] = ..., worker: _Optional[str] = ...) -> None: ...

class Reap(_message.Message):
    __slots__ = ("workspace_id", "inode_ids")
    WORKSPACE_ID_FIELD_NUMBER: _ClassVar[int]
    INODE_IDS_FIELD_NUMBER: _ClassVar[int]
    workspace_id: bytes
    inode_ids: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, workspace_id: _Optional[bytes] = ..., inode_ids: _Optional[_Iterable[bytes]] = ...) -> None: ...
