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

from hypercluster.errors import FatalError, WrongDirectoryError
from tests.crash.crash_cluster import CrashCluster, make_cluster, rejoin_killed_at
from tests.crash.crash_drivers import DRIVERS, until_killed
from tests.crash.crash_points import (
    BY_NAME,
    CRASH_POINTS,
    DIRECTORY,
    IN_CLUSTER,
    IN_PROCESS,
    INSTALL,
    LIVE,
    LOG,
    MEMBERS,
    MIRROR,
    NODE,
    REJOIN,
    RETENTION,
    STORAGE,
    CrashPoint,
    hit_so_far,
    resolve,
)
from tests.crash.load import Load
from tests.fakes.memory_directory import memory_directory
from tests.integration.operating import becomes_voter, rejoin, same_state
from tests.integration.test_three_nodes import write_until_acknowledged

SEED = int(os.environ.get("HYPERCLUSTER_CRASH_SEED", "1"))
DEADLINE_S = 60.0  # a process that has few of the machine's turns gets there, too
CALLS = (1, 2, 5)
SOME_PLACES = {RETENTION: 5, MIRROR: 6, LIVE: 3}  # in the ordinary suite; of other drivers all
NODE_CALLS = (1, 4)
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


def kill_and_check(
    driver: str, directory: Path, seed: int, point: CrashPoint, call: int, hits: Path, defect: str = ""
) -> None:
    directory.mkdir()
    child = _fork.Process(target=until_killed, args=(driver, directory, seed, point, call, hits, defect))
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
    """Before or after, and at which of the first calls, is drawn; of drivers that take their time, some places."""
    print(f"seed {SEED}")
    rng = random.Random(f"{SEED} moments of {driver}")
    drawn = {point.place: point for point in rng.sample(points_of(driver), len(points_of(driver)))}
    places = rng.sample(sorted(drawn), SOME_PLACES.get(driver, len(drawn)))
    kill_at(driver, [drawn[place] for place in sorted(places)], (), quick_path, hits, SEED)


@pytest.mark.req("CH-7", "CH-10")
@pytest.mark.parametrize(
    ("driver", "defect", "place", "words"),
    [
        (LOG, "writes_late", "wal-append.before", "was committed|cut off|damaged"),
        (STORAGE, "flushes_some_families", "state-flush-begin.after", "families at different indexes"),
        (INSTALL, "forgets_its_plan_early", "install-new-state.before", "with no plan of an install"),
        (DIRECTORY, "writes_in_place", "disk-write.half", "is damaged"),
        (REJOIN, "deletes_what_was_there", "rejoin-aside.after", "aside-1"),
        (RETENTION, "joins_by_replacing", "archive-unlink.after", "records are gone|are not the log"),
        (MIRROR, "keeps_no_plan", "mirror-place.before", "opened again|accepted and is refused|follows"),
        (LIVE, "counts_half_a_tree", "live-flush.after", "lack their places"),
    ],
)
def test_a_defect_is_found(quick_path: Path, hits: Path, driver: str, defect: str, place: str, words: str) -> None:
    """The known-bad builds: within a few kills at one point."""
    rng = random.Random(f"{SEED} {defect}")

    def kill_until_found() -> None:
        for call in range(1, 25):
            kill_and_check(driver, quick_path / f"{call}", rng.randrange(1 << 30), BY_NAME[place], call, hits, defect)

    with pytest.raises((AssertionError, FatalError, WrongDirectoryError), match=words):
        kill_until_found()


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.req("CH-7")
@pytest.mark.parametrize("driver", IN_PROCESS)
def test_kills_at_every_point_and_several_calls(quick_path: Path, hits: Path, driver: str) -> None:
    print(f"seed {SEED}")
    kill_at(driver, points_of(driver), CALLS, quick_path, hits, SEED)


# --- whole nodes --------------------------------------------------------------------------------------------------


async def kill_nodes_at(path: Path, hits: Path, seed: int, rounds: Iterable[tuple[str, CrashPoint, int]]) -> None:
    async with make_cluster(path) as cluster:
        load = Load(cluster.client_settings(), path, seed, clients=2)
        try:
            await load.start()
            crashes = CrashCluster(cluster, load, hits, seed)
            for driver, point, call in rounds:
                await crashes.kill_at(driver, point, call)
            found = await crashes.verdict()
        finally:
            await load.stop(0)
    print("\n".join(found.lines()))
    assert found.holds


@pytest.mark.req("CH-7")
async def test_nodes_killed_at_some_points_lose_nothing(tmp_path: Path, hits: Path) -> None:
    print(f"seed {SEED}")
    rng = random.Random(f"{SEED} nodes")
    rounds = [(driver, rng.choice(points_of(driver)), 1) for driver in (NODE, NODE, MEMBERS)]
    await kill_nodes_at(tmp_path, hits, SEED, rounds)


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.req("CH-7")
@pytest.mark.parametrize("driver", IN_CLUSTER)
async def test_nodes_killed_at_every_point_lose_nothing(tmp_path: Path, hits: Path, driver: str) -> None:
    print(f"seed {SEED}")
    points = points_of(driver)
    rounds = [(driver, point, call) for point in points for call in point.within(driver, NODE_CALLS)]
    random.Random(SEED).shuffle(rounds)
    await kill_nodes_at(tmp_path, hits, SEED, rounds)


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.req("CH-7", "CL-15")
async def test_a_rejoin_killed_at_every_point_is_run_again(tmp_path: Path, hits: Path) -> None:
    """Against a cluster: whichever step was interrupted, the same command leads to a voter that counts."""
    async with make_cluster(tmp_path) as cluster:
        await write_until_acknowledged(cluster, 1, 1, "before", '"1"')
        for number, point in enumerate(point for point in points_of(REJOIN) if point.place.startswith("rejoin-")):
            victim = sorted(set(cluster.plans) - {await cluster.leader()})[number % 2]
            cluster.kill(victim)
            await rejoin_killed_at(cluster, victim, point, hits)
            done = await rejoin(cluster, victim)
            cluster.start(victim)
            await becomes_voter(cluster, victim, done["incarnation"])
            await write_until_acknowledged(cluster, 1, number + 2, f"after {number}", '"1"')
            await same_state(cluster)


@pytest.mark.long
@pytest.mark.req("CH-7")
def test_every_point_was_hit(hits: Path, request: pytest.FixtureRequest) -> None:
    """Of this session, so it comes last; a part of the tests above proves nothing of the whole list."""
    wanted = {"test_kills_at_every_point_and_several_calls": IN_PROCESS}
    wanted["test_nodes_killed_at_every_point_lose_nothing"] = IN_CLUSTER
    ran = {item.name for item in request.session.items}
    lacking = [f"{name}[{driver}]" for name, drivers in wanted.items() for driver in drivers]
    if missing := [name for name in lacking if name not in ran]:
        pytest.skip(f"not run: needs {', '.join(missing)} in the same session")
    assert {point.name for point in CRASH_POINTS} - hit_so_far(hits) == set()
