"""Shows that the simulation says no: every known-bad build is found, and after how many seeds (CH-10).

`python -m tests.simulation.known_bad` prints a line a defect; `--only "dedupe off"` one of them.
A known-bad build is a patch of this process (tests/known_bad); the product has no setting that does it.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial

import pytest

from tests.known_bad.ablations import ablate
from tests.known_bad.dedupe_off import dedupe_off
from tests.known_bad.eager_leases import BUILDS as LEASE_BUILDS
from tests.known_bad.eager_leases import OPEN_BUILDS
from tests.known_bad.lock_builds import BUILDS as LOCK_BUILDS
from tests.simulation.run import prepare, run_seed


@contextmanager
def _locks(name: str) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        LOCK_BUILDS[name](patch.setattr)
        yield


DEFECTS: dict[str, Callable[[], AbstractContextManager[None]]] = {
    "ack before sync": partial(ablate, "DUR"),
    "leader counts itself before its sync": partial(ablate, "DUR-leader"),
    "acks released by an earlier sync": partial(ablate, "DUR-next-sync"),
    "truncation as the library does it": partial(ablate, "S1"),
    "termless acks": partial(ablate, "S2"),
    "commit beyond what was verified": partial(ablate, "S3"),
    "journal wiped at start": partial(ablate, "S9"),
    "two votes in a term": partial(ablate, "VOTE"),
    "reads without a round": partial(ablate, "READ"),
    "a wiped voter votes": partial(ablate, "AMN"),
    "dedupe off": dedupe_off,
    "no fencing": partial(_locks, "no_fencing"),
    "no grace": partial(_locks, "no_grace"),
    "tokens reused": partial(_locks, "tokens_reused"),
    "granted while held": partial(_locks, "granted_while_held"),
    "tokens forgotten by a restart": partial(_locks, "tokens_forgotten_by_a_restart"),
    "expiries without guards": partial(_locks, "steps_without_guards"),
    "one permit too many": partial(_locks, "one_permit_too_many"),
    "takeovers from whoever is there": LEASE_BUILDS["hasty_reclaim"],
    "open leases end with their leader": OPEN_BUILDS["hasty_ends"],
    "renewals without a verdict": LEASE_BUILDS["renew_without_verdict"],
    "renewals without a round": LEASE_BUILDS["renew_without_round"],
}
# Random search reaches these rarely or never; a directed test does (docs/raft-engine.md).
DIRECTED = {
    "termless acks": "tests/unit/raft/test_replication.py",
    "leader counts itself before its sync": "tests/unit/raft/test_durability.py",
    "reads without a round": "tests/unit/raft/test_reads_and_digests.py",
    "a wiped voter votes": "tests/unit/raft/test_membership.py",
    "expiries without guards": "tests/known_bad/test_locks_known_bad.py",
    "renewals without a verdict": "tests/properties/test_leases.py",
    "renewals without a round": "tests/properties/test_leases.py",
}


def _try(argument: tuple[str, int, int]) -> tuple[int, str]:
    """(seed, '' or what was found)."""
    name, seed, operations = argument
    with DEFECTS[name]():
        found = run_seed(seed, operations=operations)
    return seed, found if isinstance(found, str) else ""


def seeds_to_find(name: str, seeds: int, operations: int, jobs: int) -> tuple[int, str]:
    """How many seeds it took, counted in seed order (0: not found), and what was violated."""
    with multiprocessing.get_context("spawn").Pool(jobs, initializer=prepare) as pool:
        for count, (_, found) in enumerate(pool.imap(_try, ((name, seed, operations) for seed in range(seeds))), 1):
            if found:
                return count, found
    return 0, ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=400)
    parser.add_argument("--operations", type=int, default=600)
    parser.add_argument("--only")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    missed = 0
    for name in [options.only] if options.only else DEFECTS:
        began = time.monotonic()
        count, found = seeds_to_find(name, options.seeds, options.operations, options.jobs)
        if count:
            words = f"found at seed {count} of {options.seeds}: {found[:100]}"
        elif name in DIRECTED:
            words = f"not in {options.seeds} seeds; found by the directed test {DIRECTED[name]}"
        else:
            words, missed = f"NOT FOUND in {options.seeds} seeds", missed + 1
        print(f"{name:38} {words} ({time.monotonic() - began:.0f} s)", flush=True)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
