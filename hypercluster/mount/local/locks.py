"""flock and fcntl on local files: granted here, for nobody else has them (WS-56).

Owns: the two tables of locks of this mount, and who waits for a change in them.
Never: asks the cluster. Byte ranges are locked as on any local disk, which databases in caches need; on replicated
files they are ENOTSUP (WS-40).
Invariants: the tables are the event loop's; a waiting call can be interrupted; the last close frees a flock, any close
of the file by its process an fcntl lock; a worker that ends frees all, and its processes' descriptors are dead with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
from typing import Any, Final

from hypercluster.mount.desk import Desk
from hypercluster.mount.local.range_locks import END, Range, RangeLocks
from hypercluster.mount.local.table import LocalHandle, LocalNode, LocalTable
from hypercluster.mount.request import Request

RANGES_MAX: Final = 100_000  # of all files of a mount; beyond it ENOLCK


class LocalLocks:
    """As LockOperations. `table` is set once there is one: both know of each other."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self.table: LocalTable | None = None
        self._flocks = RangeLocks()
        self._fcntl = RangeLocks()
        self._changed = asyncio.Event()

    def _handle(self, number: int) -> LocalHandle:
        if self.table is None:
            raise OSError(errno.EBADF, "nothing local is open")
        return self.table.handle(number)

    def flock(self, request: Request, handle: int, operation: int) -> None:
        opened = self._handle(handle)
        kind = operation & ~fcntl.LOCK_NB
        if kind == fcntl.LOCK_UN:
            self._desk.later(request, lambda: self._free(request, self._flocks, opened.node, handle, 0, END))
        elif kind in {fcntl.LOCK_SH, fcntl.LOCK_EX}:
            wish = Range(handle, 0, END, kind == fcntl.LOCK_EX, request.pid)
            wait = not operation & fcntl.LOCK_NB
            self._desk.later(request, lambda: self._take(request, self._flocks, opened.node, wish, wait))
        else:
            raise OSError(errno.EINVAL, "LOCK_SH, LOCK_EX or LOCK_UN")

    def setlk(self, request: Request, handle: int, owner: int, lock: Any, wait: bool) -> None:
        opened = self._handle(handle)
        start, end = _bounds(lock)
        if lock.l_type == fcntl.F_UNLCK:
            self._desk.later(request, lambda: self._free(request, self._fcntl, opened.node, owner, start, end))
            return
        wish = Range(owner, start, end, lock.l_type == fcntl.F_WRLCK, lock.l_pid or request.pid)
        self._desk.later(request, lambda: self._take(request, self._fcntl, opened.node, wish, wait))

    def getlk(self, request: Request, handle: int, owner: int, lock: Any) -> None:
        opened = self._handle(handle)
        start, end = _bounds(lock)
        wish = Range(owner, start, end, lock.l_type == fcntl.F_WRLCK, request.pid)

        async def work() -> None:
            found = self._fcntl.blocker(opened.node, wish)
            if found is None:
                request.lock(fcntl.F_UNLCK)
                return
            length = 0 if found.end == END else found.end - found.start
            kind = fcntl.F_WRLCK if found.exclusive else fcntl.F_RDLCK
            request.lock(kind, found.start, length, found.pid)

        self._desk.later(request, work)

    def let_go(self, request: Request, handle: LocalHandle, lock_owner: int) -> None:
        """A process closes a descriptor."""
        if not self._fcntl.of(handle.node):
            request.done()
            return
        self._desk.later(request, lambda: self._free(request, self._fcntl, handle.node, lock_owner, 0, END))

    def closed(self, handle: LocalHandle) -> None:
        """The last close. From any thread."""
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._desk.loop.call_soon_threadsafe(self._drop, self._flocks, handle.node, handle.number, 0, END)

    # --- in the loop -----------------------------------------------------------------------------------

    async def _take(self, request: Request, locks: RangeLocks, file: LocalNode, wish: Range, wait: bool) -> None:
        if len(locks) >= RANGES_MAX:
            raise OSError(errno.ENOLCK, f"{RANGES_MAX} ranges are locked already")
        if not locks.take(file, wish):
            if not wait:
                raise OSError(errno.EWOULDBLOCK, os.strerror(errno.EWOULDBLOCK))
            await self._desk.interruptible(request, self._until_taken(locks, file, wish))
        if not wish.exclusive:
            self._tell()  # it may have been exclusive before
        request.done()

    async def _until_taken(self, locks: RangeLocks, file: LocalNode, wish: Range) -> None:
        while not locks.take(file, wish):
            await self._changed.wait()

    async def _free(
        self, request: Request, locks: RangeLocks, file: LocalNode, owner: int, start: int, end: int
    ) -> None:
        self._drop(locks, file, owner, start, end)
        request.done()

    def _drop(self, locks: RangeLocks, file: LocalNode, owner: int, start: int, end: int) -> None:
        if locks.free(file, owner, start, end):
            self._tell()

    def _tell(self) -> None:
        """Each who waits looks again."""
        before, self._changed = self._changed, asyncio.Event()
        before.set()


def _bounds(lock: Any) -> tuple[int, int]:
    """Start and end of what is asked for. Raises OSError(EINVAL)."""
    start, length = lock.l_start, lock.l_len
    if lock.l_whence != os.SEEK_SET or start < 0 or length < 0:
        raise OSError(errno.EINVAL, "the kernel counts ranges from the beginning")
    return start, (start + length if length else END)
