"""Token buckets, one a worker (WS-34).

Owns: how much one worker (or a principal that is none) may send, and the pause it is told.
Never: reads a clock (`now_s` is passed in), decides about queues.
Invariants: an admitted message is charged in full, so a bucket may fall below zero and recovers at its rate (a
message larger than the burst passes when the bucket is full, instead of never); a refused message is not
charged; buckets are bounded in number, and forgetting a full one changes no answer.
A worker that keeps sending before the pause it was told is over is quarantined for a stated time; a judged refusal
costs as much as a success, because what is charged is what was admitted.
"""

from __future__ import annotations

from dataclasses import dataclass

from hypercluster.limits import (
    QUARANTINE_AFTER,
    QUARANTINE_MS,
    RATE_BURST_OPS,
    RATE_BYTES_PER_S,
    RATE_OPS_PER_S,
    RATE_PRINCIPALS_MAX,
)


@dataclass(frozen=True, slots=True)
class RateSettings:
    ops_per_s: int = RATE_OPS_PER_S
    bytes_per_s: int = RATE_BYTES_PER_S
    burst_ops: int = RATE_BURST_OPS
    quarantine_after: int = QUARANTINE_AFTER
    quarantine_ms: int = QUARANTINE_MS
    principals_max: int = RATE_PRINCIPALS_MAX


@dataclass(slots=True)
class _Bucket:
    ops: float
    size_bytes: float
    at_s: float
    told_s: float = 0.0  # when the pause it was told is over
    ignored: int = 0  # refusals in a row before that moment
    quarantined_until_s: float = 0.0


class RateLimits:
    """All buckets of a node."""

    __slots__ = ("_buckets", "_settings", "quarantines")

    def __init__(self, settings: RateSettings) -> None:
        self._settings = settings
        self._buckets: dict[str, _Bucket] = {}  # in the order of last use
        self.quarantines = 0  # ever begun

    def __len__(self) -> int:
        return len(self._buckets)

    def admit(self, who: str, ops: int, size_bytes: int, now_s: float) -> int:
        """0: admitted and charged. Otherwise: come back after this many milliseconds."""
        s = self._settings
        bucket = self._buckets.pop(who, None)
        if bucket is None:
            bucket = _Bucket(ops=s.burst_ops, size_bytes=s.bytes_per_s, at_s=now_s)
            if len(self._buckets) >= s.principals_max:
                del self._buckets[next(iter(self._buckets))]  # the longest unused: full again by now
        self._buckets[who] = bucket
        passed_s = max(0.0, now_s - bucket.at_s)
        bucket.at_s = now_s
        bucket.ops = min(float(s.burst_ops), bucket.ops + passed_s * s.ops_per_s)
        bucket.size_bytes = min(float(s.bytes_per_s), bucket.size_bytes + passed_s * s.bytes_per_s)
        if now_s < bucket.quarantined_until_s:
            return _pause_ms(bucket.quarantined_until_s - now_s)
        # A full bucket admits anything; otherwise the burst bounds how far a message may dip below zero.
        wait_s = max(
            (min(ops, s.burst_ops) - bucket.ops) / s.ops_per_s,
            (min(size_bytes, s.bytes_per_s) - bucket.size_bytes) / s.bytes_per_s,
        )
        if wait_s <= 1e-9:
            bucket.ops -= ops
            bucket.size_bytes -= size_bytes
            bucket.ignored = 0
            return 0
        return self._refuse(bucket, wait_s, now_s)

    def is_quarantined(self, who: str, now_s: float) -> bool:
        bucket = self._buckets.get(who)
        return bucket is not None and now_s < bucket.quarantined_until_s

    def _refuse(self, bucket: _Bucket, wait_s: float, now_s: float) -> int:
        s = self._settings
        bucket.ignored = bucket.ignored + 1 if now_s < bucket.told_s else 0
        if bucket.ignored >= s.quarantine_after:
            bucket.ignored = 0
            bucket.quarantined_until_s = now_s + s.quarantine_ms / 1000
            bucket.told_s = bucket.quarantined_until_s
            self.quarantines += 1
            return s.quarantine_ms
        # The first pause told stands: a stream of messages behind a refused one does not push it away.
        if now_s >= bucket.told_s:
            bucket.told_s = now_s + wait_s
        return _pause_ms(wait_s)


def _pause_ms(wait_s: float) -> int:
    return max(1, int(wait_s * 1000) + 1)
