"""Opens a data directory in order: lock, identity, state, log, state machine.

Owns: the order, the checks between the parts, and closing in the opposite order.
Never: serves or replays anything; makes an identity (`cluster init` does).
Invariants: nothing is changed before lock and identity are right; state, log and identity are of one cluster;
genesis records are written before the first entry, the same on every node.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from hypercluster.errors import REJOIN, DamagedError, WrongDirectoryError, check
from hypercluster.state_machine.machine import Machine, Quarantined
from hypercluster.state_machine.meta import genesis, read_cluster
from hypercluster.state_machine.store import Family, Reader
from hypercluster.storage.archive.archive import ArchiveSettings, OplogArchive
from hypercluster.storage.birth import birth_of
from hypercluster.storage.disk import PosixDisk
from hypercluster.storage.founding import load_founding
from hypercluster.storage.identity import DirectoryLock, Identity, open_identity
from hypercluster.storage.met_peers import MetPeers
from hypercluster.storage.node_storage import NodeStorage
from hypercluster.storage.quarantine import load_quarantine
from hypercluster.storage.rocks_options import RocksSettings
from hypercluster.storage.runner import ThreadRunner
from hypercluster.storage.snapshots.store import SnapshotStore
from hypercluster.storage.wal.log import Wal
from hypercluster.storage.wal.replay import segment_numbers
from hypercluster.values import ChunkHash, Membership, NodeId

log = logging.getLogger(__name__)

_ORGANISATION_CHUNK = b"o"  # state_machine/workspace/chunks.py: "o" organisation chunk_hash
_HASH_AT = 17


@dataclass(frozen=True, slots=True)
class Runners:
    """Threads beside the loop: one for each kind of work that must not wait for another."""

    syncs: ThreadRunner
    chunks: ThreadRunner
    checkpoints: ThreadRunner
    bulk: ThreadRunner
    retention: ThreadRunner  # pages of workspace snapshots, archives of op logs

    @classmethod
    def start(cls, loop: asyncio.AbstractEventLoop) -> Runners:
        return cls(
            *(ThreadRunner(loop, name) for name in ("wal-sync", "chunk-sync", "checkpoint", "bulk", "retention"))
        )

    def close(self) -> None:
        for runner in (self.retention, self.bulk, self.checkpoints, self.chunks, self.syncs):
            runner.close()


@dataclass(frozen=True, slots=True)
class OpenDirectory:
    """Everything of one data directory, open."""

    path: str
    lock: DirectoryLock
    identity: Identity
    founding: Membership
    quarantined: tuple[Quarantined, ...]
    storage: NodeStorage
    archive: OplogArchive
    snapshots: SnapshotStore
    machine: Machine
    wal: Wal
    runners: Runners
    birth: bytes  # of its log, for peers to notice when it is another one (storage/birth.py)
    met: MetPeers

    def close(self) -> None:
        """Flushes what is applied and closes. Blocks."""
        self.runners.retention.close()  # what it writes goes on at the next start
        self.snapshots.close()
        self.storage.close()
        self.wal.close()
        self.lock.release()


def open_directory(
    path: str,
    node_id: NodeId,
    voters: int,
    runners: Runners,
    on_fatal: Callable[[BaseException], None],
    archive_settings: ArchiveSettings | None = None,
) -> OpenDirectory:
    """`voters` 0: not configured. Raises WrongDirectoryError, DamagedError, DiskFullError or OSError."""
    disk = PosixDisk()
    if not os.path.isdir(path):
        raise WrongDirectoryError(
            f"{path} is not there: `hypercluster cluster init` makes the directories of a new cluster. If this one was "
            f"in use and is lost: {REJOIN}"
        )
    lock = DirectoryLock(path)
    try:
        identity = open_identity(disk, path, None, node_id)
        founding = load_founding(disk, path)
        quarantined = load_quarantine(disk, path)
        if voters and voters != founding.configured_voters:
            raise WrongDirectoryError(
                f"{path} was founded for {founding.configured_voters} voters, the configuration says {voters}"
            )
        archive = OplogArchive(
            os.path.join(path, "archive", "oplog"),
            disk,
            runners.retention,
            identity.history_id,
            archive_settings or ArchiveSettings(),
        )
        for damaged in archive.damaged:
            log.error("a segment of the op log archive is damaged", extra={"fields": {"why": damaged}})
        storage = NodeStorage(
            path,
            identity.history_id,
            archive=archive,
            chunk_runner=runners.chunks,
            checkpoint_runner=runners.checkpoints,
            referenced_hashes=referenced_hashes,
            on_fatal=on_fatal,
            on_damaged=_report_damage,
            settings=RocksSettings.staggered(node_id),
        )
        _begin_history(storage, identity)
        snapshots = SnapshotStore(os.path.join(path, "snapshots"), disk)
        for damaged in snapshots.damaged:
            log.error("a stored workspace snapshot is damaged", extra={"fields": {"why": damaged}})
        wal_directory = os.path.join(path, "wal")
        disk.mkdir(wal_directory)
        had_log = bool(segment_numbers(disk.listdir(wal_directory)))
        birth = birth_of(disk, path, had_log=had_log)
        met = MetPeers(disk, path)
        wal, report = Wal.open(disk, wal_directory)
        if report.torn_bytes:
            log.warning("a torn tail was cut off the log", extra={"fields": {"bytes": report.torn_bytes}})
    except BaseException:
        lock.release()
        raise
    machine = Machine(storage.store, quarantined)
    check(machine.applied.index == storage.store.applied.index, "the state's two records of its index differ")
    return OpenDirectory(
        path, lock, identity, founding, quarantined, storage, archive, snapshots, machine, wal, runners, birth, met
    )


def _begin_history(storage: NodeStorage, identity: Identity) -> None:
    """An empty state gets its genesis; any other must be of this cluster and history."""
    found = read_cluster(storage.store)
    if found is None:
        if storage.store.applied.index:
            raise DamagedError(f"{storage.paths.state} holds entries and no cluster record. {REJOIN}")
        storage.store.write(genesis(identity.cluster_id, identity.history_id))
    elif found != (identity.cluster_id, identity.history_id):
        raise WrongDirectoryError(
            f"{storage.paths.state} is of cluster {found[0].hex()}, history {found[1].hex()}; the directory's identity "
            f"says {identity.cluster_id.hex()}, {identity.history_id.hex()}: parts of two directories were mixed"
        )


def referenced_hashes(reader: Reader) -> Iterator[bytes]:
    """Every chunk whose bytes the state needs (CL-8)."""
    for key, _ in reader.scan(Family.CHUNKS, _ORGANISATION_CHUNK, bytes((_ORGANISATION_CHUNK[0] + 1,))):
        yield key[_HASH_AT:]


def _report_damage(chunk_hash: ChunkHash, why: str) -> None:
    log.error("a stored chunk is damaged", extra={"fields": {"chunk": chunk_hash.hex(), "why": why}})
