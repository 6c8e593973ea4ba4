"""A few hundred short simulated runs, and the promises of the simulation itself (CH-1 to CH-3)."""

from __future__ import annotations

import multiprocessing
import os
import re
import subprocess
import sys

import pytest

from tests.simulation.drawing import draw
from tests.simulation.known_bad import DEFECTS
from tests.simulation.run import prepare, run_seed
from tests.simulation.world import Summary

FIRST = int(os.environ.get("SIM_FIRST", "100000"))
SEEDS = int(os.environ.get("SIM_SEEDS", "300"))
OPERATIONS = 300
DRAWN = {seed: draw(seed) for seed in range(120)}
LOCK_SEEDS = [seed for seed, drawn in DRAWN.items() if drawn.lock_clients][:12]
TAKING = [seed for seed, drawn in DRAWN.items() if drawn.takes_over][:12]
OPENING = [seed for seed, drawn in DRAWN.items() if drawn.tuning.opens][:12]
PERMITTING = [seed for seed, drawn in DRAWN.items() if drawn.semaphores][:12]


def _short(seed: int) -> tuple[int, Summary | str]:
    return seed, run_seed(seed, operations=OPERATIONS)


@pytest.mark.req("CH-1", "CH-2", "CH-3", "CL-2", "CL-5", "CL-10", "CL-11", "D-7", "D-8", "D-11")
@pytest.mark.timeout(400)
def test_short_runs_hold() -> None:
    print(f"seeds {FIRST} to {FIRST + SEEDS - 1}; SIM_FIRST and SIM_SEEDS choose others")
    with multiprocessing.get_context("spawn").Pool(os.cpu_count(), initializer=prepare) as pool:
        found = dict(pool.imap_unordered(_short, range(FIRST, FIRST + SEEDS), chunksize=4))
    broken = {seed: text for seed, text in found.items() if isinstance(text, str)}
    assert not broken, f"replay with: python -m tests.simulation.run --operations {OPERATIONS} --seed {min(broken)}"
    held = [summary for summary in found.values() if isinstance(summary, Summary)]
    assert sum(s.ok for s in held) > 0.7 * sum(s.invoked for s in held), "most operations must succeed"
    assert sum(s.faults for s in held) > SEEDS, "the faults must really happen"
    assert sum(s.reads for s in held) > SEEDS
    assert sum(s.guarded for s in held) > SEEDS, "locks must be held and written under"
    assert sum(s.fenced for s in held) >= SEEDS // 60, "and lost"
    assert sum(s.reclaims for s in held) >= SEEDS // 60, "and taken over"
    assert sum(s.permits for s in held) >= SEEDS // 30, "semaphores among them"
    assert sum(s.opens for s in held) > SEEDS // 10, "files must be held open"
    assert sum(s.reaped for s in held) >= SEEDS // 60, "and end"


@pytest.mark.req("CH-3", "CH-10", "WS-41", "D-10")
@pytest.mark.parametrize(
    ("name", "seeds", "words"),
    [
        ("no fencing", LOCK_SEEDS, "an old token wrote"),
        ("no grace", LOCK_SEEDS, "counts on it"),
        ("tokens reused", LOCK_SEEDS, "token fell"),
        ("granted while held", LOCK_SEEDS, "two|broken"),
        ("one permit too many", PERMITTING, "two|broken"),
        ("takeovers from whoever is there", TAKING, "counts on it"),
        ("open leases end with their leader", OPENING, "an open lease ended while"),
    ],
)
def test_broken_locks_are_seen_within_twelve_seeds(name: str, seeds: list[int], words: str) -> None:
    with DEFECTS[name]():
        texts = (run_seed(seed, operations=OPERATIONS) for seed in seeds)
        found = next((text for text in texts if isinstance(text, str)), "nothing")
    assert re.search(words, found), found


@pytest.mark.req("CH-1")
def test_one_seed_one_trace_in_any_process() -> None:
    traces = set()
    for hash_seed in ("1", "2"):
        out = subprocess.run(
            [sys.executable, "-m", "tests.simulation.run", "--seed", "7", "--operations", "300"],
            env=dict(os.environ, PYTHONHASHSEED=hash_seed),
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        traces.add(next(line for line in out.splitlines() if line.startswith("trace")))
    assert len(traces) == 1
