"""Merkle trees opened for proofs alone, with the subtrees of earlier proofs at hand (WS-35).

Owns: `ProofTrees`: opens the tree of a workspace as a reader shows it, and keeps the subtrees it had to build.
Never: changes a tree, or looks into the ones the state machine keeps.
Invariants: a kept subtree is found by workspace, place and the hash that its parent holds now, so it is the one the
store would give, whatever has been written since; at most PROOF_SUBTREES_MAX are kept, and none above a stored page,
because such a node would keep everything below it.
"""

from __future__ import annotations

from collections import OrderedDict

from hypercluster.limits import PROOF_SUBTREES_MAX
from hypercluster.state_machine.store import Family, Reader
from hypercluster.state_machine.workspace.merkle import BUCKET_LEAVES, PAGED_LEAVES, MerkleTree
from hypercluster.state_machine.workspace.merkle_nodes import Inner
from hypercluster.state_machine.workspace.records import decode_header, header_key

_Place = tuple[bytes, bytes, bytes]  # workspace id, path, hash


class ProofTrees:
    """Of one node. Not for use by several threads."""

    def __init__(self) -> None:
        self._kept: OrderedDict[_Place, Inner] = OrderedDict()

    def open(self, reader: Reader, workspace_id: bytes) -> MerkleTree | None:
        """None if there is no such workspace. The tree is good as long as the reader's state is the same."""
        record = reader.get(Family.TREE, header_key(workspace_id))
        if record is None:
            return None
        header = decode_header(workspace_id, record)
        return _KeepingTree(reader, workspace_id, header.leaf_count, header.root, self)

    def find(self, place: _Place) -> Inner | None:
        found = self._kept.get(place)
        if found is not None:
            self._kept.move_to_end(place)
        return found

    def keep(self, place: _Place, subtree: Inner) -> None:
        self._kept[place] = subtree
        if len(self._kept) > PROOF_SUBTREES_MAX:
            self._kept.popitem(last=False)


class _KeepingTree(MerkleTree):
    """A tree that asks for a kept subtree before it builds one from its buckets."""

    __slots__ = ("_trees",)

    def __init__(self, reader: Reader, workspace_id: bytes, size: int, root_hash: bytes, trees: ProofTrees) -> None:
        super().__init__(reader, workspace_id, size, root_hash)
        self._trees = trees

    def _load(self, path: bytes, size: int, digest: bytes) -> Inner | bytes:
        if not BUCKET_LEAVES < size < PAGED_LEAVES:
            return super()._load(path, size, digest)
        place = (self._prefix, path, digest)
        found = self._trees.find(place)
        if found is not None:
            return found
        loaded = super()._load(path, size, digest)
        if isinstance(loaded, Inner):
            self._trees.keep(place, loaded)
        return loaded
