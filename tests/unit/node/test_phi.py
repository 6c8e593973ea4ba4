"""Φ-accrual: estimate, timeout and φ over a window of clean durations (DET-2, DET-3)."""

from __future__ import annotations

import math
import statistics
from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hypercluster.limits import PHI_WINDOW
from hypercluster.node.phi import PRIOR_MEAN_NS, Durations, Mode, PhaseDurations

S = 1_000_000_000
durations_ns = st.lists(st.integers(min_value=0, max_value=3_600 * S), max_size=250)


def filled(samples: list[int], prior_ns: int = 30 * S) -> Durations:
    durations = Durations(prior_ns)
    for sample in samples:
        durations.add(sample)
    return durations


def plain_estimate_ns(samples: list[int], prior_ns: int) -> int:
    """DET-3 as it is written, in exact numbers."""
    window = sorted(samples[-100:])
    p95 = Fraction(window[math.ceil(Fraction(95, 100) * len(window)) - 1]) if window else Fraction(0)
    if len(window) >= 10:
        return int(p95)
    share = Fraction(len(window), 10)
    return math.floor(share * p95 + (1 - share) * (prior_ns + Fraction("1.645") * prior_ns / 2))


@pytest.mark.req("DET-2", "DET-3")
@given(durations_ns, st.integers(min_value=1, max_value=600 * S), st.integers(min_value=120, max_value=200))
def test_estimate_and_timeout_are_what_is_written(samples: list[int], prior_ns: int, k_percent: int) -> None:
    durations = filled(samples, prior_ns)
    expected = plain_estimate_ns(samples, prior_ns)
    assert durations.estimate_ns() == expected
    assert durations.timeout_ns(k_percent) == expected * k_percent // 100
    assert len(durations) == min(len(samples), 100)


@pytest.mark.req("DET-3")
def test_priors_and_their_blending() -> None:
    assert PRIOR_MEAN_NS == {
        "ANALYZE": 15 * S, "BLUEPRINT": 20 * S, "CONSTRUCT": 120 * S, "VALIDATE": 30 * S, "IDLE": 10 * S,
    }  # fmt: skip
    assert Durations(20 * S).estimate_ns() == 36_450_000_000  # 20 + 1.645 · 10
    assert filled([2 * S] * 5, 20 * S).estimate_ns() == (2 * S + 36_450_000_000) // 2
    assert filled([2 * S] * 10, 20 * S).estimate_ns() == 2 * S


@pytest.mark.req("DET-3")
def test_p95_is_nearest_rank() -> None:
    assert filled([n * S for n in range(1, 101)]).estimate_ns() == 95 * S
    assert filled([n * S for n in range(1, 11)]).estimate_ns() == 10 * S
    assert filled([n * S for n in range(20, 0, -1)]).estimate_ns() == 19 * S


@pytest.mark.req("DET-2")
def test_the_window_forgets_what_is_older_than_a_hundred() -> None:
    durations = filled([60 * S] * PHI_WINDOW)
    assert durations.estimate_ns() == 60 * S
    for _ in range(PHI_WINDOW):
        durations.add(S)
    assert durations.estimate_ns() == S
    assert durations.phi(2 * S) == filled([S] * PHI_WINDOW).phi(2 * S), "nothing is left of the others"


@pytest.mark.req("DET-2")
@pytest.mark.parametrize(("mode", "k"), [(Mode.STRICT, "1.2"), (Mode.NORMAL, "1.6"), (Mode.DEV_FAST, "2.0")])
def test_what_decides_is_the_timeout_and_not_phi(mode: Mode, k: str) -> None:
    durations = filled([10 * S] * 100)
    timeout_ns = int(Fraction(k) * 10 * S)
    assert not durations.judge(timeout_ns, mode.value).late
    late = durations.judge(timeout_ns + 1, mode.value)
    assert late.late
    assert (late.timeout_ns, late.estimate_ns, late.samples) == (timeout_ns, 10 * S, 100)
    assert durations.judge(timeout_ns, mode.value).phi > 50, "however odd it is"


@pytest.mark.req("DET-2")
@pytest.mark.parametrize("k_percent", [119, 201, 0, -160])
def test_k_is_between_1_2_and_2_0(k_percent: int) -> None:
    with pytest.raises(ValueError, match=r"k_percent: .* may be 120 to 200"):
        Durations(S).timeout_ns(k_percent)
    with pytest.raises(ValueError, match="k_percent"):
        PhaseDurations(k_percent)


@pytest.mark.req("DET-2")
@given(st.lists(st.integers(min_value=1, max_value=3_600 * S), min_size=10, max_size=100), st.floats(0.0, 6.0))
def test_phi_is_minus_log10_of_the_tail(samples: list[int], deviations: float) -> None:
    """Against the normal distribution of the standard library, as far as that goes."""
    durations = filled(samples)
    mean = statistics.fmean(samples)
    deviation = max(statistics.pstdev(samples), 0.01 * mean, 1.0)
    at_ns = int(mean + deviations * deviation)
    tail = 1 - statistics.NormalDist(mean, deviation).cdf(at_ns)
    assert 10 ** -durations.phi(at_ns) == pytest.approx(tail, rel=1e-3, abs=1e-12)


@pytest.mark.req("DET-2")
@given(durations_ns, st.lists(st.integers(min_value=0, max_value=10**15), min_size=2, max_size=30))
def test_phi_is_finite_and_never_falls(samples: list[int], times: list[int]) -> None:
    durations = filled(samples)
    found = [durations.phi(at_ns) for at_ns in sorted(times)]
    assert all(math.isfinite(phi) and phi >= 0 for phi in found)
    assert found == sorted(found)


def test_phi_goes_on_where_erfc_is_nothing() -> None:
    """Across the place where the tail is taken from its series, and far beyond 10^−308."""
    durations = filled([100 * S] * 100)  # a deviation of one second
    phis = [durations.phi((100 + z) * S) for z in (24, 25, 26, 27, 60, 1_000)]
    assert phis[0] == pytest.approx(126.857, abs=0.001)
    second = [b - a for a, b in pairwise(phis[:4])]
    assert all(x < y < x + 1 for x, y in pairwise(second)), "no step at the seam"
    assert phis[-1] == pytest.approx(1_000**2 / 2 / math.log(10), rel=1e-3)


@pytest.mark.req("DET-2", "DET-3")
def test_each_phase_has_a_window_and_failures_do_not_enter() -> None:
    phases = PhaseDurations()
    before = phases.judge("ANALYZE", S)
    for _ in range(50):
        phases.ended("ANALYZE", 900 * S, clean=False)
    assert phases.judge("ANALYZE", S) == before
    for _ in range(10):
        phases.ended("CONSTRUCT", 5 * S, clean=True)
    assert phases.judge("CONSTRUCT", S).timeout_ns == 8 * S
    assert phases.judge("ANALYZE", S) == before
    with pytest.raises(ValueError, match="phase: 'LUNCH'"):
        phases.judge("LUNCH", S)


@pytest.mark.req("DET-2")
@given(durations_ns)
def test_no_float_has_a_say_in_the_decision(samples: list[int]) -> None:
    durations = filled(samples)
    timeout_ns = durations.timeout_ns()
    assert isinstance(durations.estimate_ns(), int)
    assert isinstance(timeout_ns, int)
    assert not durations.judge(timeout_ns).late
    assert durations.judge(timeout_ns + 1).late


def test_a_negative_duration_is_refused() -> None:
    with pytest.raises(ValueError, match="duration_ns: -1"):
        Durations(S).add(-1)
