"""What breaks when (CH-2), and how a failing schedule is made smaller."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from chaos.scenarios import RATES, SCENARIOS, Scenario
from chaos.schedule import HEALING_S, Planned, Schedule, draw, read_schedule
from chaos.seams import ClusterUnderTest
from chaos.shrink import TRIES, shrink


@dataclass(frozen=True)
class Named:
    """A nemesis that is only ever scheduled."""

    name: str
    needs: frozenset[str] = frozenset()
    excludes: frozenset[str] = frozenset()

    async def begin(self, cluster: ClusterUnderTest, rng: random.Random) -> str:
        raise AssertionError("not run here")

    async def heal(self, cluster: ClusterUnderTest) -> None:
        raise AssertionError("not run here")

    async def probe(self, cluster: ClusterUnderTest) -> str:
        raise AssertionError("not run here")


NEMESES = {
    n.name: n
    for n in (
        Named("kill", excludes=frozenset({"processes"})),
        Named("pause", excludes=frozenset({"processes"})),
        Named("cut", needs=frozenset({"cut"}), excludes=frozenset({"network"})),
        Named("slow", needs=frozenset({"shim"}), excludes=frozenset({"disks"})),
        Named("jump", needs=frozenset({"shim"}), excludes=frozenset({"clocks"})),
    )
}
SCENARIO = Scenario("test", "for this file", duration_s=300.0)


def drawn(seed: int, features: frozenset[str] = frozenset({"cut", "shim"}), share: float = 1.0) -> Schedule:
    return draw(replace(SCENARIO, share=share), NEMESES, features, seed, 300.0)


@pytest.mark.req("CH-2")
def test_one_seed_gives_one_schedule_and_another_seed_another() -> None:
    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)


@pytest.mark.req("CH-2", "CH-4")
@pytest.mark.parametrize("seed", range(40))
def test_what_excludes_each_other_does_not_overlap_and_all_ends_in_time(seed: int) -> None:
    schedule = drawn(seed)
    assert len(schedule.faults) >= 20
    last: dict[str, float] = {}
    for fault in schedule.faults:
        assert fault.at_s + fault.for_s <= 300.0
        for kind in NEMESES[fault.nemesis].excludes:
            assert fault.at_s >= last.get(kind, -HEALING_S) + HEALING_S - 0.01
            last[kind] = fault.at_s + fault.for_s


@pytest.mark.req("CH-2")
def test_seeds_take_different_parts_of_what_there_is() -> None:
    taken = {frozenset(f.nemesis for f in drawn(seed, share=0.6).faults) for seed in range(30)}
    assert len(taken) > 5
    assert all(len(names) >= 3 for names in taken)


@pytest.mark.req("CH-4")
def test_what_the_machine_lacks_is_named_and_not_run() -> None:
    schedule = drawn(3, frozenset({"cut"}))
    assert schedule.not_run == {"slow": "needs shim", "jump": "needs shim"}
    assert {f.nemesis for f in schedule.faults} == {"kill", "pause", "cut"}
    assert not draw(replace(SCENARIO, nemeses=("slow",)), NEMESES, frozenset(), 1, 300.0).faults


def test_a_schedule_is_read_as_it_was_written(tmp_path: Path) -> None:
    drawn(5).write(tmp_path / "s.json")
    assert read_schedule(tmp_path / "s.json") == drawn(5)


def test_every_scenario_names_workloads_with_a_rate() -> None:
    for scenario in SCENARIOS.values():
        assert set(scenario.workloads) <= RATES.keys()


@pytest.mark.parametrize("guilty", [{7}, {0}, {3, 11}, {0, 15}])
async def test_shrinking_keeps_what_makes_it_fail(guilty: set[int]) -> None:
    faults = tuple(Planned(float(i), "kill", 1.0, i) for i in range(16))
    runs = 0

    async def fails(schedule: Schedule) -> bool:
        nonlocal runs
        runs += 1
        return guilty <= {f.seed for f in schedule.faults}

    smallest = await shrink(Schedule(faults, {}), fails, 400, lambda _: None)
    assert {f.seed for f in smallest.faults} == guilty
    runs = 0
    await shrink(Schedule(faults, {}), fails, 3, lambda _: None)
    assert runs <= 3, "bounded"


async def test_a_failure_that_comes_now_and_then_is_tried_again() -> None:
    faults = tuple(Planned(float(i), "kill", 1.0, i) for i in range(4))
    seen: dict[tuple[int, ...], int] = {}

    async def fails(schedule: Schedule) -> bool:
        key = tuple(f.seed for f in schedule.faults)
        seen[key] = seen.get(key, 0) + 1
        return 2 in key and seen[key] == TRIES  # not the first time

    smallest = await shrink(Schedule(faults, {}), fails, 100, lambda _: None)
    assert [f.seed for f in smallest.faults] == [2]
