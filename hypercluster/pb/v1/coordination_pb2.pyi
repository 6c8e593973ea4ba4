from hypercluster.pb.v1 import coordination_command_pb2 as _coordination_command_pb2
from hypercluster.pb.v1 import read_pb2 as _read_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class LockEventKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    LOCK_EVENT_KIND_UNSPECIFIED: _ClassVar[LockEventKind]
    LOCK_EVENT_KIND_GRANTED: _ClassVar[LockEventKind]
    LOCK_EVENT_KIND_EXPIRING: _ClassVar[LockEventKind]
    LOCK_EVENT_KIND_RENEWED: _ClassVar[LockEventKind]
    LOCK_EVENT_KIND_LOST: _ClassVar[LockEventKind]
    LOCK_EVENT_KIND_WAIT_ENDED: _ClassVar[LockEventKind]
    LOCK_EVENT_KIND_RELEASED: _ClassVar[LockEventKind]
    LOCK_EVENT_KIND_DEADLOCK: _ClassVar[LockEventKind]
    LOCK_EVENT_KIND_QUEUED: _ClassVar[LockEventKind]
LOCK_EVENT_KIND_UNSPECIFIED: LockEventKind
LOCK_EVENT_KIND_GRANTED: LockEventKind
LOCK_EVENT_KIND_EXPIRING: LockEventKind
LOCK_EVENT_KIND_RENEWED: LockEventKind
LOCK_EVENT_KIND_LOST: LockEventKind
LOCK_EVENT_KIND_WAIT_ENDED: LockEventKind
LOCK_EVENT_KIND_RELEASED: LockEventKind
LOCK_EVENT_KIND_DEADLOCK: LockEventKind
LOCK_EVENT_KIND_QUEUED: LockEventKind

class LockRecord(_message.Message):
    __slots__ = ("lock_id", "target", "kind", "state", "token", "client_id", "handle_id", "principal", "worker", "agent", "asked_ns", "granted_ns", "wait_until_ns", "permits", "position", "path")
    LOCK_ID_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    HANDLE_ID_FIELD_NUMBER: _ClassVar[int]
    PRINCIPAL_FIELD_NUMBER: _ClassVar[int]
    WORKER_FIELD_NUMBER: _ClassVar[int]
    AGENT_FIELD_NUMBER: _ClassVar[int]
    ASKED_NS_FIELD_NUMBER: _ClassVar[int]
    GRANTED_NS_FIELD_NUMBER: _ClassVar[int]
    WAIT_UNTIL_NS_FIELD_NUMBER: _ClassVar[int]
    PERMITS_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    lock_id: int
    target: _coordination_command_pb2.LockTarget
    kind: _coordination_command_pb2.LockKind
    state: _coordination_command_pb2.LockState
    token: int
    client_id: bytes
    handle_id: int
    principal: str
    worker: str
    agent: str
    asked_ns: int
    granted_ns: int
    wait_until_ns: int
    permits: int
    position: int
    path: bytes
    def __init__(self, lock_id: _Optional[int] = ..., target: _Optional[_Union[_coordination_command_pb2.LockTarget, _Mapping]] = ..., kind: _Optional[_Union[_coordination_command_pb2.LockKind, str]] = ..., state: _Optional[_Union[_coordination_command_pb2.LockState, str]] = ..., token: _Optional[int] = ..., client_id: _Optional[bytes] = ..., handle_id: _Optional[int] = ..., principal: _Optional[str] = ..., worker: _Optional[str] = ..., agent: _Optional[str] = ..., asked_ns: _Optional[int] = ..., granted_ns: _Optional[int] = ..., wait_until_ns: _Optional[int] = ..., permits: _Optional[int] = ..., position: _Optional[int] = ..., path: _Optional[bytes] = ...) -> None: ...

class LockEvent(_message.Message):
    __slots__ = ("kind", "lock", "cycle")
    KIND_FIELD_NUMBER: _ClassVar[int]
    LOCK_FIELD_NUMBER: _ClassVar[int]
    CYCLE_FIELD_NUMBER: _ClassVar[int]
    kind: LockEventKind
    lock: LockRecord
    cycle: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, kind: _Optional[_Union[LockEventKind, str]] = ..., lock: _Optional[_Union[LockRecord, _Mapping]] = ..., cycle: _Optional[_Iterable[int]] = ...) -> None: ...

class HazardEvent(_message.Message):
    __slots__ = ("hazard", "log_index", "inode_id", "worker", "agent", "other_worker", "other_agent", "path")
    HAZARD_FIELD_NUMBER: _ClassVar[int]
    LOG_INDEX_FIELD_NUMBER: _ClassVar[int]
    INODE_ID_FIELD_NUMBER: _ClassVar[int]
    WORKER_FIELD_NUMBER: _ClassVar[int]
    AGENT_FIELD_NUMBER: _ClassVar[int]
    OTHER_WORKER_FIELD_NUMBER: _ClassVar[int]
    OTHER_AGENT_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    hazard: _coordination_command_pb2.Hazard
    log_index: int
    inode_id: bytes
    worker: str
    agent: str
    other_worker: str
    other_agent: str
    path: bytes
    def __init__(self, hazard: _Optional[_Union[_coordination_command_pb2.Hazard, _Mapping]] = ..., log_index: _Optional[int] = ..., inode_id: _Optional[bytes] = ..., worker: _Optional[str] = ..., agent: _Optional[str] = ..., other_worker: _Optional[str] = ..., other_agent: _Optional[str] = ..., path: _Optional[bytes] = ...) -> None: ...

class CoordinationEvent(_message.Message):
    __slots__ = ("raft_index", "lock", "hazard", "held")
    RAFT_INDEX_FIELD_NUMBER: _ClassVar[int]
    LOCK_FIELD_NUMBER: _ClassVar[int]
    HAZARD_FIELD_NUMBER: _ClassVar[int]
    HELD_FIELD_NUMBER: _ClassVar[int]
    raft_index: int
    lock: LockEvent
    hazard: HazardEvent
    held: LockList
    def __init__(self, raft_index: _Optional[int] = ..., lock: _Optional[_Union[LockEvent, _Mapping]] = ..., hazard: _Optional[_Union[HazardEvent, _Mapping]] = ..., held: _Optional[_Union[LockList, _Mapping]] = ...) -> None: ...

class LockList(_message.Message):
    __slots__ = ("locks", "more")
    LOCKS_FIELD_NUMBER: _ClassVar[int]
    MORE_FIELD_NUMBER: _ClassVar[int]
    locks: _containers.RepeatedCompositeFieldContainer[LockRecord]
    more: bool
    def __init__(self, locks: _Optional[_Iterable[_Union[LockRecord, _Mapping]]] = ..., more: _Optional[bool] = ...) -> None: ...

class WatchEventsRequest(_message.Message):
    __slots__ = ("workspace_id", "client_ids", "everything", "min_index")
    WORKSPACE_ID_FIELD_NUMBER: _ClassVar[int]
    CLIENT_IDS_FIELD_NUMBER: _ClassVar[int]
    EVERYTHING_FIELD_NUMBER: _ClassVar[int]
    MIN_INDEX_FIELD_NUMBER: _ClassVar[int]
    workspace_id: bytes
    client_ids: _containers.RepeatedScalarFieldContainer[bytes]
    everything: bool
    min_index: int
    def __init__(self, workspace_id: _Optional[bytes] = ..., client_ids: _Optional[_Iterable[bytes]] = ..., everything: _Optional[bool] = ..., min_index: _Optional[int] = ...) -> None: ...

class LockRenewal(_message.Message):
    __slots__ = ("lock_id", "token")
    LOCK_ID_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    lock_id: int
    token: int
    def __init__(self, lock_id: _Optional[int] = ..., token: _Optional[int] = ...) -> None: ...

class RenewRequest(_message.Message):
    __slots__ = ("workspace_id", "locks", "open_inodes", "with_opens", "opens_instance")
    WORKSPACE_ID_FIELD_NUMBER: _ClassVar[int]
    LOCKS_FIELD_NUMBER: _ClassVar[int]
    OPEN_INODES_FIELD_NUMBER: _ClassVar[int]
    WITH_OPENS_FIELD_NUMBER: _ClassVar[int]
    OPENS_INSTANCE_FIELD_NUMBER: _ClassVar[int]
    workspace_id: bytes
    locks: _containers.RepeatedCompositeFieldContainer[LockRenewal]
    open_inodes: _containers.RepeatedScalarFieldContainer[bytes]
    with_opens: bool
    opens_instance: bytes
    def __init__(self, workspace_id: _Optional[bytes] = ..., locks: _Optional[_Iterable[_Union[LockRenewal, _Mapping]]] = ..., open_inodes: _Optional[_Iterable[bytes]] = ..., with_opens: _Optional[bool] = ..., opens_instance: _Optional[bytes] = ...) -> None: ...

class RenewedLock(_message.Message):
    __slots__ = ("lock_id", "state", "token")
    LOCK_ID_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    lock_id: int
    state: _coordination_command_pb2.LockState
    token: int
    def __init__(self, lock_id: _Optional[int] = ..., state: _Optional[_Union[_coordination_command_pb2.LockState, str]] = ..., token: _Optional[int] = ...) -> None: ...

class RenewResponse(_message.Message):
    __slots__ = ("state", "locks")
    STATE_FIELD_NUMBER: _ClassVar[int]
    LOCKS_FIELD_NUMBER: _ClassVar[int]
    state: _read_pb2.ReadState
    locks: _containers.RepeatedCompositeFieldContainer[RenewedLock]
    def __init__(self, state: _Optional[_Union[_read_pb2.ReadState, _Mapping]] = ..., locks: _Optional[_Iterable[_Union[RenewedLock, _Mapping]]] = ...) -> None: ...

class LocksRequest(_message.Message):
    __slots__ = ("read", "workspace_id", "target", "after", "limit")
    READ_FIELD_NUMBER: _ClassVar[int]
    WORKSPACE_ID_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    read: _read_pb2.ReadOptions
    workspace_id: bytes
    target: _coordination_command_pb2.LockTarget
    after: int
    limit: int
    def __init__(self, read: _Optional[_Union[_read_pb2.ReadOptions, _Mapping]] = ..., workspace_id: _Optional[bytes] = ..., target: _Optional[_Union[_coordination_command_pb2.LockTarget, _Mapping]] = ..., after: _Optional[int] = ..., limit: _Optional[int] = ...) -> None: ...

class LocksResponse(_message.Message):
    __slots__ = ("state", "locks", "more")
    STATE_FIELD_NUMBER: _ClassVar[int]
    LOCKS_FIELD_NUMBER: _ClassVar[int]
    MORE_FIELD_NUMBER: _ClassVar[int]
    state: _read_pb2.ReadState
    locks: _containers.RepeatedCompositeFieldContainer[LockRecord]
    more: bool
    def __init__(self, state: _Optional[_Union[_read_pb2.ReadState, _Mapping]] = ..., locks: _Optional[_Iterable[_Union[LockRecord, _Mapping]]] = ..., more: _Optional[bool] = ...) -> None: ...

class HazardsRequest(_message.Message):
    __slots__ = ("read", "workspace_id", "limit")
    READ_FIELD_NUMBER: _ClassVar[int]
    WORKSPACE_ID_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    read: _read_pb2.ReadOptions
    workspace_id: bytes
    limit: int
    def __init__(self, read: _Optional[_Union[_read_pb2.ReadOptions, _Mapping]] = ..., workspace_id: _Optional[bytes] = ..., limit: _Optional[int] = ...) -> None: ...

class HazardsResponse(_message.Message):
    __slots__ = ("state", "hazards")
    STATE_FIELD_NUMBER: _ClassVar[int]
    HAZARDS_FIELD_NUMBER: _ClassVar[int]
    state: _read_pb2.ReadState
    hazards: _containers.RepeatedCompositeFieldContainer[HazardEvent]
    def __init__(self, state: _Optional[_Union[_read_pb2.ReadState, _Mapping]] = ..., hazards: _Optional[_Iterable[_Union[HazardEvent, _Mapping]]] = ...) -> None: ...

class ReservationRecord(_message.Message):
    __slots__ = ("reservation_id", "pattern", "exclusive", "expires_ns", "worker", "agent", "client_id")
    RESERVATION_ID_FIELD_NUMBER: _ClassVar[int]
    PATTERN_FIELD_NUMBER: _ClassVar[int]
    EXCLUSIVE_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_NS_FIELD_NUMBER: _ClassVar[int]
    WORKER_FIELD_NUMBER: _ClassVar[int]
    AGENT_FIELD_NUMBER: _ClassVar[int]
    CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    reservation_id: int
    pattern: bytes
    exclusive: bool
    expires_ns: int
    worker: str
    agent: str
    client_id: bytes
    def __init__(self, reservation_id: _Optional[int] = ..., pattern: _Optional[bytes] = ..., exclusive: _Optional[bool] = ..., expires_ns: _Optional[int] = ..., worker: _Optional[str] = ..., agent: _Optional[str] = ..., client_id: _Optional[bytes] = ...) -> None: ...

class ReservationsRequest(_message.Message):
    __slots__ = ("read", "workspace_id")
    READ_FIELD_NUMBER: _ClassVar[int]
    WORKSPACE_ID_FIELD_NUMBER: _ClassVar[int]
    read: _read_pb2.ReadOptions
    workspace_id: bytes
    def __init__(self, read: _Optional[_Union[_read_pb2.ReadOptions, _Mapping]] = ..., workspace_id: _Optional[bytes] = ...) -> None: ...

class ReservationsResponse(_message.Message):
    __slots__ = ("state", "reservations")
    STATE_FIELD_NUMBER: _ClassVar[int]
    RESERVATIONS_FIELD_NUMBER: _ClassVar[int]
    state: _read_pb2.ReadState
    reservations: _containers.RepeatedCompositeFieldContainer[ReservationRecord]
    def __init__(self, state: _Optional[_Union[_read_pb2.ReadState, _Mapping]] = ..., reservations: _Optional[_Iterable[_Union[ReservationRecord, _Mapping]]] = ...) -> None: ...

class WorkspaceSettingsRequest(_message.Message):
    __slots__ = ("read", "workspace_id")
    READ_FIELD_NUMBER: _ClassVar[int]
    WORKSPACE_ID_FIELD_NUMBER: _ClassVar[int]
    read: _read_pb2.ReadOptions
    workspace_id: bytes
    def __init__(self, read: _Optional[_Union[_read_pb2.ReadOptions, _Mapping]] = ..., workspace_id: _Optional[bytes] = ...) -> None: ...

class WorkspaceSettingsResponse(_message.Message):
    __slots__ = ("state", "settings")
    STATE_FIELD_NUMBER: _ClassVar[int]
    SETTINGS_FIELD_NUMBER: _ClassVar[int]
    state: _read_pb2.ReadState
    settings: _coordination_command_pb2.WorkspaceSet
    def __init__(self, state: _Optional[_Union[_read_pb2.ReadState, _Mapping]] = ..., settings: _Optional[_Union[_coordination_command_pb2.WorkspaceSet, _Mapping]] = ...) -> None: ...
