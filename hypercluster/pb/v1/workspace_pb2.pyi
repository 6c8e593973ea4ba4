from hypercluster.pb.v1 import command_pb2 as _command_pb2
from hypercluster.pb.v1 import read_pb2 as _read_pb2
from hypercluster.pb.v1 import snapshot_pb2 as _snapshot_pb2
from hypercluster.pb.v1 import workspace_command_pb2 as _workspace_command_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class FileKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FILE_KIND_UNSPECIFIED: _ClassVar[FileKind]
    FILE_KIND_FILE: _ClassVar[FileKind]
    FILE_KIND_DIRECTORY: _ClassVar[FileKind]
    FILE_KIND_SYMLINK: _ClassVar[FileKind]

class IntentState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    INTENT_STATE_NOT_FOUND: _ClassVar[IntentState]
    INTENT_STATE_COMMITTED: _ClassVar[IntentState]
    INTENT_STATE_IN_FLIGHT: _ClassVar[IntentState]
    INTENT_STATE_FORGOTTEN: _ClassVar[IntentState]
FILE_KIND_UNSPECIFIED: FileKind
FILE_KIND_FILE: FileKind
FILE_KIND_DIRECTORY: FileKind
FILE_KIND_SYMLINK: FileKind
INTENT_STATE_NOT_FOUND: IntentState
INTENT_STATE_COMMITTED: IntentState
INTENT_STATE_IN_FLIGHT: IntentState
INTENT_STATE_FORGOTTEN: IntentState

class WorkspaceListRequest(_message.Message):
    __slots__ = ("read",)
    READ_FIELD_NUMBER: _ClassVar[int]
    read: _read_pb2.ReadOptions
    def __init__(self, read: _Optional[_Union[_read_pb2.ReadOptions, _Mapping]] = ...) -> None: ...

class WorkspaceSummary(_message.Message):
    __slots__ = ("workspace_id", "name", "log_index", "root", "inode_count", "bytes_total", "raft_index", "op_count")
    WORKSPACE_ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    LOG_INDEX_FIELD_NUMBER: _ClassVar[int]
    ROOT_FIELD_NUMBER: _ClassVar[int]
    INODE_COUNT_FIELD_NUMBER: _ClassVar[int]
    BYTES_TOTAL_FIELD_NUMBER: _ClassVar[int]
    RAFT_INDEX_FIELD_NUMBER: _ClassVar[int]
    OP_COUNT_FIELD_NUMBER: _ClassVar[int]
    workspace_id: bytes
    name: str
    log_index: int
    root: bytes
    inode_count: int
    bytes_total: int
    raft_index: int
    op_count: int
    def __init__(self, workspace_id: _Optional[bytes] = ..., name: _Optional[str] = ..., log_index: _Optional[int] = ..., root: _Optional[bytes] = ..., inode_count: _Optional[int] = ..., bytes_total: _Optional[int] = ..., raft_index: _Optional[int] = ..., op_count: _Optional[int] = ...) -> None: ...

class WorkspaceListResponse(_message.Message):
    __slots__ = ("state", "workspaces")
    STATE_FIELD_NUMBER: _ClassVar[int]
    WORKSPACES_FIELD_NUMBER: _ClassVar[int]
    state: _read_pb2.ReadState
    workspaces: _containers.RepeatedCompositeFieldContainer[WorkspaceSummary]
    def __init__(self, state: _Optional[_Union[_read_pb2.ReadState, _Mapping]] = ..., workspaces: _Optional[_Iterable[_Union[WorkspaceSummary, _Mapping]]] = ...) -> None: ...

class BarrierRequest(_message.Message):
    __slots__ = ("read", "workspace_id")
    READ_FIELD_NUMBER: _ClassVar[int]
    WORKSPACE_ID_FIELD_NUMBER: _ClassVar[int]
    read: _read_pb2.ReadOptions
    workspace_id: bytes
    def __init__(self, read: _Optional[_Union[_read_pb2.ReadOptions, _Mapping]] = ..., workspace_id: _Optional[bytes] = ...) -> None: ...

class BarrierResponse(_message.Message):
    __slots__ = ("state", "workspace")
    STATE_FIELD_NUMBER: _ClassVar[int]
    WORKSPACE_FIELD_NUMBER: _ClassVar[int]
    state: _read_pb2.ReadState
    workspace: WorkspaceSummary
    def __init__(self, state: _Optional[_Union[_read_pb2.ReadState, _Mapping]] = ..., workspace: _Optional[_Union[WorkspaceSummary, _Mapping]] = ...) -> None: ...

class Inode(_message.Message):
    __slots__ = ("inode_id", "inode_no", "kind", "mode", "uid", "gid", "size", "nlink", "mtime_ns", "ctime_ns", "symlink_target", "content_index", "metadata_index", "xattrs")
    INODE_ID_FIELD_NUMBER: _ClassVar[int]
    INODE_NO_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    UID_FIELD_NUMBER: _ClassVar[int]
    GID_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    NLINK_FIELD_NUMBER: _ClassVar[int]
    MTIME_NS_FIELD_NUMBER: _ClassVar[int]
    CTIME_NS_FIELD_NUMBER: _ClassVar[int]
    SYMLINK_TARGET_FIELD_NUMBER: _ClassVar[int]
    CONTENT_INDEX_FIELD_NUMBER: _ClassVar[int]
    METADATA_INDEX_FIELD_NUMBER: _ClassVar[int]
    XATTRS_FIELD_NUMBER: _ClassVar[int]
    inode_id: bytes
    inode_no: int
    kind: FileKind
    mode: int
    uid: int
    gid: int
    size: int
    nlink: int
    mtime_ns: int
    ctime_ns: int
    symlink_target: bytes
    content_index: int
    metadata_index: int
    xattrs: _containers.RepeatedCompositeFieldContainer[Xattr]
    def __init__(self, inode_id: _Optional[bytes] = ..., inode_no: _Optional[int] = ..., kind: _Optional[_Union[FileKind, str]] = ..., mode: _Optional[int] = ..., uid: _Optional[int] = ..., gid: _Optional[int] = ..., size: _Optional[int] = ..., nlink: _Optional[int] = ..., mtime_ns: _Optional[int] = ..., ctime_ns: _Optional[int] = ..., symlink_target: _Optional[bytes] = ..., content_index: _Optional[int] = ..., metadata_index: _Optional[int] = ..., xattrs: _Optional[_Iterable[_Union[Xattr, _Mapping]]] = ...) -> None: ...

class Xattr(_message.Message):
    __slots__ = ("name", "value")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    name: bytes
    value: bytes
    def __init__(self, name: _Optional[bytes] = ..., value: _Optional[bytes] = ...) -> None: ...

class StatRequest(_message.Message):
    __slots__ = ("read", "workspace_id", "inode_id", "path", "with_xattrs")
    READ_FIELD_NUMBER: _ClassVar[int]
    WORKSPACE_ID_FIELD_NUMBER: _ClassVar[int]
    INODE_ID_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    WITH_XATTRS_FIELD_NUMBER: _ClassVar[int]
    read: _read_pb2.ReadOptions
    workspace_id: bytes
    inode_id: bytes
    path: bytes
    with_xattrs: bool
    def __init__(self, read: _Optional[_Union[_read_pb2.ReadOptions, _Mapping]] = ..., workspace_id: _Optional[bytes] = ..., inode_id: _Optional[bytes] = ..., path: _Optional[bytes] = ..., with_xattrs: _Optional[bool] = ...) -> None: ...

class StatResponse(_message.Message):
    __slots__ = ("state", "inode", "errno")
    STATE_FIELD_NUMBER: _ClassVar[int]
    INODE_FIELD_NUMBER: _ClassVar[int]
    ERRNO_FIELD_NUMBER: _ClassVar[int]
    state: _read_pb2.ReadState
    inode: Inode
    errno: int
    def __init__(self, state: _Optional[_Union[_read_pb2.ReadState, _Mapping]] = ..., inode: _Optional[_Union[Inode, _Mapping]] = ..., errno: _Optional[int] = ...) -> None: ...

class ReadDirRequest(_message.Message):
    __slots__ = ("read", "workspace_id", "directory", "after", "limit")
    READ_FIELD_NUMBER: _ClassVar[int]
    WORKSPACE_ID_FIELD_NUMBER: _ClassVar[int]
    DIRECTORY_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    read: _read_pb2.ReadOptions
    workspace_id: bytes
    directory: bytes
    after: bytes
    limit: int
    def __init__(self, read: _Optional[_Union[_read_pb2.ReadOptions, _Mapping]] = ..., workspace_id: _Optional[bytes] = ..., directory: _Optional[bytes] = ..., after: _Optional[bytes] = ..., limit: _Optional[int] = ...) -> None: ...

class DirectoryEntry(_message.Message):
    __slots__ = ("name", "inode")
    NAME_FIELD_NUMBER: _ClassVar[int]
    INODE_FIELD_NUMBER: _ClassVar[int]
    name: bytes
    inode: Inode
    def __init__(self, name: _Optional[bytes] = ..., inode: _Optional[_Union[Inode, _Mapping]] = ...) -> None: ...

class ReadDirResponse(_message.Message):
    __slots__ = ("state", "entries", "more", "errno")
    STATE_FIELD_NUMBER: _ClassVar[int]
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    MORE_FIELD_NUMBER: _ClassVar[int]
    ERRNO_FIELD_NUMBER: _ClassVar[int]
    state: _read_pb2.ReadState
    entries: _containers.RepeatedCompositeFieldContainer[DirectoryEntry]
    more: bool
    errno: int
    def __init__(self, state: _Optional[_Union[_read_pb2.ReadState, _Mapping]] = ..., entries: _Optional[_Iterable[_Union[DirectoryEntry, _Mapping]]] = ..., more: _Optional[bool] = ..., errno: _Optional[int] = ...) -> None: ...

class Extent(_message.Message):
    __slots__ = ("offset", "length", "chunk_hash", "chunk_offset")
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    LENGTH_FIELD_NUMBER: _ClassVar[int]
    CHUNK_HASH_FIELD_NUMBER: _ClassVar[int]
    CHUNK_OFFSET_FIELD_NUMBER: _ClassVar[int]
    offset: int
    length: int
    chunk_hash: bytes
    chunk_offset: int
    def __init__(self, offset: _Optional[int] = ..., length: _Optional[int] = ..., chunk_hash: _Optional[bytes] = ..., chunk_offset: _Optional[int] = ...) -> None: ...

class ExtentsRequest(_message.Message):
    __slots__ = ("read", "workspace_id", "inode_id", "from_offset", "limit")
    READ_FIELD_NUMBER: _ClassVar[int]
    WORKSPACE_ID_FIELD_NUMBER: _ClassVar[int]
    INODE_ID_FIELD_NUMBER: _ClassVar[int]
    FROM_OFFSET_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    read: _read_pb2.ReadOptions
    workspace_id: bytes
    inode_id: bytes
    from_offset: int
    limit: int
    def __init__(self, read: _Optional[_Union[_read_pb2.ReadOptions, _Mapping]] = ..., workspace_id: _Optional[bytes] = ..., inode_id: _Optional[bytes] = ..., from_offset: _Optional[int] = ..., limit: _Optional[int] = ...) -> None: ...

class ExtentsResponse(_message.Message):
    __slots__ = ("state", "extents", "size", "more", "errno")
    STATE_FIELD_NUMBER: _ClassVar[int]
    EXTENTS_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    MORE_FIELD_NUMBER: _ClassVar[int]
    ERRNO_FIELD_NUMBER: _ClassVar[int]
    state: _read_pb2.ReadState
    extents: _containers.RepeatedCompositeFieldContainer[Extent]
    size: int
    more: bool
    errno: int
    def __init__(self, state: _Optional[_Union[_read_pb2.ReadState, _Mapping]] = ..., extents: _Optional[_Iterable[_Union[Extent, _Mapping]]] = ..., size: _Optional[int] = ..., more: _Optional[bool] = ..., errno: _Optional[int] = ...) -> None: ...

class ChunkNeedRequest(_message.Message):
    __slots__ = ("workspace_id", "hashes")
    WORKSPACE_ID_FIELD_NUMBER: _ClassVar[int]
    HASHES_FIELD_NUMBER: _ClassVar[int]
    workspace_id: bytes
    hashes: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, workspace_id: _Optional[bytes] = ..., hashes: _Optional[_Iterable[bytes]] = ...) -> None: ...

class ChunkNeedResponse(_message.Message):
    __slots__ = ("state", "missing")
    STATE_FIELD_NUMBER: _ClassVar[int]
    MISSING_FIELD_NUMBER: _ClassVar[int]
    state: _read_pb2.ReadState
    missing: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, state: _Optional[_Union[_read_pb2.ReadState, _Mapping]] = ..., missing: _Optional[_Iterable[bytes]] = ...) -> None: ...

class FetchChunksRequest(_message.Message):
    __slots__ = ("workspace_id", "hashes")
    WORKSPACE_ID_FIELD_NUMBER: _ClassVar[int]
    HASHES_FIELD_NUMBER: _ClassVar[int]
    workspace_id: bytes
    hashes: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, workspace_id: _Optional[bytes] = ..., hashes: _Optional[_Iterable[bytes]] = ...) -> None: ...

class ChunkContent(_message.Message):
    __slots__ = ("hash", "content", "absent")
    HASH_FIELD_NUMBER: _ClassVar[int]
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    ABSENT_FIELD_NUMBER: _ClassVar[int]
    hash: bytes
    content: bytes
    absent: bool
    def __init__(self, hash: _Optional[bytes] = ..., content: _Optional[bytes] = ..., absent: _Optional[bool] = ...) -> None: ...

class WatchLogRequest(_message.Message):
    __slots__ = ("workspace_id", "from_index", "history_id", "as_kept")
    WORKSPACE_ID_FIELD_NUMBER: _ClassVar[int]
    FROM_INDEX_FIELD_NUMBER: _ClassVar[int]
    HISTORY_ID_FIELD_NUMBER: _ClassVar[int]
    AS_KEPT_FIELD_NUMBER: _ClassVar[int]
    workspace_id: bytes
    from_index: int
    history_id: bytes
    as_kept: bool
    def __init__(self, workspace_id: _Optional[bytes] = ..., from_index: _Optional[int] = ..., history_id: _Optional[bytes] = ..., as_kept: _Optional[bool] = ...) -> None: ...

class WatchLogResponse(_message.Message):
    __slots__ = ("slice", "snapshot_needed", "caught_up")
    SLICE_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_NEEDED_FIELD_NUMBER: _ClassVar[int]
    CAUGHT_UP_FIELD_NUMBER: _ClassVar[int]
    slice: LogSlice
    snapshot_needed: SnapshotNeeded
    caught_up: CaughtUp
    def __init__(self, slice: _Optional[_Union[LogSlice, _Mapping]] = ..., snapshot_needed: _Optional[_Union[SnapshotNeeded, _Mapping]] = ..., caught_up: _Optional[_Union[CaughtUp, _Mapping]] = ...) -> None: ...

class LogSlice(_message.Message):
    __slots__ = ("batches", "first_index", "last_index")
    BATCHES_FIELD_NUMBER: _ClassVar[int]
    FIRST_INDEX_FIELD_NUMBER: _ClassVar[int]
    LAST_INDEX_FIELD_NUMBER: _ClassVar[int]
    batches: _containers.RepeatedScalarFieldContainer[bytes]
    first_index: int
    last_index: int
    def __init__(self, batches: _Optional[_Iterable[bytes]] = ..., first_index: _Optional[int] = ..., last_index: _Optional[int] = ...) -> None: ...

class SnapshotNeeded(_message.Message):
    __slots__ = ("retained_from",)
    RETAINED_FROM_FIELD_NUMBER: _ClassVar[int]
    retained_from: int
    def __init__(self, retained_from: _Optional[int] = ...) -> None: ...

class CaughtUp(_message.Message):
    __slots__ = ("log_index", "root")
    LOG_INDEX_FIELD_NUMBER: _ClassVar[int]
    ROOT_FIELD_NUMBER: _ClassVar[int]
    log_index: int
    root: bytes
    def __init__(self, log_index: _Optional[int] = ..., root: _Optional[bytes] = ...) -> None: ...

class TreeSnapshotRequest(_message.Message):
    __slots__ = ("workspace_id", "log_index", "from_page", "live")
    WORKSPACE_ID_FIELD_NUMBER: _ClassVar[int]
    LOG_INDEX_FIELD_NUMBER: _ClassVar[int]
    FROM_PAGE_FIELD_NUMBER: _ClassVar[int]
    LIVE_FIELD_NUMBER: _ClassVar[int]
    workspace_id: bytes
    log_index: int
    from_page: int
    live: bool
    def __init__(self, workspace_id: _Optional[bytes] = ..., log_index: _Optional[int] = ..., from_page: _Optional[int] = ..., live: _Optional[bool] = ...) -> None: ...

class TreeSnapshotPiece(_message.Message):
    __slots__ = ("log_index", "root", "records", "last", "history_id", "next_page", "manifest")
    LOG_INDEX_FIELD_NUMBER: _ClassVar[int]
    ROOT_FIELD_NUMBER: _ClassVar[int]
    RECORDS_FIELD_NUMBER: _ClassVar[int]
    LAST_FIELD_NUMBER: _ClassVar[int]
    HISTORY_ID_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_FIELD_NUMBER: _ClassVar[int]
    MANIFEST_FIELD_NUMBER: _ClassVar[int]
    log_index: int
    root: bytes
    records: _containers.RepeatedCompositeFieldContainer[TreeRecord]
    last: bool
    history_id: bytes
    next_page: int
    manifest: _snapshot_pb2.SignedManifest
    def __init__(self, log_index: _Optional[int] = ..., root: _Optional[bytes] = ..., records: _Optional[_Iterable[_Union[TreeRecord, _Mapping]]] = ..., last: _Optional[bool] = ..., history_id: _Optional[bytes] = ..., next_page: _Optional[int] = ..., manifest: _Optional[_Union[_snapshot_pb2.SignedManifest, _Mapping]] = ...) -> None: ...

class TreeRecord(_message.Message):
    __slots__ = ("family", "key", "value")
    FAMILY_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    family: int
    key: bytes
    value: bytes
    def __init__(self, family: _Optional[int] = ..., key: _Optional[bytes] = ..., value: _Optional[bytes] = ...) -> None: ...

class IntentStatusRequest(_message.Message):
    __slots__ = ("client_id", "client_seq")
    CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    CLIENT_SEQ_FIELD_NUMBER: _ClassVar[int]
    client_id: bytes
    client_seq: int
    def __init__(self, client_id: _Optional[bytes] = ..., client_seq: _Optional[int] = ...) -> None: ...

class IntentStatusResponse(_message.Message):
    __slots__ = ("state", "intent", "raft_index", "reason", "version", "file")
    STATE_FIELD_NUMBER: _ClassVar[int]
    INTENT_FIELD_NUMBER: _ClassVar[int]
    RAFT_INDEX_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    FILE_FIELD_NUMBER: _ClassVar[int]
    state: _read_pb2.ReadState
    intent: IntentState
    raft_index: int
    reason: _command_pb2.Reason
    version: int
    file: _workspace_command_pb2.FileAck
    def __init__(self, state: _Optional[_Union[_read_pb2.ReadState, _Mapping]] = ..., intent: _Optional[_Union[IntentState, str]] = ..., raft_index: _Optional[int] = ..., reason: _Optional[_Union[_command_pb2.Reason, str]] = ..., version: _Optional[int] = ..., file: _Optional[_Union[_workspace_command_pb2.FileAck, _Mapping]] = ...) -> None: ...

class ProofRequest(_message.Message):
    __slots__ = ("read", "workspace_id", "path", "log_index")
    READ_FIELD_NUMBER: _ClassVar[int]
    WORKSPACE_ID_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    LOG_INDEX_FIELD_NUMBER: _ClassVar[int]
    read: _read_pb2.ReadOptions
    workspace_id: bytes
    path: bytes
    log_index: int
    def __init__(self, read: _Optional[_Union[_read_pb2.ReadOptions, _Mapping]] = ..., workspace_id: _Optional[bytes] = ..., path: _Optional[bytes] = ..., log_index: _Optional[int] = ...) -> None: ...

class ProofInner(_message.Message):
    __slots__ = ("size", "hashes")
    SIZE_FIELD_NUMBER: _ClassVar[int]
    HASHES_FIELD_NUMBER: _ClassVar[int]
    size: int
    hashes: bytes
    def __init__(self, size: _Optional[int] = ..., hashes: _Optional[bytes] = ...) -> None: ...

class ProofLeaf(_message.Message):
    __slots__ = ("text", "inners", "bucket")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    INNERS_FIELD_NUMBER: _ClassVar[int]
    BUCKET_FIELD_NUMBER: _ClassVar[int]
    text: bytes
    inners: _containers.RepeatedCompositeFieldContainer[ProofInner]
    bucket: bytes
    def __init__(self, text: _Optional[bytes] = ..., inners: _Optional[_Iterable[_Union[ProofInner, _Mapping]]] = ..., bucket: _Optional[bytes] = ...) -> None: ...

class ProofResponse(_message.Message):
    __slots__ = ("state", "log_index", "root", "entries", "inode", "errno")
    STATE_FIELD_NUMBER: _ClassVar[int]
    LOG_INDEX_FIELD_NUMBER: _ClassVar[int]
    ROOT_FIELD_NUMBER: _ClassVar[int]
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    INODE_FIELD_NUMBER: _ClassVar[int]
    ERRNO_FIELD_NUMBER: _ClassVar[int]
    state: _read_pb2.ReadState
    log_index: int
    root: bytes
    entries: _containers.RepeatedCompositeFieldContainer[ProofLeaf]
    inode: ProofLeaf
    errno: int
    def __init__(self, state: _Optional[_Union[_read_pb2.ReadState, _Mapping]] = ..., log_index: _Optional[int] = ..., root: _Optional[bytes] = ..., entries: _Optional[_Iterable[_Union[ProofLeaf, _Mapping]]] = ..., inode: _Optional[_Union[ProofLeaf, _Mapping]] = ..., errno: _Optional[int] = ...) -> None: ...

class WorkerMessage(_message.Message):
    __slots__ = ("hello", "applied")
    HELLO_FIELD_NUMBER: _ClassVar[int]
    APPLIED_FIELD_NUMBER: _ClassVar[int]
    hello: WorkerHello
    applied: WorkerApplied
    def __init__(self, hello: _Optional[_Union[WorkerHello, _Mapping]] = ..., applied: _Optional[_Union[WorkerApplied, _Mapping]] = ...) -> None: ...

class WorkerHello(_message.Message):
    __slots__ = ("protocol", "workspace_id", "worker", "mount_instance", "term_seen", "applied_index", "history_id", "features")
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    WORKSPACE_ID_FIELD_NUMBER: _ClassVar[int]
    WORKER_FIELD_NUMBER: _ClassVar[int]
    MOUNT_INSTANCE_FIELD_NUMBER: _ClassVar[int]
    TERM_SEEN_FIELD_NUMBER: _ClassVar[int]
    APPLIED_INDEX_FIELD_NUMBER: _ClassVar[int]
    HISTORY_ID_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    protocol: str
    workspace_id: bytes
    worker: str
    mount_instance: bytes
    term_seen: int
    applied_index: int
    history_id: bytes
    features: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, protocol: _Optional[str] = ..., workspace_id: _Optional[bytes] = ..., worker: _Optional[str] = ..., mount_instance: _Optional[bytes] = ..., term_seen: _Optional[int] = ..., applied_index: _Optional[int] = ..., history_id: _Optional[bytes] = ..., features: _Optional[_Iterable[str]] = ...) -> None: ...

class WorkerApplied(_message.Message):
    __slots__ = ("applied_index", "read_only", "missing_chunks", "error_log_index", "error_errno", "error_message", "root", "workspace_id", "pressure")
    APPLIED_INDEX_FIELD_NUMBER: _ClassVar[int]
    READ_ONLY_FIELD_NUMBER: _ClassVar[int]
    MISSING_CHUNKS_FIELD_NUMBER: _ClassVar[int]
    ERROR_LOG_INDEX_FIELD_NUMBER: _ClassVar[int]
    ERROR_ERRNO_FIELD_NUMBER: _ClassVar[int]
    ERROR_MESSAGE_FIELD_NUMBER: _ClassVar[int]
    ROOT_FIELD_NUMBER: _ClassVar[int]
    WORKSPACE_ID_FIELD_NUMBER: _ClassVar[int]
    PRESSURE_FIELD_NUMBER: _ClassVar[int]
    applied_index: int
    read_only: bool
    missing_chunks: int
    error_log_index: int
    error_errno: int
    error_message: str
    root: bytes
    workspace_id: bytes
    pressure: Pressure
    def __init__(self, applied_index: _Optional[int] = ..., read_only: _Optional[bool] = ..., missing_chunks: _Optional[int] = ..., error_log_index: _Optional[int] = ..., error_errno: _Optional[int] = ..., error_message: _Optional[str] = ..., root: _Optional[bytes] = ..., workspace_id: _Optional[bytes] = ..., pressure: _Optional[_Union[Pressure, _Mapping]] = ...) -> None: ...

class Pressure(_message.Message):
    __slots__ = ("cpu_permille", "memory_permille", "disk_free_bytes", "disk_total_bytes")
    CPU_PERMILLE_FIELD_NUMBER: _ClassVar[int]
    MEMORY_PERMILLE_FIELD_NUMBER: _ClassVar[int]
    DISK_FREE_BYTES_FIELD_NUMBER: _ClassVar[int]
    DISK_TOTAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    cpu_permille: int
    memory_permille: int
    disk_free_bytes: int
    disk_total_bytes: int
    def __init__(self, cpu_permille: _Optional[int] = ..., memory_permille: _Optional[int] = ..., disk_free_bytes: _Optional[int] = ..., disk_total_bytes: _Optional[int] = ...) -> None: ...

class ClusterMessage(_message.Message):
    __slots__ = ("welcome", "heartbeat")
    WELCOME_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_FIELD_NUMBER: _ClassVar[int]
    welcome: WorkerWelcome
    heartbeat: Heartbeat
    def __init__(self, welcome: _Optional[_Union[WorkerWelcome, _Mapping]] = ..., heartbeat: _Optional[_Union[Heartbeat, _Mapping]] = ...) -> None: ...

class WorkerWelcome(_message.Message):
    __slots__ = ("term", "log_index", "history_id", "cluster_id", "heartbeat_ms", "in_flight_max", "commit_index", "limits", "features")
    TERM_FIELD_NUMBER: _ClassVar[int]
    LOG_INDEX_FIELD_NUMBER: _ClassVar[int]
    HISTORY_ID_FIELD_NUMBER: _ClassVar[int]
    CLUSTER_ID_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_MS_FIELD_NUMBER: _ClassVar[int]
    IN_FLIGHT_MAX_FIELD_NUMBER: _ClassVar[int]
    COMMIT_INDEX_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    term: int
    log_index: int
    history_id: bytes
    cluster_id: bytes
    heartbeat_ms: int
    in_flight_max: int
    commit_index: int
    limits: NegotiatedLimits
    features: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, term: _Optional[int] = ..., log_index: _Optional[int] = ..., history_id: _Optional[bytes] = ..., cluster_id: _Optional[bytes] = ..., heartbeat_ms: _Optional[int] = ..., in_flight_max: _Optional[int] = ..., commit_index: _Optional[int] = ..., limits: _Optional[_Union[NegotiatedLimits, _Mapping]] = ..., features: _Optional[_Iterable[str]] = ...) -> None: ...

class NegotiatedLimits(_message.Message):
    __slots__ = ("chunk_bytes_max", "inline_bytes_max", "write_bytes_max", "command_bytes_max", "submit_commands_max", "message_bytes_max", "batch_window_ms", "batch_ops_max", "batch_bytes_max", "stream_in_flight_max", "rate_ops_per_s", "rate_bytes_per_s", "rate_burst_ops", "hazard_window_ops", "lock_ttl_ms", "lock_grace_ms", "open_report_after_ms", "open_lease_ttl_ms")
    CHUNK_BYTES_MAX_FIELD_NUMBER: _ClassVar[int]
    INLINE_BYTES_MAX_FIELD_NUMBER: _ClassVar[int]
    WRITE_BYTES_MAX_FIELD_NUMBER: _ClassVar[int]
    COMMAND_BYTES_MAX_FIELD_NUMBER: _ClassVar[int]
    SUBMIT_COMMANDS_MAX_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_BYTES_MAX_FIELD_NUMBER: _ClassVar[int]
    BATCH_WINDOW_MS_FIELD_NUMBER: _ClassVar[int]
    BATCH_OPS_MAX_FIELD_NUMBER: _ClassVar[int]
    BATCH_BYTES_MAX_FIELD_NUMBER: _ClassVar[int]
    STREAM_IN_FLIGHT_MAX_FIELD_NUMBER: _ClassVar[int]
    RATE_OPS_PER_S_FIELD_NUMBER: _ClassVar[int]
    RATE_BYTES_PER_S_FIELD_NUMBER: _ClassVar[int]
    RATE_BURST_OPS_FIELD_NUMBER: _ClassVar[int]
    HAZARD_WINDOW_OPS_FIELD_NUMBER: _ClassVar[int]
    LOCK_TTL_MS_FIELD_NUMBER: _ClassVar[int]
    LOCK_GRACE_MS_FIELD_NUMBER: _ClassVar[int]
    OPEN_REPORT_AFTER_MS_FIELD_NUMBER: _ClassVar[int]
    OPEN_LEASE_TTL_MS_FIELD_NUMBER: _ClassVar[int]
    chunk_bytes_max: int
    inline_bytes_max: int
    write_bytes_max: int
    command_bytes_max: int
    submit_commands_max: int
    message_bytes_max: int
    batch_window_ms: int
    batch_ops_max: int
    batch_bytes_max: int
    stream_in_flight_max: int
    rate_ops_per_s: int
    rate_bytes_per_s: int
    rate_burst_ops: int
    hazard_window_ops: int
    lock_ttl_ms: int
    lock_grace_ms: int
    open_report_after_ms: int
    open_lease_ttl_ms: int
    def __init__(self, chunk_bytes_max: _Optional[int] = ..., inline_bytes_max: _Optional[int] = ..., write_bytes_max: _Optional[int] = ..., command_bytes_max: _Optional[int] = ..., submit_commands_max: _Optional[int] = ..., message_bytes_max: _Optional[int] = ..., batch_window_ms: _Optional[int] = ..., batch_ops_max: _Optional[int] = ..., batch_bytes_max: _Optional[int] = ..., stream_in_flight_max: _Optional[int] = ..., rate_ops_per_s: _Optional[int] = ..., rate_bytes_per_s: _Optional[int] = ..., rate_burst_ops: _Optional[int] = ..., hazard_window_ops: _Optional[int] = ..., lock_ttl_ms: _Optional[int] = ..., lock_grace_ms: _Optional[int] = ..., open_report_after_ms: _Optional[int] = ..., open_lease_ttl_ms: _Optional[int] = ...) -> None: ...

class Heartbeat(_message.Message):
    __slots__ = ("term", "log_index")
    TERM_FIELD_NUMBER: _ClassVar[int]
    LOG_INDEX_FIELD_NUMBER: _ClassVar[int]
    term: int
    log_index: int
    def __init__(self, term: _Optional[int] = ..., log_index: _Optional[int] = ...) -> None: ...

class WorkersRequest(_message.Message):
    __slots__ = ("workspace_id",)
    WORKSPACE_ID_FIELD_NUMBER: _ClassVar[int]
    workspace_id: bytes
    def __init__(self, workspace_id: _Optional[bytes] = ...) -> None: ...

class WorkersResponse(_message.Message):
    __slots__ = ("state", "workers")
    STATE_FIELD_NUMBER: _ClassVar[int]
    WORKERS_FIELD_NUMBER: _ClassVar[int]
    state: _read_pb2.ReadState
    workers: _containers.RepeatedCompositeFieldContainer[WorkerStatus]
    def __init__(self, state: _Optional[_Union[_read_pb2.ReadState, _Mapping]] = ..., workers: _Optional[_Iterable[_Union[WorkerStatus, _Mapping]]] = ...) -> None: ...

class WorkerStatus(_message.Message):
    __slots__ = ("worker", "mount_instance", "applied_index", "lag", "read_only", "missing_chunks", "error_log_index", "error_errno", "error_message", "pressure", "connected_at_ns", "silent_ms", "name")
    WORKER_FIELD_NUMBER: _ClassVar[int]
    MOUNT_INSTANCE_FIELD_NUMBER: _ClassVar[int]
    APPLIED_INDEX_FIELD_NUMBER: _ClassVar[int]
    LAG_FIELD_NUMBER: _ClassVar[int]
    READ_ONLY_FIELD_NUMBER: _ClassVar[int]
    MISSING_CHUNKS_FIELD_NUMBER: _ClassVar[int]
    ERROR_LOG_INDEX_FIELD_NUMBER: _ClassVar[int]
    ERROR_ERRNO_FIELD_NUMBER: _ClassVar[int]
    ERROR_MESSAGE_FIELD_NUMBER: _ClassVar[int]
    PRESSURE_FIELD_NUMBER: _ClassVar[int]
    CONNECTED_AT_NS_FIELD_NUMBER: _ClassVar[int]
    SILENT_MS_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    worker: str
    mount_instance: bytes
    applied_index: int
    lag: int
    read_only: bool
    missing_chunks: int
    error_log_index: int
    error_errno: int
    error_message: str
    pressure: Pressure
    connected_at_ns: int
    silent_ms: int
    name: str
    def __init__(self, worker: _Optional[str] = ..., mount_instance: _Optional[bytes] = ..., applied_index: _Optional[int] = ..., lag: _Optional[int] = ..., read_only: _Optional[bool] = ..., missing_chunks: _Optional[int] = ..., error_log_index: _Optional[int] = ..., error_errno: _Optional[int] = ..., error_message: _Optional[str] = ..., pressure: _Optional[_Union[Pressure, _Mapping]] = ..., connected_at_ns: _Optional[int] = ..., silent_ms: _Optional[int] = ..., name: _Optional[str] = ...) -> None: ...

class ListSnapshotsRequest(_message.Message):
    __slots__ = ("read", "workspace_id")
    READ_FIELD_NUMBER: _ClassVar[int]
    WORKSPACE_ID_FIELD_NUMBER: _ClassVar[int]
    read: _read_pb2.ReadOptions
    workspace_id: bytes
    def __init__(self, read: _Optional[_Union[_read_pb2.ReadOptions, _Mapping]] = ..., workspace_id: _Optional[bytes] = ...) -> None: ...

class SnapshotSummary(_message.Message):
    __slots__ = ("log_index", "root", "raft_index", "committed_at_ns", "page_count", "bytes_total")
    LOG_INDEX_FIELD_NUMBER: _ClassVar[int]
    ROOT_FIELD_NUMBER: _ClassVar[int]
    RAFT_INDEX_FIELD_NUMBER: _ClassVar[int]
    COMMITTED_AT_NS_FIELD_NUMBER: _ClassVar[int]
    PAGE_COUNT_FIELD_NUMBER: _ClassVar[int]
    BYTES_TOTAL_FIELD_NUMBER: _ClassVar[int]
    log_index: int
    root: bytes
    raft_index: int
    committed_at_ns: int
    page_count: int
    bytes_total: int
    def __init__(self, log_index: _Optional[int] = ..., root: _Optional[bytes] = ..., raft_index: _Optional[int] = ..., committed_at_ns: _Optional[int] = ..., page_count: _Optional[int] = ..., bytes_total: _Optional[int] = ...) -> None: ...

class ListSnapshotsResponse(_message.Message):
    __slots__ = ("state", "snapshots", "retention")
    STATE_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOTS_FIELD_NUMBER: _ClassVar[int]
    RETENTION_FIELD_NUMBER: _ClassVar[int]
    state: _read_pb2.ReadState
    snapshots: _containers.RepeatedCompositeFieldContainer[SnapshotSummary]
    retention: RetentionStatus
    def __init__(self, state: _Optional[_Union[_read_pb2.ReadState, _Mapping]] = ..., snapshots: _Optional[_Iterable[_Union[SnapshotSummary, _Mapping]]] = ..., retention: _Optional[_Union[RetentionStatus, _Mapping]] = ...) -> None: ...

class RetentionStatus(_message.Message):
    __slots__ = ("log_floor", "log_bytes", "replay_floor", "log_index", "chunk_count", "chunk_bytes", "gc_rounds", "gc_examined", "gc_candidates", "gc_freed_bytes", "archive_first", "archive_last", "archive_bytes")
    LOG_FLOOR_FIELD_NUMBER: _ClassVar[int]
    LOG_BYTES_FIELD_NUMBER: _ClassVar[int]
    REPLAY_FLOOR_FIELD_NUMBER: _ClassVar[int]
    LOG_INDEX_FIELD_NUMBER: _ClassVar[int]
    CHUNK_COUNT_FIELD_NUMBER: _ClassVar[int]
    CHUNK_BYTES_FIELD_NUMBER: _ClassVar[int]
    GC_ROUNDS_FIELD_NUMBER: _ClassVar[int]
    GC_EXAMINED_FIELD_NUMBER: _ClassVar[int]
    GC_CANDIDATES_FIELD_NUMBER: _ClassVar[int]
    GC_FREED_BYTES_FIELD_NUMBER: _ClassVar[int]
    ARCHIVE_FIRST_FIELD_NUMBER: _ClassVar[int]
    ARCHIVE_LAST_FIELD_NUMBER: _ClassVar[int]
    ARCHIVE_BYTES_FIELD_NUMBER: _ClassVar[int]
    log_floor: int
    log_bytes: int
    replay_floor: int
    log_index: int
    chunk_count: int
    chunk_bytes: int
    gc_rounds: int
    gc_examined: int
    gc_candidates: int
    gc_freed_bytes: int
    archive_first: int
    archive_last: int
    archive_bytes: int
    def __init__(self, log_floor: _Optional[int] = ..., log_bytes: _Optional[int] = ..., replay_floor: _Optional[int] = ..., log_index: _Optional[int] = ..., chunk_count: _Optional[int] = ..., chunk_bytes: _Optional[int] = ..., gc_rounds: _Optional[int] = ..., gc_examined: _Optional[int] = ..., gc_candidates: _Optional[int] = ..., gc_freed_bytes: _Optional[int] = ..., archive_first: _Optional[int] = ..., archive_last: _Optional[int] = ..., archive_bytes: _Optional[int] = ...) -> None: ...

class TakeSnapshotRequest(_message.Message):
    __slots__ = ("workspace_id",)
    WORKSPACE_ID_FIELD_NUMBER: _ClassVar[int]
    workspace_id: bytes
    def __init__(self, workspace_id: _Optional[bytes] = ...) -> None: ...

class TakeSnapshotResponse(_message.Message):
    __slots__ = ("state", "log_index", "taken")
    STATE_FIELD_NUMBER: _ClassVar[int]
    LOG_INDEX_FIELD_NUMBER: _ClassVar[int]
    TAKEN_FIELD_NUMBER: _ClassVar[int]
    state: _read_pb2.ReadState
    log_index: int
    taken: bool
    def __init__(self, state: _Optional[_Union[_read_pb2.ReadState, _Mapping]] = ..., log_index: _Optional[int] = ..., taken: _Optional[bool] = ...) -> None: ...

class SnapshotManifestRequest(_message.Message):
    __slots__ = ("workspace_id", "log_index")
    WORKSPACE_ID_FIELD_NUMBER: _ClassVar[int]
    LOG_INDEX_FIELD_NUMBER: _ClassVar[int]
    workspace_id: bytes
    log_index: int
    def __init__(self, workspace_id: _Optional[bytes] = ..., log_index: _Optional[int] = ...) -> None: ...

class SnapshotManifestResponse(_message.Message):
    __slots__ = ("manifest",)
    MANIFEST_FIELD_NUMBER: _ClassVar[int]
    manifest: _snapshot_pb2.SignedManifest
    def __init__(self, manifest: _Optional[_Union[_snapshot_pb2.SignedManifest, _Mapping]] = ...) -> None: ...
