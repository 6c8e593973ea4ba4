"""The gate that holds back runs behind a gap (WS-12)."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hypercluster.limits import SEQ_HOLD_BYTES_MAX, SEQ_HOLD_OPS_MAX, SEQ_HOLD_TOTAL_BYTES_MAX
from hypercluster.node.lane_gate import LaneGate

A, B = b"a" * 16, b"b" * 16


@pytest.mark.req("WS-12")
def test_a_gap_is_held_and_released_in_order() -> None:
    gate: LaneGate[str] = LaneGate()
    assert gate.arrive(A, 1, 2, 10, 0, "1-2", 0.0) == ["1-2"]
    assert gate.arrive(A, 5, 1, 10, 0, "5", 0.1) == []
    assert gate.arrive(A, 4, 1, 10, 0, "4", 0.2) == []
    assert gate.held_bytes == 20
    assert gate.arrive(A, 3, 1, 10, 0, "3", 0.3) == ["3", "4", "5"]
    assert gate.held_bytes == 0
    assert gate.expired(99.0) == []


@pytest.mark.req("WS-12")
def test_a_gap_is_held_for_a_second_at_most() -> None:
    gate: LaneGate[str] = LaneGate()
    assert gate.arrive(A, 7, 1, 10, 5, "7", 10.0) == []
    assert gate.next_deadline() == 11.0
    assert gate.expired(10.999) == []
    assert gate.expired(11.0) == ["7"]
    assert gate.held_bytes == 0
    assert gate.next_deadline() is None


@pytest.mark.req("WS-12")
def test_what_is_held_is_bounded_per_client_and_in_all() -> None:
    gate: LaneGate[str] = LaneGate()
    assert gate.arrive(A, 10, SEQ_HOLD_OPS_MAX, 10, 1, "many", 0.0) == []
    assert gate.arrive(A, 200, 1, 10, 1, "one more op", 0.0) is None
    assert gate.arrive(B, 10, 1, SEQ_HOLD_BYTES_MAX, 1, "large", 0.0) == []
    assert gate.arrive(B, 20, 1, 1, 1, "one more byte", 0.0) is None
    for number in range(SEQ_HOLD_TOTAL_BYTES_MAX // SEQ_HOLD_BYTES_MAX - 1):
        assert gate.arrive(number.to_bytes(16, "big"), 10, 1, SEQ_HOLD_BYTES_MAX - 10, 1, "large", 0.0) == []
    assert gate.arrive(b"z" * 16, 10, 1, SEQ_HOLD_BYTES_MAX, 1, "over the sum", 0.0) is None


def test_an_unknown_client_starts_where_it_says() -> None:
    gate: LaneGate[str] = LaneGate()
    assert gate.arrive(A, 500, 1, 10, None, "500", 0.0) == ["500"]
    assert gate.arrive(A, 502, 1, 10, None, "502", 0.0) == []
    assert gate.arrive(A, 501, 1, 10, None, "501", 0.0) == ["501", "502"]


def test_a_retry_of_what_is_under_way_passes() -> None:
    gate: LaneGate[str] = LaneGate()
    gate.arrive(A, 1, 5, 10, 0, "first", 0.0)
    assert gate.arrive(A, 1, 5, 10, 0, "again", 0.0) == ["again"]
    assert gate.arrive(A, 6, 1, 10, 0, "next", 0.0) == ["next"]


def test_the_lane_follows_what_other_leaders_judged() -> None:
    gate: LaneGate[str] = LaneGate()
    gate.arrive(A, 1, 1, 10, 0, "1", 0.0)
    assert gate.arrive(A, 10, 1, 10, 9, "10", 0.0) == ["10"], "2 to 9 were judged meanwhile"


def test_nothing_is_remembered_of_a_lane_at_rest() -> None:
    gate: LaneGate[str] = LaneGate()
    gate.arrive(A, 1, 1, 10, 0, "1", 0.0)
    gate.finished(A)
    assert gate.arrive(A, 3, 1, 10, 1, "3", 0.0) == [], "2 is missing by what apply has judged"
    assert gate.abandon() == ["3"]


@settings(derandomize=True, max_examples=100, deadline=None)
@given(st.integers(0, 2**32), st.integers(2, 40))
@pytest.mark.req("WS-12", "WS-31")
def test_whatever_the_arrival_order_a_lane_passes_in_order(seed: int, runs: int) -> None:
    rng = random.Random(seed)
    gate: LaneGate[int] = LaneGate()
    waiting = list(range(1, runs + 1))
    passed: list[int] = []
    now_s = 0.0
    unanswered = set(waiting)
    while unanswered:
        now_s += rng.random() * 0.4
        seq = rng.choice(sorted(unanswered))
        out = gate.arrive(A, seq, 1, 10, 0, seq, now_s)
        for late in gate.expired(now_s):
            assert late not in passed or late < max(passed)
        for free in out or []:
            passed.append(free)
            unanswered.discard(free)
    first_times = list(dict.fromkeys(passed))
    assert first_times == sorted(first_times), f"seed {seed}"
