from hypercluster.pb.v1 import coordination_command_pb2 as _coordination_command_pb2
from hypercluster.pb.v1 import origin_pb2 as _origin_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class XattrFlag(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    XATTR_FLAG_ANY: _ClassVar[XattrFlag]
    XATTR_FLAG_CREATE: _ClassVar[XattrFlag]
    XATTR_FLAG_REPLACE: _ClassVar[XattrFlag]
XATTR_FLAG_ANY: XattrFlag
XATTR_FLAG_CREATE: XattrFlag
XATTR_FLAG_REPLACE: XattrFlag

class WorkspaceCreate(_message.Message):
    __slots__ = ("name", "uid", "gid", "mode")
    NAME_FIELD_NUMBER: _ClassVar[int]
    UID_FIELD_NUMBER: _ClassVar[int]
    GID_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    name: str
    uid: int
    gid: int
    mode: int
    def __init__(self, name: _Optional[str] = ..., uid: _Optional[int] = ..., gid: _Optional[int] = ..., mode: _Optional[int] = ...) -> None: ...

class ChunkPut(_message.Message):
    __slots__ = ("hash", "content")
    HASH_FIELD_NUMBER: _ClassVar[int]
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    hash: bytes
    content: bytes
    def __init__(self, hash: _Optional[bytes] = ..., content: _Optional[bytes] = ...) -> None: ...

class FileCommand(_message.Message):
    __slots__ = ("create", "mkdir", "symlink", "link", "unlink", "rmdir", "rename", "write", "truncate", "chmod", "chown", "utimens", "set_xattr", "remove_xattr", "sync", "base_index", "uid", "guards", "reservation_ids")
    CREATE_FIELD_NUMBER: _ClassVar[int]
    MKDIR_FIELD_NUMBER: _ClassVar[int]
    SYMLINK_FIELD_NUMBER: _ClassVar[int]
    LINK_FIELD_NUMBER: _ClassVar[int]
    UNLINK_FIELD_NUMBER: _ClassVar[int]
    RMDIR_FIELD_NUMBER: _ClassVar[int]
    RENAME_FIELD_NUMBER: _ClassVar[int]
    WRITE_FIELD_NUMBER: _ClassVar[int]
    TRUNCATE_FIELD_NUMBER: _ClassVar[int]
    CHMOD_FIELD_NUMBER: _ClassVar[int]
    CHOWN_FIELD_NUMBER: _ClassVar[int]
    UTIMENS_FIELD_NUMBER: _ClassVar[int]
    SET_XATTR_FIELD_NUMBER: _ClassVar[int]
    REMOVE_XATTR_FIELD_NUMBER: _ClassVar[int]
    SYNC_FIELD_NUMBER: _ClassVar[int]
    BASE_INDEX_FIELD_NUMBER: _ClassVar[int]
    UID_FIELD_NUMBER: _ClassVar[int]
    GUARDS_FIELD_NUMBER: _ClassVar[int]
    RESERVATION_IDS_FIELD_NUMBER: _ClassVar[int]
    create: Create
    mkdir: Mkdir
    symlink: Symlink
    link: Link
    unlink: Unlink
    rmdir: Rmdir
    rename: Rename
    write: Write
    truncate: Truncate
    chmod: Chmod
    chown: Chown
    utimens: Utimens
    set_xattr: SetXattr
    remove_xattr: RemoveXattr
    sync: Sync
    base_index: int
    uid: int
    guards: _containers.RepeatedCompositeFieldContainer[_coordination_command_pb2.Guard]
    reservation_ids: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, create: _Optional[_Union[Create, _Mapping]] = ..., mkdir: _Optional[_Union[Mkdir, _Mapping]] = ..., symlink: _Optional[_Union[Symlink, _Mapping]] = ..., link: _Optional[_Union[Link, _Mapping]] = ..., unlink: _Optional[_Union[Unlink, _Mapping]] = ..., rmdir: _Optional[_Union[Rmdir, _Mapping]] = ..., rename: _Optional[_Union[Rename, _Mapping]] = ..., write: _Optional[_Union[Write, _Mapping]] = ..., truncate: _Optional[_Union[Truncate, _Mapping]] = ..., chmod: _Optional[_Union[Chmod, _Mapping]] = ..., chown: _Optional[_Union[Chown, _Mapping]] = ..., utimens: _Optional[_Union[Utimens, _Mapping]] = ..., set_xattr: _Optional[_Union[SetXattr, _Mapping]] = ..., remove_xattr: _Optional[_Union[RemoveXattr, _Mapping]] = ..., sync: _Optional[_Union[Sync, _Mapping]] = ..., base_index: _Optional[int] = ..., uid: _Optional[int] = ..., guards: _Optional[_Iterable[_Union[_coordination_command_pb2.Guard, _Mapping]]] = ..., reservation_ids: _Optional[_Iterable[int]] = ...) -> None: ...

class Place(_message.Message):
    __slots__ = ("directory", "name")
    DIRECTORY_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    directory: bytes
    name: bytes
    def __init__(self, directory: _Optional[bytes] = ..., name: _Optional[bytes] = ...) -> None: ...

class Create(_message.Message):
    __slots__ = ("place", "mode", "exclusive")
    PLACE_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    EXCLUSIVE_FIELD_NUMBER: _ClassVar[int]
    place: Place
    mode: int
    exclusive: bool
    def __init__(self, place: _Optional[_Union[Place, _Mapping]] = ..., mode: _Optional[int] = ..., exclusive: _Optional[bool] = ...) -> None: ...

class Mkdir(_message.Message):
    __slots__ = ("place", "mode")
    PLACE_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    place: Place
    mode: int
    def __init__(self, place: _Optional[_Union[Place, _Mapping]] = ..., mode: _Optional[int] = ...) -> None: ...

class Symlink(_message.Message):
    __slots__ = ("place", "target")
    PLACE_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    place: Place
    target: bytes
    def __init__(self, place: _Optional[_Union[Place, _Mapping]] = ..., target: _Optional[bytes] = ...) -> None: ...

class Link(_message.Message):
    __slots__ = ("inode_id", "place")
    INODE_ID_FIELD_NUMBER: _ClassVar[int]
    PLACE_FIELD_NUMBER: _ClassVar[int]
    inode_id: bytes
    place: Place
    def __init__(self, inode_id: _Optional[bytes] = ..., place: _Optional[_Union[Place, _Mapping]] = ...) -> None: ...

class Unlink(_message.Message):
    __slots__ = ("place",)
    PLACE_FIELD_NUMBER: _ClassVar[int]
    place: Place
    def __init__(self, place: _Optional[_Union[Place, _Mapping]] = ...) -> None: ...

class Rmdir(_message.Message):
    __slots__ = ("place",)
    PLACE_FIELD_NUMBER: _ClassVar[int]
    place: Place
    def __init__(self, place: _Optional[_Union[Place, _Mapping]] = ...) -> None: ...

class Rename(_message.Message):
    __slots__ = ("source", "target", "no_replace")
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    NO_REPLACE_FIELD_NUMBER: _ClassVar[int]
    source: Place
    target: Place
    no_replace: bool
    def __init__(self, source: _Optional[_Union[Place, _Mapping]] = ..., target: _Optional[_Union[Place, _Mapping]] = ..., no_replace: _Optional[bool] = ...) -> None: ...

class Write(_message.Message):
    __slots__ = ("inode_id", "offset", "append", "inline", "pieces")
    INODE_ID_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    APPEND_FIELD_NUMBER: _ClassVar[int]
    INLINE_FIELD_NUMBER: _ClassVar[int]
    PIECES_FIELD_NUMBER: _ClassVar[int]
    inode_id: bytes
    offset: int
    append: bool
    inline: bytes
    pieces: _containers.RepeatedCompositeFieldContainer[ChunkPiece]
    def __init__(self, inode_id: _Optional[bytes] = ..., offset: _Optional[int] = ..., append: _Optional[bool] = ..., inline: _Optional[bytes] = ..., pieces: _Optional[_Iterable[_Union[ChunkPiece, _Mapping]]] = ...) -> None: ...

class ChunkPiece(_message.Message):
    __slots__ = ("hash", "chunk_offset", "length")
    HASH_FIELD_NUMBER: _ClassVar[int]
    CHUNK_OFFSET_FIELD_NUMBER: _ClassVar[int]
    LENGTH_FIELD_NUMBER: _ClassVar[int]
    hash: bytes
    chunk_offset: int
    length: int
    def __init__(self, hash: _Optional[bytes] = ..., chunk_offset: _Optional[int] = ..., length: _Optional[int] = ...) -> None: ...

class Truncate(_message.Message):
    __slots__ = ("inode_id", "size")
    INODE_ID_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    inode_id: bytes
    size: int
    def __init__(self, inode_id: _Optional[bytes] = ..., size: _Optional[int] = ...) -> None: ...

class Chmod(_message.Message):
    __slots__ = ("inode_id", "mode")
    INODE_ID_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    inode_id: bytes
    mode: int
    def __init__(self, inode_id: _Optional[bytes] = ..., mode: _Optional[int] = ...) -> None: ...

class Chown(_message.Message):
    __slots__ = ("inode_id", "uid", "gid")
    INODE_ID_FIELD_NUMBER: _ClassVar[int]
    UID_FIELD_NUMBER: _ClassVar[int]
    GID_FIELD_NUMBER: _ClassVar[int]
    inode_id: bytes
    uid: int
    gid: int
    def __init__(self, inode_id: _Optional[bytes] = ..., uid: _Optional[int] = ..., gid: _Optional[int] = ...) -> None: ...

class Utimens(_message.Message):
    __slots__ = ("inode_id", "mtime_ns")
    INODE_ID_FIELD_NUMBER: _ClassVar[int]
    MTIME_NS_FIELD_NUMBER: _ClassVar[int]
    inode_id: bytes
    mtime_ns: int
    def __init__(self, inode_id: _Optional[bytes] = ..., mtime_ns: _Optional[int] = ...) -> None: ...

class SetXattr(_message.Message):
    __slots__ = ("inode_id", "name", "value", "flag")
    INODE_ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    FLAG_FIELD_NUMBER: _ClassVar[int]
    inode_id: bytes
    name: bytes
    value: bytes
    flag: XattrFlag
    def __init__(self, inode_id: _Optional[bytes] = ..., name: _Optional[bytes] = ..., value: _Optional[bytes] = ..., flag: _Optional[_Union[XattrFlag, str]] = ...) -> None: ...

class RemoveXattr(_message.Message):
    __slots__ = ("inode_id", "name")
    INODE_ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    inode_id: bytes
    name: bytes
    def __init__(self, inode_id: _Optional[bytes] = ..., name: _Optional[bytes] = ...) -> None: ...

class Sync(_message.Message):
    __slots__ = ("inode_id", "data_only")
    INODE_ID_FIELD_NUMBER: _ClassVar[int]
    DATA_ONLY_FIELD_NUMBER: _ClassVar[int]
    inode_id: bytes
    data_only: bool
    def __init__(self, inode_id: _Optional[bytes] = ..., data_only: _Optional[bool] = ...) -> None: ...

class FileAck(_message.Message):
    __slots__ = ("errno", "log_index", "committed_at_ns", "root", "inode_id", "inode_no", "applied_offset", "present_index", "missing", "existed", "lock", "hazard")
    ERRNO_FIELD_NUMBER: _ClassVar[int]
    LOG_INDEX_FIELD_NUMBER: _ClassVar[int]
    COMMITTED_AT_NS_FIELD_NUMBER: _ClassVar[int]
    ROOT_FIELD_NUMBER: _ClassVar[int]
    INODE_ID_FIELD_NUMBER: _ClassVar[int]
    INODE_NO_FIELD_NUMBER: _ClassVar[int]
    APPLIED_OFFSET_FIELD_NUMBER: _ClassVar[int]
    PRESENT_INDEX_FIELD_NUMBER: _ClassVar[int]
    MISSING_FIELD_NUMBER: _ClassVar[int]
    EXISTED_FIELD_NUMBER: _ClassVar[int]
    LOCK_FIELD_NUMBER: _ClassVar[int]
    HAZARD_FIELD_NUMBER: _ClassVar[int]
    errno: int
    log_index: int
    committed_at_ns: int
    root: bytes
    inode_id: bytes
    inode_no: int
    applied_offset: int
    present_index: int
    missing: _containers.RepeatedScalarFieldContainer[bytes]
    existed: bool
    lock: _coordination_command_pb2.LockAck
    hazard: _coordination_command_pb2.Hazard
    def __init__(self, errno: _Optional[int] = ..., log_index: _Optional[int] = ..., committed_at_ns: _Optional[int] = ..., root: _Optional[bytes] = ..., inode_id: _Optional[bytes] = ..., inode_no: _Optional[int] = ..., applied_offset: _Optional[int] = ..., present_index: _Optional[int] = ..., missing: _Optional[_Iterable[bytes]] = ..., existed: _Optional[bool] = ..., lock: _Optional[_Union[_coordination_command_pb2.LockAck, _Mapping]] = ..., hazard: _Optional[_Union[_coordination_command_pb2.Hazard, _Mapping]] = ...) -> None: ...

class LogRecord(_message.Message):
    __slots__ = ("log_index", "op_id", "committed_at_ns", "client_id", "client_seq", "worker", "origin", "command", "root", "inode_id", "inode_no", "applied_offset", "raft_index", "hazard", "reserved")
    LOG_INDEX_FIELD_NUMBER: _ClassVar[int]
    OP_ID_FIELD_NUMBER: _ClassVar[int]
    COMMITTED_AT_NS_FIELD_NUMBER: _ClassVar[int]
    CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    CLIENT_SEQ_FIELD_NUMBER: _ClassVar[int]
    WORKER_FIELD_NUMBER: _ClassVar[int]
    ORIGIN_FIELD_NUMBER: _ClassVar[int]
    COMMAND_FIELD_NUMBER: _ClassVar[int]
    ROOT_FIELD_NUMBER: _ClassVar[int]
    INODE_ID_FIELD_NUMBER: _ClassVar[int]
    INODE_NO_FIELD_NUMBER: _ClassVar[int]
    APPLIED_OFFSET_FIELD_NUMBER: _ClassVar[int]
    RAFT_INDEX_FIELD_NUMBER: _ClassVar[int]
    HAZARD_FIELD_NUMBER: _ClassVar[int]
    RESERVED_FIELD_NUMBER: _ClassVar[int]
    log_index: int
    op_id: bytes
    committed_at_ns: int
    client_id: bytes
    client_seq: int
    worker: str
    origin: _origin_pb2.Origin
    command: bytes
    root: bytes
    inode_id: bytes
    inode_no: int
    applied_offset: int
    raft_index: int
    hazard: _coordination_command_pb2.Hazard
    reserved: bool
    def __init__(self, log_index: _Optional[int] = ..., op_id: _Optional[bytes] = ..., committed_at_ns: _Optional[int] = ..., client_id: _Optional[bytes] = ..., client_seq: _Optional[int] = ..., worker: _Optional[str] = ..., origin: _Optional[_Union[_origin_pb2.Origin, _Mapping]] = ..., command: _Optional[bytes] = ..., root: _Optional[bytes] = ..., inode_id: _Optional[bytes] = ..., inode_no: _Optional[int] = ..., applied_offset: _Optional[int] = ..., raft_index: _Optional[int] = ..., hazard: _Optional[_Union[_coordination_command_pb2.Hazard, _Mapping]] = ..., reserved: _Optional[bool] = ...) -> None: ...

class LogBatch(_message.Message):
    __slots__ = ("records",)
    RECORDS_FIELD_NUMBER: _ClassVar[int]
    records: _containers.RepeatedCompositeFieldContainer[LogRecord]
    def __init__(self, records: _Optional[_Iterable[_Union[LogRecord, _Mapping]]] = ...) -> None: ...
