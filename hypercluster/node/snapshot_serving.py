"""Hands stored workspace snapshots to other nodes that lack them (WS-51, WS-53).

Owns: the answers to their requests, and how fast they leave.
Never: decides what another node needs; holds up the loop: pages are read beside it.
Invariants: one request of each peer is under way at a time, a further one is dropped and asked again; answers to all
peers together leave at `bytes_per_s`; a page that is damaged here is left out of the answer.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from hypercluster.errors import DamagedError
from hypercluster.node.words import Turns
from hypercluster.pb.v1.peer_pb2 import SnapshotExchange, SnapshotReply, SnapshotRequest
from hypercluster.storage.runner import Runner
from hypercluster.storage.snapshots.store import SnapshotStore
from hypercluster.telemetry.metrics import Metrics
from hypercluster.values import NodeId

log = logging.getLogger(__name__)

Send = Callable[[NodeId, SnapshotExchange], bool]


class SnapshotServing:
    def __init__(
        self,
        store: SnapshotStore,
        runner: Runner,
        turns: Turns,
        metrics: Metrics,
        send: Send,
        on_fatal: Callable[[BaseException], None],
        *,
        bytes_per_s: int,
    ) -> None:
        self._store = store
        self._runner = runner
        self._turns = turns
        self._metrics = metrics
        self._send = send
        self._on_fatal = on_fatal
        self._bytes_per_s = bytes_per_s
        self._busy: set[NodeId] = set()
        self._free_s = 0.0  # when the next answer may leave
        self._closed = False

    def asked(self, peer: NodeId, request: SnapshotRequest) -> None:
        if self._closed or peer in self._busy:
            return
        self._busy.add(peer)
        reply = SnapshotReply(workspace_id=request.workspace_id, log_index=request.log_index)
        self._runner.submit(lambda: self._read(request, reply), lambda error: self._was_read(peer, reply, error))

    def _read(self, request: SnapshotRequest, reply: SnapshotReply) -> None:
        """Beside the loop."""
        if not request.pages:
            signed = self._store.signed(request.workspace_id, request.log_index)
            if signed is not None:
                reply.manifest.CopyFrom(signed)
        for page_hash in request.pages:
            try:
                reply.pages.append(self._store.page(page_hash))
            except DamagedError as error:
                log.warning("a page is not handed out", extra={"fields": {"why": str(error)}})

    def _was_read(self, peer: NodeId, reply: SnapshotReply, error: BaseException | None) -> None:
        if error is not None and not isinstance(error, OSError):
            self._on_fatal(error)
            return
        now_s = self._turns.time()
        size_bytes = reply.ByteSize()
        leaves_s = max(now_s, self._free_s)
        self._free_s = leaves_s + size_bytes / self._bytes_per_s

        def leave() -> None:
            self._busy.discard(peer)
            if not self._closed and self._send(peer, SnapshotExchange(reply=reply)):
                self._metrics.snapshots_served.inc(size_bytes)

        self._turns.call_at(leaves_s, leave)

    def close(self) -> None:
        self._closed = True
