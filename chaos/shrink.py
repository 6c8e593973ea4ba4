"""A smaller run that still fails: fewer faults, found by leaving some out and running again.

Owns: `shrink`, delta debugging over the faults of a schedule (Zeller and Hildebrandt, "Simplifying and isolating
failure-inducing input", 2002), with a bound on the number of runs.
Never: believes a single run that held: real processes do not repeat exactly, so each candidate gets TRIES runs.
Invariants: what is returned was seen to fail; the one it was given is returned when nothing smaller was.
"""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable

from chaos.schedule import Schedule

TRIES = 2

Fails = Callable[[Schedule], Awaitable[bool]]


async def shrink(schedule: Schedule, fails: Fails, runs_max: int, tell: Callable[[str], None]) -> Schedule:
    """`fails` makes one run with the schedule and says whether it failed."""
    left = runs_max

    async def still_fails(candidate: Schedule) -> bool:
        nonlocal left
        for _ in range(TRIES):
            if left <= 0:
                return False
            left -= 1
            if await fails(candidate):
                tell(f"{len(candidate.faults)} faults: still fails ({left} runs left)")
                return True
        tell(f"{len(candidate.faults)} faults: held ({left} runs left)")
        return False

    parts = 2
    while left > 0 and len(schedule.faults) > 1:
        count = len(schedule.faults)
        parts = min(parts, count)
        bounds = [count * part // parts for part in range(parts + 1)]
        for low, high in itertools.pairwise(bounds):
            candidate = schedule.without(range(low, high))
            if await still_fails(candidate):
                schedule, parts = candidate, max(parts - 1, 2)
                break
        else:
            if parts == count:
                break
            parts = min(2 * parts, count)
    return schedule
