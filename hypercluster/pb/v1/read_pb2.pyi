from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ReadLevel(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    READ_LEVEL_LINEARIZABLE: _ClassVar[ReadLevel]
    READ_LEVEL_LEADER_LOCAL: _ClassVar[ReadLevel]
    READ_LEVEL_BOUNDED_STALE: _ClassVar[ReadLevel]
READ_LEVEL_LINEARIZABLE: ReadLevel
READ_LEVEL_LEADER_LOCAL: ReadLevel
READ_LEVEL_BOUNDED_STALE: ReadLevel

class ReadOptions(_message.Message):
    __slots__ = ("level", "min_index", "staleness_max_ms", "cluster_id")
    LEVEL_FIELD_NUMBER: _ClassVar[int]
    MIN_INDEX_FIELD_NUMBER: _ClassVar[int]
    STALENESS_MAX_MS_FIELD_NUMBER: _ClassVar[int]
    CLUSTER_ID_FIELD_NUMBER: _ClassVar[int]
    level: ReadLevel
    min_index: int
    staleness_max_ms: int
    cluster_id: bytes
    def __init__(self, level: _Optional[_Union[ReadLevel, str]] = ..., min_index: _Optional[int] = ..., staleness_max_ms: _Optional[int] = ..., cluster_id: _Optional[bytes] = ...) -> None: ...

class ReadState(_message.Message):
    __slots__ = ("applied_index", "term", "staleness_ms", "node_id", "history_id")
    APPLIED_INDEX_FIELD_NUMBER: _ClassVar[int]
    TERM_FIELD_NUMBER: _ClassVar[int]
    STALENESS_MS_FIELD_NUMBER: _ClassVar[int]
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    HISTORY_ID_FIELD_NUMBER: _ClassVar[int]
    applied_index: int
    term: int
    staleness_ms: int
    node_id: str
    history_id: bytes
    def __init__(self, applied_index: _Optional[int] = ..., term: _Optional[int] = ..., staleness_ms: _Optional[int] = ..., node_id: _Optional[str] = ..., history_id: _Optional[bytes] = ...) -> None: ...
