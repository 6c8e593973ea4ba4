"""A lane that gives up what ended without a known outcome before it goes on (WS-4), against the simple model of D-7."""

from __future__ import annotations

import random

import pytest

from hypercluster.client.abandoning_lane import AbandoningLane
from hypercluster.client.lane import Lane
from hypercluster.client.lane_types import Send, Settled, Verdict
from hypercluster.pb.v1 import command_pb2 as command_pb
from hypercluster.values import ClientId
from tests.unit.client.lane_model import abandon_in
from tests.unit.client.test_lane import MS, Run, answer, sends

SEEDS = range(120)


def order_of(run: Run) -> list[int]:
    return [int(command.strip(b"c!")) for _, _, command in run.cluster.applied]


@pytest.mark.req("WS-4", "D-7", "D-8")
@pytest.mark.parametrize("seed", SEEDS)
def test_nothing_overtakes_a_command_whose_outcome_was_open(seed: int) -> None:
    """Over all lives of the lane, and whatever reaches the cluster long after it was given up."""
    run = Run(seed, fault_rate=random.Random(seed).choice((0.05, 0.3, 0.6, 0.8)), lane_type=AbandoningLane)
    run.go(commands=150)
    run.check()
    order = order_of(run)
    assert order == sorted(order), f"seed {seed}"


@pytest.mark.req("WS-4")
def test_a_lane_that_just_goes_on_is_overtaken() -> None:
    """What the property above is worth: without the abandon it does not hold."""
    overtaken = unknown = 0
    for seed in range(40):
        run = Run(seed, fault_rate=0.8, lane_type=Lane)
        run.go(commands=150)
        order = order_of(run)
        overtaken += order != sorted(order)
        unknown += any(settled.verdict is Verdict.UNKNOWN for settled in run.settled.values())
    assert overtaken > 0 and unknown > 0


class Ids:
    """16 bytes that count."""

    def __init__(self) -> None:
        self.given = 0

    def __call__(self) -> ClientId:
        self.given += 1
        return ClientId(self.given.to_bytes(16, "big"))


def blocked() -> tuple[AbandoningLane, ClientId, int]:
    """A lane whose one command ended UNKNOWN; the client_id it had, and the time."""
    lane = AbandoningLane(Ids(), random.Random(1))
    lane.known(5)
    lane.connected(0)
    old_id = lane.client_id
    lane.submit(0, b"a")
    sends(lane, 0)
    lane.disconnected(0)
    now = 30_001 * MS
    (settled,) = lane.advance(now)
    assert isinstance(settled, Settled) and settled.verdict is Verdict.UNKNOWN
    return lane, old_id, now


@pytest.mark.req("WS-4")
def test_the_abandon_goes_first_and_alone_and_what_follows_waits_for_it() -> None:
    lane, old_id, now = blocked()
    assert lane.is_abandoning and lane.pending == 1, "there is work for a connection"
    ticket = lane.submit(now, b"b")
    lane.connected(now)
    (submit,) = sends(lane, now)
    abandon = abandon_in(submit.commands[0])
    assert abandon is not None and len(submit.commands) == 1
    assert (abandon.client_id, abandon.through_seq, abandon.basis) == (old_id, 1, 5)
    assert submit.client_id == lane.client_id != old_id
    # Lost on its way, it is the same command again, however long it takes.
    lane.disconnected(now)
    lane.connected(now + 10)
    (again,) = sends(lane, now + 10)
    assert again == submit
    lane.acks(now + 20, answer(again, raft_index=9))
    (after,) = sends(lane, now + 20)
    assert list(after.commands) == [b"b"] and after.first_seq == 2 and not lane.is_abandoning
    lane.acks(now + 30, answer(after, raft_index=10))
    (settled,) = lane.advance(now + 30)
    assert isinstance(settled, Settled) and (settled.ticket, settled.verdict) == (ticket, Verdict.OK)


@pytest.mark.req("WS-4", "WS-3")
def test_without_a_leader_what_waits_for_the_abandon_is_not_done() -> None:
    lane, _, now = blocked()
    ticket = lane.submit(now, b"b")
    recalled = lane.submit(now, b"c")
    assert lane.next_deadline_ns() == now + 5_000 * MS
    lane.recall(recalled)
    (settled,) = lane.advance(now)
    assert isinstance(settled, Settled) and (settled.ticket, settled.verdict) == (recalled, Verdict.NOT_DONE)
    assert lane.advance(now + 4_999 * MS) == []
    (settled,) = lane.advance(now + 5_000 * MS)
    assert isinstance(settled, Settled)
    assert (settled.ticket, settled.verdict, settled.reason) == (ticket, Verdict.NOT_DONE, command_pb.REASON_NO_QUORUM)
    assert lane.is_abandoning, "the abandon is proposed as soon as there is a leader"
    lane.connected(now + 60_000 * MS)
    assert len(sends(lane, now + 60_000 * MS)) == 1


@pytest.mark.req("WS-4")
@pytest.mark.parametrize(
    "reason", [command_pb.REASON_UNKNOWN, command_pb.REASON_FORBIDDEN, command_pb.REASON_MALFORMED]
)
def test_an_abandon_that_nobody_will_judge_is_let_go(reason: int) -> None:
    lane, _, now = blocked()
    lane.submit(now, b"b")
    lane.connected(now)
    (submit,) = sends(lane, now)
    lane.acks(now, answer(submit, reason))
    sent = [i for i in lane.advance(now) if isinstance(i, Send)]
    assert not lane.is_abandoning and len(sent) == 1
    assert list(command_pb.Submit.FromString(sent[0].payload).commands) == [b"b"]


@pytest.mark.req("WS-4")
def test_a_command_that_was_surely_not_done_needs_no_abandon() -> None:
    lane = AbandoningLane(Ids(), random.Random(1))
    lane.submit(0, b"a")
    (settled,) = lane.advance(5_000 * MS)
    assert isinstance(settled, Settled) and settled.verdict is Verdict.NOT_DONE
    assert not lane.is_abandoning and lane.pending == 0


def test_the_window_counts_what_waits() -> None:
    lane, _, now = blocked()
    while lane.has_room:
        lane.submit(now, b"x")
    assert lane.pending == lane._settings.window
