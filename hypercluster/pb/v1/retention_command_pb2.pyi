from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class SnapshotMark(_message.Message):
    __slots__ = ("workspace_id", "after_log_index")
    WORKSPACE_ID_FIELD_NUMBER: _ClassVar[int]
    AFTER_LOG_INDEX_FIELD_NUMBER: _ClassVar[int]
    workspace_id: bytes
    after_log_index: int
    def __init__(self, workspace_id: _Optional[bytes] = ..., after_log_index: _Optional[int] = ...) -> None: ...

class SnapshotDrop(_message.Message):
    __slots__ = ("workspace_id", "log_index")
    WORKSPACE_ID_FIELD_NUMBER: _ClassVar[int]
    LOG_INDEX_FIELD_NUMBER: _ClassVar[int]
    workspace_id: bytes
    log_index: int
    def __init__(self, workspace_id: _Optional[bytes] = ..., log_index: _Optional[int] = ...) -> None: ...

class ChunkCollect(_message.Message):
    __slots__ = ("workspace_id", "hashes")
    WORKSPACE_ID_FIELD_NUMBER: _ClassVar[int]
    HASHES_FIELD_NUMBER: _ClassVar[int]
    workspace_id: bytes
    hashes: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, workspace_id: _Optional[bytes] = ..., hashes: _Optional[_Iterable[bytes]] = ...) -> None: ...
