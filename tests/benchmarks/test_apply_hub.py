"""Bounds that a busy machine keeps and a regression does not: about nine times what the core takes when it is alone."""

from __future__ import annotations

from tests.benchmarks.apply_hub import measure


def test_a_hub_command_stays_cheap() -> None:
    microseconds = measure(entries=60, seed=3)
    assert microseconds["apply"] < 40
    assert microseconds["admit"] < 30
    assert microseconds["encode"] < 10
    assert microseconds["decode"] < 15
