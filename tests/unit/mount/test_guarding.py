"""When the watchdog kills a worker, and when it starts another."""

from __future__ import annotations

import pytest

from hypercluster.mount.guarding import PAUSE_MAX_S, SPARED_MAX, Guard, GuardSettings, Order

SETTINGS = GuardSettings(stuck_s=2.0, ask_every_s=0.5)


def mounted(now_s: float = 100.0) -> Guard:
    guard = Guard(SETTINGS, now_s)
    assert guard.order(now_s) is Order.START
    guard.started(now_s)
    guard.mounted(now_s)
    return guard


@pytest.mark.req("WS-65")
def test_a_worker_that_does_not_answer_is_killed_after_two_seconds() -> None:
    guard = mounted(100.0)
    guard.asked(100.0)
    guard.answered(100.1)
    guard.asked(100.6)
    assert guard.order(102.0) is Order.WAIT and guard.wake_at_s(102.0) == pytest.approx(102.1)
    assert guard.order(102.1) is Order.KILL


@pytest.mark.req("WS-65")
def test_a_question_that_fails_again_and_again_is_one_question() -> None:
    """A worker whose loop stands still refuses at once, every time."""
    guard = mounted(100.0)
    for tenth in range(20):
        guard.asked(100.0 + tenth / 10)
    assert guard.order(102.0) is Order.KILL


@pytest.mark.req("WS-65")
def test_nobody_is_stuck_without_a_question() -> None:
    guard = mounted(100.0)
    assert guard.order(200.0) is Order.WAIT
    guard.asked(200.0)  # the asker came late
    assert guard.order(201.4) is Order.WAIT
    assert guard.order(201.5) is Order.KILL


def test_a_worker_that_is_not_mounted_yet_has_time() -> None:
    guard = Guard(SETTINGS, 100.0)
    guard.started(100.0)
    guard.asked(100.0)  # the asker of a mount that is down asks on
    assert guard.order(1_000.0) is Order.WAIT


@pytest.mark.req("WS-65")
def test_a_host_that_slept_blames_nobody() -> None:
    guard = mounted(100.0)
    guard.asked(100.0)
    wanted_s = guard.wake_at_s(100.0)
    guard.woke(160.0, wanted_s)
    assert guard.order(160.0) is Order.WAIT
    assert guard.order(162.0) is Order.KILL


@pytest.mark.req("WS-65")
def test_a_worker_that_could_not_run_is_spared_so_often() -> None:
    guard = mounted(100.0)
    assert guard.asked(100.0) and not guard.asked(100.1)
    now_s = 102.0
    for _ in range(SPARED_MAX):
        assert guard.order(now_s) is Order.KILL and guard.spare(now_s)
        assert guard.order(now_s) is Order.WAIT
        now_s = guard.wake_at_s(now_s)
    assert guard.order(now_s) is Order.KILL and not guard.spare(now_s)
    assert now_s == pytest.approx(102.0 + 2.0 * SPARED_MAX)
    guard.answered(now_s)
    guard.asked(now_s)
    assert guard.order(now_s + 2.0) is Order.KILL and guard.spare(now_s + 2.0)


def test_workers_that_die_young_are_started_less_and_less_often() -> None:
    guard = Guard(SETTINGS, 100.0)
    now_s, pauses = 100.0, []
    for _ in range(8):
        guard.started(now_s)
        guard.ended(now_s)
        pauses.append(guard.wake_at_s(now_s) - now_s)
        assert guard.order(now_s) is (Order.START if not pauses[-1] else Order.WAIT)
        now_s += pauses[-1]
    assert pauses == pytest.approx([0.0, 0.5, 1.0, 2.0, 4.0, 8.0, PAUSE_MAX_S, PAUSE_MAX_S])
    guard.started(now_s)
    guard.ended(now_s + 60.0)  # this one lived
    assert guard.order(now_s + 60.0) is Order.START and guard.restarts == 9
