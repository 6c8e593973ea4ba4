from hypercluster.pb.v1 import entry_pb2 as _entry_pb2
from hypercluster.pb.v1 import snapshot_pb2 as _snapshot_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class PeerFrame(_message.Message):
    __slots__ = ("hello", "append", "append_ack", "pre_vote", "pre_vote_reply", "request_vote", "vote_reply", "term_notice", "timeout_now", "checkpoint_offer", "checkpoint_piece", "checkpoint_ack", "chunk_request", "chunk_reply", "snapshot")
    HELLO_FIELD_NUMBER: _ClassVar[int]
    APPEND_FIELD_NUMBER: _ClassVar[int]
    APPEND_ACK_FIELD_NUMBER: _ClassVar[int]
    PRE_VOTE_FIELD_NUMBER: _ClassVar[int]
    PRE_VOTE_REPLY_FIELD_NUMBER: _ClassVar[int]
    REQUEST_VOTE_FIELD_NUMBER: _ClassVar[int]
    VOTE_REPLY_FIELD_NUMBER: _ClassVar[int]
    TERM_NOTICE_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_NOW_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_OFFER_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_PIECE_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_ACK_FIELD_NUMBER: _ClassVar[int]
    CHUNK_REQUEST_FIELD_NUMBER: _ClassVar[int]
    CHUNK_REPLY_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    hello: PeerHello
    append: AppendEntries
    append_ack: AppendAck
    pre_vote: PreVote
    pre_vote_reply: PreVoteReply
    request_vote: RequestVote
    vote_reply: VoteReply
    term_notice: TermNotice
    timeout_now: TimeoutNow
    checkpoint_offer: CheckpointOffer
    checkpoint_piece: CheckpointPiece
    checkpoint_ack: CheckpointAck
    chunk_request: ChunkRequest
    chunk_reply: ChunkReply
    snapshot: SnapshotExchange
    def __init__(self, hello: _Optional[_Union[PeerHello, _Mapping]] = ..., append: _Optional[_Union[AppendEntries, _Mapping]] = ..., append_ack: _Optional[_Union[AppendAck, _Mapping]] = ..., pre_vote: _Optional[_Union[PreVote, _Mapping]] = ..., pre_vote_reply: _Optional[_Union[PreVoteReply, _Mapping]] = ..., request_vote: _Optional[_Union[RequestVote, _Mapping]] = ..., vote_reply: _Optional[_Union[VoteReply, _Mapping]] = ..., term_notice: _Optional[_Union[TermNotice, _Mapping]] = ..., timeout_now: _Optional[_Union[TimeoutNow, _Mapping]] = ..., checkpoint_offer: _Optional[_Union[CheckpointOffer, _Mapping]] = ..., checkpoint_piece: _Optional[_Union[CheckpointPiece, _Mapping]] = ..., checkpoint_ack: _Optional[_Union[CheckpointAck, _Mapping]] = ..., chunk_request: _Optional[_Union[ChunkRequest, _Mapping]] = ..., chunk_reply: _Optional[_Union[ChunkReply, _Mapping]] = ..., snapshot: _Optional[_Union[SnapshotExchange, _Mapping]] = ...) -> None: ...

class PeerHello(_message.Message):
    __slots__ = ("cluster_id", "node_id", "incarnation", "protocol", "version", "client_address", "quarantined", "quarantine_digest", "birth")
    CLUSTER_ID_FIELD_NUMBER: _ClassVar[int]
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    CLIENT_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    QUARANTINED_FIELD_NUMBER: _ClassVar[int]
    QUARANTINE_DIGEST_FIELD_NUMBER: _ClassVar[int]
    BIRTH_FIELD_NUMBER: _ClassVar[int]
    cluster_id: bytes
    node_id: str
    incarnation: bytes
    protocol: int
    version: str
    client_address: str
    quarantined: _containers.RepeatedCompositeFieldContainer[QuarantinedCommand]
    quarantine_digest: bytes
    birth: bytes
    def __init__(self, cluster_id: _Optional[bytes] = ..., node_id: _Optional[str] = ..., incarnation: _Optional[bytes] = ..., protocol: _Optional[int] = ..., version: _Optional[str] = ..., client_address: _Optional[str] = ..., quarantined: _Optional[_Iterable[_Union[QuarantinedCommand, _Mapping]]] = ..., quarantine_digest: _Optional[bytes] = ..., birth: _Optional[bytes] = ...) -> None: ...

class QuarantinedCommand(_message.Message):
    __slots__ = ("index", "ordinal")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    ORDINAL_FIELD_NUMBER: _ClassVar[int]
    index: int
    ordinal: int
    def __init__(self, index: _Optional[int] = ..., ordinal: _Optional[int] = ...) -> None: ...

class RaftEntry(_message.Message):
    __slots__ = ("index", "term", "payload")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    TERM_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    index: int
    term: int
    payload: bytes
    def __init__(self, index: _Optional[int] = ..., term: _Optional[int] = ..., payload: _Optional[bytes] = ...) -> None: ...

class AppendEntries(_message.Message):
    __slots__ = ("term", "prev_index", "prev_term", "commit_index", "entries", "round", "clock_ns", "probe_echo_ns", "digest_index", "digest")
    TERM_FIELD_NUMBER: _ClassVar[int]
    PREV_INDEX_FIELD_NUMBER: _ClassVar[int]
    PREV_TERM_FIELD_NUMBER: _ClassVar[int]
    COMMIT_INDEX_FIELD_NUMBER: _ClassVar[int]
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    CLOCK_NS_FIELD_NUMBER: _ClassVar[int]
    PROBE_ECHO_NS_FIELD_NUMBER: _ClassVar[int]
    DIGEST_INDEX_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    term: int
    prev_index: int
    prev_term: int
    commit_index: int
    entries: _containers.RepeatedCompositeFieldContainer[RaftEntry]
    round: int
    clock_ns: int
    probe_echo_ns: int
    digest_index: int
    digest: bytes
    def __init__(self, term: _Optional[int] = ..., prev_index: _Optional[int] = ..., prev_term: _Optional[int] = ..., commit_index: _Optional[int] = ..., entries: _Optional[_Iterable[_Union[RaftEntry, _Mapping]]] = ..., round: _Optional[int] = ..., clock_ns: _Optional[int] = ..., probe_echo_ns: _Optional[int] = ..., digest_index: _Optional[int] = ..., digest: _Optional[bytes] = ...) -> None: ...

class AppendAck(_message.Message):
    __slots__ = ("term", "success", "match_index", "round", "digest_index", "digest", "fsync_us", "clock_ns", "probe_ns", "applied_index", "unfit")
    TERM_FIELD_NUMBER: _ClassVar[int]
    SUCCESS_FIELD_NUMBER: _ClassVar[int]
    MATCH_INDEX_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    DIGEST_INDEX_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    FSYNC_US_FIELD_NUMBER: _ClassVar[int]
    CLOCK_NS_FIELD_NUMBER: _ClassVar[int]
    PROBE_NS_FIELD_NUMBER: _ClassVar[int]
    APPLIED_INDEX_FIELD_NUMBER: _ClassVar[int]
    UNFIT_FIELD_NUMBER: _ClassVar[int]
    term: int
    success: bool
    match_index: int
    round: int
    digest_index: int
    digest: bytes
    fsync_us: int
    clock_ns: int
    probe_ns: int
    applied_index: int
    unfit: bool
    def __init__(self, term: _Optional[int] = ..., success: _Optional[bool] = ..., match_index: _Optional[int] = ..., round: _Optional[int] = ..., digest_index: _Optional[int] = ..., digest: _Optional[bytes] = ..., fsync_us: _Optional[int] = ..., clock_ns: _Optional[int] = ..., probe_ns: _Optional[int] = ..., applied_index: _Optional[int] = ..., unfit: _Optional[bool] = ...) -> None: ...

class PreVote(_message.Message):
    __slots__ = ("term", "last_index", "last_term", "clock_ns")
    TERM_FIELD_NUMBER: _ClassVar[int]
    LAST_INDEX_FIELD_NUMBER: _ClassVar[int]
    LAST_TERM_FIELD_NUMBER: _ClassVar[int]
    CLOCK_NS_FIELD_NUMBER: _ClassVar[int]
    term: int
    last_index: int
    last_term: int
    clock_ns: int
    def __init__(self, term: _Optional[int] = ..., last_index: _Optional[int] = ..., last_term: _Optional[int] = ..., clock_ns: _Optional[int] = ...) -> None: ...

class PreVoteReply(_message.Message):
    __slots__ = ("term", "granted", "clock_ns")
    TERM_FIELD_NUMBER: _ClassVar[int]
    GRANTED_FIELD_NUMBER: _ClassVar[int]
    CLOCK_NS_FIELD_NUMBER: _ClassVar[int]
    term: int
    granted: bool
    clock_ns: int
    def __init__(self, term: _Optional[int] = ..., granted: _Optional[bool] = ..., clock_ns: _Optional[int] = ...) -> None: ...

class RequestVote(_message.Message):
    __slots__ = ("term", "last_index", "last_term", "transfer")
    TERM_FIELD_NUMBER: _ClassVar[int]
    LAST_INDEX_FIELD_NUMBER: _ClassVar[int]
    LAST_TERM_FIELD_NUMBER: _ClassVar[int]
    TRANSFER_FIELD_NUMBER: _ClassVar[int]
    term: int
    last_index: int
    last_term: int
    transfer: bool
    def __init__(self, term: _Optional[int] = ..., last_index: _Optional[int] = ..., last_term: _Optional[int] = ..., transfer: _Optional[bool] = ...) -> None: ...

class VoteReply(_message.Message):
    __slots__ = ("term", "granted")
    TERM_FIELD_NUMBER: _ClassVar[int]
    GRANTED_FIELD_NUMBER: _ClassVar[int]
    term: int
    granted: bool
    def __init__(self, term: _Optional[int] = ..., granted: _Optional[bool] = ...) -> None: ...

class TermNotice(_message.Message):
    __slots__ = ("term",)
    TERM_FIELD_NUMBER: _ClassVar[int]
    term: int
    def __init__(self, term: _Optional[int] = ...) -> None: ...

class TimeoutNow(_message.Message):
    __slots__ = ("term",)
    TERM_FIELD_NUMBER: _ClassVar[int]
    term: int
    def __init__(self, term: _Optional[int] = ...) -> None: ...

class CheckpointOffer(_message.Message):
    __slots__ = ("term", "checkpoint_id", "index", "last_term", "digest", "membership", "membership_index", "bytes_total", "last_stamp_ns", "round")
    TERM_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_ID_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    LAST_TERM_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    MEMBERSHIP_FIELD_NUMBER: _ClassVar[int]
    MEMBERSHIP_INDEX_FIELD_NUMBER: _ClassVar[int]
    BYTES_TOTAL_FIELD_NUMBER: _ClassVar[int]
    LAST_STAMP_NS_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    term: int
    checkpoint_id: str
    index: int
    last_term: int
    digest: bytes
    membership: _entry_pb2.ConfigEntry
    membership_index: int
    bytes_total: int
    last_stamp_ns: int
    round: int
    def __init__(self, term: _Optional[int] = ..., checkpoint_id: _Optional[str] = ..., index: _Optional[int] = ..., last_term: _Optional[int] = ..., digest: _Optional[bytes] = ..., membership: _Optional[_Union[_entry_pb2.ConfigEntry, _Mapping]] = ..., membership_index: _Optional[int] = ..., bytes_total: _Optional[int] = ..., last_stamp_ns: _Optional[int] = ..., round: _Optional[int] = ...) -> None: ...

class CheckpointPiece(_message.Message):
    __slots__ = ("term", "checkpoint_id", "offset", "content", "crc", "round")
    TERM_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_ID_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    CRC_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    term: int
    checkpoint_id: str
    offset: int
    content: bytes
    crc: int
    round: int
    def __init__(self, term: _Optional[int] = ..., checkpoint_id: _Optional[str] = ..., offset: _Optional[int] = ..., content: _Optional[bytes] = ..., crc: _Optional[int] = ..., round: _Optional[int] = ...) -> None: ...

class CheckpointAck(_message.Message):
    __slots__ = ("term", "checkpoint_id", "offset", "installed", "rejected", "message", "round")
    TERM_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_ID_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    INSTALLED_FIELD_NUMBER: _ClassVar[int]
    REJECTED_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    term: int
    checkpoint_id: str
    offset: int
    installed: bool
    rejected: bool
    message: str
    round: int
    def __init__(self, term: _Optional[int] = ..., checkpoint_id: _Optional[str] = ..., offset: _Optional[int] = ..., installed: _Optional[bool] = ..., rejected: _Optional[bool] = ..., message: _Optional[str] = ..., round: _Optional[int] = ...) -> None: ...

class ChunkRequest(_message.Message):
    __slots__ = ("hashes",)
    HASHES_FIELD_NUMBER: _ClassVar[int]
    hashes: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, hashes: _Optional[_Iterable[bytes]] = ...) -> None: ...

class ChunkReply(_message.Message):
    __slots__ = ("chunks",)
    CHUNKS_FIELD_NUMBER: _ClassVar[int]
    chunks: _containers.RepeatedCompositeFieldContainer[Chunk]
    def __init__(self, chunks: _Optional[_Iterable[_Union[Chunk, _Mapping]]] = ...) -> None: ...

class Chunk(_message.Message):
    __slots__ = ("hash", "content", "absent")
    HASH_FIELD_NUMBER: _ClassVar[int]
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    ABSENT_FIELD_NUMBER: _ClassVar[int]
    hash: bytes
    content: bytes
    absent: bool
    def __init__(self, hash: _Optional[bytes] = ..., content: _Optional[bytes] = ..., absent: _Optional[bool] = ...) -> None: ...

class SnapshotExchange(_message.Message):
    __slots__ = ("request", "reply")
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    REPLY_FIELD_NUMBER: _ClassVar[int]
    request: SnapshotRequest
    reply: SnapshotReply
    def __init__(self, request: _Optional[_Union[SnapshotRequest, _Mapping]] = ..., reply: _Optional[_Union[SnapshotReply, _Mapping]] = ...) -> None: ...

class SnapshotRequest(_message.Message):
    __slots__ = ("workspace_id", "log_index", "pages")
    WORKSPACE_ID_FIELD_NUMBER: _ClassVar[int]
    LOG_INDEX_FIELD_NUMBER: _ClassVar[int]
    PAGES_FIELD_NUMBER: _ClassVar[int]
    workspace_id: bytes
    log_index: int
    pages: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, workspace_id: _Optional[bytes] = ..., log_index: _Optional[int] = ..., pages: _Optional[_Iterable[bytes]] = ...) -> None: ...

class SnapshotReply(_message.Message):
    __slots__ = ("workspace_id", "log_index", "manifest", "pages")
    WORKSPACE_ID_FIELD_NUMBER: _ClassVar[int]
    LOG_INDEX_FIELD_NUMBER: _ClassVar[int]
    MANIFEST_FIELD_NUMBER: _ClassVar[int]
    PAGES_FIELD_NUMBER: _ClassVar[int]
    workspace_id: bytes
    log_index: int
    manifest: _snapshot_pb2.SignedManifest
    pages: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, workspace_id: _Optional[bytes] = ..., log_index: _Optional[int] = ..., manifest: _Optional[_Union[_snapshot_pb2.SignedManifest, _Mapping]] = ..., pages: _Optional[_Iterable[bytes]] = ...) -> None: ...

class PeerMessage(_message.Message):
    __slots__ = ("frames",)
    FRAMES_FIELD_NUMBER: _ClassVar[int]
    frames: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, frames: _Optional[_Iterable[bytes]] = ...) -> None: ...
