"""The tree of one workspace as a materialising worker reads it, over any `Reader`.

Owns: the few reads a mirror needs: inode, entry, entries of a directory, extents, extended attributes, header.
Never: writes; knowledge of how the records are laid out beyond what state_machine.workspace exports.
Invariant: an inode without a name is absent here, as it is on disk.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from hypercluster.state_machine.store import Family, Reader
from hypercluster.state_machine.workspace.attributes import read_table, value_key
from hypercluster.state_machine.workspace.content import ContentReader
from hypercluster.state_machine.workspace.extents import Extent
from hypercluster.state_machine.workspace.records import (
    ENTRY,
    KIND_DIRECTORY,
    Header,
    Inode,
    body_of,
    decode_header,
    decode_inode,
    entry_key,
    header_key,
    inode_key,
    prefix_end,
)

ID_BYTES = 16


class EntryRef(NamedTuple):
    """What a directory entry names."""

    inode_id: bytes
    kind: int

    @property
    def is_directory(self) -> bool:
        return self.kind == KIND_DIRECTORY


def decode_entry(record: bytes) -> EntryRef:
    body = body_of(record)
    return EntryRef(body[:ID_BYTES], body[ID_BYTES])


class TreeView:
    def __init__(self, reader: Reader, workspace_id: bytes) -> None:
        self._reader = reader
        self.workspace_id = workspace_id

    def header(self) -> Header | None:
        record = self._reader.get(Family.TREE, header_key(self.workspace_id))
        return None if record is None else decode_header(self.workspace_id, record)

    def inode(self, inode_id: bytes) -> Inode | None:
        record = self._reader.get(Family.TREE, inode_key(self.workspace_id, inode_id))
        if record is None:
            return None
        inode = decode_inode(inode_id, record)
        return inode if inode.nlink else None

    def entry(self, directory: bytes, name: bytes) -> EntryRef | None:
        record = self._reader.get(Family.TREE, entry_key(self.workspace_id, directory, name))
        return None if record is None else decode_entry(record)

    def entries(self, directory: bytes) -> Iterator[tuple[bytes, EntryRef]]:
        """Names in byte order (WS-16)."""
        prefix = entry_key(self.workspace_id, directory, b"")
        for key, record in self._reader.scan(Family.TREE, prefix, prefix_end(prefix)):
            yield key[len(prefix) :], decode_entry(record)

    def all_entries(self) -> Iterator[tuple[bytes, bytes, EntryRef]]:
        """(directory, name, what it names) of the whole workspace."""
        prefix = self.workspace_id + ENTRY
        for key, record in self._reader.scan(Family.TREE, prefix, prefix_end(prefix)):
            at = len(prefix)
            yield key[at : at + ID_BYTES], key[at + ID_BYTES :], decode_entry(record)

    def extents(self, inode: Inode) -> list[Extent]:
        return list(ContentReader(self._reader, self.workspace_id, inode).extents())

    def xattrs(self, inode_id: bytes) -> list[tuple[bytes, bytes]]:
        """Sorted by name."""
        found = []
        for row in read_table(self._reader, self.workspace_id, inode_id):
            record = self._reader.get(Family.TREE, value_key(self.workspace_id, inode_id, row.name))
            found.append((row.name, b"" if record is None else body_of(record)))
        return found
