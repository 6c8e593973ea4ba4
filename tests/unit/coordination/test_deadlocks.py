"""The wait-for graph (WS-47): who gets EDEADLK, and who only waits."""

from __future__ import annotations

import pytest

from hypercluster.limits import LOCK_GRAPH_STEPS_MAX
from hypercluster.state_machine.coordination import turn
from hypercluster.state_machine.coordination.records import FREE, HELD, QUEUED
from hypercluster.state_machine.outcome import ERRNO, LockGrant
from hypercluster.state_machine.workspace.errnos import EDEADLK, EINVAL
from tests.fakes.commands import client
from tests.unit.coordination.table import LockSite, S, acquire, reclaim, release, step


@pytest.fixture
def site() -> LockSite:
    return LockSite()


def held(site: LockSite, number: int, name: str, **more: int) -> LockGrant:
    return site.held(number, name, one_at_a_time=True, **more)


def queued(site: LockSite, number: int, name: str, **more: int) -> LockGrant:
    return site.queued(number, name, one_at_a_time=True, **more)


@pytest.mark.req("WS-47")
def test_the_wait_that_would_close_a_cycle_is_refused_and_told(site: LockSite) -> None:
    for number, name in ((1, "a"), (2, "b"), (3, "c")):
        held(site, number, name)
    waits = [queued(site, 1, "b"), queued(site, 2, "c")]
    refused = site.by(3, acquire("a", one_at_a_time=True))
    assert (refused.reason, refused.errno, refused.lock) == (ERRNO, EDEADLK, None)
    (event,) = site.events
    assert event.kind == turn.DEADLOCK and event.lock.state == FREE
    assert (event.lock.client_id, event.lock.name) == (client(3), "a")
    assert event.cycle == (event.lock.lock_id, *(wait.lock_id for wait in waits))
    assert [row.position for row in site.on("a")] == [0]  # nothing was queued


def test_when_the_cycle_is_broken_the_wait_is_let_in(site: LockSite) -> None:
    a, _ = held(site, 1, "a"), held(site, 2, "b")
    queued(site, 1, "b")
    assert site.by(2, acquire("a", one_at_a_time=True)).errno == EDEADLK
    site.by(1, release(a.lock_id))
    held(site, 2, "a")


def test_owners_that_said_nothing_are_in_no_graph(site: LockSite) -> None:
    site.held(1, "a")
    held(site, 2, "b")
    queued(site, 1, "b")
    assert site.lock(2, "a", one_at_a_time=True).state == QUEUED  # the holder of "a" may let go while it waits


def test_shared_locks_and_other_handles_are_in_no_graph(site: LockSite) -> None:
    site.held(1, "a", S, one_at_a_time=True)
    held(site, 2, "b")
    queued(site, 1, "b")
    queued(site, 2, "a")
    other = LockSite()
    held(other, 1, "a", handle=1)
    held(other, 2, "b", handle=1)
    queued(other, 1, "b", handle=2)
    queued(other, 2, "a", handle=2)


def test_an_owner_that_waits_for_one_thing_waits_for_no_other(site: LockSite) -> None:
    for number, name in ((1, "a"), (2, "b")):
        held(site, number, name)
    mine = queued(site, 3, "a")
    assert site.by(3, acquire("b", one_at_a_time=True)).errno == EINVAL
    assert queued(site, 3, "a") == mine
    site.by(3, release(mine.lock_id))
    queued(site, 3, "b")


def test_a_wait_whose_time_is_over_is_no_edge(site: LockSite) -> None:
    held(site, 1, "a")
    held(site, 2, "b")
    late = queued(site, 1, "b", wait_ms=1)
    queued(site, 2, "a")
    assert site.state(late) == QUEUED  # the step that ends it has not been logged
    b = site.row(late.lock_id)
    assert b is not None and 0 < b.wait_until_ns <= site.replica.machine.applied.last_stamp_ns


def test_the_end_of_a_wait_that_was_over_leaves_the_next_one_in_the_graph(site: LockSite) -> None:
    held(site, 1, "mine")
    held(site, 2, "b")
    held(site, 3, "a")
    late = queued(site, 1, "a", wait_ms=1)
    queued(site, 1, "b")  # the first wait is over, by its stamp
    assert site.steps(step(late, QUEUED, FREE, late.lock_id + 1_000_000)) == 1
    assert site.by(2, acquire("mine", one_at_a_time=True)).errno == EDEADLK


def test_a_lock_that_was_reclaimed_leaves_the_graph(site: LockSite) -> None:
    a = held(site, 11, "a")
    held(site, 2, "b")
    assert site.by(12, reclaim(a.lock_id, a.token)).reason == 0
    queued(site, 12, "b")
    assert site.lock(2, "a", one_at_a_time=True).state == QUEUED


def chain(site: LockSite, length: int) -> int:
    """Owner n holds "tn" and waits for "t(n+1)"; the last one holds only."""
    for number in range(1, length + 1):
        held(site, number, f"t{number}")
    for number in range(1, length):
        queued(site, number, f"t{number + 1}")
    return length


@pytest.mark.req("D-4", "WS-47")
@pytest.mark.parametrize(("length", "found"), [(LOCK_GRAPH_STEPS_MAX, True), (LOCK_GRAPH_STEPS_MAX + 1, False)])
def test_the_walk_ends_after_its_steps_and_the_wait_is_let_in(site: LockSite, length: int, found: bool) -> None:
    last = chain(site, length)
    answer = site.by(last, acquire("t1", one_at_a_time=True))
    if found:
        assert answer.errno == EDEADLK and len(site.events[0].cycle) == length
    else:
        assert answer.lock is not None and answer.lock.state == QUEUED


def test_the_graph_outlives_a_restart(site: LockSite) -> None:
    held(site, 1, "a")
    held(site, 2, "b")
    queued(site, 1, "b")
    site.replica.restart()
    assert site.by(2, acquire("a", one_at_a_time=True)).errno == EDEADLK
    assert [row.state for row in site.on("b")] == [HELD, QUEUED]
