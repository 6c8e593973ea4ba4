"""Acquire, release, reclaim and the leader's steps, one rule at a time (WS-40, WS-41, WS-43)."""

from __future__ import annotations

import pytest

from hypercluster.limits import LOCK_QUEUE_MAX, LOCKS_OF_CLIENT_MAX
from hypercluster.state_machine.coordination import queries, turn
from hypercluster.state_machine.coordination.records import FREE, GRACE, HELD, QUEUED
from hypercluster.state_machine.coordination.steps import MOVES
from hypercluster.state_machine.outcome import ERRNO, FENCED, LIMIT, LOCK_HELD_EXPIRING, NO_WORKSPACE, LockGrant
from hypercluster.state_machine.store import Family
from hypercluster.state_machine.workspace.errnos import EINVAL, ENOENT, EWOULDBLOCK
from hypercluster.values import Scope
from tests.fakes.commands import ENTRY_NS, client
from tests.unit.coordination.table import LockSite, P, S, X, acquire, lock_records, reclaim, release, step
from tests.unit.workspace import ops


@pytest.fixture
def site() -> LockSite:
    return LockSite()


def test_the_first_gets_it_the_next_is_queued_and_then_served(site: LockSite) -> None:
    first = site.held(1, "build")
    assert site.told() == [(turn.GRANTED, first.lock_id)]
    second = site.queued(2, "build")
    assert site.told() == [(turn.JOINED, second.lock_id)]
    done = site.by(1, release(first.lock_id))
    assert done.lock == LockGrant(FREE, first.lock_id, first.token)
    assert site.told() == [(turn.RELEASED, first.lock_id), (turn.GRANTED, second.lock_id)]
    assert site.state(first) == FREE
    row = site.row(second.lock_id)
    assert row is not None and row.state == HELD and row.token == first.token + 1
    assert (row.client_id, row.worker, row.agent) == (client(2), "host-0", "agent-2")


def test_shared_locks_stand_beside_each_other_and_not_beside_an_exclusive_one(site: LockSite) -> None:
    a, b = site.held(1, "docs", S), site.held(2, "docs", S)
    assert b.token == a.token + 1
    c = site.queued(3, "docs", X)
    site.by(1, release(a.lock_id))
    assert site.state(c) == QUEUED
    site.by(2, release(b.lock_id))
    assert site.state(c) == HELD


@pytest.mark.req("WS-40")
def test_a_shared_request_does_not_overtake_an_exclusive_one_that_waits(site: LockSite) -> None:
    a = site.held(1, "docs", S)
    waiting, late, later = site.queued(2, "docs", X), site.queued(3, "docs", S), site.queued(4, "docs", S)
    assert site.by(5, acquire("docs", S, wait=False)).errno == EWOULDBLOCK
    assert [row.position for row in site.on("docs")] == [0, 1, 2, 3]
    site.by(1, release(a.lock_id))
    assert [site.state(grant) for grant in (waiting, late, later)] == [HELD, QUEUED, QUEUED]
    site.by(2, release(waiting.lock_id))
    assert [site.state(grant) for grant in (late, later)] == [HELD, HELD]


def test_without_wait_it_is_refused_and_nothing_changes(site: LockSite) -> None:
    held = site.held(1, "build")
    before = lock_records(site.replica.store)
    refused = site.by(2, acquire("build", wait=False))
    assert (refused.reason, refused.errno, refused.lock) == (ERRNO, EWOULDBLOCK, None)
    assert lock_records(site.replica.store) == before
    assert site.events == []
    site.steps(step(held, HELD, GRACE))
    expiring = site.by(2, acquire("build", wait=False))
    assert (expiring.reason, expiring.errno) == (LOCK_HELD_EXPIRING, EWOULDBLOCK)


def test_a_wait_can_be_cancelled(site: LockSite) -> None:
    first, second, third = site.held(1, "x"), site.queued(2, "x"), site.queued(3, "x")
    done = site.by(2, release(second.lock_id))
    assert done.lock == LockGrant(FREE, second.lock_id, 0)
    assert site.told() == [(turn.WAIT_ENDED, second.lock_id)]
    site.by(1, release(first.lock_id))
    assert site.state(third) == HELD


def test_a_lock_is_its_clients_own(site: LockSite) -> None:
    held = site.held(1, "x")
    assert site.by(2, release(held.lock_id)).reason == FENCED
    assert site.by(1, release(held.lock_id)).reason == 0
    assert site.by(1, release(held.lock_id)).reason == FENCED  # it is gone


def test_handles_of_one_client_are_owners_of_their_own(site: LockSite) -> None:
    first = site.held(1, "x", handle=1)
    assert site.lock(1, "x", handle=1) == first
    other = site.queued(1, "x", handle=2)
    assert site.lock(1, "x", handle=2) == other
    assert site.by(1, acquire("x", handle=2, wait=False)).errno == EWOULDBLOCK


# --- conversion -----------------------------------------------------------------------------------


def test_a_downgrade_is_a_new_grant_and_lets_others_in(site: LockSite) -> None:
    held, waiting = site.held(1, "x"), site.queued(2, "x", S)
    shared = site.held(1, "x", S)
    assert shared.lock_id != held.lock_id and shared.token == held.token + 1
    assert site.told() == [
        (turn.RELEASED, held.lock_id),
        (turn.GRANTED, shared.lock_id),
        (turn.GRANTED, waiting.lock_id),
    ]


def test_the_only_holder_upgrades_at_once_also_past_a_queue(site: LockSite) -> None:
    shared = site.held(1, "x", S)
    waiting = site.queued(2, "x", X)
    exclusive = site.held(1, "x", X)
    assert exclusive.token > shared.token
    assert site.state(waiting) == QUEUED and site.state(shared) == FREE


def test_an_upgrade_beside_other_holders_gives_the_lock_up_and_waits(site: LockSite) -> None:
    mine, theirs = site.held(1, "x", S), site.held(2, "x", S)
    refused = site.by(1, acquire("x", X, wait=False))
    assert refused.errno == EWOULDBLOCK and site.state(mine) == HELD
    asked = site.queued(1, "x", X)
    assert site.told() == [(turn.RELEASED, mine.lock_id), (turn.JOINED, asked.lock_id)]
    site.by(2, release(theirs.lock_id))
    assert site.state(asked) == HELD


def test_a_queued_request_of_another_kind_goes_to_the_end_of_the_queue(site: LockSite) -> None:
    held, mine, other = site.held(1, "x"), site.queued(2, "x", X), site.queued(3, "x", X)
    again = site.queued(2, "x", S)
    assert site.state(mine) == FREE
    assert [row.lock_id for row in site.on("x")] == [held.lock_id, other.lock_id, again.lock_id]


# --- semaphores -----------------------------------------------------------------------------------


@pytest.mark.req("WS-47")
def test_a_semaphore_has_so_many_holders_and_no_more(site: LockSite) -> None:
    holders = [site.held(number, "gpu", P, permits=2) for number in (1, 2)]
    third, fourth = (site.queued(number, "gpu", P, permits=2) for number in (3, 4))
    assert site.by(5, acquire("gpu", P, permits=2, wait=False)).errno == EWOULDBLOCK
    site.by(2, release(holders[1].lock_id))
    assert (site.state(third), site.state(fourth)) == (HELD, QUEUED)


def test_a_name_is_a_lock_or_a_semaphore_of_one_size(site: LockSite) -> None:
    held = site.held(1, "gpu", P, permits=2)
    assert site.by(2, acquire("gpu", P, permits=3)).errno == EINVAL
    assert site.by(2, acquire("gpu", X)).errno == EINVAL
    assert site.by(2, acquire("gpu", S)).errno == EINVAL
    site.held(1, "gpu", P, permits=3)  # nobody else is there
    assert site.state(held) == FREE
    other = site.held(3, "log", X)
    assert site.by(2, acquire("log", P, permits=1)).errno == EINVAL
    site.by(3, release(other.lock_id))
    site.held(2, "log", P, permits=1)


# --- targets, bounds ------------------------------------------------------------------------------


def test_an_inode_must_be_there_and_keeps_its_lock_when_its_last_name_goes(site: LockSite) -> None:
    assert site.by(1, acquire(bytes(15) + b"x")).errno == ENOENT
    made = site.by(1, ops.create(ops.ROOT, b"f"))
    held, waiting = site.held(1, made.inode_id), site.queued(2, made.inode_id)
    assert site.by(1, ops.unlink(ops.ROOT, b"f")).reason == 0
    assert (site.state(held), site.state(waiting)) == (HELD, QUEUED)
    site.by(1, release(held.lock_id))
    assert site.state(waiting) == HELD


def test_a_workspace_of_another_scope_is_none(site: LockSite) -> None:
    assert site.send(client(7), acquire("x"), scope=Scope("acme", "other")).reason == NO_WORKSPACE


def test_a_client_has_at_most_so_many(site: LockSite) -> None:
    for number in range(LOCKS_OF_CLIENT_MAX):
        site.held(1, f"n{number}")
    assert site.by(1, acquire("one-more")).reason == LIMIT
    site.held(1, "n0", S)  # converting one asks for no more
    other = site.held(2, "others")
    assert site.by(1, reclaim(other.lock_id, other.token)).reason == LIMIT
    site.by(2, release(other.lock_id))
    site.held(2, "one-more")
    assert queries.lock_count(site.replica.store, site.workspace_id) == LOCKS_OF_CLIENT_MAX + 1
    assert len(queries.locks_of_client(site.replica.store, site.workspace_id, client(1))) == LOCKS_OF_CLIENT_MAX


@pytest.mark.req("D-4")
def test_a_target_has_at_most_so_many_and_they_are_granted_as_one_change(site: LockSite) -> None:
    held = site.held(1, "hot")
    clients = range(2, LOCK_QUEUE_MAX + 1)
    for number in clients:
        site.queued(number, "hot", S)
    assert site.by(5_000, acquire("hot", S)).reason == LIMIT
    site.by(1, release(held.lock_id))
    assert len(site.events) == LOCK_QUEUE_MAX  # one release, and a grant to each
    changed = [change for change in site.applied.changes if change.family is Family.COORDINATION]
    assert len(changed) <= 6
    assert [row.state for row in site.on("hot")] == [HELD] * len(clients)


# --- leases ---------------------------------------------------------------------------------------


@pytest.mark.req("WS-41")
def test_held_goes_to_grace_and_back_or_is_lost(site: LockSite) -> None:
    held, waiting = site.held(1, "x"), site.queued(2, "x")
    assert site.steps(step(held, HELD, FREE)) == 0  # no lease ends without its grace
    assert site.steps(step(held, HELD, GRACE)) == 1
    assert site.told() == [(turn.EXPIRING, held.lock_id)]
    assert (site.state(held), site.state(waiting)) == (GRACE, QUEUED)
    assert site.steps(step(held, GRACE, HELD)) == 1
    assert site.told() == [(turn.RENEWED, held.lock_id)]
    assert site.steps(step(held, GRACE, FREE)) == 0  # it was renewed since
    assert site.steps(step(held, HELD, GRACE)) == 1
    assert site.steps(step(held, GRACE, FREE)) == 1
    assert site.told() == [(turn.LOST, held.lock_id), (turn.GRANTED, waiting.lock_id)]
    assert site.by(1, release(held.lock_id)).reason == FENCED


@pytest.mark.req("WS-41")
@pytest.mark.parametrize("from_state", [QUEUED, HELD, GRACE, FREE])
@pytest.mark.parametrize("to_state", [QUEUED, HELD, GRACE, FREE])
def test_there_are_four_steps_and_no_other(from_state: int, to_state: int) -> None:
    known = {(HELD, GRACE), (GRACE, HELD), (GRACE, FREE), (QUEUED, FREE)}
    assert ((from_state, to_state) in MOVES) == ((from_state, to_state) in known)


def test_a_step_is_left_out_when_its_guard_no_longer_holds(site: LockSite) -> None:
    held = site.held(1, "x")
    assert site.steps(step(held._replace(token=held.token + 1), HELD, GRACE)) == 0
    assert site.steps(step(held._replace(lock_id=held.lock_id + 1), HELD, GRACE)) == 0
    other = site.held(2, "y")
    assert site.steps(step(held._replace(token=99), HELD, GRACE), step(other, HELD, GRACE)) == 1
    assert (site.state(held), site.state(other)) == (HELD, GRACE)


def test_a_wait_ends_by_its_deadline_once_the_stamp_has_passed_it(site: LockSite) -> None:
    site.held(1, "x")
    waiting = site.queued(2, "x", wait_ms=5)
    row = site.row(waiting.lock_id)
    assert row is not None and row.wait_until_ns == waiting.lock_id + 5_000_000
    early = step(waiting, QUEUED, FREE, row.wait_until_ns)
    assert site.steps(early) == 0
    while site.replica.machine.applied.last_stamp_ns + ENTRY_NS < row.wait_until_ns:
        site.by(3, acquire("other"))
    assert site.steps(step(waiting, QUEUED, FREE, row.wait_until_ns - 1)) == 0  # not the deadline it has
    assert site.steps(early) == 1
    assert site.told() == [(turn.WAIT_ENDED, waiting.lock_id)]


def test_a_wait_of_a_silent_client_ends_as_the_leader_says(site: LockSite) -> None:
    site.held(1, "x")
    waiting = site.queued(2, "x")
    assert site.steps(step(waiting, QUEUED, FREE)) == 1
    assert site.state(waiting) == FREE


def test_a_waiter_whose_time_is_over_is_passed_over(site: LockSite) -> None:
    held = site.held(1, "x")
    late, patient = site.queued(2, "x", wait_ms=1), site.queued(3, "x")
    site.by(1, release(held.lock_id))
    assert (site.state(late), site.state(patient)) == (QUEUED, HELD)
    again = site.queued(2, "x", wait_ms=1)  # asks anew: the old wait ends
    assert again.lock_id != late.lock_id and site.state(late) == FREE


@pytest.mark.parametrize(("wait_ms", "state"), [(1, QUEUED), (2, HELD)])
def test_a_wait_is_over_at_its_deadline_to_the_nanosecond(site: LockSite, wait_ms: int, state: int) -> None:
    held = site.held(1, "x")
    waiting = site.queued(2, "x", wait_ms=wait_ms)
    site.by(1, release(held.lock_id))
    assert site.replica.machine.applied.last_stamp_ns == waiting.lock_id + 1_000_000
    assert site.state(waiting) == state


@pytest.mark.req("D-4")
def test_one_command_loads_a_bounded_number_of_rows(site: LockSite) -> None:
    held = []
    for name in range(4):
        held.append(site.held(1, f"t{name}"))
        for number in range(10, 10 + 2 * LOCK_QUEUE_MAX // 5):
            site.queued(number, f"t{name}", S)
    assert site.steps(*[step(grant, HELD, GRACE) for grant in held]) == 2  # 401 rows each
    assert site.steps(*[step(grant, HELD, GRACE) for grant in held[2:]]) == 2


# --- reclaim --------------------------------------------------------------------------------------


@pytest.mark.req("WS-43")
def test_a_new_client_of_the_same_worker_takes_a_lock_over(site: LockSite) -> None:
    held, waiting = site.held(11, "x"), site.queued(21, "x")
    assert site.by(22, reclaim(held.lock_id, held.token)).reason == FENCED  # another host
    assert site.by(12, reclaim(held.lock_id, held.token + 1)).reason == FENCED
    assert site.by(12, reclaim(waiting.lock_id, held.token)).reason == FENCED
    taken = site.by(12, reclaim(held.lock_id, held.token, handle=9)).lock
    assert taken is not None and taken.state == HELD and taken.token == held.token + 1
    assert site.told() == [(turn.LOST, held.lock_id), (turn.GRANTED, taken.lock_id)]
    row = site.row(taken.lock_id)
    assert row is not None and (row.client_id, row.handle_id, row.worker) == (client(12), 9, "host-1")
    assert site.by(11, release(held.lock_id)).reason == FENCED
    assert site.by(12, reclaim(held.lock_id, held.token)).reason == FENCED
    assert site.state(waiting) == QUEUED


def test_without_a_worker_the_principal_decides(site: LockSite) -> None:
    held = site.send(client(1), acquire("x"), worker="").lock
    assert held is not None
    assert site.by(2, reclaim(held.lock_id, held.token)).reason == FENCED
    assert site.send(client(3), reclaim(held.lock_id, held.token), worker="").reason == 0
    theirs = site.held(2, "y")
    assert site.send(client(3), reclaim(theirs.lock_id, theirs.token), worker="").reason == FENCED


def test_a_lock_in_its_grace_can_be_reclaimed_and_is_held_again(site: LockSite) -> None:
    held = site.held(11, "x")
    site.steps(step(held, HELD, GRACE))
    taken = site.by(12, reclaim(held.lock_id, held.token)).lock
    assert taken is not None and taken.state == HELD
    assert site.steps(step(held, GRACE, FREE)) == 0


def test_who_waits_for_it_himself_gives_his_place_up_and_who_holds_it_is_refused(site: LockSite) -> None:
    held, own = site.held(11, "x"), site.queued(12, "x", handle=1)
    assert site.by(11, reclaim(held.lock_id, held.token)).errno == EINVAL
    taken = site.by(12, reclaim(held.lock_id, held.token, handle=1)).lock
    assert taken is not None and site.state(own) == FREE
    a, _ = site.held(11, "y", S), site.held(12, "y", S)
    assert site.by(12, reclaim(a.lock_id, a.token, handle=1)).errno == EINVAL
    assert site.by(12, reclaim(a.lock_id, a.token, handle=2)).reason == 0


# --- what is stored -------------------------------------------------------------------------------


def test_when_all_is_released_nothing_is_left(site: LockSite) -> None:
    grants = [(1, site.held(1, "x")), (2, site.queued(2, "x", one_at_a_time=True)), (3, site.held(3, "y", S))]
    grants += [(3, site.queued(3, "x", S, wait_ms=1_000)), (4, site.held(4, "gpu", P, permits=3))]
    for number, grant in grants:
        site.by(number, release(grant.lock_id))
    assert lock_records(site.replica.store) == []
    assert queries.last_token(site.replica.store) == 5


@pytest.mark.req("D-7", "WS-40")
def test_a_retry_gets_the_same_answer_and_no_second_lock(site: LockSite) -> None:
    held = site.held(1, "x")
    site.expire(held)
    site.seqs[client(1)] -= 1
    assert site.lock(1, "x") == held
    assert site.events == [] and site.on("x") == ()
