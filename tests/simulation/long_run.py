"""The long run: `python -m tests.simulation.long_run --seed 1 [--hours 24]` (CH-11).

200 workers on three voters and four learners for a day of virtual time, with faults of nodes and of workers. One seed
decides everything; a run that does not hold says what was violated and how to see it again.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from unittest.mock import patch

from hypercluster import limits
from hypercluster.errors import FatalError
from tests.simulation.invariants import ViolationError
from tests.simulation.long_world import WATCH_EVENTS_MAX, WORKERS, LongSummary, LongWorld, draw_long

FAULT_EVERY_S = 300.0
FAULT_EVERY_SHORT_S = 45.0
SHORT_H = 2.0


@contextlib.contextmanager
def _small_queues() -> Iterator[None]:
    with patch.object(limits, "WATCH_QUEUE_EVENTS_MAX", WATCH_EVENTS_MAX):
        yield


def run_long(seed: int, hours: float, workers: int = WORKERS) -> LongSummary | str:
    """A summary, or what was violated."""
    logging.disable(logging.CRITICAL)
    every_s = FAULT_EVERY_S if hours >= SHORT_H else FAULT_EVERY_SHORT_S
    try:
        with _small_queues():
            return LongWorld(draw_long(seed, hours, every_s), workers).run_long()
    except ViolationError as violation:
        return f"{violation}"
    except FatalError as error:
        return f"a node can not start: {type(error).__name__}: {error}"
    finally:
        logging.disable(logging.NOTSET)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--hours", type=float, default=24.0)
    parser.add_argument("--workers", type=int, default=WORKERS)
    options = parser.parse_args()
    began = time.process_time()
    found = run_long(options.seed, options.hours, options.workers)
    if isinstance(found, str):
        again = f"python -m tests.simulation.long_run --seed {options.seed} --hours {options.hours:g}"
        print(f"seed {options.seed}: VIOLATION {found}\n  again: {again} --workers {options.workers}")
        return 1
    told = asdict(found)
    run = told.pop("run")
    for key, value in {**told, **run}.items():
        print(f"{key:24} {value}")
    print(f"{'CPU seconds':24} {time.process_time() - began:.0f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
