"""Waiting for a condition with a deadline; nothing in a test sleeps a fixed time and hopes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable


async def eventually(condition: Callable[[], object], what: str, deadline_s: float = 20.0) -> None:
    """Polls until `condition()` holds. Fails naming `what`."""
    end = time.monotonic() + deadline_s
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"not within {deadline_s} s: {what}")
        await asyncio.sleep(0.005)


async def never(condition: Callable[[], object], what: str, span_s: float) -> None:
    """Watches for `span_s` that `condition()` does not come to hold."""
    end = time.monotonic() + span_s
    while time.monotonic() < end:
        if condition():
            raise AssertionError(f"happened: {what}")
        await asyncio.sleep(0.005)
