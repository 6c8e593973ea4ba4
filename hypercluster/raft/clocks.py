"""Comparing clocks (D-5): this node against the median of the voters it hears, and the stamps that follow from it.

Owns: what each peer's wall clock said and when, the median, the skew, and the rule for the next stamp.
Never: reads a clock; orders anything by time.
Invariants: a lone disagreement of two nodes blames neither (the median of an even number is the value nearest to
this node's own); a node is off only when a majority of what is heard says so. Stamps only grow.
"""

from __future__ import annotations

from collections.abc import Iterable

from hypercluster.limits import CLOCK_SAMPLE_S
from hypercluster.values import NodeId

NANOS_PER_S = 1_000_000_000
NANOS_PER_MS = 1_000_000


class ClockWatch:
    def __init__(self, skew_max_ms: int) -> None:
        self._skew_max_ns = skew_max_ms * NANOS_PER_MS
        self._heard: dict[NodeId, tuple[int, float]] = {}  # peer -> its wall clock, our monotonic time

    def heard(self, node_id: NodeId, wall_ns: int, now_s: float) -> None:
        if wall_ns > 0:
            self._heard[node_id] = (wall_ns, now_s)

    def forget(self, node_id: NodeId) -> None:
        self._heard.pop(node_id, None)

    def median_ahead_ns(self, voters: Iterable[NodeId], own_wall_ns: int, now_s: float) -> int:
        """How far the median of the voters heard lately, this node included, is ahead of this node's clock."""
        ahead = [0]
        for node_id in voters:
            sample = self._heard.get(node_id)
            if sample is not None and now_s - sample[1] <= CLOCK_SAMPLE_S:
                wall_ns, heard_s = sample
                ahead.append(wall_ns + int((now_s - heard_s) * NANOS_PER_S) - own_wall_ns)
        ahead.sort()
        middle = len(ahead) // 2
        if len(ahead) % 2:
            return ahead[middle]
        low, high = ahead[middle - 1], ahead[middle]
        return 0 if low <= 0 <= high else min(low, high, key=abs)

    def is_off(self, ahead_ns: int) -> bool:
        return abs(ahead_ns) > self._skew_max_ns

    def stamp_ns(self, own_wall_ns: int, ahead_ns: int, floor_ns: int) -> int:
        """max(clock, end of the last stamp), the clock itself held to the median plus the allowed skew. The floor wins
        over the cap: a stamp that fell would break the order for ever, one that stays ahead heals by waiting."""
        return max(min(own_wall_ns, own_wall_ns + ahead_ns + self._skew_max_ns), floor_ns)
