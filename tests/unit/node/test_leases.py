"""Leases on the leader, over a real machine and a virtual clock (WS-41 to WS-43, D-6)."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from hypercluster.errors import NotLeaderError
from hypercluster.node.answers import REASONS
from hypercluster.node.lease_timers import FREE, GRACE, HELD, QUEUED
from hypercluster.node.leases import NO_VERDICT, Renewed
from hypercluster.values import NodeId, Role, Term
from tests.unit.node.locks import BOB, COUNTED_S, GRACE_S, LOOK_S, TTL_S, LockNode, acquire, reclaim, release

MARGIN_S = 2 * LOOK_S


async def turns() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


@pytest.mark.req("WS-41")
async def test_a_lock_whose_holder_is_silent_goes_through_its_grace_to_the_next() -> None:
    node = LockNode()
    first = node.lock(1, acquire("build"))
    second = node.lock(2, acquire("build"))
    assert (first.state, second.state) == (HELD, QUEUED)
    node.pass_time(TTL_S - LOOK_S)
    assert node.state_of(first.lock_id) == HELD
    await node.renew((second.lock_id, 0))
    node.pass_time(MARGIN_S)
    assert node.state_of(first.lock_id) == GRACE
    node.pass_time(GRACE_S - MARGIN_S)
    assert (node.state_of(first.lock_id), node.state_of(second.lock_id)) == (GRACE, QUEUED), "grace is still held"
    node.pass_time(MARGIN_S)
    assert node.state_of(first.lock_id) == FREE
    row = node.row(second.lock_id)
    assert row is not None and row.state == HELD and row.token > first.token
    node.pass_time(TTL_S - MARGIN_S)
    assert node.state_of(second.lock_id) == HELD, "the grant begins with a full TTL"


@pytest.mark.req("WS-41", "D-6")
async def test_a_renewed_lock_is_held_for_ever_and_no_command_is_logged_for_it() -> None:
    node = LockNode()
    held = node.lock(1, acquire("build"))
    index = node.host.applied_index
    for _ in range(20):
        node.pass_time(TTL_S / 3)
        assert await node.renew((held.lock_id, held.token)) == [Renewed(held.lock_id, HELD, held.token)]
    assert node.state_of(held.lock_id) == HELD
    assert node.host.applied_index == index, "renewals stay in the leader's memory"


@pytest.mark.req("D-6")
async def test_a_renewal_is_answered_only_after_a_majority_confirmed_the_leader() -> None:
    node = LockNode()
    held = node.lock(1, acquire("build"))
    task = node.renewing((held.lock_id, held.token))
    await turns()
    assert not task.done(), "belief is no confirmation"
    assert len(node.engine.reads) == 1
    node.engine.fail_reads("NOT_LEADER", "n2")
    with pytest.raises(NotLeaderError):
        await task


@pytest.mark.req("D-6")
async def test_a_round_that_takes_long_does_not_shorten_the_lease() -> None:
    """What counts is when the renewal arrived: until its answer the lease is not due."""
    node = LockNode()
    held = node.lock(1, acquire("build"))
    node.pass_time(TTL_S - MARGIN_S)
    task = node.renewing((held.lock_id, held.token))
    await turns()
    node.pass_time(TTL_S - MARGIN_S)
    assert node.state_of(held.lock_id) == HELD
    node.engine.confirm_reads(node.host.applied_index)
    assert (await task)[0].state == HELD


@pytest.mark.req("D-6")
@pytest.mark.parametrize("fate", ["applied", "turned away"])
async def test_a_renewal_waits_for_the_verdict_on_an_expiry_that_is_on_its_way(fate: str) -> None:
    node = LockNode()
    held = node.lock(1, acquire("build"))
    node.pass_time(TTL_S + GRACE_S + 1, commits=False)
    node.work()  # HELD to GRACE
    assert node.state_of(held.lock_id) == GRACE
    node.pass_time(GRACE_S + LOOK_S, commits=False)
    assert node.engine.proposals, "GRACE to FREE is proposed"
    task = node.renewing((held.lock_id, held.token))
    await turns()
    node.engine.confirm_reads(node.host.applied_index)
    await turns()
    assert not task.done(), "the expiry may yet apply: HELD would be a lie"
    if fate == "applied":
        node.work()
        await turns()
        assert await task == [Renewed(held.lock_id, FREE, 0)]
        return
    node.engine.refuse("QUEUE_FULL")
    for _ in range(4):
        node.pass_time(LOOK_S)
        await turns()
    assert await task == [Renewed(held.lock_id, HELD, held.token)], "it was revived by a logged step"
    assert node.state_of(held.lock_id) == HELD


@pytest.mark.req("D-6")
async def test_a_renewal_does_not_say_held_while_the_way_into_the_grace_is_open() -> None:
    node = LockNode()
    held = node.lock(1, acquire("build"))
    node.pass_time(TTL_S + LOOK_S, commits=False)
    assert node.engine.proposals and node.state_of(held.lock_id) == HELD
    task = node.renewing((held.lock_id, held.token))
    await turns()
    node.engine.confirm_reads(node.host.applied_index)
    await turns()
    assert not task.done(), "in its grace it would have less than the TTL that it was told"
    node.work()
    await turns()
    node.work()
    await turns()
    assert await task == [Renewed(held.lock_id, HELD, held.token)]
    node.pass_time(TTL_S - LOOK_S)
    assert node.state_of(held.lock_id) == HELD


@pytest.mark.req("WS-41", "D-6")
async def test_a_renewal_in_the_grace_is_answered_after_the_logged_step_that_makes_it_held() -> None:
    node = LockNode()
    held = node.lock(1, acquire("build"))
    node.pass_time(TTL_S + MARGIN_S)
    assert node.state_of(held.lock_id) == GRACE
    task = node.renewing((held.lock_id, held.token))
    await turns()
    node.turns.settle()
    node.engine.confirm_reads(node.host.applied_index)
    await turns()
    assert node.engine.proposals and not task.done()
    assert node.state_of(held.lock_id) == GRACE
    node.work()
    await turns()
    assert await task == [Renewed(held.lock_id, HELD, held.token)], "the same grant, the same token"
    node.pass_time(TTL_S - LOOK_S)
    assert node.state_of(held.lock_id) == HELD, "a full TTL from that step"


async def test_a_late_renewal_of_what_is_lost_says_so() -> None:
    node = LockNode()
    held = node.lock(1, acquire("build"))
    node.pass_time(TTL_S + GRACE_S + 2)
    assert await node.renew((held.lock_id, held.token)) == [Renewed(held.lock_id, FREE, 0)]
    other = node.lock(1, acquire("test"))
    assert (await node.renew((other.lock_id, other.token + 1)))[0].state == FREE, "another token"
    assert (await node.renew((other.lock_id, other.token), caller=BOB))[0].state == FREE, "another worker"


@pytest.mark.req("WS-40")
async def test_waits_end_by_their_deadline_or_with_their_client_and_not_before() -> None:
    node = LockNode()
    held = node.lock(1, acquire("build"))
    short = node.lock(2, acquire("build", wait_ms=9_000))
    silent = node.lock(3, acquire("build"))
    spoken = node.lock(4, acquire("build"))
    for _ in range(6):
        node.pass_time(TTL_S / 4)
        await node.renew((held.lock_id, held.token), (short.lock_id, 0), (spoken.lock_id, 0))
    # 7.5 s: silent for longer than TTL and grace
    assert [node.state_of(one.lock_id) for one in (short, silent, spoken)] == [QUEUED, FREE, QUEUED]
    for _ in range(2):
        node.pass_time(TTL_S / 4)
        await node.renew((held.lock_id, held.token), (short.lock_id, 0), (spoken.lock_id, 0))
    assert [node.state_of(one.lock_id) for one in (short, spoken)] == [FREE, QUEUED]
    node.lock(1, release(held.lock_id))
    (told,) = await node.renew((spoken.lock_id, 0))
    row = node.row(spoken.lock_id)
    assert row is not None and told == Renewed(spoken.lock_id, HELD, row.token), "a grant is told by its renewal, too"


@pytest.mark.req("WS-42", "D-6")
async def test_a_new_leader_gives_every_lease_a_full_ttl_and_keeps_its_token() -> None:
    node = LockNode()
    held = node.lock(1, acquire("build"))
    grace = node.lock(2, acquire("test"))
    node.pass_time(TTL_S - MARGIN_S)
    await node.renew((held.lock_id, held.token))
    node.pass_time(2 * MARGIN_S)
    assert (node.state_of(held.lock_id), node.state_of(grace.lock_id)) == (HELD, GRACE)
    node.pass_time(TTL_S - 5 * LOOK_S - MARGIN_S)
    node.engine.follow("n2")
    node.leases.look()
    assert len(node.leases.timers) == 0, "a follower has no view of leases"
    node.engine.now = replace(node.engine.now, role=Role.LEADER, leader=NodeId("n1"), term=Term(5))
    node.leases.look()
    node.pass_time(TTL_S - LOOK_S)
    assert node.state_of(held.lock_id) == HELD
    node.pass_time(MARGIN_S)
    assert node.state_of(held.lock_id) == GRACE
    row = node.row(held.lock_id)
    assert row is not None and row.token == held.token


@pytest.mark.req("D-6")
async def test_a_node_that_leads_again_starts_anew_though_nobody_looked_in_between() -> None:
    node = LockNode()
    held = node.lock(1, acquire("build"))
    node.turns.now_s += TTL_S - LOOK_S
    node.engine.now = replace(node.engine.now, term=Term(9))
    node.pass_time(TTL_S - MARGIN_S)
    assert node.state_of(held.lock_id) == HELD, "what was seen in another term is worth nothing"


async def test_leases_are_read_in_pages_and_renewed_before_theirs_was(monkeypatch: pytest.MonkeyPatch) -> None:
    node = LockNode()
    held = [node.lock(1, acquire(f"l{number}")) for number in range(12)]
    monkeypatch.setattr("hypercluster.node.leases.LEASES_A_TURN", 5)
    node.engine.now = replace(node.engine.now, term=Term(9))
    node.leases.look()
    assert len(node.leases.timers) == 5
    last = held[-1]
    assert await node.renew((last.lock_id, last.token)) == [Renewed(last.lock_id, HELD, last.token)]
    assert len(node.leases.timers) == 6
    node.lock(1, release(held[7].lock_id))
    node.pass_time(LOOK_S)
    assert len(node.leases.timers) == 11


@pytest.mark.req("WS-43")
async def test_a_reclaim_waits_for_a_full_ttl_of_silence_and_of_leading() -> None:
    node = LockNode()
    held = node.lock(1, acquire("build"))
    alive = REASONS["HOLDER_ALIVE"]
    node.pass_time(TTL_S)
    await node.renew((held.lock_id, held.token))
    node.pass_time(1)
    assert node.do(2, reclaim(held.lock_id, held.token))[0] == alive, "renewed within a TTL"
    assert 4_900 < node.answers[-1][0].retry_after_ms <= 5_001
    node.pass_time(COUNTED_S - 1 - LOOK_S)
    assert node.do(2, reclaim(held.lock_id, held.token))[0] == alive, "its holder may count on it still"
    node.pass_time(LOOK_S)
    assert node.state_of(held.lock_id) == GRACE
    taken = node.lock(2, reclaim(held.lock_id, held.token))
    assert taken.state == HELD and taken.token > held.token
    assert await node.renew((held.lock_id, held.token)) == [Renewed(held.lock_id, FREE, 0)]


@pytest.mark.req("WS-43")
async def test_a_command_of_a_client_is_a_sign_of_it() -> None:
    node = LockNode()
    held = node.lock(1, acquire("build"))
    node.pass_time(COUNTED_S - LOOK_S)
    node.lock(1, acquire("else"))
    node.pass_time(2 * LOOK_S)
    assert node.state_of(held.lock_id) == GRACE
    assert node.do(2, reclaim(held.lock_id, held.token))[0] == REASONS["HOLDER_ALIVE"]


@pytest.mark.req("WS-43")
async def test_a_new_leader_lets_no_reclaim_through_before_it_has_led_for_a_ttl() -> None:
    node = LockNode()
    held = node.lock(1, acquire("build"))
    node.engine.now = replace(node.engine.now, term=Term(9))
    node.turns.now_s += TTL_S
    node.leases.look()
    node.pass_time(COUNTED_S - LOOK_S)
    assert node.do(2, reclaim(held.lock_id, held.token))[0] == REASONS["HOLDER_ALIVE"]
    node.pass_time(LOOK_S)
    assert node.lock(2, reclaim(held.lock_id, held.token)).token > held.token


@pytest.mark.req("WS-43", "D-6")
async def test_a_renewal_waits_for_the_verdict_on_a_reclaim() -> None:
    node = LockNode()
    held = node.lock(1, acquire("build"))
    node.pass_time(COUNTED_S)  # in its grace
    from tests.unit.node.commands import client, submit

    node.send(submit(client(2), 1, reclaim(held.lock_id, held.token), workspace_id=node.workspace_id))
    task = node.renewing((held.lock_id, held.token))
    await turns()
    node.turns.settle()
    node.engine.confirm_reads(node.host.applied_index)
    await turns()
    assert not task.done()
    node.work()
    await turns()
    assert await task == [Renewed(held.lock_id, FREE, 0)]


async def test_a_renewal_without_a_verdict_in_time_says_that_it_does_not_know(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hypercluster.node.leases.RENEW_VERDICT_MS", 20)
    node = LockNode()
    stuck, held = node.lock(1, acquire("build")), node.lock(1, acquire("test"))
    node.pass_time(TTL_S - MARGIN_S)
    await node.renew((held.lock_id, held.token))
    node.pass_time(2 * MARGIN_S, commits=False)
    assert node.engine.proposals
    task = node.renewing((stuck.lock_id, stuck.token), (held.lock_id, held.token))
    await turns()
    node.engine.confirm_reads(node.host.applied_index)
    assert [one.state for one in await task] == [NO_VERDICT, HELD]


async def test_one_lease_without_a_verdict_does_not_keep_the_others_from_theirs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("hypercluster.node.leases.RENEW_VERDICT_MS", 50)
    node = LockNode()
    stuck, soon = node.lock(1, acquire("build")), node.lock(1, acquire("test"))
    node.leases.timers.claim(stuck.lock_id, 1)
    node.leases.timers.claim(soon.lock_id, 1)
    task = node.renewing((stuck.lock_id, stuck.token), (soon.lock_id, soon.token))
    await turns()
    node.engine.confirm_reads(node.host.applied_index)
    await turns()
    node.leases.timers.claim(soon.lock_id, -1)
    node.leases._tell((soon.lock_id,))
    assert [one.state for one in await task] == [NO_VERDICT, HELD]


async def test_however_many_come_up_at_once_one_look_at_them_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hypercluster.node.lease_timers.LOOKS_A_TURN", 3)
    node = LockNode()
    held = [node.lock(1, acquire(f"l{number}")) for number in range(8)]
    node.turns.now_s += TTL_S + 1
    timers, now_s = node.leases.timers, node.turns.now_s
    found = [len(timers.due(now_s, 0, 100)) for _ in range(4)]
    assert found == [3, 3, 2, 0] and sum(found) == len(held)


async def test_how_many_locks_there_are_and_what_became_of_renewals_is_counted() -> None:
    node = LockNode()
    held = node.lock(1, acquire("build"))
    node.lock(2, acquire("build"))
    node.leases.look()
    metrics = node.metrics
    assert [metrics.locks.labels(state)._value.get() for state in ("held", "grace", "queued")] == [1, 0, 1]
    await node.renew((held.lock_id, held.token), (5, 5))
    node.pass_time(TTL_S + GRACE_S + 2)
    assert metrics.renewals.labels("held")._value.get() == 1 and metrics.renewals.labels("lost")._value.get() == 1
    ended = {name: metrics.lease_steps.labels(name)._value.get() for name in ("held", "grace", "queued", "renewed")}
    assert ended == {"held": 1, "grace": 1, "queued": 1, "renewed": 0}
    node.engine.follow("n2")
    node.leases.look()
    assert metrics.locks.labels("held")._value.get() == 0, "only the leader counts them"
