"""The checkpoints a node keeps, makes, streams and receives (CL-8, CL-9).

Owns: `StateCheckpoints`, a `raft.engine.Checkpoints`: the newest two under DATA/checkpoints.
Never: blocks the loop while making one; forks; decides when one is made.
Invariants: `latest` names a checkpoint that is whole and synced; making one pauses nothing but further flushes, and
asks for a pause of commits (`RocksStore.stalled`) only until the chunks put so far are durable.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

from hypercluster.errors import DiskFailedError, check
from hypercluster.storage import checkpoint_build
from hypercluster.storage.checkpoint_build import OvertakenError, Wanted
from hypercluster.storage.checkpoint_manifest import CHECKPOINT_ID, MANIFEST_NAME, Manifest
from hypercluster.storage.checkpoint_receiver import ReferencedHashes, StagedCheckpoint
from hypercluster.storage.chunk_store import ChunkStore
from hypercluster.storage.install_plan import InstallPaths, read_manifest
from hypercluster.storage.rocks import Applied, RocksStore
from hypercluster.storage.runner import Runner
from hypercluster.storage.tree import DirectoryTree
from hypercluster.values import CheckpointMeta, HistoryId, Index, Membership, Term

KEPT: Final = 2


@dataclass(frozen=True, slots=True)
class _Stream:
    """Where each byte of a checkpoint's stream lies: (first offset, size, path), in order."""

    parts: tuple[tuple[int, int, str], ...]


class StateCheckpoints:
    """One at a time is made; any number is read. `on_fatal` takes what must stop the node."""

    def __init__(
        self,
        paths: InstallPaths,
        store: RocksStore,
        chunks: ChunkStore,
        history_id: HistoryId,
        runner: Runner,
        referenced_hashes: ReferencedHashes,
        on_fatal: Callable[[BaseException], None],
        tree: DirectoryTree | None = None,
    ) -> None:
        self._paths = paths
        self._store = store
        self._chunks = chunks
        self._history_id = history_id
        self._runner = runner
        self._referenced_hashes = referenced_hashes
        self._on_fatal = on_fatal
        self._tree = tree or DirectoryTree()
        self._making: Callable[[CheckpointMeta | None], None] | None = None
        self._life = 0  # counts installs: what was being made of the state before one is dropped
        self._streams: dict[str, _Stream] = {}
        self._tree.make_directory(paths.checkpoints)
        self._tree.make_directory(paths.staging)
        self._kept: list[Manifest] = []
        for manifest in self._find():
            self._keep(manifest)

    # --- what is kept --------------------------------------------------------------------------------

    def latest(self) -> CheckpointMeta | None:
        return self._kept[-1].meta if self._kept else None

    def kept(self) -> list[Manifest]:
        """Oldest first."""
        return list(self._kept)

    def _find(self) -> list[Manifest]:
        names = [name for name in os.listdir(self._paths.checkpoints) if CHECKPOINT_ID.match(name)]
        found = [read_manifest(os.path.join(self._paths.checkpoints, name)) for name in names]
        return sorted(found, key=lambda manifest: (manifest.meta.index, manifest.meta.term))

    def read_piece(self, checkpoint_id: str, offset: int, bytes_max: int) -> bytes | None:
        """b'' at the end of the stream."""
        stream = self._streams.get(checkpoint_id) or self._stream(checkpoint_id)
        if stream is None:
            return None
        pieces: list[bytes] = []
        for first, size_bytes, path in stream.parts:
            if bytes_max <= 0 or offset >= first + size_bytes:
                continue
            try:
                with open(path, "rb", buffering=0) as file:
                    piece = os.pread(file.fileno(), min(bytes_max, first + size_bytes - offset), offset - first)
            except FileNotFoundError:
                return None
            pieces.append(piece)
            offset += len(piece)
            bytes_max -= len(piece)
        return b"".join(pieces)

    def _stream(self, checkpoint_id: str) -> _Stream | None:
        manifest = next((m for m in self._kept if m.meta.checkpoint_id == checkpoint_id), None)
        if manifest is None:
            return None
        directory = self._paths.checkpoint(checkpoint_id)
        files_bytes = sum(file.size_bytes for file in manifest.files)
        parts = [(0, manifest.meta.bytes_total - files_bytes, os.path.join(directory, MANIFEST_NAME))]
        for file in manifest.files:
            parts.append((parts[-1][0] + parts[-1][1], file.size_bytes, os.path.join(directory, file.name)))
        stream = self._streams[checkpoint_id] = _Stream(tuple(parts))
        return stream

    # --- making ------------------------------------------------------------------------------------

    def create(
        self, index: Index, term: Term, membership: Membership, done: Callable[[CheckpointMeta | None], None]
    ) -> None:
        """`index` is what the store has applied. None: one is being made, an entry was applied before the chunks
        were durable (the caller went on through `stalled()`), or there is no room. Ask again later."""
        applied = self._store.applied
        check(applied.index == index, f"a checkpoint at {index} while {applied.index} is applied")
        latest = self.latest()
        if self._making is not None or (latest is not None and latest.index >= index):
            done(latest if latest is not None and latest.index == index and self._making is None else None)
            return
        check(applied.term == term or index == 0, f"a checkpoint of term {term} while {applied.term} is applied")
        self._making = done
        self._store.freeze_exactly(partial(self._frozen, index, membership))

    def _frozen(self, index: Index, membership: Membership, applied: Applied) -> None:
        if applied.index != index:
            self._store.release()
            self._end(None)
            return
        wanted = Wanted(applied, membership, self._history_id)
        job = partial(checkpoint_build.link_state, self._tree, self._paths, self._store.database, wanted)
        self._runner.submit(job, partial(self._linked, wanted, self._life))

    def _linked(self, wanted: Wanted, life: int, error: BaseException | None) -> None:
        if life == self._life:
            self._store.release()
        if error is not None or life != self._life:
            self._failed(wanted, life, error)
            return
        made: list[Manifest] = []
        previous = self._kept[-1] if self._kept else None

        def job() -> None:
            made.append(checkpoint_build.finish(self._tree, self._paths, wanted, previous))

        self._runner.submit(job, lambda error: self._finished(wanted, life, error, made))

    def _finished(self, wanted: Wanted, life: int, error: BaseException | None, made: list[Manifest]) -> None:
        if error is not None:
            self._failed(wanted, life, error)
            return
        self._keep(made[0])
        if life == self._life:
            self._end(made[0].meta)

    def _failed(self, wanted: Wanted, life: int, error: BaseException | None) -> None:
        """A full disk, or a state that went on too early, costs the checkpoint; anything else stops the node."""
        making = checkpoint_build.making_path(self._paths, wanted)
        self._runner.submit(partial(self._tree.remove_tree, making), self._removed)
        if life != self._life:
            return  # the state it was made of has been replaced
        self._end(None)
        full = isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}
        if error is not None and not full and not isinstance(error, OvertakenError):
            self._on_fatal(
                DiskFailedError(f"making a checkpoint failed: {error}") if isinstance(error, OSError) else error
            )

    def _end(self, meta: CheckpointMeta | None) -> None:
        done, self._making = self._making, None
        if done is not None:
            done(meta)

    def _keep(self, manifest: Manifest) -> None:
        """Adds the newest and lets the oldest go; a reader of it is told None and starts over."""
        others = [m for m in self._kept if m.meta.checkpoint_id != manifest.meta.checkpoint_id]
        kept = sorted([*others, manifest], key=lambda m: (m.meta.index, m.meta.term))
        self._kept, gone = kept[-KEPT:], kept[:-KEPT]
        for old in gone:
            self._streams.pop(old.meta.checkpoint_id, None)
            path = self._paths.checkpoint(old.meta.checkpoint_id)
            aside = self._paths.discarded(old.meta.checkpoint_id)
            self._runner.submit(partial(self._tree.discard_tree, path, aside), self._removed)

    def _removed(self, error: BaseException | None) -> None:
        if error is not None:
            self._on_fatal(error)

    # --- receiving ---------------------------------------------------------------------------------

    def receive(self, meta: CheckpointMeta) -> StagedCheckpoint:
        return StagedCheckpoint(
            meta,
            self._history_id,
            self._paths,
            self._tree,
            self._store,
            self._chunks,
            self._referenced_hashes,
            self._runner,
            self._installed,
        )

    def _installed(self, manifest: Manifest) -> None:
        self._life += 1
        self._end(None)
        self._keep(manifest)
