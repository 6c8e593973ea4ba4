"""The cluster's locks, for owners of one mount (the `LockDoor` of locks.py).

Owns: which locks this mount holds, the commands for them by way of the client's leases, and their errno.
Never: renews (client/leases.py does), or decides who gets a lock.
Invariants: an owner has one lock on a file at most, and asking again for the kind it has asks nobody; a lock that is
lost is said loudly, and its token stays with the handle, so that what is written through it is FENCED (ESTALE) and not
mixed with another holder's (WS-42).
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from hypercluster.client.answers import errno_of
from hypercluster.client.client import Client
from hypercluster.client.coordination import PAGE
from hypercluster.client.leases import Held
from hypercluster.client.live.ports import LiveTree
from hypercluster.client.stubs import coordination_service
from hypercluster.errors import FencedError, HyperClusterError, LockWaitOverError
from hypercluster.pb.v1 import coordination_command_pb2 as lock_pb
from hypercluster.pb.v1 import coordination_pb2
from hypercluster.values import ReadLevel

log = logging.getLogger(__name__)

Key = tuple[bytes, int]  # inode, owner


@dataclass(slots=True)
class Turn:
    """One command of an owner on a file at a time; here as long as somebody uses it."""

    users: int = 0
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


@dataclass(slots=True)
class Lock:
    held: Held
    exclusive: bool


class ClusterLocks:
    """In the loop."""

    def __init__(self, client: Client, live: LiveTree) -> None:
        self._client = client
        self._live = live
        self._locks: dict[Key, Lock] = {}
        self._turns: dict[Key, Turn] = {}

    def guard(self, token: int) -> lock_pb.Guard:
        return lock_pb.Guard(token=token, history_id=self._client.leases.history_id)

    async def acquire(self, inode_id: bytes, owner: int, *, exclusive: bool, wait: bool) -> int:
        key = (inode_id, owner)
        async with self._turn(key):
            present = self._locks.get(key)
            if present is not None and present.exclusive == exclusive and not present.held.lost:
                return present.held.token
            held = await self._acquire(inode_id, owner, exclusive, wait, present)
            self._locks[key] = Lock(held, exclusive)
            held.on_lost = [lambda words: self._lost(inode_id, words)]
            return held.token

    async def _acquire(self, inode_id: bytes, owner: int, exclusive: bool, wait: bool, present: Lock | None) -> Held:
        kind = lock_pb.LOCK_KIND_EXCLUSIVE if exclusive else lock_pb.LOCK_KIND_SHARED
        what = f"lock on {self._words(inode_id)}"
        if present is not None:
            present.held.on_lost.clear()  # a conversion ends the lock it converts
        while True:
            op = lock_pb.LockAcquire(
                target=lock_pb.LockTarget(inode_id=inode_id), kind=kind, handle_id=owner, wait=wait
            )
            try:
                return await self._client.leases.acquire(self._live.workspace_id, op, what, None)
            except LockWaitOverError as error:
                log.info("%s; the caller still waits, so it is asked for again", error)
            except HyperClusterError as error:
                if present is not None and not present.held.lost:
                    present.held.on_lost = [lambda words: self._lost(inode_id, words)]
                raise _os_error(error) from error

    async def release(self, inode_id: bytes, owner: int) -> None:
        key = (inode_id, owner)
        async with self._turn(key):
            lock = self._locks.pop(key, None)
            if lock is not None and not lock.held.lost:
                lock.held.on_lost.clear()
                try:
                    await self._client.leases.release(lock.held, f"lock on {self._words(inode_id)}")
                except FencedError:
                    log.warning("the lock on %s had been lost when it was released", self._words(inode_id))
                except HyperClusterError as error:
                    raise _os_error(error) from error

    @asynccontextmanager
    async def _turn(self, key: Key) -> AsyncIterator[None]:
        turn = self._turns.setdefault(key, Turn())
        turn.users += 1
        try:
            async with turn.lock:
                yield
        finally:
            turn.users -= 1
            if not turn.users:
                del self._turns[key]

    async def holder(self, inode_id: bytes, owner: int, *, exclusive: bool) -> bool | None:
        request = coordination_pb2.LocksRequest(
            read=self._client.read_options(ReadLevel.LINEARIZABLE, self._client.known_index()),
            workspace_id=self._live.workspace_id,
            target=lock_pb.LockTarget(inode_id=inode_id),
            limit=PAGE,
        )
        try:
            answer: coordination_pb2.LocksResponse = await self._client.nodes.read(
                lambda channel, timeout: coordination_service(channel).Locks(request, timeout=timeout), "look at a lock"
            )
        except HyperClusterError as error:
            raise _os_error(error) from error
        own = self._locks.get((inode_id, owner))
        for record in answer.locks:
            if record.state not in {lock_pb.LOCK_STATE_HELD, lock_pb.LOCK_STATE_GRACE}:
                continue
            theirs = record.kind == lock_pb.LOCK_KIND_EXCLUSIVE
            if (own is None or own.held.lock_id != record.lock_id) and (exclusive or theirs):
                return theirs
        return None

    def _lost(self, inode_id: bytes, words: str) -> None:
        log.error(
            "the lock on %s was lost: %s. Writes through the handle that had it fail with ESTALE",
            self._words(inode_id),
            words,
        )

    def _words(self, inode_id: bytes) -> str:
        path = self._live.view.path_of(inode_id)
        return inode_id.hex() if path is None else os.fsdecode(path) or "/"


def _os_error(error: HyperClusterError) -> OSError:
    number = errno_of(error)
    return OSError(number, f"{os.strerror(number)}: {error}")
