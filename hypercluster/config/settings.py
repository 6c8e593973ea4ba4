"""Every setting of a node with its default.

Owns: the sections, the `Config` they make, and the ranges of numbers.
Never: reads files, judges a value.
Invariants: names are what stands in the file; units come last; an empty file is a Config of defaults.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hypercluster import limits


@dataclass(frozen=True, slots=True)
class NodeConfig:
    id: str = ""
    data: str = ""


@dataclass(frozen=True, slots=True)
class ListenConfig:
    """host:port each. `client_public` and `peer_public` are what others dial; '' means the listen address."""

    client: str = "127.0.0.1:7801"
    peer: str = "127.0.0.1:7802"
    admin: str = "127.0.0.1:7803"
    client_public: str = ""


@dataclass(frozen=True, slots=True)
class TlsConfig:
    """PEM files. Nothing listens to clients or peers without them."""

    ca: str = ""
    cert: str = ""
    key: str = ""


@dataclass(frozen=True, slots=True)
class ClusterConfig:
    """`voters` 0 takes the number the data directory was initialised with."""

    voters: int = 0


@dataclass(frozen=True, slots=True)
class RaftConfig:
    heartbeat_ms: int = limits.HEARTBEAT_MS
    election_min_ms: int = limits.ELECTION_MIN_MS
    election_max_ms: int = limits.ELECTION_MAX_MS
    clock_skew_max_ms: int = limits.CLOCK_SKEW_MAX_MS
    log_keep_entries: int = limits.LOG_KEEP_ENTRIES
    checkpoint_every_entries: int = limits.LOG_KEEP_ENTRIES


@dataclass(frozen=True, slots=True)
class BatchConfig:
    """WS-30."""

    window_ms: int = limits.BATCH_WINDOW_MS
    ops_max: int = limits.BATCH_OPS_MAX
    bytes_max: int = limits.BATCH_BYTES_MAX


@dataclass(frozen=True, slots=True)
class RateConfig:
    """WS-34, a worker."""

    ops_per_s: int = limits.RATE_OPS_PER_S
    bytes_per_s: int = limits.RATE_BYTES_PER_S
    burst_ops: int = limits.RATE_BURST_OPS
    quarantine_ms: int = limits.QUARANTINE_MS


@dataclass(frozen=True, slots=True)
class AccessConfig:
    """Client names that may do what changes the cluster itself; empty: every client of the cluster."""

    operators: tuple[str, ...] = ()
    # Client names that may change the members of the cluster; empty: nobody. `cluster init` and `dev` put theirs here.
    admins: tuple[str, ...] = ()
    # The scope (D-20) that every client of this cluster acts in.
    org: str = "default"
    project: str = "default"


@dataclass(frozen=True, slots=True)
class RetentionConfig:
    """WS-53, WS-54, D-18. The schedule is the leader's; archive and speed of writing are each node's own."""

    snapshot_every_s: int = limits.SNAPSHOT_EVERY_S
    snapshots_kept: int = limits.SNAPSHOTS_KEPT
    snapshot_bytes_per_s: int = limits.SNAPSHOT_BYTES_PER_S
    oplog_keep_s: int = limits.OPLOG_KEEP_S
    oplog_keep_ops: int = limits.OPLOG_KEEP_OPS
    oplog_bytes_max: int = limits.OPLOG_BYTES_MAX
    archive_keep_days: int = limits.ARCHIVE_KEEP_DAYS
    archive_bytes_max: int = limits.ARCHIVE_BYTES_MAX
    collect_chunks_per_s: int = limits.COLLECT_CHUNKS_PER_S
    versions_bytes_max: int = limits.VERSIONS_BYTES_MAX


@dataclass(frozen=True, slots=True)
class LogConfig:
    level: str = "info"


@dataclass(frozen=True, slots=True)
class Config:
    node: NodeConfig = field(default_factory=NodeConfig)
    listen: ListenConfig = field(default_factory=ListenConfig)
    tls: TlsConfig = field(default_factory=TlsConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    raft: RaftConfig = field(default_factory=RaftConfig)
    batch: BatchConfig = field(default_factory=BatchConfig)
    rate: RateConfig = field(default_factory=RateConfig)
    access: AccessConfig = field(default_factory=AccessConfig)
    retention: RetentionConfig = field(default_factory=RetentionConfig)
    log: LogConfig = field(default_factory=LogConfig)

    def client_address(self) -> str:
        """What clients dial to reach this node."""
        return self.listen.client_public or self.listen.client


SECTIONS: Mapping[str, type[Any]] = {
    "node": NodeConfig,
    "listen": ListenConfig,
    "tls": TlsConfig,
    "cluster": ClusterConfig,
    "raft": RaftConfig,
    "batch": BatchConfig,
    "rate": RateConfig,
    "access": AccessConfig,
    "retention": RetentionConfig,
    "log": LogConfig,
}

# Smallest and largest value of every number; a test proves that none is missing.
RANGES: Mapping[str, tuple[int, int]] = {
    "raft.heartbeat_ms": (10, 10_000),
    "raft.election_min_ms": (30, 60_000),
    "raft.election_max_ms": (31, 120_000),
    "raft.clock_skew_max_ms": (10, 60_000),
    "raft.log_keep_entries": (100, 100_000_000),
    "raft.checkpoint_every_entries": (100, 100_000_000),
    "batch.window_ms": (0, 1_000),
    "batch.ops_max": (1, 4_096),
    "batch.bytes_max": (1_024, limits.BATCH_BYTES_MAX),
    "rate.ops_per_s": (1, 10_000_000),
    "rate.bytes_per_s": (limits.CHUNK_BYTES_MAX, 1 << 40),
    "rate.burst_ops": (1, 10_000_000),
    "rate.quarantine_ms": (0, 3_600_000),
    "retention.snapshot_every_s": (1, 30 * 86_400),
    "retention.snapshots_kept": (1, limits.SNAPSHOTS_MAX - 1),
    "retention.snapshot_bytes_per_s": (limits.MIB, 1 << 40),
    "retention.oplog_keep_s": (0, 3_650 * 86_400),
    "retention.oplog_keep_ops": (1, 1 << 40),
    "retention.oplog_bytes_max": (limits.MIB, 1 << 50),
    "retention.archive_keep_days": (0, 36_500),
    "retention.archive_bytes_max": (limits.MIB, 1 << 50),
    "retention.collect_chunks_per_s": (1, 100_000),
    "retention.versions_bytes_max": (limits.MIB, 1 << 50),
}
