"""When a worker is stuck: the decisions of the watchdog (WS-65).

Owns: `Guard`, which is told what happens and says what to do, and the times of both.
Never: I/O, clocks; `now_s` is passed in.
Invariants: a worker is stuck when a question is open and nothing has been answered for `stuck_s`; time in
which the watchdog itself did not run (a suspended host, a machine short of time) is not held against it, nor time in
which the host did not let the worker run, up to SPARED_MAX times `stuck_s` a question. A worker that is not mounted yet
is never stuck: nobody can wait for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

LATE_S: Final = 0.5  # a wake this much later than asked for means that this process did not run
SPARED_MAX: Final = 4  # so often a question is waited for anew by a worker that was kept from the processor
LIVED_S: Final = 10.0  # a worker that lived this long is started again at once
PAUSE_MIN_S: Final = 0.5
PAUSE_MAX_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class GuardSettings:
    """Without an answer for `stuck_s` a worker is killed; `ask_every_s` from an answer to the next question."""

    stuck_s: float = 2.0
    ask_every_s: float = 0.5


class Order(Enum):
    """What to do next."""

    WAIT = "wait"
    START = "start"
    KILL = "kill"


class Guard:
    """See the module."""

    def __init__(self, settings: GuardSettings, now_s: float) -> None:
        self._settings = settings
        self._mounted = False
        self._running = False
        self._heard_s = now_s
        self._asked_s: float | None = None
        self._started_s = now_s
        self._start_at_s = now_s
        self._pause_s = 0.0
        self._spared = 0
        self._woken_s = now_s
        self.restarts = 0

    def order(self, now_s: float) -> Order:
        if not self._running:
            return Order.START if now_s >= self._start_at_s else Order.WAIT
        return Order.KILL if self._stuck(now_s) else Order.WAIT

    def _stuck(self, now_s: float) -> bool:
        return self._mounted and self._asked_s is not None and now_s - self._heard_s >= self._settings.stuck_s

    def wake_at_s(self, now_s: float) -> float:
        """When to ask for an order again, whatever happens until then."""
        if not self._running:
            return max(now_s, self._start_at_s)
        if self._mounted and self._asked_s is not None:
            return max(now_s, self._heard_s + self._settings.stuck_s)
        return now_s + self._settings.stuck_s

    def woke(self, now_s: float, wanted_s: float) -> None:
        """After each wait, which was to end at `wanted_s` at the latest."""
        late_s = now_s - wanted_s
        if late_s > LATE_S:
            self._heard_s = now_s  # nobody listened; the worker gets its time anew

    def spare(self, now_s: float) -> bool:
        """Instead of killing it: the worker could not run, and gets its time anew. False: it has had that too often."""
        if self._spared >= SPARED_MAX:
            return False
        self._spared += 1
        self._heard_s = now_s
        return True

    # --- what happens -------------------------------------------------------------------------------

    def started(self, now_s: float) -> None:
        self._running, self._mounted, self._asked_s, self._spared = True, False, None, 0
        self._started_s = now_s

    def mounted(self, now_s: float) -> None:
        self._mounted, self._heard_s = True, now_s

    def asked(self, now_s: float) -> bool:
        """A question is on its way, or the same one again (False). Its time counts from the last answer, but the asker
        may have come late with it."""
        if self._asked_s is not None:
            return False
        self._asked_s = now_s
        self._heard_s = max(self._heard_s, now_s - self._settings.ask_every_s)
        return True

    def answered(self, now_s: float) -> None:
        self._asked_s, self._heard_s, self._spared = None, now_s, 0

    def ended(self, now_s: float) -> None:
        """The worker is gone, and was to go on."""
        self._running = self._mounted = False
        self._asked_s = None
        self.restarts += 1
        if now_s - self._started_s >= LIVED_S:
            self._pause_s = 0.0
        self._start_at_s = now_s + self._pause_s
        self._pause_s = min(PAUSE_MAX_S, max(PAUSE_MIN_S, 2 * self._pause_s))
