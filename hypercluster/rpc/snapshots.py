"""Workspace snapshots for clients: list, take, hand out (WS-51 to WS-53).

Owns: those RPCs of WorkspaceService, and the choice between a stored snapshot and the live tree.
Never: pauses apply: pages are read beside the loop, and the live tree is of one moment, whatever is written meanwhile.
Invariants: a stored snapshot is handed out only if the log from there on may be replayed, so that its tail follows;
every piece is bounded; a damaged snapshot is forgotten and never ends the node.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final

from hypercluster import limits
from hypercluster.errors import (
    DamagedError,
    HyperClusterError,
    NotFoundError,
    OutcomeUnknownError,
    RefusedError,
)
from hypercluster.node.collection import Progress
from hypercluster.node.fanout import OpLog
from hypercluster.node.reads import Reads, ReadWish
from hypercluster.node.retention import Retention
from hypercluster.node.standing import Standing
from hypercluster.pb.v1 import workspace_pb2 as pb
from hypercluster.rpc.calls import Call
from hypercluster.rpc.reading import state_of, wish_of
from hypercluster.rpc.tree_snapshot import send_snapshot
from hypercluster.snapshot_manifest import Manifest
from hypercluster.state_machine.outcome import OK, PRECONDITION_FAILED
from hypercluster.state_machine.store import Reader
from hypercluster.state_machine.workspace.oplog import log_bytes
from hypercluster.state_machine.workspace.records import Header
from hypercluster.state_machine.workspace.snapshots import list_snapshots
from hypercluster.storage.archive.archive import OplogArchive
from hypercluster.storage.snapshots.pages import continues, read_records
from hypercluster.storage.snapshots.store import SnapshotStore

log = logging.getLogger(__name__)

LISTED_MAX: Final = limits.SNAPSHOTS_MAX


@dataclass(frozen=True, slots=True)
class SnapshotParts:
    """What these calls need of a node. `header` raises WrongWorkspaceError."""

    reader: Reader
    reads: Reads
    standing: Standing
    op_log: OpLog
    store: SnapshotStore
    schedule: Retention
    progress: Callable[[], Progress]
    archive: OplogArchive
    freed_bytes: Callable[[], int]  # of chunks, deleted from this node's disk
    history_id: bytes
    header: Callable[[bytes, Call], Header]


@dataclass(frozen=True, slots=True)
class _Piece:
    records: list[pb.TreeRecord]
    next_page: int


class SnapshotCalls:
    def __init__(self, parts: SnapshotParts) -> None:
        self._parts = parts

    async def list_snapshots(self, request: pb.ListSnapshotsRequest, call: Call) -> pb.ListSnapshotsResponse:
        parts = self._parts
        point = await parts.reads.point(wish_of(request.read), call.timeout_s)
        header = parts.header(request.workspace_id, call)
        answer = pb.ListSnapshotsResponse(state=state_of(point), retention=self._retention(header))
        for found in islice(list_snapshots(parts.reader, request.workspace_id), LISTED_MAX):
            manifest = parts.store.find(request.workspace_id, found.log_index)
            answer.snapshots.add(
                log_index=found.log_index,
                root=found.root,
                raft_index=found.raft_index,
                committed_at_ns=found.stamp_ns,
                page_count=manifest.page_count if manifest is not None else 0,
                bytes_total=manifest.bytes_total if manifest is not None else 0,
            )
        return answer

    def _retention(self, header: Header) -> pb.RetentionStatus:
        parts, progress = self._parts, self._parts.progress()
        archived = parts.archive.segments(header.workspace_id)
        return pb.RetentionStatus(
            log_floor=parts.op_log.retained_from(header.workspace_id),
            log_bytes=log_bytes(parts.reader, header.workspace_id),
            replay_floor=parts.op_log.replay_from(header.workspace_id),
            log_index=header.log_index,
            chunk_count=header.chunk_count,
            chunk_bytes=header.chunk_bytes,
            gc_rounds=progress.rounds,
            gc_examined=progress.examined + progress.last_examined,
            gc_candidates=progress.last_candidates,
            gc_freed_bytes=parts.freed_bytes(),
            archive_first=archived[0].first_index if archived else 0,
            archive_last=archived[-1].last_index if archived else 0,
            archive_bytes=parts.archive.size_bytes,
        )

    async def take_snapshot(self, request: pb.TakeSnapshotRequest, call: Call) -> pb.TakeSnapshotResponse:
        """Through the leader. Answers the snapshot that stands for the present tree, new or not."""
        parts = self._parts
        parts.standing.require_leads()
        parts.header(request.workspace_id, call)
        judged: asyncio.Future[tuple[int, int]] = asyncio.get_running_loop().create_future()

        def done(reason: int, log_index: int) -> None:
            if not judged.done():
                judged.set_result((reason, log_index))

        parts.schedule.take(request.workspace_id, done)
        try:
            async with asyncio.timeout(call.timeout_s):
                reason, log_index = await judged
        except TimeoutError:
            raise OutcomeUnknownError("the snapshot was not marked in time; it may still be: list snapshots") from None
        if reason < 0:
            parts.standing.require_writes()
            raise OutcomeUnknownError("the snapshot may have been marked: list snapshots")
        if reason not in (OK, PRECONDITION_FAILED):
            raise RefusedError("LIMIT", f"{limits.SNAPSHOTS_MAX} snapshots are kept, limit SNAPSHOTS_MAX")
        point = await parts.reads.point(ReadWish(), call.timeout_s)
        # The mark took effect at the end of its entry: what it stands for may be newer than what was seen at the mark.
        found = next(list_snapshots(parts.reader, request.workspace_id, log_index - 1), None)
        return pb.TakeSnapshotResponse(
            state=state_of(point), log_index=found.log_index if found is not None else 0, taken=reason == OK
        )

    async def snapshot_manifest(self, request: pb.SnapshotManifestRequest, call: Call) -> pb.SnapshotManifestResponse:
        self._parts.header(request.workspace_id, call)
        signed = self._parts.store.signed(request.workspace_id, request.log_index)
        if signed is None:
            raise NotFoundError(f"this node has no snapshot of log_index {request.log_index}: ask another, or take one")
        return pb.SnapshotManifestResponse(manifest=signed)

    # -- trees ------------------------------------------------------------------------------------

    async def tree_snapshot(self, request: pb.TreeSnapshotRequest, call: Call) -> None:
        parts = self._parts
        parts.header(request.workspace_id, call)
        manifest = self._chosen(request)
        if manifest is None:
            await send_snapshot(parts.reader, request.workspace_id, parts.history_id, call)
            return
        try:
            await self._send_pages(manifest, request.from_page, call)
        except DamagedError as error:
            await self._forget(manifest, str(error))
            raise NotFoundError("the snapshot is damaged on this node: begin anew, here or with another") from None

    def _chosen(self, request: pb.TreeSnapshotRequest) -> Manifest | None:
        """None: the live tree. Raises NotFoundError when a snapshot can not be gone on with here."""
        parts = self._parts
        if request.log_index:
            manifest = parts.store.find(request.workspace_id, request.log_index)
            if manifest is None or request.from_page > manifest.page_count:
                raise NotFoundError(f"this node has no snapshot of log_index {request.log_index} to go on with")
            return manifest
        newest = None if request.live else parts.store.newest(request.workspace_id)
        if newest is None or newest.history_id != parts.history_id:
            return None
        return newest if newest.log_index + 1 >= parts.op_log.replay_from(request.workspace_id) else None

    async def _send_pages(self, manifest: Manifest, from_page: int, call: Call) -> None:
        parts, loop = self._parts, asyncio.get_running_loop()
        hashes = await loop.run_in_executor(None, lambda: list(parts.store.page_hashes(manifest)))
        signed = await loop.run_in_executor(
            None, parts.store.signed, manifest.workspace_id, manifest.log_index
        )  # None: dropped meanwhile, its pages are still here for a while
        at = from_page
        while True:
            piece = await loop.run_in_executor(None, _read_piece, parts.store, hashes, at)
            last = piece.next_page >= len(hashes)
            message = pb.TreeSnapshotPiece(
                log_index=manifest.log_index,
                root=manifest.root,
                records=piece.records,
                last=last,
                history_id=manifest.history_id,
                next_page=piece.next_page,
                manifest=signed if at == from_page else None,
            )
            await call.write(message.SerializeToString())
            if last:
                return
            at = piece.next_page

    async def _forget(self, manifest: Manifest, why: str) -> None:
        fields = {"workspace": manifest.workspace_id.hex(), "log_index": manifest.log_index, "why": why}
        log.error("a stored workspace snapshot is damaged, and dropped on this node", extra={"fields": fields})
        store, workspace_id, log_index = self._parts.store, manifest.workspace_id, manifest.log_index
        try:
            await asyncio.get_running_loop().run_in_executor(None, store.drop, workspace_id, log_index)
        except (OSError, HyperClusterError) as error:
            log.error("it could not be dropped", extra={"fields": {"why": str(error)}})


def _read_piece(store: SnapshotStore, hashes: Sequence[bytes], at: int) -> _Piece:
    """Pages from `at` on, up to SNAPSHOT_PIECE_BYTES, whole records only. Beside the loop. Raises DamagedError."""
    pages: list[bytes] = []
    size_bytes = 0
    place = at
    while place < len(hashes):
        page = store.page(hashes[place])
        if size_bytes >= limits.SNAPSHOT_PIECE_BYTES and not continues(page):
            break
        pages.append(page)
        size_bytes += len(page)
        place += 1
    records = [pb.TreeRecord(family=family, key=key, value=value) for family, key, value in read_records(pages)]
    return _Piece(records, place)
