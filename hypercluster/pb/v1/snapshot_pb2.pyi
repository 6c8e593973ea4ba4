from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class SnapshotManifest(_message.Message):
    __slots__ = ("version", "workspace_id", "history_id", "log_index", "root", "index_pages", "page_count", "record_count", "bytes_total")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    WORKSPACE_ID_FIELD_NUMBER: _ClassVar[int]
    HISTORY_ID_FIELD_NUMBER: _ClassVar[int]
    LOG_INDEX_FIELD_NUMBER: _ClassVar[int]
    ROOT_FIELD_NUMBER: _ClassVar[int]
    INDEX_PAGES_FIELD_NUMBER: _ClassVar[int]
    PAGE_COUNT_FIELD_NUMBER: _ClassVar[int]
    RECORD_COUNT_FIELD_NUMBER: _ClassVar[int]
    BYTES_TOTAL_FIELD_NUMBER: _ClassVar[int]
    version: int
    workspace_id: bytes
    history_id: bytes
    log_index: int
    root: bytes
    index_pages: _containers.RepeatedScalarFieldContainer[bytes]
    page_count: int
    record_count: int
    bytes_total: int
    def __init__(self, version: _Optional[int] = ..., workspace_id: _Optional[bytes] = ..., history_id: _Optional[bytes] = ..., log_index: _Optional[int] = ..., root: _Optional[bytes] = ..., index_pages: _Optional[_Iterable[bytes]] = ..., page_count: _Optional[int] = ..., record_count: _Optional[int] = ..., bytes_total: _Optional[int] = ...) -> None: ...

class SignedManifest(_message.Message):
    __slots__ = ("manifest", "checksum", "signature", "certificate")
    MANIFEST_FIELD_NUMBER: _ClassVar[int]
    CHECKSUM_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATE_FIELD_NUMBER: _ClassVar[int]
    manifest: bytes
    checksum: bytes
    signature: bytes
    certificate: bytes
    def __init__(self, manifest: _Optional[bytes] = ..., checksum: _Optional[bytes] = ..., signature: _Optional[bytes] = ..., certificate: _Optional[bytes] = ...) -> None: ...
