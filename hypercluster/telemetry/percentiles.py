"""Percentiles over the last minute, for status pages.

Owns: a bounded ring of recent durations. Never: reads a clock.
Invariants: at most `samples_max` are kept, the newest ones; an answer is exact over what is kept.
"""

from __future__ import annotations

from collections import deque


class Percentiles:
    __slots__ = ("_samples", "_window_s")

    def __init__(self, window_s: float = 60.0, samples_max: int = 4_096) -> None:
        self._window_s = window_s
        self._samples: deque[tuple[float, int]] = deque(maxlen=samples_max)

    def add(self, now_s: float, duration_us: int) -> None:
        self._samples.append((now_s, duration_us))

    def read(self, now_s: float, *percents: int) -> list[int]:
        """Microseconds at each percent (1 to 100); zeros when the window is empty."""
        oldest = now_s - self._window_s
        while self._samples and self._samples[0][0] < oldest:
            self._samples.popleft()
        if not self._samples:
            return [0] * len(percents)
        ordered = sorted(us for _, us in self._samples)
        return [ordered[min(len(ordered) - 1, len(ordered) * p // 100)] for p in percents]
