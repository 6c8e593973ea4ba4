"""What every operation of the mount shares: the tree, the tables, the callers, and the way into the event loop.

Owns: `Desk`: admission, answering later from the loop, mutations with their fencing tokens and their errno.
Never: a kind of operation; those stand in names.py, content.py, attributes.py and locks.py.
Invariants: a request that waits for the cluster waits as a task of the loop and holds no thread; every such task ends
with an answer; there are at most WAITING_MAX of them. A refusal that the cluster judged is told only after this host
has caught up with what it was judged by, so that whoever gets EEXIST also sees the file.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

from hypercluster.client.live.ports import LiveTree, Node, Process, View
from hypercluster.errors import check
from hypercluster.limits import GUARDS_MAX
from hypercluster.mount.callers import Callers
from hypercluster.mount.handles import Handle, HandleTable
from hypercluster.mount.nodes import NodeTable
from hypercluster.mount.request import Request
from hypercluster.pb.v1.coordination_command_pb2 import Guard
from hypercluster.pb.v1.workspace_command_pb2 import FileAck, FileCommand

WAITING_MAX: Final = 10_000  # requests that wait for the cluster at once
NOT_JUDGED: Final = frozenset({errno.EROFS, errno.EIO, errno.EINTR, errno.EAGAIN})

T = TypeVar("T")

log = logging.getLogger(__name__)


class Desk:
    """`loop` is the one `live` was entered in."""

    def __init__(self, live: LiveTree, loop: asyncio.AbstractEventLoop, directory: str) -> None:
        self.live = live
        self.directory = directory
        self.view: View = live.view
        self.loop = loop
        self.nodes = NodeTable()
        self.handles = HandleTable()
        self.callers = Callers(self.view.uid, directory)
        self.guard: Callable[[int], Guard] = lambda token: Guard(token=token)  # the door to the locks knows more
        self._waiting: set[asyncio.Task[None]] = set()

    def admit(self, request: Request) -> None:
        """Raises OSError(EACCES) for a foreign uid (WS-6)."""
        self.callers.admit(request.uid, request.pid)

    def process_of(self, request: Request) -> Process:
        return self.callers.process(request.pid)

    def inode(self, node: int) -> bytes:
        """Raises OSError(ESTALE)."""
        return self.nodes.inode_of(node)

    def node(self, inode_id: bytes) -> Node:
        """Raises OSError(ESTALE) for one that is gone: the kernel then looks its name up again."""
        try:
            return self.view.node(inode_id)
        except FileNotFoundError as error:
            raise OSError(errno.ESTALE, "the file is gone") from error

    def hold(self, inode_id: bytes) -> Node:
        """As LiveTree.hold; raises OSError(ESTALE) for one that is gone."""
        try:
            return self.live.hold(inode_id)
        except FileNotFoundError as error:
            raise OSError(errno.ESTALE, "the file is gone") from error

    def enter(self, request: Request, node: Node) -> None:
        """Answers with an entry, which counts as one lookup."""
        if not request.entry(node, lasting=self.nodes.looked_up(node)):
            self.nodes.forget(node.ino, 1)

    def enter_new(self, request: Request, node: Node) -> None:
        """The same for what an operation has made or linked: the kernel takes such attributes unseen."""
        self.nodes.looked_up(node)
        if not request.entry(node, lasting=False):
            self.nodes.forget(node.ino, 1)

    # --- in the loop --------------------------------------------------------------------------------

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def later(self, request: Request, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """`work` answers the request, or raises OSError. From any thread."""
        if len(self._waiting) >= WAITING_MAX:
            raise OSError(errno.EAGAIN, f"{WAITING_MAX} operations wait for the cluster already")
        self.loop.call_soon_threadsafe(self._begin, request, work)

    def _begin(self, request: Request, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        task = self.loop.create_task(self._answer(request, work))
        self._waiting.add(task)
        task.add_done_callback(self._waiting.discard)

    async def _answer(self, request: Request, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        request.listen()
        try:
            await work()
        except OSError as error:
            if not request.answered:
                request.error(error.errno or errno.EIO)
        except asyncio.CancelledError:  # the mount ends, and nobody knows how this would have
            if not request.answered:
                request.error(errno.EIO)
        except Exception:
            log.exception("a request failed inside the mount")
            if not request.answered:
                request.error(errno.EIO)
        if not request.answered:
            log.error("a request was left without an answer")
            request.error(errno.EIO)

    async def mutate(
        self,
        request: Request,
        process: Process,
        command: FileCommand,
        *,
        content: bytes | None = None,
        handle: Handle | None = None,
    ) -> FileAck:
        """One logged operation, committed on a majority and applied here. Raises OSError: EINTR only if the caller got
        a signal before anything was sent; what was sent is waited for."""
        command.uid = request.uid
        if handle is not None:
            tokens = list(handle.tokens.values())[-GUARDS_MAX:]
            command.guards.extend(self.guard(token) for token in tokens)
        try:
            return await self.live.mutate(process, command, content, recall=request.recall)
        except OSError as error:
            if error.errno not in NOT_JUDGED:
                with contextlib.suppress(OSError):
                    await self.live.barrier()
            raise

    async def interruptible(self, request: Request, wait: Coroutine[Any, Any, T]) -> T:
        """Raises OSError(EINTR) if the caller gets a signal meanwhile; `wait` is cancelled then."""
        task = self.loop.create_task(wait)

        def cancel() -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended, and every task with it
                self.loop.call_soon_threadsafe(task.cancel)

        recall = request.recall
        check(recall is not None, "a request that waits listens for signals")
        assert recall is not None
        recall.bind(cancel)
        try:
            return await task
        except asyncio.CancelledError:
            task.cancel()
            if not recall.asked:
                raise
            raise OSError(errno.EINTR, "the caller got a signal") from None

    async def close(self) -> None:
        """Ends whatever still waits; each is answered."""
        for task in self._waiting:
            task.cancel()
        if self._waiting:
            await asyncio.wait(self._waiting)
