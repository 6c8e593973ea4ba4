"""What an engine is given: its settings and everything it touches outside itself.

Owns: `EngineSettings` (an operator may change these; defaults are limits.py), `EngineParts` (clock, log, transport,
host and the other doors) and `Identity`.
Never: a default that reaches for a real clock, disk, socket or random generator; the caller wires those.
Invariants: times are consistent (checked when made); the library refuses to run otherwise.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from hypercluster import limits
from hypercluster.errors import check
from hypercluster.raft.engine import Checkpoints, ChunkSource, Clock, Host, PeerTransport, SyncRunner
from hypercluster.storage.wal.types import WriteAheadLog
from hypercluster.values import ClusterId, Incarnation, Index, Membership, NodeId


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """Milliseconds, bytes and entries, as the names say."""

    heartbeat_ms: int = limits.HEARTBEAT_MS
    election_min_ms: int = limits.ELECTION_MIN_MS
    election_max_ms: int = limits.ELECTION_MAX_MS
    fallback_ms: int = limits.FALLBACK_MS
    transfer_ms: int = limits.TRANSFER_MS
    commit_notice_ms: int = limits.COMMIT_NOTICE_MS
    clock_skew_max_ms: int = limits.CLOCK_SKEW_MAX_MS
    disk_full_retry_ms: int = limits.DISK_FULL_RETRY_MS
    append_bytes_max: int = limits.APPEND_FRAME_BYTES_MAX - limits.ENTRY_BYTES_MAX  # beyond a frame's first entry
    append_entries_max: int = limits.APPEND_ENTRIES_MAX
    in_flight_bytes_max: int = limits.PEER_IN_FLIGHT_BYTES_MAX
    log_keep_entries: int = limits.LOG_KEEP_ENTRIES
    log_keep_bytes: int = limits.LOG_KEEP_BYTES
    checkpoint_every_entries: int = limits.LOG_KEEP_ENTRIES
    checkpoint_every_bytes: int = limits.CHECKPOINT_EVERY_BYTES
    checkpoint_piece_bytes: int = limits.SNAPSHOT_PIECE_BYTES
    checkpoint_window_bytes: int = limits.CHECKPOINT_WINDOW_BYTES
    checkpoint_retry_ms: int = limits.CHECKPOINT_RETRY_MS
    promote_lag_entries_max: int = limits.PROMOTE_LAG_ENTRIES_MAX

    def __post_init__(self) -> None:
        check(self.election_min_ms > 3 * self.heartbeat_ms, "election_min_ms must exceed three heartbeats")
        check(self.election_max_ms > self.election_min_ms, "election_max_ms must exceed election_min_ms")
        check(self.fallback_ms > self.heartbeat_ms, "fallback_ms must exceed a heartbeat")
        check(self.append_bytes_max > 0 and self.append_entries_max > 0, "an append frame must hold an entry")


@dataclass(frozen=True, slots=True)
class Identity:
    """Who this node is (CL-15). `client_address` goes to peers as the leader hint."""

    cluster_id: ClusterId
    node_id: NodeId
    incarnation: Incarnation
    client_address: str = ""


@dataclass(frozen=True, slots=True)
class EngineParts:
    """Everything the engine touches. `initial` is the configuration a new data directory was made with; a checkpoint
    and the log win over it. `bulk` runs long jobs (verifying a checkpoint) that must not hold up `syncs`."""

    identity: Identity
    initial: Membership
    wal: WriteAheadLog
    host: Host
    checkpoints: Checkpoints
    chunks: ChunkSource
    transport: PeerTransport
    clock: Clock
    syncs: SyncRunner
    bulk: SyncRunner
    rng: random.Random
    wake: Callable[[], None]  # asks the owner's loop for a tick soon
    on_fatal: Callable[[BaseException], None]  # the engine has stopped by itself; called once
    flushed_index: Callable[[], Index]  # state up to here survives a power cut (CL-7)
    stamp_end: Callable[[bytes], int]  # a batch's committed_at_ns + command_count; 0 for other entries
    has_room: Callable[[], bool] | None = None  # None: after a full disk, try again now and then
