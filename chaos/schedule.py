"""What breaks when: drawn from the seed before anything starts.

Owns: `Planned`, `Schedule`, `draw`.
Never: names nodes; a nemesis draws those when it begins, with the seed it was given here.
Invariants: the same scenario, seed and features give the same schedule; two faults that exclude each other never
overlap; the last one ends before the run does.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from chaos.scenarios import ALL, Scenario
from chaos.seams import Nemesis

HEALING_S = 4.0  # what a nemesis that excludes this one may still need after its end


@dataclass(frozen=True, slots=True)
class Planned:
    """One fault: from `at_s` after the start, for `for_s`."""

    at_s: float
    nemesis: str
    for_s: float
    seed: int


@dataclass(frozen=True, slots=True)
class Schedule:
    """`not_run` names what this machine lacks, by nemesis."""

    faults: tuple[Planned, ...]
    not_run: Mapping[str, str]

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")

    def without(self, dropped: Iterable[int]) -> Schedule:
        """The same without the faults at these places."""
        gone = set(dropped)
        return Schedule(tuple(f for i, f in enumerate(self.faults) if i not in gone), self.not_run)


def read_schedule(path: Path) -> Schedule:
    values = json.loads(path.read_text(encoding="utf-8"))
    return Schedule(tuple(Planned(**fault) for fault in values["faults"]), values["not_run"])


def wanted(scenario: Scenario, nemeses: Mapping[str, Nemesis]) -> list[Nemesis]:
    names = sorted(nemeses) if scenario.nemeses == ALL else scenario.nemeses
    return [nemeses[name] for name in names]


def draw(
    scenario: Scenario, nemeses: Mapping[str, Nemesis], features: frozenset[str], seed: int, duration_s: float
) -> Schedule:
    """`features` are those of the cluster that the run will have."""
    rng = random.Random(f"schedule {seed}")
    not_run: dict[str, str] = {}
    able: list[Nemesis] = []
    for nemesis in wanted(scenario, nemeses):
        lacking = sorted(nemesis.needs - features)
        if lacking:
            not_run[nemesis.name] = f"needs {', '.join(lacking)}"
        else:
            able.append(nemesis)
    chosen = _share(able, scenario.share, rng)
    return Schedule(tuple(_faults(chosen, scenario, rng, duration_s)), not_run)


def _share(able: Sequence[Nemesis], share: float, rng: random.Random) -> list[tuple[Nemesis, float]]:
    """Those of this seed, with how often each comes."""
    taken = [nemesis for nemesis in able if rng.random() < share]
    if len(taken) < min(3, len(able)):
        taken = sorted(rng.sample(list(able), min(3, len(able))), key=lambda nemesis: nemesis.name)
    return [(nemesis, rng.uniform(0.3, 1.0)) for nemesis in taken]


def _faults(
    chosen: Sequence[tuple[Nemesis, float]], scenario: Scenario, rng: random.Random, duration_s: float
) -> list[Planned]:
    faults: list[Planned] = []
    busy_until_s: dict[str, float] = {}
    at_s = rng.uniform(*scenario.gap_s)
    while chosen:
        nemesis = rng.choices([n for n, _ in chosen], [weight for _, weight in chosen])[0]
        for_s = rng.uniform(*scenario.last_s)
        at_s = max([at_s, *[busy_until_s.get(kind, 0.0) for kind in nemesis.excludes]])
        if at_s + for_s > duration_s:
            return faults
        faults.append(Planned(round(at_s, 3), nemesis.name, round(for_s, 3), rng.randrange(1 << 32)))
        for kind in nemesis.excludes:
            busy_until_s[kind] = at_s + for_s + HEALING_S
        at_s += rng.uniform(*scenario.gap_s)
    return faults
