"""One incoming checkpoint: staged, verified, completed with chunks, and installed by a written plan (CL-8).

Owns: `StagedCheckpoint`, a `raft.engine.CheckpointReceiver`.
Never: touches the node's state before `install`; believes a piece, a name or a hash it has not checked.
Invariants: `install` is refused before `verify` passed and while a referenced chunk is missing. Hashes are computed
as the pieces arrive and files are synced as they fill, so that `verify` waits for little.
Threads: pieces on the loop. `verify` blocks and may run on another thread while no other call is made.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from typing import Final

from blake3 import blake3

from hypercluster.errors import DamagedError, WrongDirectoryError, check
from hypercluster.state_machine.store import Reader
from hypercluster.storage import checkpoint_manifest, install_plan
from hypercluster.storage.checkpoint_build import LOOK_SETTINGS, remove_others
from hypercluster.storage.checkpoint_manifest import HEADER, MANIFEST_NAME, Manifest
from hypercluster.storage.chunk_store import ChunkStore
from hypercluster.storage.install_plan import InstallPaths
from hypercluster.storage.rocks import Applied, RocksStore, read_applied
from hypercluster.storage.rocks_database import RocksDatabase
from hypercluster.storage.runner import Runner
from hypercluster.storage.tree import DirectoryTree
from hypercluster.values import CheckpointMeta, ChunkHash, HistoryId

ReferencedHashes = Callable[[Reader], Iterator[bytes]]
HASH_BYTES: Final = 32


class StagedCheckpoint:
    """Made by `StateCheckpoints.receive`; `installed` is called after the state is replaced."""

    def __init__(
        self,
        meta: CheckpointMeta,
        history_id: HistoryId,
        paths: InstallPaths,
        tree: DirectoryTree,
        store: RocksStore,
        chunks: ChunkStore,
        referenced_hashes: ReferencedHashes,
        runner: Runner,
        installed: Callable[[Manifest], None],
    ) -> None:
        if not checkpoint_manifest.CHECKPOINT_ID.match(meta.checkpoint_id):
            raise ValueError("checkpoint_id: not two hexadecimal numbers")
        self._meta = meta
        self._history_id = history_id
        self._paths = paths
        self._tree = tree
        self._store = store
        self._chunks = chunks
        self._referenced_hashes = referenced_hashes
        self._runner = runner
        self._installed = installed
        self._directory = paths.staged(meta.checkpoint_id)
        self._offset = 0
        self._head = bytearray()  # until the manifest is whole
        self._manifest: Manifest | None = None
        self._file_number = 0
        self._file_bytes = 0
        self._hasher = blake3()
        self._descriptor: int | None = None
        self._damage: DamagedError | None = None
        self._sync_error: BaseException | None = None
        self._verified = False
        self._missing = bytearray()  # hashes, one after the other: an object for each would take four times the room
        self._missing_at = 0
        self._over = False
        shutil.rmtree(self._directory, ignore_errors=True)
        os.makedirs(self._directory, 0o750)

    # --- pieces ------------------------------------------------------------------------------------

    def write(self, offset: int, piece: bytes) -> None:
        """ValueError: out of order, or past the end. Damage is kept for `verify` to raise: what another node sends
        must not stop this one in the middle of its work."""
        self._check_open()
        if offset != self._offset:
            raise ValueError(f"offset: {offset}, expected {self._offset}")
        if offset + len(piece) > self._meta.bytes_total:
            raise ValueError(f"piece: ends past the checkpoint's {self._meta.bytes_total} bytes")
        self._offset += len(piece)
        if self._damage is not None:
            return
        try:
            self._take(memoryview(piece))
        except (DamagedError, WrongDirectoryError) as damage:
            self._damage = DamagedError(str(damage))

    def _take(self, piece: memoryview) -> None:
        if self._manifest is None:
            self._head += piece
            piece = memoryview(self._take_manifest())
        if self._manifest is not None:
            self._write_files(piece)

    def _take_manifest(self) -> bytes:
        """Reads the manifest once it is whole; answers the bytes that follow it."""
        where = f"the manifest of the incoming checkpoint {self._meta.checkpoint_id}"
        if len(self._head) < HEADER.size:
            return b""
        length = checkpoint_manifest.encoded_bytes(bytes(self._head[: HEADER.size]), where)
        if len(self._head) < length:
            return b""
        manifest = checkpoint_manifest.decode(bytes(self._head[:length]), where)
        if manifest.meta != self._meta:
            raise DamagedError(f"{where} describes another checkpoint than was announced")
        if manifest.history_id != self._history_id:
            raise DamagedError(f"{where} belongs to another history of the cluster")
        with open(os.path.join(self._directory, MANIFEST_NAME), "xb") as file:  # synced by verify
            file.write(self._head[:length])
        self._manifest = manifest
        rest = bytes(self._head[length:])
        self._head.clear()
        self._begin_file()
        return rest

    def _write_files(self, rest: memoryview) -> None:
        assert self._manifest is not None
        while self._file_number < len(self._manifest.files):
            file = self._manifest.files[self._file_number]
            part = rest[: file.size_bytes - self._file_bytes]
            rest = rest[len(part) :]
            self._hasher.update(part)
            self._file_bytes += len(part)
            while part:
                assert self._descriptor is not None
                part = part[os.write(self._descriptor, part) :]
            if self._file_bytes < file.size_bytes:
                return
            self._end_file(file.name, file.blake3_hex)

    def _begin_file(self) -> None:
        assert self._manifest is not None
        if self._file_number < len(self._manifest.files):
            path = os.path.join(self._directory, self._manifest.files[self._file_number].name)
            self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)
            self._file_bytes = 0
            self._hasher = blake3()

    def _end_file(self, name: str, blake3_hex: str) -> None:
        self._close_file()
        self._check_hash(name, self._hasher.hexdigest(), blake3_hex)
        path = os.path.join(self._directory, name)
        self._runner.submit(partial(self._tree.sync_file, path), self._file_synced)
        self._file_number += 1
        self._begin_file()

    def _check_hash(self, name: str, found_hex: str, expected_hex: str) -> None:
        if found_hex != expected_hex:
            raise DamagedError(f"{name} of the incoming checkpoint {self._meta.checkpoint_id} fails its checksum")

    def _file_synced(self, error: BaseException | None) -> None:
        if error is not None and not self._over:
            self._sync_error = error

    def _close_file(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    # --- completing and installing -----------------------------------------------------------------

    def verify(self) -> None:
        """Blocks. Everything is there, synced, and opens as the state it claims to be; DamagedError otherwise."""
        self._check_open()
        if self._damage is not None:
            raise self._damage
        if self._manifest is None or self._file_number < len(self._manifest.files):
            have = f"{self._offset} of {self._meta.bytes_total} bytes"
            raise DamagedError(f"the incoming checkpoint {self._meta.checkpoint_id} has {have}")
        if self._sync_error is not None:
            raise self._sync_error
        for name in (MANIFEST_NAME, *(file.name for file in self._manifest.files)):
            self._tree.sync_file(os.path.join(self._directory, name))
        self._tree.sync_directory(self._directory)
        self._look_inside()
        self._verified = True

    def _look_inside(self) -> None:
        assert self._manifest is not None
        database = RocksDatabase(self._directory, LOOK_SETTINGS, read_only=True)
        try:
            meta = self._meta
            if read_applied(database) != Applied(meta.index, meta.term, meta.digest, meta.last_stamp_ns):
                raise DamagedError(f"the incoming checkpoint {meta.checkpoint_id} holds another state than it says")
            for chunk_hash in self._referenced_hashes(database):
                if not self._chunks.has(ChunkHash(chunk_hash)):
                    self._missing += chunk_hash
        finally:
            database.close()
        remove_others(self._directory, {MANIFEST_NAME, *(file.name for file in self._manifest.files)})

    def missing_chunks(self, count_max: int) -> list[bytes]:
        self._check_open()
        check(self._verified, "verify comes before missing_chunks")
        found: list[bytes] = []
        at = self._missing_at
        while at < len(self._missing) and len(found) < count_max:
            chunk_hash = bytes(self._missing[at : at + HASH_BYTES])
            at += HASH_BYTES
            if not self._chunks.has(ChunkHash(chunk_hash)):
                found.append(chunk_hash)
            elif not found:
                self._missing_at = at  # everything before is here
        return found

    def add_chunk(self, chunk_hash: bytes, content: bytes) -> None:
        """ValueError when the bytes are not the hash's. DiskFullError when there is no room."""
        self._check_open()
        self._chunks.put(ChunkHash(chunk_hash), content)

    def install(self) -> None:
        """Blocks the loop for some syncs: the node does not serve meanwhile. The store's object stays valid."""
        self._check_open()
        check(self._verified, "verify comes before install")
        check(not self.missing_chunks(1), "every referenced chunk is here before install")
        assert self._manifest is not None
        self._over = True
        self._chunks.sync()
        install_plan.write_plan(self._tree, self._paths, self._meta.checkpoint_id)
        self._store.replace(lambda: install_plan.carry_out(self._tree, self._paths))
        self._installed(self._manifest)

    def abort(self) -> None:
        """Idempotent. Chunks that came stay: they are right, whoever needs them."""
        if not self._over:
            self._over = True
            self._close_file()
            self._tree.remove_tree(self._directory)

    def _check_open(self) -> None:
        if self._over:
            raise ValueError("this checkpoint was installed or given up")
