"""Virtual time: one heap of events for the whole simulated world.

Owns: `World time`, the order of events, and the trace hash. Two runs with one seed execute the same events in
the same order, in any process: ties are broken by the order of scheduling.
Never: real time, threads, asyncio.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from heapq import heappop, heappush

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
        at = when if when > self.now else self.now
        timer = Timer(at, call)
        heappush(self._heap, (at, self._order, timer))
        return timer

    def after(self, delay_s: float, call: Callable[[], None]) -> Timer:
        return self.at(self.now + delay_s, call)

    def run_until(self, when: float) -> None:
        """Runs everything that is due up to `when`, in order, also what comes up meanwhile."""
        heap = self._heap
        while heap and heap[0][0] <= when:
            at, _, timer = heappop(heap)
            call = timer.call
            if call is not None:
                self.now = at
                self.executed += 1
                call()
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
