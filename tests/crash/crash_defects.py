"""Defects to build into a process that is killed at a crash point: each must be found by what is checked afterwards.

Each changes this process for good. There is no way from the product to here.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any, Final

from hypercluster.client.live.shelf import READY, Building
from hypercluster.client.live.store import TreeStore
from hypercluster.client.sqlite_store import SqliteStore
from hypercluster.client.worker.mirror import Batch, Mirror
from hypercluster.client.worker.mirror_disk import MirrorDisk
from hypercluster.storage import install_plan, quarantine, rocks_database
from hypercluster.storage.archive.archive import OplogArchive
from hypercluster.storage.archive.segment import read_segment, write_segment
from hypercluster.storage.disk import Disk, PosixFile
from hypercluster.storage.install_plan import InstallPaths
from hypercluster.storage.rejoin_plan import RejoinDirectory, RejoinPlan
from hypercluster.storage.tree import DirectoryTree


def _writes_late() -> None:
    """What is given to the disk is written when the next is given to it, or when its file is closed."""
    held: list[tuple[PosixFile, bytes, int]] = []
    write, close = PosixFile.pwrite, PosixFile.close

    def late(file: PosixFile, data: bytes, offset: int) -> None:
        for before in held:
            write(*before)
        held[:] = [(file, data, offset)]

    def close_late(file: PosixFile) -> None:
        for before in [one for one in held if one[0] is file]:
            write(*before)
            held.remove(before)
        close(file)

    PosixFile.pwrite = late  # type: ignore[method-assign]
    PosixFile.close = close_late  # type: ignore[method-assign]


def _flushes_some_families() -> None:
    """Not all at once (CL-7)."""
    good_options = rocks_database.database_options

    def options(*arguments: Any) -> Any:
        made = good_options(*arguments)
        made.set_atomic_flush(False)
        return made

    def freeze(database: rocks_database.RocksDatabase) -> None:
        for family in (*database._families[::2], database._database):
            family.flush(wait=True)

    rocks_database.database_options = options
    rocks_database.RocksDatabase.freeze = freeze  # type: ignore[method-assign]


def _forgets_its_plan_early() -> None:
    """The plan of an install goes before its steps are done."""

    def carry_out(tree: DirectoryTree, paths: InstallPaths) -> str | None:
        checkpoint_id = install_plan.read_plan(paths)
        if checkpoint_id is None:
            return None
        tree.unlink(paths.plan)
        tree.rename(paths.staged(checkpoint_id), paths.checkpoint(checkpoint_id))
        tree.rename(paths.state, paths.state_old)
        install_plan._make_new_state(tree, paths, paths.checkpoint(checkpoint_id))
        tree.rename(paths.state_new, paths.state)
        tree.remove_tree(paths.state_old)
        return checkpoint_id

    install_plan.carry_out = carry_out


def _writes_in_place() -> None:
    """A quarantine is written over the one before."""

    def write(disk: Disk, path: str, content: bytes) -> None:
        file = disk.open(path, create=not disk.exists(path))
        file.pwrite(content, 0)
        file.fsync()
        file.close()

    quarantine._write = write


def _deletes_what_was_there() -> None:
    """The old directory is not kept aside."""

    def move_aside(directory: RejoinDirectory, plan: RejoinPlan) -> bool:
        if not directory.is_placed(plan) and os.path.isdir(directory.data):
            os.rename(directory.data, f"{directory.data}.gone-{plan.aside}")
        return True

    RejoinDirectory.move_aside = move_aside  # type: ignore[method-assign]


def _joins_by_replacing() -> None:
    """The parts of a join go before the joined segment is there."""

    def replace(archive: OplogArchive, workspace_id: bytes, begin: int, end: int) -> None:
        segments = archive._segments[workspace_id]
        parts = segments[begin:end]
        records = [record for part in parts for record in read_segment(archive._disk, part)]
        archive._unlink(parts)
        directory, before, last = archive._directory(workspace_id), parts[0].chain_before, parts[-1].last_index
        segments[begin:end] = [
            write_segment(archive._disk, directory, parts[0].history_id, workspace_id, before, records, last)
        ]

    OplogArchive._replace = replace  # type: ignore[method-assign]


def _keeps_no_plan() -> None:
    """The tree of a batch is written without what is still to be done to the directory."""

    def commit(mirror: Mirror, batch: Batch) -> None:
        mirror.store.write(batch.changes)
        mirror.store.write(mirror.names.apply(batch.diff.removed(), batch.diff.added()))
        mirror.store.commit_batch(sync=True)

    Mirror.commit = commit  # type: ignore[method-assign]


def _counts_half_a_tree() -> None:
    """A tree counts from when its building begins."""
    good = Building.__init__

    def begin(building: Building, store: TreeStore, workspace_id: bytes, history_id: bytes) -> None:
        good(building, store, workspace_id, history_id)
        store.put_record("state", READY)

    Building.__init__ = begin  # type: ignore[method-assign]


def _syncs_no_file() -> None:
    """Of segments, manifests and archives; RocksDB syncs for itself. For power cuts: a kill can not show it."""

    def nothing(_: PosixFile) -> None:
        return

    PosixFile.fsync = PosixFile.fdatasync = nothing  # type: ignore[method-assign]


def _syncs_its_index_alone() -> None:
    """The worker's database is synced with every commit, what lies in the directory never. For power cuts, too."""
    commit = SqliteStore.commit_batch

    def commit_synced(store: SqliteStore, *, sync: bool = True) -> None:
        commit(store, sync=True)

    SqliteStore.commit_batch = commit_synced  # type: ignore[method-assign]
    MirrorDisk.sync = lambda _: None  # type: ignore[method-assign]


DEFECTS: Final[Mapping[str, Callable[[], None]]] = {
    "": lambda: None,
    "writes_late": _writes_late,
    "flushes_some_families": _flushes_some_families,
    "forgets_its_plan_early": _forgets_its_plan_early,
    "writes_in_place": _writes_in_place,
    "deletes_what_was_there": _deletes_what_was_there,
    "joins_by_replacing": _joins_by_replacing,
    "keeps_no_plan": _keeps_no_plan,
    "counts_half_a_tree": _counts_half_a_tree,
    "syncs_no_file": _syncs_no_file,
    "syncs_its_index_alone": _syncs_its_index_alone,
}
