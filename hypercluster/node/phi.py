"""How long something may take before it counts as failed, from how long it took before (DET-2, DET-3).

Owns: `Durations`, the window of one kind of thing with its estimate, timeout and φ; `PhaseDurations`, a window for each
phase type, with its prior.
Never: reads a clock, or decides by φ: what decides is t > timeout, in whole nanoseconds; φ says how odd the silence is.
Invariants: only clean durations enter a window, which holds the newest PHI_WINDOW of them; the estimate and the timeout
follow from integers alone; φ is finite, not negative and never falls as t grows.

φ(t) = −log10(1 − F(t)), F normal with the mean and the variance of the window (Hayashibara et al., The φ accrual
failure detector, 2004); below PHI_BLEND_SAMPLES durations both are blended with the prior, as the estimate is.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final

from hypercluster.errors import check
from hypercluster.limits import (
    PHI_BLEND_SAMPLES,
    PHI_TIMEOUT_PERCENT_MAX,
    PHI_TIMEOUT_PERCENT_MIN,
    PHI_WINDOW,
)

NANOS_PER_S: Final = 1_000_000_000
P95: Final = 95
# The 95th percentile of a normal distribution whose deviation is half its mean: mean + 1.645 · mean / 2.
PRIOR_P95_NUMERATOR: Final = 18_225
PRIOR_P95_DENOMINATOR: Final = 10_000
DEVIATION_MIN: Final = 0.01  # of the mean: durations that are all equal say nothing of how far the next may be off
TAIL_FROM: Final = 25.0  # deviations; beyond it the tail is taken from its series, long before erfc is 0

PRIOR_MEAN_NS: Final[Mapping[str, int]] = {
    "ANALYZE": 15 * NANOS_PER_S,
    "BLUEPRINT": 20 * NANOS_PER_S,
    "CONSTRUCT": 120 * NANOS_PER_S,
    "VALIDATE": 30 * NANOS_PER_S,
    "IDLE": 10 * NANOS_PER_S,
}


class Mode(Enum):
    """The value is k in percent: timeout = k × estimate."""

    STRICT = 120
    NORMAL = 160
    DEV_FAST = 200


@dataclass(frozen=True, slots=True)
class Judgement:
    """The numbers of one look, as a trip carries them."""

    elapsed_ns: int
    estimate_ns: int
    timeout_ns: int
    phi: float
    samples: int

    @property
    def late(self) -> bool:
        return self.elapsed_ns > self.timeout_ns


class Durations:
    """Clean durations of one kind of thing, in nanoseconds."""

    def __init__(self, prior_mean_ns: int) -> None:
        check(prior_mean_ns > 0, "a prior mean is positive")
        self._prior_mean_ns = prior_mean_ns
        self._window: deque[int] = deque()
        self._sorted: list[int] = []
        self._sum_ns = 0
        self._squares = 0

    def __len__(self) -> int:
        return len(self._window)

    def add(self, duration_ns: int) -> None:
        """One that ended well. Raises ValueError for a negative one."""
        if duration_ns < 0:
            raise ValueError(f"duration_ns: {duration_ns} is negative")
        if len(self._window) == PHI_WINDOW:
            oldest = self._window.popleft()
            del self._sorted[bisect_left(self._sorted, oldest)]
            self._sum_ns -= oldest
            self._squares -= oldest * oldest
        self._window.append(duration_ns)
        insort(self._sorted, duration_ns)
        self._sum_ns += duration_ns
        self._squares += duration_ns * duration_ns

    def estimate_ns(self) -> int:
        """P95 by nearest rank; with fewer than ten durations n/10 of it and (1 − n/10) of the prior's, rounded down."""
        count = len(self._window)
        p95_ns = self._sorted[-(-P95 * count // 100) - 1] if count else 0
        if count >= PHI_BLEND_SAMPLES:
            return p95_ns
        own = count * p95_ns * PRIOR_P95_DENOMINATOR
        prior = (PHI_BLEND_SAMPLES - count) * self._prior_mean_ns * PRIOR_P95_NUMERATOR
        return (own + prior) // (PHI_BLEND_SAMPLES * PRIOR_P95_DENOMINATOR)

    def timeout_ns(self, k_percent: int = Mode.NORMAL.value) -> int:
        """Raises ValueError for a k outside of 1.2 to 2.0."""
        if not PHI_TIMEOUT_PERCENT_MIN <= k_percent <= PHI_TIMEOUT_PERCENT_MAX:
            limits = f"{PHI_TIMEOUT_PERCENT_MIN} to {PHI_TIMEOUT_PERCENT_MAX}"
            raise ValueError(f"k_percent: {k_percent}, may be {limits}")
        return self.estimate_ns() * k_percent // 100

    def phi(self, elapsed_ns: int) -> float:
        """−log10 of the chance that this takes longer still, were all well."""
        mean_ns, deviation_ns = self._spread()
        z = (elapsed_ns - mean_ns) / deviation_ns
        if z <= TAIL_FROM:
            return max(0.0, -math.log10(0.5 * math.erfc(z / math.sqrt(2))))
        # 1 − F(z) = e^(−z²/2) / (z √2π) · (1 − 1/z² + …)
        return (z * z / 2 + math.log(z * math.sqrt(2 * math.pi)) - math.log1p(-1 / (z * z))) / math.log(10)

    def judge(self, elapsed_ns: int, k_percent: int = Mode.NORMAL.value) -> Judgement:
        """Of something that began `elapsed_ns` ago and has not ended."""
        timeout_ns = self.timeout_ns(k_percent)
        return Judgement(elapsed_ns, self.estimate_ns(), timeout_ns, self.phi(elapsed_ns), len(self))

    def _spread(self) -> tuple[float, float]:
        """Mean and deviation, from exact sums."""
        count = len(self._window)
        weight = min(count, PHI_BLEND_SAMPLES) / PHI_BLEND_SAMPLES
        own_mean = self._sum_ns / count if count else 0.0
        own_variance = (count * self._squares - self._sum_ns * self._sum_ns) / (count * count) if count else 0.0
        mean = weight * own_mean + (1 - weight) * self._prior_mean_ns
        variance = weight * own_variance + (1 - weight) * (self._prior_mean_ns / 2) ** 2
        return mean, max(math.sqrt(variance), DEVIATION_MIN * mean, 1.0)


class PhaseDurations:
    """One window for each phase type."""

    def __init__(self, k_percent: int = Mode.NORMAL.value) -> None:
        self._k_percent = k_percent
        self._of = {phase: Durations(mean_ns) for phase, mean_ns in PRIOR_MEAN_NS.items()}
        self._of["IDLE"].timeout_ns(k_percent)  # a k out of range is said here and not at the first look

    def ended(self, phase: str, duration_ns: int, *, clean: bool) -> None:
        """A duration that ended in a failure says nothing of how long the phase takes, and does not enter."""
        durations = self._durations(phase)
        if clean:
            durations.add(duration_ns)

    def judge(self, phase: str, elapsed_ns: int) -> Judgement:
        return self._durations(phase).judge(elapsed_ns, self._k_percent)

    def _durations(self, phase: str) -> Durations:
        found = self._of.get(phase)
        if found is None:
            raise ValueError(f"phase: {phase!r}, may be {', '.join(self._of)}")
        return found
