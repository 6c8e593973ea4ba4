"""Random schedules of the engine alone: three and five nodes, checkpoints, members that come and go, faulty disks.

A failing seed prints the one command that replays it. HYPERCLUSTER_EXPLORER_SEEDS raises the number of seeds a kind,
HYPERCLUSTER_EXPLORER_FIRST sets the first; the long test covers more of both.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator

import pytest

from tests.engine_world.explorer import Explorer, Tally, Violation
from tests.known_bad.ablations import ablate

FIRST = int(os.environ.get("HYPERCLUSTER_EXPLORER_FIRST", "0"))
SEEDS = int(os.environ.get("HYPERCLUSTER_EXPLORER_SEEDS", "32"))
STEPS = 700
KINDS = ("plain-3", "plain-5", "checkpoints-3", "checkpoints-5", "members-3", "members-5")


def explorer(kind: str, seed: int) -> Explorer:
    what, size = kind.split("-")
    names = "abcde" if size == "5" or what == "members" else "abc"
    return Explorer(
        seed,
        names=names,
        voters=names[: int(size)],
        snapshots=what != "plain",
        changes=what == "members",
    )


def explore(kind: str, seeds: range, steps: int) -> Tally:
    total = Tally()
    for seed in seeds:
        try:
            total.add(explorer(kind, seed).run(steps))
        except (Violation, AssertionError) as broken:
            replay = f"HYPERCLUSTER_EXPLORER_FIRST={seed} HYPERCLUSTER_EXPLORER_SEEDS=1"
            pytest.fail(f"seed {seed}: {broken}\nreplay: {replay} pytest {__file__} -k {kind}", pytrace=False)
    print(f"{kind}: seeds {seeds.start} to {seeds.stop - 1}: {total}")
    return total


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logger = logging.getLogger("hypercluster.raft")
    before = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    yield
    logger.setLevel(before)


@pytest.mark.req("CH-1", "CH-2", "CH-3", "CL-1", "CL-5")
@pytest.mark.parametrize("kind", KINDS)
def test_no_schedule_breaks_an_invariant(kind: str) -> None:
    total = explore(kind, range(FIRST, FIRST + SEEDS), STEPS)
    if SEEDS >= 20:  # a run in which something never happened shows nothing
        assert total.acknowledged > 10 * SEEDS
        assert total.crashes > SEEDS / 2
        assert total.reads > SEEDS
        assert total.elections > SEEDS
        assert total.checkpoints_installed > 0 or kind.startswith("plain")
        assert total.changes > 0 or not kind.startswith("members")


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.req("CH-1", "CH-2", "CH-3")
@pytest.mark.parametrize("kind", KINDS)
def test_many_schedules_break_no_invariant(kind: str) -> None:
    explore(kind, range(100_000, 101_000), 1000)


@pytest.mark.req("CH-10")
@pytest.mark.parametrize(
    ("name", "kind", "seeds_max"),
    [
        ("DUR", "plain-3", 5),
        ("DUR-next-sync", "plain-3", 20),
        ("VOTE", "plain-5", 20),
        ("S1", "plain-3", 20),
        ("S3", "plain-3", 60),
    ],
)
def test_a_known_bad_build_is_found(name: str, kind: str, seeds_max: int) -> None:
    with ablate(name):
        for seed in range(seeds_max):
            try:
                explorer(kind, seed).run(STEPS)
            except Violation as broken:
                print(f"{name}: found by seed {seed} of {kind}: {broken}")
                return
    pytest.fail(f"{name} was not found by {seeds_max} seeds of {kind}")
