"""Everything of a data directory above the log, opened in order and closed in order.

Owns: `NodeStorage`: the state, the chunks, the checkpoints; the recovery of an interrupted install; disk usage.
Never: identity and lock of the directory (identity.py, opened before this) or the log (wal, opened after it).
Order at open: finish or forget an install, remove what was staged, open the chunks, open the state, read the
checkpoints. So a damaged or newer directory is refused before anything is served or changed.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass

from hypercluster.errors import DamagedError
from hypercluster.storage import install_plan
from hypercluster.storage.barriers import Barriers
from hypercluster.storage.checkpoint_receiver import ReferencedHashes
from hypercluster.storage.checkpoints import StateCheckpoints
from hypercluster.storage.chunk_files import SEGMENT_BYTES
from hypercluster.storage.chunk_store import ChunkStore
from hypercluster.storage.disk import Disk, PosixDisk
from hypercluster.storage.install_plan import InstallPaths
from hypercluster.storage.rocks import ChunkBarrier, RocksStore
from hypercluster.storage.rocks_errors import RESEED
from hypercluster.storage.rocks_options import RocksSettings
from hypercluster.storage.runner import Runner
from hypercluster.storage.tree import DirectoryTree
from hypercluster.values import ChunkHash, HistoryId, Index


@dataclass(frozen=True, slots=True)
class StorageUsage:
    """Bytes on disk. Tables that a checkpoint shares with the state count once, as state."""

    state_bytes: int
    chunk_bytes: int
    checkpoint_bytes: int
    free_bytes: int


class NodeStorage:
    """`chunk_runner` syncs chunks, `checkpoint_runner` makes checkpoints: a long checkpoint must not delay a sync.
    `archive` must be durable before a flush, as chunks must. `chunk_segment_bytes` is chosen smaller by tests only."""

    def __init__(
        self,
        directory: str,
        history_id: HistoryId,
        *,
        chunk_runner: Runner,
        checkpoint_runner: Runner,
        referenced_hashes: ReferencedHashes,
        on_fatal: Callable[[BaseException], None],
        on_damaged: Callable[[ChunkHash, str], None] = lambda _hash, _why: None,
        settings: RocksSettings | None = None,
        archive: ChunkBarrier | None = None,
        tree: DirectoryTree | None = None,
        disk: Disk | None = None,
        chunk_segment_bytes: int = SEGMENT_BYTES,
    ) -> None:
        self.paths = InstallPaths(os.path.abspath(directory))
        self._disk = disk or PosixDisk()
        self._tree = tree or DirectoryTree()
        self._tree.make_directory(self.paths.data)
        self.installed_at_open = self._recover()
        self.chunks = ChunkStore(
            self.paths.chunks, self._disk, chunk_runner, on_damaged=on_damaged, segment_bytes=chunk_segment_bytes
        )
        try:
            barrier = self.chunks if archive is None else Barriers((self.chunks, archive))
            self.store = RocksStore(self.paths.state, settings, barrier)
            self.checkpoints = StateCheckpoints(
                self.paths,
                self.store,
                self.chunks,
                history_id,
                checkpoint_runner,
                referenced_hashes,
                on_fatal,
                self._tree,
            )
        except BaseException:
            self.chunks.close()
            raise

    def _recover(self) -> str | None:
        """Finishes an install whose plan is written; without one, whatever was staged is worth nothing."""
        finished = install_plan.carry_out(self._tree, self.paths)
        self._tree.remove_tree(self.paths.staging)
        self._tree.remove_tree(self.paths.state_new)
        if os.path.isdir(self.paths.state_old):
            if not os.path.isdir(self.paths.state):
                raise DamagedError(
                    f"{self.paths.state} is missing beside {self.paths.state_old}, with no plan of an install. "
                    + RESEED
                )
            self._tree.remove_tree(self.paths.state_old)
        return finished

    def free_bytes(self) -> int:
        return self._disk.free_bytes(self.paths.data)

    def durable_index(self) -> Index:
        """What a restart of this node, and any checkpoint it hands out, have reached."""
        kept = (manifest.meta.index for manifest in self.checkpoints.kept())
        return min((self.store.flushed_index, *kept))

    def receiving(self) -> bool:
        """A checkpoint is coming in: its chunks are put here before its state is."""
        return any(name.startswith("receive-") for name in os.listdir(self.paths.staging))

    def usage(self) -> StorageUsage:
        """Walks the directories: for a metric every so many seconds, beside the loop."""
        counted: set[int] = set()
        return StorageUsage(
            state_bytes=_tree_bytes(self.paths.state, counted),
            chunk_bytes=_tree_bytes(self.paths.chunks, counted),
            checkpoint_bytes=_tree_bytes(self.paths.checkpoints, counted),
            free_bytes=self.free_bytes(),
        )

    def close(self) -> None:
        """Flushes what is applied, then closes. Blocks."""
        self.store.close()
        self.chunks.close()


def _tree_bytes(path: str, counted: set[int]) -> int:
    """Of files whose inode is not in `counted` yet."""
    total = 0
    for directory, _, names in os.walk(path):
        for name in names:
            try:
                found = os.lstat(os.path.join(directory, name))
            except FileNotFoundError:
                continue  # compacted away since it was listed
            if found.st_ino not in counted:
                counted.add(found.st_ino)
                total += found.st_size
    return total


def forget(directory: str) -> None:
    """Removes state, chunks, checkpoints and staging, so that the node can be seeded anew. The directory's identity
    and log are their owners' to remove (CL-15)."""
    paths = InstallPaths(os.path.abspath(directory))
    if os.path.exists(paths.plan):
        os.unlink(paths.plan)
    for path in (
        paths.state,
        paths.state_new,
        paths.state_old,
        paths.staging,
        paths.checkpoints,
        paths.chunks,
    ):
        shutil.rmtree(path, ignore_errors=True)
