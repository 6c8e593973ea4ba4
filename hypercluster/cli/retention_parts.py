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
from hypercluster.node.snapshot_fetch import SnapshotFetch
from hypercluster.node.snapshot_serving import SnapshotServing
from hypercluster.node.standing import Standing
from hypercluster.node.tree_snapshots import TreeSnapshots
from hypercluster.pb.v1.peer_pb2 import SnapshotExchange
from hypercluster.raft.engine import Clock
from hypercluster.raft.side_frames import SideFrames
from hypercluster.rpc.scoped import workspace_of
from hypercluster.rpc.snapshots import SnapshotCalls, SnapshotParts
from hypercluster.telemetry.metrics import Metrics
from hypercluster.values import NodeId


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
        side: SideFrames,
    ) -> None:
        self._config = config
        self._clock = clock
        self._metrics = metrics
        self._reader = directory.storage.store
        self._history_id = directory.identity.history_id
        self._wire_snapshots(directory, files, loop, on_fatal, side)
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

    def _wire_snapshots(
        self,
        directory: OpenDirectory,
        files: ReloadingFiles,
        loop: asyncio.AbstractEventLoop,
        on_fatal: Callable[[BaseException], None],
        side: SideFrames,
    ) -> None:
        """What this node writes, what it has from others, and what it gives them: beside the loop in one thread."""
        storage, runner = directory.storage, directory.runners.retention
        bytes_per_s = self._config.retention.snapshot_bytes_per_s

        def has_room() -> bool:
            return storage.free_bytes() > 2 * DISK_LOW_BYTES

        self.snapshots = TreeSnapshots(
            directory.snapshots,
            storage.store,
            storage.store.hold,
            runner,
            loop,
            self._metrics,
            self._history_id,
            lambda: files.current().pair,
            on_fatal,
            bytes_per_s=bytes_per_s,
            has_room=has_room,
        )
        self.fetch = SnapshotFetch(
            self.snapshots,
            storage.store,
            runner,
            loop,
            self._metrics,
            self._history_id,
            peers=side.connected,
            send=side.send_side,
            trust_pem=lambda: files.current().trust_pem,
            on_fatal=on_fatal,
            bytes_per_s=bytes_per_s,
            has_room=has_room,
        )
        self.serving = SnapshotServing(
            directory.snapshots, runner, loop, self._metrics, side.send_side, on_fatal, bytes_per_s=bytes_per_s
        )
        side.listen(self._exchange)

    def _exchange(self, peer: NodeId, exchange: SnapshotExchange) -> None:
        if exchange.HasField("request"):
            self.serving.asked(peer, exchange.request)
        else:
            self.fetch.answered(peer, exchange.reply)

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
        return (
            self.schedule.look,
            self.collection.look,
            self.snapshots.look,
            self.fetch.look,
            self.archiving.look,
            self.chunk_bytes.look,
        )

    def close(self) -> None:
        self.chunk_bytes.close()
        self.serving.close()
        self.fetch.close()
        self.snapshots.close()
