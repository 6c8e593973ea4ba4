"""What is kept above a floor is never taken for less than it is, and the floor that is answered makes it fit (D-18)."""

from __future__ import annotations

import random

import pytest

from hypercluster.node import versions_budget
from hypercluster.node.versions_budget import VersionsBudget, VersionsSize
from hypercluster.values import Index


@pytest.mark.req("D-18")
@pytest.mark.parametrize("seed", range(10))
def test_the_floor_keeps_what_is_above_it_within_the_budget(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    print(f"seed {seed}")
    monkeypatch.setattr(versions_budget, "SAMPLES_MAX", 16)
    rng = random.Random(seed)
    most, stored = rng.randrange(1_000, 20_000), rng.randrange(30_000)
    budget, written = VersionsBudget(most), [0]
    for index in range(1, 400):
        written.append(written[-1] + rng.randrange(200))
        if index < 5 or (index > 5 and rng.random() < 0.7):
            continue
        budget.note(Index(index), VersionsSize(stored, written[index]))
        present = rng.randrange(index + 1)
        kept = written[-1] - written[present] if present >= 5 else stored + written[-1]
        assert budget.kept_bytes(present) >= kept
        floor = budget.floor(present)
        assert floor >= present
        if budget.kept_bytes(present) <= most:
            assert floor == present
        else:
            assert budget.kept_bytes(floor) <= most


@pytest.mark.req("D-18")
def test_what_was_there_before_goes_as_one_block_and_another_directory_begins_anew() -> None:
    budget = VersionsBudget(1_000)
    assert (budget.kept_bytes(0), budget.floor(0)) == (0, 0), "nothing is known yet"
    budget.note(Index(50), VersionsSize(900, 0))
    assert budget.floor(7) == 7
    budget.note(Index(60), VersionsSize(900, 101))
    assert (budget.kept_bytes(7), budget.kept_bytes(50), budget.kept_bytes(60)) == (1_001, 101, 0)
    assert budget.floor(7) == 50
    budget.note(Index(500), VersionsSize(300, 40))
    assert (budget.kept_bytes(7), budget.floor(7)) == (340, 7), "a checkpoint was installed"
    budget.note(Index(510), VersionsSize(300, 90))
    assert budget.kept_bytes(500) == 50
