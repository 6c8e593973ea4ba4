"""How many bytes of chunk puts go into the next batch of them, and when (WS-37).

Owns: the share that chunk puts get, found from how long batches take; the pause between two batches of them.
Never: looks at a queue, reads a clock (times are passed in), decides about anything that is no chunk put.
Invariants: while others send, at most one batch of chunk puts is in flight, and after it the way stays free for as
long as a batch of others takes; otherwise two at most. A share is CHUNK_BYTES_MAX to BATCH_CHUNK_BYTES_MAX, and a pause
never longer than PAUSE_MAX_S, so puts always go on.

What comes behind chunk puts waits until their entry is on disk and applied: the share is what makes such a batch take
about twice as long as one of others. How much that is, only the running cluster knows: cores, disks and the way between
the nodes decide.
"""

from __future__ import annotations

from typing import NamedTuple

from hypercluster.limits import BATCH_CHUNK_BYTES_MAX, BATCHES_IN_FLIGHT_MAX, CHUNK_BYTES_MAX

SMOOTHING = 8  # of what is measured
CROWDED_S = 1.0  # others count for so long after they sent
PAUSE_MAX_S = 0.05


class BatchInFlight(NamedTuple):
    """A batch that is proposed and not answered."""

    began_s: float
    chunk_bytes: int  # of chunk puts; 0: a batch of others
    told: bool  # no batch of chunk puts was ahead of it: it can tell how long batches take


class ChunkPace:
    """One a proposer."""

    __slots__ = ("_others_s", "_pause_until_s", "_puts_bytes", "_puts_s", "in_flight", "plain_s")

    def __init__(self) -> None:
        self.in_flight = 0  # batches of chunk puts
        self.plain_s = 0.0  # what a batch of others takes, smoothed; 0: not known
        self._puts_s = 0.0  # what one of chunk puts takes, smoothed; 0: not known
        self._puts_bytes = 0.0  # what these held, smoothed alike
        self._pause_until_s = 0.0
        self._others_s = float("-inf")

    def others_sent(self, now_s: float) -> None:
        """A run has arrived that neither puts chunks nor waits behind puts of its own lane."""
        self._others_s = now_s

    def is_crowded(self, now_s: float) -> bool:
        return now_s - self._others_s < CROWDED_S

    def share_bytes(self, now_s: float) -> int:
        """Of the next batch of chunk puts; 0: it has to wait."""
        if not self.is_crowded(now_s):
            return BATCH_CHUNK_BYTES_MAX if self.in_flight < BATCHES_IN_FLIGHT_MAX else 0
        if self.in_flight or now_s < self._pause_until_s:
            return 0
        added_s = self._puts_s - self.plain_s
        if not self.plain_s or added_s <= self.plain_s * self._puts_bytes / BATCH_CHUNK_BYTES_MAX:
            return BATCH_CHUNK_BYTES_MAX  # as many as that still take less than twice the time
        return max(CHUNK_BYTES_MAX, int(self.plain_s * self._puts_bytes / added_s))

    def due_s(self, now_s: float) -> float | None:
        """When `share_bytes` is above 0 again if nothing else happens; None: a batch has to be answered first."""
        free_s = self._others_s + CROWDED_S
        if self.in_flight:
            return free_s if self.in_flight < BATCHES_IN_FLIGHT_MAX and free_s > now_s else None
        return max(now_s, min(free_s, self._pause_until_s))

    def began(self, now_s: float, chunk_bytes: int) -> BatchInFlight:
        """A batch is proposed, with so many bytes of chunk puts."""
        told = not self.in_flight
        self.in_flight += chunk_bytes > 0
        return BatchInFlight(now_s, chunk_bytes, told)

    def ended(self, now_s: float, batch: BatchInFlight, *, counts: bool) -> None:
        """It is answered; how long a refusal took does not count."""
        took_s = now_s - batch.began_s
        if batch.chunk_bytes:
            self.in_flight -= 1
            self._pause_until_s = now_s + min(took_s, self.plain_s, PAUSE_MAX_S)
        if not (batch.told and counts):
            return
        if not batch.chunk_bytes:
            self.plain_s += (took_s - self.plain_s) / (SMOOTHING if self.plain_s else 1)
        else:
            step = SMOOTHING if self._puts_s else 1
            self._puts_s += (took_s - self._puts_s) / step
            self._puts_bytes += (batch.chunk_bytes - self._puts_bytes) / step
