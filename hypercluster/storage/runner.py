"""Where blocking disk work runs: beside the loop, one job at a time.

Owns: the `Runner` protocol as storage needs it, `ThreadRunner` (one thread, results come back on the loop) and
`InlineRunner` (at once, for tools, start-up and tests).
Never: decides what runs; retries a job; swallows an error.
Invariants: jobs run in the order they were submitted, never two at once; `done` is called exactly once per job,
on the loop's thread, with None or the error.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from queue import SimpleQueue
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
    """One thread of its own. `close` waits for the running job; jobs not yet started still run first.

    A plain queue instead of an executor: a future, its condition and its callbacks cost more than the loop's part of
    a sync, and there is one sync for every entry."""

    def __init__(self, loop: asyncio.AbstractEventLoop, name: str) -> None:
        self._loop = loop
        self._jobs: SimpleQueue[tuple[Job, Done] | None] = SimpleQueue()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(self, job: Job, done: Done) -> None:
        if self._closed:
            raise RuntimeError("the runner is closed")
        self._jobs.put((job, done))

    def _run(self) -> None:
        while (item := self._jobs.get()) is not None:
            job, done = item
            error: BaseException | None = None
            try:
                job()
            except BaseException as raised:  # the owner decides, as with every other runner
                error = raised
            try:
                self._loop.call_soon_threadsafe(done, error)
            except RuntimeError:  # the loop is closed: the node has stopped, and nobody is left to tell
                continue

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._jobs.put(None)
            self._thread.join()
