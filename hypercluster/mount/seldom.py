"""Saying a thing now and then, so that a log stays readable and small.

Owns: when something was last said.
Never: says it.
Invariants: what is remembered is bounded; when it is full everything may be said once more.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable
from typing import Final

REMEMBERED_MAX: Final = 1_024


class Seldom:
    """Thread-safe. `every_s` between two times of saying the same thing."""

    def __init__(self, every_s: float, now_s: Callable[[], float] = time.monotonic) -> None:
        self._every_s = every_s
        self._now_s = now_s
        self._lock = threading.Lock()
        self._said_s: dict[Hashable, float] = {}

    def due(self, what: Hashable) -> bool:
        """True: say it now; the next time is `every_s` away."""
        now_s = self._now_s()
        with self._lock:
            said_s = self._said_s.get(what)
            if said_s is not None and now_s - said_s < self._every_s:
                return False
            if len(self._said_s) >= REMEMBERED_MAX:
                self._said_s.clear()
            self._said_s[what] = now_s
            return True
