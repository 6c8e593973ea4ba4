"""Loose bounds on what locks cost, wide enough for a busy machine: they catch a wrong order of growth."""

from __future__ import annotations

from tests.benchmarks.lock_apply import contended, granted_at_once, uncontended


def test_a_lock_costs_little_and_a_queue_no_more_than_its_length() -> None:
    asked, released = uncontended()
    assert asked < 2_000 and released < 2_000
    assert contended(100) < 5_000
    assert granted_at_once(999) < 500_000
