"""Content fetched ahead of the records that need it (WS-51).

Owns: `Ahead`: which records that wait were looked at, how many chunks are out for them, when one may be applied.
Never: applies.
Invariants: records are looked at in order, so the next one is never kept waiting by a later one; at most AHEAD_CHUNKS
are out, and one record more. A record whose chunks no node has is let through once a barrier shows that the cluster has
gone on: then no tree the cluster still knows needs them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from hypercluster.client.live.chunk_cache import ChunkCache
from hypercluster.client.live.chunk_source import GROUP_CHUNKS, GROUPS_MAX, ChunkSource
from hypercluster.client.live.inbox import Inbox, Item, chunks_of
from hypercluster.errors import HyperClusterError

AHEAD_CHUNKS = 2 * GROUPS_MAX * GROUP_CHUNKS
PAUSE_S = (0.05, 1.0)


class Ahead:
    """In the loop. `arrived` is called whenever a record may have become ready."""

    def __init__(
        self,
        cache: ChunkCache,
        source: ChunkSource,
        confirmed_index: Callable[[], Awaitable[int]],
        arrived: Callable[[], None],
    ) -> None:
        self._cache = cache
        self._source = source
        self._confirmed_index = confirmed_index
        self._arrived = arrived
        self._tasks: set[asyncio.Task[None]] = set()
        self._out = 0
        self.last_problem = ""

    def look(self, inbox: Inbox) -> None:
        """At what has come since, as far as it goes."""
        while self._out < AHEAD_CHUNKS and (item := inbox.next_unseen()) is not None:
            wanted = chunks_of(item.record)
            item.lacking = set(self._cache.lacking(wanted)) if wanted else set()
            if item.lacking:
                self._out += len(item.lacking)
                task = asyncio.create_task(self._bring(inbox, item, len(item.lacking)))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    async def _bring(self, inbox: Inbox, item: Item, count: int) -> None:
        pause_s = PAUSE_S[0]
        try:
            while item.lacking:
                try:
                    gone = await self._source.bring(item.lacking)
                    if not gone or await self._confirmed_index() >= item.record.log_index:
                        item.lacking = set()
                except HyperClusterError as error:
                    self.last_problem = str(error)
                    await asyncio.sleep(pause_s)
                    pause_s = min(2 * pause_s, PAUSE_S[1])
        finally:
            self._out -= count
        self.look(inbox)
        self._arrived()

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
