"""Bytes of collected chunks: deleted later, only when nothing can need them, and never while they come back (WS-54)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from blake3 import blake3

from hypercluster.node import chunk_bytes
from hypercluster.node.chunk_bytes import KEEP_S, ROUND_S, ChunkBytes
from hypercluster.node.waiting_chunks import WaitingChunks
from hypercluster.state_machine.store import Change, Family
from hypercluster.state_machine.workspace.chunks import organisation_id
from hypercluster.storage.chunk_store import ChunkStore
from hypercluster.storage.disk import PosixDisk
from hypercluster.storage.runner import InlineRunner
from hypercluster.telemetry.metrics import Metrics
from hypercluster.values import ChunkHash, Index
from tests.fakes.virtual_turns import VirtualTurns
from tests.unit.node.memory_state import MemoryState

ORG = organisation_id("acme")


class World:
    def __init__(self, path: Path) -> None:
        self.turns = VirtualTurns()
        self.state = MemoryState()
        self.metrics = Metrics()
        self.store = ChunkStore(str(path / "chunks"), PosixDisk(), InlineRunner(), segment_bytes=100_000)
        self.index, self.durable, self.receiving = Index(10), Index(0), False
        self.fatal: list[BaseException] = []
        self.bytes = self.walker()
        self.state.write(
            [Change(Family.CHUNKS, b"q" + organisation_id("bolt"), b""), Change(Family.CHUNKS, b"q" + ORG, b"")]
        )

    def walker(self) -> ChunkBytes:
        return ChunkBytes(
            self.store,
            self.state,
            InlineRunner(),
            self.turns,
            self.metrics,
            applied_index=lambda: self.index,
            durable_index=lambda: self.durable,
            receiving=lambda: self.receiving,
            on_fatal=self.fatal.append,
        )

    def restart(self) -> None:
        """The node is new, its disk is not."""
        self.bytes.close()
        self.bytes = self.walker()

    def put(self, content: bytes) -> ChunkHash:
        chunk_hash = ChunkHash(blake3(content).digest())
        self.bytes.put(chunk_hash, content)
        self.hold(chunk_hash, True)
        return chunk_hash

    def hold(self, chunk_hash: bytes, held: bool) -> None:
        self.state.write([Change(Family.CHUNKS, b"o" + ORG + chunk_hash, b"here" if held else None)])

    def pass_time(self, span_s: float, step_s: float = 30.0) -> None:
        for _ in range(int(span_s / step_s)):
            self.turns.now_s += step_s
            self.bytes.look()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.bytes.close()
    made.store.close()


@pytest.mark.req("WS-54")
def test_bytes_go_when_flush_and_checkpoints_are_past_and_transfers_had_their_time(world: World) -> None:
    kept, gone = world.put(b"kept"), world.put(b"gone")
    world.store.sync()
    world.hold(gone, False)
    world.pass_time(KEEP_S - 60)
    world.durable = Index(9)
    world.pass_time(3_600)
    assert world.store.has(gone), "a restart, or a peer with our checkpoint, would still have it in its state"
    world.durable = Index(10)
    world.receiving = True
    world.pass_time(600)
    assert world.store.has(gone), "a checkpoint comes in"
    world.receiving = False
    world.pass_time(60)
    assert not world.store.has(gone)
    assert world.store.has(kept)
    assert world.store.get(kept) == b"kept"
    other = world.put(b"other")
    world.hold(other, False)
    world.pass_time(ROUND_S)
    assert world.bytes.waiting == 1
    world.pass_time(KEEP_S - ROUND_S - 60)
    assert world.store.has(other), "who was told of it has time to fetch it"
    world.pass_time(2 * ROUND_S)
    assert not world.store.has(other)


@pytest.mark.req("WS-54")
def test_a_chunk_that_came_back_meanwhile_stays_however_short_it_was(world: World) -> None:
    """A checkpoint made while it was back names it; its bytes must outlive that."""
    found = world.put(b"back")
    world.store.sync()
    world.hold(found, False)
    world.pass_time(60)
    assert world.bytes.waiting == 1
    world.index = Index(50)
    world.put(b"back")
    world.hold(found, False)
    world.durable = Index(20)
    world.pass_time(4 * KEEP_S)
    assert world.store.has(found)
    world.durable = Index(50)
    world.pass_time(60)
    assert not world.store.has(found)
    again = world.put(b"again")
    world.hold(again, False)
    world.pass_time(2 * ROUND_S)
    assert world.bytes.waiting == 1
    world.bytes.state_replaced()
    assert world.bytes.waiting == 0
    world.hold(again, True)
    world.pass_time(4 * KEEP_S)
    assert world.store.has(again)


@pytest.mark.req("WS-54")
def test_a_node_that_restarts_gives_back_what_it_had_only_deleted(world: World) -> None:
    """Killed between the two: no other chunk may go for long."""
    for found in [world.put(b"%06d" % number * 500) for number in range(200)]:
        world.hold(found, False)
        world.store.delete(found)
    world.store.sync()
    before = world.store.stored_bytes
    world.restart()
    world.pass_time(600, 61)
    assert world.store.stored_bytes < before / 4


@pytest.mark.req("WS-54")
def test_space_comes_back_and_a_look_is_bounded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunk_bytes, "WALKED_A_LOOK", 20)
    monkeypatch.setattr(chunk_bytes, "DELETED_A_LOOK", 7)
    hashes = [world.put(b"%06d" % number * 500) for number in range(200)]
    world.store.sync()
    before = world.store.stored_bytes
    for found in hashes[:180]:
        world.hold(found, False)
    world.durable = Index(10)
    world.bytes.look()
    assert world.bytes.waiting <= 20
    world.pass_time(KEEP_S + 60)
    left = sum(world.store.has(found) for found in hashes[:180])
    assert 0 < left < 180, "a few at a time"
    world.pass_time(3_600)
    assert not any(world.store.has(found) for found in hashes[:180])
    assert all(world.store.has(found) for found in hashes[180:])
    assert world.store.stored_bytes < before / 2
    assert world.metrics.gc_freed_bytes._value.get() > before / 3
    assert not world.fatal


@pytest.mark.req("WS-54")
def test_all_that_two_checkpoints_make_waits_and_goes_at_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes wait until the checkpoints are past them. A bound on how many wait, below what a node makes in that time,
    is a bound on how much it ever frees: the disk fills."""
    monkeypatch.setattr(chunk_bytes, "WALKED_A_LOOK", 20_000)
    monkeypatch.setattr(chunk_bytes, "DELETED_A_LOOK", 60_000)
    for number in range(51_000):
        content = b"%d" % number
        world.bytes.put(ChunkHash(blake3(content).digest()), content)
    world.store.sync()
    world.pass_time(2 * KEEP_S)
    assert world.bytes.waiting == 51_000
    world.durable = Index(10)
    world.pass_time(60)
    assert (world.bytes.waiting, world.store.count) == (0, 0)


@pytest.mark.req("WS-54")
def test_the_walk_goes_on_where_it_had_no_more_room(world: World) -> None:
    """Otherwise new chunks with low hashes would keep it from ever reaching the high ones."""
    world.bytes._waiting = WaitingChunks(10)
    world.durable = Index(10)
    contents = [b"%d" % number for number in range(20_000)]
    low = [content for content in contents if blake3(content).digest()[0] < 4]
    high = [world.put(content) for content in contents if blake3(content).digest()[0] == 255][:30]
    for found in high:
        world.hold(found, False)
    for start in range(0, 250, 10):
        for content in low[start : start + 10]:
            world.hold(world.put(content), False)
        world.store.sync()
        world.pass_time(KEEP_S + 60, step_s=KEEP_S / 2 + 30)
    assert not any(world.store.has(found) for found in high)
