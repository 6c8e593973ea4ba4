"""A worker: it keeps a directory equal to a workspace, as a prefix of its log (WS-1, WS-50 to WS-52, WS-55, WS-63).

Owns: the life of a mirror: when it is rebuilt, which records are applied together, when it stops, what it reports.
Never: writes to the workspace; goes on after a replay that failed (WS-5).
Invariants: records wait in an inbox of bounded size, so a slow disk slows the stream and nothing else; the mirror is
touched from one thread, one batch at a time; a failure stays until an operator clears it.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import sqlite3
from functools import partial
from pathlib import Path

from hypercluster.client.client import Client
from hypercluster.client.content import ChunkDoor
from hypercluster.client.worker import feed, session_messages
from hypercluster.client.worker.applying import Applier
from hypercluster.client.worker.mirror import Mirror
from hypercluster.client.worker.rebuild import Rebuild
from hypercluster.client.worker.snapshots import snapshot
from hypercluster.client.worker.state import Failure, WorkerState, WorkerStatus, write_status
from hypercluster.client.worker.thread import MirrorThread
from hypercluster.client.worker.verify import Verification, verify
from hypercluster.errors import DamagedError, HistoryChangedError, HyperClusterError, NotFoundError, check
from hypercluster.limits import MIB
from hypercluster.pb.v1.workspace_command_pb2 import LogRecord

INBOX_RECORDS_MAX = 6_000
INBOX_BYTES_MAX = 32 * MIB
BATCH_RECORDS_MAX = 2_000
PAUSE_S = (0.05, 1.0)
STATUS_PERIOD_S = 0.5
CLOSE_S = 5.0

LOCAL = (OSError, sqlite3.Error)  # what this host's disk does to a mirror; the tree itself is sound
InboxItem = list[LogRecord] | feed.CaughtUp


def state_directory(directory: Path) -> Path:
    """Beside the mirror, so that both are on one file system and nothing of ours is inside the tree."""
    return directory.parent / f".{directory.name}.hypercluster"


class Worker:
    """Use it as an async context manager; `run` works until it is cancelled."""

    def __init__(
        self, client: Client, workspace_id: bytes, workspace: str, name: str, directory: Path, state: Path | None = None
    ) -> None:
        self._client = client
        self._nodes = client.nodes
        self._workspace_id = workspace_id
        self._door = ChunkDoor(client, workspace_id)
        self._directory = directory.absolute()
        self._state = (state or state_directory(self._directory)).absolute()
        self._instance = os.urandom(16)
        self._in_thread = MirrorThread()
        self._turn = asyncio.Lock()  # one batch, or one verification
        self._inbox: list[InboxItem] = []
        self._inbox_records = 0
        self._inbox_bytes = 0
        self._inbox_changed = asyncio.Condition()
        self._reports = False  # only a worker that runs owns the status file
        self._batch: asyncio.Future[None] | None = None
        self._next_node = int.from_bytes(os.urandom(2), "big")
        self._applied_changed = asyncio.Condition()
        self.status = WorkerStatus(workspace=workspace, worker=name, directory=str(self._directory))
        self._mirror: Mirror
        self._applier: Applier

    async def __aenter__(self) -> Worker:
        try:
            self._mirror = await self._in_thread(
                lambda: Mirror(str(self._directory), str(self._state), self._workspace_id)
            )
        except BaseException:
            self._in_thread.close()
            raise
        self._applier = Applier(self._mirror, self._door.fetch, self._in_thread)
        self.status.failure = await self._in_thread(lambda: Failure.read(self._mirror.store))
        self.status.applied_index = await self._in_thread(lambda: self._mirror.applied_index)
        if await self._in_thread(self._mirror.plan) is None:  # otherwise the tree is ahead of the directory
            self.status.root = (await self._in_thread(self._mirror.root)).hex()
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._batch is not None:
            # What has begun is ended, if the cluster still gives the content; otherwise the next start ends it.
            await asyncio.wait({self._batch}, timeout=CLOSE_S)
            self._batch.cancel()
            await asyncio.gather(self._batch, return_exceptions=True)
        await self._in_thread(self._mirror.close)
        self._in_thread.close()
        if self._reports:
            self._write_status()

    # --- running ------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Follows the workspace until it is cancelled. Raises what no retry can mend."""
        self._reports = True
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._session_loop())
                group.create_task(self._status_loop())
                await self._follow()
        except BaseExceptionGroup as several:
            raise several.exceptions[0] from None

    async def clear_failure(self, *, rebuild: bool) -> None:
        """The operator's word that a failure is understood (WS-5). With `rebuild` the mirror is built anew."""

        def clear() -> None:
            Failure.clear(self._mirror.store)
            if rebuild:
                self._mirror.store.put_record("state", None)
            self._mirror.store.commit_batch(sync=True)

        await self._in_thread(clear)
        self.status.failure = None

    async def wait_applied(self, log_index: int) -> None:
        """Until the mirror holds, synced, everything up to `log_index`."""
        async with self._applied_changed:
            await self._applied_changed.wait_for(lambda: self.status.applied_index >= log_index)

    async def recover(self) -> None:
        """Ends what a killed run left half done, without following the log."""
        if not await self._in_thread(lambda: self._mirror.is_of(self._mirror.history_id())):
            raise NotFoundError(f"{self._directory} holds no finished mirror: run the worker first")
        await self._recovered()

    async def verify(self) -> Verification:
        """The directory against the tree, between two batches (WS-55)."""
        async with self._turn:
            found = await self._in_thread(lambda: verify(os.fsencode(self._directory), self._mirror.view))
            hashes = [doubt.piece.chunk_hash for doubt in found.doubts]
            chunks: dict[bytes, bytes] = {}
            if hashes:
                with contextlib.suppress(NotFoundError):
                    chunks = await self._door.fetch(hashes)
            for doubt in found.doubts:
                found.settle(doubt, chunks.get(doubt.piece.chunk_hash))
        return found

    async def _follow(self) -> None:
        pause_s = PAUSE_S[0]
        while True:
            if self.status.failure is not None:
                self.status.state = WorkerState.STOPPED
                await asyncio.Event().wait()  # until an operator acts; the session goes on reporting it
            address = self._pick_node()
            before = self.status.applied_index
            try:
                await self._follow_once(address)
            except HistoryChangedError:
                await self._forget()
                continue
            except LOCAL as error:
                await self._stop_for_now(self.status.applied_index + 1, error)
                continue
            except (HyperClusterError, DamagedError) as error:
                # Damage here is what a node sent: its log had a gap, its snapshot another root. Another node may do.
                self.status.last_problem = str(error)
            if self.status.applied_index != before:
                pause_s = PAUSE_S[0]
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, PAUSE_S[1])

    async def _follow_once(self, address: str) -> None:
        """From whatever the mirror is to a live watch of one node's log."""
        history_id = await self._in_thread(self._mirror.history_id)
        if not await self._in_thread(lambda: self._mirror.is_of(history_id)):
            await self._rebuild(address)
            history_id = await self._in_thread(self._mirror.history_id)
        elif not await self._recovered():
            return
        self._inbox.clear()
        self._inbox_records = self._inbox_bytes = 0
        applied_index = await self._in_thread(lambda: self._mirror.applied_index)
        self.status.state = WorkerState.CATCHING_UP
        watching = asyncio.create_task(self._watch(address, applied_index + 1, history_id))
        applying = asyncio.create_task(self._apply_loop())
        try:
            done, _ = await asyncio.wait({watching, applying}, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            # A batch that has begun is ended: cancelling it would leave its plan to the next start.
            watching.cancel()
            applying.cancel()
            await asyncio.gather(watching, applying, return_exceptions=True)

    async def _recovered(self) -> bool:
        """Ends the plan of a run that was killed. False if that failed, and is reported."""
        async with self._turn:
            self.status.state = WorkerState.RECOVERING
            try:
                await self._applier.recover()
            except (*LOCAL, DamagedError) as error:
                await self._stop_for_now(self.status.applied_index + 1, error)
                return False
            await self._note_applied()
        return True

    async def _rebuild(self, address: str) -> None:
        """The whole tree from a snapshot (WS-52)."""
        async with self._turn:
            self.status.state = WorkerState.REBUILDING
            rebuild = Rebuild(self._mirror)
            begun = False
            async for piece in snapshot(self._nodes, address, self._workspace_id):
                if not begun:
                    await self._in_thread(partial(rebuild.begin, piece.history_id))
                    begun = True
                    self.status.rebuilds += 1  # a node that had none to give is not counted
                records = [(record.family, record.key, record.value) for record in piece.records]
                await self._in_thread(partial(rebuild.add, records))
                log_index, root = piece.log_index, piece.root
            check(begun, "a snapshot has at least one piece")
            await self._in_thread(partial(rebuild.check, log_index, root))
            await self._applier.build(rebuild)
            await self._note_applied()

    async def _forget(self) -> None:
        """Another history: what we hold says nothing about it (D-17)."""
        async with self._turn:

            def forget() -> None:
                self._mirror.store.put_record("state", None)
                self._mirror.store.commit_batch(sync=True)

            await self._in_thread(forget)

    # --- the log ------------------------------------------------------------------------------------

    async def _watch(self, address: str, from_index: int, history_id: bytes) -> None:
        async for event in feed.watch(self._nodes, address, self._workspace_id, from_index, history_id):
            match event:
                case feed.Records(records):
                    self.status.cluster_index = max(self.status.cluster_index, records[-1].log_index)
                    await self._put(records)
                case feed.CaughtUp():
                    await self._put(event)
                case feed.SnapshotNeeded():
                    await self._forget()
                    return

    async def _put(self, item: InboxItem) -> None:
        async with self._inbox_changed:
            await self._inbox_changed.wait_for(
                lambda: self._inbox_records < INBOX_RECORDS_MAX and self._inbox_bytes < INBOX_BYTES_MAX
            )
            self._inbox.append(item)
            if isinstance(item, list):
                self._inbox_records += len(item)
                self._inbox_bytes += _bytes_of(item)
            self._inbox_changed.notify_all()

    async def _take(self) -> tuple[list[LogRecord], feed.CaughtUp | None]:
        """Whatever has come, up to a batch; a caught-up mark ends one."""
        async with self._inbox_changed:
            await self._inbox_changed.wait_for(lambda: self._inbox)
            records: list[LogRecord] = []
            mark: feed.CaughtUp | None = None
            while self._inbox and mark is None and len(records) < BATCH_RECORDS_MAX:
                item = self._inbox.pop(0)
                if isinstance(item, feed.CaughtUp):
                    mark = item
                else:
                    records += item
                    self._inbox_records -= len(item)
                    self._inbox_bytes -= _bytes_of(item)
            self._inbox_changed.notify_all()
            return records, mark

    async def _apply_loop(self) -> None:
        while self.status.failure is None:
            records, mark = await self._take()
            # Shielded: a watch that breaks must not cut a batch in two.
            self._batch = asyncio.ensure_future(self._apply(records, mark))
            await asyncio.shield(self._batch)

    async def _apply(self, records: list[LogRecord], mark: feed.CaughtUp | None) -> None:
        async with self._turn:
            try:
                if records:
                    batch = await self._applier.apply(records)
                    await self._note_applied()
                    if batch.problem:
                        self._stop(batch.problem_index, errno.EIO, batch.problem, keep=True)
                        await self._in_thread(self._keep_failure)
                        return
            except (*LOCAL, DamagedError) as error:
                await self._stop_for_now(records[0].log_index, error)
                return
            if mark is not None:
                await self._compare(mark)

    async def _compare(self, mark: feed.CaughtUp) -> None:
        """The end of a catch-up compares roots (WS-52)."""
        root = await self._in_thread(self._mirror.root)
        if self.status.applied_index == mark.log_index and root != mark.root:
            words = f"the root is {root.hex()} where the cluster has {mark.root.hex()}"
            self._stop(mark.log_index, errno.EIO, words, keep=True)
            await self._in_thread(self._keep_failure)
            return
        self.status.state = WorkerState.LIVE
        self.status.last_problem = ""

    def _stop(self, log_index: int, number: int, words: str, *, keep: bool) -> None:
        """WS-5. `keep` False: a restart may try again, as the tree itself is sound."""
        self.status.failure = Failure(log_index, number, words, keep)
        self.status.state = WorkerState.STOPPED

    async def _stop_for_now(self, log_index: int, error: BaseException) -> None:
        """This host's disk, or what it holds: a restart tries again. Closing must not commit what is half written."""
        await self._in_thread(self._mirror.store.roll_back)
        where = f"in {self._directory} or {self._state}"
        words = f"{error} ({where}): mend it, or make room, and start the worker again"
        self._stop(log_index, (error.errno if isinstance(error, OSError) else None) or errno.EIO, words, keep=False)

    def _keep_failure(self) -> None:
        if self.status.failure is not None:
            self.status.failure.write(self._mirror.store)

    async def _note_applied(self) -> None:
        index, root = await self._in_thread(lambda: (self._mirror.applied_index, self._mirror.root()))
        async with self._applied_changed:
            self.status.applied_index = index
            self.status.root = root.hex()
            self.status.cluster_index = max(self.status.cluster_index, index)
            self.status.problems = dict(self._mirror.problems)
            self._applied_changed.notify_all()

    # --- session and status -------------------------------------------------------------------------

    def _pick_node(self) -> str:
        nodes = self._nodes.settings.nodes
        self._next_node += 1
        return nodes[self._next_node % len(nodes)]

    async def _session_loop(self) -> None:
        session = feed.Session(
            self._nodes,
            lambda: session_messages.hello(self.status, self._workspace_id, self._instance),
            lambda: session_messages.applied(self.status, self._workspace_id, self._directory),
            self._heard,
        )
        turn = self._next_node
        while True:
            turn += 1
            try:
                await session.run(self._nodes.settings.nodes[turn % len(self._nodes.settings.nodes)])
            except HyperClusterError as error:
                self.status.last_problem = str(error)
            except ExceptionGroup as several:
                self.status.last_problem = str(several.exceptions[0])
            await asyncio.sleep(PAUSE_S[1])

    def _heard(self, log_index: int) -> None:
        self.status.cluster_index = max(self.status.cluster_index, log_index)

    async def _status_loop(self) -> None:
        while True:
            self._write_status()
            await asyncio.sleep(STATUS_PERIOD_S)

    def _write_status(self) -> None:
        with contextlib.suppress(OSError):  # a full disk must not end the worker that would report it (WS-5)
            write_status(self._state, self.status)


def _bytes_of(records: list[LogRecord]) -> int:
    return sum(len(record.command) for record in records)
