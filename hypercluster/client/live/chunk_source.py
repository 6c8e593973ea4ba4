"""Chunks on their way into the cache: ahead of the records that need them, and for reads that miss them (WS-51).

Owns: which chunks are being fetched, how many at a time, and what a read does about chunks that no node has any more.
Never: applies anything; puts bytes into the cache whose BLAKE3 is not their name (`ChunkDoor` has checked it).
Invariants: a chunk is asked for once while it is on its way; at most GROUPS_MAX requests are out, each of GROUP_CHUNKS.
Threads: the loop's, but for `fetch`, which is called from the others.
"""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from collections.abc import Awaitable, Callable, Iterable

from hypercluster.client.content import ChunkDoor
from hypercluster.client.live.chunk_cache import ChunkCache
from hypercluster.errors import HyperClusterError, check
from hypercluster.limits import MIB

GROUP_CHUNKS = 64  # 4 MiB at most
GROUPS_MAX = 4
WAITING_BYTES_MAX = 64 * MIB
READ_S = 30.0  # how long a read waits for its bytes


class ChunkSource:
    """See the module. Made in the loop."""

    def __init__(
        self,
        door: ChunkDoor,
        cache: ChunkCache,
        confirmed_index: Callable[[], Awaitable[int]],
        visible: Callable[[int], Awaitable[None]],
    ) -> None:
        """`confirmed_index` is a barrier of the cluster: it raises an error of our tree. `visible` returns once reads
        see that prefix; whether it is published does not matter, for that may wait for this very read (WS-62)."""
        self._door = door
        self._cache = cache
        self._confirmed_index = confirmed_index
        self._visible = visible
        self._loop = asyncio.get_running_loop()
        self._loop_thread = threading.get_ident()
        self._room = asyncio.Semaphore(GROUPS_MAX)
        self.flushed = asyncio.Event()  # set whenever the cache has been flushed
        self._on_their_way: dict[bytes, asyncio.Task[set[bytes]]] = {}

    async def bring(self, hashes: Iterable[bytes]) -> set[bytes]:
        """Into the cache. Answers those that no node has. Raises an error of our tree if none could be asked."""
        lacking = self._cache.lacking(hashes)
        fresh = [chunk_hash for chunk_hash in lacking if chunk_hash not in self._on_their_way]
        for start in range(0, len(fresh), GROUP_CHUNKS):
            group = fresh[start : start + GROUP_CHUNKS]
            task = asyncio.create_task(self._bring_group(group))
            task.add_done_callback(self._forget(group))
            self._on_their_way.update(dict.fromkeys(group, task))
        tasks = {self._on_their_way[chunk_hash] for chunk_hash in lacking}
        gone: set[bytes] = set()
        for task in tasks:
            gone |= await asyncio.shield(task)
        return gone.intersection(lacking)

    def _forget(self, group: list[bytes]) -> Callable[[asyncio.Task[set[bytes]]], None]:
        def done(task: asyncio.Task[set[bytes]]) -> None:
            for chunk_hash in group:
                del self._on_their_way[chunk_hash]
            if not task.cancelled():
                task.exception()  # whoever waits sees it; nobody has to

        return done

    async def _bring_group(self, group: list[bytes]) -> set[bytes]:
        async with self._room:
            while self._cache.waiting_bytes > WAITING_BYTES_MAX:  # a slow disk slows what is fetched
                self.flushed.clear()
                await self.flushed.wait()
            found = await self._door.fetch_present(group)
        self._cache.put(found)
        return {chunk_hash for chunk_hash in group if chunk_hash not in found}

    async def close(self) -> None:
        tasks = set(self._on_their_way.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # --- for readers --------------------------------------------------------------------------------

    def fetch(self, hashes: list[bytes]) -> bool:
        """See `view.Content`."""
        check(threading.get_ident() != self._loop_thread, "bytes are not waited for in the event loop")
        try:
            return asyncio.run_coroutine_threadsafe(self._fetch(hashes), self._loop).result()
        except (HyperClusterError, TimeoutError, RuntimeError) as error:
            raise OSError(errno.EIO, f"{os.strerror(errno.EIO)}: {error}") from error

    async def _fetch(self, hashes: list[bytes]) -> bool:
        async with asyncio.timeout(READ_S):
            if not await self.bring(hashes):
                return True
            await self._visible(await self._confirmed_index())
            return False
