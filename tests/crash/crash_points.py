"""Where a node or a worker can be killed: named places in all that writes to a disk, apply and membership (CH-7).

Owns: `CRASH_POINTS`, and `arm`, which makes this process kill itself at one of them.
Never: anything in the product: a point is a function's name, and the kill is put around it in a process of a test.
Invariants: a point is noted in the file of hits before the kill, so that the list of points can be held against what
was really hit; the kill is SIGKILL, so nothing of the process runs afterwards: no `finally`, no flush, no close.
A function that other modules of the product or of these drivers have imported by name is replaced there too.
"""

from __future__ import annotations

import functools
import importlib
import os
import signal
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

# One process each.
LOG, STORAGE, INSTALL, DIRECTORY, REJOIN = "log", "storage", "install", "directory", "rejoin"
RETENTION, MIRROR, LIVE = (
    "retention",
    "mirror",
    "live",
)  # snapshots, archive and deletion; a worker's directory and tree
NODE, MEMBERS, BEHIND = "node", "members", "behind"  # a real cluster: under load, changing members, far behind
IN_PROCESS: Final = (LOG, STORAGE, INSTALL, DIRECTORY, REJOIN, RETENTION, MIRROR, LIVE)
IN_CLUSTER: Final = (NODE, MEMBERS, BEHIND)

# How often a driver comes past a place that it does not come past again and again: what is done once a life, or once
# an install. An install is one of a node that is behind; opening looks for an unfinished one too.
SELDOM: Final = {
    ("wal-create", LOG): 1,
    ("disk-sync-directory", STORAGE): 1,
    ("chunk-segment", STORAGE): 1,
    ("live-build", LIVE): 2,
    ("live-remove-others", LIVE): 2,
    **{(place, NODE): 1 for place in ("wal-reopen", "wal-mend", "engine-align", "state-open", "chunk-recover")},
    **{(place, NODE): 2 for place in ("journal-term", "wal-hard-state", "snapshot-publish", "snapshot-drop")},
    ("snapshot-sweep", NODE): 1,
    **{
        (f"install{part}", BEHIND): 1 for part in ("", "-begin", "-verify", "-plan", "-new-state", "-replace", "-adopt")
    },
    **{(place, BEHIND): 1 for place in ("wal-reset", "journal-reset", "install-plan-done")},
    ("install-carry-out", BEHIND): 2,
}

BEFORE, AFTER, HALF = "before", "after", "half"  # half: of what it was to write is written


@dataclass(frozen=True, slots=True)
class CrashPoint:
    """`drivers`: what comes past it (crash_drivers.py, crash_cluster.py)."""

    place: str
    module: str
    qualname: str
    moment: str
    drivers: tuple[str, ...]

    def within(self, driver: str, calls: Iterable[int]) -> list[int]:
        """Those of `calls` that the driver ever gets to."""
        return sorted({min(call, SELDOM.get((self.place, driver), call)) for call in calls})

    @property
    def name(self) -> str:
        return f"{self.place}.{self.moment}"

    def __str__(self) -> str:
        return self.name


# Place, function, drivers. Every place is two points: before and after the call.
_PLACES: Final[tuple[tuple[str, str, tuple[str, ...]], ...]] = (
    # The log.
    ("wal-append", "hypercluster.storage.wal.log:Wal.append", (LOG, NODE)),
    ("wal-truncate", "hypercluster.storage.wal.log:Wal.truncate_from", (LOG,)),
    ("wal-hard-state", "hypercluster.storage.wal.log:Wal.save_hard_state", (LOG, NODE)),
    ("wal-commit-index", "hypercluster.storage.wal.log:Wal.save_commit_index", (LOG, NODE)),
    ("wal-compact", "hypercluster.storage.wal.log:Wal.compact_to", (LOG, NODE)),
    ("wal-reset", "hypercluster.storage.wal.log:Wal.reset_to", (LOG, BEHIND)),
    ("wal-job", "hypercluster.storage.wal.log:WalJob.run", (LOG, NODE)),
    ("wal-finish", "hypercluster.storage.wal.log:Wal.finish", (LOG, NODE)),
    ("wal-write", "hypercluster.storage.wal.writer:SegmentWriter.write", (LOG, NODE)),
    ("wal-group", "hypercluster.storage.wal.writer:SegmentWriter._flush", (LOG, NODE)),
    ("wal-sync", "hypercluster.storage.wal.writer:SegmentWriter._sync", (LOG, NODE)),
    ("wal-rotate", "hypercluster.storage.wal.writer:SegmentWriter.roll", (LOG,)),
    ("wal-seal", "hypercluster.storage.wal.writer:SegmentWriter._seal", (LOG,)),
    ("wal-pool-take", "hypercluster.storage.wal.pool:SegmentPool.take", (LOG,)),
    ("wal-pool-build", "hypercluster.storage.wal.pool:SegmentPool._build", (LOG,)),
    ("wal-create", "hypercluster.storage.wal.opening:_create", (LOG,)),
    ("wal-reopen", "hypercluster.storage.wal.opening:_reopen", (LOG, NODE)),
    ("wal-mend", "hypercluster.storage.wal.replay:mend", (LOG, NODE)),
    # The disk below the log, the chunks and the small files.
    ("disk-write", "hypercluster.storage.disk:PosixFile.pwrite", (LOG, STORAGE, DIRECTORY, REJOIN, NODE, RETENTION)),
    ("disk-fdatasync", "hypercluster.storage.disk:PosixFile.fdatasync", (LOG, STORAGE, NODE)),
    ("disk-fsync", "hypercluster.storage.disk:PosixFile.fsync", (LOG, DIRECTORY, REJOIN, RETENTION)),
    ("disk-rename", "hypercluster.storage.disk:PosixDisk.rename", (LOG, DIRECTORY, REJOIN, RETENTION)),
    ("disk-unlink", "hypercluster.storage.disk:PosixDisk.unlink", (LOG, REJOIN, RETENTION)),
    (
        "disk-sync-directory",
        "hypercluster.storage.disk:PosixDisk.fsync_dir",
        (LOG, STORAGE, DIRECTORY, REJOIN, RETENTION),
    ),
    # The journal between the library and the log.
    ("journal-append", "hypercluster.raft.journal:WalJournal.append", (NODE,)),
    ("journal-term", "hypercluster.raft.journal:WalJournal.setCurrentTerm", (NODE,)),
    ("journal-commit-index", "hypercluster.raft.journal:WalJournal.setRaftCommitIndex", (NODE,)),
    ("journal-reset", "hypercluster.raft.journal:WalJournal.reset_to", (BEHIND,)),
    ("engine-synced", "hypercluster.raft.core:EngineCore._synced", (NODE,)),
    ("engine-align", "hypercluster.raft.core:align_log", (NODE,)),
    # Apply.
    ("apply-entry", "hypercluster.node.apply_loop:ApplyLoop.apply", (NODE,)),
    ("apply-judge", "hypercluster.state_machine.machine:Machine.apply", (NODE,)),
    ("apply-store", "hypercluster.node.apply_loop:ApplyLoop._finish", (NODE,)),
    ("state-commit", "hypercluster.storage.rocks:RocksStore.commit", (STORAGE, NODE)),
    ("state-batch", "hypercluster.storage.rocks_database:RocksDatabase.write", (STORAGE, INSTALL, NODE)),
    ("state-freeze", "hypercluster.storage.rocks_database:RocksDatabase.freeze", (STORAGE, NODE)),
    ("state-flush-begin", "hypercluster.storage.rocks:RocksStore.request_flush", (STORAGE, NODE)),
    ("state-flush", "hypercluster.storage.rocks:RocksStore.flush", (STORAGE,)),
    ("state-open", "hypercluster.storage.rocks:RocksStore.open", (STORAGE, INSTALL, NODE)),
    # Chunks.
    ("chunk-put", "hypercluster.storage.chunk_store:ChunkStore.put", (STORAGE, NODE)),
    ("chunk-append", "hypercluster.storage.chunk_files:SegmentFiles.append", (STORAGE, NODE)),
    ("chunk-segment", "hypercluster.storage.chunk_files:SegmentFiles._next_segment", (STORAGE,)),
    ("chunk-sync", "hypercluster.storage.chunk_store:ChunkStore.sync", (STORAGE, INSTALL, NODE)),
    ("chunk-index", "hypercluster.storage.chunk_index:ChunkIndex.write", (STORAGE, INSTALL, NODE)),
    ("chunk-index-flush", "hypercluster.storage.chunk_index:ChunkIndex.flush", (STORAGE,)),
    ("chunk-recover", "hypercluster.storage.chunk_store:ChunkStore._recover", (STORAGE, NODE)),
    # Making a checkpoint, keeping two, compaction behind it.
    ("checkpoint-begin", "hypercluster.storage.checkpoints:StateCheckpoints.create", (STORAGE, NODE)),
    ("checkpoint-frozen", "hypercluster.storage.checkpoints:StateCheckpoints._frozen", (STORAGE, NODE)),
    ("checkpoint-link", "hypercluster.storage.checkpoint_build:link_state", (STORAGE, NODE)),
    ("checkpoint-gather", "hypercluster.storage.checkpoint_build:_gather", (STORAGE, NODE)),
    ("checkpoint-look", "hypercluster.storage.checkpoint_build:_keep_only_named", (STORAGE, NODE)),
    ("checkpoint-finish", "hypercluster.storage.checkpoint_build:finish", (STORAGE, NODE)),
    ("checkpoint-keep", "hypercluster.storage.checkpoints:StateCheckpoints._keep", (STORAGE, INSTALL, NODE)),
    ("tree-link", "hypercluster.storage.tree:DirectoryTree.link", (STORAGE, INSTALL, NODE)),
    ("tree-copy", "hypercluster.storage.tree:DirectoryTree.copy", (STORAGE, INSTALL, NODE)),
    ("tree-sync", "hypercluster.storage.tree:DirectoryTree.sync_file", (STORAGE, INSTALL, NODE)),
    ("tree-sync-directory", "hypercluster.storage.tree:DirectoryTree.sync_directory", (STORAGE, INSTALL, NODE)),
    ("tree-write", "hypercluster.storage.tree:DirectoryTree.write_file", (STORAGE, INSTALL, NODE)),
    ("tree-rename", "hypercluster.storage.tree:DirectoryTree.rename", (STORAGE, INSTALL, NODE)),
    ("tree-discard", "hypercluster.storage.tree:DirectoryTree.discard_tree", (STORAGE, INSTALL, NODE)),
    ("tree-remove", "hypercluster.storage.tree:DirectoryTree.remove_tree", (STORAGE, INSTALL, NODE)),
    ("compaction", "hypercluster.raft.checkpointing:Checkpointing._compact", (NODE,)),
    # Workspace snapshots, the archive of op logs, and the deletion of chunk bytes.
    ("snapshot-marked", "hypercluster.node.tree_snapshots:TreeSnapshots.marked", (RETENTION, NODE)),
    ("snapshot-step", "hypercluster.storage.snapshots.writer:SnapshotWriter.step", (RETENTION, NODE)),
    ("snapshot-page", "hypercluster.storage.snapshots.store:SnapshotStore.put_page", (RETENTION,)),
    ("snapshot-publish", "hypercluster.storage.snapshots.store:SnapshotStore.publish", (RETENTION, NODE)),
    ("snapshot-manifest", "hypercluster.storage.snapshots.store:SnapshotStore.publish_signed", (RETENTION,)),
    ("snapshot-drop", "hypercluster.storage.snapshots.store:SnapshotStore.drop", (RETENTION, NODE)),
    ("snapshot-sweep", "hypercluster.storage.snapshots.store:SnapshotStore.sweep", (RETENTION, NODE)),
    ("archive-trimmed", "hypercluster.storage.archive.archive:OplogArchive.trimmed", (RETENTION,)),
    ("archive-records", "hypercluster.storage.archive.archive:OplogArchive._archive", (RETENTION,)),
    ("archive-frame", "hypercluster.storage.archive.segment:_Writer._end_frame", (RETENTION,)),
    ("archive-segment", "hypercluster.storage.archive.segment:_Writer.finish", (RETENTION,)),
    ("archive-join", "hypercluster.storage.archive.archive:OplogArchive._replace", (RETENTION,)),
    ("archive-drop-old", "hypercluster.storage.archive.archive:OplogArchive._drop_old", (RETENTION,)),
    ("archive-drop-over", "hypercluster.storage.archive.archive:OplogArchive._drop_over_budget", (RETENTION,)),
    ("archive-unlink", "hypercluster.storage.archive.archive:OplogArchive._unlink", (RETENTION,)),
    ("chunk-delete", "hypercluster.storage.chunk_store:ChunkStore.delete", (RETENTION,)),
    ("chunk-reclaim", "hypercluster.storage.chunk_store:ChunkStore.reclaim", (RETENTION,)),
    ("chunk-free", "hypercluster.storage.chunk_store:ChunkStore._unlink", (RETENTION,)),
    ("chunk-segment-unlink", "hypercluster.storage.chunk_files:SegmentFiles.unlink", (RETENTION,)),
    # A worker's materialised directory, and the database of its tree.
    ("mirror-build", "hypercluster.client.worker.mirror_disk:MirrorDisk.build_file", (MIRROR,)),
    ("mirror-symlink", "hypercluster.client.worker.mirror_disk:MirrorDisk.build_symlink", (MIRROR,)),
    ("mirror-write", "hypercluster.client.worker.mirror_disk:_write_all", (MIRROR,)),
    ("mirror-detach", "hypercluster.client.worker.mirror_disk:MirrorDisk.detach", (MIRROR,)),
    ("mirror-move", "hypercluster.client.worker.mirror_disk:MirrorDisk._move", (MIRROR,)),
    ("mirror-place", "hypercluster.client.worker.mirror_disk:MirrorDisk.place", (MIRROR,)),
    ("mirror-link", "hypercluster.client.worker.mirror_disk:MirrorDisk.link", (MIRROR,)),
    ("mirror-rewrite", "hypercluster.client.worker.mirror_disk:MirrorDisk.rewrite", (MIRROR,)),
    ("mirror-dress", "hypercluster.client.worker.mirror_disk:MirrorDisk.dress", (MIRROR,)),
    ("mirror-sync", "hypercluster.client.worker.mirror_disk:MirrorDisk.sync", (MIRROR,)),
    ("mirror-clear", "hypercluster.client.worker.mirror_disk:MirrorDisk.clear_areas", (MIRROR,)),
    ("mirror-wipe", "hypercluster.client.worker.mirror_disk:MirrorDisk.wipe", (MIRROR,)),
    ("mirror-remove", "hypercluster.client.worker.mirror_disk:MirrorDisk._remove_tree", (MIRROR,)),
    ("mirror-commit", "hypercluster.client.worker.mirror:Mirror.commit", (MIRROR,)),
    ("mirror-names", "hypercluster.client.worker.mirror:Mirror.run_names", (MIRROR,)),
    ("mirror-finish", "hypercluster.client.worker.mirror:Mirror.finish", (MIRROR,)),
    ("mirror-status", "hypercluster.client.worker.state:write_status", (MIRROR,)),
    ("rebuild-begin", "hypercluster.client.worker.rebuild:Rebuild.begin", (MIRROR,)),
    ("rebuild-add", "hypercluster.client.worker.rebuild:Rebuild.add", (MIRROR,)),
    ("rebuild-check", "hypercluster.client.worker.rebuild:Rebuild.check", (MIRROR,)),
    ("rebuild-finish", "hypercluster.client.worker.rebuild:Rebuild.finish", (MIRROR,)),
    ("database-commit", "hypercluster.client.sqlite_store:SqliteStore.commit_batch", (MIRROR,)),
    ("database-sync", "hypercluster.client.sqlite_store:SqliteStore._sync_log", (MIRROR,)),
    # A worker's live tree, and its chunks.
    ("live-open", "hypercluster.client.live.shelf:Shelf.open_newest", (LIVE,)),
    ("live-build", "hypercluster.client.live.shelf:Shelf.build", (LIVE,)),
    ("live-add", "hypercluster.client.live.shelf:Building.add", (LIVE,)),
    ("live-built", "hypercluster.client.live.shelf:Building.finish", (LIVE,)),
    ("live-remove-others", "hypercluster.client.live.shelf:Shelf.remove_others", (LIVE,)),
    ("live-flush", "hypercluster.client.live.store:TreeStore.flush", (LIVE,)),
    ("live-flushed", "hypercluster.client.live.store:TreeStore.end_flush", (LIVE,)),
    ("cache-flush", "hypercluster.client.live.chunk_cache:ChunkCache.flush", (LIVE,)),
    # Receiving and installing one.
    ("install-begin", "hypercluster.storage.checkpoints:StateCheckpoints.receive", (INSTALL, BEHIND)),
    ("install-piece", "hypercluster.storage.checkpoint_receiver:StagedCheckpoint.write", (INSTALL, BEHIND)),
    ("install-verify", "hypercluster.storage.checkpoint_receiver:StagedCheckpoint.verify", (INSTALL, BEHIND)),
    ("install-chunk", "hypercluster.storage.checkpoint_receiver:StagedCheckpoint.add_chunk", (INSTALL, BEHIND)),
    ("install", "hypercluster.storage.checkpoint_receiver:StagedCheckpoint.install", (INSTALL, BEHIND)),
    ("install-plan", "hypercluster.storage.install_plan:write_plan", (INSTALL, BEHIND)),
    ("install-carry-out", "hypercluster.storage.install_plan:carry_out", (INSTALL, BEHIND)),
    ("install-new-state", "hypercluster.storage.install_plan:_make_new_state", (INSTALL, BEHIND)),
    ("install-plan-done", "hypercluster.storage.tree:DirectoryTree.unlink", (INSTALL, BEHIND)),
    ("install-replace", "hypercluster.storage.rocks:RocksStore.replace", (INSTALL, BEHIND)),
    ("install-adopt", "hypercluster.raft.checkpointing:Checkpointing._adopt_state", (BEHIND,)),
    # What a directory is made with, and what it remembers.
    ("identity", "hypercluster.storage.identity:create_identity", (DIRECTORY, REJOIN)),
    ("founding", "hypercluster.storage.founding:create_founding", (DIRECTORY, REJOIN)),
    ("birth", "hypercluster.storage.birth:_write", (DIRECTORY,)),
    ("met-peers", "hypercluster.storage.met_peers:MetPeers._write", (DIRECTORY,)),
    ("quarantine", "hypercluster.storage.quarantine:add_quarantine", (DIRECTORY,)),
    ("quarantine-write", "hypercluster.storage.quarantine:_write", (DIRECTORY, REJOIN)),
    ("apply-failed-note", "hypercluster.storage.quarantine:note_failure", (DIRECTORY,)),
    # The way back of a node.
    ("rejoin-plan", "hypercluster.storage.rejoin_plan:RejoinDirectory.write", (REJOIN,)),
    ("rejoin-aside", "hypercluster.storage.rejoin_plan:RejoinDirectory.move_aside", (REJOIN,)),
    ("rejoin-make", "hypercluster.storage.rejoin_plan:RejoinDirectory.make", (REJOIN,)),
    ("rejoin-place", "hypercluster.storage.rejoin_plan:RejoinDirectory.place", (REJOIN,)),
    ("rejoin-forget", "hypercluster.storage.rejoin_plan:RejoinDirectory.forget", (REJOIN,)),
    # Members.
    ("members-change", "hypercluster.raft.adapter:RaftEngine.change_membership", (MEMBERS,)),
    ("members-append", "hypercluster.raft.replication:Replication._configurations_appended", (MEMBERS,)),
    ("members-effective", "hypercluster.raft.membership:MembershipLog.append", (MEMBERS,)),
    ("members-commit", "hypercluster.raft.adapter:RaftEngine._configuration_committed", (MEMBERS,)),
)


def _points() -> tuple[CrashPoint, ...]:
    points = []
    for place, where, drivers in _PLACES:
        module, _, qualname = where.partition(":")
        points += [CrashPoint(place, module, qualname, moment, drivers) for moment in (BEFORE, AFTER)]
        if place == "disk-write":
            points.append(CrashPoint(place, module, qualname, HALF, drivers))
    return tuple(points)


CRASH_POINTS: Final = _points()
BY_NAME: Final = {point.name: point for point in CRASH_POINTS}


def resolve(point: CrashPoint) -> tuple[Any, str, Callable[..., Any]]:
    """(what holds it, its name there, the function). Raises AttributeError or ImportError when it is gone."""
    holder: Any = importlib.import_module(point.module)
    *path, name = point.qualname.split(".")
    for part in path:
        holder = getattr(holder, part)
    function = vars(holder)[name] if path and name in vars(holder) else getattr(holder, name)
    if not callable(function):
        raise AttributeError(f"{point.qualname} of {point.module} is no function")
    return holder, name, function


def arm(point: CrashPoint, call: int, hits: Path) -> None:
    """This process kills itself at the call number `call` of the point, counted from 1."""
    holder, name, function = resolve(point)
    count = 0

    def die() -> None:
        with open(hits, "ab", buffering=0) as file:
            file.write(f"{point.name}\n".encode())
        os.kill(os.getpid(), signal.SIGKILL)
        signal.pause()  # the kill of this process may take a moment to reach this thread

    @functools.wraps(function)
    def armed(*arguments: Any, **named: Any) -> Any:
        nonlocal count
        count += 1
        due = count == call
        if due and point.moment == BEFORE:
            die()
        if due and point.moment == HALF:
            file, content, offset = arguments
            function(file, content[: len(content) // 2], offset)
            die()
        answer = function(*arguments, **named)
        if due:
            die()
        return answer

    setattr(holder, name, armed)
    for module in list(sys.modules.values()):
        if getattr(module, "__name__", "").startswith(("hypercluster.", "tests.crash.")):
            for alias, value in list(vars(module).items()):
                if value is function:
                    setattr(module, alias, armed)


def hit_so_far(hits: Path) -> set[str]:
    return set(hits.read_text().split()) if hits.exists() else set()
