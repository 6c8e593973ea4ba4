"""What a process does on its way to a crash point, and what must hold when its directory is opened again (CH-7).

Owns: a pair for each driver that needs no cluster: `work(directory, seed, tell)` goes on until somebody kills it, and
`check(directory, told)` opens what is left, with nothing armed.
Never: kills; knows which point is armed.
Invariants: what `tell` was given before the kill, `check` gets back; a line told is a promise the directory must keep.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hypercluster.state_machine.store import Family
from hypercluster.storage.disk import PosixDisk
from hypercluster.storage.node_storage import NodeStorage
from hypercluster.storage.rocks_options import RocksSettings
from hypercluster.storage.runner import InlineRunner
from hypercluster.storage.wal import HardState, LogEntry, Wal
from hypercluster.values import CheckpointMeta, ChunkHash, Index, NodeId, Term
from tests.contracts.storages import HISTORY, MEMBERSHIP, referenced, refuse_fatal
from tests.crash.crash_defects import DEFECTS
from tests.crash.crash_directories import check_directory, check_rejoin, make_directory, rejoin_for_ever
from tests.crash.crash_points import (
    DIRECTORY,
    INSTALL,
    LIVE,
    LOG,
    MIRROR,
    REJOIN,
    RETENTION,
    STORAGE,
    CrashPoint,
    arm,
)
from tests.crash.crash_retention import keep_for_ever
from tests.crash.crash_retention_check import check_kept
from tests.crash.crash_worker import check_live, check_mirror, live_for_ever, mirror_for_ever
from tests.crash.storage_child import changes_of, digest_of
from tests.crash.wal_model import open_log
from tests.crash.wal_writer_process import content

Tell = Callable[[str], None]
Told = Sequence[str]

LOG_TURNS_A_LIFE: Final = 40
STORAGE_TURNS_A_LIFE: Final = 12
COMMITS_A_TURN: Final = 8


@dataclass(frozen=True, slots=True)
class Driver:
    work: Callable[[Path, int, Tell], None]
    check: Callable[[Path, Told], None]


# --- the log ------------------------------------------------------------------------------------------------------


def write_log(directory: Path, seed: int, tell: Tell) -> None:
    """Appends, truncates, compacts, resets, opens again. Tells "TERM INDEX": this index is committed."""
    rng = random.Random(seed)
    committed = 0
    while True:
        wal, _ = open_log(PosixDisk(), str(directory / "wal"))
        wal.save_commit_index(Index(committed))  # what is on disk may be an older one
        for _ in range(LOG_TURNS_A_LIFE):
            _one_turn(wal, rng)
            committed = wal.commit_index
            tell(f"{wal.hard_state.term} {committed}")
        wal.close()


def _one_turn(wal: Wal, rng: random.Random) -> None:
    """The last entry stays undecided, so that a new term has something to truncate."""
    term = wal.hard_state.term
    if term == 0 or rng.random() < 0.1:
        term = Term(term + 1)
        wal.save_hard_state(HardState(term, NodeId(f"n{term}")))
        if wal.last_index > wal.commit_index:
            wal.truncate_from(Index(wal.commit_index + 1))
    if rng.random() < 0.03:
        wal.reset_to(Index(wal.last_index + rng.randrange(1, 50)), term)
    last = wal.last_index
    wal.append([LogEntry(Index(last + at), term, content(last + at, term)) for at in range(1, rng.randint(3, 7))])
    if rng.random() < 0.1:
        wal.compact_to(wal.commit_index)
    job = wal.take_job()
    assert job is not None
    job.run()
    wal.finish(job)
    wal.save_commit_index(Index(max(wal.commit_index, wal.durable_index - 1)))


def check_log(directory: Path, told: Told) -> None:
    term, index = map(int, told[-1].split()) if told else (0, 0)
    wal, report = open_log(PosixDisk(), str(directory / "wal"))
    assert wal.last_index >= index, f"{report}: {index} was committed"
    assert wal.hard_state.term >= term
    if wal.hard_state.term:
        assert wal.hard_state.voted_for == f"n{wal.hard_state.term}"
    for position in range(wal.base_index + 1, wal.last_index + 1):
        entry = wal.entry(Index(position))
        assert entry.payload == content(position, entry.term)
    wal.save_commit_index(Index(max(wal.commit_index, index)))
    for _ in range(5):
        _one_turn(wal, random.Random(1))
    wal.close()


# --- the state, its chunks and its checkpoints --------------------------------------------------------------------


def open_storage(directory: Path) -> NodeStorage:
    return NodeStorage(
        str(directory),
        HISTORY,
        chunk_runner=InlineRunner(),
        checkpoint_runner=InlineRunner(),
        referenced_hashes=referenced,
        on_fatal=refuse_fatal,
        settings=RocksSettings(flush_bytes=64 << 10, flush_entries=60, block_cache_bytes=1 << 20),
    )


def commit_to_storage(directory: Path, seed: int, tell: Tell) -> None:
    """Commits entries with chunks, flushes, makes checkpoints, opens again. Tells the index that is flushed."""
    rng = random.Random(seed)
    while True:
        storage = open_storage(directory)
        for turn in range(STORAGE_TURNS_A_LIFE):
            _commit_some(storage, rng)
            tell(f"{storage.store.flushed_index}")
            if turn % 4 == 3:
                _checkpoint(storage)
        storage.close()
        tell(f"{storage.store.applied.index}")


def _commit_some(storage: NodeStorage, rng: random.Random) -> None:
    for _ in range(COMMITS_A_TURN):
        index = storage.store.applied.index + 1
        storage.store.commit(Index(index), Term(1), digest_of(index), changes_of(storage, index, rng), index)


def _checkpoint(storage: NodeStorage) -> CheckpointMeta:
    made: list[CheckpointMeta | None] = []
    applied = storage.store.applied
    storage.checkpoints.create(applied.index, applied.term, MEMBERSHIP, made.append)
    assert made and made[0] is not None
    return made[0]


def check_storage(directory: Path, told: Told) -> None:
    """All families at one index, at least the flushed one; every chunk named is here; checkpoints are whole."""
    storage = open_storage(directory)
    try:
        _check_open_storage(storage, int(told[-1]) if told else 0)
        storage.store.commit(
            Index(storage.store.applied.index + 1), Term(9), digest_of(storage.store.applied.index + 1), []
        )
    finally:
        storage.close()


def _check_open_storage(storage: NodeStorage, least: int) -> None:
    applied = storage.store.applied
    assert applied.index >= least
    if applied.index:
        assert applied.digest == digest_of(applied.index)
        found = {family.name: storage.store.get(family, b"at") for family in Family}
        assert set(found.values()) == {b"%d" % applied.index}, f"families at different indexes: {found}"
    lost = [key.hex() for key in referenced(storage.store) if storage.chunks.get(ChunkHash(key)) is None]
    assert not lost, f"{len(lost)} chunks are named and not here"
    kept = storage.checkpoints.kept()
    assert len(kept) <= 2
    for manifest in kept:
        assert manifest.meta.digest == digest_of(manifest.meta.index)
        sent = storage.checkpoints.read_piece(manifest.meta.checkpoint_id, 0, manifest.meta.bytes_total)
        assert sent is not None and len(sent) == manifest.meta.bytes_total


# --- installing a checkpoint of another node ----------------------------------------------------------------------


def install_for_ever(directory: Path, seed: int, tell: Tell) -> None:
    """Takes checkpoint after checkpoint of another node. Tells the index of each: before its install, and after."""
    rng = random.Random(seed)
    source, target = open_storage(directory / "source"), open_storage(directory / "target")
    while True:
        for _ in range(4):
            _commit_some(source, rng)
        meta = _checkpoint(source)
        tell(f"begins {meta.index}")
        _install(source, target, meta)
        tell(f"installed {meta.index}")


def _install(source: NodeStorage, target: NodeStorage, meta: CheckpointMeta) -> None:
    receiver = target.checkpoints.receive(meta)
    offset = 0
    while piece := source.checkpoints.read_piece(meta.checkpoint_id, offset, 16 << 10):
        receiver.write(offset, piece)
        offset += len(piece)
    receiver.verify()
    while missing := receiver.missing_chunks(10):
        for chunk_hash in missing:
            receiver.add_chunk(chunk_hash, source.chunks.read_chunk(chunk_hash) or b"")
    receiver.install()


def check_installed(directory: Path, told: Told) -> None:
    """The old state or the new one, never a mixture (CL-8); and the next checkpoint can be taken."""
    begun = [int(line.split()[1]) for line in told if line.startswith("begins")]
    done = [int(line.split()[1]) for line in told if line.startswith("installed")]
    target = open_storage(directory / "target")
    try:
        applied = target.store.applied.index
        _check_open_storage(target, done[-1] if done else 0)
        assert applied in {0, *done[-1:], *begun[-1:]}, f"{applied} is neither the old state nor the new one"
        source = open_storage(directory / "source")
        try:
            _commit_some(source, random.Random(1))
            if source.store.applied.index > applied:
                meta = _checkpoint(source)
                _install(source, target, meta)
                _check_open_storage(target, meta.index)
        finally:
            source.close()
    finally:
        target.close()


DRIVERS: Final[Mapping[str, Driver]] = {
    LOG: Driver(write_log, check_log),
    STORAGE: Driver(commit_to_storage, check_storage),
    INSTALL: Driver(install_for_ever, check_installed),
    DIRECTORY: Driver(make_directory, check_directory),
    REJOIN: Driver(rejoin_for_ever, check_rejoin),
    RETENTION: Driver(keep_for_ever, check_kept),
    MIRROR: Driver(mirror_for_ever, check_mirror),
    LIVE: Driver(live_for_ever, check_live),
}


def until_killed(
    driver: str, directory: Path, seed: int, point: CrashPoint, call: int, hits: Path, defect: str
) -> None:
    """In a process of its own."""
    DEFECTS[defect]()
    with open(directory / "told", "ab", buffering=0) as told:

        def tell(line: str) -> None:
            told.write(f"{line}\n".encode())

        arm(point, call, hits)
        DRIVERS[driver].work(directory, seed, tell)
