"""What judging a command answers, and what applying an entry returns.

Owns: `FileOutcome`, `HubOutcome`, and the results of a run, a group and an entry. `reason` is always a number
of `hypercluster.v1.Reason`; a refusal is a value here, never an exception (D-4).
Never: state. What a refusal carries beyond its reason is an errno and an index (D-7).
Invariants: columns are either empty, which means all zero, or as long as the run; a retry yields outcomes equal to
the first ones, field by field.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from hypercluster.pb.v1 import command_pb2
from hypercluster.state_machine.coordination.events import CoordinationEvent
from hypercluster.state_machine.store import Change
from hypercluster.values import ClientId, Digest, Index, Nanos, Scope, Term

OK = int(command_pb2.REASON_OK)
PRECONDITION_FAILED = int(command_pb2.REASON_PRECONDITION_FAILED)
ERRNO = int(command_pb2.REASON_ERRNO)
UNKNOWN_NAMESPACE = int(command_pb2.REASON_UNKNOWN_NAMESPACE)
BAD_OP_TYPE = int(command_pb2.REASON_BAD_OP_TYPE)
FENCED = int(command_pb2.REASON_FENCED)
LOCK_HELD_EXPIRING = int(command_pb2.REASON_LOCK_HELD_EXPIRING)
ABANDONED = int(command_pb2.REASON_ABANDONED)
NO_WORKSPACE = int(command_pb2.REASON_NO_WORKSPACE)
EXISTS = int(command_pb2.REASON_EXISTS)
LIMIT = int(command_pb2.REASON_LIMIT)
INTERNAL = int(command_pb2.REASON_INTERNAL)
IDEMPOTENCY_CONFLICT = int(command_pb2.REASON_IDEMPOTENCY_CONFLICT)
UNKNOWN = int(command_pb2.REASON_UNKNOWN)
FORBIDDEN = int(command_pb2.REASON_FORBIDDEN)
SEQ_GAP = int(command_pb2.REASON_SEQ_GAP)
CHUNKS_MISSING = int(command_pb2.REASON_CHUNKS_MISSING)
SCHEMA_CHANGED = int(command_pb2.REASON_SCHEMA_CHANGED)

NOT_YET = frozenset({SEQ_GAP, CHUNKS_MISSING, SCHEMA_CHANGED})  # not stored, the lane does not advance (D-7)


class LockGrant(NamedTuple):
    """What a lock or reservation command came to: see LockAck in the proto. Stored with the verdict (D-7)."""

    state: int  # a number of LockState
    lock_id: int
    token: int = 0
    cycle: tuple[int, ...] = ()  # of a refusal; never stored


class HazardFound(NamedTuple):
    """See Hazard in the proto."""

    kind: int
    conflicting_log_index: int


class FileOutcome(NamedTuple):
    """The verdict on a file, chunk, lock or reservation command, or on the making of a workspace: see FileAck."""

    reason: int = OK
    errno: int = 0
    log_index: int = 0
    stamp_ns: int = 0
    root: bytes = b""
    inode_id: bytes = b""
    inode_no: int = 0
    applied_offset: int = 0
    present_index: int = 0
    missing: tuple[bytes, ...] = ()
    existed: bool = False
    lock: LockGrant | None = None
    hazard: HazardFound | None = None  # told to who did it, and kept in the op log


class MarkedSnapshot(NamedTuple):
    """A workspace snapshot that an entry marked: the tree as it is once the entry's changes are written (WS-53)."""

    workspace_id: bytes
    log_index: int
    root: bytes


class TrimmedLog(NamedTuple):
    """Op log records that an entry removes: so many, from the one that begins with `first_index` on."""

    workspace_id: bytes
    first_index: int
    records: int


class HubOutcome(NamedTuple):
    """The verdict on a hub or maintenance command; `version` is the server_seq of the key's present value."""

    reason: int
    version: int


Outcome = FileOutcome | HubOutcome


@dataclass(frozen=True, slots=True)
class RunResult:
    """Results of consecutive commands of one lane that were judged at one Raft index: one `Acks` message."""

    first_seq: int
    count: int
    index: Index  # where they were judged; for a retry, where they were judged first
    reasons: Sequence[int] = ()
    versions: Sequence[int] = ()
    files: Sequence[FileOutcome | None] = ()  # None in the place of a hub command


class GroupResult(NamedTuple):
    """Results of one group, in seq order; more than one run only when the group holds retries."""

    client_id: ClientId
    runs: tuple[RunResult, ...]


@dataclass(frozen=True, slots=True)
class Applied:
    """Everything one entry did. The shell writes `changes` before the next entry is applied."""

    index: Index
    term: Term
    digest: Digest
    last_stamp_ns: Nanos
    changes: list[Change]
    groups: tuple[GroupResult, ...] = ()
    chunks: Mapping[bytes, bytes] = field(default_factory=dict)  # hash -> plain bytes
    log_batches: Mapping[bytes, bytes] = field(default_factory=dict)  # workspace_id -> LogBatch
    hub_batches: Mapping[Scope, bytes] = field(default_factory=dict)  # scope -> op log record (oplog.py)
    events: Sequence[tuple[bytes, CoordinationEvent]] = ()  # (workspace_id, what happened), in order
    absent: Mapping[bytes, int] = field(default_factory=dict)  # hash -> length of chunks that a workspace lost
    trimmed: Sequence[TrimmedLog] = ()  # in the store until these changes are written
    snapshots: Sequence[MarkedSnapshot] = ()  # to be taken of the state as these changes leave it
