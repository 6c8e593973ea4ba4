"""Coroutines of the product under virtual time: the part of asyncio's loop that tasks, futures and events need.

Owns: `VirtualTasks`, the running loop of this thread while a simulation runs in it.
Never: real time, I/O; swallows what a task raises: it comes out of the event queue, and ends the run.
"""

from __future__ import annotations

import asyncio
import contextlib
from asyncio import events as asyncio_events
from collections.abc import Callable, Coroutine, Iterator
from contextvars import Context
from functools import partial
from typing import Any

from hypercluster.errors import FatalError
from tests.simulation.events import EventQueue, Timer


class VirtualTasks:
    def __init__(self, events: EventQueue) -> None:
        self._events = events
        self.open: set[asyncio.Task[None]] = set()

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        before = asyncio_events._get_running_loop()
        asyncio_events._set_running_loop(self)  # type: ignore[arg-type]
        try:
            yield
        finally:
            asyncio_events._set_running_loop(before)

    def start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.Task(work, loop=self)  # type: ignore[arg-type]
        self.open.add(task)
        task.add_done_callback(self._ended)
        return task

    def end(self) -> None:
        """Cancels what is open and runs what is due now, whatever it raises: the run is over."""
        for task in tuple(self.open):
            task.cancel()
        while True:
            try:
                self._events.run_until(self._events.now)
            except (Exception, FatalError):
                continue
            return

    def _ended(self, task: asyncio.Task[None]) -> None:
        self.open.discard(task)
        if not task.cancelled():
            task.result()

    async def sleep(self, seconds: float) -> None:
        future: asyncio.Future[None] = self.create_future()
        timer = self._events.after(seconds, partial(_wake, future))
        try:
            await future
        finally:
            timer.cancel()

    # --- what asyncio asks of a loop ---------------------------------------------------------------------

    def get_debug(self) -> bool:
        return False

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)  # type: ignore[arg-type]

    def time(self) -> float:
        return self._events.now

    def call_at(self, when: float, callback: Callable[..., Any], *args: Any, context: Context | None = None) -> Timer:
        return self._events.at(when, _bound(callback, args, context))

    def call_later(self, delay: float, callback: Callable[..., Any], *args: Any) -> Timer:
        return self._events.after(delay, partial(callback, *args))

    def call_soon(self, callback: Callable[..., Any], *args: Any, context: Context | None = None) -> Timer:
        return self._events.after(0.0, _bound(callback, args, context))

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        raise AssertionError(f"asyncio: {context}")


def _bound(callback: Callable[..., Any], args: tuple[Any, ...], context: Context | None) -> Callable[[], Any]:
    return partial(callback, *args) if context is None else partial(context.run, callback, *args)


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
