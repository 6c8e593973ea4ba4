"""A worker's session with the node it chose (WS-50).

Owns: hello and welcome, heartbeats both ways, what the worker says of its progress.
Never: log records (WatchLog carries them) or a decision about a worker that lags.
Invariants: the hello comes first and names protocol, workspace and history; a worker that is silent for SILENT_S, or
takes nothing, has no session; one session holds up no other.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from hypercluster import limits
from hypercluster.errors import DeadlineError, HistoryChangedError, MalformedError
from hypercluster.node.fanout import OpLog
from hypercluster.node.standing import Standing
from hypercluster.pb.v1 import workspace_pb2 as pb
from hypercluster.rpc.calls import Call, parse
from hypercluster.state_machine.workspace.records import Header
from hypercluster.storage.identity import Identity

log = logging.getLogger(__name__)

PROTOCOL = "hypersync/1"
HEARTBEAT_MS = 1_000
SILENT_S = 10.0


class WorkerSession:
    def __init__(
        self,
        call: Call,
        op_log: OpLog,
        standing: Standing,
        identity: Identity,
        header: Callable[[bytes, Call], Header],
    ) -> None:
        self._call = call
        self._op_log = op_log
        self._standing = standing
        self._identity = identity
        self._header = header
        self._workspace_id = b""
        self._worker = ""
        self._error_told = 0

    async def run(self) -> None:
        hello = await self._hello()
        self._workspace_id = hello.workspace_id
        self._worker = hello.worker
        await self._call.write(self._welcome())
        try:
            async with asyncio.TaskGroup() as group:
                beat = group.create_task(self._beat())
                await self._listen()
                beat.cancel()
        except BaseExceptionGroup as several:
            raise several.exceptions[0] from None

    async def _hello(self) -> pb.WorkerHello:
        message = await self._next()
        if message is None or message.WhichOneof("kind") != "hello":
            raise MalformedError("the first message of a session is its hello")
        hello = message.hello
        if hello.protocol != PROTOCOL:
            raise MalformedError(f"protocol {hello.protocol!r}: this node speaks {PROTOCOL}")
        self._header(hello.workspace_id, self._call)  # raises WrongWorkspaceError
        if hello.history_id and hello.history_id != self._identity.history_id:
            raise HistoryChangedError(
                f"this cluster's history is {self._identity.history_id.hex()}: rebuild the mirror"
            )
        return hello

    async def _next(self) -> pb.WorkerMessage | None:
        try:
            async with asyncio.timeout(SILENT_S):
                content = await self._call.read()
        except TimeoutError:
            raise DeadlineError(f"nothing was heard of the worker for {SILENT_S:.0f} s") from None
        return None if content is None else parse(pb.WorkerMessage, content)

    def _welcome(self) -> bytes:
        head = self._op_log.head(self._workspace_id)
        welcome = pb.WorkerWelcome(
            term=self._standing.term(),
            log_index=head.log_index if head is not None else 0,
            history_id=self._identity.history_id,
            cluster_id=self._identity.cluster_id,
            heartbeat_ms=HEARTBEAT_MS,
            in_flight_max=limits.WATCH_QUEUE_EVENTS_MAX,
        )
        return pb.ClusterMessage(welcome=welcome).SerializeToString()

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(HEARTBEAT_MS / 1000)
            head = self._op_log.head(self._workspace_id)
            heartbeat = pb.Heartbeat(term=self._standing.term(), log_index=head.log_index if head is not None else 0)
            await self._call.write(pb.ClusterMessage(heartbeat=heartbeat).SerializeToString())

    async def _listen(self) -> None:
        while True:
            message = await self._next()
            if message is None:
                return
            if message.WhichOneof("kind") != "applied":
                raise MalformedError("after the hello a worker says only how far it has applied")
            applied = message.applied
            if applied.error_log_index and applied.error_log_index != self._error_told:
                self._error_told = applied.error_log_index
                fields = {
                    "worker": self._worker,
                    "log_index": applied.error_log_index,
                    "errno": applied.error_errno,
                    "words": applied.error_message[:200],
                }
                log.error("a worker could not apply an operation", extra={"fields": fields})
