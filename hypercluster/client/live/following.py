"""The way of the log into the replica: watched, content fetched ahead, applied in order, made durable behind (WS-51).

Owns: the life of a replica: which node is watched, when it is built anew, when it stops (WS-5), and the loops between.
Never: proposes anything; goes on after a replay that failed.
Invariants: records become visible in order, each with its content in the cache; nothing is applied after a failure
until an operator clears it; a failure of the tree is there again after a restart, one of this host's disk is not.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import asdict
from functools import partial

from hypercluster.client.live.ahead import Ahead
from hypercluster.client.live.chunk_cache import ChunkCache
from hypercluster.client.live.chunk_source import ChunkSource
from hypercluster.client.live.filling import Filler
from hypercluster.client.live.inbox import Inbox, Item
from hypercluster.client.live.ports import Applied, Process
from hypercluster.client.live.publishing import Publishing
from hypercluster.client.live.replica import Replica
from hypercluster.client.live.shelf import Shelf
from hypercluster.client.live.store import DurableReader
from hypercluster.client.live.telling import Teller
from hypercluster.client.nodes import Nodes
from hypercluster.client.worker import feed
from hypercluster.client.worker.snapshots import snapshot
from hypercluster.client.worker.state import FAILURE_RECORD, Failure, WorkerState
from hypercluster.client.worker.thread import MirrorThread
from hypercluster.errors import DamagedError, HistoryChangedError, HyperClusterError, check
from hypercluster.pb.v1.workspace_command_pb2 import LogRecord
from hypercluster.state_machine.workspace.transfer import verify_tree

TURN_S = 0.002  # the loop is given back after so long
SLICE_RECORDS_MAX = 256
FLUSH_EVERY_S = 0.05
FLUSH_SOONER_CHANGES = 20_000
UNFLUSHED_CHANGES_MAX = 200_000  # with more in memory the disk goes first
PAUSE_S = (0.05, 1.0)
GAP_S, GAP_S_MAX = 0.5, 8.0  # how long the watched node may be behind an acknowledgement


class Follower:
    """See the module. Made in the loop; `start` and `close` in it."""

    def __init__(
        self,
        nodes: Nodes,
        shelf: Shelf,
        cache: ChunkCache,
        source: ChunkSource,
        publishing: Publishing,
        confirmed_index: Callable[[], Awaitable[int]],
        owner: Callable[[bytes], Process | None],
        disk: MirrorThread,
    ) -> None:
        """`owner` says which process here has a client_id."""
        self._nodes = nodes
        self._shelf = shelf
        self._cache = cache
        self._source = source
        self._publishing = publishing
        self._owner = owner
        self._disk = disk
        self._replica: Replica | None = None
        self._inbox = Inbox(0)
        self._came = asyncio.Event()  # something may be ready to be applied
        self._left = asyncio.Event()  # the inbox may have room
        self._ahead = Ahead(cache, source, confirmed_index, self._came.set)
        self._filler = Filler(cache, source)
        self._came_whole = asyncio.Event()  # a tree whose content may not be here
        self._unchecked: DurableReader | None = None  # what a former run left
        self._gap = asyncio.Event()
        self._watch_leader = False  # next, and once
        self._watching: asyncio.Task[None] | None = None
        self._next_node = int.from_bytes(os.urandom(2), "big")
        self._teller = Teller(publishing, lambda: self.failure is not None, self._fail)
        self._moved = asyncio.Event()  # set, and another put in its place, with whatever changes what is visible
        self._unflushed = asyncio.Event()
        cache.on_put(self._unflushed.set)
        self._cleared = asyncio.Event()
        self.has_tree = asyncio.Event()
        self.state = WorkerState.STARTING
        self.failure: Failure | None = None
        self._fetches_anew = False
        self.cluster_index = 0
        self.snapshots = 0
        self.last_problem = ""

    @property
    def replica(self) -> Replica:
        check(self._replica is not None, "the tree is there once has_tree is set")
        assert self._replica is not None
        return self._replica

    # --- life ---------------------------------------------------------------------------------------

    async def open(self) -> None:
        """What a former run left. Raises DamagedError, MalformedError, OSError."""
        store = await self._disk(self._shelf.open_newest)
        if store is None:
            return
        self._adopt(Replica(store, self._cache, self._shelf.workspace_id))
        self._publishing.move_to(self.replica.log_index)
        self._unchecked = store.durable()
        kept = store.record(FAILURE_RECORD)
        if kept is not None:
            self._stop(Failure(**json.loads(kept)))

    async def run(self) -> None:
        """Until it is cancelled. Raises what no retry can mend: a defect."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._apply_loop())
            group.create_task(self._teller.run())
            group.create_task(self._flush_loop())
            group.create_task(self._follow())
            group.create_task(self._gap_loop())
            group.create_task(self._fill_loop())
            group.create_task(self._check_found())

    async def close(self) -> None:
        """After `run` has ended."""
        await self._ahead.close()
        if self._unchecked is not None:
            self._unchecked.close()
        if self._replica is not None:
            if self.failure is None or self.failure.kept:
                await self._disk(self._flush)
            await self._disk(self._replica.close)

    def _adopt(self, replica: Replica) -> None:
        if self._replica is not None:
            replica.adopt(self._replica)
        self._replica = replica
        self._inbox = Inbox(replica.log_index)
        self.cluster_index = max(self.cluster_index, replica.log_index)
        self._came_whole.set()
        self.has_tree.set()
        self._tell_of_move()

    def _tell_of_move(self) -> None:
        before, self._moved = self._moved, asyncio.Event()
        before.set()

    async def visible(self, log_index: int) -> None:
        """Until reads see this prefix, whoever has heard of it, or the tree has stopped."""
        while self.replica.log_index < log_index and self.failure is None:
            await self._moved.wait()

    def _stop(self, failure: Failure) -> None:
        """WS-5."""
        self.failure = failure
        self.state = WorkerState.STOPPED
        words = f"{os.strerror(errno.EIO)}: stopped before log_index {failure.log_index}: {failure.message}"
        self._publishing.stop(OSError(errno.EIO, words))
        self._tell_of_move()
        if self._watching is not None:
            self._watching.cancel()

    async def _check_found(self) -> None:
        """What a former run left is read at once, and in the meantime added up: a disk may have changed it."""
        found = self._unchecked
        if found is None:
            return
        checked = await asyncio.to_thread(verify_tree, found, self._shelf.workspace_id)
        found.close()
        if checked is None or not checked.sound:
            words = "the tree on this host's disk does not add up to its root: fetch it anew"
            self._fail(Failure(self.replica.log_index + 1, errno.EIO, words, kept=True))

    async def clear_failure(self, *, rebuild: bool) -> None:
        """The operator's word that a failure is understood. With `rebuild` the tree is fetched anew: it stays
        read-only, and this waits, until it is there."""
        replica = self.replica
        replica.put_record(FAILURE_RECORD, None)
        if rebuild:
            replica.put_record("state", None)
        await self._disk(replica.flush)
        if not rebuild:
            self._go_on()
            self._inbox = Inbox(replica.log_index)
        self._fetches_anew = rebuild
        self._cleared.set()
        if self._watching is not None:
            self._watching.cancel()
        while self._fetches_anew:
            self.has_tree.clear()
            await self.has_tree.wait()

    def _go_on(self) -> None:
        self.failure = None
        self._fetches_anew = False
        self._publishing.go_on()
        self._teller.go_on()

    # --- the log ------------------------------------------------------------------------------------

    def offer(self, record: LogRecord, own: Process) -> None:
        """What an acknowledgement says of the log: the operation is applied without waiting for the watch."""
        if self.failure is None:
            self._put(record, own)
            if self._inbox.gap():
                self._gap.set()

    def _put(self, record: LogRecord, own: Process | None) -> None:
        self.cluster_index = max(self.cluster_index, record.log_index)
        try:
            self._inbox.put(record, own)
        except DamagedError as error:
            self._fail(Failure(record.log_index, errno.EIO, str(error), kept=True))
            return
        self._ahead.look(self._inbox)
        self._came.set()

    async def _follow(self) -> None:
        pause_s = PAUSE_S[0]
        while True:
            if self.failure is not None and not self._fetches_anew:
                self._cleared.clear()
                await self._cleared.wait()
            nodes = self._nodes.settings.nodes
            self._next_node += 1
            address = nodes[self._next_node % len(nodes)]
            if self._watch_leader:
                self._watch_leader, address = False, self._nodes.leader or address
            before = self._publishing.applied_index
            self._watching = asyncio.create_task(self._follow_once(address))
            try:
                await asyncio.wait({self._watching})
                if not self._watching.cancelled():
                    self._watching.result()
            except HistoryChangedError:
                self._disown()
            except OSError as error:
                if isinstance(error, TimeoutError | ConnectionError):
                    self.last_problem = str(error)
                else:
                    self._stop_for_now(error)
            except (HyperClusterError, DamagedError) as error:
                # Damage here is what a node sent: another may do better.
                self.last_problem = str(error)
            finally:
                self._watching.cancel()
            if self._publishing.applied_index != before:
                pause_s = PAUSE_S[0]
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, PAUSE_S[1])

    async def _gap_loop(self) -> None:
        """The leader has acknowledged what lies behind a record that the watched node does not bring: it may be cut
        off, and would be left only after a while. The leader has that record."""
        while True:
            await self._gap.wait()
            self._gap.clear()
            wait_s = GAP_S
            while lacking := self._inbox.gap():
                await asyncio.sleep(wait_s)
                if self._inbox.gap() == lacking and self._watching is not None:
                    wait_s = min(2 * wait_s, GAP_S_MAX)  # a leader that is slow, too, is not left at once
                    self._watch_leader = True
                    self._watching.cancel()

    def _stop_for_now(self, error: OSError) -> None:
        words = f"{error} (in {self._shelf.directory}): mend it, or make room, and start again"
        self._stop(Failure(self._publishing.applied_index + 1, error.errno or errno.EIO, words, kept=False))

    async def _follow_once(self, address: str) -> None:
        if self._replica is None or self._replica.record("state") is None:
            await self._build(address)
        replica = self.replica
        self.state = WorkerState.CATCHING_UP
        history_id = replica.record("history_id") or b""
        watched = feed.watch(self._nodes, address, self._shelf.workspace_id, replica.log_index + 1, history_id)
        async with aclosing(watched):
            async for event in watched:
                match event:
                    case feed.Records(records):
                        for record in records:
                            self._put(record, self._owner(record.client_id))
                        while not self._inbox.has_room:
                            self._left.clear()
                            await self._left.wait()
                    case feed.CaughtUp(log_index, root):
                        self._caught_up(replica, log_index, root)
                    case feed.SnapshotNeeded():
                        self._disown()
                        return

    def _caught_up(self, replica: Replica, log_index: int, root: bytes) -> None:
        """The end of a catch-up compares roots (WS-52)."""
        found = replica.root if replica.log_index == log_index else self._inbox.root_at(log_index)
        if found is not None and found != root:
            words = f"the root is {found.hex()} where the cluster has {root.hex()}"
            self._fail(Failure(log_index, errno.EIO, words, kept=True))
            return
        self.state = WorkerState.LIVE
        self.last_problem = ""

    def _disown(self) -> None:
        """Another history, or a log that is not kept far enough back: the tree is built anew, and read until then."""
        self.replica.put_record("state", None)

    async def _build(self, address: str) -> None:
        """The whole tree from a snapshot (WS-52)."""
        self.state = WorkerState.REBUILDING
        building = None
        try:
            async for piece in snapshot(self._nodes, address, self._shelf.workspace_id):
                if building is None:
                    building = await self._disk(partial(self._shelf.build, piece.history_id))
                records = [(record.family, record.key, record.value) for record in piece.records]
                await self._disk(partial(building.add, records))
                log_index, root = piece.log_index, piece.root
            check(building is not None, "a snapshot has at least one piece")
            assert building is not None
            store = await self._disk(partial(building.finish, log_index, root))
        except BaseException:
            if building is not None:
                await self._disk(building.give_up)
            raise
        self.snapshots += 1
        if self._fetches_anew:
            self._go_on()
        self._adopt(Replica(store, self._cache, self._shelf.workspace_id))
        self._teller.tell([Applied(log_index, (), (), (), None, everything=True)])
        await self._disk(partial(self._shelf.remove_others, store))

    # --- applying -----------------------------------------------------------------------------------

    async def _apply_loop(self) -> None:
        while True:
            await self._came.wait()
            self._came.clear()
            while self.failure is None and self._inbox.ready(1):
                while self.replica.store.unflushed > UNFLUSHED_CHANGES_MAX and self.failure is None:
                    self._source.flushed.clear()
                    await self._source.flushed.wait()
                await self._teller.room()
                if items := self._inbox.ready(SLICE_RECORDS_MAX):
                    self._apply(items)
                self._left.set()
                await asyncio.sleep(0)

    def _apply(self, items: list[Item]) -> None:
        try:
            done = self.replica.apply([(item.record, item.own) for item in items], TURN_S)
        except OSError as error:
            self._stop_for_now(error)
            return
        self._inbox.take(len(done.applied))
        self._unflushed.set()
        self._tell_of_move()
        self._teller.tell(done.applied)
        if done.problem:
            self._fail(Failure(done.problem_index, errno.EIO, done.problem, kept=True))

    def _fail(self, failure: Failure) -> None:
        if failure.kept:
            self.replica.put_record(FAILURE_RECORD, json.dumps(asdict(failure)).encode())
            self._unflushed.set()
        self._stop(failure)

    # --- content of a snapshot ----------------------------------------------------------------------

    async def _fill_loop(self) -> None:
        while True:
            await self._came_whole.wait()
            self._came_whole.clear()
            await self._filler.fill(self.replica)

    # --- disk ---------------------------------------------------------------------------------------

    async def _flush_loop(self) -> None:
        while True:
            await self._unflushed.wait()
            self._unflushed.clear()
            try:
                await self._disk(self._flush)
            except OSError as error:
                self._stop_for_now(error)
            self._source.flushed.set()
            if self._replica is None or self._replica.store.unflushed < FLUSH_SOONER_CHANGES:
                await asyncio.sleep(FLUSH_EVERY_S)

    def _flush(self) -> None:
        """In the thread of the disk. Chunks first: a tree that is durable finds its content here."""
        try:
            self._cache.flush()
        except OSError as error:
            self.last_problem = f"content is not kept here: {error}"
        if self._replica is not None:
            self._replica.prune()
            self._replica.flush()
