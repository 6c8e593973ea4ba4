"""Who is silent, as a leader sees it, and the judgement of what it says (CH-11, DET-1, DET-2).

Owns: `Silence`, which counts from its leader's election by the product's estimate (node/phi.py); `SilenceJudge`, which
knows who can be heard in truth, and what is allowed: nobody silent for DETECT_WITHIN_S unnoticed, and false alarms
below FALSE_PER_WORKER_DAY.
Never: learns from an interval that was longer than its timeout, or began before the count.
Invariants: it keeps one window for each worker that is enrolled, and none for others.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from hypercluster.node.phi import Durations
from tests.simulation.invariants import ViolationError
from tests.simulation.long_worker import HEARTBEAT_S, LongWorker

LOOK_S = 5.0
STOOD_STILL_S = 3 * LOOK_S  # a leader that has not looked for so long counts anew
# With less than ten intervals the estimate may be the prior's 1.82 heartbeats, with more a P95 of what is let through,
# and k is 1.6; a look comes every LOOK_S.
DETECT_WITHIN_S = 1.6 * 1.6 * 1.8225 * HEARTBEAT_S + 2 * LOOK_S
FALSE_PER_WORKER_DAY = 0.1
FALSE_ALLOWED = 5  # whatever the length: a short run has few worker-days


@dataclass(slots=True)
class _Heard:
    at_s: float
    durations: Durations
    timeout_s: float
    is_first: bool = True  # the interval that ends next began before the count did
    suspected: bool = False


class Silence:
    """One leader's term."""

    def __init__(self, now_s: float, workers: Iterable[str]) -> None:
        self.began_s = self._looked_s = now_s
        self._of: dict[str, _Heard] = {}
        for name in workers:
            self.enrol(now_s, name)

    def __len__(self) -> int:
        return len(self._of)

    def enrol(self, now_s: float, name: str) -> None:
        durations = Durations(int(HEARTBEAT_S * 1e9))
        self._of[name] = _Heard(now_s, durations, durations.timeout_ns() / 1e9)

    def forget(self, name: str) -> None:
        self._of.pop(name, None)

    def heard(self, now_s: float, name: str) -> None:
        found = self._of.get(name)
        if found is None:
            return
        self._notice_standstill(now_s)  # what waited for a leader that stood still is heard before it looks again
        interval_s = now_s - found.at_s
        if not found.is_first and not found.suspected and interval_s <= found.timeout_s:
            found.durations.add(int(interval_s * 1e9))
            found.timeout_s = found.durations.timeout_ns() / 1e9
        found.at_s, found.is_first, found.suspected = now_s, False, False

    def _notice_standstill(self, now_s: float) -> None:
        if now_s - self._looked_s > STOOD_STILL_S:
            self.began_s = self._looked_s = now_s
            for found in self._of.values():
                found.at_s, found.is_first = now_s, True

    def suspects(self, name: str) -> bool:
        found = self._of.get(name)
        return found is not None and found.suspected

    def look(self, now_s: float) -> list[tuple[str, float, float]]:
        """Newly suspected: name, how long silent, φ."""
        self._notice_standstill(now_s)
        self._looked_s = now_s
        new = []
        for name, found in self._of.items():
            elapsed_s = now_s - found.at_s
            if elapsed_s > found.timeout_s and not found.suspected:
                found.suspected = True
                new.append((name, elapsed_s, found.durations.phi(int(elapsed_s * 1e9))))
        return new


@dataclass(slots=True)
class SilenceJudge:
    detected: int = 0
    false_alarms: int = 0
    detect_max_s: float = 0.0
    detect_sum_s: float = 0.0
    phi_min: float = field(default=float("inf"))  # of true alarms

    def suspected(self, now_s: float, worker: LongWorker, elapsed_s: float, phi: float, began_s: float) -> None:
        since = worker.silent_since
        if since is None:
            if worker.audible_since is not None and now_s - worker.audible_since > elapsed_s:
                self.false_alarms += 1  # it could be heard for all of that time
            return
        took_s = now_s - max(since, began_s, worker.delivered_at)
        self.detected += 1
        self.detect_sum_s += took_s
        self.detect_max_s = max(self.detect_max_s, took_s)
        self.phi_min = min(self.phi_min, phi)

    def look(self, now_s: float, silence: Silence, workers: Iterable[LongWorker]) -> None:
        """Nobody is overlooked."""
        for worker in workers:
            since = worker.silent_since
            if since is None or silence.suspects(worker.name):
                continue
            silent_s = now_s - max(since, silence.began_s, worker.delivered_at)
            if silent_s > DETECT_WITHIN_S:
                raise ViolationError("silence overlooked", f"{worker.name}: {silent_s:.0f} s, and nobody suspects it")

    def finish(self, workers: int, hours: float) -> None:
        allowed = FALSE_ALLOWED + FALSE_PER_WORKER_DAY * workers * hours / 24
        if self.false_alarms > allowed:
            raise ViolationError("false alarms", f"{self.false_alarms}, allowed {allowed:.0f}")
