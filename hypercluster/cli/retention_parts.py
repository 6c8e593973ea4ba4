"""The parts of a node that bound what is kept, put together (WS-53, WS-54).

Owns: their wiring, in straight lines, beside that of cli/serve.py. Never: logic.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

from hypercluster.cli.node_settings import retention_settings
from hypercluster.config import Config
from hypercluster.credentials.tls import ReloadingFiles
from hypercluster.limits import DISK_LOW_BYTES
from hypercluster.node.archiving import Archiving
from hypercluster.node.chunk_bytes import ChunkBytes
from hypercluster.node.collection import Collection
from hypercluster.node.fanout import OpLog
from hypercluster.node.opening import OpenDirectory
from hypercluster.node.own_lane import OwnLane
from hypercluster.node.proposer import Proposer
from hypercluster.node.reads import Reads
from hypercluster.node.retention import Retention, settings_of_workspaces
from hypercluster.node.standing import Standing
from hypercluster.node.tree_snapshots import TreeSnapshots
from hypercluster.raft.engine import Clock
from hypercluster.rpc.scoped import workspace_of
from hypercluster.rpc.snapshots import SnapshotCalls, SnapshotParts
from hypercluster.telemetry.metrics import Metrics


class RetentionParts:
    """`snapshots` is there before the apply loop is; the schedule comes with `start`."""

    def __init__(
        self,
        config: Config,
        directory: OpenDirectory,
        files: ReloadingFiles,
        loop: asyncio.AbstractEventLoop,
        clock: Clock,
        metrics: Metrics,
        on_fatal: Callable[[BaseException], None],
    ) -> None:
        self._config = config
        self._clock = clock
        self._metrics = metrics
        self._reader = directory.storage.store
        self._history_id = directory.identity.history_id
        self.snapshots = TreeSnapshots(
            directory.snapshots,
            directory.storage.store,
            directory.storage.store.hold,
            directory.runners.retention,
            loop,
            metrics,
            directory.identity.history_id,
            lambda: files.current().pair,
            on_fatal,
            bytes_per_s=config.retention.snapshot_bytes_per_s,
            has_room=lambda: directory.storage.free_bytes() > 2 * DISK_LOW_BYTES,
        )
        storage = directory.storage
        self.chunk_bytes = ChunkBytes(
            storage.chunks,
            storage.store,
            directory.runners.chunks,
            clock,
            metrics,
            applied_index=lambda: storage.store.applied.index,
            durable_index=storage.durable_index,
            receiving=storage.receiving,
            on_fatal=on_fatal,
        )
        self.archiving = Archiving(
            directory.archive,
            directory.storage.store.hold,
            directory.runners.retention,
            clock,
            metrics,
            on_fatal,
        )

    def start(self, proposer: Proposer, standing: Standing) -> None:
        """What the leader proposes."""
        clock = self._clock
        settings_of = settings_of_workspaces(self._reader, retention_settings(self._config))
        self.schedule = Retention(
            OwnLane(proposer, standing), standing, self._reader, clock, self._metrics, settings_of
        )
        self.collection = Collection(
            OwnLane(proposer, standing),
            standing,
            self._reader,
            clock,
            self._metrics,
            self._config.retention.collect_chunks_per_s,
        )

    def calls(self, reads: Reads, standing: Standing, op_log: OpLog) -> SnapshotCalls:
        """What clients may ask of it."""
        parts = SnapshotParts(
            self._reader,
            reads,
            standing,
            op_log,
            self.snapshots.store,
            self.schedule,
            lambda: self.collection.progress,
            self.archiving.archive,
            lambda: self.chunk_bytes.freed_bytes,
            self._history_id,
            partial(workspace_of, self._reader),
        )
        return SnapshotCalls(parts)

    def looks(self) -> tuple[Callable[[], None], ...]:
        """What the lifecycle calls now and then."""
        return self.schedule.look, self.collection.look, self.snapshots.look, self.archiving.look, self.chunk_bytes.look

    def close(self) -> None:
        self.chunk_bytes.close()
        self.snapshots.close()
