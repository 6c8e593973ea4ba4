"""Whether processes were kept from the processor: what the kernel's scheduler says of their threads (WS-65).

Owns: `times_of` and `starved`, over /proc/PID/task.
Never: decides what follows; the guard does.
Invariants: a process that sleeps, is stopped or waits for a disk is never starved, however busy the host is: only time
in which one of its threads could have run and was not let counts. What can not be read (the process is gone, a kernel
without scheduler statistics) counts as not starved.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

PROC: Final = Path("/proc")
NS_PER_S: Final = 1_000_000_000
SHARE: Final = 0.5  # of a period, from which on it counts


@dataclass(frozen=True, slots=True)
class ThreadTime:
    """`waited_ns`: for a processor, in turns that have come since; a turn still waited for is not in it, but the thread
    is `runnable` then. One that runs is, too."""

    ran_ns: int
    waited_ns: int
    runnable: bool


Times = Mapping[int, ThreadTime]  # by thread id


def times_of(*processes: int) -> dict[int, ThreadTime]:
    """Of all their threads. Those that end meanwhile are left out."""
    found: dict[int, ThreadTime] = {}
    for process in processes:
        try:
            threads = list((PROC / str(process) / "task").iterdir())
        except OSError:
            continue
        for thread in threads:
            try:
                ran, waited, _turns = (thread / "schedstat").read_text().split()
                state = (thread / "stat").read_text().rpartition(")")[2].split()[0]
            except (OSError, ValueError, IndexError):
                continue
            found[int(thread.name)] = ThreadTime(int(ran), int(waited), state == "R")
    return found


def starved(before: Times, now: Times, period_s: float) -> bool:
    """Whether threads waited for a processor for a good part of the period between the two, or wait for it now and have
    hardly run."""
    none = ThreadTime(0, 0, runnable=False)
    waited_ns = sum(time.waited_ns - before.get(thread, none).waited_ns for thread, time in now.items())
    ran_ns = sum(time.ran_ns - before.get(thread, none).ran_ns for thread, time in now.items())
    enough_ns = SHARE * period_s * NS_PER_S
    return waited_ns >= enough_ns or (ran_ns < enough_ns and any(time.runnable for time in now.values()))
