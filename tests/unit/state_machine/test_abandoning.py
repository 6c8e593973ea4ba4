"""Giving up what became of nobody knows what (WS-4): seqs that are burned stay burned."""

from __future__ import annotations

import pytest

from hypercluster.limits import LANE_RESULTS_MAX
from hypercluster.node.dedupe import stored_answer
from hypercluster.pb.v1.command_pb2 import Command, ForgetLane
from hypercluster.pb.v1.coordination_command_pb2 import Abandon
from hypercluster.state_machine import queries
from hypercluster.state_machine.decoded import DecodedGroup
from hypercluster.state_machine.outcome import (
    ABANDONED,
    FORBIDDEN,
    IDEMPOTENCY_CONFLICT,
    LIMIT,
    OK,
    PRECONDITION_FAILED,
    UNKNOWN,
)
from hypercluster.state_machine.queries import Judgement
from hypercluster.state_machine.wire import read_run
from hypercluster.values import ClientId, Scope
from tests.fakes.commands import SCOPE, Replica, answers, client, group, hub_set, maintenance, reasons, submit

LOST, ITS_WORKER = client(1), client(2)


class Site:
    """The lane in doubt, and another of the same worker that gives up its seqs."""

    def __init__(self) -> None:
        self.replica = Replica()
        self.seq = 0
        self.strangers = 0

    def sent(self, first_seq: int, count: int, basis: int = 0) -> list[int]:
        commands = [hub_set(b"k%d" % seq) for seq in range(first_seq, first_seq + count)]
        return reasons(self.replica.run(LOST, first_seq, *commands, basis=basis))

    def abandon(
        self, through_seq: int, client_id: bytes = LOST, *, principal: str = "worker-7", basis: int = 0, **more: Scope
    ) -> tuple[int, int]:
        """(reason, version)."""
        command = Command(abandon=Abandon(client_id=client_id, through_seq=through_seq, basis=basis))
        sender, seq = ITS_WORKER, self.seq + 1
        if principal == "worker-7" and not more:
            self.seq = seq
        else:  # a stranger: in a lane that nobody has
            self.strangers += 1
            sender, seq = client(50 + self.strangers), 1
        message = submit(sender, seq, [command.SerializeToString()], basis=int(self.replica.index))
        applied = self.replica.apply(group(message, principal=principal, **more))
        ((_, _, reason, version),) = answers(applied.groups[0])
        return reason, version


@pytest.fixture
def site() -> Site:
    return Site()


@pytest.mark.req("WS-4")
def test_what_was_judged_keeps_its_result_and_the_rest_is_abandoned_for_ever(site: Site) -> None:
    assert site.sent(1, 3) == [OK] * 3
    versions = answers(site.replica.run(LOST, 1, hub_set(b"k1"), hub_set(b"k2"), hub_set(b"k3")))
    assert site.abandon(5) == (OK, 3)
    server_seq = queries.server_seq(site.replica.store, Scope("acme", "web"))
    assert site.sent(4, 2) == [ABANDONED] * 2
    assert site.sent(3, 3) == [OK, ABANDONED, ABANDONED]
    assert reasons(site.replica.run(LOST, 4, hub_set(b"quite another"))) == [ABANDONED]
    assert answers(site.replica.run(LOST, 1, hub_set(b"k1"), hub_set(b"k2"), hub_set(b"k3"))) == versions
    assert queries.server_seq(site.replica.store, Scope("acme", "web")) == server_seq
    site.replica.restart()
    assert site.sent(4, 2) == [ABANDONED] * 2


@pytest.mark.req("WS-4")
def test_the_same_again_changes_nothing(site: Site) -> None:
    site.sent(1, 3)
    assert site.abandon(5) == (OK, 3)
    before = [pair for pair in site.replica.store.items() if LOST in pair.key]
    assert site.abandon(5) == (OK, 3)
    assert site.abandon(4) == (OK, 3)
    assert site.abandon(2) == (OK, 2)
    assert [pair for pair in site.replica.store.items() if LOST in pair.key] == before
    assert site.abandon(7) == (OK, 3)


def test_the_lane_goes_on_above(site: Site) -> None:
    site.sent(1, 1)
    site.abandon(3)
    assert site.sent(4, 2) == [OK, OK]
    assert site.sent(2, 4) == [ABANDONED, ABANDONED, OK, OK]
    assert site.abandon(5) == (OK, 5)


def test_a_run_that_is_given_up_in_part_is_judged_from_there_on(site: Site) -> None:
    site.sent(1, 1)
    site.abandon(3)
    assert site.sent(2, 4) == [ABANDONED, ABANDONED, OK, OK]


@pytest.mark.req("WS-4")
def test_an_unknown_lane_is_made_so_that_a_late_command_finds_it_burned(site: Site) -> None:
    assert site.abandon(4) == (OK, 0)
    assert site.sent(2, 3) == [ABANDONED] * 3
    assert site.sent(1, 1) == [ABANDONED]
    assert queries.lane_count(site.replica.store) == 2
    assert site.sent(5, 1) == [OK]


def test_a_lane_that_is_made_far_up_knows_nothing_of_what_is_further_below(site: Site) -> None:
    assert site.abandon(5_000) == (OK, 5_000 - LANE_RESULTS_MAX)
    assert site.sent(5_000 - LANE_RESULTS_MAX, 2) == [UNKNOWN, ABANDONED]


def test_a_lane_that_may_have_been_forgotten_is_not_made_anew(site: Site) -> None:
    site.sent(1, 2)
    forget = maintenance(forget_lane=ForgetLane(client_id=LOST, last_seq=2))
    assert reasons(site.replica.run(client(9), 1, forget, basis=int(site.replica.index))) == [OK]
    floor = int(queries.dedupe_floor(site.replica.store))
    assert site.abandon(2, basis=floor - 1) == (UNKNOWN, 0)  # it was judged, and nobody knows any more
    assert site.abandon(2, basis=int(site.replica.index) + 9) == (UNKNOWN, 0)  # nobody can have known that index
    assert site.abandon(2, basis=floor) == (OK, 0)


def test_only_the_same_worker_and_scope_may(site: Site) -> None:
    site.sent(1, 1)
    assert site.abandon(3, principal="mallory") == (FORBIDDEN, 0)
    assert site.abandon(3, scope=Scope("acme", "other")) == (FORBIDDEN, 0)
    assert site.sent(2, 1) == [OK]


def test_no_lane_gives_up_its_own_seqs(site: Site) -> None:
    """Past admission, which turns it away."""
    command = Command(abandon=Abandon(client_id=ITS_WORKER, through_seq=9)).SerializeToString()
    message = submit(ITS_WORKER, 1, [command])
    made = DecodedGroup(message, "worker-7", SCOPE, "", read_run(message))
    assert reasons(site.replica.apply(made).groups[0]) == [PRECONDITION_FAILED]


def test_one_command_burns_no_more_than_a_client_has_in_flight(site: Site) -> None:
    site.sent(1, 1)
    assert site.abandon(2 + LANE_RESULTS_MAX) == (LIMIT, 0)
    assert site.abandon(1 + LANE_RESULTS_MAX) == (OK, 1)
    assert site.sent(2, 1) == [ABANDONED]


def test_status_and_the_fast_path_say_so_too(site: Site) -> None:
    site.sent(1, 2)
    site.abandon(4)
    status = queries.intent_status(site.replica.store, ClientId(LOST), 4)
    assert status.judgement is Judgement.JUDGED and status.result is not None
    assert status.result.reasons == (ABANDONED,)
    machine = site.replica.machine
    sent = group(submit(LOST, 2, [hub_set(b"k2"), hub_set(b"k3"), hub_set(b"k4")]))
    found = stored_answer(machine.lane(ClientId(LOST)), sent)
    assert found is not None and reasons(found) == [OK, ABANDONED, ABANDONED]
    other = group(submit(LOST, 2, [hub_set(b"not that"), hub_set(b"k3")]))
    assert stored_answer(machine.lane(ClientId(LOST)), other) is None
    assert reasons(site.replica.apply(other).groups[0]) == [IDEMPOTENCY_CONFLICT, ABANDONED]


def test_what_follows_in_the_same_entry_finds_it_burned(site: Site) -> None:
    def of(client_id: bytes, seq: int, *commands: bytes) -> DecodedGroup:
        return group(submit(client_id, seq, commands))

    abandon = Command(abandon=Abandon(client_id=LOST, through_seq=3)).SerializeToString()
    groups = [of(LOST, 1, hub_set(b"a")), of(ITS_WORKER, 1, abandon), of(LOST, 2, hub_set(b"b"), hub_set(b"c"))]
    applied = site.replica.apply(*groups, of(LOST, 4, hub_set(b"d")))
    assert [reasons(result) for result in applied.groups] == [[OK], [OK], [ABANDONED, ABANDONED], [OK]]
    assert answers(applied.groups[1])[0][3] == 1
