"""A workspace followed in place: the `LiveTree` port, put together (see DESIGN.md).

Owns: the parts and their life; the session with the cluster beside them (WS-50); what is said of it all (status).
Never: more than wiring and words.
Invariants: the tree can be read from `__aenter__` on, also without a cluster if a former run left one; one process at a
time uses a state directory; a defect in a loop makes the tree read-only and says so.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Coroutine
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from hypercluster.client.answers import errno_of, raise_unless_ok
from hypercluster.client.client import Client
from hypercluster.client.content import ChunkDoor
from hypercluster.client.lane_types import Intent
from hypercluster.client.live.chunk_cache import BYTES_MAX, ChunkCache
from hypercluster.client.live.chunk_source import ChunkSource
from hypercluster.client.live.following import Follower
from hypercluster.client.live.mutating import Mutator
from hypercluster.client.live.opens import Opens
from hypercluster.client.live.ports import AppliedCallback, LiveStatus, Node, Process, Recall
from hypercluster.client.live.process_lanes import ProcessLanes
from hypercluster.client.live.publishing import Publishing
from hypercluster.client.live.quorum import Quorum
from hypercluster.client.live.shelf import Shelf
from hypercluster.client.live.view import LocalView, node_of
from hypercluster.client.worker import feed, session_messages
from hypercluster.client.worker.state import WorkerStatus
from hypercluster.client.worker.thread import MirrorThread
from hypercluster.errors import HyperClusterError, NoQuorumError, check
from hypercluster.pb.v1 import command_pb2 as command_pb
from hypercluster.pb.v1.coordination_command_pb2 import Abandon
from hypercluster.pb.v1.workspace_command_pb2 import FileAck, FileCommand

T = TypeVar("T")

CONTROL_LANE = 7  # of the client: what concerns other lanes goes by one of its own
SESSION_PAUSE_S = 1.0


@dataclass(frozen=True, slots=True)
class LiveSettings:
    """The waits of WS-3 and WS-4 are those of the client's lanes."""

    cache_bytes: int = BYTES_MAX
    start_s: float = 60.0  # for the first snapshot


class LiveWorkspace:
    """See the module and `ports.LiveTree`. An async context manager; the client is the caller's, for its whole life."""

    def __init__(
        self,
        client: Client,
        workspace_id: bytes,
        workspace: str,
        worker: str,
        state: Path,
        settings: LiveSettings | None = None,
    ) -> None:
        self._client = client
        self._workspace_id = workspace_id
        self._workspace = workspace
        self._worker = worker
        self._state = state.absolute()
        self._settings = settings or LiveSettings()
        self._instance = os.urandom(16)
        self._disk = MirrorThread("live")
        self._work: asyncio.Task[None] | None = None
        self._defect = ""
        self._shelf: Shelf
        self._cache: ChunkCache
        self._follower: Follower

    # --- life ---------------------------------------------------------------------------------------

    async def __aenter__(self) -> LiveWorkspace:
        """Raises MalformedError, DamagedError, OSError, NoQuorumError if there is no tree and none can be fetched."""
        try:
            self._shelf = await self._disk(lambda: Shelf(str(self._state), self._workspace_id))
            try:
                await self._begin()
            except BaseException:
                self._shelf.close()
                raise
        except BaseException:
            self._disk.close()
            raise
        return self

    async def _begin(self) -> None:
        self._cache = await self._disk(lambda: ChunkCache(self._shelf.chunks_path, self._settings.cache_bytes))
        nodes = self._client.nodes
        no_leader_s = self._client.settings.lane.no_leader_ns / 1e9
        door = ChunkDoor(self._client, self._workspace_id)
        self._publishing = Publishing()
        self._quorum = Quorum(nodes, self._workspace_id, no_leader_s)
        self._source = ChunkSource(door, self._cache, self._quorum.barrier, self._visible)
        self._lanes = ProcessLanes(
            self._client.open_lane,
            self._client.close_lane,
            self._abandon,
            (self._workspace_id, self._worker, self._instance),
        )
        self._follower = Follower(
            nodes,
            self._shelf,
            self._cache,
            self._source,
            self._publishing,
            self._quorum.barrier,
            self._lanes.process_of,
            self._disk,
        )
        self._mutator = Mutator(
            self._workspace_id,
            self._lanes,
            door,
            self._cache,
            self._quorum,
            self._publishing,
            self._follower.offer,
        )
        self._view = LocalView(
            lambda: self._follower.replica,
            self._cache,
            self._source,
            lambda: self._publishing.applied_index,
            self._why_read_only,
        )
        self._loop = asyncio.get_running_loop()
        await self._follower.open()
        self._work = asyncio.create_task(self._run())
        self._work.add_done_callback(self._ended)
        try:
            await self._first_tree()
        except BaseException:
            await self._end_work()
            self._cache.close()
            raise

    async def _first_tree(self) -> None:
        try:
            async with asyncio.timeout(self._settings.start_s):
                await self._follower.has_tree.wait()
        except TimeoutError as error:
            words = f"{self._workspace}: no snapshot within {self._settings.start_s:.0f} s: "
            why = self._why_stopped() or self._follower.last_problem or "no node answers"
            raise NoQuorumError(words + why) from error

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._follower.run())
            group.create_task(self._quorum.run())
            group.create_task(self._lanes.sweep())
            group.create_task(self._session_loop())
            group.create_task(Opens(self._client.nodes, self._workspace_id, self.held_for).run())

    def _ended(self, work: asyncio.Task[None]) -> None:
        if work.cancelled() or (error := work.exception()) is None:
            return
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        self._defect = f"a defect ended it: {error!r}"
        self._publishing.stop(OSError(errno.EIO, f"{os.strerror(errno.EIO)}: {self._defect}"))

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._end_work()
        self._cache.close()
        self._shelf.close()
        self._disk.close()

    async def _end_work(self) -> None:
        check(self._work is not None, "what is ended was begun")
        assert self._work is not None
        self._work.cancel()
        await asyncio.gather(self._work, return_exceptions=True)
        self._publishing.stop(OSError(errno.EIO, "the tree was closed"))
        await self._lanes.close()
        await self._source.close()
        await self._quorum.close()
        await self._follower.close()

    # --- the port -----------------------------------------------------------------------------------

    @property
    def view(self) -> LocalView:
        return self._view

    @property
    def workspace_id(self) -> bytes:
        return self._workspace_id

    @property
    def worker(self) -> str:
        return self._worker

    async def mutate(
        self, process: Process, command: FileCommand, content: bytes | None = None, *, recall: Recall | None = None
    ) -> FileAck:
        reason = self._why_stopped()
        if reason:
            raise OSError(errno.EROFS, f"{os.strerror(errno.EROFS)}: {reason}")
        return await self._mutator.mutate(process, command, content, recall)

    async def check_writable(self) -> None:
        reason = self._why_stopped()
        if reason:
            raise OSError(errno.EROFS, f"{os.strerror(errno.EROFS)}: {reason}")
        await self._quorum.check()

    async def barrier(self) -> int:
        try:
            log_index = await self._quorum.barrier()
        except HyperClusterError as error:
            number = errno_of(error)
            raise OSError(number, f"{os.strerror(number)}: {error}") from error
        await self._publishing.wait(log_index)
        return log_index

    async def wait_applied(self, log_index: int) -> None:
        await self._publishing.wait(log_index)

    async def _visible(self, log_index: int) -> None:
        await self._follower.visible(log_index)

    def hold(self, inode_id: bytes) -> Node:
        return node_of(self._follower.replica.hold(inode_id))

    def drop(self, inode_id: bytes) -> None:
        self._follower.replica.drop(inode_id)

    def held_for(self, seconds: float) -> list[bytes]:
        """Inodes that somebody here has had open for so long (WS-44), the longest first."""
        return self._follower.replica.held_for(seconds) if self._follower.has_tree.is_set() else []

    def on_applied(self, callback: AppliedCallback) -> None:
        self._publishing.on_applied(callback)

    def begin_in_loop(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def run_in_loop(self, work: Coroutine[Any, Any, T]) -> T:
        return self.begin_in_loop(work).result()

    async def clear_failure(self, *, rebuild: bool) -> None:
        """The operator's word that a failure is understood (WS-5)."""
        await self._follower.clear_failure(rebuild=rebuild)

    # --- words --------------------------------------------------------------------------------------

    def _why_stopped(self) -> str:
        failure = self._follower.failure
        if failure is not None:
            return f"stopped before log_index {failure.log_index}: {failure.message}"
        return self._defect

    def _why_read_only(self) -> str:
        return self._why_stopped() or self._quorum.reason

    def status(self) -> LiveStatus:
        follower, replica = self._follower, self._follower.replica
        failure = follower.failure
        held, orphans = replica.counts()
        return LiveStatus(
            workspace=self._workspace,
            worker=self._worker,
            state=follower.state.value,
            applied_index=self._publishing.applied_index,
            durable_index=replica.durable_index,
            cluster_index=follower.cluster_index,
            root=replica.root.hex(),
            read_only_reason=self._why_read_only(),
            last_problem=follower.last_problem,
            error_log_index=0 if failure is None else failure.log_index,
            error_errno=0 if failure is None else failure.errno,
            error_message="" if failure is None else failure.message,
            held=held,
            orphans=orphans,
            lanes=len(self._lanes),
            chunk_bytes=self._cache.bytes_total,
            snapshots=follower.snapshots,
        )

    # --- the cluster --------------------------------------------------------------------------------

    async def _abandon(self, intent: Intent) -> None:
        """WS-4. Accepted from the same worker only; what was judged keeps its result."""
        abandon = Abandon(client_id=intent.client_id, through_seq=intent.seq, basis=intent.basis)
        command = command_pb.Command(abandon=abandon).SerializeToString()
        settled = await self._client.lane(CONTROL_LANE).submit(command, self._workspace_id)
        raise_unless_ok(settled, f"give up {intent.token()}")

    async def _session_loop(self) -> None:
        session = feed.Session(
            self._client.nodes,
            lambda: session_messages.hello(self._as_worker(), self._workspace_id, self._instance),
            lambda: session_messages.applied(self._as_worker(), self._workspace_id, self._state),
            self._heard,
        )
        turn = int.from_bytes(self._instance[:2], "big")
        nodes = self._client.settings.nodes
        while True:
            turn += 1
            try:
                await session.run(nodes[turn % len(nodes)])
            except HyperClusterError as error:
                self._follower.last_problem = str(error)
            except ExceptionGroup as several:
                self._follower.last_problem = str(several.exceptions[0])
            await asyncio.sleep(SESSION_PAUSE_S)

    def _as_worker(self) -> WorkerStatus:
        """As the session knows workers."""
        follower = self._follower
        status = WorkerStatus(self._workspace, self._worker, str(self._state), follower.state)
        status.applied_index = self._publishing.applied_index
        status.root = follower.replica.root.hex() if follower.has_tree.is_set() else ""
        status.failure = follower.failure
        return status

    def _heard(self, log_index: int) -> None:
        self._follower.cluster_index = max(self._follower.cluster_index, log_index)
