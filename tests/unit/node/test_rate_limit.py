"""Token buckets (WS-34)."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hypercluster.node.rate_limit import RateLimits, RateSettings

SETTINGS = RateSettings(ops_per_s=500, bytes_per_s=50_000_000, burst_ops=100, quarantine_after=5, quarantine_ms=2_000)


@pytest.mark.req("WS-34")
def test_the_burst_passes_and_the_next_is_told_how_long() -> None:
    limits = RateLimits(SETTINGS)
    assert [limits.admit("a", 1, 100, 0.0) for _ in range(100)] == [0] * 100
    pause_ms = limits.admit("a", 1, 100, 0.0)
    assert 1 <= pause_ms <= 4
    assert limits.admit("b", 1, 100, 0.0) == 0, "another principal has a bucket of its own"
    assert limits.admit("a", 1, 100, pause_ms / 1000) == 0, "after the pause it was told, it passes"


@pytest.mark.req("WS-34")
def test_bytes_count_too() -> None:
    limits = RateLimits(SETTINGS)
    assert limits.admit("a", 1, 50_000_000, 0.0) == 0
    assert limits.admit("a", 1, 25_000_000, 0.0) >= 500
    assert limits.admit("a", 1, 25_000_000, 0.51) == 0


def test_a_message_larger_than_the_burst_passes_once_the_bucket_is_full() -> None:
    limits = RateLimits(SETTINGS)
    assert limits.admit("a", 256, 1, 0.0) == 0
    pause_ms = limits.admit("a", 256, 1, 0.0)
    assert 500 <= pause_ms <= 515  # 256 tokens to get back to full
    assert limits.admit("a", 256, 1, pause_ms / 1000) == 0


@pytest.mark.req("WS-34")
def test_only_who_ignores_its_pause_is_quarantined() -> None:
    limits = RateLimits(SETTINGS)
    limits.admit("a", 100, 1, 0.0)
    told = [limits.admit("a", 50, 1, 0.001) for _ in range(6)]
    assert told[0] < 200
    assert told[-1] == 2_000, "the sixth within the pause is told the quarantine"
    assert limits.admit("a", 1, 1, 1.9) > 50, "the bucket is full again, the quarantine holds"
    assert limits.admit("a", 1, 1, 2.1) == 0


def test_who_waits_its_pause_is_never_quarantined() -> None:
    limits = RateLimits(SETTINGS)
    now_s, refused = 0.0, 0
    for _ in range(1_000):
        pause_ms = limits.admit("a", 10, 1, now_s)
        refused += pause_ms > 0
        assert pause_ms < 100
        now_s += pause_ms / 1000
    assert refused > 100


@settings(derandomize=True, max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 256), st.integers(0, 300)), min_size=1, max_size=200))
def test_never_more_than_rate_and_burst(messages: list[tuple[int, int]]) -> None:
    """Over any span: at most burst + rate × span, plus the one message that may dip below zero."""
    limits = RateLimits(RateSettings(ops_per_s=500, burst_ops=100, quarantine_after=1_000_000))
    now_s, admitted = 0.0, 0
    for ops, wait_ms in messages:
        now_s += wait_ms / 1000
        if limits.admit("a", ops, 1, now_s) == 0:
            admitted += ops
            assert admitted <= 100 + 500 * now_s + 256


def test_the_table_is_bounded() -> None:
    limits = RateLimits(RateSettings(principals_max=10))
    for number in range(100):
        limits.admit(f"p{number}", 1, 1, 0.0)
    assert len(limits) == 10
