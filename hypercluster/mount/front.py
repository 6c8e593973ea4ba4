"""The file system as the kernel sees it: the operations put together, and the kernel's cache kept true.

Owns: `Front`, everything a session calls; the invalidation of cached pages as operations are applied (WS-62).
Never: mounts, and never knows processes.
Invariants: attributes of what changed, and pages of a changed range, are gone from the kernel before applied_index
passes the change; if the kernel does not do so in INVALIDATE_S the tree becomes read-only and says why. Entries need no
invalidation: they are given for zero seconds. Pages are dropped in a thread of its own, for the kernel may wait for a
read it has under way; attributes at once, for it waits for nothing then.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from hypercluster.client.live.ports import Applied, LiveTree
from hypercluster.mount.attributes import AttributeOperations
from hypercluster.mount.content import ContentOperations
from hypercluster.mount.desk import Desk
from hypercluster.mount.local.ground import Ground
from hypercluster.mount.local.patterns import PatternsInForce
from hypercluster.mount.local.side import LocalSide
from hypercluster.mount.locks import LockDoor, LockOperations
from hypercluster.mount.names import NameOperations
from hypercluster.mount.virtual import VirtualAttributes

INVALIDATE_S: Final = 30.0
TICK_S: Final = 0.25
STOPPED_S: Final = 1.5  # a loop that has not turned for so long is not alive

ATTRIBUTES_ONLY: Final = -1

Invalidate = Callable[[int, int, int], None]  # node id, offset or ATTRIBUTES_ONLY, length (0: to the end)


class Front:
    """Made in the loop that `live` was entered in. `invalidate` is set once there is a session."""

    def __init__(
        self,
        live: LiveTree,
        directory: str,
        *,
        locks: LockDoor | None,
        about: dict[str, object],
        ground: Ground,
        patterns: PatternsInForce,
    ) -> None:
        """`ground` and `patterns`: where what is local lies, and what is (WS-56)."""
        self.desk = Desk(live, asyncio.get_running_loop(), directory)
        self._about = about
        self._turned_s = time.monotonic()
        self._ticking = asyncio.create_task(self._tick())
        self._invalidator = ThreadPoolExecutor(1, "fuse-invalidate")
        self.invalidate: Invalidate | None = None
        self.names = NameOperations(self.desk)
        self.locks = LockOperations(self.desk, locks)
        self.content = ContentOperations(self.desk, self.locks.closed, self.locks.let_go)
        self.attributes = AttributeOperations(self.desk, VirtualAttributes(live, self.alive, self.described))
        self.local = LocalSide(self.desk, ground, patterns, self.names, self.content)
        self.attributes.beside_barrier = patterns.learn
        live.on_applied(self._applied)

    def alive(self) -> bool:
        return time.monotonic() - self._turned_s < STOPPED_S

    def described(self) -> dict[str, object]:
        desk = self.desk
        counts = {"open_handles": len(desk.handles), "known_nodes": len(desk.nodes), "waiting": desk.waiting}
        return self._about | counts | self.local.described()

    async def close(self) -> None:
        """Whatever still waits is answered."""
        await self.desk.close()
        self._ticking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._ticking
        self.content.end()
        self.local.end()
        self._invalidator.shutdown(wait=False)

    async def _tick(self) -> None:
        while True:
            self._turned_s = time.monotonic()
            await asyncio.sleep(TICK_S)

    def _applied(self, applied: Applied) -> Awaitable[None] | None:
        """Raises TimeoutError or OSError when the kernel keeps pages that are not true any more."""
        if self.invalidate is None:
            return None
        if applied.everything:
            for node in self.desk.nodes.numbers():
                self.invalidate(node, ATTRIBUTES_ONLY, 0)
        for inode_id in applied.inodes:
            known = self.desk.nodes.number_of(inode_id)
            if known is not None:
                self.invalidate(known, ATTRIBUTES_ONLY, 0)
        stale = self._stale(applied)
        if not stale:
            return None
        turn = self.desk.loop.run_in_executor(self._invalidator, self._drop, self.invalidate, stale)
        return asyncio.wait_for(turn, INVALIDATE_S)

    def _stale(self, applied: Applied) -> list[tuple[int, int, int]]:
        handles, nodes = self.desk.handles, self.desk.nodes
        if applied.everything:
            changed = [(inode_id, 0, -1) for inode_id in handles.cached()]
        else:
            changed = [change for change in applied.content if handles.is_cached(change[0])]
        found: list[tuple[int, int, int]] = []
        for inode_id, offset, length in changed:
            known = nodes.number_of(inode_id)
            if known is not None:
                found.append((known, offset, max(length, 0)))
        return found

    @staticmethod
    def _drop(invalidate: Invalidate, stale: list[tuple[int, int, int]]) -> None:
        for node, offset, length in stale:
            invalidate(node, offset, length)
