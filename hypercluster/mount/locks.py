"""flock and fcntl locks through the cluster (WS-40, WS-42).

Owns: from the kernel's two kinds of locks to locks of the cluster, and the fencing token each handle carries.
Never: grants a lock by itself. Both callbacks exist, so the kernel never grants one alone (WS-62); where there is no
door to the cluster's locks, every lock call is ENOTSUP.
Invariants: a flock belongs to the open file description, an fcntl lock to the process (the kernel's lock owner), and
both are the one lock of the whole file; a byte range is ENOTSUP. A waiting call can be interrupted, and is then out of
the queue. The last close frees a flock, any close of the file by its process an fcntl lock. A write through a handle
that holds a lock carries its token.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import logging
import os
from typing import Any, Final, Protocol

from hypercluster.mount.desk import Desk
from hypercluster.mount.handles import Handle
from hypercluster.mount.request import Request
from hypercluster.pb.v1.coordination_command_pb2 import Guard

FCNTL_OWNER: Final = 1 << 63  # so that an fcntl owner is never taken for a handle

log = logging.getLogger(__name__)


class LockDoor(Protocol):
    """The cluster's locks on files, for owners of this mount. Coroutines of the event loop; each raises OSError."""

    def guard(self, token: int) -> Guard:
        """For a write that must not happen once the lock is another's."""

    async def acquire(self, inode_id: bytes, owner: int, *, exclusive: bool, wait: bool) -> int:
        """The fencing token of the grant. A second acquire of the same owner converts the lock. EWOULDBLOCK when it is
        held and `wait` is not set. Cancelled, it leaves nothing behind."""

    async def release(self, inode_id: bytes, owner: int) -> None:
        """Nothing happens if the owner has no lock."""

    async def holder(self, inode_id: bytes, owner: int, *, exclusive: bool) -> bool | None:
        """What hinders such a lock of this owner: True an exclusive one, False a shared one, None nothing."""


def fcntl_owner(lock_owner: int) -> int:
    return lock_owner | FCNTL_OWNER


def _whole_file(lock: Any) -> bool:
    return bool(lock.l_whence == os.SEEK_SET and lock.l_start == 0 and lock.l_len == 0)


class LockOperations:
    def __init__(self, desk: Desk, door: LockDoor | None) -> None:
        self._desk = desk
        self._door = door
        self._fcntl: dict[tuple[bytes, int], set[Handle]] = {}  # which handles carry the token of an fcntl lock
        self._freeing: set[asyncio.Task[None]] = set()
        if door is not None:
            desk.guard = door.guard

    def flock(self, request: Request, handle: int, operation: int) -> None:
        door = self._need_door()
        opened = self._desk.handles.get(handle)
        kind = operation & ~fcntl.LOCK_NB
        if kind == fcntl.LOCK_UN:
            self._desk.later(request, lambda: self._unlock(request, door, opened, opened.number))
        elif kind in {fcntl.LOCK_SH, fcntl.LOCK_EX}:
            exclusive, wait = kind == fcntl.LOCK_EX, not operation & fcntl.LOCK_NB
            self._desk.later(request, lambda: self._lock(request, door, opened, opened.number, exclusive, wait))
        else:
            raise OSError(errno.EINVAL, "LOCK_SH, LOCK_EX or LOCK_UN")

    def setlk(self, request: Request, handle: int, owner: int, lock: Any, wait: bool) -> None:
        door = self._need_door()
        opened = self._desk.handles.get(handle)
        if not _whole_file(lock):
            raise OSError(errno.EOPNOTSUPP, "byte ranges are not supported, only the whole file")
        name = fcntl_owner(owner)
        if lock.l_type == fcntl.F_UNLCK:
            self._desk.later(request, lambda: self._unlock(request, door, opened, name))
            return
        exclusive = lock.l_type == fcntl.F_WRLCK
        self._desk.later(request, lambda: self._lock(request, door, opened, name, exclusive, wait))

    def getlk(self, request: Request, handle: int, owner: int, lock: Any) -> None:
        door = self._need_door()
        opened = self._desk.handles.get(handle)
        if not _whole_file(lock):
            raise OSError(errno.EOPNOTSUPP, "byte ranges are not supported, only the whole file")
        exclusive = lock.l_type == fcntl.F_WRLCK

        async def work() -> None:
            found = await door.holder(opened.inode_id, fcntl_owner(owner), exclusive=exclusive)
            request.lock(fcntl.F_UNLCK if found is None else fcntl.F_WRLCK if found else fcntl.F_RDLCK)

        self._desk.later(request, work)

    # --- closing ------------------------------------------------------------------------------------

    def let_go(self, request: Request, handle: Handle, lock_owner: int) -> None:
        """A process closes a descriptor: its fcntl lock on the file ends, through whatever descriptor it was taken."""
        owner = fcntl_owner(lock_owner)
        if self._door is None or (handle.inode_id, owner) not in self._fcntl:
            request.done()
            return
        door = self._door
        self._desk.later(request, lambda: self._unlock(request, door, handle, owner))

    def closed(self, handle: Handle) -> None:
        """The last close: the flock ends. From any thread; nobody waits for it."""
        if self._door is not None and handle.tokens:
            with contextlib.suppress(RuntimeError):  # the loop has ended: the lease will
                self._desk.loop.call_soon_threadsafe(self._free, handle)

    def _free(self, handle: Handle) -> None:
        for owner in list(handle.tokens):
            task = self._desk.loop.create_task(self._release(handle, owner))
            self._freeing.add(task)
            task.add_done_callback(self._freeing.discard)

    # --- in the loop --------------------------------------------------------------------------------

    def _need_door(self) -> LockDoor:
        if self._door is None:
            raise OSError(errno.EOPNOTSUPP, "this mount has no locks")
        return self._door

    async def _lock(
        self, request: Request, door: LockDoor, handle: Handle, owner: int, exclusive: bool, wait: bool
    ) -> None:
        desk = self._desk
        await desk.interruptible(request, desk.live.check_writable())
        wish = door.acquire(handle.inode_id, owner, exclusive=exclusive, wait=wait)
        token = await desk.interruptible(request, wish)
        handle.tokens[owner] = token
        if owner & FCNTL_OWNER:
            self._fcntl.setdefault((handle.inode_id, owner), set()).add(handle)
        request.done()

    async def _unlock(self, request: Request, door: LockDoor, handle: Handle, owner: int) -> None:
        self._forget(handle, owner)
        await door.release(handle.inode_id, owner)
        request.done()

    async def _release(self, handle: Handle, owner: int) -> None:
        self._forget(handle, owner)
        door = self._need_door()
        try:
            await door.release(handle.inode_id, owner)
        except OSError as error:
            log.warning("a lock was not released, its lease will end it: %s", error)

    def _forget(self, handle: Handle, owner: int) -> None:
        for carrying in self._fcntl.pop((handle.inode_id, owner), {handle}):
            carrying.tokens.pop(owner, None)
