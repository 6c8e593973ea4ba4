"""What a node says of itself: for `status`, /ready and the metrics page.

Owns: `NodeReport` and the gathering of it; since when this node has known its leader.
Never: waits for anything; a report is one moment as this node sees it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from hypercluster.node.standing import Standing
from hypercluster.node.worker_table import WorkerTable
from hypercluster.raft.engine import Clock, EngineStatus
from hypercluster.telemetry.metrics import Metrics
from hypercluster.telemetry.percentiles import Percentiles
from hypercluster.values import ZERO_DIGEST, ClusterId, Digest, HistoryId, Index, NodeId, Role, Term

READY_LAG_ENTRIES = 1_000


@dataclass(frozen=True, slots=True)
class NodeReport:
    engine: EngineStatus
    digest: Digest
    client_addresses: Mapping[NodeId, str]
    cluster_id: ClusterId
    history_id: HistoryId
    version: str
    disk_free_bytes: int
    disk_total_bytes: int
    fsync_p95_us: int
    commit_p50_us: int
    commit_p99_us: int
    started_at_ns: int
    leader_since_ns: int
    problems: Mapping[NodeId, str]  # why there is no stream with a member
    quarantined: Sequence[tuple[Index, int | None]]
    workers_connected: int
    worker_problems: Sequence[str]  # of workers that stopped at an operation (WS-5)


@dataclass(frozen=True, slots=True)
class Fixed:
    """What does not change while the process lives."""

    cluster_id: ClusterId
    history_id: HistoryId
    version: str
    data_directory: str
    quarantined: Sequence[tuple[Index, int | None]] = ()  # commands refused as INTERNAL (CL-16)


class Reporter:
    def __init__(
        self,
        standing: Standing,
        fixed: Fixed,
        clock: Clock,
        metrics: Metrics,
        fsync_times: Percentiles,
        *,
        digest_at: Callable[[Index], Digest | None],
        flushed_index: Callable[[], Index],
        client_address: Callable[[NodeId], str],
        workers: WorkerTable,
        peer_problem: Callable[[NodeId], str] = lambda _: "",
    ) -> None:
        self._standing = standing
        self._fixed = fixed
        self._clock = clock
        self._metrics = metrics
        self._fsync_times = fsync_times
        self._digest_at = digest_at
        self._flushed_index = flushed_index
        self._client_address = client_address
        self._workers = workers
        self._peer_problem = peer_problem
        self._started_at_ns = clock.wall_ns()
        self._leader: tuple[NodeId | None, Term] = (None, Term(0))
        self._leader_since_ns = 0
        metrics.started_at_seconds.set(self._started_at_ns / 1e9)

    def observe(self) -> EngineStatus:
        """Called now and then by the lifecycle: notes a new leader and sets the gauges."""
        status = self._standing.status_now()
        if (status.leader, status.term) != self._leader:
            self._leader = (status.leader, status.term)
            self._leader_since_ns = self._clock.wall_ns() if status.leader is not None else 0
            if status.leader is not None:
                self._metrics.leader_changes.inc()
        metrics = self._metrics
        metrics.term.set(status.term)
        metrics.is_leader.set(status.role is Role.LEADER)
        metrics.commit_index.set(status.commit_index)
        metrics.applied_index.set(status.applied_index)
        metrics.flushed_index.set(self._flushed_index())
        for peer in status.peers:
            metrics.peer_lag_entries.labels(peer.node_id).set(max(0, status.last_index - peer.match_index))
        return status

    def not_ready(self) -> str:
        """'' when this node is caught up and knows a leader; otherwise what is missing (OBS-2)."""
        status = self._standing.status_now()
        if status.leader is None:
            return "no leader is known"
        behind = status.commit_index - status.applied_index
        if behind > READY_LAG_ENTRIES:
            return f"{behind} committed entries are not applied yet"
        return ""

    def report(self, *, fresh: bool = False) -> NodeReport:
        """`fresh`: not even as old as the beginning of this turn of the loop."""
        if fresh:
            self._standing.forget()
        status = self.observe()
        now_s = self._clock.monotonic()
        (fsync_p95_us,) = self._fsync_times.read(now_s, 95)
        commit_p50_us, commit_p99_us = self._standing.commit_times.read(now_s, 50, 99)
        disk = os.statvfs(self._fixed.data_directory)
        self._metrics.disk_free_bytes.set(disk.f_bavail * disk.f_frsize)
        return NodeReport(
            engine=status,
            digest=self._digest_at(status.applied_index) or ZERO_DIGEST,
            client_addresses={m.node_id: self._client_address(m.node_id) for m in status.membership.members},
            cluster_id=self._fixed.cluster_id,
            history_id=self._fixed.history_id,
            version=self._fixed.version,
            disk_free_bytes=disk.f_bavail * disk.f_frsize,
            disk_total_bytes=disk.f_blocks * disk.f_frsize,
            fsync_p95_us=fsync_p95_us,
            commit_p50_us=commit_p50_us,
            commit_p99_us=commit_p99_us,
            started_at_ns=self._started_at_ns,
            leader_since_ns=self._leader_since_ns,
            problems={m.node_id: self._peer_problem(m.node_id) for m in status.membership.members},
            quarantined=self._fixed.quarantined,
            workers_connected=len(self._workers),
            worker_problems=self._workers.problems(),
        )
