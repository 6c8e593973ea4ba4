"""Checkpoints between nodes and compaction: S4, S9, FORK, and what an install leaves after a stop in the middle."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
from blake3 import blake3

from hypercluster.errors import DamagedError, DiskFullError
from hypercluster.pb.v1.peer_pb2 import PeerFrame
from hypercluster.raft.engine import CheckpointMeta, Committed
from hypercluster.raft.peers import CheckpointSession
from hypercluster.raft.settings import EngineSettings
from hypercluster.values import Index, NodeId
from tests.engine_world.memory_wal import LogImage
from tests.engine_world.state import MemoryReceiver
from tests.engine_world.world import World
from tests.known_bad.ablations import PRODUCT, build

SETTINGS = EngineSettings(
    checkpoint_every_entries=10, log_keep_entries=2, checkpoint_piece_bytes=64, checkpoint_window_bytes=128
)


def far_ahead(world: World, entries: int = 40) -> None:
    """a leads, c is away, and the log that c would need is compacted."""
    world.elect("a")
    world.run(0.1)
    world.isolate("c")
    for n in range(entries):
        world.commit("a", f"w{n}")
    world.run(0.2)
    assert world.engines["a"].wal.base_index > 10


@pytest.mark.req("CL-8", "CL-9")
def test_a_node_far_behind_gets_a_checkpoint_in_pieces_and_then_the_log() -> None:
    world = World(settings=SETTINGS)
    far_ahead(world)
    world.rejoin("c")
    pieces = 0
    for _ in range(100):
        world.now += 0.02
        world.tick()
        queue = [PeerFrame.FromString(f) for f in world.links["a", "c"]]
        waiting = [f.checkpoint_piece for f in queue if f.WhichOneof("kind") == "checkpoint_piece"]
        assert sum(len(piece.content) for piece in waiting) <= SETTINGS.checkpoint_window_bytes
        pieces += len(waiting)
        for link in sorted(world.links):
            world.deliver(*link, 100)
    assert pieces > 3
    assert world.hosts["c"].installed == 1
    assert world.applied("c") == world.applied("a")
    world.commit("a", "more")
    world.run(0.2)
    assert world.applied("c")[-1] == "more"


@pytest.mark.req("CL-8")
@pytest.mark.parametrize("name", [PRODUCT, "S4"])
def test_s4_a_damaged_checkpoint_is_rejected_and_acknowledges_nothing(name: str) -> None:
    with build(name) as product:
        world = World(settings=SETTINGS)
        far_ahead(world)
        before = world.applied("c")
        world.crash("b")  # now a needs c
        world.checkpoints["c"].damage_next = True
        outcomes = world.propose("a", "needs a majority")
        world.connect("a", "c")
        honest = True
        for _ in range(30):
            world.now += 0.005
            world.tick("a", "c")
            world.deliver("a", "c", 100)
            world.deliver("c", "a", 100)
            a = world.engines["a"]
            claimed = a.match_index(a.peers[NodeId("c")])
            honest = honest and claimed <= max(world.engines["c"].wal.last_index, world.hosts["c"].applied_index)
        assert honest == product
        if product:
            assert world.nodes["c"].fatal is None
            assert before == [] or world.applied("c")[: len(before)] == before
            world.run(3.0)
            assert isinstance(outcomes[0], Committed)  # the next attempt was whole
            assert world.applied("c")[-1] == "needs a majority"


@pytest.mark.req("CL-8")
def test_a_piece_that_does_not_match_its_crc_is_rejected() -> None:
    world = World(settings=SETTINGS)
    far_ahead(world)
    world.rejoin("c")
    flipped = False
    for _ in range(200):
        world.now += 0.02
        world.tick()
        queue = world.links["a", "c"]
        for at, frame in enumerate(queue):
            parsed = PeerFrame.FromString(frame)
            if not flipped and parsed.WhichOneof("kind") == "checkpoint_piece":
                content = bytearray(parsed.checkpoint_piece.content)
                content[3] ^= 0x40
                parsed.checkpoint_piece.content = bytes(content)
                queue[at] = parsed.SerializeToString()
                flipped = True
        for link in sorted(world.links):
            world.deliver(*link, 100)
    assert flipped
    assert world.applied("c") == world.applied("a")


@pytest.mark.req("CL-8")
@pytest.mark.parametrize("name", [PRODUCT, "S9"])
def test_s9_a_start_keeps_the_log_behind_an_older_checkpoint(name: str) -> None:
    """Every node made a checkpoint and acknowledged more entries, then all were killed."""
    with build(name) as product:
        world = World(settings=EngineSettings(checkpoint_every_entries=10, log_keep_entries=2))
        world.elect("a")
        for n in range(25):
            world.commit("a", f"w{n}")
        world.run(0.2)
        for node in "abc":
            world.crash(node)
        for node in "abc":
            world.restart(node)
        world.run(2.0)
        kept = world.applied(world.leader().node_id) == [f"w{n}" for n in range(25)]
        assert kept == product


@pytest.mark.req("CL-8")
@pytest.mark.parametrize("moment", ["before the state", "before the log", "after both"])
def test_a_stop_in_the_middle_of_an_install_leaves_the_old_or_the_new(moment: str) -> None:
    world = World(settings=SETTINGS, auto_sync=False)
    for runner in world.syncs.values():
        runner.auto = True
    far_ahead(world)
    world.syncs["c"].auto = moment != "before the log"
    world.rejoin("c")
    wanted = 0 if moment == "before the state" else 1
    for _ in range(400):
        world.now += 0.02
        world.tick()
        for link in sorted(world.links):
            world.deliver(*link, 1)
        incoming = world.engines["c"]._incoming
        if world.hosts["c"].installed == wanted and (wanted or (incoming is not None and incoming.offset > 64)):
            break
    assert world.hosts["c"].installed == wanted
    world.crash("c")
    applied = world.nodes["c"].state.applied
    world.restart("c")
    world.syncs["c"].auto = True
    assert world.nodes["c"].fatal is None
    assert world.engines["c"].applied_index() == applied
    assert (applied > 10) == bool(wanted)
    world.run(3.0)
    assert world.applied("c") == world.applied("a")


@pytest.mark.req("CL-8")
def test_an_install_that_fails_half_way_stops_the_node() -> None:
    world = World(settings=SETTINGS)
    far_ahead(world)
    world.checkpoints["c"].fail_install = True
    world.rejoin("c")
    world.run(2.0)
    assert isinstance(world.nodes["c"].fatal, DamagedError)


@pytest.mark.req("CL-8")
def test_an_older_checkpoint_replaces_nothing_and_acknowledges_only_its_index() -> None:
    world = World(settings=SETTINGS)
    far_ahead(world)
    world.rejoin("c")
    world.run(2.0)
    c, leader = world.engines["c"], world.engines["a"]
    before, installed = c.applied_index(), world.hosts["c"].installed
    frame = PeerFrame()
    frame.checkpoint_offer.term = leader.term()
    frame.checkpoint_offer.index = 5
    frame.checkpoint_offer.checkpoint_id = "older"
    c._on_frame_bytes(NodeId("a"), frame.SerializeToString())
    acks = [PeerFrame.FromString(f).checkpoint_ack for f in world.links["c", "a"]]
    assert [(ack.installed, ack.checkpoint_id) for ack in acks if ack.checkpoint_id] == [(True, "older")]
    assert (c.applied_index(), world.hosts["c"].installed) == (before, installed)


@pytest.mark.req("CL-8")
def test_pieces_of_another_leadership_are_not_put_together() -> None:
    world = World(settings=SETTINGS)
    far_ahead(world)
    world.rejoin("c")
    for _ in range(60):
        world.now += 0.02
        world.tick()
        for link in sorted(world.links):
            world.deliver(*link, 1)
        if world.engines["c"]._incoming is not None and world.engines["c"]._incoming.offset:
            break
    assert world.engines["c"]._incoming is not None
    world.crash("a")
    world.elect("b")
    world.run(2.0)
    assert world.applied("c") == world.applied("b")
    assert world.nodes["c"].fatal is None


@pytest.mark.req("CL-8")
def test_chunks_travel_by_difference() -> None:
    world = World(settings=SETTINGS)
    far_ahead(world)
    chunks = {blake3(bytes([n])).digest(): bytes([n]) for n in range(100)}
    world.nodes["a"].state.chunks.update(chunks)
    have = sorted(chunks)[:30]
    world.nodes["c"].state.chunks.update({h: chunks[h] for h in have})
    world.checkpoints["c"].missing = sorted(chunks)
    asked: list[bytes] = []
    carry = world.carry

    def watching(source: str, target: str, frame: bytes) -> bool:
        asked.extend(PeerFrame.FromString(frame).chunk_request.hashes)
        return carry(source, target, frame)

    world.carry = watching  # type: ignore[method-assign]
    world.rejoin("c")
    world.run(3.0)
    assert world.applied("c") == world.applied("a")
    assert sorted(asked) == sorted(set(chunks) - set(have))
    assert world.nodes["c"].state.chunks == chunks


@pytest.mark.req("CL-9", "CL-7")
def test_compaction_keeps_what_a_lagging_voter_needs_and_nothing_unflushed() -> None:
    settings = EngineSettings(checkpoint_every_entries=10, log_keep_entries=15)
    world = World(settings=settings)
    world.elect("a")
    for n in range(60):
        world.commit("a", f"w{n}")
        engine = world.engines["a"]
        latest = world.checkpoints["a"].latest()
        if latest is not None:
            assert engine.wal.base_index <= max(latest.index - 15, 0)
        assert engine.wal.base_index <= world.nodes["a"].state.applied
    assert world.engines["a"].wal.base_index > 20
    world.isolate("c")
    for n in range(12):
        world.commit("a", f"x{n}")
    world.rejoin("c")
    world.run(1.0)
    assert world.hosts["c"].installed == 0  # entries were enough
    assert world.applied("c") == world.applied("a")


@pytest.mark.req("CL-9")
def test_the_log_kept_is_bounded_in_bytes_too() -> None:
    settings = EngineSettings(checkpoint_every_entries=10, log_keep_entries=10_000, log_keep_bytes=3000)
    world = World(settings=settings)
    world.elect("a")
    for _ in range(100):
        world.propose("a", b"z" * 100)
        world.flush()
    world.run(0.5)
    engine = world.engines["a"]
    kept = sum(len(engine.wal.entry(Index(i)).payload) for i in range(engine.wal.base_index + 1, 101))
    assert 1000 < kept < 6000


@pytest.mark.req("CL-8")
@pytest.mark.parametrize("name", [PRODUCT, "FORK", "DNS"])
def test_fork_no_process_is_forked_and_no_name_resolved(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[str] = []

    def seen(what: str, answer: int) -> Callable[..., int]:
        def call(*_: object, **__: object) -> int:
            called.append(what)
            return answer

        return call

    monkeypatch.setattr(os, "fork", seen("fork", 1))
    monkeypatch.setattr(os, "waitpid", seen("waitpid", 0))
    monkeypatch.setattr("socket.getaddrinfo", seen("getaddrinfo", 0))
    with build(name) as product:
        world = World(settings=SETTINGS)
        far_ahead(world)
        world.rejoin("c")
        world.run(2.0)
        assert world.hosts["c"].installed == 1
        assert (called == []) == product


@pytest.mark.req("CL-3", "CL-8")
def test_a_state_without_its_log_does_not_start() -> None:
    world = World()
    world.elect("a")
    world.commit("a", "x")
    world.hosts["a"].flush()
    world.crash("a")
    world.nodes["a"].log.image = LogImage()
    with pytest.raises(DamagedError, match="re-seed"):
        world.start("a")


@pytest.mark.req("CL-4", "CL-8")
@pytest.mark.parametrize("error", [DiskFullError("no room"), OSError("input/output"), ValueError("offset")])
def test_a_piece_that_can_not_be_staged_is_rejected_and_the_node_goes_on(error: Exception) -> None:
    world = World(settings=SETTINGS)
    far_ahead(world)
    receive = world.checkpoints["c"].receive
    refusals = [error]

    def failing(meta: CheckpointMeta) -> MemoryReceiver:
        receiver = receive(meta)
        write = receiver.write

        def once(offset: int, piece: bytes) -> None:
            if refusals:
                raise refusals.pop()
            write(offset, piece)

        receiver.write = once  # type: ignore[method-assign]
        return receiver

    world.checkpoints["c"].receive = failing  # type: ignore[method-assign]
    world.rejoin("c")
    world.run(2.0)
    assert world.nodes["c"].fatal is None
    assert refusals == []
    assert world.applied("c") == world.applied("a")


@pytest.mark.req("CL-8")
def test_a_checkpoint_given_up_while_it_is_verified_is_cleared_away_after() -> None:
    """1. c verifies a's checkpoint beside the loop; 2. b becomes leader and offers its own; 3. c's staged files may
    not be touched before the verify has returned."""
    world = World(settings=SETTINGS)
    far_ahead(world)
    world.bulks["c"].auto = False
    world.rejoin("c")
    world.run(1.0)
    incoming = world.engines["c"]._incoming
    assert incoming is not None
    assert incoming.verify_running
    world.crash("a")
    while world.engines["c"].leader_id() != "b":
        world.run(0.1)  # b leads; its own entries wait for c
    assert world.engines["c"]._incoming is not incoming
    receiver = incoming.receiver
    assert isinstance(receiver, MemoryReceiver)
    assert receiver._staged != b""
    assert world.bulks["c"].run_one()
    assert receiver._staged == b""
    world.bulks["c"].auto = True
    world.run(3.0)
    assert world.applied("c") == world.applied("b")


@pytest.mark.req("CL-9", "PERF-5")
def test_a_checkpoint_that_was_given_up_does_not_stop_compaction() -> None:
    """The offer came, then the stream broke, and the log brought everything after all: in the same term."""
    world = World(settings=SETTINGS)
    a = world.elect("a")
    term = a.term()
    world.hosts["c"].is_ready = False  # c's apply waits, its log goes on
    for n in range(20):
        world.commit("a", f"w{n}")
    c, latest = world.engines["c"], world.checkpoints["a"].latest()
    assert latest is not None
    a._offer(a.peers[NodeId("c")], CheckpointSession(latest))
    world.deliver("a", "c", 10)
    offered = c._incoming
    assert offered is not None
    world.disconnect("a", "c")
    world.connect("a", "c")
    world.hosts["c"].is_ready = True
    for n in range(40):
        world.commit("a", f"v{n}")
    world.run(1.0)
    assert a.is_leader() and a.term() == term
    assert c._incoming is None
    assert c.wal.base_index > latest.index
