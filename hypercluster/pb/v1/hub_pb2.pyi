from hypercluster.pb.v1 import read_pb2 as _read_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class HubGetRequest(_message.Message):
    __slots__ = ("read", "namespace", "keys")
    READ_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    KEYS_FIELD_NUMBER: _ClassVar[int]
    read: _read_pb2.ReadOptions
    namespace: str
    keys: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, read: _Optional[_Union[_read_pb2.ReadOptions, _Mapping]] = ..., namespace: _Optional[str] = ..., keys: _Optional[_Iterable[bytes]] = ...) -> None: ...

class HubRecord(_message.Message):
    __slots__ = ("key", "found", "payload", "version")
    KEY_FIELD_NUMBER: _ClassVar[int]
    FOUND_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    key: bytes
    found: bool
    payload: bytes
    version: int
    def __init__(self, key: _Optional[bytes] = ..., found: _Optional[bool] = ..., payload: _Optional[bytes] = ..., version: _Optional[int] = ...) -> None: ...

class HubGetResponse(_message.Message):
    __slots__ = ("state", "records")
    STATE_FIELD_NUMBER: _ClassVar[int]
    RECORDS_FIELD_NUMBER: _ClassVar[int]
    state: _read_pb2.ReadState
    records: _containers.RepeatedCompositeFieldContainer[HubRecord]
    def __init__(self, state: _Optional[_Union[_read_pb2.ReadState, _Mapping]] = ..., records: _Optional[_Iterable[_Union[HubRecord, _Mapping]]] = ...) -> None: ...

class HubListRequest(_message.Message):
    __slots__ = ("read", "namespace", "prefix", "after", "limit")
    READ_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    PREFIX_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    read: _read_pb2.ReadOptions
    namespace: str
    prefix: bytes
    after: bytes
    limit: int
    def __init__(self, read: _Optional[_Union[_read_pb2.ReadOptions, _Mapping]] = ..., namespace: _Optional[str] = ..., prefix: _Optional[bytes] = ..., after: _Optional[bytes] = ..., limit: _Optional[int] = ...) -> None: ...

class HubListResponse(_message.Message):
    __slots__ = ("state", "records", "more")
    STATE_FIELD_NUMBER: _ClassVar[int]
    RECORDS_FIELD_NUMBER: _ClassVar[int]
    MORE_FIELD_NUMBER: _ClassVar[int]
    state: _read_pb2.ReadState
    records: _containers.RepeatedCompositeFieldContainer[HubRecord]
    more: bool
    def __init__(self, state: _Optional[_Union[_read_pb2.ReadState, _Mapping]] = ..., records: _Optional[_Iterable[_Union[HubRecord, _Mapping]]] = ..., more: _Optional[bool] = ...) -> None: ...

class HubVersionsRequest(_message.Message):
    __slots__ = ("read", "namespace", "key", "at_index", "limit")
    READ_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    AT_INDEX_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    read: _read_pb2.ReadOptions
    namespace: str
    key: bytes
    at_index: int
    limit: int
    def __init__(self, read: _Optional[_Union[_read_pb2.ReadOptions, _Mapping]] = ..., namespace: _Optional[str] = ..., key: _Optional[bytes] = ..., at_index: _Optional[int] = ..., limit: _Optional[int] = ...) -> None: ...

class HubVersion(_message.Message):
    __slots__ = ("raft_index", "ordinal", "deleted", "payload", "version")
    RAFT_INDEX_FIELD_NUMBER: _ClassVar[int]
    ORDINAL_FIELD_NUMBER: _ClassVar[int]
    DELETED_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    raft_index: int
    ordinal: int
    deleted: bool
    payload: bytes
    version: int
    def __init__(self, raft_index: _Optional[int] = ..., ordinal: _Optional[int] = ..., deleted: _Optional[bool] = ..., payload: _Optional[bytes] = ..., version: _Optional[int] = ...) -> None: ...

class HubVersionsResponse(_message.Message):
    __slots__ = ("state", "versions")
    STATE_FIELD_NUMBER: _ClassVar[int]
    VERSIONS_FIELD_NUMBER: _ClassVar[int]
    state: _read_pb2.ReadState
    versions: _containers.RepeatedCompositeFieldContainer[HubVersion]
    def __init__(self, state: _Optional[_Union[_read_pb2.ReadState, _Mapping]] = ..., versions: _Optional[_Iterable[_Union[HubVersion, _Mapping]]] = ...) -> None: ...
