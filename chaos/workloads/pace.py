"""When operations begin, and which: turns that all workers take at the same moment, and decks of operations.

Owns: the clock of turns and the drawing of cards.
Never: catches up: a worker that was held up leaves turns out, so `ops_per_s` is a bound.
Invariants: turns are counted from 0 for all workers together, so that those who take the same turn are concurrent;
every card of a deck is drawn before the deck is shuffled again.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Mapping
from typing import Generic, TypeVar

S_NS = 1_000_000_000
JITTER_NS_MAX = 2_000_000  # workers of one turn begin within it, in any order

C = TypeVar("C")


class Turns:
    """`stop` ends all waiting."""

    def __init__(self, ops_per_s: float, workers: int, stop: asyncio.Event) -> None:
        self._period_ns = int(workers * S_NS / ops_per_s)
        self._began_ns = time.monotonic_ns()
        self._stop = stop

    async def after(self, last: int, rng: random.Random) -> int | None:
        """The next turn after `last`, once it is there; None when the process is to stop."""
        late = -(-(time.monotonic_ns() - self._began_ns) // self._period_ns)
        turn = max(last + 1, late)
        jitter_ns = rng.randrange(min(JITTER_NS_MAX, self._period_ns // 4) + 1)
        await self.pause((self._began_ns + turn * self._period_ns + jitter_ns - time.monotonic_ns()) / S_NS)
        return None if self._stop.is_set() else turn

    async def pause(self, wait_s: float) -> None:
        try:
            async with asyncio.timeout(max(0.0, wait_s)):
                await self._stop.wait()
        except TimeoutError:
            pass


class Deck(Generic[C]):
    """Cards by weight. A share of each comes up soon, however short the run."""

    def __init__(self, weights: Mapping[C, int], rng: random.Random) -> None:
        self._cards = [card for card, weight in weights.items() for _ in range(weight)]
        self._rng = rng
        self._left: list[C] = []

    def draw(self) -> C:
        if not self._left:
            self._left = list(self._cards)
            self._rng.shuffle(self._left)
        return self._left.pop()
