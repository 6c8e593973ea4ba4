"""A workspace as records: export at the present index, import into an empty store, and the check of its root.

Owns: which records a replica of a workspace needs to go on by replaying its log: everything under its id in
Family.TREE and Family.MERKLE. Chunk bytes, op log, versions and accounts are not among them.
Invariants: what is imported has only keys of this workspace; `verify_tree` reads inodes and entries alone and builds
the root from scratch, sharing nothing with the incremental tree but the rules of the hashes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from hypercluster.errors import MalformedError
from hypercluster.state_machine.store import Change, Family, Reader
from hypercluster.state_machine.workspace.leaves import (
    entry_leaf_hash,
    entry_leaf_key,
    inode_leaf_hash,
    inode_leaf_key,
)
from hypercluster.state_machine.workspace.merkle import BUCKET_LEAVES
from hypercluster.state_machine.workspace.merkle_nodes import (
    DEPTH_MAX,
    LEAF_BYTES,
    WIDTH,
    bucket_hash,
    inner_hash,
    nibbles,
)
from hypercluster.state_machine.workspace.records import (
    ENTRY,
    INODE,
    ZERO_HASH,
    body_of,
    decode_header,
    decode_inode,
    header_key,
    prefix_end,
)

EXPORTED_FAMILIES: Final = (Family.TREE, Family.MERKLE)


@dataclass(frozen=True, slots=True)
class TreeCheck:
    """What a whole tree adds up to, beside what its header says."""

    log_index: int
    stored_root: bytes
    computed_root: bytes
    stored_inodes: int
    counted_inodes: int
    stored_bytes: int
    counted_bytes: int

    @property
    def sound(self) -> bool:
        return (self.stored_root, self.stored_inodes, self.stored_bytes) == (
            self.computed_root,
            self.counted_inodes,
            self.counted_bytes,
        )


def export_records(reader: Reader, workspace_id: bytes) -> Iterator[Change]:
    """Every record of the workspace, by family and key."""
    for family in EXPORTED_FAMILIES:
        for key, value in reader.scan(family, workspace_id, prefix_end(workspace_id)):
            yield Change(family, key, value)


def import_records(workspace_id: bytes, records: Iterable[tuple[int, bytes, bytes]]) -> Iterator[Change]:
    """(family number, key, value) as exported, as changes for an empty store. Raises MalformedError."""
    known = {int(family): family for family in EXPORTED_FAMILIES}
    for number, key, value in records:
        family = known.get(number)
        if family is None:
            raise MalformedError(f"TreeRecord.family {number} is none of {sorted(known)}")
        if not key.startswith(workspace_id) or len(key) <= len(workspace_id):
            raise MalformedError("TreeRecord.key does not belong to the workspace")
        yield Change(family, key, value)


def verify_tree(reader: Reader, workspace_id: bytes) -> TreeCheck | None:
    """Computes the root from every inode and entry; None if there is no such workspace."""
    record = reader.get(Family.TREE, header_key(workspace_id))
    if record is None:
        return None
    header = decode_header(workspace_id, record)
    leaves: list[bytes] = []
    inodes = mapped = 0
    prefix = workspace_id + INODE
    for key, value in reader.scan(Family.TREE, prefix, prefix_end(prefix)):
        inode_id = key[len(prefix) :]
        inode = decode_inode(inode_id, value)
        if inode.nlink:
            inodes, mapped = inodes + 1, mapped + inode.mapped_bytes
            leaves.append(inode_leaf_key(inode_id) + inode_leaf_hash(inode_id, body_of(value)))
    prefix = workspace_id + ENTRY
    for key, value in reader.scan(Family.TREE, prefix, prefix_end(prefix)):
        directory, name = key[len(prefix) : len(prefix) + 16], key[len(prefix) + 16 :]
        leaves.append(entry_leaf_key(directory, name) + entry_leaf_hash(directory, name, body_of(value)))
    computed = root_of_leaves(leaves)
    return TreeCheck(header.log_index, header.root, computed, header.inode_count, inodes, header.mapped_bytes, mapped)


def root_of_leaves(leaves: list[bytes]) -> bytes:
    """The root of a set of (key, hash) leaves, from scratch."""
    return _subtree_hash(0, sorted(leaves))


def _subtree_hash(depth: int, leaves: list[bytes]) -> bytes:
    if not leaves:
        return ZERO_HASH
    if len(leaves) <= BUCKET_LEAVES or depth == DEPTH_MAX:
        return bucket_hash(depth, b"".join(leaves))
    parts: list[list[bytes]] = [[] for _ in range(WIDTH)]
    for leaf in leaves:
        parts[nibbles(leaf[: LEAF_BYTES - 32])[depth]].append(leaf)
    return inner_hash(depth, len(leaves), b"".join([_subtree_hash(depth + 1, part) for part in parts]))
