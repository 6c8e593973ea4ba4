"""A worker's session with the node it chose (WS-50).

Owns: hello and welcome, heartbeats both ways, and the row of the worker table that says how far the worker is.
Never: log records (WatchLog carries them) or a decision about a worker that lags.
Invariants: the hello comes first and names protocol, workspace and history; every later message names the same
workspace; a worker that has seen a term this node knows nothing of is sent to another node; one that is silent for
SILENT_S, or takes nothing, has no session; one session holds up no other.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hypercluster import limits
from hypercluster.errors import (
    BehindError,
    DeadlineError,
    HistoryChangedError,
    MalformedError,
    TooLargeError,
    WrongWorkspaceError,
)
from hypercluster.node.fanout import OpLog
from hypercluster.node.proposer import ProposerSettings
from hypercluster.node.standing import Standing
from hypercluster.node.worker_table import WORKER_WORDS_MAX, ApplyFailure, ConnectedWorker, Pressure, WorkerTable
from hypercluster.pb.v1 import workspace_pb2 as pb
from hypercluster.raft.engine import Clock
from hypercluster.rpc.calls import Call, parse
from hypercluster.state_machine.workspace.records import Header
from hypercluster.storage.identity import Identity

log = logging.getLogger(__name__)

PROTOCOL = "hypersync/1"
HEARTBEAT_MS = 1_000
SILENT_S = 10.0
FEATURES = frozenset({"hazards", "inline", "lock-events", "locks", "open-leases", "pressure", "reservations"})
MOUNT_INSTANCE_BYTES_MAX = 64


@dataclass(frozen=True, slots=True)
class SessionParts:
    """What every session of a node shares."""

    op_log: OpLog
    standing: Standing
    identity: Identity
    workers: WorkerTable
    clock: Clock
    settings: ProposerSettings
    header: Callable[[bytes, Call], Header]  # raises WrongWorkspaceError


class WorkerSession:
    def __init__(self, call: Call, parts: SessionParts) -> None:
        self._call = call
        self._parts = parts
        self._workspace_id = b""
        self._error_told = 0

    async def run(self) -> None:
        hello = await self._hello()
        self._workspace_id = hello.workspace_id
        clock = self._parts.clock
        row = ConnectedWorker(
            scope=self._call.caller.scope,
            workspace_id=hello.workspace_id,
            worker=self._call.caller.worker or self._call.caller.principal,
            name=hello.worker,
            mount_instance=hello.mount_instance,
            connected_at_ns=clock.wall_ns(),
            heard_s=clock.monotonic(),
            applied_index=hello.applied_index,
        )
        self._parts.workers.add(row)
        try:
            await self._call.write(self._welcome(hello.features))
            async with asyncio.TaskGroup() as group:
                beat = group.create_task(self._beat())
                await self._listen(row)
                beat.cancel()
        except BaseExceptionGroup as several:
            raise several.exceptions[0] from None
        finally:
            self._parts.workers.remove(row)

    async def _hello(self) -> pb.WorkerHello:
        message = await self._next()
        if message is None or message.WhichOneof("kind") != "hello":
            raise MalformedError("the first message of a session is its hello")
        hello = message.hello
        if hello.protocol != PROTOCOL:
            raise MalformedError(f"protocol {hello.protocol!r}: this node speaks {PROTOCOL}")
        check_features(hello.features)
        if len(hello.worker.encode()) > limits.AGENT_BYTES_MAX:
            raise TooLargeError(f"worker: {len(hello.worker.encode())} bytes, at most {limits.AGENT_BYTES_MAX}")
        if len(hello.mount_instance) > MOUNT_INSTANCE_BYTES_MAX:
            raise TooLargeError(
                f"mount_instance: {len(hello.mount_instance)} bytes, at most {MOUNT_INSTANCE_BYTES_MAX}"
            )
        self._parts.header(hello.workspace_id, self._call)
        history_id = self._parts.identity.history_id
        if hello.history_id and hello.history_id != history_id:
            raise HistoryChangedError(f"this cluster's history is {history_id.hex()}: rebuild the mirror")
        status = self._parts.standing.status()
        if hello.term_seen > status.term and status.leader is None:
            raise BehindError(
                f"term_seen {hello.term_seen}: {status.node_id} is in term {status.term} and hears no leader: ask "
                "another node"
            )
        return hello

    async def _next(self) -> pb.WorkerMessage | None:
        try:
            async with asyncio.timeout(SILENT_S):
                content = await self._call.read()
        except TimeoutError:
            raise DeadlineError(f"nothing was heard of the worker for {SILENT_S:.0f} s") from None
        return None if content is None else parse(pb.WorkerMessage, content)

    def _log_index(self) -> int:
        head = self._parts.op_log.head(self._workspace_id)
        return head.log_index if head is not None else 0

    def _welcome(self, features: Sequence[str]) -> bytes:
        identity, status = self._parts.identity, self._parts.standing.status()
        welcome = pb.WorkerWelcome(
            term=status.term,
            log_index=self._log_index(),
            history_id=identity.history_id,
            cluster_id=identity.cluster_id,
            heartbeat_ms=HEARTBEAT_MS,
            in_flight_max=limits.WATCH_QUEUE_EVENTS_MAX,
            commit_index=status.commit_index,
            limits=negotiated(self._parts.settings),
            features=sorted(FEATURES.intersection(features)),
        )
        return pb.ClusterMessage(welcome=welcome).SerializeToString()

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(HEARTBEAT_MS / 1000)
            heartbeat = pb.Heartbeat(term=self._parts.standing.term(), log_index=self._log_index())
            await self._call.write(pb.ClusterMessage(heartbeat=heartbeat).SerializeToString())

    async def _listen(self, row: ConnectedWorker) -> None:
        while True:
            message = await self._next()
            if message is None:
                return
            if message.WhichOneof("kind") != "applied":
                raise MalformedError("after the hello a worker says only how far it has applied")
            self._note(row, message.applied)

    def _note(self, row: ConnectedWorker, applied: pb.WorkerApplied) -> None:
        if applied.workspace_id != self._workspace_id:
            raise WrongWorkspaceError(
                f"workspace_id: this session is of workspace {self._workspace_id.hex()}, the message of "
                f"{applied.workspace_id.hex()[:40] or 'none'}"
            )
        row.heard_s = self._parts.clock.monotonic()
        row.applied_index = applied.applied_index
        row.read_only = applied.read_only
        row.missing_chunks = applied.missing_chunks
        pressure = applied.pressure
        row.pressure = Pressure(
            pressure.cpu_permille, pressure.memory_permille, pressure.disk_free_bytes, pressure.disk_total_bytes
        )
        row.failure = None
        if not applied.error_log_index:
            return
        words = applied.error_message[:WORKER_WORDS_MAX]
        row.failure = ApplyFailure(applied.error_log_index, applied.error_errno, words)
        if applied.error_log_index != self._error_told:
            self._error_told = applied.error_log_index
            fields = {
                "worker": row.worker,
                "log_index": applied.error_log_index,
                "errno": applied.error_errno,
                "words": words[:200],
            }
            log.error("a worker could not apply an operation", extra={"fields": fields})


def check_features(features: Sequence[str]) -> None:
    """Raises TooLargeError."""
    if len(features) > limits.FEATURES_MAX:
        raise TooLargeError(f"features: {len(features)}, limit FEATURES_MAX is {limits.FEATURES_MAX}")
    for name in features:
        if len(name.encode()) > limits.FEATURE_BYTES_MAX:
            raise TooLargeError(f"features: a name of {len(name.encode())} bytes, at most {limits.FEATURE_BYTES_MAX}")


def negotiated(settings: ProposerSettings) -> pb.NegotiatedLimits:
    """What a worker plans by: the bounds of this release and this node's settings."""
    rate = settings.rate
    return pb.NegotiatedLimits(
        chunk_bytes_max=limits.CHUNK_BYTES_MAX,
        inline_bytes_max=limits.INLINE_BYTES_MAX,
        write_bytes_max=limits.WRITE_BYTES_MAX,
        command_bytes_max=limits.COMMAND_BYTES_MAX,
        submit_commands_max=limits.SUBMIT_COMMANDS_MAX,
        message_bytes_max=limits.CLIENT_MESSAGE_BYTES_MAX,
        batch_window_ms=settings.window_ms,
        batch_ops_max=settings.ops_max,
        batch_bytes_max=settings.bytes_max,
        stream_in_flight_max=limits.STREAM_IN_FLIGHT_MAX,
        rate_ops_per_s=rate.ops_per_s,
        rate_bytes_per_s=rate.bytes_per_s,
        rate_burst_ops=rate.burst_ops,
        hazard_window_ops=limits.HAZARD_WINDOW_OPS,
        lock_ttl_ms=limits.LOCK_TTL_MS,
        lock_grace_ms=limits.LOCK_GRACE_MS,
        open_report_after_ms=limits.OPEN_REPORT_AFTER_MS,
        open_lease_ttl_ms=limits.OPEN_LEASE_TTL_MS,
    )
