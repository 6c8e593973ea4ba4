"""The way of a mutation: content into chunks, the lane of its process, the verdict, the wait until it is here (WS-2).

Owns: `Mutator.mutate`, and which errno each end of it is.
Never: retries (the lane does), opens lanes, applies.
Invariants: the chunks of a write go ahead of it in its own lane, so they are judged before it; what this worker sends
is in its cache at once; an accepted operation is handed to the replica from its acknowledgement, and the call returns
when that prefix is visible here. A command whose outcome stayed open blocks its lane (process_lanes.py).
"""

from __future__ import annotations

import asyncio
import errno
import os
import time
from collections.abc import Callable, Sequence
from typing import NoReturn

from hypercluster.client.answers import errno_of, raise_unless_ok
from hypercluster.client.chunking import Piece, is_inline, split
from hypercluster.client.content import ChunkDoor
from hypercluster.client.lane_types import Settled, Verdict
from hypercluster.client.live.chunk_cache import ChunkCache
from hypercluster.client.live.ports import Process, Recall
from hypercluster.client.live.process_lanes import ProcessLane, ProcessLanes
from hypercluster.client.live.publishing import Publishing
from hypercluster.client.live.quorum import Quorum
from hypercluster.client.stream import Pending
from hypercluster.errors import HyperClusterError, QueueFullError
from hypercluster.limits import WRITE_BYTES_MAX
from hypercluster.pb.v1 import command_pb2 as command_pb
from hypercluster.pb.v1.workspace_command_pb2 import ChunkPiece, ChunkPut, FileAck, FileCommand, LogRecord

Offer = Callable[[LogRecord, Process], None]


def _refuse(number: int, words: str) -> NoReturn:
    raise OSError(number, f"{os.strerror(number)}: {words}")


class Mutator:
    """In the loop."""

    def __init__(
        self,
        workspace_id: bytes,
        lanes: ProcessLanes,
        door: ChunkDoor,
        cache: ChunkCache,
        quorum: Quorum,
        publishing: Publishing,
        offer: Offer,
    ) -> None:
        self._workspace_id = workspace_id
        self._lanes = lanes
        self._door = door
        self._cache = cache
        self._quorum = quorum
        self._publishing = publishing
        self._offer = offer

    async def mutate(
        self, process: Process, command: FileCommand, content: bytes | None, recall: Recall | None
    ) -> FileAck:
        """See `ports.LiveTree.mutate`."""
        what = command.WhichOneof("op") or "nothing"
        pieces = self._take_content(command, content)
        try:
            lane = self._lanes.of(process)
        except QueueFullError as error:
            _refuse(errno.EAGAIN, str(error))
        if lane.blocked:
            _refuse(errno.EROFS, lane.blocked)
        lane.users += 1
        try:
            encoded = command_pb.Command(file=command).SerializeToString()
            begun_s = time.monotonic()
            settled = await self._submit(lane, encoded, pieces, what, recall)
        finally:
            lane.users -= 1
        ack = self._judge(process, settled, what, begun_s, recall)
        record = LogRecord(
            log_index=ack.log_index,
            committed_at_ns=ack.committed_at_ns,
            command=encoded,
            root=ack.root,
            inode_id=ack.inode_id,
            inode_no=ack.inode_no,
            applied_offset=ack.applied_offset,
            raft_index=settled.raft_index,
        )
        self._offer(record, process)
        await self._publishing.wait(ack.log_index)
        return ack

    def _take_content(self, command: FileCommand, content: bytes | None) -> Sequence[Piece]:
        """Puts the content into the command, inline or as pieces of the chunks that are answered."""
        if content is None:
            return ()
        if not command.HasField("write"):
            _refuse(errno.EINVAL, "only a write carries content")
        if len(content) > WRITE_BYTES_MAX:
            _refuse(errno.EINVAL, f"content: {len(content)} bytes, one write carries {WRITE_BYTES_MAX}")
        if is_inline(content):
            command.write.inline = content
            return ()
        pieces = list(split(content))
        command.write.pieces.extend(ChunkPiece(hash=p.chunk_hash, length=len(p.content)) for p in pieces)
        return pieces

    # --- sending ------------------------------------------------------------------------------------

    async def _submit(
        self, lane: ProcessLane, encoded: bytes, pieces: Sequence[Piece], what: str, recall: Recall | None
    ) -> Settled:
        chunks: dict[bytes, bytes] = {piece.chunk_hash: piece.content for piece in pieces}
        puts: list[Pending] = []
        # What is in the cache came from this workspace: the cluster has it, or says that it lacks it.
        for chunk_hash in self._cache.lacking(chunks):
            put = ChunkPut(hash=chunk_hash, content=chunks[chunk_hash])
            sent = command_pb.Command(chunk_put=put).SerializeToString()
            puts.append(await lane.port.enqueue(sent, self._workspace_id))
        if chunks:
            self._cache.put(chunks)
        pending = await lane.port.enqueue(encoded, self._workspace_id, chunks=chunks, upload=self._door.put_again)
        if recall is not None:
            loop = asyncio.get_running_loop()
            recall.bind(lambda: loop.call_soon_threadsafe(lane.port.recall, pending.ticket))
        try:
            settled = await pending.outcome
        except asyncio.CancelledError:
            lane.port.recall(pending.ticket)
            raise
        ends = await asyncio.gather(*(put.outcome for put in puts))
        if settled.verdict is not Verdict.OK:
            for end in ends:
                if end.verdict is Verdict.REFUSED:
                    return end  # why the write's chunks are missing
        return settled

    # --- judging ------------------------------------------------------------------------------------

    def _judge(self, process: Process, settled: Settled, what: str, begun_s: float, recall: Recall | None) -> FileAck:
        """The acknowledgement of what was accepted. Raises OSError."""
        match settled.verdict:
            case Verdict.OK | Verdict.REFUSED:
                self._quorum.proven(begun_s)
            case Verdict.UNKNOWN if settled.intent is not None:
                self._lanes.block(process, settled.intent)
            case Verdict.NOT_DONE if settled.reason == command_pb.REASON_OUTCOME_UNKNOWN:
                _refuse(errno.EROFS, f"{what}: {settled.message}")  # it stood behind one that is open, and was not sent
            case Verdict.NOT_DONE if recall is not None and recall.asked:
                _refuse(errno.EINTR, f"{what}: recalled before it was sent")
        try:
            raise_unless_ok(settled, what)
        except HyperClusterError as error:
            number = errno_of(error)
            if number == errno.EROFS:
                self._quorum.lost(str(error))
            raise OSError(number, f"{os.strerror(number)}: {error}") from error
        if settled.file is None or not settled.file.log_index:
            _refuse(errno.EIO, f"{what}: the acknowledgement has no log_index")
        return settled.file
