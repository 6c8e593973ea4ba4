"""The engine's heart beat on an asyncio loop.

Owns: when `tick` is called: once per turn after any number of wakes, and at `next_deadline()`; the real clock; and
the thread that syncs run on (storage.runner.ThreadRunner).
Never: blocks; calls tick from inside another call of the engine.
Invariants: wakes of one turn share one tick, hence one frame to each peer and one sync (CL-6). A timer set for later
than the next deadline is replaced; one set for earlier is left to fire, because an early tick does no harm.
"""

from __future__ import annotations

import asyncio
import time
from typing import Protocol

from hypercluster.raft.engine import Clock, Engine
from hypercluster.storage.runner import ThreadRunner

__all__ = ["EngineDriver", "SystemClock", "ThreadSyncRunner"]

IDLE_S = 1.0  # an engine without a deadline is looked at this often


class SystemClock:
    """`Clock` of the machine."""

    def monotonic(self) -> float:
        return time.monotonic()

    def boottime_ns(self) -> int:
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME)

    def wall_ns(self) -> int:
        return time.time_ns()


ThreadSyncRunner = ThreadRunner


class Timed(Protocol):
    """What the driver needs of an engine."""

    def tick(self) -> None: ...

    def next_deadline(self) -> float: ...


class EngineDriver:
    """Make it, hand its `wake` to the engine's parts, then `run(engine)`."""

    def __init__(self, loop: asyncio.AbstractEventLoop, clock: Clock) -> None:
        self._loop = loop
        self._clock = clock
        self._engine: Timed | None = None
        self._turn_due = False
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self.turns = 0

    def wake(self) -> None:
        if not self._turn_due and not self._loop.is_closed():
            self._turn_due = True
            self._loop.call_soon(self._turn)

    def run(self, engine: Engine) -> None:
        self._engine = engine
        engine.start()
        self.wake()

    def close(self) -> None:
        """No tick after this. The engine is stopped by its owner."""
        self._engine = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _turn(self) -> None:
        self._turn_due = False
        engine = self._engine
        if engine is None:
            return
        self.turns += 1
        engine.tick()
        self._set_timer(min(engine.next_deadline() - self._clock.monotonic(), IDLE_S))

    def _set_timer(self, delay_s: float) -> None:
        when = self._loop.time() + max(delay_s, 0.0)
        if self._timer is not None:
            if self._loop.time() < self._timer_at <= when:
                return
            self._timer.cancel()
        # Kept beside the handle: uvloop answers call_at of a time that is due with a handle that knows no time.
        self._timer_at = when
        self._timer = self._loop.call_at(when, self._fire)

    def _fire(self) -> None:
        self._timer = None
        self.wake()
