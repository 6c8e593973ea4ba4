"""A node that serves a recorded run badly: slices twice, late, in pieces and out of order, chunks with wrong bytes.

It speaks the real protocol on a loopback port, and says nothing that is not in the run; everything it does is drawn
from a seed. Each watch ends after a while, as streams of a node that comes and goes do.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from typing import Any

import grpc

from hypercluster.pb.v1 import workspace_pb2 as pb
from hypercluster.pb.v1 import workspace_pb2_grpc
from hypercluster.pb.v1.workspace_command_pb2 import LogBatch
from hypercluster.state_machine.store import Change, MemoryStore
from hypercluster.state_machine.workspace.transfer import EXPORTED_FAMILIES, export_records
from tests.unit.workspace.site import Site

HISTORY_ID = b"golden-history-1"
Call = grpc.aio.ServicerContext[Any, Any]


class UnrulyNode(workspace_pb2_grpc.WorkspaceServiceServicer):
    """`site` has played the run; `empty` is its store as it was when the workspace had just been made."""

    def __init__(self, site: Site, empty: MemoryStore, seed: int) -> None:
        self._site = site
        self._empty: list[Change] = list(export_records(empty, site.workspace_id))
        self._draw = random.Random(seed)
        self._first = [LogBatch.FromString(batch).records[0].log_index for batch in site.batches]
        self.spoiled: set[bytes] = set()  # chunks that were answered with wrong bytes, each once
        self.watches = 0
        self.out_of_order = 0
        self.repeated = 0
        self.pieces_max = 0  # batches of one slice
        self._server = grpc.aio.server()
        workspace_pb2_grpc.add_WorkspaceServiceServicer_to_server(self, self._server)
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"

    async def __aenter__(self) -> UnrulyNode:
        await self._server.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._server.stop(0.1)

    async def TreeSnapshot(self, request: pb.TreeSnapshotRequest, context: Call) -> AsyncIterator[pb.TreeSnapshotPiece]:
        records = [pb.TreeRecord(family=int(c.family), key=c.key, value=c.value or b"") for c in self._empty]
        assert {record.family for record in records} <= {int(family) for family in EXPORTED_FAMILIES}
        yield pb.TreeSnapshotPiece(log_index=0, root=self._root(), records=records, last=True, history_id=HISTORY_ID)

    def _root(self) -> bytes:
        from hypercluster.state_machine.workspace.queries import read_header

        store = MemoryStore()
        store.write(self._empty)
        header = read_header(store, self._site.workspace_id)
        assert header is not None
        return header.root

    async def WatchLog(self, request: pb.WatchLogRequest, context: Call) -> AsyncIterator[pb.WatchLogResponse]:
        self.watches += 1
        batches, draw = self._site.batches, self._draw
        at = max(
            0, next((i - 1 for i, first in enumerate(self._first) if first > request.from_index), len(batches) - 1)
        )
        sent = 0
        while at < len(batches) and sent < 12:
            count = min(draw.randint(1, 4), len(batches) - at)
            if self.watches == 1 and 1 <= sent <= 2 and at + 2 * count <= len(batches):  # each of them once for certain
                choice = 2 - sent
            else:
                choice = draw.randrange(6)
            match choice:
                case 0 if at + 2 * count <= len(batches) and sent:
                    self.out_of_order += 1
                    yield self._slice(at + count, count)
                    yield self._slice(at, count)
                case 1 if at:
                    self.repeated += 1
                    back = draw.randint(1, at)
                    yield self._slice(at - back, back)
                case _:
                    yield self._slice(at, count)
                    at += count
            sent += 1
        if at >= len(batches):
            header = self._site.header
            yield pb.WatchLogResponse(caught_up=pb.CaughtUp(log_index=header.log_index, root=header.root))

    def _slice(self, at: int, count: int) -> pb.WatchLogResponse:
        part = self._site.batches[at : at + count]
        self.pieces_max = max(self.pieces_max, len(part))
        last = LogBatch.FromString(part[-1]).records[-1].log_index
        return pb.WatchLogResponse(slice=pb.LogSlice(batches=part, first_index=self._first[at], last_index=last))

    async def FetchChunks(self, request: pb.FetchChunksRequest, context: Call) -> AsyncIterator[pb.ChunkContent]:
        for chunk_hash in request.hashes:
            content = self._site.chunks[chunk_hash]
            if chunk_hash not in self.spoiled:
                self.spoiled.add(chunk_hash)
                at = self._draw.randrange(len(content))
                content = content[:at] + bytes([content[at] ^ 1 << self._draw.randrange(8)]) + content[at + 1 :]
            yield pb.ChunkContent(hash=chunk_hash, content=content)

    async def Session(
        self, requests: AsyncIterator[pb.WorkerMessage], context: Call
    ) -> AsyncIterator[pb.ClusterMessage]:
        yield pb.ClusterMessage(
            welcome=pb.WorkerWelcome(term=1, history_id=HISTORY_ID, heartbeat_ms=200, in_flight_max=9)
        )
        async for _ in requests:
            yield pb.ClusterMessage(heartbeat=pb.Heartbeat(term=1, log_index=self._site.header.log_index))
