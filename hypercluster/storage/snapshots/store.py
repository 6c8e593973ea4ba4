"""The workspace snapshots a node holds: DATA/snapshots (WS-53).

Owns: manifests, one file each, and the pages they name, each stored once however many snapshots have it.
Never: decides which snapshots are kept; talks to a cluster.
Layout: DATA/snapshots/pages is a chunk store of pages; DATA/snapshots/WORKSPACE/LOG_INDEX.snapshot a manifest.
Invariants: a manifest appears by rename, after every page it names is synced, and its pages go after it did: so a
snapshot that is listed is whole, whenever the power went. What a killed writer left is only pages that nobody names,
which the next sweep removes.
Threads: everything that writes runs beside the loop, one call at a time; reads come from any thread.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from typing import Final

from blake3 import blake3

from hypercluster.credentials.certificates import KeyPair
from hypercluster.errors import DamagedError, WrongDirectoryError
from hypercluster.limits import MIB
from hypercluster.pb.v1 import snapshot_pb2 as pb
from hypercluster.snapshot_manifest import (
    MANIFEST_BYTES_MAX,
    Manifest,
    decode_file,
    encode_file,
    open_manifest,
    sign_manifest,
)
from hypercluster.storage.chunk_store import ChunkStore
from hypercluster.storage.disk import Disk
from hypercluster.storage.runner import InlineRunner
from hypercluster.storage.snapshots.page_codec import PageCodec
from hypercluster.storage.snapshots.pages import split_index
from hypercluster.values import ChunkHash

SEGMENT_BYTES: Final = 64 * MIB
SUFFIX: Final = ".snapshot"
NEW: Final = ".new"
RECLAIM_LIVE_BYTES_MAX: Final = SEGMENT_BYTES

_Key = tuple[bytes, int]  # workspace id, log_index


class SnapshotStore:
    """`segment_bytes` is chosen smaller by tests only."""

    def __init__(self, path: str, disk: Disk, *, segment_bytes: int = SEGMENT_BYTES) -> None:
        self._path = path
        self._disk = disk
        self._lock = threading.Lock()
        self._manifests: dict[_Key, Manifest] = {}
        disk.mkdir(path)
        pages = os.path.join(path, "pages")
        self._pages = ChunkStore(pages, disk, InlineRunner(), codec=PageCodec(), segment_bytes=segment_bytes)
        self.damaged: list[str] = []  # manifests that could not be read at open, and are as good as absent
        self._open()

    def _open(self) -> None:
        for name in self._disk.listdir(self._path):
            directory = os.path.join(self._path, name)
            if len(name) != 32 or name == "pages":
                continue
            for file_name in self._disk.listdir(directory):
                path = os.path.join(directory, file_name)
                if file_name.endswith(NEW):
                    self._disk.unlink(path)  # a writer was killed before the rename
                elif file_name.endswith(SUFFIX):
                    self._open_one(path)

    def _open_one(self, path: str) -> None:
        try:
            manifest = open_manifest(self._read_file(path))
        except DamagedError as error:
            self.damaged.append(f"{path}: {error}")
            return
        except WrongDirectoryError as error:
            raise WrongDirectoryError(f"{path}: {error}") from error
        self._manifests[manifest.workspace_id, manifest.log_index] = manifest

    # --- reading -----------------------------------------------------------------------------------

    @property
    def stored_bytes(self) -> int:
        return self._pages.stored_bytes

    @property
    def page_count(self) -> int:
        return self._pages.count

    def held(self) -> list[tuple[bytes, int]]:
        """(workspace id, log_index) of every snapshot here, in order."""
        with self._lock:
            return sorted(self._manifests)

    def find(self, workspace_id: bytes, log_index: int) -> Manifest | None:
        with self._lock:
            return self._manifests.get((workspace_id, log_index))

    def newest(self, workspace_id: bytes) -> Manifest | None:
        with self._lock:
            indexes = [log_index for found, log_index in self._manifests if found == workspace_id]
            return self._manifests[workspace_id, max(indexes)] if indexes else None

    def signed(self, workspace_id: bytes, log_index: int) -> pb.SignedManifest | None:
        """As it was written, for others to verify."""
        if self.find(workspace_id, log_index) is None:
            return None
        try:
            return self._read_file(self._file(workspace_id, log_index))
        except (OSError, DamagedError):
            return None

    def page(self, page_hash: bytes) -> bytes:
        """Raises DamagedError if it is not here, or not whole."""
        content = self._pages.get(ChunkHash(page_hash))
        if content is None:
            raise DamagedError(f"page {page_hash.hex()} of a snapshot is missing or damaged in {self._path}")
        return content

    def has_page(self, page_hash: bytes) -> bool:
        """As far as known: of bytes that turned out to be damaged, no."""
        return self._pages.has(ChunkHash(page_hash))

    def page_hashes(self, manifest: Manifest, from_page: int = 0) -> Iterator[bytes]:
        """In order. Raises DamagedError."""
        place = 0
        for index_page in manifest.index_pages:
            for page_hash in split_index(self.page(index_page)):
                if place >= from_page:
                    yield page_hash
                place += 1

    # --- writing -----------------------------------------------------------------------------------

    def put_page(self, page: bytes) -> bytes:
        """Its hash. Durable with the manifest that names it."""
        page_hash = ChunkHash(blake3(page).digest())
        self._pages.put(page_hash, page)
        return page_hash

    def publish(self, manifest: Manifest, pair: KeyPair) -> None:
        """Syncs the pages, then lets the manifest appear. Blocks."""
        self.publish_signed(manifest, sign_manifest(manifest, pair))

    def publish_signed(self, manifest: Manifest, signed: pb.SignedManifest) -> None:
        """One that this node or another one has signed, and whose pages are here. Blocks."""
        self._pages.sync()
        directory = os.path.join(self._path, manifest.workspace_id.hex())
        self._disk.mkdir(directory)
        path = self._file(manifest.workspace_id, manifest.log_index)
        content = encode_file(signed)
        if self._disk.exists(path + NEW):
            self._disk.unlink(path + NEW)
        file = self._disk.open(path + NEW, create=True)
        try:
            file.pwrite(content, 0)
            file.fsync()
        finally:
            file.close()
        self._disk.rename(path + NEW, path)
        self._disk.fsync_dir(directory)
        with self._lock:
            self._manifests[manifest.workspace_id, manifest.log_index] = manifest

    def drop(self, workspace_id: bytes, log_index: int) -> None:
        """The manifest goes; its pages with the next sweep. Blocks."""
        with self._lock:
            if self._manifests.pop((workspace_id, log_index), None) is None:
                return
        path = self._file(workspace_id, log_index)
        self._disk.unlink(path)
        self._disk.fsync_dir(os.path.dirname(path))

    def sweep(self) -> int:
        """Removes pages that no manifest names; answers the bytes freed on the disk. Not while one is being written.
        Blocks. A manifest whose index can not be read keeps everything."""
        named: set[bytes] = set()
        with self._lock:
            manifests = list(self._manifests.values())
        for manifest in manifests:
            for index_page in manifest.index_pages:
                if index_page not in named:
                    named.add(index_page)
                    named.update(split_index(self.page(index_page)))
        gone = [found for found in self._pages.hashes() if found not in named]
        for page_hash in gone:
            self._pages.delete(page_hash)
        freed_bytes = 0
        while freed := self._pages.reclaim(RECLAIM_LIVE_BYTES_MAX):
            freed_bytes += freed
        return freed_bytes

    def close(self) -> None:
        self._pages.close()

    # --- inside ------------------------------------------------------------------------------------

    def _file(self, workspace_id: bytes, log_index: int) -> str:
        return os.path.join(self._path, workspace_id.hex(), f"{log_index:020d}{SUFFIX}")

    def _read_file(self, path: str) -> pb.SignedManifest:
        file = self._disk.open(path)
        with contextlib.closing(file):
            size_bytes = file.size()
            if size_bytes > MANIFEST_BYTES_MAX:
                raise DamagedError(f"{path} has {size_bytes} bytes, more than a manifest can have")
            return decode_file(path, file.pread(size_bytes, 0))
