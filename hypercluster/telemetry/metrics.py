"""Every metric name of a node, in one place (OBS-1, OBS-5).

Owns: the registry and the instruments. Names the specification uses verbatim stand as they are; the others are
hypercluster_…_seconds, …_bytes, …_total.
Never: labels without a bound (no client, path or trace id).
Invariants: observing costs about a microsecond and is done per batch or sync, not per command; each node has a
registry of its own, so that several can live in one process.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
_OPS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
_BYTES = (256, 1024, 4096, 16384, 65536, 262144, 1048576, 4194304)
_MS = (0.1, 0.25, 0.5, 1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """The instruments of one node."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry(auto_describe=True)

        def counter(name: str, words: str, labels: tuple[str, ...] = ()) -> Counter:
            return Counter(name, words, labels, registry=registry)

        def gauge(name: str, words: str, labels: tuple[str, ...] = ()) -> Gauge:
            return Gauge(name, words, labels, registry=registry)

        def histogram(name: str, words: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(name, words, buckets=buckets, registry=registry)

        self.batch_size = histogram("batch_size", "Commands in a batch", _OPS)
        self.batch_bytes = histogram("batch_bytes", "Bytes of a batch", _BYTES)
        self.batch_latency_ms = histogram("batch_latency_ms", "From the first command's arrival to its answer", _MS)
        self.forced_flush_count = counter("forced_flush_count", "Batches closed by an fsync command")
        self.rate_limit_rejections = counter("rate_limit_rejections", "Messages turned away by a token bucket")
        self.quarantines = counter("hypercluster_quarantines", "Workers quarantined for ignoring their pauses")
        self.intent_rate = gauge("intent_rate", "Commands admitted a second, over the last second measured")

        self.commands = counter("hypercluster_commands", "Commands answered, by reason", ("reason",))
        self.pending_commands = gauge("hypercluster_pending_commands", "Commands admitted and not yet answered")
        self.pending_bytes = gauge("hypercluster_pending_bytes", "Bytes of commands admitted and not yet answered")
        self.held_bytes = gauge("hypercluster_held_bytes", "Bytes held back behind a gap of their lane")
        self.apply_seconds = histogram("hypercluster_apply_seconds", "Apply and store of one entry", _SECONDS)
        self.entries_applied = counter("hypercluster_entries_applied", "Entries applied")
        self.applied_index = gauge("hypercluster_applied_index", "Raft index applied here")
        self.commit_index = gauge("hypercluster_commit_index", "Raft index known to be committed")
        self.flushed_index = gauge("hypercluster_flushed_index", "Raft index a restart would find in the state store")
        self.term = gauge("hypercluster_term", "Raft term")
        self.is_leader = gauge("hypercluster_is_leader", "1 on the leader")
        self.leader_changes = counter("hypercluster_leader_changes", "Leaders seen to take over")
        self.peer_lag_entries = gauge("hypercluster_peer_lag_entries", "Entries a peer is behind the leader", ("peer",))
        self.fsync_seconds = histogram("hypercluster_fsync_seconds", "Syncs of the write-ahead log", _SECONDS)
        self.reads = counter("hypercluster_reads", "Reads served, by level", ("level",))
        self.read_wait_seconds = histogram("hypercluster_read_wait_seconds", "Wait of a read for its index", _SECONDS)
        self.watchers = gauge("hypercluster_watchers", "Open watches of workspace logs")
        self.watch_cutovers = counter("hypercluster_watch_cutovers", "Slow watchers cut over to the op log")
        self.workers = gauge("hypercluster_workers", "Workers that have a session with this node")
        self.snapshots_marked = counter("hypercluster_snapshots_marked", "Workspace snapshots marked in the log")
        self.snapshots_stored = counter("hypercluster_snapshots_stored", "Workspace snapshots written by this node")
        self.snapshots_fetched = counter(
            "hypercluster_snapshots_fetched", "Workspace snapshots fetched from another node"
        )
        self.snapshots_served = counter(
            "hypercluster_snapshot_bytes_served", "Bytes of workspace snapshots sent to other nodes that lacked them"
        )
        self.snapshot_bytes = gauge("hypercluster_snapshot_bytes", "Bytes of workspace snapshots on this node's disk")
        self.oplog_early_trims = counter("hypercluster_oplog_early_trims", "Trims of an op log over its budget")
        self.archive_bytes = gauge("hypercluster_archive_bytes", "Bytes of archived op logs on this node's disk")
        self.archive_early_drops = counter("hypercluster_archive_early_drops", "Archive segments dropped over budget")
        self.gc_candidates = gauge("hypercluster_gc_candidates", "Chunks the last full round found to be unreachable")
        self.gc_examined = counter("hypercluster_gc_examined", "Chunk records looked at by the collection")
        self.gc_chunks = counter("hypercluster_gc_chunks", "Chunks that workspaces lost to the collection")
        self.gc_bytes = counter("hypercluster_gc_bytes", "Bytes of those")
        self.gc_freed_bytes = counter("hypercluster_gc_freed_bytes", "Bytes of chunks deleted from this node's disk")
        self.locks = gauge("hypercluster_locks", "Locks and waits of the whole cluster, on the leader", ("state",))
        self.renewals = counter("hypercluster_renewals", "Leases of renewals answered, by what was said", ("state",))
        self.lease_steps = counter("hypercluster_lease_steps", "Logged moves of leases, by what ended", ("ended",))
        self.open_leases = gauge("hypercluster_open_leases", "Inodes that workers hold open for long, on the leader")
        self.reaped = counter("hypercluster_reaped", "Orphans that this leader had removed")
        self.hazards = counter("hypercluster_hazards", "Operations that may have undone another", ("kind",))
        self.event_watchers = gauge("hypercluster_event_watchers", "Open watches of locks and hazards")
        self.event_resyncs = counter("hypercluster_event_resyncs", "Slow watchers given the present list of locks")
        self.loop_lag_seconds = histogram("hypercluster_loop_lag_seconds", "How late the event loop woke", _SECONDS)
        self.disk_free_bytes = gauge("hypercluster_disk_free_bytes", "Free bytes below the data directory")
        self.rpcs = counter("hypercluster_rpcs", "RPCs ended, by method and status", ("method", "code"))
        self.rpcs_open = gauge("hypercluster_rpcs_open", "RPCs open, by method", ("method",))
        self.started_at_seconds = gauge("hypercluster_started_at_seconds", "Start of the process, seconds since 1970")

    def page(self) -> bytes:
        """The Prometheus text format."""
        return generate_latest(self.registry)
