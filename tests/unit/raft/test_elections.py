"""Who leads: S8c, S8d, S8e, check-quorum, transfer, loop lag, clocks, and who is too unfit to lead."""

from __future__ import annotations

import pytest

from hypercluster.pb.v1.peer_pb2 import PeerFrame, VoteReply
from hypercluster.raft.engine import NotProposed, ProposalOutcome, Unknown
from hypercluster.values import NodeId, Role
from tests.engine_world.world import World
from tests.known_bad.ablations import PRODUCT, build


@pytest.mark.req("CL-11")
@pytest.mark.parametrize("name", [PRODUCT, "S8c"])
def test_s8c_a_leader_without_a_majority_steps_down_within_two_election_timeouts(name: str) -> None:
    with build(name) as product:
        world = World()
        world.elect("a")
        world.isolate("a")
        pending = world.propose("a", "x")
        world.run(2 * world.settings.election_min_ms / 1e3)
        assert (world.engines["a"].role() is not Role.LEADER) == product
        assert (pending == [Unknown("LEADERSHIP_LOST")]) == product


@pytest.mark.req("CL-11")
@pytest.mark.parametrize("name", [PRODUCT, "S8c"])
def test_s8c_a_stale_leader_learns_of_the_newer_term_by_the_answers(name: str) -> None:
    with build(name) as product:
        world = World()
        world.elect("a")
        world.isolate("a")
        world.elect("b")
        a = world.engines["a"]
        a._SyncObj__setState(2)  # it was asleep and still believes
        world.connect("a", "c")
        world.tick("a")
        a._SyncObj__sendAppendEntries()
        world.deliver("a", "c", 10)
        world.deliver("c", "a", 10)
        assert (a.role() is not Role.LEADER) == product


@pytest.mark.req("CL-11")
@pytest.mark.parametrize("name", [PRODUCT, "S8d"])
def test_s8d_a_node_that_was_cut_off_does_not_depose_a_healthy_leader(name: str) -> None:
    with build(name) as product:
        world = World()
        leader = world.elect("a")
        world.disconnect("a", "c")  # c hears b only
        world.run(6.0)
        assert (leader.role() is Role.LEADER and leader.term() == 1) == product
        world.connect("a", "c")
        world.run(1.0)
        assert (max(engine.term() for engine in world.engines.values()) == 1) == product


@pytest.mark.req("CL-11", "CL-15")
@pytest.mark.parametrize("name", [PRODUCT, "S8e"])
@pytest.mark.parametrize("voters", ["bb", "xy"])
def test_s8e_votes_count_once_and_only_from_voters(name: str, voters: str) -> None:
    """Of five: the same voter twice, and two learners, are no majority with the candidate."""
    with build(name) as product:
        world = World("abcdexy", voters="abcde")
        a = world.engines["a"]
        for extra in "xy":
            add_learner(world, extra)
        a._campaign(transfer=False)
        for voter in voters:
            a.on_vote_reply(a.peers[NodeId(voter)], VoteReply(term=a.term(), granted=True))
        assert (a.role() is Role.CANDIDATE) == product


def add_learner(world: World, name: str) -> None:
    """Straight into every log, as if it had been committed."""
    from tests.unit.raft.test_membership import with_learner

    for engine in world.engines.values():
        engine.members.append(with_learner(engine.membership(), name, engine.membership().index + 1))
        engine._rebuild_peers()


@pytest.mark.req("CL-11")
def test_a_transfer_hands_over_at_once_and_tells_when_it_is_done() -> None:
    world = World()
    world.elect("a")
    world.commit("a", "x")
    outcomes: list[ProposalOutcome | None] = []
    before = world.now
    world.engines["a"].transfer_leadership(NodeId("b"), outcomes.append)
    refused = world.propose("a", "while it hands over")
    world.flush()
    assert world.engines["b"].role() is Role.LEADER
    assert world.now == before  # no timeout passed
    world.run(0.1)
    assert outcomes == [None]
    assert refused == [NotProposed("NOT_LEADER", NodeId("b"))]
    world.commit("b", "y")
    world.run(0.2)
    assert world.applied("a") == ["x", "y"]


@pytest.mark.req("CL-11")
def test_a_transfer_waits_until_the_target_has_everything() -> None:
    world = World()
    world.elect("a")
    outcomes: list[ProposalOutcome | None] = []
    world.propose("a", "x")
    world.tick("a")
    world.engines["a"].transfer_leadership(NodeId("b"), outcomes.append)
    world.tick("a")
    kinds = [PeerFrame.FromString(f).WhichOneof("kind") for f in world.links["a", "b"]]
    assert "timeout_now" not in kinds
    world.flush()
    world.run(0.2)
    assert world.engines["b"].role() is Role.LEADER
    assert world.applied("b") == ["x"]


def test_a_transfer_that_leads_nowhere_is_given_up() -> None:
    world = World()
    world.elect("a")
    world.swallowed.add(("a", "b"))
    outcomes: list[ProposalOutcome | None] = []
    world.engines["a"].transfer_leadership(NodeId("b"), outcomes.append)
    world.run(world.settings.transfer_ms / 1e3 + 0.1)
    assert outcomes == [NotProposed("DEADLINE", NodeId("a"))]
    assert world.engines["a"].role() is Role.LEADER
    world.swallowed.clear()
    world.commit("a", "goes on")


def test_a_timeout_now_from_anybody_but_the_leader_is_ignored() -> None:
    world = World()
    world.elect("a")
    b = world.engines["b"]
    forged = PeerFrame()
    forged.timeout_now.term = b.term()
    b._on_frame_bytes(NodeId("c"), forged.SerializeToString())
    world.flush()
    assert world.engines["a"].role() is Role.LEADER
    assert b.term() == 1


def test_after_the_loop_was_held_up_the_sockets_are_read_before_campaigning() -> None:
    world = World()
    world.elect("a")
    world.run(0.3)
    c = world.engines["c"]
    for _ in range(20):  # c's loop stands still; the leader's heartbeats lie in its socket
        world.now += 0.1
        world.tick("a", "b")
        for link in (("a", "b"), ("b", "a"), ("c", "a")):
            world.deliver(*link, 100)
    assert world.now > c._SyncObj__raftElectionDeadline
    c.tick()
    assert c._pre_vote_term == 0
    world.deliver("a", "c", 1000)
    c.tick()
    world.flush()
    assert c._pre_vote_term == 0
    assert world.engines["a"].term() == 1


@pytest.mark.req("D-5")
@pytest.mark.parametrize("name", [PRODUCT, "CLOCK"])
def test_a_leader_whose_clock_is_off_hands_over(name: str) -> None:
    with build(name) as product:
        world = World()
        world.elect("a")
        world.clocks["a"].wall_ahead_ns = 5 * 10**9
        world.run(1.5)
        assert (world.leader().node_id != "a") == product
        if product:
            assert world.engines["a"].status().clock_skew_ms > 2000 or world.engines["a"].peers[NodeId("b")].connected


@pytest.mark.req("D-5")
@pytest.mark.parametrize("name", [PRODUCT, "CLOCK"])
def test_a_node_whose_clock_is_off_does_not_campaign(name: str) -> None:
    with build(name) as product:
        world = World("abcde")
        world.elect("a")
        world.clocks["b"].wall_ahead_ns = -5 * 10**9
        world.run(0.5)
        world.crash("a")
        world.now += 1.0
        for other in "cde":
            world.engines[other]._SyncObj__raftElectionDeadline = world.now + 60
        for _ in range(5):
            world.time_out("b")
            world.flush()
        assert (world.engines["b"].role() is not Role.LEADER) == product


@pytest.mark.req("D-5")
def test_stamps_grow_across_leader_changes_and_stay_near_the_median() -> None:
    world = World()
    a = world.elect("a")
    stamps: list[int] = []

    def stamped(name: str, span: int) -> None:
        stamp = world.engines[name].next_stamp_ns(span)
        assert stamp >= (stamps[-1] if stamps else 0)
        stamps.append(stamp + span)
        world.propose(name, b"S" + (stamp + span).to_bytes(8, "big"))
        world.flush()

    for _ in range(3):
        stamped("a", 100)
    assert a.next_stamp_ns(1) >= stamps[-1]
    ahead = stamps[-1] + 3 * 10**9  # an entry far ahead, from a leader whose clock was
    world.propose("a", b"S" + ahead.to_bytes(8, "big"))
    world.flush()
    stamps.append(ahead)
    world.crash("a")
    b = world.leader()
    stamped(b.node_id, 10)
    assert stamps[-1] < ahead + 100
    world.crash(b.node_id)
    world.restart("a")
    world.restart(b.node_id)
    stamped(world.leader().node_id, 10)


@pytest.mark.req("D-5")
def test_no_stamp_runs_away_with_the_leaders_clock() -> None:
    world = World()
    a = world.elect("a")
    world.run(0.3)
    world.clocks["a"].wall_ahead_ns = 10 * 10**9
    stamp = a.next_stamp_ns(1)
    assert stamp <= world.clocks["b"].wall_ns() + 2_050_000_000


@pytest.mark.req("CL-14", "D-14")
def test_one_node_alone_is_a_cluster() -> None:
    world = World("a")
    world.leader()
    assert world.commit("a", "x").index == 2
    reads = world.read("a")
    world.flush()
    assert reads
    world.crash("a")
    world.restart("a")
    world.run(1.5)
    assert world.commit("a", "y").term == 2
    assert world.applied("a") == ["x", "y"]


@pytest.mark.req("CL-12")
def test_the_next_commit_follows_a_killed_leader_within_two_seconds() -> None:
    for seed in range(8):
        world = World(seed=seed)
        first = world.leader()
        world.commit(first.node_id, "x")
        world.crash(first.node_id)
        before = world.now
        while not any(e.is_leader() and e.commit_index() >= e.own_no_op() for e in world.engines.values()):
            world.run(0.02)
        assert world.now - before < 2.0, f"seed {seed}"
        assert world.applied(world.leader().node_id) == ["x"]


@pytest.mark.req("D-11")
def test_a_minority_accepts_nothing_and_keeps_its_state() -> None:
    world = World()
    world.elect("a")
    world.commit("a", "x")
    world.run(0.1)
    world.isolate("c")
    world.run(2.0)
    assert world.propose("c", "y") == [NotProposed("NOT_LEADER", None)]
    assert world.engines["c"].term() == 1
    assert world.applied("c") == ["x"]
    world.isolate("a")
    world.isolate("b")
    world.run(2.0)
    for name in "abc":  # also the one that led
        assert world.propose(name, "z") == [NotProposed("NOT_LEADER", None)]
        assert world.applied(name) == ["x"]


@pytest.mark.req("D-8")
def test_a_transfer_in_flight_is_answered_by_stop() -> None:
    world = World()
    world.elect("a")
    outcomes: list[ProposalOutcome | None] = []
    world.engines["a"].transfer_leadership(NodeId("b"), outcomes.append)
    world.engines["a"].stop()
    assert outcomes == [NotProposed("STOPPED", None)]


@pytest.mark.req("CL-11")
def test_a_transfer_that_comes_back_to_this_node_is_answered() -> None:
    world = World()
    a = world.elect("a")
    outcomes: list[ProposalOutcome | None] = []
    a.transfer_leadership(NodeId("b"), outcomes.append)
    a.tick()
    world.crash("b")  # before it heard of its luck
    a.step_down()
    world.elect("a")
    assert [isinstance(outcome, NotProposed) for outcome in outcomes] == [True]
