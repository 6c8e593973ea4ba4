"""How far the tree is, for whoever waits, and who is told before (WS-2, WS-62).

Owns: `applied_index` as the outside sees it, the callbacks that run before it passes an operation, the waits for it.
Never: applies anything.
Invariants: an index is published after every callback of its operation has returned, indexes in order; a wait ends when
the index is reached, or with an error when the tree stops below it; nobody waits for ever on a tree that has stopped.
"""

from __future__ import annotations

import asyncio
import heapq
import inspect
import itertools
from collections.abc import Awaitable

from hypercluster.client.live.ports import Applied, AppliedCallback


class Publishing:
    """In the loop."""

    def __init__(self, applied_index: int = 0) -> None:
        self.applied_index = applied_index
        self._callbacks: list[AppliedCallback] = []
        self._waits: list[tuple[int, int, asyncio.Future[None]]] = []
        self._tie = itertools.count()
        self._stopped: OSError | None = None

    def on_applied(self, callback: AppliedCallback) -> None:
        self._callbacks.append(callback)

    def publish(self, applied: Applied) -> Awaitable[None] | None:
        """Raises whatever a callback raises: then the index stays where it is. None: the index has passed it; otherwise
        it has once what is answered was awaited."""
        waits = [wait for callback in self._callbacks if inspect.isawaitable(wait := callback(applied))]
        if waits:
            return self._publish_after(applied, waits)
        self.move_to(applied.log_index)
        return None

    async def _publish_after(self, applied: Applied, waits: list[Awaitable[None]]) -> None:
        for wait in waits:
            await wait
        self.move_to(applied.log_index)

    def move_to(self, log_index: int) -> None:
        self.applied_index = log_index
        while self._waits and self._waits[0][0] <= log_index:
            _, _, future = heapq.heappop(self._waits)
            if not future.done():
                future.set_result(None)

    async def wait(self, log_index: int) -> None:
        """Raises OSError if the tree stopped below the index."""
        if self.applied_index >= log_index:
            return
        if self._stopped is not None:
            raise OSError(*self._stopped.args)  # a new one each time: its trace grows with each raise
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waits, (log_index, next(self._tie), future))
        await future

    def stop(self, error: OSError) -> None:
        self._stopped = error
        waits, self._waits = self._waits, []
        for _, _, future in waits:
            if not future.done():
                future.set_exception(error)

    def go_on(self) -> None:
        self._stopped = None
