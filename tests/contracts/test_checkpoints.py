"""What every `Checkpoints` promises, over the real node storage and the one of the simulation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from hypercluster.errors import DamagedError, InvariantError
from hypercluster.values import CheckpointMeta, Index, Term
from tests.contracts.storages import MEMBERSHIP, NODES, Node, chunk, commit, state_of
from tests.fakes.memory_directory import memory_directory
from tests.fakes.memory_storage import manifest_bytes

PIECE_BYTES = 1_000


@pytest.fixture(params=sorted(NODES))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def quick_path(tmp_path: Path) -> Iterator[Path]:
    with memory_directory(tmp_path) as path:
        yield path


@pytest.fixture
def node(kind: str, quick_path: Path) -> Iterator[Node]:
    made = NODES[kind](quick_path / "first")
    yield made
    made.runner.run()
    made.storage.close()


@pytest.fixture
def other(kind: str, quick_path: Path) -> Iterator[Node]:
    made = NODES[kind](quick_path / "second")
    yield made
    made.runner.run()
    made.storage.close()


def create(node: Node, index: int, term: int = 1) -> CheckpointMeta | None:
    answers: list[CheckpointMeta | None] = []
    node.storage.checkpoints.create(Index(index), Term(term), MEMBERSHIP, answers.append)
    node.runner.run()
    assert len(answers) == 1
    return answers[0]


def made(node: Node, index: int) -> CheckpointMeta:
    meta = create(node, index)
    assert meta is not None
    return meta


def stream_of(node: Node, meta: CheckpointMeta, piece_bytes: int = PIECE_BYTES) -> bytes:
    whole = b""
    while piece := node.storage.checkpoints.read_piece(meta.checkpoint_id, len(whole), piece_bytes):
        assert len(piece) <= piece_bytes
        whole += piece
    assert node.storage.checkpoints.read_piece(meta.checkpoint_id, len(whole), piece_bytes) == b""
    return whole


def send(meta: CheckpointMeta, stream: bytes, to: Node):  # type: ignore[no-untyped-def]
    receiver = to.storage.checkpoints.receive(meta)
    for offset in range(0, len(stream), PIECE_BYTES):
        receiver.write(offset, stream[offset : offset + PIECE_BYTES])
    to.runner.run()
    return receiver


@pytest.mark.req("CL-8")
def test_nothing_is_kept_at_first(node: Node) -> None:
    assert node.storage.checkpoints.latest() is None
    assert node.storage.checkpoints.read_piece("0" * 16 + "-" + "0" * 16, 0, 10) is None


@pytest.mark.req("CL-8")
def test_a_checkpoint_says_what_it_holds(node: Node) -> None:
    for index in range(1, 6):
        commit(node, index, chunk_text=f"chunk {index}")
    meta = made(node, 5)
    assert (meta.index, meta.term, meta.digest, meta.last_stamp_ns) == (5, 1, bytes([5]) * 32, 50)
    assert meta.membership == MEMBERSHIP
    assert node.storage.checkpoints.latest() == meta
    assert len(stream_of(node, meta)) == meta.bytes_total
    assert stream_of(node, meta, 7) == stream_of(node, meta, 1 << 20)
    assert node.storage.store.flushed_index >= 5


@pytest.mark.req("CL-8")
def test_a_checkpoint_holds_the_state_of_its_index_whatever_is_committed_meanwhile(node: Node, other: Node) -> None:
    for index in range(1, 6):
        commit(node, index)
    expected = state_of(node)
    answers: list[CheckpointMeta | None] = []
    node.storage.checkpoints.create(Index(5), Term(1), MEMBERSHIP, answers.append)
    index = 5
    while not answers:
        index += 1
        commit(node, index)
        assert node.runner.step()
    meta = answers[0]
    assert meta is not None
    assert meta.index == 5
    receiver = send(meta, stream_of(node, meta), other)
    receiver.verify()
    receiver.install()
    assert state_of(other) == expected
    assert other.storage.store.applied.index == 5


@pytest.mark.req("CL-8")
def test_installing_replaces_the_state_and_fetches_only_chunks_that_lack(node: Node, other: Node) -> None:
    for index in range(1, 40):
        commit(node, index, chunk_text=f"chunk {index % 7}")
    meta = made(node, 39)
    for index in range(1, 4):
        commit(other, index, chunk_text=f"chunk {index}")
    commit(other, 4)
    receiver = send(meta, stream_of(node, meta), other)
    receiver.verify()
    assert other.storage.store.applied.index == 4, "nothing changes before install"
    lacking = {chunk(f"chunk {number}")[0] for number in (0, 4, 5, 6)}
    assert len(receiver.missing_chunks(2)) == 2
    assert set(receiver.missing_chunks(100)) == lacking
    with pytest.raises(InvariantError):
        receiver.install()
    with pytest.raises(ValueError):
        receiver.add_chunk(min(lacking), b"other bytes")
    while wanted := receiver.missing_chunks(3):
        for chunk_hash in wanted:
            content = node.storage.chunks.read_chunk(chunk_hash)
            assert content is not None
            receiver.add_chunk(chunk_hash, content)
    receiver.install()
    for _ in range(2):
        assert state_of(other) == state_of(node)
        assert other.storage.store.applied == node.storage.store.applied
        assert other.storage.checkpoints.latest() == meta
        assert other.storage.chunks.missing(chunk(f"chunk {n}")[0] for n in range(7)) == []
        assert stream_of(other, meta) == stream_of(node, meta), "it can be passed on"
        other.reopen()
    commit(other, 40)
    assert other.storage.store.applied.index == 40


@pytest.mark.req("CL-8")
def test_what_is_damaged_on_the_way_is_refused(node: Node, other: Node) -> None:
    for index in range(1, 20):
        commit(node, index)
    meta = made(node, 19)
    commit(other, 1)
    stream = stream_of(node, meta)
    body_at = manifest_bytes(stream)
    for at in (0, 30, body_at - 1, *range(body_at, len(stream), 1 + (len(stream) - body_at) // 16), len(stream) - 1):
        damaged = stream[:at] + bytes([stream[at] ^ 1]) + stream[at + 1 :]
        receiver = send(meta, damaged, other)
        # Of a file by its checksum, before anything looks inside: a store notices damage only where it happens to read.
        with pytest.raises(DamagedError, match=None if at < body_at else "fails its checksum"):
            receiver.verify()
        receiver.abort()
    for short in (0, 10, len(stream) // 2, len(stream) - 1):
        receiver = send(meta, stream[:short], other)
        with pytest.raises(DamagedError):
            receiver.verify()
        receiver.abort()
    receiver = send(replace(meta, digest=b"x" * 32), stream, other)
    with pytest.raises(DamagedError):
        receiver.verify()
    receiver.abort()
    assert other.storage.store.applied.index == 1
    assert other.storage.checkpoints.latest() is None


@pytest.mark.req("CL-8")
def test_pieces_come_in_order_and_end_where_announced(node: Node, other: Node) -> None:
    commit(node, 1)
    meta = made(node, 1)
    stream = stream_of(node, meta)
    receiver = other.storage.checkpoints.receive(meta)
    with pytest.raises(ValueError, match="offset"):
        receiver.write(1, stream[1:10])
    receiver.write(0, stream[:10])
    with pytest.raises(ValueError, match="offset"):
        receiver.write(0, stream[:10])
    with pytest.raises(ValueError, match="piece"):
        receiver.write(10, stream[10:] + b"x")
    with pytest.raises(InvariantError):
        receiver.install()
    receiver.abort()
    receiver.abort()
    with pytest.raises(ValueError):
        receiver.write(10, stream[10:])


@pytest.mark.req("CL-9")
def test_the_newest_two_are_kept(node: Node) -> None:
    metas = []
    for index in range(1, 5):
        commit(node, index, term=1)
        metas.append(made(node, index))
    assert node.storage.checkpoints.latest() == metas[-1]
    for gone in metas[:2]:
        assert node.storage.checkpoints.read_piece(gone.checkpoint_id, 0, 10) is None
    for kept in metas[2:]:
        assert len(stream_of(node, kept)) == kept.bytes_total
    node.reopen()
    assert node.storage.checkpoints.latest() == metas[-1]
    assert len(stream_of(node, metas[2])) == metas[2].bytes_total


@pytest.mark.req("CL-8")
def test_one_is_made_at_a_time_and_asking_again_is_harmless(node: Node) -> None:
    commit(node, 1)
    first: list[CheckpointMeta | None] = []
    second: list[CheckpointMeta | None] = []
    node.storage.checkpoints.create(Index(1), Term(1), MEMBERSHIP, first.append)
    node.storage.checkpoints.create(Index(1), Term(1), MEMBERSHIP, second.append)
    assert second == [None]
    node.runner.run()
    assert first[0] is not None
    assert create(node, 1) == first[0]


@pytest.mark.req("CL-8")
def test_an_install_ends_the_making_of_a_checkpoint(node: Node, other: Node) -> None:
    for index in range(1, 10):
        commit(node, index)
    meta = made(node, 9)
    commit(other, 1)
    receiver = send(meta, stream_of(node, meta), other)
    receiver.verify()
    answers: list[CheckpointMeta | None] = []
    other.storage.checkpoints.create(Index(1), Term(1), MEMBERSHIP, answers.append)
    receiver.install()
    other.runner.run()
    assert answers == [None]
    assert other.storage.checkpoints.latest() == meta
    commit(other, 10)
    assert made(other, 10).index == 10
