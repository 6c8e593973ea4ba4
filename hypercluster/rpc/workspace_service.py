"""WorkspaceService: reads, watches and transfers of workspaces. Changes go through CommandService.

Owns: the RPCs that answer once, and the log watch. Streams of whole trees and worker sessions live beside it.
Never: a workspace of another scope (it does not exist for the caller); a look at the state before the read is due.
Invariants: a wrong workspace id is refused on every message with WRONG_WORKSPACE; a page is bounded in count and
bytes and says whether more follows; chunk content is handed out only to who may read a workspace that has it (WS-14).
"""

from __future__ import annotations

import asyncio

from hypercluster import limits
from hypercluster.errors import (
    ForbiddenError,
    HistoryChangedError,
    HistoryGoneError,
    MalformedError,
    check,
)
from hypercluster.node.fanout import Fanout, Head, Slice
from hypercluster.node.proposer import Proposer
from hypercluster.node.reads import Reads, ReadWish
from hypercluster.pb.v1 import workspace_pb2 as pb
from hypercluster.pb.v1.command_pb2 import REASON_OK, REASON_UNKNOWN
from hypercluster.raft.engine import ChunkSource
from hypercluster.rpc import tree_messages as messages
from hypercluster.rpc.acks import file_ack
from hypercluster.rpc.calls import Call
from hypercluster.rpc.reading import bounded, state_of, wish_of
from hypercluster.rpc.scoped import workspace_of
from hypercluster.rpc.snapshots import SnapshotCalls
from hypercluster.rpc.worker_session import SessionParts, WorkerSession
from hypercluster.state_machine.queries import IntentStatus, Judgement, intent_status
from hypercluster.state_machine.store import Reader
from hypercluster.state_machine.workspace import queries
from hypercluster.state_machine.workspace.chunks import sender_id
from hypercluster.state_machine.workspace.proof_trees import ProofTrees
from hypercluster.state_machine.workspace.proofs import prove_path
from hypercluster.state_machine.workspace.records import ROOT_ID, Header
from hypercluster.values import ClientId, ReadLevel

ID_BYTES = 16
HASH_BYTES = 32
EXTENTS_MAX = 4_096
ENTRIES_MAX = 1_000
CHUNKS_A_TURN = 16  # chunk reads between two turns of the loop


class WorkspaceService:
    def __init__(
        self,
        reader: Reader,
        chunks: ChunkSource,
        reads: Reads,
        fanout: Fanout,
        proposer: Proposer,
        sessions: SessionParts,
        snapshots: SnapshotCalls,
    ) -> None:
        self._reader = reader
        self._chunks = chunks
        self._reads = reads
        self._fanout = fanout
        self._proposer = proposer
        self._sessions = sessions
        self._standing = sessions.standing
        self._identity = sessions.identity
        self._proof_trees = ProofTrees()
        self.list_snapshots = snapshots.list_snapshots
        self.take_snapshot = snapshots.take_snapshot
        self.snapshot_manifest = snapshots.snapshot_manifest
        self.tree_snapshot = snapshots.tree_snapshot

    # -- answers ----------------------------------------------------------------------------------

    async def list(self, request: pb.WorkspaceListRequest, call: Call) -> pb.WorkspaceListResponse:
        point = await self._reads.point(wish_of(request.read), call.timeout_s)
        found = queries.list_workspaces(self._reader, call.caller.scope)
        return pb.WorkspaceListResponse(state=state_of(point), workspaces=[messages.summary(h) for h in found])

    async def barrier(self, request: pb.BarrierRequest, call: Call) -> pb.BarrierResponse:
        point = await self._reads.point(wish_of(request.read), call.timeout_s)
        return pb.BarrierResponse(
            state=state_of(point), workspace=messages.summary(self._header(request.workspace_id, call))
        )

    async def stat(self, request: pb.StatRequest, call: Call) -> pb.StatResponse:
        _check_id("inode_id", request.inode_id, may_be_empty=request.WhichOneof("what") == "path")
        point = await self._reads.point(wish_of(request.read), call.timeout_s)
        self._header(request.workspace_id, call)
        if request.WhichOneof("what") == "path":
            found = queries.resolve(self._reader, request.workspace_id, request.path)
        else:
            found = queries.read_inode(self._reader, request.workspace_id, request.inode_id) or messages.ENOENT
        if isinstance(found, int):
            return pb.StatResponse(state=state_of(point), errno=found)
        inode = messages.inode(found)
        if request.with_xattrs:
            pairs = queries.read_xattrs(self._reader, request.workspace_id, found.inode_id)
            inode.xattrs.extend(pb.Xattr(name=name, value=value) for name, value in pairs)
        return pb.StatResponse(state=state_of(point), inode=inode)

    async def read_dir(self, request: pb.ReadDirRequest, call: Call) -> pb.ReadDirResponse:
        directory = request.directory or ROOT_ID
        _check_id("directory", directory)
        count_max = bounded("limit", request.limit, ENTRIES_MAX, ENTRIES_MAX)
        point = await self._reads.point(wish_of(request.read), call.timeout_s)
        self._header(request.workspace_id, call)
        page = queries.list_directory(self._reader, request.workspace_id, directory, request.after, count_max)
        entries, more = messages.within_bytes(
            [pb.DirectoryEntry(name=name, inode=messages.inode(node)) for name, node in page.entries], page.more
        )
        return pb.ReadDirResponse(state=state_of(point), entries=entries, more=more, errno=page.errno)

    async def extents(self, request: pb.ExtentsRequest, call: Call) -> pb.ExtentsResponse:
        _check_id("inode_id", request.inode_id)
        count_max = bounded("limit", request.limit, EXTENTS_MAX, EXTENTS_MAX)
        point = await self._reads.point(wish_of(request.read), call.timeout_s)
        self._header(request.workspace_id, call)
        page = queries.list_extents(
            self._reader, request.workspace_id, request.inode_id, request.from_offset, count_max
        )
        return pb.ExtentsResponse(
            state=state_of(point),
            extents=[messages.extent(e) for e in page.extents],
            size=page.size,
            more=page.more,
            errno=page.errno,
        )

    async def chunk_need(self, request: pb.ChunkNeedRequest, call: Call) -> pb.ChunkNeedResponse:
        """As this node knows now; apply judges again (WS-32). Asked of the leader, so that an ack's chunks are seen."""
        _check_hashes(request.hashes)
        point = await self._reads.point(ReadWish(ReadLevel.LEADER_LOCAL), call.timeout_s)
        self._header(request.workspace_id, call)
        sender = sender_id(call.caller.worker, call.caller.principal)
        missing = queries.missing_chunks(self._reader, request.workspace_id, request.hashes, sender)
        return pb.ChunkNeedResponse(state=state_of(point), missing=missing)

    async def intent_status(self, request: pb.IntentStatusRequest, call: Call) -> pb.IntentStatusResponse:
        """After a ReadIndex round, to the worker whose intent it is and no other (WS-4)."""
        _check_id("client_id", request.client_id)
        client_id, seq = ClientId(request.client_id), request.client_seq
        point = await self._reads.point(ReadWish(), call.timeout_s)
        # State and queue are looked at in one turn, so nothing passes from one to the other unseen.
        found = intent_status(self._reader, client_id, seq)
        waiting = self._proposer.waiting(client_id, seq)
        caller = call.caller
        # A lane belongs to who began it; before it is judged for the first time, to who sends on it.
        owner = (found.principal, found.scope) if found.scope is not None else None
        if owner is None and waiting is not None:
            owner = (waiting.principal, waiting.scope)
        if owner not in (None, (caller.principal, caller.scope)):
            raise ForbiddenError(
                f"client_id {client_id.hex()} is another worker's: its intents are told to that one only"
            )
        if found.judgement is Judgement.NOT_FOUND and waiting is not None:
            return pb.IntentStatusResponse(state=state_of(point), intent=pb.INTENT_STATE_IN_FLIGHT)
        answer = judged(found)
        answer.state.CopyFrom(state_of(point))
        return answer

    async def workers(self, request: pb.WorkersRequest, call: Call) -> pb.WorkersResponse:
        """The sessions with this node; it needs nobody else to tell."""
        point = await self._reads.point(ReadWish(ReadLevel.BOUNDED_STALE), call.timeout_s)
        header = self._header(request.workspace_id, call)
        now_s = self._sessions.clock.monotonic()
        rows = self._sessions.workers.of(request.workspace_id)
        return pb.WorkersResponse(
            state=state_of(point), workers=[messages.worker(row, header.log_index, now_s) for row in rows]
        )

    async def proof(self, request: pb.ProofRequest, call: Call) -> pb.ProofResponse:
        """Any node proves its own applied tree: what a proof says rests on its hashes, not on who made it."""
        names = queries.path_names(request.path)
        if len(request.path) > limits.PATH_BYTES_MAX or len(names) > limits.PROOF_NAMES_MAX:
            raise MalformedError(
                f"path: {len(request.path)} bytes and {len(names)} names, at most {limits.PATH_BYTES_MAX} and "
                f"PROOF_NAMES_MAX, {limits.PROOF_NAMES_MAX}"
            )
        point = await self._reads.point(wish_of(request.read), call.timeout_s)
        header = self._header(request.workspace_id, call)
        if request.log_index not in (0, header.log_index):
            raise HistoryGoneError(
                f"log_index {request.log_index}: this node has the Merkle tree of log_index {header.log_index} only"
            )
        tree = self._proof_trees.open(self._reader, request.workspace_id)
        check(tree is not None, "a workspace with a header has a tree")
        assert tree is not None
        answer = pb.ProofResponse(state=state_of(point), log_index=header.log_index, root=header.root)
        proof = prove_path(self._reader, tree, request.workspace_id, names)
        if proof is None:
            answer.errno = messages.ENOENT
        else:
            answer.entries.extend(messages.proof_leaf(entry) for entry in proof.entries)
            answer.inode.CopyFrom(messages.proof_leaf(proof.inode))
        return answer

    # -- streams ----------------------------------------------------------------------------------

    async def fetch_chunks(self, request: pb.FetchChunksRequest, call: Call) -> None:
        _check_hashes(request.hashes)
        self._header(request.workspace_id, call)
        for number, chunk_hash in enumerate(request.hashes):
            present = queries.was_referenced(self._reader, request.workspace_id, chunk_hash)
            content = self._chunks.read_chunk(chunk_hash) if present else None
            answer = pb.ChunkContent(hash=chunk_hash, content=content or b"", absent=content is None)
            await call.write(answer.SerializeToString())
            if number % CHUNKS_A_TURN == CHUNKS_A_TURN - 1:
                await asyncio.sleep(0)

    async def watch_log(self, request: pb.WatchLogRequest, call: Call) -> None:
        """Any node serves it, from its own applied state (WS-51). Ends when the caller cancels."""
        self._check_history(request.history_id)
        header = self._header(request.workspace_id, call)
        from_index = request.from_index or 1
        if from_index > header.log_index + 1:
            # This node may be behind the one that gave the caller its position: not an error of the caller's.
            await self._catch_up(request.workspace_id, from_index, call)
        op_log = self._fanout.op_log
        from_snapshot = request.as_kept  # old records are what it is after: how far it lags counts once it caught up
        if request.as_kept:
            if from_index < (kept_from := op_log.retained_from(request.workspace_id)):
                await self._say_snapshot(kept_from, call)
                return
        elif from_index < (replay_from := op_log.replay_from(request.workspace_id)):
            # The tail of a snapshot that is kept may be as long as it took to build: otherwise a tree that takes longer
            # than the window would be built for ever.
            from_snapshot = op_log.is_snapshot(request.workspace_id, from_index - 1)
            if not from_snapshot or from_index < op_log.retained_from(request.workspace_id):
                await self._say_snapshot(replay_from, call)
                return
        watch = self._fanout.watch(request.workspace_id, from_index, from_snapshot=from_snapshot)
        try:
            while True:
                message = await watch.next_message()
                if isinstance(message, Head):
                    caught_up = pb.CaughtUp(log_index=message.log_index, root=message.root)
                    message = pb.WatchLogResponse(caught_up=caught_up).SerializeToString()
                await call.write(message)
        except HistoryGoneError:
            from_here = op_log.retained_from if request.as_kept else op_log.replay_from
            await self._say_snapshot(from_here(request.workspace_id), call)
        finally:
            watch.close()

    async def _catch_up(self, workspace_id: bytes, from_index: int, call: Call) -> None:
        """After a confirmed read index this node has everything that was ever acknowledged (or refuses)."""
        if self._standing.leads():
            await self._reads.point(ReadWish(), call.timeout_s)
        elif self._standing.status().commit_index > 0:
            await self._reads.point(
                ReadWish(ReadLevel.BOUNDED_STALE, min_index=self._standing.status().commit_index), call.timeout_s
            )
        header = self._header(workspace_id, call)
        if from_index > header.log_index + 1:
            raise HistoryGoneError(
                f"from_index {from_index}: the log ends at {header.log_index} here; this node is behind, or the "
                "position is of another history"
            )

    async def _say_snapshot(self, retained_from: int, call: Call) -> None:
        needed = pb.SnapshotNeeded(retained_from=retained_from)
        await call.write(pb.WatchLogResponse(snapshot_needed=needed).SerializeToString())

    async def session(self, call: Call) -> None:
        await WorkerSession(call, self._sessions).run()

    # -- checks -----------------------------------------------------------------------------------

    def _header(self, workspace_id: bytes, call: Call) -> Header:
        return workspace_of(self._reader, workspace_id, call)

    def _check_history(self, history_id: bytes) -> None:
        if history_id and history_id != self._identity.history_id:
            raise HistoryChangedError(
                f"this cluster's history is {self._identity.history_id.hex()}: start over from a snapshot"
            )


def judged(found: IntentStatus) -> pb.IntentStatusResponse:
    """What the state says of an intent, as its acknowledgement said it."""
    if found.judgement is Judgement.FORGOTTEN:
        return pb.IntentStatusResponse(intent=pb.INTENT_STATE_FORGOTTEN, reason=REASON_UNKNOWN)
    if found.judgement is Judgement.NOT_FOUND or found.result is None:
        return pb.IntentStatusResponse(intent=pb.INTENT_STATE_NOT_FOUND)
    run = found.result
    file = run.files[0] if run.files else None
    return pb.IntentStatusResponse(
        intent=pb.INTENT_STATE_COMMITTED,
        raft_index=run.index,
        reason=run.reasons[0] if run.reasons else REASON_OK,  # type: ignore[arg-type]
        version=run.versions[0] if run.versions else 0,
        file=None if file is None else file_ack(file),
    )


def encode_slice(part: Slice) -> bytes:
    """A WatchLogResponse, encoded once for all who watch."""
    log_slice = pb.LogSlice(batches=part.batches, first_index=part.first_index, last_index=part.last_index)
    return pb.WatchLogResponse(slice=log_slice).SerializeToString()


def _check_id(name: str, value: bytes, *, may_be_empty: bool = False) -> None:
    if len(value) != ID_BYTES and not (may_be_empty and not value):
        raise MalformedError(f"{name}: {len(value)} bytes, expected {ID_BYTES}")


def _check_hashes(hashes: object) -> None:
    values = list(hashes)  # type: ignore[call-overload]
    if not 1 <= len(values) <= limits.CHUNK_HASHES_MAX:
        raise MalformedError(f"hashes: {len(values)}, expected 1 to {limits.CHUNK_HASHES_MAX}")
    if any(len(value) != HASH_BYTES for value in values):
        raise MalformedError(f"hashes: each has {HASH_BYTES} bytes")
