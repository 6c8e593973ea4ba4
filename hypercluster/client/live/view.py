"""Reads of a live tree by any thread (the `View` port).

Owns: what a read answers, each under the tree's lock, so of one prefix; and how bytes of a file come together from its
extents, outside of it, because chunks never change.
Never: waits in the event loop; answers bytes that are not what their hash says.
Invariants: an inode is found with or without a name, as long as this worker has it. Bytes that have left the cache are
fetched; if no node has them any more, the cluster has gone on to a tree that does not need them: then the read waits
until this worker has, too, and begins again there.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import NoReturn, Protocol

from hypercluster.client.live.chunk_cache import ChunkCache
from hypercluster.client.live.ports import KIND_DIRECTORY, KIND_FILE, KIND_SYMLINK, ROOT_ID, Listed, Node
from hypercluster.client.live.replica import Replica, place_prefix
from hypercluster.errors import check
from hypercluster.state_machine.store import Family, Reader
from hypercluster.state_machine.workspace.attributes import read_table, value_key
from hypercluster.state_machine.workspace.content import ContentReader
from hypercluster.state_machine.workspace.extents import Extent
from hypercluster.state_machine.workspace.queries import path_names, read_entry, read_inode
from hypercluster.state_machine.workspace.records import (
    ENTRY,
    Inode,
    body_of,
    inode_key,
    kind_and_number,
    prefix_end,
)

ID_BYTES = 16
ATTEMPTS_MAX = 4  # of a read whose bytes are gone from every node
FETCHED_AT_ONCE = 64
PATH_DEPTH_MAX = 4_096


class Content(Protocol):
    """Where bytes come from that are not in the cache. Called from threads other than the loop's."""

    def fetch(self, hashes: list[bytes]) -> bool:
        """Puts them into the cache. False: no node has all of them, and the tree has moved on since the call. Raises
        OSError(EIO)."""


def refuse(number: int) -> NoReturn:
    raise OSError(number, os.strerror(number))


def node_of(inode: Inode) -> Node:
    return Node(
        inode.inode_id,
        inode.inode_no,
        inode.kind,
        inode.mode,
        inode.uid,
        inode.gid,
        len(inode.target) if inode.kind == KIND_SYMLINK else inode.size,
        inode.nlink,
        inode.mtime_ns,
        inode.ctime_ns,
        inode.target,
        inode.content_index,
        inode.metadata_index,
    )


class LocalView:
    """`replica` is asked for at each read: a snapshot puts another in its place."""

    def __init__(
        self,
        replica: Callable[[], Replica],
        cache: ChunkCache,
        content: Content,
        published: Callable[[], int],
        reason: Callable[[], str],
    ) -> None:
        self._replica = replica
        self._cache = cache
        self._content = content
        self._published = published
        self._reason = reason

    # --- the whole ----------------------------------------------------------------------------------

    @property
    def applied_index(self) -> int:
        return self._published()

    @property
    def root(self) -> bytes:
        return self._replica().root

    @property
    def uid(self) -> int:
        return self._replica().uid

    @property
    def gid(self) -> int:
        return self._replica().gid

    @property
    def read_only_reason(self) -> str:
        return self._reason()

    def totals(self) -> tuple[int, int]:
        replica = self._replica()
        with replica.lock:
            header = replica.header()
        return header.mapped_bytes, header.inode_count

    # --- names --------------------------------------------------------------------------------------

    def node(self, inode_id: bytes) -> Node:
        replica = self._replica()
        with replica.lock:
            return node_of(self._inode(replica, inode_id))

    def lookup(self, directory: bytes, name: bytes) -> Node:
        replica = self._replica()
        with replica.lock:
            return node_of(self._lookup(replica, directory, name))

    def resolve(self, path: bytes) -> Node:
        replica = self._replica()
        with replica.lock:
            inode = self._inode(replica, ROOT_ID)
            for name in path_names(path):
                inode = self._lookup(replica, inode.inode_id, name, inode)
            return node_of(inode)

    def xattrs(self, inode_id: bytes) -> list[bytes]:
        replica = self._replica()
        with replica.lock:
            self._inode(replica, inode_id)
            return [row.name for row in read_table(replica.store, replica.workspace_id, inode_id)]

    def xattr(self, inode_id: bytes, name: bytes) -> bytes:
        replica = self._replica()
        with replica.lock:
            self._inode(replica, inode_id)
            record = replica.store.get(Family.TREE, value_key(replica.workspace_id, inode_id, name))
        return refuse(errno.ENODATA) if record is None else body_of(record)

    def parent_of(self, directory: bytes) -> bytes:
        replica = self._replica()
        with replica.lock:
            return self._directory(replica, directory).parent

    def path_of(self, inode_id: bytes) -> bytes | None:
        replica = self._replica()
        parts: list[bytes] = []
        with replica.lock:
            while inode_id != ROOT_ID:
                check(len(parts) < PATH_DEPTH_MAX, "directories of the tree form a circle")
                prefix = place_prefix(replica.workspace_id, inode_id)
                place = next(replica.store.scan(Family.META, prefix, prefix_end(prefix)), None)
                if place is None:
                    return None
                at = len(prefix)
                inode_id, name = place[0][at : at + ID_BYTES], place[0][at + ID_BYTES :]
                parts.append(name)
        return b"/".join(reversed(parts))

    def _inode(self, replica: Replica, inode_id: bytes) -> Inode:
        found = read_inode(replica.store, replica.workspace_id, inode_id)
        return refuse(errno.ENOENT) if found is None else found

    def _directory(self, replica: Replica, inode_id: bytes) -> Inode:
        found = self._inode(replica, inode_id)
        return found if found.kind == KIND_DIRECTORY else refuse(errno.ENOTDIR)

    def _lookup(self, replica: Replica, directory: bytes, name: bytes, known: Inode | None = None) -> Inode:
        named = read_entry(replica.store, replica.workspace_id, directory, name)
        if named is not None:
            return self._inode(replica, named)
        above = known or self._inode(replica, directory)
        return refuse(errno.ENOENT if above.kind == KIND_DIRECTORY else errno.ENOTDIR)

    # --- content ------------------------------------------------------------------------------------

    def read(self, inode_id: bytes, offset: int, size: int) -> bytes:
        if offset < 0 or size < 0:
            refuse(errno.EINVAL)
        for _ in range(ATTEMPTS_MAX):
            end, extents = self._extents(inode_id, offset, size)
            found = self._chunks(extents)
            if found is not None:
                return _assemble(offset, end, extents, found)
        return refuse(errno.EIO)

    def _extents(self, inode_id: bytes, offset: int, size: int) -> tuple[int, list[Extent]]:
        """Where the read ends, and what is mapped between."""
        replica = self._replica()
        with replica.lock:
            inode = self._inode(replica, inode_id)
            if inode.kind != KIND_FILE:
                refuse(errno.EISDIR if inode.kind == KIND_DIRECTORY else errno.EINVAL)
            end = max(offset, min(inode.size, offset + size))
            extents: list[Extent] = []
            if end > offset:
                for extent in ContentReader(replica.store, replica.workspace_id, inode).extents(offset):
                    if extent.offset >= end:
                        break
                    extents.append(extent)
        return end, extents

    def _chunks(self, extents: list[Extent]) -> dict[bytes, bytes] | None:
        """The bytes of every chunk. None: some are on no node any more; look at the tree again."""
        found: dict[bytes, bytes] = {}
        lacking: dict[bytes, None] = {}
        for extent in extents:
            content = self._cache.get(extent.chunk_hash)
            if content is None:
                lacking[extent.chunk_hash] = None
            else:
                found[extent.chunk_hash] = content
        for _ in range(ATTEMPTS_MAX):
            if not lacking:
                return found
            wanted = list(lacking)
            for start in range(0, len(wanted), FETCHED_AT_ONCE):
                part = wanted[start : start + FETCHED_AT_ONCE]
                if not self._content.fetch(part):
                    return None
                for chunk_hash in part:
                    content = self._cache.get(chunk_hash)
                    if content is not None:  # otherwise a full cache let it go at once, and it is asked for again
                        found[chunk_hash] = content
                        del lacking[chunk_hash]
        return refuse(errno.EIO)

    def list(self, directory: bytes) -> list[tuple[bytes, Listed]]:
        """What is on disk is read outside of the lock, as it was at that moment."""
        replica = self._replica()
        workspace_id = replica.workspace_id
        prefix = workspace_id + ENTRY + directory
        end = prefix_end(prefix)
        with replica.lock:
            self._directory(replica, directory)
            newer = replica.store.newer(Family.TREE, prefix, end)
            fresh = {
                key: _listed(replica.store, workspace_id, record) for key, record in newer.items() if record is not None
            }
            durable = replica.store.durable()
        try:
            rows = {
                key: _listed(durable, workspace_id, record)
                for key, record in durable.scan(Family.TREE, prefix, end)
                if key not in newer
            }
        finally:
            durable.close()
        rows |= fresh
        return [(key[len(prefix) :], rows[key]) for key in sorted(rows)]


def _listed(reader: Reader, workspace_id: bytes, entry: bytes) -> Listed:
    inode_id = body_of(entry)[:ID_BYTES]
    record = reader.get(Family.TREE, inode_key(workspace_id, inode_id))
    check(record is not None, "an entry names an inode that is there")
    assert record is not None
    kind, number = kind_and_number(record)
    return Listed(inode_id, number, kind)


def _assemble(offset: int, end: int, extents: list[Extent], chunks: dict[bytes, bytes]) -> bytes:
    """What is mapped, and zeros between."""
    parts: list[bytes] = []
    at = offset
    for extent in extents:
        start = max(extent.offset, at)
        if start > at:
            parts.append(bytes(start - at))
        stop = min(extent.end, end)
        skip = extent.chunk_offset + start - extent.offset
        parts.append(chunks[extent.chunk_hash][skip : skip + stop - start])
        at = stop
    if at < end:
        parts.append(bytes(end - at))
    return b"".join(parts)
