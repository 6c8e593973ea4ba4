"""What must be on disk before it is said (DUR): acknowledgements, the leader's own count, votes and terms."""

from __future__ import annotations

import pytest

from hypercluster.errors import DiskFailedError
from hypercluster.pb.v1.peer_pb2 import PeerFrame
from hypercluster.raft.engine import Committed, NotProposed, ReadReady
from hypercluster.raft.settings import EngineSettings
from hypercluster.values import NodeId
from tests.engine_world.world import World
from tests.known_bad.ablations import PRODUCT, build


def frames(world: World, source: str, target: str, kind: str) -> list[PeerFrame]:
    parsed = [PeerFrame.FromString(frame) for frame in world.links[source, target]]
    return [frame for frame in parsed if frame.WhichOneof("kind") == kind]


def hold_syncs(world: World, *names: str) -> None:
    for name in names:
        world.syncs[name].auto = False


@pytest.mark.req("CL-2")
@pytest.mark.parametrize("name", [PRODUCT, "DUR"])
def test_a_follower_acknowledges_after_its_sync(name: str) -> None:
    with build(name) as product:
        world = World()
        world.elect("a")
        hold_syncs(world, "b")
        world.propose("a", "x")
        world.tick("a")
        world.deliver("a", "b", 10)
        world.tick("b")
        held = not any(frame.append_ack.match_index >= 2 for frame in frames(world, "b", "a", "append_ack"))
        assert held == product
        if product:
            assert world.syncs["b"].run_one()
            assert [frame.append_ack.match_index for frame in frames(world, "b", "a", "append_ack")] == [2]


@pytest.mark.req("CL-2", "CL-6")
@pytest.mark.parametrize("name", [PRODUCT, "DUR-next-sync"])
def test_a_finished_sync_releases_only_what_it_covered(name: str) -> None:
    """Steps: 1. entry 2 arrives, its sync starts; 2. entry 3 arrives meanwhile; 3. the first sync ends: only 2 may be
    acknowledged; a crash now loses 3."""
    with build(name) as product:
        world = World()
        world.elect("a")
        hold_syncs(world, "b")
        for text in ("x", "y"):
            world.propose("a", text)
            world.tick("a")
            world.deliver("a", "b", 10)
            world.tick("b")
        world.syncs["b"].run_one()
        said = max(frame.append_ack.match_index for frame in frames(world, "b", "a", "append_ack"))
        world.crash("b")
        world.restart("b")
        assert (said <= world.engines["b"].wal.last_index) == product


@pytest.mark.req("CL-2", "D-9")
@pytest.mark.parametrize("name", [PRODUCT, "DUR-leader"])
def test_the_leader_counts_itself_after_its_own_sync(name: str) -> None:
    with build(name) as product:
        world = World()
        leader = world.elect("a")
        world.isolate("c")
        hold_syncs(world, "a")
        outcomes = world.propose("a", "x")
        world.flush()
        assert world.engines["b"].wal.durable_index == 2
        assert (leader.commit_index() == 1) == product
        assert outcomes == []  # even then: nothing is applied here before it is durable here
        if product:
            world.syncs["a"].run_one()
            world.flush()
            assert isinstance(outcomes[0], Committed)


@pytest.mark.req("CL-6")
def test_sending_does_not_wait_for_the_leaders_sync() -> None:
    world = World()
    world.elect("a")
    hold_syncs(world, "a")
    outcomes = world.propose("a", "x")
    world.flush()
    assert {name: world.engines[name].wal.durable_index for name in "bc"} == {"b": 2, "c": 2}
    assert world.engines["a"].commit_index() == 2  # two of three disks hold it
    assert not outcomes
    world.syncs["a"].run_one()
    world.flush()
    assert isinstance(outcomes[0], Committed)


@pytest.mark.req("CL-2")
@pytest.mark.parametrize("name", [PRODUCT, "DUR"])
def test_a_vote_leaves_after_it_is_on_disk(name: str) -> None:
    with build(name) as product:
        world = World()
        world.run(0.02)
        hold_syncs(world, "b")
        world.isolate("c")
        world.time_out("a")  # pre-vote: promises nothing, needs no disk
        world.deliver("a", "b", 10)
        world.deliver("b", "a", 10)
        world.tick("a")  # its own vote, synced: now it may ask
        world.deliver("a", "b", 10)
        world.tick("b")
        votes = frames(world, "b", "a", "vote_reply")
        assert (votes == []) == product
        world.syncs["b"].run_one()
        assert [frame.vote_reply.granted for frame in frames(world, "b", "a", "vote_reply")] == [True]


@pytest.mark.req("CL-2")
def test_a_candidate_asks_for_votes_after_its_own_is_on_disk() -> None:
    world = World()
    world.run(0.02)
    hold_syncs(world, "a")
    world.time_out("a")
    for other in "bc":
        world.deliver("a", other, 10)
        world.deliver(other, "a", 10)
    assert world.engines["a"].term() == 1
    assert frames(world, "a", "b", "request_vote") == []
    world.tick("a")
    world.syncs["a"].run_one()
    assert len(frames(world, "a", "b", "request_vote")) == 1


@pytest.mark.req("CL-2")
@pytest.mark.parametrize("name", [PRODUCT, "VOTE"])
def test_a_node_votes_once_a_term_also_after_a_restart(name: str) -> None:
    with build(name) as product:
        world = World("abcde")
        world.run(0.02)
        request = PeerFrame()
        request.request_vote.term, request.request_vote.transfer = 7, True
        for candidate in ("a", "b"):
            voter = world.engines["c"]
            voter.on_request_vote(voter.peers[NodeId(candidate)], request.request_vote)
            world.tick("c")  # and the sync behind it
            world.crash("c")
            world.restart("c")
        assert (world.nodes["c"].log.image.hard_state.voted_for == "a") == product


@pytest.mark.req("CL-4")
def test_a_failed_sync_stops_the_node_for_good() -> None:
    world = World()
    world.elect("a")
    world.nodes["b"].log.broken = True
    world.propose("a", "x")
    world.flush()
    assert isinstance(world.nodes["b"].fatal, DiskFailedError)
    assert world.engines["b"].status().stopped == "DISK_FAILED"
    assert world.engines["b"].match_index(world.engines["b"].peers[NodeId("a")]) == 0
    groups = world.nodes["b"].log.groups
    world.run(2.0)
    assert world.nodes["b"].log.groups == groups  # it never tries again
    assert world.applied("c") == ["x"]


@pytest.mark.req("CL-4")
def test_a_full_disk_steps_down_serves_reads_and_comes_back() -> None:
    world = World()
    world.elect("a")
    world.commit("a", "x")
    world.nodes["a"].log.full = True
    outcomes = world.propose("a", "y")
    world.flush()
    assert outcomes == [NotProposed("DISK_FULL", None)]
    assert world.engines["a"].status().refusing_writes == "DISK_FULL"
    assert world.applied("a") == ["x"]
    new = world.leader()
    assert new.node_id != "a"
    assert world.commit(new.node_id, "z").index > 2
    reads = world.read(new.node_id)
    world.flush()
    assert isinstance(reads[0], ReadReady)
    world.run(2.0)
    assert world.applied("a") == ["x"]  # it can not store z
    world.nodes["a"].log.full = False
    world.run(2.0)
    assert world.applied("a") == ["x", "z"]
    assert world.engines["a"].status().refusing_writes == ""


@pytest.mark.req("CL-4")
def test_a_node_with_a_full_disk_does_not_campaign_and_says_so() -> None:
    world = World(settings=EngineSettings(disk_full_retry_ms=60_000))
    world.elect("a")
    world.nodes["b"].log.full = True
    world.propose("a", "x")
    world.flush()
    world.run(0.2)
    assert world.engines["a"].peers[NodeId("b")].unfit
    world.crash("a")
    world.isolate("c")
    term = world.engines["b"].term()
    world.run(3.0)
    assert world.engines["b"].term() == term


@pytest.mark.req("CL-2", "CL-12")
def test_a_heartbeat_does_not_take_the_place_of_a_held_acknowledgement() -> None:
    """A new leader's first entry brings its term along: both wait for one sync, and so does what a heartbeat behind
    them is answered. That answer must say as much as the one it replaces."""
    world = World()
    world.elect("a").step_down()
    world.isolate("c")
    b = world.elect("b")
    hold_syncs(world, "c")
    world.connect("b", "c")
    world.deliver("b", "c", 1)  # the hello
    world.deliver("c", "b", 1)
    world.drop("b", "c")
    peer = b.peers[NodeId("c")]
    peer.verified = True
    b._SyncObj__raftNextIndex[peer.node] = b.own_no_op()
    for _ in range(2):  # the entry, then a heartbeat
        b._SyncObj__sendAppendEntries()
        world.deliver("b", "c", 10)
    c = world.engines["c"]
    assert c.wal.last_index == b.own_no_op() > c.wal.durable_index
    world.drop("c", "b")
    c.start_sync()
    while world.syncs["c"].run_one():
        pass
    said = [frame.append_ack.match_index for frame in frames(world, "c", "b", "append_ack")]
    assert max(said) == b.own_no_op()
