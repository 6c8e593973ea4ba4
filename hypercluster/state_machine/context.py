"""What a command may know while it is judged: the entry it stands in, who sent it, and the state.

Owns: `OpContext` and `Effects`. Everything here comes from the entry or the state; nothing from the node.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from hypercluster.state_machine.coordination.events import CoordinationEvent
from hypercluster.state_machine.outcome import MarkedSnapshot, TrimmedLog
from hypercluster.state_machine.overlay import Overlay
from hypercluster.values import ClientId, Index, Nanos, Scope, Seq, Term


@dataclass(slots=True)
class Effects:
    """What the shell does after the changes: content to store, records to fan out."""

    # hash -> plain bytes to put in the chunk store before the flush point passes this entry
    chunks: dict[bytes, bytes] = field(default_factory=dict)
    # workspace_id -> serialized LogRecord messages accepted by this entry, in order
    log_records: dict[bytes, list[bytes]] = field(default_factory=dict)
    # keys of the versions column, in order, that nobody needs once the versions floor has passed this entry (D-18)
    superseded: dict[bytes, None] = field(default_factory=dict)
    # key of a version this entry wrote -> whether what it follows is a deletion (a bit), and where that stands
    version_links: dict[bytes, tuple[int, bytes]] = field(default_factory=dict)
    # (workspace_id, what happened), in order: for whoever watches, and for the leader's lease timers
    events: list[tuple[bytes, CoordinationEvent]] = field(default_factory=list)
    # workspace_id -> Raft index and stamp of the command that asked for a snapshot at the end of this entry (WS-53)
    snapshot_marks: dict[bytes, tuple[int, int]] = field(default_factory=dict)
    # hash -> length of chunks that a workspace no longer has (WS-54)
    absent: dict[bytes, int] = field(default_factory=dict)
    # op log records that this entry removes
    trimmed: list[TrimmedLog] = field(default_factory=list)
    # the snapshots this entry marked, once it has ended
    marked: list[MarkedSnapshot] = field(default_factory=list)


@dataclass(slots=True)
class OpContext:
    """One command's surroundings. Mutable only so that a run of commands can reuse it."""

    overlay: Overlay
    effects: Effects
    index: Index
    term: Term
    ordinal: int  # position of the command in its entry, from 0
    stamp_ns: Nanos  # this command's committed_at: the entry's stamp + ordinal
    id_seed: bytes
    principal: str
    scope: Scope
    worker: str
    client_id: ClientId
    seq: Seq
    workspace_id: bytes  # as named by the Submit message; may be empty or unknown
    origin: bytes  # serialized Origin, as the client sent it; may be empty
    command: bytes = b""  # the serialized Command being judged, as the client sent it: the op log keeps it (WS-36)
