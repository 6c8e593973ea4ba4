"""Killed at every named point, then opened again (CH-7). The list of points is crash_points.py.

The drivers that need one process run over the whole list in the ordinary suite, each point at one call that the seed
draws; the long tests take more calls, and real clusters. The last test holds the list against the record of hits.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import signal
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pytest

from tests.crash.crash_drivers import DRIVERS, until_killed
from tests.crash.crash_points import CRASH_POINTS, IN_PROCESS, CrashPoint, hit_so_far, resolve
from tests.fakes.memory_directory import memory_directory

SEED = int(os.environ.get("HYPERCLUSTER_CRASH_SEED", "1"))
DEADLINE_S = 15.0
CALLS = (1, 2, 5)
# Each process is forked from one that has everything imported and nothing opened: no start-up for each kill.
_fork = multiprocessing.get_context("forkserver")
_fork.set_forkserver_preload(["tests.crash.crash_drivers"])


def points_of(driver: str) -> list[CrashPoint]:
    return [point for point in CRASH_POINTS if driver in point.drivers]


@pytest.fixture(scope="session")
def hits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Names of points that killed a process of this session."""
    return tmp_path_factory.mktemp("crash") / "hits"


@pytest.fixture
def quick_path(tmp_path: Path) -> Iterator[Path]:
    with memory_directory(tmp_path) as path:
        yield path


def kill_and_check(driver: str, directory: Path, seed: int, point: CrashPoint, call: int, hits: Path) -> None:
    directory.mkdir()
    child = _fork.Process(target=until_killed, args=(driver, directory, seed, point, call, hits))
    child.start()
    child.join(DEADLINE_S)
    if child.exitcode is None:
        child.kill()
        child.join()
        raise AssertionError(f"{point} was not reached a {call}. time within {DEADLINE_S} s")
    assert child.exitcode == -signal.SIGKILL, f"{point}: ended with {child.exitcode}"
    assert point.name in hit_so_far(hits)
    told = (directory / "told").read_bytes().split(b"\n")[:-1]  # what ends in no line end was never told
    DRIVERS[driver].check(directory, [line.decode() for line in told])


def test_every_point_is_a_function_that_is_there() -> None:
    for point in CRASH_POINTS:
        resolve(point)
        assert point.drivers, f"{point}: nothing comes past it"
    assert len({point.name for point in CRASH_POINTS}) == len(CRASH_POINTS)


def kill_at(driver: str, points: Iterable[CrashPoint], calls: Sequence[int], path: Path, hits: Path, seed: int) -> None:
    rng = random.Random(f"{seed} {driver}")
    for point in points:
        for call in point.within(driver, calls or [rng.choice((1, 1, 2, 3))]):
            work_seed = rng.randrange(1 << 30)
            print(f"{point}, call {call}, seed {work_seed}")
            directory = path / f"{point}-{call}"
            kill_and_check(driver, directory, work_seed, point, call, hits)
            shutil.rmtree(directory)


@pytest.mark.req("CH-7")
@pytest.mark.parametrize("driver", IN_PROCESS)
def test_a_kill_at_each_place_leaves_what_was_promised(quick_path: Path, hits: Path, driver: str) -> None:
    """Before or after, and at which of the first calls, is drawn."""
    print(f"seed {SEED}")
    rng = random.Random(f"{SEED} moments of {driver}")
    drawn = {point.place: point for point in rng.sample(points_of(driver), len(points_of(driver)))}
    kill_at(driver, [drawn[place] for place in sorted(drawn)], (), quick_path, hits, SEED)


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.req("CH-7")
@pytest.mark.parametrize("driver", IN_PROCESS)
def test_kills_at_every_point_and_several_calls(quick_path: Path, hits: Path, driver: str) -> None:
    print(f"seed {SEED}")
    kill_at(driver, points_of(driver), CALLS, quick_path, hits, SEED)
