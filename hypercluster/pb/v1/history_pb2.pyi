from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class HistoryEvent(_message.Message):
    __slots__ = ("signed", "signature")
    SIGNED_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    signed: bytes
    signature: bytes
    def __init__(self, signed: _Optional[bytes] = ..., signature: _Optional[bytes] = ...) -> None: ...

class HistoryEventBody(_message.Message):
    __slots__ = ("author", "seq", "prev", "deps", "kind", "payload", "timestamp_hint_ms", "channel")
    AUTHOR_FIELD_NUMBER: _ClassVar[int]
    SEQ_FIELD_NUMBER: _ClassVar[int]
    PREV_FIELD_NUMBER: _ClassVar[int]
    DEPS_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    TIMESTAMP_HINT_MS_FIELD_NUMBER: _ClassVar[int]
    CHANNEL_FIELD_NUMBER: _ClassVar[int]
    author: bytes
    seq: int
    prev: bytes
    deps: _containers.RepeatedScalarFieldContainer[bytes]
    kind: int
    payload: bytes
    timestamp_hint_ms: int
    channel: str
    def __init__(self, author: _Optional[bytes] = ..., seq: _Optional[int] = ..., prev: _Optional[bytes] = ..., deps: _Optional[_Iterable[bytes]] = ..., kind: _Optional[int] = ..., payload: _Optional[bytes] = ..., timestamp_hint_ms: _Optional[int] = ..., channel: _Optional[str] = ...) -> None: ...

class HistoryHead(_message.Message):
    __slots__ = ("author", "seq", "hash")
    AUTHOR_FIELD_NUMBER: _ClassVar[int]
    SEQ_FIELD_NUMBER: _ClassVar[int]
    HASH_FIELD_NUMBER: _ClassVar[int]
    author: bytes
    seq: int
    hash: bytes
    def __init__(self, author: _Optional[bytes] = ..., seq: _Optional[int] = ..., hash: _Optional[bytes] = ...) -> None: ...

class AuthorInterval(_message.Message):
    __slots__ = ("first", "end")
    FIRST_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    first: bytes
    end: bytes
    def __init__(self, first: _Optional[bytes] = ..., end: _Optional[bytes] = ...) -> None: ...

class HistoryFilter(_message.Message):
    __slots__ = ("channels", "authors", "kinds", "since_ms")
    CHANNELS_FIELD_NUMBER: _ClassVar[int]
    AUTHORS_FIELD_NUMBER: _ClassVar[int]
    KINDS_FIELD_NUMBER: _ClassVar[int]
    SINCE_MS_FIELD_NUMBER: _ClassVar[int]
    channels: _containers.RepeatedScalarFieldContainer[str]
    authors: _containers.RepeatedScalarFieldContainer[bytes]
    kinds: _containers.RepeatedScalarFieldContainer[int]
    since_ms: int
    def __init__(self, channels: _Optional[_Iterable[str]] = ..., authors: _Optional[_Iterable[bytes]] = ..., kinds: _Optional[_Iterable[int]] = ..., since_ms: _Optional[int] = ...) -> None: ...

class SyncRequestV2(_message.Message):
    __slots__ = ("request_id", "interval", "heads", "filter")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    INTERVAL_FIELD_NUMBER: _ClassVar[int]
    HEADS_FIELD_NUMBER: _ClassVar[int]
    FILTER_FIELD_NUMBER: _ClassVar[int]
    request_id: bytes
    interval: AuthorInterval
    heads: _containers.RepeatedCompositeFieldContainer[HistoryHead]
    filter: HistoryFilter
    def __init__(self, request_id: _Optional[bytes] = ..., interval: _Optional[_Union[AuthorInterval, _Mapping]] = ..., heads: _Optional[_Iterable[_Union[HistoryHead, _Mapping]]] = ..., filter: _Optional[_Union[HistoryFilter, _Mapping]] = ...) -> None: ...

class SyncBatchV2(_message.Message):
    __slots__ = ("request_id", "events", "more")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    MORE_FIELD_NUMBER: _ClassVar[int]
    request_id: bytes
    events: _containers.RepeatedCompositeFieldContainer[HistoryEvent]
    more: bool
    def __init__(self, request_id: _Optional[bytes] = ..., events: _Optional[_Iterable[_Union[HistoryEvent, _Mapping]]] = ..., more: _Optional[bool] = ...) -> None: ...

class HistorySyncComplete(_message.Message):
    __slots__ = ("request_id", "topic", "last_event_hash", "stream_generation", "served_heads_digest", "event_count", "behind")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    TOPIC_FIELD_NUMBER: _ClassVar[int]
    LAST_EVENT_HASH_FIELD_NUMBER: _ClassVar[int]
    STREAM_GENERATION_FIELD_NUMBER: _ClassVar[int]
    SERVED_HEADS_DIGEST_FIELD_NUMBER: _ClassVar[int]
    EVENT_COUNT_FIELD_NUMBER: _ClassVar[int]
    BEHIND_FIELD_NUMBER: _ClassVar[int]
    request_id: bytes
    topic: str
    last_event_hash: bytes
    stream_generation: int
    served_heads_digest: bytes
    event_count: int
    behind: _containers.RepeatedCompositeFieldContainer[HistoryHead]
    def __init__(self, request_id: _Optional[bytes] = ..., topic: _Optional[str] = ..., last_event_hash: _Optional[bytes] = ..., stream_generation: _Optional[int] = ..., served_heads_digest: _Optional[bytes] = ..., event_count: _Optional[int] = ..., behind: _Optional[_Iterable[_Union[HistoryHead, _Mapping]]] = ...) -> None: ...

class HistoryForked(_message.Message):
    __slots__ = ("request_id", "event")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    EVENT_FIELD_NUMBER: _ClassVar[int]
    request_id: bytes
    event: HistoryEvent
    def __init__(self, request_id: _Optional[bytes] = ..., event: _Optional[_Union[HistoryEvent, _Mapping]] = ...) -> None: ...

class HistorySnapshotRequired(_message.Message):
    __slots__ = ("request_id", "bases")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    BASES_FIELD_NUMBER: _ClassVar[int]
    request_id: bytes
    bases: _containers.RepeatedCompositeFieldContainer[HistoryHead]
    def __init__(self, request_id: _Optional[bytes] = ..., bases: _Optional[_Iterable[_Union[HistoryHead, _Mapping]]] = ...) -> None: ...

class SyncReply(_message.Message):
    __slots__ = ("batch", "complete", "forked", "snapshot_required")
    BATCH_FIELD_NUMBER: _ClassVar[int]
    COMPLETE_FIELD_NUMBER: _ClassVar[int]
    FORKED_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_REQUIRED_FIELD_NUMBER: _ClassVar[int]
    batch: SyncBatchV2
    complete: HistorySyncComplete
    forked: HistoryForked
    snapshot_required: HistorySnapshotRequired
    def __init__(self, batch: _Optional[_Union[SyncBatchV2, _Mapping]] = ..., complete: _Optional[_Union[HistorySyncComplete, _Mapping]] = ..., forked: _Optional[_Union[HistoryForked, _Mapping]] = ..., snapshot_required: _Optional[_Union[HistorySnapshotRequired, _Mapping]] = ...) -> None: ...
