"""One file operation while it is judged and carried out: what it has loaded, and everything it changes.

Owns: the order "judge first, change afterwards". An operation looks at inodes and entries through the turn, and
refuses with nothing changed, or changes the loaded inodes and at last `commit`s: records, versions (D-18), Merkle
leaves, orphans and chunk references are written once each, and the new root comes back.
A turn without an `OpContext` replays an accepted operation on a worker: it keeps no versions and no account of chunks.
Invariants: root and tree records (places of versions aside) are equal in both cases.
"""

from __future__ import annotations

from struct import Struct
from typing import Final

from hypercluster.state_machine import versions
from hypercluster.state_machine.context import OpContext
from hypercluster.state_machine.overlay import Overlay
from hypercluster.state_machine.store import Family
from hypercluster.state_machine.workspace.content import ContentEdit
from hypercluster.state_machine.workspace.leaves import (
    entry_leaf_hash,
    entry_leaf_key,
    inode_leaf_hash,
    inode_leaf_key,
)
from hypercluster.state_machine.workspace.reclaim import queue_pages, reclaim_pages
from hypercluster.state_machine.workspace.records import (
    ENTRY,
    INODE,
    NO_PLACE,
    ORPHAN,
    PLACE_BYTES,
    Inode,
    decode_inode,
)
from hypercluster.state_machine.workspace.state import OpenWorkspace

ENTRY_BYTES: Final = 17  # of an entry's body: inode id and kind
_STAMP: Final = Struct(">Q")


class Turn:
    """See the module. `new_id` and `new_no` are what an inode made by this operation is called (WS-11)."""

    __slots__ = (
        "_chunk_delta",
        "_context",
        "_inodes",
        "_leaves",
        "applied_offset",
        "changed",
        "chunks",
        "existed",
        "header",
        "log_index",
        "new_id",
        "new_no",
        "overlay",
        "stamp_ns",
        "subject",
        "workspace",
    )

    def __init__(
        self,
        overlay: Overlay,
        workspace: OpenWorkspace,
        stamp_ns: int,
        new_id: bytes,
        new_no: int,
        chunks: dict[bytes, bytes],
        context: OpContext | None,
    ) -> None:
        self.overlay = overlay
        self.workspace = workspace
        self.header = workspace.header
        self.stamp_ns = stamp_ns
        self.new_id = new_id
        self.new_no = new_no
        self.chunks = chunks  # hash -> bytes, for the chunk store
        self.log_index = self.header.log_index + 1
        self.subject: Inode | None = None  # what the acknowledgement speaks of
        self.applied_offset = 0
        self.existed = False
        self.changed: list[Inode] = []
        self._context = context
        self._inodes: dict[bytes, Inode | None] = {}
        self._leaves: dict[bytes, bytes | None] = {}
        self._chunk_delta: dict[bytes, int] = {}

    @property
    def replaying(self) -> bool:
        return self._context is None

    # --- looking ----------------------------------------------------------------------------------

    def inode(self, inode_id: bytes) -> Inode | None:
        """The inode, orphans included; None if there is none."""
        if inode_id in self._inodes:
            return self._inodes[inode_id]
        record = self.overlay.get(Family.TREE, self.header.workspace_id + INODE + inode_id)
        found = self._inodes[inode_id] = None if record is None else decode_inode(inode_id, record)
        return found

    def entry(self, directory: bytes, name: bytes) -> Inode | None:
        """The inode a directory entry names."""
        record = self.overlay.get(Family.TREE, self.header.workspace_id + ENTRY + directory + name)
        return None if record is None else self.inode(record[PLACE_BYTES : PLACE_BYTES + 16])

    # --- changing ---------------------------------------------------------------------------------

    def touch(self, inode: Inode) -> None:
        """The inode is to be written when the turn ends."""
        if not any(known is inode for known in self.changed):
            self.changed.append(inode)

    def add_inode(self, inode: Inode) -> None:
        self._inodes[inode.inode_id] = inode
        self.header.inode_count += 1
        if self._context is not None:
            self.workspace.ledger.charge_inodes(1)
        self.changed.append(inode)

    def put_entry(self, directory: bytes, name: bytes, inode: Inode) -> None:
        body = inode.inode_id + bytes((inode.kind,))
        self.store(self.header.workspace_id + ENTRY + directory + name, body)
        self._leaves[entry_leaf_key(directory, name)] = entry_leaf_hash(directory, name, body)

    def delete_entry(self, directory: bytes, name: bytes) -> None:
        self.remove(self.header.workspace_id + ENTRY + directory + name)
        self._leaves[entry_leaf_key(directory, name)] = None

    def store(self, key: bytes, body: bytes) -> None:
        """A tree record with versions."""
        context = self._context
        if context is None:
            self.overlay.put(Family.TREE, key, NO_PLACE + body)
            return
        old = self.overlay.get(Family.TREE, key)
        previous = b"" if old is None else old[:PLACE_BYTES]
        self.overlay.put(Family.TREE, key, versions.put(context, Family.TREE, key, body, previous) + body)

    def remove(self, key: bytes) -> None:
        context = self._context
        if context is not None:
            old = self.overlay.get(Family.TREE, key)
            if old is None:
                return
            versions.put(context, Family.TREE, key, None, old[:PLACE_BYTES])
        self.overlay.delete(Family.TREE, key)

    def edit_content(self, inode: Inode) -> ContentEdit:
        return ContentEdit(self.overlay, self.header.workspace_id, inode, self.count_chunk)

    def end_content(self, edit: ContentEdit) -> None:
        """Stores the pages an edit changed and queues those it cut off."""
        for key, body in edit.take_pages():
            if body is None:
                self.remove(key)
            else:
                self.store(key, body)
        if edit.dropped:
            queue_pages(self.overlay, self.header, edit.inode.inode_id, edit.dropped)

    def count_chunk(self, chunk_hash: bytes, change: int) -> None:
        self._chunk_delta[chunk_hash] = self._chunk_delta.get(chunk_hash, 0) + change

    # --- ending -----------------------------------------------------------------------------------

    def commit(self) -> bytes:
        """Writes what changed and answers the root after the operation."""
        header = self.header
        for inode in self.changed:
            body = inode.encode()
            self._store_inode(inode, body)
            if inode.nlink:
                self._leaves[inode_leaf_key(inode.inode_id)] = inode_leaf_hash(inode.inode_id, body)
            elif inode.orphaned_ns == self.stamp_ns:
                self._leaves[inode_leaf_key(inode.inode_id)] = None
        if header.reclaim_first < header.reclaim_next:
            reclaim_pages(self.overlay, header, self.count_chunk, self.remove)
        if self._context is not None:
            ledger = self.workspace.ledger
            for chunk_hash, change in self._chunk_delta.items():
                if change:
                    ledger.refer(chunk_hash, change, self.stamp_ns)
            header.raft_index = self._context.index
        header.log_index = self.log_index
        self.workspace.changed = True
        if not self._leaves:
            return self.workspace.tree.root_hash
        return self.workspace.tree.update(self._leaves.items())

    def _store_inode(self, inode: Inode, body: bytes) -> None:
        key = self.header.workspace_id + INODE + inode.inode_id
        context = self._context
        if context is None:
            self.overlay.put(Family.TREE, key, NO_PLACE + body)
        else:
            place = versions.put(context, Family.TREE, key, body, inode.place)
            self.overlay.put(Family.TREE, key, place + body)

    def orphan(self, inode: Inode) -> None:
        """The last name of the inode is gone: it lives on without a place in the tree until it is reaped (WS-27)."""
        inode.nlink = 0
        inode.orphaned_ns = self.stamp_ns
        key = self.header.workspace_id + ORPHAN + _STAMP.pack(self.stamp_ns) + inode.inode_id
        self.overlay.put(Family.TREE, key, b"")
        self.header.orphan_count += 1
        self.header.inode_count -= 1
        self.header.mapped_bytes -= inode.mapped_bytes
        if self._context is not None:
            self.workspace.ledger.charge_inodes(-1)
