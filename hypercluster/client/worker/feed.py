"""What the cluster tells a worker: the log from a given index, a snapshot, and the session beside them (WS-50, WS-51).

Owns: the log and the session, and which node they are asked of; snapshots.py has the trees.
Never: touches the mirror.
Invariants: records come out in order without gaps; a node that is behind, gone or of a changed history ends the
stream with an error of our tree, and the caller decides; every message is bounded by the channel.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass

import grpc

from hypercluster.client.answers import from_rpc
from hypercluster.client.nodes import Nodes
from hypercluster.client.stubs import workspace_service
from hypercluster.errors import BehindError, DamagedError, HyperClusterError, NoQuorumError
from hypercluster.pb.v1 import workspace_pb2
from hypercluster.pb.v1.workspace_command_pb2 import LogBatch, LogRecord

SILENT_S = 5.0  # without a record, the leader is asked whether there are any


@dataclass(frozen=True, slots=True)
class Records:
    """Consecutive records."""

    records: list[LogRecord]


@dataclass(frozen=True, slots=True)
class CaughtUp:
    """Everything that was committed when the watch began has come; the tree at `log_index` has this root."""

    log_index: int
    root: bytes


@dataclass(frozen=True, slots=True)
class SnapshotNeeded:
    """The log is kept from `retained_from` only."""

    retained_from: int


async def watch(
    nodes: Nodes, address: str, workspace_id: bytes, from_index: int, history_id: bytes, *, as_kept: bool = False
) -> AsyncGenerator[Records | CaughtUp | SnapshotNeeded]:
    """The log of one node, until it breaks, or until others have what it does not send. Raises an error of our tree.
    With `as_kept` from anywhere in the log that is kept, and not only in the replay window."""
    request = workspace_pb2.WatchLogRequest(
        workspace_id=workspace_id, from_index=from_index, history_id=history_id, as_kept=as_kept
    )
    call = workspace_service(nodes.channel(address)).WatchLog(request)
    next_index = from_index
    events = _heard(call, lambda: _is_further(nodes, workspace_id, next_index))
    try:
        async for event in events:
            match event.WhichOneof("event"):
                case "slice":
                    found: list[LogRecord] = []
                    for batch in event.slice.batches:
                        for record in LogBatch.FromString(batch).records:
                            if record.log_index < next_index:
                                continue  # a batch is sent whole, also when the watch begins in its middle
                            if record.log_index != next_index:
                                raise DamagedError(f"{address} sent record {record.log_index} after {next_index - 1}")
                            next_index += 1
                            found.append(record)
                    if found:
                        yield Records(found)
                case "caught_up":
                    yield CaughtUp(event.caught_up.log_index, event.caught_up.root)
                case "snapshot_needed":
                    yield SnapshotNeeded(event.snapshot_needed.retained_from)
        nodes.said[address] = "ended the log"
    except grpc.aio.AioRpcError as error:
        raise from_rpc(error, f"watch the log on {address}") from error
    finally:
        call.cancel()
        await events.aclose()


async def _heard(
    call: WatchCall, silent: Callable[[], Awaitable[bool]]
) -> AsyncGenerator[workspace_pb2.WatchLogResponse]:
    """Events as they come. `silent` is asked after SILENT_S without any: True when there should have been some. Twice
    in a row, and the stream ends: one answer may be younger than what is on its way."""
    reading: asyncio.Task[object] | None = None
    late = False
    try:
        while True:
            reading = reading or asyncio.ensure_future(call.read())
            done, _ = await asyncio.wait({reading}, timeout=SILENT_S)
            if not done:
                if not await silent():
                    late = False
                elif late:
                    raise BehindError("this node does not send what the others have: it is cut off, or far behind")
                else:
                    late = True
                continue
            event, reading, late = reading.result(), None, False
            if not isinstance(event, workspace_pb2.WatchLogResponse):
                return
            yield event
    finally:
        if reading is not None:
            reading.cancel()


async def _is_further(nodes: Nodes, workspace_id: bytes, log_index: int) -> bool:
    """Whether the cluster, by its leader, has this record. False when nobody can tell."""
    request = workspace_pb2.BarrierRequest(workspace_id=workspace_id)
    try:
        answer: workspace_pb2.BarrierResponse = await nodes.read(
            lambda channel, timeout: workspace_service(channel).Barrier(request, timeout=timeout),
            "ask how far the log is",
            deadline_s=SILENT_S,
        )
    except HyperClusterError:
        return False
    return answer.workspace.log_index >= log_index


class Session:
    """The stream that says who we are and how far we have come. Ends when the node does, or refuses."""

    def __init__(
        self,
        nodes: Nodes,
        hello: Callable[[], workspace_pb2.WorkerHello],
        applied: Callable[[], workspace_pb2.WorkerApplied],
        heard: Callable[[int], None],
    ) -> None:
        """`heard` is told the log index of the cluster, as far as the node knows it."""
        self._nodes = nodes
        self._hello = hello
        self._applied = applied
        self._heard = heard
        self.welcome: workspace_pb2.WorkerWelcome | None = None
        self.term_seen = 0  # a node that knows only earlier ones, and no leader, is behind

    async def run(self, address: str) -> None:
        """Raises an error of our tree."""
        call = workspace_service(self._nodes.channel(address)).Session()
        try:
            hello = self._hello()
            hello.term_seen = self.term_seen
            await call.write(workspace_pb2.WorkerMessage(hello=hello))
            first = await call.read()
            if first is grpc.aio.EOF:
                raise NoQuorumError(f"session with {address}: it ended before its welcome")
            self.welcome = first.welcome
            self.term_seen = max(self.term_seen, first.welcome.term)
            self._heard(first.welcome.log_index)
            async with asyncio.TaskGroup() as group:
                beat = group.create_task(self._beat(call, first.welcome.heartbeat_ms))
                while (message := await call.read()) is not grpc.aio.EOF:
                    self.term_seen = max(self.term_seen, message.heartbeat.term)
                    self._heard(message.heartbeat.log_index)
                beat.cancel()
        except* grpc.aio.AioRpcError as several:
            error = several.exceptions[0]
            assert isinstance(error, grpc.aio.AioRpcError)
            raise from_rpc(error, f"session with {address}") from error
        finally:
            self.welcome = None
            call.cancel()

    async def _beat(self, call: SessionCall, heartbeat_ms: int) -> None:
        while True:
            await call.write(workspace_pb2.WorkerMessage(applied=self._applied()))
            await asyncio.sleep(max(heartbeat_ms, 50) / 1000)


WatchCall = grpc.aio.UnaryStreamCall[workspace_pb2.WatchLogRequest, workspace_pb2.WatchLogResponse]
SessionCall = grpc.aio.StreamStreamCall[workspace_pb2.WorkerMessage, workspace_pb2.ClusterMessage]
