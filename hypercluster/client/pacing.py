"""How fast one client sends, so that the rate limit of its principal is never felt (WS-34).

Owns: `Pacer`: a pause the server asked for, and a rate found by it, shared by all lanes of a client.
Never: I/O, clocks. Times are passed in.
Invariants: nothing is sent before a pause that was asked for is over; without any refusal the pacer never limits.
The rate starts at what was last sent in a second, less a tenth, is cut by a tenth at each refusal and rises by a
quarter a second between: additive probing would take minutes to find back to a limit that was raised.
"""

from __future__ import annotations

S_NS = 1_000_000_000
RATE_MIN_PER_S = 50.0
BURST_S = 0.05  # what may be sent at once, in seconds of the rate
UNLIMITED = 1 << 30


class Pacer:
    def __init__(self) -> None:
        self._hold_until_ns = 0
        self._rate_per_s = 0.0  # 0: no limit was met
        self._tokens = 0.0
        self._at_ns = 0
        self._window_ns = 0
        self._window_sent = 0
        self._sent_per_s = 0.0

    def budget(self, now_ns: int) -> int:
        """How many commands may be sent now."""
        if now_ns < self._hold_until_ns:
            return 0
        if not self._rate_per_s:
            return UNLIMITED
        passed_s = max(0, now_ns - self._at_ns) / S_NS
        self._at_ns = now_ns
        self._rate_per_s *= 1 + 0.25 * min(passed_s, 1.0)
        self._tokens = min(self._tokens + passed_s * self._rate_per_s, max(1.0, self._rate_per_s * BURST_S))
        return int(self._tokens)

    def spend(self, now_ns: int, commands: int) -> None:
        self._tokens -= commands if self._rate_per_s else 0
        if now_ns - self._window_ns >= S_NS:
            self._sent_per_s = self._window_sent * S_NS / max(S_NS, now_ns - self._window_ns)
            self._window_ns, self._window_sent = now_ns, 0
        self._window_sent += commands

    def slow_down(self, now_ns: int, retry_after_ns: int) -> None:
        """The server refused for the rate: wait as long as it says, then go on more slowly. Refusals of messages that
        were on their way together are one: the rate is cut once a pause."""
        if now_ns >= self._hold_until_ns:
            met = self._rate_per_s or max(self._sent_per_s, float(self._window_sent))
            self._rate_per_s = max(RATE_MIN_PER_S, met * 0.9)
            self._tokens = 0.0
        self._hold_until_ns = max(self._hold_until_ns, now_ns + retry_after_ns)
        self._at_ns = self._hold_until_ns

    def next_ns(self, now_ns: int) -> int:
        """When `budget` is above zero again."""
        if now_ns < self._hold_until_ns:
            return self._hold_until_ns
        if not self._rate_per_s or self._tokens >= 1:
            return now_ns
        return now_ns + int((1 - self._tokens) / self._rate_per_s * S_NS) + 1
