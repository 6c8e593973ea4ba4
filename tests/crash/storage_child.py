"""A process that commits entries into node storage until it is killed. Run by test_storage_crash.

Every entry sets the key b"at" of every family to its index, adds some keys, and now and then a chunk with its
record. Lines on standard output: "flushed N" whenever the store says so. `known_bad` names a defect to build in.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys

from blake3 import blake3

from hypercluster.state_machine.store import Change, Family
from hypercluster.storage import rocks_database
from hypercluster.storage.node_storage import NodeStorage
from hypercluster.storage.rocks_options import RocksSettings
from hypercluster.storage.runner import ThreadRunner
from hypercluster.values import CheckpointMeta, ChunkHash, Digest, Index, Membership, Term
from tests.contracts.storages import HISTORY, MEMBERSHIP, referenced, refuse_fatal

COMMITS_PER_TURN = 8


def digest_of(index: int) -> Digest:
    return Digest(blake3(b"digest %d" % index).digest())


def build_in(known_bad: str) -> None:
    """Defects, for showing that the checks see them."""
    if known_bad == "no_atomic_flush":
        good_options = rocks_database.database_options

        def bad_options(*args: object) -> object:
            options = good_options(*args)  # type: ignore[arg-type]
            options.set_atomic_flush(False)
            return options

        def bad_freeze(database: rocks_database.RocksDatabase) -> None:
            for family in (*database._families, database._database):
                family.flush(wait=True)

        rocks_database.database_options = bad_options  # type: ignore[assignment]
        rocks_database.RocksDatabase.freeze = bad_freeze  # type: ignore[method-assign]


def changes_of(storage: NodeStorage, index: int, rng: random.Random) -> list[Change]:
    changes = [Change(family, b"at", b"%d" % index) for family in Family]
    changes += [
        Change(rng.choice(list(Family)[:4]), rng.randbytes(8), rng.randbytes(rng.randrange(2_000)))
        for _ in range(rng.randrange(8))
    ]
    if rng.random() < 0.3:
        content = rng.randbytes(rng.randrange(1, 20_000))
        chunk_hash = ChunkHash(blake3(content).digest())
        storage.chunks.put(chunk_hash, content)
        changes.append(Change(Family.CHUNKS, chunk_hash, b"here"))
    return changes


async def commit_for_ever(storage: NodeStorage, rng: random.Random) -> None:
    told, making = -1, False

    def made(_meta: CheckpointMeta | None) -> None:
        nonlocal making
        making = False

    while True:
        for _ in range(COMMITS_PER_TURN):
            index = storage.store.applied.index + 1
            storage.store.commit(Index(index), Term(1), digest_of(index), changes_of(storage, index, rng), index)
        if not making and rng.random() < 0.02:
            making = True
            applied = storage.store.applied
            membership: Membership = MEMBERSHIP
            storage.checkpoints.create(applied.index, applied.term, membership, made)
        await asyncio.sleep(0)
        while storage.store.stalled():  # noqa: ASYNC110 (the store has no event: a node asks before each entry)
            await asyncio.sleep(0.001)
        flushed = storage.store.flushed_index
        if flushed != told:
            told = flushed
            os.write(1, b"flushed %d\n" % flushed)


async def main(directory: str, seed: int, known_bad: str) -> None:
    build_in(known_bad)
    loop = asyncio.get_running_loop()
    storage = NodeStorage(
        directory,
        HISTORY,
        chunk_runner=ThreadRunner(loop, "chunks"),
        checkpoint_runner=ThreadRunner(loop, "checkpoints"),
        referenced_hashes=referenced,
        on_fatal=refuse_fatal,
        settings=RocksSettings(flush_bytes=256 << 10, flush_entries=200),
    )
    await commit_for_ever(storage, random.Random(seed))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), sys.argv[3]))
