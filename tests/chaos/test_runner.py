"""The keeping of a schedule: what a run itself says no to (CH-4)."""

from __future__ import annotations

import asyncio
import random
import time
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from chaos.load import LoadProcesses
from chaos.records import Fault, read
from chaos.runner import Breaker, RunState, _broken, _until
from chaos.schedule import Planned, Schedule
from chaos.seams import ClusterUnderTest, LoadPlan
from tests.fakes.waiting import eventually

NO_CLUSTER = cast(ClusterUnderTest, None)  # these nemeses look at none


class Counted:
    """A nemesis that notes what it was asked, and fails where it is told to."""

    needs: frozenset[str] = frozenset()

    def __init__(self, name: str, *, begins: bool = True, heals: bool = True, excludes: str = "processes") -> None:
        self.name = name
        self.excludes = frozenset({excludes})
        self.asked: list[str] = []
        self._begins = begins
        self._heals = heals

    async def begin(self, cluster: ClusterUnderTest, rng: random.Random) -> str:
        self.asked.append("begin")
        if not self._begins:
            raise OSError("no such device")
        return f"breaks {rng.randrange(100)}"

    async def heal(self, cluster: ClusterUnderTest) -> None:
        self.asked.append("heal")
        if not self._heals:
            raise OSError("still busy")

    async def probe(self, cluster: ClusterUnderTest) -> str:
        self.asked.append("probe")
        return ""


async def keep(
    tmp_path: Path, first: Counted, second: Counted, *, later_s: float = 0.02, other: Counted | None = None
) -> tuple[RunState, list[tuple[str, str]]]:
    """`other` begins at once, and lasts an hour."""
    state = RunState(tmp_path)
    breaker = Breaker(NO_CLUSTER, {n.name: n for n in (first, second, other) if n is not None}, state, lambda _: None)
    faults = [Planned(0.0, first.name, 0.01, 1), Planned(later_s, second.name, 0.01, 2)]
    if other is not None:
        faults.insert(0, Planned(0.0, other.name, 3_600.0, 3))
    plan = Schedule(tuple(faults), {})
    await breaker.keep(plan, time.monotonic())
    written = list(read(Fault, tmp_path / "faults.jsonl"))
    assert written == state.faults
    return state, [(fault.nemesis, fault.phase) for fault in written]


@pytest.mark.req("CH-4")
async def test_every_fault_is_healed_and_seen_to_be_before_the_next_of_its_kind(tmp_path: Path) -> None:
    first, second = Counted("first"), Counted("second")
    state, phases = await keep(tmp_path, first, second)
    assert phases == [("first", "begin"), ("first", "healed"), ("second", "begin"), ("second", "healed")]
    assert first.asked == second.asked == ["begin", "heal", "probe"]
    assert [(v.outcome, v.counts) for v in _broken(state)] == [("yes", {"faults": 2})]


@pytest.mark.req("CH-4")
@pytest.mark.parametrize("wrong", [{"begins": False}, {"heals": False}])
async def test_a_fault_that_does_not_begin_or_heal_is_a_no_and_the_last(tmp_path: Path, wrong: dict[str, bool]) -> None:
    first, second = Counted("first", **wrong), Counted("second")
    state, phases = await keep(tmp_path, first, second)
    assert ("first", "broken") in phases
    assert "heal" in first.asked, "also what could not be begun"
    assert second.asked == []
    assert state.is_lost
    assert [v.outcome for v in _broken(state)] == ["no"]


@pytest.mark.req("CH-4")
@pytest.mark.parametrize("wrong", [{"begins": False}, {"heals": False}])
async def test_a_lost_run_ends_at_once(tmp_path: Path, wrong: dict[str, bool]) -> None:
    """What was planned for an hour from now does not begin, and what was to last as long is healed."""
    first, second, other = Counted("first", **wrong), Counted("second"), Counted("other", excludes="network")
    async with asyncio.timeout(20):
        _, phases = await keep(tmp_path, first, second, later_s=3_600.0, other=other)
    assert ("first", "broken") in phases
    assert ("other", "healed") in phases
    assert second.asked == []


@pytest.mark.req("CH-4")
async def test_a_workload_that_ends_by_itself_loses_the_run_and_what_was_broken_is_healed(tmp_path: Path) -> None:
    """Its process is started for real, and ends at once: there is no such workload."""
    cluster = cast(ClusterUnderTest, SimpleNamespace(directory=tmp_path, client_prefix=()))
    load = LoadProcesses(cluster)
    state, other = RunState(tmp_path), Counted("other")
    breaker = Breaker(cluster, {"other": other}, state, lambda _: None)
    load.start(LoadPlan("nonsense", 1, "client.toml", str(tmp_path / "nonsense.jsonl"), 1, 1.0))
    try:
        async with asyncio.timeout(60):
            keeping = asyncio.create_task(
                breaker.keep(Schedule((Planned(0.0, "other", 3_600.0, 1),), {}), time.monotonic())
            )
            await eventually(lambda: other.asked, "a fault has begun")
            await asyncio.gather(keeping, _until(time.monotonic() + 3_600.0, load, state, lambda _: None))
    finally:
        load.kill()
    assert other.asked == ["begin", "heal", "probe"]
    (verdict,) = _broken(state)
    assert verdict.outcome == "no" and "workload nonsense ended with 2" in verdict.evidence[0]
