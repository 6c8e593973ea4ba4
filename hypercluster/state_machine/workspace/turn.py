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

from blake3 import blake3

from hypercluster.errors import check
from hypercluster.state_machine import versions
from hypercluster.state_machine.context import OpContext
from hypercluster.state_machine.overlay import Overlay
from hypercluster.state_machine.store import Family
from hypercluster.state_machine.workspace.chunks import Presence, sender_id
from hypercluster.state_machine.workspace.content import ContentEdit
from hypercluster.state_machine.workspace.leaves import (
    entry_leaf_hash,
    entry_leaf_key,
    inode_leaf_hash,
    inode_leaf_key,
)
from hypercluster.state_machine.workspace.paths import forget_names, keep_name, lose_name
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

_TREE: Final = Family.TREE  # a look into an enumeration is to be felt where every operation passes
ENTRY_BYTES: Final = 17  # of an entry's body: inode id and kind
_STAMP: Final = Struct(">Q")


def derived_id(id_seed: bytes, ordinal: int, purpose: bytes) -> bytes:
    """An id of 16 bytes that only this command of this entry has (D-4)."""
    return blake3(id_seed + ordinal.to_bytes(4, "big") + purpose).digest()[:16]


class Turn:
    """See the module. `new_inode` is what an inode made by this operation is called: id and number, as the log says;
    where it is None both follow from the entry (WS-11)."""

    __slots__ = (
        "_added",
        "_chunk_delta",
        "_context",
        "_inodes",
        "_leaves",
        "_presences",
        "applied_offset",
        "changed",
        "chunks",
        "content_before",
        "existed",
        "header",
        "log_index",
        "new_inode",
        "operation",
        "overlay",
        "span",
        "stamp_ns",
        "subject",
        "workspace",
    )

    def __init__(
        self,
        overlay: Overlay,
        workspace: OpenWorkspace,
        stamp_ns: int,
        new_inode: tuple[bytes, int] | None,
        chunks: dict[bytes, bytes],
        context: OpContext | None,
    ) -> None:
        self.overlay = overlay
        self.workspace = workspace
        self.header = workspace.header
        self.stamp_ns = stamp_ns
        self.new_inode = new_inode
        self.chunks = chunks  # hash -> bytes, for the chunk store
        self.log_index = self.header.log_index + 1
        self.subject: Inode | None = None  # what the acknowledgement speaks of
        self.applied_offset = 0
        self.existed = False
        self.operation = ""  # its name in the oneof of FileCommand
        self.span: tuple[int, int] | None = None  # which bytes of the subject it wrote or cut
        self.content_before = -1  # log_index of the change of the subject's content before this one; -1: none
        self.changed: list[Inode] = []
        self._context = context
        self._inodes: dict[bytes, Inode | None] = {}
        self._leaves: dict[bytes, bytes | None] = {}
        self._chunk_delta: dict[bytes, int] = {}
        self._added: dict[bytes, int] = {}
        self._presences: dict[bytes, Presence | None] = {}

    @property
    def replaying(self) -> bool:
        return self._context is None

    def sender(self) -> bytes:
        """Who sends this command, as chunk records know them."""
        context = self._context
        return b"" if context is None else sender_id(context.worker, context.principal)

    # --- looking ----------------------------------------------------------------------------------

    def inode(self, inode_id: bytes) -> Inode | None:
        """The inode, orphans included; None if there is none."""
        if inode_id in self._inodes:
            return self._inodes[inode_id]
        record = self.overlay.get(_TREE, self.header.workspace_id + INODE + inode_id)
        found = self._inodes[inode_id] = None if record is None else decode_inode(inode_id, record)
        return found

    def entry(self, directory: bytes, name: bytes) -> Inode | None:
        """The inode a directory entry names."""
        record = self.overlay.get(_TREE, self.header.workspace_id + ENTRY + directory + name)
        return None if record is None else self.inode(record[PLACE_BYTES : PLACE_BYTES + 16])

    def forget(self, inode_id: bytes) -> None:
        """The inode's record is gone."""
        self._inodes[inode_id] = None

    # --- changing ---------------------------------------------------------------------------------

    def touch(self, inode: Inode) -> None:
        """The inode is to be written when the turn ends."""
        for known in self.changed:
            if known is inode:
                return
        self.changed.append(inode)

    def name_inode(self) -> tuple[bytes, int]:
        """Id and number of the inode this operation makes."""
        context = self._context
        if self.new_inode is not None or context is None:
            check(self.new_inode is not None, "a replayed operation has its inode from the log")
            return self.new_inode or (b"", 0)
        return derived_id(context.id_seed, context.ordinal, b"inode"), self.stamp_ns

    def add_inode(self, inode: Inode) -> None:
        self._inodes[inode.inode_id] = inode
        self.header.inode_count += 1
        if self._context is not None:
            self.workspace.ledger.account.charge(0, 0, 1)
        self.changed.append(inode)

    def put_entry(self, directory: bytes, name: bytes, inode: Inode) -> None:
        body = inode.inode_id + bytes((inode.kind,))
        self.store(self.header.workspace_id + ENTRY + directory + name, body)
        self._leaves[entry_leaf_key(directory, name)] = entry_leaf_hash(directory, name, body)
        if self._context is not None:
            keep_name(self.overlay, self.header.workspace_id, inode, directory, name)

    def delete_entry(self, directory: bytes, name: bytes, inode: Inode) -> None:
        self.remove(self.header.workspace_id + ENTRY + directory + name)
        self._leaves[entry_leaf_key(directory, name)] = None
        self.lose_name(directory, name, inode)

    def lose_name(self, directory: bytes, name: bytes, inode: Inode) -> None:
        """The inode is about to lose a name, by the deletion of its entry or by another inode that takes it over."""
        if self._context is not None:
            lose_name(self.overlay, self.header.workspace_id, inode, directory, name)

    def store(self, key: bytes, body: bytes, *, given_once: bool = False) -> None:
        """A tree record with versions. `given_once`: a key of this kind is not used again once it was removed."""
        context = self._context
        if context is None:
            self.overlay.put(_TREE, key, NO_PLACE + body)
            return
        old = self.overlay.get(_TREE, key)
        previous = (NO_PLACE if given_once else None) if old is None else old[:PLACE_BYTES]
        self.overlay.put(_TREE, key, versions.put(context, _TREE, key, body, previous) + body)

    def remove(self, key: bytes) -> None:
        context = self._context
        if context is not None:
            old = self.overlay.get(_TREE, key)
            if old is None:
                return
            versions.put(context, _TREE, key, None, old[:PLACE_BYTES])
        self.overlay.delete(_TREE, key)

    def edit_content(self, inode: Inode) -> ContentEdit:
        return ContentEdit(self.overlay, self.header.workspace_id, inode, self.count_chunk)

    def end_content(self, edit: ContentEdit) -> None:
        """Stores the pages an edit changed and queues those it cut off."""
        for key, body in edit.take_pages():
            if body is None:
                self.remove(key)
            else:
                self.store(key, body, given_once=True)
        if edit.dropped:
            queue_pages(self.overlay, self.header, edit.inode.inode_id, edit.dropped)

    def presence(self, chunk_hash: bytes) -> Presence | None:
        """The chunk as it was before this operation."""
        if chunk_hash in self._presences:
            return self._presences[chunk_hash]
        found = self._presences[chunk_hash] = self.workspace.ledger.presence(chunk_hash)
        return found

    def add_chunk(self, chunk_hash: bytes, content: bytes) -> None:
        """Content that this operation turns into a chunk; extents that refer to it follow (WS-14)."""
        if self._context is None or self.presence(chunk_hash) is None:
            self.chunks[chunk_hash] = content
        self._added[chunk_hash] = len(content)
        self._chunk_delta.setdefault(chunk_hash, 0)

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
            self.settle_chunks()
            header.raft_index = self._context.index
        header.log_index = self.log_index
        self.workspace.changed = True
        if not self._leaves:
            return self.workspace.tree.root_hash
        return self.workspace.tree.update(list(self._leaves.items()))

    def settle_chunks(self) -> None:
        """Writes the references that were made and ended."""
        ledger = self.workspace.ledger
        for chunk_hash, change in self._chunk_delta.items():
            length = self._added.get(chunk_hash, 0)
            if change or length:
                presence = self.presence(chunk_hash)
                ledger.settle(chunk_hash, presence, change, length, self.stamp_ns, self.log_index)

    def _store_inode(self, inode: Inode, body: bytes) -> None:
        key = self.header.workspace_id + INODE + inode.inode_id
        context = self._context
        if context is None:
            self.overlay.put(_TREE, key, NO_PLACE + body)
        else:
            place = versions.put(context, _TREE, key, body, inode.place)
            self.overlay.put(_TREE, key, place + body)

    def orphan(self, inode: Inode) -> None:
        """The last name of the inode is gone: it lives on without a place in the tree until it is reaped (WS-27)."""
        inode.nlink = 0
        inode.orphaned_ns = self.stamp_ns
        key = self.header.workspace_id + ORPHAN + _STAMP.pack(self.stamp_ns) + inode.inode_id
        self.overlay.put(_TREE, key, b"")
        self.header.orphan_count += 1
        self.header.inode_count -= 1
        self.header.mapped_bytes -= inode.mapped_bytes
        if self._context is not None:
            self.workspace.ledger.account.charge(0, 0, -1)
            forget_names(self.overlay, self.header.workspace_id, inode.inode_id)
