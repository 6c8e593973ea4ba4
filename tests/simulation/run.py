"""Runs the simulation over many seeds: `python -m tests.simulation.run --seeds 3000`, or `--seed 17` for one.

A failing seed prints what broke and the one command that replays it. With `--jobs 2` seeds are shared between
processes; a line every 30 s says how far it is.
"""

from __future__ import annotations

import argparse
import gc
import logging
import multiprocessing
import os
import sys
import time
from dataclasses import asdict

from hypercluster.errors import FatalError
from tests.simulation.drawing import draw
from tests.simulation.invariants import ViolationError
from tests.simulation.world import Summary, World

LOCKS = ("grants", "permits", "guarded", "fenced", "reclaims", "opens", "reaped")
SUMMED = ("invoked", "ok", "refused", "unknown", "not_done", "faults", "reads", "terms", "entries", "checks", *LOCKS)


def run_seed(seed: int, nodes: int = 0, operations: int = 0) -> Summary | str:
    """A summary, or what was violated."""
    logging.disable(logging.CRITICAL)
    try:
        return World(draw(seed, nodes=nodes, operations=operations)).run()
    except ViolationError as violation:
        return f"{violation}"
    except FatalError as error:
        return f"a node can not start: {type(error).__name__}: {error}"
    finally:
        if not gc.isenabled():
            gc.collect()


def prepare() -> None:
    """Of a process that runs seeds and nothing else. What the imports made stays: it is looked at no more. What a seed
    makes is let go together, after it (`run_seed`), instead of being looked at again and again while it is in use."""
    gc.collect()
    gc.freeze()
    gc.disable()


def _work(argument: tuple[int, int, int]) -> tuple[int, Summary | str]:
    seed, nodes, operations = argument
    return seed, run_seed(seed, nodes, operations)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=300)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--nodes", type=int, default=0, help="3 or 5; drawn when 0")
    parser.add_argument("--operations", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    if options.seed is not None:
        began = time.monotonic()
        found = run_seed(options.seed, options.nodes, options.operations)
        if isinstance(found, str):
            print(f"seed {options.seed}: VIOLATION {found}")
            return 1
        print("\n".join(f"{key:24} {value}" for key, value in asdict(found).items()))
        print(f"{'real seconds':24} {time.monotonic() - began:.2f}")
        return 0
    return run_many(range(options.first, options.first + options.seeds), options)


def run_many(seeds: range, options: argparse.Namespace) -> int:
    began = told = time.monotonic()
    total = Summary(-1)
    failed: list[tuple[int, str]] = []
    names: dict[str, int] = {}
    with multiprocessing.get_context("spawn").Pool(options.jobs, initializer=prepare) as pool:
        work = ((seed, options.nodes, options.operations) for seed in seeds)
        for done, (seed, found) in enumerate(pool.imap_unordered(_work, work, chunksize=2), 1):
            if isinstance(found, str):
                failed.append((seed, found))
                print(f"seed {seed}: VIOLATION {found}\n  replay: make sim SEED={seed}", flush=True)
            else:
                for key in SUMMED:
                    setattr(total, key, getattr(total, key) + getattr(found, key))
                for name, count in found.faults_by_name.items():
                    names[name] = names.get(name, 0) + count
            if time.monotonic() - told > 30:
                told = time.monotonic()
                print(f"{done}/{len(seeds)} seeds, {len(failed)} failed, {told - began:.0f} s", flush=True)
    elapsed = time.monotonic() - began
    held = len(seeds) - len(failed)
    print(
        f"{len(seeds)} seeds (from {seeds.start}), {held} held, {len(failed)} failed, {elapsed:.0f} s; "
        f"operations {total.invoked} (ok {total.ok}, refused {total.refused}, unknown {total.unknown}, "
        f"not done {total.not_done}), reads {total.reads}, faults {total.faults}, terms {total.terms}, "
        f"entries {total.entries}, checks {total.checks}"
    )
    print("locks: " + ", ".join(f"{name} {getattr(total, name)}" for name in LOCKS))
    if held:
        print(f"per seed: {total.invoked / held:.0f} operations, {total.faults / held:.1f} faults")
    print("faults: " + ", ".join(f"{name} {count}" for name, count in sorted(names.items())))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
