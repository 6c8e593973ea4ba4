"""Applying: S7, unknown types, order, contexts, pauses, and the one answer that each proposal gets."""

from __future__ import annotations

import pytest

from hypercluster.errors import ApplyFailedError
from hypercluster.limits import ENTRY_BYTES_MAX, PENDING_OPS_MAX
from hypercluster.raft.engine import Committed, NotProposed, ProposalOutcome, Unknown
from hypercluster.storage.wal.types import LogEntry
from hypercluster.values import Index, NodeId, Term
from tests.engine_world.world import World
from tests.known_bad.ablations import PRODUCT, build


@pytest.mark.req("CL-16")
def test_s7_an_exception_in_apply_stops_the_node_before_the_index_is_stored() -> None:
    world = World()
    world.elect("a")
    world.commit("a", "fine")
    world.run(0.1)
    world.hosts["b"].poison = b"bad"
    world.commit("a", "bad")
    world.run(0.3)
    fatal = world.nodes["b"].fatal
    assert isinstance(fatal, ApplyFailedError)
    assert "entry 3" in str(fatal)
    assert isinstance(fatal.__cause__, ValueError)
    assert world.hosts["b"].applied_index == 2
    assert world.engines["b"].status().stopped == "APPLY_FAILED"
    assert world.applied("c") == ["fine", "bad"]


@pytest.mark.req("CL-16", "CL-1")
@pytest.mark.parametrize("name", [PRODUCT, "S7"])
def test_s7_a_callback_that_raises_applies_nothing_twice(name: str) -> None:
    with build(name) as product:
        world = World()
        world.elect("a")
        calls: list[ProposalOutcome] = []

        def gone(outcome: ProposalOutcome) -> None:
            calls.append(outcome)
            raise RuntimeError("the client is gone")

        world.engines["a"].propose(b"\x10once", None, gone)
        world.run(0.5)
        assert (world.applied("a") == ["once"]) == product
        if product:
            assert len(calls) == 1
            assert world.nodes["a"].fatal is None


@pytest.mark.req("CL-16")
def test_an_entry_of_unknown_type_stops_the_node() -> None:
    world = World()
    a = world.elect("a")
    a.journal.append([LogEntry(Index(2), Term(1), b"\x7fnew")])
    world.flush()
    world.run(3.0)
    stopped = [n for n in "abc" if isinstance(world.nodes[n].fatal, ApplyFailedError)]
    assert "a" in stopped
    assert len(stopped) >= 2  # whoever could commit it
    assert "0x7f" in str(world.nodes["a"].fatal)
    assert all(world.hosts[n].applied_index == 1 for n in "abc")


def test_what_is_no_batch_or_too_large_is_turned_away() -> None:
    world = World()
    a = world.elect("a")
    outcomes: list[ProposalOutcome] = []
    for payload in (b"", b"\x00", b"\x11\x00", b"\x10" + bytes(ENTRY_BYTES_MAX)):
        a.propose(payload, None, outcomes.append)
    assert [o.reason for o in outcomes if isinstance(o, NotProposed)] == ["MALFORMED"] * 3 + ["TOO_LARGE"]
    assert a.wal.last_index == 1


def test_the_queue_of_proposals_is_bounded() -> None:
    world = World()
    a = world.elect("a")
    world.isolate("a")
    outcomes: list[ProposalOutcome] = []
    for _ in range(PENDING_OPS_MAX + 3):
        a.propose(b"\x10x", None, outcomes.append)
    assert outcomes == [NotProposed("QUEUE_FULL", NodeId("a"))] * 3
    world.run(1.0)
    assert len(outcomes) == PENDING_OPS_MAX + 3
    assert all(isinstance(o, Unknown) for o in outcomes[3:])


def test_the_host_sees_the_context_of_its_own_proposals_and_none_elsewhere() -> None:
    world = World()
    world.elect("a")
    world.commit("a", "x")
    world.run(0.2)
    assert world.hosts["a"].contexts == ["x"]
    assert world.hosts["b"].contexts == [None]


def test_a_host_that_is_not_ready_pauses_applying_and_nothing_else() -> None:
    world = World()
    a = world.elect("a")
    world.hosts["a"].is_ready = False
    outcomes = world.propose("a", "x")
    world.run(0.5)
    assert outcomes == []
    assert a.commit_index() == 2
    assert a.is_leader()  # heartbeats went on
    assert a.next_deadline() <= world.now + 0.0011
    world.hosts["a"].is_ready = True
    world.tick("a")
    assert isinstance(outcomes[0], Committed)


@pytest.mark.req("CL-4", "CL-10")
def test_a_host_that_is_not_ready_holds_up_no_leader() -> None:
    """It may wait for room on the disk: a new leader's own entry takes none, and its reads need it."""
    world = World()
    for host in world.hosts.values():
        host.is_ready = False
    a = world.elect("a")
    world.run(0.5)
    assert a.commit_index() == a.applied_index() == 1


def test_answers_come_in_index_order_and_once() -> None:
    world = World()
    world.elect("a")
    order: list[int] = []

    def note(outcome: ProposalOutcome) -> None:
        assert isinstance(outcome, Committed)
        order.append(outcome.index)

    for n in range(50):
        world.engines["a"].propose(b"\x10%d" % n, None, note)
        if n % 7 == 0:
            world.flush()
    world.flush()
    assert order == list(range(2, 52))


@pytest.mark.req("D-8")
def test_what_was_in_flight_is_unknown_and_what_was_queued_is_definitely_not() -> None:
    world = World()
    a = world.elect("a")
    in_log = world.propose("a", "in the log")
    world.tick("a")
    queued = world.propose("a", "queued")
    a.observe_term(9)
    assert in_log == [Unknown("LEADERSHIP_LOST")]
    assert queued == [NotProposed("NOT_LEADER", None)]


@pytest.mark.req("D-8")
def test_stop_answers_everything_once_and_is_idempotent() -> None:
    world = World()
    a = world.elect("a")
    in_log = world.propose("a", "in the log")
    world.tick("a")
    queued = world.propose("a", "queued")
    reads = world.read("a")
    a.stop()
    a.stop()
    assert isinstance(in_log[0], Unknown)
    assert isinstance(queued[0], NotProposed)
    assert isinstance(reads[0], NotProposed)
    assert world.propose("a", "later") == [NotProposed("STOPPED", None)]
    a.tick()
    assert a.status().stopped == "STOPPED"


@pytest.mark.req("D-8")
def test_a_committed_entry_gets_its_result_also_from_a_leader_that_stepped_down() -> None:
    world = World()
    a = world.elect("a")
    world.hosts["a"].is_ready = False
    outcomes = world.propose("a", "x")
    world.flush()
    assert a.commit_index() == 2
    a.observe_term(5)
    assert outcomes == []
    world.hosts["a"].is_ready = True
    world.tick("a")
    assert isinstance(outcomes[0], Committed)
