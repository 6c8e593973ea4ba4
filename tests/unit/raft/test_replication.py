"""The log between nodes: S1, S2, S3, L1, FLOW, S5, and what a commit index may follow."""

from __future__ import annotations

import pytest

from hypercluster.limits import ENTRY_BYTES_MAX, PEER_FRAME_BYTES_MAX
from hypercluster.pb.v1.peer_pb2 import AppendAck, PeerFrame
from hypercluster.raft.engine import Committed, NotProposed, Unknown
from hypercluster.raft.settings import EngineSettings
from hypercluster.values import Index, NodeId
from tests.engine_world.world import World
from tests.known_bad.ablations import PRODUCT, build

SMALL_FRAMES = EngineSettings(append_bytes_max=8, append_entries_max=3)


@pytest.mark.req("CL-5", "CL-1")
@pytest.mark.parametrize("name", [PRODUCT, "S1"])
def test_s1_a_repeated_frame_drops_nothing_that_was_acknowledged(name: str) -> None:
    """1. the leader's frames are lost with a reset; 2. two heartbeats are rejected, and the leader sends everything
    again, twice in the library; 3. b acknowledges the first copy, a commits and answers; 4. the first frame of the
    second copy reaches b, and a dies. Whoever leads then must hold what was answered."""
    with build(name) as product:
        world = World(settings=SMALL_FRAMES)
        world.elect("a")
        world.isolate("c")
        outcomes = [world.propose("a", f"w{n}") for n in range(9)]
        world.tick("a")
        copy = list(world.links["a", "b"])
        world.flush(("a", "b"), ("b", "a"))
        assert all(isinstance(o[0], Committed) for o in outcomes)
        world.crash("a")
        b = world.engines["b"]
        b._SyncObj__raftCommitIndex = 1  # the news of the commit was still on its way
        b.wal._seen.commit_index = 1  # type: ignore[attr-defined]
        b.on_append(b.peers[NodeId("a")], PeerFrame.FromString(copy[0]).append)
        kept = b.wal.last_index == 10
        assert kept == product
        if product:
            world.connect("b", "c")
            world.elect("b")
            assert world.applied("c") == [f"w{n}" for n in range(9)]


@pytest.mark.req("CL-1")
@pytest.mark.parametrize("name", [PRODUCT, "S2"])
def test_s2_an_acknowledgement_of_another_term_counts_nothing(name: str) -> None:
    """b acknowledged ten entries of term 1; they were replaced; the late message must not count for new ones."""
    with build(name) as product:
        world = World("abcde")
        leader = world.elect("a")
        late = PeerFrame(append_ack=AppendAck(term=leader.term(), success=True, match_index=4, round=99))
        world.isolate("a")
        world.elect("c")
        world.rejoin("a")
        world.run(0.2)
        world.isolate("c")
        world.elect("a")
        for name_ in "bde":
            world.isolate(name_)
        for text in ("n1", "n2", "n3", "n4"):
            world.propose("a", text)
        world.flush()
        a = world.engines["a"]
        before = a.match_index(a.peers[NodeId("b")])
        late.append_ack.match_index = a.wal.last_index
        a.on_append_ack(a.peers[NodeId("b")], late.append_ack)
        assert (a.match_index(a.peers[NodeId("b")]) == before) == product


@pytest.mark.req("CL-1")
@pytest.mark.parametrize("name", [PRODUCT, "S3"])
def test_s3_a_commit_index_without_a_verified_prefix_commits_nothing(name: str) -> None:
    """An old leader returns with writes that exist nowhere else, into a cluster that has committed further and
    compacted its log: heartbeats and pieces of a checkpoint come before anything placed its log."""
    settings = EngineSettings(
        checkpoint_every_entries=5, log_keep_entries=1, checkpoint_piece_bytes=32, checkpoint_window_bytes=32
    )
    with build(name) as product:
        world = World(settings=settings)
        world.elect("a")
        world.isolate("a")
        ghosts = [world.propose("a", f"GHOST{n}") for n in range(3)]
        world.tick("a")
        world.elect("b")
        for n in range(12):
            world.commit("b", f"real{n}")
        world.run(0.2)
        assert world.engines["b"].wal.base_index > 4
        world.rejoin("a")
        applied_ghosts = False
        for _ in range(40):
            world.now += 0.06
            world.tick("b", "c")
            world.deliver("b", "a", 1)
            world.tick("a")
            world.deliver("a", "b", 1)
            applied_ghosts = applied_ghosts or any("GHOST" in text for text in world.applied("a"))
        assert (not applied_ghosts) == product
        if product:
            world.run(2.0)
            assert all(isinstance(o[0], Unknown) for o in ghosts)
            assert world.applied("a") == [f"real{n}" for n in range(12)]


@pytest.mark.req("CL-5")
@pytest.mark.parametrize("name", [PRODUCT, "S5"])
def test_s5_a_restored_commit_index_stays_within_the_log(name: str) -> None:
    """The stored hint outlived the log's tail on every node. A leader must not commit new entries by itself."""
    with build(name) as product:
        world = World()
        world.elect("a")
        for n in range(5):
            world.commit("a", f"w{n}")
        world.run(0.3)
        for node in "abc":
            world.crash(node)
            image = world.nodes[node].log.image
            image.commit_index = 50
        for node in "abc":
            world.restart(node)
        assert (world.engines["a"].commit_index() <= world.engines["a"].wal.last_index) == product


@pytest.mark.req("CL-1")
@pytest.mark.parametrize("name", [PRODUCT, "L1"])
def test_l1_a_divergent_follower_catches_up_in_a_few_round_trips(name: str) -> None:
    with build(name) as product:
        world = World(settings=SMALL_FRAMES)
        world.elect("a")
        world.isolate("a")
        for n in range(40):
            world.propose("a", f"lost{n}")
        world.tick("a")
        world.elect("b")
        for n in range(60):
            world.commit("b", f"kept{n}")
        world.rejoin("a")
        rejected = 0
        for _ in range(400):
            world.now += 0.005
            world.tick()
            for frame in world.links.get(("a", "b"), ()):
                parsed = PeerFrame.FromString(frame)
                rejected += parsed.WhichOneof("kind") == "append_ack" and not parsed.append_ack.success
            for link in sorted(world.links):
                world.deliver(*link, 100)
            if world.applied("a") == world.applied("b"):
                break
        assert (rejected <= 4) == product
        assert world.applied("a") == world.applied("b") or not product


@pytest.mark.req("CL-13")
@pytest.mark.parametrize("name", [PRODUCT, "FLOW"])
def test_flow_bytes_to_a_slow_peer_are_bounded(name: str) -> None:
    settings = EngineSettings(append_bytes_max=1000, in_flight_bytes_max=10_000)
    with build(name) as product:
        world = World(settings=settings)
        world.elect("a")
        for _ in range(300):
            world.propose("a", b"z" * 500)
            world.tick("a")
            world.flush(("a", "b"), ("b", "a"))  # c takes nothing
        queued = sum(len(frame) for frame in world.links["a", "c"])
        assert (queued < 30_000) == product
        assert world.engines["a"].commit_index() == 301
        world.run(1.0)
        assert len(world.applied("c")) == 300


def test_a_frame_holds_a_bounded_piece_of_the_log() -> None:
    world = World(settings=EngineSettings(append_bytes_max=2000, append_entries_max=50))
    world.elect("a")
    world.isolate("c")
    for _ in range(200):
        world.propose("a", b"z" * 100)
    world.flush()
    world.connect("a", "c")
    sizes: list[int] = []
    for _ in range(200):
        world.now += 0.02
        world.tick("a")
        sizes += [len(frame) for frame in world.links["a", "c"]]
        world.deliver("a", "c", 100)
        world.tick("c")
        world.deliver("c", "a", 100)
    assert len(world.applied("c")) == 200
    assert 1000 < max(sizes) < 4000


@pytest.mark.req("CL-5")
def test_truncation_only_on_a_conflict_and_never_at_the_commit_index() -> None:
    world = World()
    world.elect("a")
    world.commit("a", "kept")
    world.isolate("a")
    world.propose("a", "gone")
    world.tick("a")
    assert world.engines["a"].wal.last_index == 3
    world.elect("b")
    world.commit("b", "other")
    world.rejoin("a")
    world.run(1.0)
    assert world.applied("a") == ["kept", "other"]
    a = world.engines["a"]
    bad = PeerFrame()
    leader = world.leader()
    bad.append.term = leader.term()
    bad.append.prev_index, bad.append.prev_term = 1, 1
    bad.append.entries.add(index=2, term=leader.term(), payload=b"\x10evil")
    a._on_frame_bytes(leader.node_id, bad.SerializeToString())
    assert "truncate committed entry 2" in str(world.nodes["a"].fatal)


@pytest.mark.req("CL-5")
def test_an_entry_of_an_older_term_is_committed_only_with_one_of_the_own_term() -> None:
    """Raft 5.4.2, figure 8."""
    world = World("abcde")
    world.elect("a")
    world.isolate("c")
    world.isolate("d")
    world.isolate("e")
    world.propose("a", "old")
    world.tick("a")
    world.deliver("a", "b", 100)
    world.tick("b")
    world.crash("a")
    world.connect_all()
    b = world.elect("b")
    entry = b.wal.entry(Index(2))
    assert (entry.payload, entry.term) == (b"\x10old", 1)
    assert b.commit_index() >= 3  # its own no-op carried it
    assert world.applied("c") == ["old"]


def test_several_proposals_of_a_turn_share_a_frame_and_a_sync() -> None:
    world = World()
    world.elect("a")
    groups = {name: world.nodes[name].log.groups for name in "abc"}
    for n in range(20):
        world.propose("a", f"w{n}")
    world.tick("a")
    appends = [PeerFrame.FromString(f).append for f in world.links["a", "b"]]
    assert [len(a.entries) for a in appends] == [20]
    world.flush()
    assert {name: world.nodes[name].log.groups - groups[name] for name in "abc"} == {"a": 1, "b": 1, "c": 1}


@pytest.mark.req("CL-1")
@pytest.mark.parametrize("name", [PRODUCT, "L2"])
def test_l2_the_largest_entries_travel_whole_in_bounded_frames(name: str) -> None:
    with build(name) as product:
        world = World()
        world.elect("a")
        world.isolate("c")
        payloads = [bytes([n]) * (ENTRY_BYTES_MAX - 1) for n in range(1, 6)]
        for payload in payloads:
            world.propose("a", payload)
        world.tick("a")
        bounded = max(len(frame) for frame in world.links["a", "b"]) <= PEER_FRAME_BYTES_MAX
        assert bounded == product
        if product:
            world.flush()
            world.rejoin("c")
            world.run(1.0)
            for node in "abc":
                assert [payload[1:] for _, _, payload in world.hosts[node].history] == payloads


@pytest.mark.req("QUO-2", "CL-17", "CL-10")
def test_ack_acknowledgements_carry_the_sync_time_a_digest_and_a_probe() -> None:
    world = World()
    world.elect("a")
    world.commit("a", "x")
    world.run(1.5)
    world.engines["b"].fsync_us = 1234
    world.engines["a"]._SyncObj__sendAppendEntries()
    world.deliver("a", "b", 1)
    ack = PeerFrame.FromString(world.links["b", "a"][-1]).append_ack
    assert ack.fsync_us == 1234
    assert ack.digest == world.hosts["b"].digest_at(Index(ack.digest_index))
    assert ack.digest_index == 2
    assert (ack.probe_ns, ack.applied_index) == (int(world.now * 1e9), 2)
    assert abs(ack.clock_ns - world.clocks["b"].wall_ns()) < 10**6
    world.flush()
    assert {p.node_id: p.fsync_us for p in world.engines["a"].status().peers}[NodeId("b")] == 1234


@pytest.mark.req("CL-1", "D-8")
@pytest.mark.parametrize("name", [PRODUCT, "S8a"])
def test_s8a_nothing_is_forwarded_by_a_follower(name: str) -> None:
    with build(name) as product:
        world = World()
        world.elect("a")
        before = {link: len(queue) for link, queue in world.links.items()}
        answered = world.propose("b", "x") == [NotProposed("NOT_LEADER", NodeId("a"))]
        assert answered == product
        world.tick("b")
        assert {link: len(queue) for link, queue in world.links.items()} == before
