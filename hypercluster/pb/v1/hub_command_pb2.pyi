from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class HubOpType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    HUB_OP_TYPE_UNSPECIFIED: _ClassVar[HubOpType]
    HUB_OP_TYPE_SET: _ClassVar[HubOpType]
    HUB_OP_TYPE_DEL: _ClassVar[HubOpType]
HUB_OP_TYPE_UNSPECIFIED: HubOpType
HUB_OP_TYPE_SET: HubOpType
HUB_OP_TYPE_DEL: HubOpType

class HubCommand(_message.Message):
    __slots__ = ("namespace", "key", "op_type", "payload", "expected_version")
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    OP_TYPE_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_VERSION_FIELD_NUMBER: _ClassVar[int]
    namespace: str
    key: bytes
    op_type: HubOpType
    payload: bytes
    expected_version: int
    def __init__(self, namespace: _Optional[str] = ..., key: _Optional[bytes] = ..., op_type: _Optional[_Union[HubOpType, str]] = ..., payload: _Optional[bytes] = ..., expected_version: _Optional[int] = ...) -> None: ...
