"""What every torture run shares: its arguments, a cluster with mounts, and who kills what when.

Owns: `Fleet`, `Killer`, `run`. Never: judges; each run has its own checks.
A run ends with exit status 0 only if its checks passed, something was done, and every kill that was planned happened.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from tests.integration.cluster import FAST_RATE
from tests.mount.mounts import NEEDS_WORDS, LocalCluster, Mount, within

WORKSPACE = "torture"
RESTART_AFTER_S = 2.0  # a killed node is started again
# A dozen processes share this machine: elections are to be caused by the kills alone.
PATIENT = {**FAST_RATE, "raft": {"heartbeat_ms": 250, "election_min_ms": 1_500, "election_max_ms": 3_000}}
LEADER_S = 120.0


@dataclass(frozen=True, slots=True)
class Arguments:
    """`kill_every_s`: from one kill to the next; leader and worker in turn. 0: none. `options`: a run's own; '' for one
    that was not given."""

    seconds: float
    seed: int
    kill_every_s: float
    keep: bool
    options: Mapping[str, str]


def arguments(description: str, *, kill_every_s: float, options: Mapping[str, str] | None = None) -> Arguments:
    """`options`: names of a run's own, and what they are for."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--kill-every", type=float, default=kill_every_s, help="seconds between kills; 0: none")
    parser.add_argument("--keep", action="store_true", help="leave the directory of the run behind")
    for name, purpose in (options or {}).items():
        parser.add_argument(f"--{name}", default="", help=purpose)
    given = parser.parse_args()
    seed = given.seed if given.seed is not None else int.from_bytes(os.urandom(4), "big")
    print(f"seed {seed}   {given.seconds:.0f} s", flush=True)
    own = {name: getattr(given, name) for name in options or {}}
    return Arguments(given.seconds, seed, given.kill_every, given.keep, own)


class Fleet:
    """Three nodes, and mounts of one workspace as on as many hosts."""

    def __init__(self, base: Path, mounts: int) -> None:
        self.cluster = LocalCluster(base, settings=PATIENT)
        self.mounts = [Mount(self.cluster, base, WORKSPACE, f"m{i}") for i in range(mounts)]

    @contextlib.contextmanager
    def running(self) -> Iterator[Fleet]:
        with ExitStack() as stack:
            stack.enter_context(self.cluster)
            self.cluster.make_workspace(WORKSPACE)
            for mount in self.mounts:
                stack.enter_context(mount)
            yield self

    def everywhere(self, name: str) -> list[Path]:
        """A new directory, once every mount shows it."""
        self.mounts[0].path.joinpath(name).mkdir()
        paths = [mount.path / name for mount in self.mounts]
        for path in paths:
            within(path.is_dir, f"{path} is there")
        return paths

    def settle(self) -> None:
        """Until every mount has applied the same index, with nobody writing."""

        def equal() -> bool:
            roots = {os.getxattr(mount.path, "user.hypercluster.root") for mount in self.mounts}
            return len(roots) == 1

        self.cluster.leader(LEADER_S)
        within(equal, "every mount has the same tree", LEADER_S)


@dataclass(slots=True)
class Disturbance:
    """From a kill until what was killed is replaced."""

    begun_s: float
    ended_s: float = math.inf


@dataclass(slots=True)
class Killer:
    """Kills in turn the leader and the worker of one of the mounts; a killed node comes back."""

    fleet: Fleet
    rng: random.Random
    every_s: float
    disturbances: list[Disturbance] = field(default_factory=list)
    leaders: int = 0
    workers: int = 0
    problems: list[str] = field(default_factory=list)
    _over: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def __enter__(self) -> Killer:
        if self.every_s > 0:
            self._thread = threading.Thread(target=self._run, name="killer")
            self._thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._over.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        turn = 0
        while not self._over.wait(self.every_s):
            disturbance = Disturbance(time.monotonic())
            self.disturbances.append(disturbance)
            try:
                if turn % 2 == 0:
                    self._kill_worker()
                else:
                    self._kill_leader()
            except (AssertionError, OSError) as error:
                self.problems.append(f"a kill failed: {error!r}")
            disturbance.ended_s = time.monotonic()
            turn += 1

    def _kill_leader(self) -> None:
        cluster = self.fleet.cluster
        leader = cluster.leader(LEADER_S)
        cluster.cluster.kill(leader)
        self.leaders += 1
        self._over.wait(RESTART_AFTER_S)
        cluster.cluster.start(leader)
        cluster.leader(LEADER_S)

    def _kill_worker(self) -> None:
        mount = self.rng.choice(self.fleet.mounts)
        worker = within(mount.worker, "the worker answers", 30.0)
        os.kill(worker, signal.SIGKILL)
        self.workers += 1
        within(lambda: mount.worker() != worker, "another worker serves it", 30.0)


def run(given: Arguments, mounts: int, body: Callable[[Fleet, random.Random], list[str]]) -> None:
    """Runs `body`, which answers what is wrong; ends the process."""
    if NEEDS_WORDS:
        print(f"not run: {NEEDS_WORDS}")
        sys.exit(2)
    base = Path(tempfile.mkdtemp(prefix="torture-"))
    begun_s = time.monotonic()
    try:
        with Fleet(base, mounts).running() as fleet:
            problems = body(fleet, random.Random(given.seed))
    finally:
        if not given.keep:
            shutil.rmtree(base, ignore_errors=True)
    for problem in problems[:20]:
        print(f"WRONG  {problem}")
    print(f"{'FAILED' if problems else 'passed'} after {time.monotonic() - begun_s:.0f} s (seed {given.seed})")
    sys.exit(1 if problems else 0)
