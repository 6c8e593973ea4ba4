"""Makes a golden data directory of the present format: state, chunks, one checkpoint. Run once a format:

    python -m tests.golden.make_state tests/golden/state/v2

The directory is then frozen: every later version must open it (test_golden_state.py).
"""

from __future__ import annotations

import os
import random
import sys

from blake3 import blake3

from hypercluster.state_machine.store import Change, Family
from hypercluster.storage.node_storage import NodeStorage
from hypercluster.storage.rocks_options import RocksSettings
from hypercluster.storage.runner import InlineRunner
from hypercluster.values import ChunkHash, Digest, Index, Term
from tests.contracts.storages import HISTORY, MEMBERSHIP, referenced, refuse_fatal

ENTRIES = 40
CHECKPOINT_AT = 25
SEED = 20_240_601
LEFT_BEHIND = ("LOG", "LOG.old", "OPTIONS", "LOCK")  # of RocksDB: names of this machine, or nothing at all


def open_golden(directory: str) -> NodeStorage:
    return NodeStorage(
        directory,
        HISTORY,
        chunk_runner=InlineRunner(),
        checkpoint_runner=InlineRunner(),
        referenced_hashes=referenced,
        on_fatal=refuse_fatal,
        settings=RocksSettings(block_cache_bytes=1 << 20),
    )


def chunk_of(index: int) -> tuple[ChunkHash, bytes]:
    content = random.Random(SEED + index).randbytes(100)
    return ChunkHash(blake3(content).digest()), content


def changes_of(index: int, families: int = len(Family)) -> list[Change]:
    """`families`: how many of them there were in the format of the directory."""
    changes = [Change(family, b"at", b"%d" % index) for family in list(Family)[:families]]
    changes.append(Change(Family.HUB, b"key %03d" % index, b"value %d" % index))
    if index % 4 == 0:
        changes.append(Change(Family.HUB, b"key %03d" % (index // 2), None))
        changes.append(Change(Family.CHUNKS, chunk_of(index)[0], b"here"))
    return changes


def digest_of(index: int) -> Digest:
    return Digest(blake3(b"golden %d" % index).digest())


def make(directory: str) -> None:
    os.makedirs(directory)
    storage = open_golden(directory)
    for index in range(1, ENTRIES + 1):
        if index % 4 == 0:
            storage.chunks.put(*chunk_of(index))
        storage.store.commit(Index(index), Term(2), digest_of(index), changes_of(index), index * 1_000)
        if index == CHECKPOINT_AT:
            storage.checkpoints.create(Index(index), Term(2), MEMBERSHIP, lambda _meta: None)
    storage.close()
    for found, _, names in os.walk(directory):
        for name in names:
            if name.startswith(LEFT_BEHIND):
                os.unlink(os.path.join(found, name))


if __name__ == "__main__":
    make(sys.argv[1])
