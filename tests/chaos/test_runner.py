"""The keeping of a schedule: what a run itself says no to (CH-4)."""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import cast

import pytest

from chaos.records import Fault, read
from chaos.runner import Breaker, RunState, _broken
from chaos.schedule import Planned, Schedule
from chaos.seams import ClusterUnderTest

NO_CLUSTER = cast(ClusterUnderTest, None)  # these nemeses look at none


class Counted:
    """A nemesis that notes what it was asked, and fails where it is told to."""

    needs: frozenset[str] = frozenset()
    excludes = frozenset({"processes"})

    def __init__(self, name: str, *, begins: bool = True, heals: bool = True) -> None:
        self.name = name
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


async def keep(tmp_path: Path, first: Counted, second: Counted) -> tuple[RunState, list[tuple[str, str]]]:
    state = RunState(tmp_path)
    breaker = Breaker(NO_CLUSTER, {n.name: n for n in (first, second)}, state, lambda _: None)
    plan = Schedule((Planned(0.0, first.name, 0.01, 1), Planned(0.02, second.name, 0.01, 2)), {})
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
