"""The way of a batch of log records, or of a snapshot, into the mirror: order, and content on the way (WS-51, WS-55).

Owns: `Applier`: which step follows which, the fetch of chunks ahead of the window that needs them, and the run of a
plan that a crash left behind.
Never: opens a stream, keeps a queue.
Invariants: the mirror is touched by one call at a time, all of them through `in_thread`; chunks fetched at once are
bounded by two windows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator
from functools import partial
from typing import Protocol, TypeVar

from hypercluster.client.worker.mirror import Batch, Mirror, Window, build_windows
from hypercluster.client.worker.plan import Plan
from hypercluster.client.worker.rebuild import Rebuild
from hypercluster.pb.v1.workspace_command_pb2 import LogRecord

T = TypeVar("T")
Fetch = Callable[[list[bytes]], Awaitable[dict[bytes, bytes]]]


class InThread(Protocol):
    """Runs a call in the one thread that owns the mirror."""

    def __call__(self, call: Callable[[], T], /) -> Awaitable[T]: ...


class Applier:
    """See the module."""

    def __init__(self, mirror: Mirror, fetch: Fetch, in_thread: InThread) -> None:
        self._mirror = mirror
        self._fetch = fetch
        self._in_thread = in_thread

    async def recover(self) -> bool:
        """Ends what was begun before a crash. True if there was something."""
        plan = await self._in_thread(self._mirror.plan)
        if plan is None:
            return False
        await self._run(plan, {})
        return True

    async def apply(self, records: list[LogRecord]) -> Batch:
        """All records, or those before the one whose replay fails (`Batch.problem`)."""
        mirror = self._mirror
        batch: Batch = await self._in_thread(lambda: mirror.replay(records))
        try:
            await self._write(build_windows(batch.builds), batch.chunks)
            await self._in_thread(lambda: mirror.commit(batch))
        except BaseException:
            await self._in_thread(mirror.abandon)
            raise
        await self._run(batch.plan, batch.chunks)
        return batch

    async def _run(self, plan: Plan, chunks: dict[bytes, bytes]) -> None:
        mirror = self._mirror
        await self._in_thread(lambda: mirror.run_names(plan))
        if plan.content:
            await self._write(mirror.rewrites(plan), chunks)
        await self._in_thread(lambda: mirror.finish(plan))

    async def build(self, rebuild: Rebuild) -> None:
        """Fills the mirror from the tree that `rebuild` has checked."""
        mirror = self._mirror
        groups = rebuild.groups()
        while True:
            group = await self._in_thread(lambda: next(groups, None))
            if group is None:
                break
            builds, plan = group
            await self._write(build_windows(builds), {})
            await self._in_thread(partial(mirror.run_names, plan))
        await self._in_thread(rebuild.finish)

    async def _write(self, windows: Iterable[Window], known: dict[bytes, bytes]) -> None:
        """Each window once its chunks are there, while those of the next are on their way."""
        source: Iterator[Window] = iter(windows)
        fetching: asyncio.Task[dict[bytes, bytes]] | None = None
        window = await self._in_thread(lambda: next(source, None))
        try:
            while window is not None:
                chunks = await (fetching or self._content(window, known))
                fetching = None
                following = await self._in_thread(lambda: next(source, None))
                if following is not None:
                    fetching = asyncio.ensure_future(self._content(following, known))
                await self._in_thread(partial(self._mirror.write_window, window, chunks))
                window = following
        finally:
            if fetching is not None:
                fetching.cancel()

    async def _content(self, window: Window, known: dict[bytes, bytes]) -> dict[bytes, bytes]:
        found, lacking = {}, []
        for chunk_hash in window.hashes():
            content = known.get(chunk_hash)
            if content is None:
                lacking.append(chunk_hash)
            else:
                found[chunk_hash] = content
        if lacking:
            found |= await self._fetch(lacking)
        return found
