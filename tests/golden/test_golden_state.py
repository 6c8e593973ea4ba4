"""Data directories of every format ever written open for ever, and say what they said."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from hypercluster.state_machine.store import Family, MemoryStore
from hypercluster.storage.checkpoint_build import hash_file
from hypercluster.storage.rocks import Applied
from hypercluster.values import Index, Term
from tests.golden.make_state import CHECKPOINT_AT, ENTRIES, changes_of, chunk_of, digest_of, make, open_golden

GOLDEN = sorted((Path(__file__).parent / "state").glob("v*"))
FAMILIES = {"v1": 8, "v2": 9}  # column families of each format; those that came later are made empty


def expected(entries: int, golden: Path | None) -> MemoryStore:
    model = MemoryStore()
    for index in range(1, entries + 1):
        model.write(changes_of(index, FAMILIES[golden.name if golden else "v2"]))
    return model


def test_there_is_a_directory_for_each_format() -> None:
    assert [path.name for path in GOLDEN] == ["v1", "v2"]


@pytest.mark.req("CL-7", "CL-8", "OPS-5")
@pytest.mark.parametrize("golden", [*GOLDEN, None], ids=lambda path: path.name if path else "fresh")
def test_a_golden_directory_opens(golden: Path | None, tmp_path: Path) -> None:
    """`fresh` is made now: it shows that the script still writes what the frozen ones hold."""
    directory = tmp_path / "node"
    if golden is None:
        make(str(directory))
    else:
        shutil.copytree(golden, directory)
    storage = open_golden(str(directory))
    assert storage.store.applied == Applied(Index(ENTRIES), Term(2), digest_of(ENTRIES), ENTRIES * 1_000)
    model = expected(ENTRIES, golden)
    for family in Family:
        pairs = list(storage.store.scan(family, b"", b"\xff" * 40))
        assert pairs == list(model.scan(family, b"", b"\xff" * 40))
    for index in range(4, ENTRIES + 1, 4):
        chunk_hash, content = chunk_of(index)
        assert storage.chunks.get(chunk_hash) == content
    assert storage.chunks.torn_bytes == 0
    meta = storage.checkpoints.latest()
    assert meta is not None
    assert (meta.index, meta.digest, meta.last_stamp_ns) == (
        CHECKPOINT_AT,
        digest_of(CHECKPOINT_AT),
        CHECKPOINT_AT * 1_000,
    )
    for file in storage.checkpoints.kept()[-1].files:
        assert hash_file(f"{storage.paths.checkpoint(meta.checkpoint_id)}/{file.name}") == file.blake3_hex
    storage.store.commit(Index(ENTRIES + 1), Term(3), digest_of(ENTRIES + 1), [])
    storage.close()


@pytest.mark.req("CL-8")
@pytest.mark.parametrize("golden", GOLDEN, ids=lambda path: path.name)
def test_a_golden_checkpoint_installs(golden: Path, tmp_path: Path) -> None:
    shutil.copytree(golden, tmp_path / "old")
    sender, receiver_node = open_golden(str(tmp_path / "old")), open_golden(str(tmp_path / "new"))
    meta = sender.checkpoints.latest()
    assert meta is not None
    receiver = receiver_node.checkpoints.receive(meta)
    stream = sender.checkpoints.read_piece(meta.checkpoint_id, 0, meta.bytes_total)
    assert stream is not None
    receiver.write(0, stream)
    receiver.verify()
    for chunk_hash in receiver.missing_chunks(1_000):
        receiver.add_chunk(chunk_hash, sender.chunks.read_chunk(chunk_hash) or b"")
    receiver.install()
    model = expected(CHECKPOINT_AT, golden)
    for family in Family:
        pairs = list(receiver_node.store.scan(family, b"", b"\xff" * 40))
        assert pairs == list(model.scan(family, b"", b"\xff" * 40))
    sender.close()
    receiver_node.close()
