"""Ratios that hold on any machine: an update of the tree by its hashes, and the stages of apply by the whole."""

from __future__ import annotations

import pytest

from tests.benchmarks.apply_stages import STAGES, WHOLE, Log, kinds, measure, merkle_ratio


@pytest.mark.req("WS-35")
def test_a_merkle_update_costs_little_more_than_its_hashes() -> None:
    # 1.5 where the machine is quiet. Twice as much above the hashes would be felt in every operation.
    assert merkle_ratio(1_000, rounds=60, seed=1) < 2


@pytest.mark.req("WS-46")
def test_the_stages_are_told_apart_and_hazards_are_a_small_one() -> None:
    log = Log()
    operations = kinds(log, files=400, seed=1)
    found = measure(log, operations["append 100 bytes"], rounds=12)
    assert set(found) == {WHOLE, *[name for name, _, _ in STAGES]}
    # A file that eight clients append to at once is in the middle of a window, and nobody overwrites anything.
    assert found["hazards"] < 0.15 * found[WHOLE]
