"""An event loop's turns under a virtual clock: what node code is given in place of asyncio's loop."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable
from typing import Any


class Handle:
    def __init__(self, call: Callable[[], Any]) -> None:
        self.call: Callable[[], Any] | None = call

    def cancel(self) -> None:
        self.call = None


class VirtualTurns:
    """`Turns` and `Clock` at once. Nothing runs before `turn`, `settle` or `pass_time`."""

    def __init__(self) -> None:
        self.now_s = 1_000.0
        self.wall_offset_ns = 0  # of the wall clock, which may jump
        self._soon: deque[Handle] = deque()
        self._timers: list[tuple[float, int, Handle]] = []
        self._order = 0

    def time(self) -> float:
        return self.now_s

    def monotonic(self) -> float:
        return self.now_s

    def boottime_ns(self) -> int:
        return int(self.now_s * 1e9)

    def wall_ns(self) -> int:
        return 1_700_000_000_000_000_000 + int(self.now_s * 1e9) + self.wall_offset_ns

    def call_soon(self, callback: Callable[[], Any], /) -> Handle:
        handle = Handle(callback)
        self._soon.append(handle)
        return handle

    def call_at(self, when: float, callback: Callable[[], Any], /) -> Handle:
        self._order += 1
        handle = Handle(callback)
        heapq.heappush(self._timers, (when, self._order, handle))
        return handle

    def turn(self) -> None:
        """What was asked for before this call, as one turn of a loop."""
        for _ in range(len(self._soon)):
            handle = self._soon.popleft()
            if handle.call is not None:
                handle.call()

    def settle(self) -> None:
        """Turns until nothing is left but timers."""
        while self._soon:
            self.turn()

    def pass_time(self, span_s: float) -> None:
        """Runs every timer that falls due on the way, in order."""
        end_s = self.now_s + span_s
        self.settle()
        while self._timers and self._timers[0][0] <= end_s:
            when_s, _, handle = heapq.heappop(self._timers)
            self.now_s = max(self.now_s, when_s)
            if handle.call is not None:
                handle.call()
            self.settle()
        self.now_s = end_s
