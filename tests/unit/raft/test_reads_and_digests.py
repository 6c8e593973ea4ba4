"""ReadIndex and freshness (CL-10), and digests compared between nodes (CL-17)."""

from __future__ import annotations

import pytest

from hypercluster.errors import DivergedError
from hypercluster.pb.v1.peer_pb2 import CheckpointAck
from hypercluster.raft.digests import DigestWatch, Question, Verdict
from hypercluster.raft.engine import Committed, NotProposed, ProposalOutcome, ReadReady
from hypercluster.raft.reads import Freshness
from hypercluster.raft.settings import EngineSettings
from hypercluster.values import Digest, Index, Membership, NodeId
from tests.engine_world.world import World
from tests.known_bad.ablations import PRODUCT, build


@pytest.mark.req("CL-10")
@pytest.mark.parametrize("name", [PRODUCT, "READ"])
def test_an_old_leader_serves_no_read(name: str) -> None:
    with build(name) as product:
        world = World()
        world.elect("a")
        world.commit("a", "old")
        world.isolate("a")
        a = world.engines["a"]
        world.elect("b")
        world.commit("b", "new")
        a._SyncObj__setState(2)  # it was suspended, and still believes
        reads = world.read("a")
        a._answer_reads()
        assert (not any(isinstance(outcome, ReadReady) for outcome in reads)) == product


@pytest.mark.req("CL-10")
def test_a_read_waits_for_a_round_that_began_after_it() -> None:
    world = World()
    a = world.elect("a")
    a._SyncObj__sendAppendEntries()  # a round is under way
    reads = world.read("a")
    for other in "bc":
        world.deliver("a", other, 1)
        world.deliver(other, "a", 1)
    a._answer_reads()
    assert reads == []
    world.flush()
    assert reads == [ReadReady(Index(1), a.term())]


@pytest.mark.req("CL-10")
def test_many_reads_share_one_round() -> None:
    world = World()
    a = world.elect("a")
    before = a.round
    reads = [world.read("a") for _ in range(500)]
    world.flush()
    assert all(isinstance(outcome[0], ReadReady) for outcome in reads)
    assert a.round - before <= 2


@pytest.mark.req("CL-10")
def test_a_new_leader_serves_no_read_before_its_no_op_is_applied() -> None:
    world = World()
    world.elect("a")
    world.commit("a", "x")
    world.crash("a")
    b = world.engines["b"]
    while not b.is_leader():
        world.engines["c"]._SyncObj__raftElectionDeadline = world.now + 1
        world.now += 0.02
        world.tick()
        for link in (("b", "c"), ("c", "b")):
            world.deliver(*link, 1)
    assert b.commit_index() < b.own_no_op()
    reads = world.read("b")
    assert reads == []
    world.flush()
    assert isinstance(reads[0], ReadReady)
    assert reads[0].index >= b.own_no_op()
    assert world.applied("b") == ["x"]


@pytest.mark.req("CL-10")
def test_a_follower_sends_reads_to_the_leader_it_knows() -> None:
    world = World()
    world.elect("a")
    assert world.read("b") == [NotProposed("NOT_LEADER", NodeId("a"))]


@pytest.mark.req("CL-10")
def test_reads_fail_when_leadership_is_lost() -> None:
    world = World()
    world.elect("a")
    world.isolate("a")
    reads = world.read("a")
    world.run(2.0)
    assert len(reads) == 1
    assert isinstance(reads[0], NotProposed)


@pytest.mark.req("CL-10")
def test_a_followers_freshness_is_counted_from_its_own_probe() -> None:
    world = World()
    world.elect("a")
    world.run(1.0)
    for name in "bc":
        fresh_s = world.engines[name].status().fresh_boottime_ns / 1e9
        assert world.now - 0.5 < fresh_s <= world.now
    world.isolate("c")
    world.commit("a", "x")
    cut_s = world.now
    world.run(3.0)
    assert world.engines["c"].status().fresh_boottime_ns / 1e9 <= cut_s


@pytest.mark.req("CL-10")
def test_an_echo_that_no_quorum_confirmed_makes_nothing_fresh() -> None:
    """a and b are cut off together from c, d and e, who go on: b hears a, and may not believe to be fresh."""
    world = World("abcde")
    world.elect("a")
    world.run(0.5)
    for inside in "ab":
        for outside in "cde":
            world.disconnect(inside, outside)
    cut_s = world.now
    world.run(0.3)
    assert world.engines["b"].status().fresh_boottime_ns / 1e9 <= cut_s
    assert world.engines["a"].status().fresh_boottime_ns / 1e9 <= cut_s


def test_freshness_waits_until_the_state_has_caught_up() -> None:
    fresh = Freshness()
    fresh.echoed(1000, Index(5))
    fresh.applied(Index(4))
    assert fresh.boottime_ns == 0
    fresh.applied(Index(5))
    assert fresh.boottime_ns == 1000


@pytest.mark.req("CL-17")
@pytest.mark.parametrize("name", [PRODUCT, "DIGEST"])
def test_a_follower_whose_state_differs_stops(name: str) -> None:
    with build(name) as product:
        world = World()
        world.elect("a")
        world.hosts["b"].twist = b"defect"
        for n in range(5):
            world.commit("a", f"w{n}")
        world.run(4.0)
        assert isinstance(world.nodes["b"].fatal, DivergedError) == product
        assert world.nodes["a"].fatal is None
        assert world.nodes["c"].fatal is None


@pytest.mark.req("CL-17")
@pytest.mark.parametrize("name", [PRODUCT, "DIGEST"])
def test_a_leader_in_the_minority_steps_down_and_stops(name: str) -> None:
    with build(name) as product:
        world = World()
        world.elect("a")
        world.hosts["a"].twist = b"defect"
        world.commit("a", "x")
        world.run(6.0)
        assert isinstance(world.nodes["a"].fatal, DivergedError) == product
        if product:
            new = world.leader()
            assert new.node_id in "bc"
            world.commit(new.node_id, "y")


@pytest.mark.req("CL-17")
def test_without_a_majority_writes_are_refused_until_there_is_one() -> None:
    world = World()
    a = world.elect("a")
    world.commit("a", "x")
    world.run(0.5)
    world.isolate("c")
    world.hosts["b"].twist = b"defect"
    world.commit("a", "y")
    world.run(4.0)
    assert a.status().refusing_writes == "DIVERGED"
    assert world.propose("a", "z") == [NotProposed("DIVERGED", NodeId("a"))]
    world.rejoin("c")
    world.run(4.0)
    assert isinstance(world.nodes["b"].fatal, DivergedError)
    assert a.status().refusing_writes == ""
    outcomes = world.propose("a", "z")
    world.flush()
    assert isinstance(outcomes[0], Committed)


@pytest.mark.req("CL-17")
def test_verdicts_need_a_quorum() -> None:
    one, two = Digest(b"1" * 32), Digest(b"2" * 32)
    a, b, c = NodeId("a"), NodeId("b"), NodeId("c")

    def verdict(answers: dict[NodeId, Digest], quorum: int = 2) -> Verdict:
        return Question(Index(1), 0.0, answers).verdict(a, quorum)

    assert verdict({a: one}) is Verdict.OPEN
    assert verdict({a: one, b: one}) is Verdict.AGREED
    assert verdict({a: one, b: two}) is Verdict.SPLIT
    assert verdict({a: one, b: two, c: two}) is Verdict.MINORITY
    assert verdict({a: one, b: one, c: two}) is Verdict.AGREED
    assert verdict({a: one, b: one, c: two}, quorum=3) is Verdict.SPLIT


def test_a_statement_is_compared_once_the_state_is_there() -> None:
    watch = DigestWatch()
    watch.heard(7, b"d" * 32)
    assert watch.statement_due(Index(6)) is None
    assert watch.statement_due(Index(7)) == (7, b"d" * 32)
    assert watch.statement_due(Index(8)) is None


@pytest.mark.req("CL-17", "QUO-1")
def test_a_disagreement_ends_when_the_other_side_is_removed() -> None:
    """Four voters, two against two: no majority. Removing one of them, by hand, leaves one."""
    world = World("abcd")
    a = world.elect("a")
    world.commit("a", "x")
    world.run(0.5)
    world.hosts["b"].twist = world.hosts["c"].twist = b"defect"
    world.commit("a", "y")
    world.run(3.0)
    assert a.status().refusing_writes == "DIVERGED"
    now = a.membership()
    outcomes: list[ProposalOutcome] = []
    kept = tuple(m for m in now.members if m.node_id != "b")
    a.change_membership(Membership(Index(0), 3, kept), outcomes.append)
    world.run(4.0)
    assert isinstance(outcomes[0], Committed)
    assert isinstance(world.nodes["c"].fatal, DivergedError)
    assert a.status().refusing_writes == ""
    world.commit("a", "z")


@pytest.mark.req("CL-10")
def test_an_installed_checkpoint_confirms_no_round_of_its_leader() -> None:
    """c led for long and counted many rounds; its word that it installed a checkpoint must not pass for a later one."""
    world = World(settings=EngineSettings(checkpoint_every_entries=10, log_keep_entries=2))
    c = world.elect("c")
    world.run(20.0, step_s=0.05)
    world.isolate("c")
    a = world.elect("a")
    for n in range(40):
        world.commit("a", f"w{n}")
    world.rejoin("c")
    world.run(0.3)
    assert world.hosts["c"].installed == 1
    assert c.round > a.round >= a.peers[NodeId("c")].acked_round
    world.isolate("a")
    reads = world.read("a")
    world.tick("a")
    world.tick("a")
    assert reads == []


@pytest.mark.req("CL-10")
def test_an_answer_to_a_round_that_was_never_sent_confirms_nothing() -> None:
    world = World()
    a = world.elect("a")
    peer = a.peers[NodeId("b")]
    confirmed = peer.acked_round
    a.on_checkpoint_ack(peer, CheckpointAck(term=a.term(), checkpoint_id="1-1", round=a.round + 1))
    assert peer.acked_round == confirmed
