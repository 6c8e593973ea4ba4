"""A cluster of one for a workspace, without Raft: the real judgement of commands behind the real protocol, on
loopback.

What a test asks of it is done between two commands: to hold back verdicts, to have no quorum, to refuse for the rate,
to lose or damage chunks, to lie about a root. Everything else is as nodes do it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc

from hypercluster.pb.v1 import (
    cluster_pb2,
    cluster_pb2_grpc,
    command_pb2,
    command_pb2_grpc,
    coordination_pb2,
    coordination_pb2_grpc,
    workspace_pb2_grpc,
)
from hypercluster.pb.v1 import workspace_pb2 as pb
from hypercluster.pb.v1.workspace_command_pb2 import FileAck, LogBatch
from hypercluster.rpc.acks import file_ack
from hypercluster.state_machine.outcome import FileOutcome
from hypercluster.state_machine.workspace.transfer import export_records
from hypercluster.values import ClientId
from tests.unit.workspace.site import Site

HISTORY_ID = b"site-history----"
Call = grpc.aio.ServicerContext[Any, Any]


class SiteNode(
    workspace_pb2_grpc.WorkspaceServiceServicer,
    cluster_pb2_grpc.ClusterServiceServicer,
    command_pb2_grpc.CommandServiceServicer,
    coordination_pb2_grpc.CoordinationServiceServicer,
):
    """Use it as an async context manager."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.leads = True
        self.holds_verdicts = False  # commands are judged, and nobody hears of it
        self.judges = True  # False: commands are taken and lie there
        self.rate_refusals = 0  # so many messages are turned away first
        self.absent: set[bytes] = set()
        self.spoiled: set[bytes] = set()
        self.liar: Callable[[LogBatch], LogBatch] | None = None  # what the watch says of a batch
        self.head_root = b""  # said at the end of a catch-up in place of the true one
        self.mute = False  # the watch says nothing
        self.confirmed = 0  # what the last barrier answered
        self.kept_from = 1
        self.history_id = HISTORY_ID
        self.seen: list[command_pb2.Submit] = []
        self.fetched: list[bytes] = []
        self.watches = 0
        self.watched = 0  # now
        self.opens: list[set[bytes]] = []  # each report of what is held open
        self.sessions: list[pb.WorkerApplied] = []
        self._judged: dict[tuple[bytes, int], tuple[int, FileAck]] = {}
        self._changed = asyncio.Condition()
        self._server = grpc.aio.server()
        workspace_pb2_grpc.add_WorkspaceServiceServicer_to_server(self, self._server)
        cluster_pb2_grpc.add_ClusterServiceServicer_to_server(self, self._server)
        command_pb2_grpc.add_CommandServiceServicer_to_server(self, self._server)
        coordination_pb2_grpc.add_CoordinationServiceServicer_to_server(self, self._server)
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"

    async def __aenter__(self) -> SiteNode:
        await self._server.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._server.stop(0)

    async def tell(self) -> None:
        """The site, or what is asked of this node, has changed."""
        async with self._changed:
            self._changed.notify_all()

    # --- commands -----------------------------------------------------------------------------------

    async def Stream(
        self, request_iterator: AsyncIterator[command_pb2.SubmitBatch], context: Call
    ) -> AsyncIterator[command_pb2.AcksBatch]:
        async for batch in request_iterator:
            for raw in batch.submits:
                acks = await self._judge(command_pb2.Submit.FromString(raw))
                if acks is not None:
                    yield command_pb2.AcksBatch(acks=[acks])

    async def _judge(self, submit: command_pb2.Submit) -> command_pb2.Acks | None:
        self.seen.append(submit)
        count = len(submit.commands)
        acks = command_pb2.Acks(client_id=submit.client_id, first_seq=submit.first_seq, count=count)
        if not self.leads:
            acks.reason.extend([command_pb2.REASON_NO_QUORUM] * count)
            return acks
        if self.rate_refusals:
            self.rate_refusals -= 1
            acks.reason.extend([command_pb2.REASON_RATE_LIMITED] * count)
            acks.retry_after_ms = 5
            return acks
        async with self._changed:
            await self._changed.wait_for(lambda: self.judges)
        for position, raw in enumerate(submit.commands):
            key = (submit.client_id, submit.first_seq + position)
            if key not in self._judged:
                self.site.seq = key[1] - 1
                outcome = self._carry_out(command_pb2.Command.FromString(raw), ClientId(submit.client_id))
                self._judged[key] = (outcome.reason, file_ack(outcome))
            reason, ack = self._judged[key]
            acks.reason.append(reason)
            acks.file.append(ack)
            if reason == command_pb2.REASON_CHUNKS_MISSING:
                del self._judged[key]
        acks.raft_index = self.site.index
        await self.tell()
        return None if self.holds_verdicts else acks

    def _carry_out(self, command: command_pb2.Command, client: ClientId) -> FileOutcome:
        if command.HasField("abandon"):
            return FileOutcome(0, 0, 0, 0)
        return self.site.entry(command, client=client)[0]

    # --- reads --------------------------------------------------------------------------------------

    async def Status(self, request: cluster_pb2.StatusRequest, context: Call) -> cluster_pb2.NodeStatus:
        role = "leader" if self.leads else "candidate"
        leader = self.address if self.leads else ""
        return cluster_pb2.NodeStatus(
            node_id="n1", role=role, term=1, leader_client_address=leader, commit_index=self.site.index
        )

    async def Barrier(self, request: pb.BarrierRequest, context: Call) -> pb.BarrierResponse:
        if not self.leads:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "no quorum")
        header = self.site.header
        self.confirmed = header.log_index
        return pb.BarrierResponse(
            workspace=pb.WorkspaceSummary(log_index=header.log_index, root=header.root, inode_count=header.inode_count)
        )

    async def Renew(self, request: coordination_pb2.RenewRequest, context: Call) -> coordination_pb2.RenewResponse:
        if not self.leads:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "no quorum")
        if request.with_opens:
            self.opens.append(set(request.open_inodes))
        return coordination_pb2.RenewResponse()

    async def ChunkNeed(self, request: pb.ChunkNeedRequest, context: Call) -> pb.ChunkNeedResponse:
        return pb.ChunkNeedResponse(missing=[h for h in request.hashes if h not in self.site.chunks])

    async def FetchChunks(self, request: pb.FetchChunksRequest, context: Call) -> AsyncIterator[pb.ChunkContent]:
        for chunk_hash in request.hashes:
            self.fetched.append(chunk_hash)
            content = self.site.chunks.get(chunk_hash)
            if content is None or chunk_hash in self.absent:
                yield pb.ChunkContent(hash=chunk_hash, absent=True)
            elif chunk_hash in self.spoiled:
                yield pb.ChunkContent(hash=chunk_hash, content=content[:-1] + bytes([content[-1] ^ 1]))
            else:
                yield pb.ChunkContent(hash=chunk_hash, content=content)

    async def TreeSnapshot(self, request: pb.TreeSnapshotRequest, context: Call) -> AsyncIterator[pb.TreeSnapshotPiece]:
        header = self.site.header
        records = [
            pb.TreeRecord(family=int(change.family), key=change.key, value=change.value or b"")
            for change in export_records(self.site.store, self.site.workspace_id)
        ]
        for start in range(0, len(records), 100):
            yield pb.TreeSnapshotPiece(
                log_index=header.log_index,
                root=header.root,
                records=records[start : start + 100],
                last=start + 100 >= len(records),
                history_id=self.history_id,
            )

    async def WatchLog(self, request: pb.WatchLogRequest, context: Call) -> AsyncIterator[pb.WatchLogResponse]:
        self.watches += 1
        if request.history_id != self.history_id:
            yield pb.WatchLogResponse(snapshot_needed=pb.SnapshotNeeded(retained_from=1))
            return
        if request.from_index < self.kept_from:
            yield pb.WatchLogResponse(snapshot_needed=pb.SnapshotNeeded(retained_from=self.kept_from))
            return
        self.watched += 1
        try:
            async for answer in self._log(request):
                yield answer
        finally:
            self.watched -= 1

    async def _log(self, request: pb.WatchLogRequest) -> AsyncIterator[pb.WatchLogResponse]:
        at, told = 0, False
        while True:
            batches, at = self.site.batches[at:], len(self.site.batches)
            for raw in batches:
                batch = LogBatch.FromString(raw)
                if batch.records[-1].log_index < request.from_index:
                    continue
                if self.liar is not None:
                    batch = self.liar(batch)
                first, last = batch.records[0].log_index, batch.records[-1].log_index
                part = pb.LogSlice(batches=[batch.SerializeToString()], first_index=first, last_index=last)
                yield pb.WatchLogResponse(slice=part)
            if not told:
                told, header = True, self.site.header
                yield pb.WatchLogResponse(
                    caught_up=pb.CaughtUp(log_index=header.log_index, root=self.head_root or header.root)
                )
            async with self._changed:
                await self._changed.wait_for(lambda sent=at: len(self.site.batches) > sent and not self.mute)

    async def Session(
        self, request_iterator: AsyncIterator[pb.WorkerMessage], context: Call
    ) -> AsyncIterator[pb.ClusterMessage]:
        welcome = pb.WorkerWelcome(term=1, history_id=self.history_id, heartbeat_ms=50, in_flight_max=1_000)
        yield pb.ClusterMessage(welcome=welcome)
        async for message in request_iterator:
            if message.HasField("applied"):
                self.sessions.append(message.applied)
