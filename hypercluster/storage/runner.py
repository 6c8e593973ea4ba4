"""Where blocking disk work runs: beside the loop, one job at a time.

Owns: the `Runner` protocol as storage needs it, `ThreadRunner` (one thread, results come back on the loop) and
`InlineRunner` (at once, for tools, start-up and tests).
Never: decides what runs; retries a job; swallows an error.
Invariants: jobs run in the order they were submitted, never two at once; `done` is called exactly once per job,
on the loop's thread, with None or the error.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

Job = Callable[[], None]
Done = Callable[[BaseException | None], None]


class Runner(Protocol):
    def submit(self, job: Job, done: Done) -> None:
        """Runs `job` beside the loop, then `done(error)` on the loop."""


class InlineRunner:
    """Runs a job at once. For start-up and tools, where nothing else waits."""

    def submit(self, job: Job, done: Done) -> None:
        try:
            job()
        except BaseException as error:  # the owner decides, as with every other runner
            done(error)
        else:
            done(None)


class ThreadRunner:
    """One thread of its own. `close` waits for the running job; jobs not yet started still run first."""

    def __init__(self, loop: asyncio.AbstractEventLoop, name: str) -> None:
        self._loop = loop
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)

    def submit(self, job: Job, done: Done) -> None:
        future = self._pool.submit(job)
        future.add_done_callback(lambda finished: self._report(finished, done))

    def _report(self, finished: Future[None], done: Done) -> None:
        if self._loop.is_closed():  # the node has stopped: nobody is left to tell
            return
        self._loop.call_soon_threadsafe(done, finished.exception())

    def close(self) -> None:
        self._pool.shutdown(wait=True)
