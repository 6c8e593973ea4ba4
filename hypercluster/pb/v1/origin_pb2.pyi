from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class Origin(_message.Message):
    __slots__ = ("agent", "session", "cause", "change_set")
    AGENT_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    CAUSE_FIELD_NUMBER: _ClassVar[int]
    CHANGE_SET_FIELD_NUMBER: _ClassVar[int]
    agent: str
    session: str
    cause: str
    change_set: str
    def __init__(self, agent: _Optional[str] = ..., session: _Optional[str] = ..., cause: _Optional[str] = ..., change_set: _Optional[str] = ...) -> None: ...
