"""Reads of workspaces over any `Reader`: pure, bounded, without the state machine's caches.

Owns: lookups by path and by inode, listings in pages, chunk presence as one sender may see it, and earlier versions.
Never: anything but the reader's one consistent state. Symlinks are not followed: they are resolved where they are
read (WS-25).
Invariants: names come in byte order (WS-16); every answer is bounded by a limit of its caller or of limits.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from hypercluster.limits import PATH_BYTES_MAX
from hypercluster.state_machine import versions
from hypercluster.state_machine.store import Family, Reader
from hypercluster.state_machine.workspace.attributes import read_table, value_key
from hypercluster.state_machine.workspace.chunks import read_presence, visible_presence
from hypercluster.state_machine.workspace.content import ContentReader
from hypercluster.state_machine.workspace.errnos import EINVAL, EISDIR, ENAMETOOLONG, ENOENT, ENOTDIR
from hypercluster.state_machine.workspace.extents import Extent
from hypercluster.state_machine.workspace.records import (
    ALL_NAMES,
    ENTRY,
    KIND_DIRECTORY,
    KIND_FILE,
    ROOT_ID,
    Header,
    Inode,
    body_of,
    decode_header,
    decode_inode,
    decode_inode_body,
    entry_key,
    header_key,
    inode_key,
    name_key,
    names_prefix,
    prefix_end,
)
from hypercluster.values import Index, Scope


@dataclass(frozen=True, slots=True)
class Listing:
    """A page of a directory, or an errno."""

    entries: tuple[tuple[bytes, Inode], ...] = ()
    more: bool = False
    errno: int = 0


@dataclass(frozen=True, slots=True)
class ExtentListing:
    """A page of a file's extents, or an errno. Gaps between extents read as zeros."""

    extents: tuple[Extent, ...] = ()
    size: int = 0
    more: bool = False
    errno: int = 0


def read_header(reader: Reader, workspace_id: bytes) -> Header | None:
    record = reader.get(Family.TREE, header_key(workspace_id)) if len(workspace_id) == len(ROOT_ID) else None
    return None if record is None else decode_header(workspace_id, record)


def find_workspace(reader: Reader, scope: Scope, name: str) -> bytes | None:
    """The id of the workspace with this name."""
    return reader.get(Family.TREE, name_key(scope.org, scope.project, name))


def list_workspaces(reader: Reader, scope: Scope, after: str = "", limit: int = 1_000) -> list[Header]:
    """Workspaces of a scope by name, from the one after `after`."""
    prefix = names_prefix(scope.org, scope.project)
    found: list[Header] = []
    start = prefix + after.encode() + (b"\0" if after else b"")
    for _, workspace_id in reader.scan(Family.TREE, start, prefix_end(prefix)):
        if len(found) == limit:
            break
        header = read_header(reader, workspace_id)
        if header is not None:
            found.append(header)
    return found


def scan_workspaces(reader: Reader, after: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
    """(place, workspace id) of every workspace of the cluster, from the place after `after`."""
    start = ALL_NAMES + after + (b"\0" if after else b"")
    for key, workspace_id in reader.scan(Family.TREE, start, prefix_end(ALL_NAMES)):
        yield key[len(ALL_NAMES) :], workspace_id


def read_inode(reader: Reader, workspace_id: bytes, inode_id: bytes) -> Inode | None:
    record = reader.get(Family.TREE, inode_key(workspace_id, inode_id))
    return None if record is None else decode_inode(inode_id, record)


def read_entry(reader: Reader, workspace_id: bytes, directory: bytes, name: bytes) -> bytes | None:
    """The id of the inode a directory entry names."""
    record = reader.get(Family.TREE, entry_key(workspace_id, directory, name))
    return None if record is None else body_of(record)[:16]


def path_names(path: bytes) -> list[bytes]:
    """The names of a path from the root; empty ones and '.' do not count."""
    return [name for name in path.split(b"/") if name not in {b"", b"."}]


def resolve(reader: Reader, workspace_id: bytes, path: bytes) -> Inode | int:
    """What a path from the root names, or an errno."""
    if len(path) > PATH_BYTES_MAX:
        return ENAMETOOLONG
    inode = read_inode(reader, workspace_id, ROOT_ID)
    for name in path_names(path):
        if inode is None:
            break
        if inode.kind != KIND_DIRECTORY:
            return ENOTDIR
        inode_id = read_entry(reader, workspace_id, inode.inode_id, name)
        inode = None if inode_id is None else read_inode(reader, workspace_id, inode_id)
    return ENOENT if inode is None else inode


def list_directory(reader: Reader, workspace_id: bytes, directory: bytes, after: bytes, limit: int) -> Listing:
    """Entries with names above `after`, bytewise sorted."""
    inode = read_inode(reader, workspace_id, directory)
    if inode is None or inode.kind != KIND_DIRECTORY:
        return Listing(errno=ENOENT if inode is None else ENOTDIR)
    prefix = workspace_id + ENTRY + directory
    start = prefix + after + (b"\0" if after else b"")
    entries: list[tuple[bytes, Inode]] = []
    for key, record in reader.scan(Family.TREE, start, prefix_end(prefix)):
        if len(entries) == limit:
            return Listing(tuple(entries), more=True)
        named = read_inode(reader, workspace_id, body_of(record)[:16])
        if named is not None:
            entries.append((key[len(prefix) :], named))
    return Listing(tuple(entries))


def list_extents(reader: Reader, workspace_id: bytes, inode_id: bytes, from_offset: int, limit: int) -> ExtentListing:
    """Extents that end above `from_offset`, in order."""
    inode = read_inode(reader, workspace_id, inode_id)
    if inode is None:
        return ExtentListing(errno=ENOENT)
    if inode.kind != KIND_FILE:
        return ExtentListing(errno=EISDIR if inode.kind == KIND_DIRECTORY else EINVAL)
    found: list[Extent] = []
    for extent in ContentReader(reader, workspace_id, inode).extents(from_offset):
        if len(found) == limit:
            return ExtentListing(tuple(found), inode.size, more=True)
        found.append(extent)
    return ExtentListing(tuple(found), inode.size)


def read_xattrs(reader: Reader, workspace_id: bytes, inode_id: bytes) -> list[tuple[bytes, bytes]]:
    """Names and values, sorted by name."""
    found: list[tuple[bytes, bytes]] = []
    for row in read_table(reader, workspace_id, inode_id):
        record = reader.get(Family.TREE, value_key(workspace_id, inode_id, row.name))
        found.append((row.name, body_of(record or b"")))
    return found


def missing_chunks(reader: Reader, workspace_id: bytes, hashes: Iterable[bytes], sender: bytes) -> list[bytes]:
    """Which of these the sender has to send before it may refer to them (WS-14, WS-32); each once, in order."""
    missing: dict[bytes, None] = {}
    for chunk_hash in hashes:
        if chunk_hash not in missing and visible_presence(reader, workspace_id, chunk_hash, sender) is None:
            missing[chunk_hash] = None
    return list(missing)


def was_referenced(reader: Reader, workspace_id: bytes, chunk_hash: bytes) -> bool:
    """Whether the workspace's files refer to the chunk, or did: a worker that follows the log, or begins with a
    snapshot, asks for what a later operation has already replaced. What was only sent is nobody's to read (WS-14)."""
    presence = read_presence(reader, workspace_id, chunk_hash)
    return presence is not None and presence.born > 0


def read_inode_at(reader: Reader, workspace_id: bytes, inode_id: bytes, index: Index) -> Inode | None:
    """The inode as it was once the Raft index was applied (D-18). Raises HistoryGoneError below the floor."""
    found = versions.read_at(reader, Family.TREE, inode_key(workspace_id, inode_id), index)
    return None if found is None or found.value is None else decode_inode_body(inode_id, found.value)


def read_entry_at(reader: Reader, workspace_id: bytes, directory: bytes, name: bytes, index: Index) -> bytes | None:
    """The id of the inode an entry named once the Raft index was applied. Raises HistoryGoneError below the floor."""
    found = versions.read_at(reader, Family.TREE, entry_key(workspace_id, directory, name), index)
    return None if found is None or found.value is None else found.value[:16]


class _PastReader:
    """The tree records as they were at a Raft index, as a reader: content pages of an earlier version."""

    def __init__(self, reader: Reader, index: Index) -> None:
        self._reader, self._index = reader, index

    def get(self, family: Family, key: bytes) -> bytes | None:
        found = versions.read_at(self._reader, family, key, self._index)
        return (
            None if found is None or found.value is None else versions.place(found.index, found.ordinal) + found.value
        )

    def scan(self, family: Family, start: bytes, end: bytes, *, reverse: bool = False) -> Iterator[tuple[bytes, bytes]]:
        raise NotImplementedError("the past is read by key")


def extents_at(reader: Reader, workspace_id: bytes, inode_id: bytes, index: Index) -> Iterator[Extent]:
    """A file's extents as they were once the Raft index was applied. Raises HistoryGoneError below the floor."""
    inode = read_inode_at(reader, workspace_id, inode_id, index)
    if inode is not None and inode.kind == KIND_FILE:
        yield from ContentReader(_PastReader(reader, index), workspace_id, inode).extents()
