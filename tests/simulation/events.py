"""Virtual time: one heap of events for the whole simulated world.

Owns: `World time`, the order of events, and the trace hash. Two runs with one seed execute the same events in
the same order, in any process: ties are broken by the order of scheduling.
Never: real time, threads, asyncio.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Callable
from dataclasses import dataclass

START_WALL_NS = 1_700_000_000_000_000_000


@dataclass(slots=True)
class Timer:
    """A scheduled call. `cancel()` leaves it in the heap, to be skipped."""

    at: float
    call: Callable[[], None] | None

    def cancel(self) -> None:
        self.call = None


class EventQueue:
    """`now` in seconds from 0."""

    def __init__(self) -> None:
        self.now = 0.0
        self.executed = 0
        self._heap: list[tuple[float, int, Timer]] = []
        self._order = 0
        self._trace = hashlib.blake2b(digest_size=16)

    def at(self, when: float, call: Callable[[], None]) -> Timer:
        self._order += 1
        timer = Timer(max(when, self.now), call)
        heapq.heappush(self._heap, (timer.at, self._order, timer))
        return timer

    def after(self, delay_s: float, call: Callable[[], None]) -> Timer:
        return self.at(self.now + delay_s, call)

    def step(self) -> bool:
        """Runs the next event; False when there is none."""
        while self._heap:
            timer = heapq.heappop(self._heap)[2]
            if timer.call is None:
                continue
            self.now = timer.at
            self.executed += 1
            timer.call()
            return True
        return False

    def next_at(self) -> float | None:
        while self._heap and self._heap[0][2].call is None:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def run_until(self, when: float) -> None:
        while (upcoming := self.next_at()) is not None and upcoming <= when:
            self.step()
        self.now = max(self.now, when)

    def trace(self, text: str) -> None:
        """Adds a line to the trace, by which two runs are compared."""
        self._trace.update(f"{self.now:.9f} {text}\n".encode())

    def trace_digest(self) -> str:
        return self._trace.hexdigest()


class NodeClock:
    """One node's clocks over the shared virtual time: each has an offset, the wall clock may jump and drift."""

    def __init__(self, events: EventQueue, wall_offset_ns: int = 0, drift_ppm: int = 0) -> None:
        self._events = events
        self.wall_offset_ns = wall_offset_ns
        self.drift_ppm = drift_ppm

    def monotonic(self) -> float:
        return self._events.now

    def boottime_ns(self) -> int:
        return int(self._events.now * 1e9)

    def wall_ns(self) -> int:
        elapsed = int(self._events.now * 1e9)
        return START_WALL_NS + elapsed + elapsed * self.drift_ppm // 1_000_000 + self.wall_offset_ns
