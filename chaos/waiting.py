"""Waiting for something to become so, with an end.

Owns: `until`. Never: waits without a deadline.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

PAUSE_S = 0.1


async def until(condition: Callable[[], object], deadline_s: float, pause_s: float = PAUSE_S) -> bool:
    """Whether `condition` held before `deadline_s` seconds had passed."""
    end_s = time.monotonic() + deadline_s
    while True:
        if condition():
            return True
        if time.monotonic() >= end_s:
            return False
        await asyncio.sleep(pause_s)
