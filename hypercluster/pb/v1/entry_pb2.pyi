from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class EntryBatch(_message.Message):
    __slots__ = ("committed_at_ns", "id_seed", "command_count", "groups")
    COMMITTED_AT_NS_FIELD_NUMBER: _ClassVar[int]
    ID_SEED_FIELD_NUMBER: _ClassVar[int]
    COMMAND_COUNT_FIELD_NUMBER: _ClassVar[int]
    GROUPS_FIELD_NUMBER: _ClassVar[int]
    committed_at_ns: int
    id_seed: bytes
    command_count: int
    groups: _containers.RepeatedCompositeFieldContainer[Group]
    def __init__(self, committed_at_ns: _Optional[int] = ..., id_seed: _Optional[bytes] = ..., command_count: _Optional[int] = ..., groups: _Optional[_Iterable[_Union[Group, _Mapping]]] = ...) -> None: ...

class Group(_message.Message):
    __slots__ = ("submit", "principal", "org", "project", "worker")
    SUBMIT_FIELD_NUMBER: _ClassVar[int]
    PRINCIPAL_FIELD_NUMBER: _ClassVar[int]
    ORG_FIELD_NUMBER: _ClassVar[int]
    PROJECT_FIELD_NUMBER: _ClassVar[int]
    WORKER_FIELD_NUMBER: _ClassVar[int]
    submit: bytes
    principal: str
    org: str
    project: str
    worker: str
    def __init__(self, submit: _Optional[bytes] = ..., principal: _Optional[str] = ..., org: _Optional[str] = ..., project: _Optional[str] = ..., worker: _Optional[str] = ...) -> None: ...

class ConfigEntry(_message.Message):
    __slots__ = ("members", "configured_voters")
    MEMBERS_FIELD_NUMBER: _ClassVar[int]
    CONFIGURED_VOTERS_FIELD_NUMBER: _ClassVar[int]
    members: _containers.RepeatedCompositeFieldContainer[ConfigMember]
    configured_voters: int
    def __init__(self, members: _Optional[_Iterable[_Union[ConfigMember, _Mapping]]] = ..., configured_voters: _Optional[int] = ...) -> None: ...

class ConfigMember(_message.Message):
    __slots__ = ("node_id", "incarnation", "address", "suffrage", "promote")
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    SUFFRAGE_FIELD_NUMBER: _ClassVar[int]
    PROMOTE_FIELD_NUMBER: _ClassVar[int]
    node_id: str
    incarnation: bytes
    address: str
    suffrage: int
    promote: bool
    def __init__(self, node_id: _Optional[str] = ..., incarnation: _Optional[bytes] = ..., address: _Optional[str] = ..., suffrage: _Optional[int] = ..., promote: _Optional[bool] = ...) -> None: ...
