"""Inclusion proofs against fs_merkle_root (WS-35): built from a tree, verified from nothing but bytes.

Owns: `LeafProof` (one leaf is in the tree) and `PathProof` (this path names this inode): a chain of entry leaves from
the root directory, and the inode's own leaf.
Invariants: verification reads only its arguments; a proof binds the identity of its leaf, as the leaf's hash covers it
and its place in the tree follows from it. A proof of the tree at another log_index fails against this root.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from blake3 import blake3

from hypercluster.state_machine.store import Family, Reader
from hypercluster.state_machine.workspace.leaves import (
    HASH_BYTES,
    KEY_BYTES,
    entry_leaf_key,
    entry_leaf_text,
    inode_leaf_key,
    inode_leaf_text,
)
from hypercluster.state_machine.workspace.merkle import BUCKET_LEAVES, MerkleTree
from hypercluster.state_machine.workspace.merkle_nodes import (
    DEPTH_MAX,
    LEAF_BYTES,
    WIDTH,
    bucket_hash,
    inner_hash,
    nibbles,
)
from hypercluster.state_machine.workspace.records import (
    HASHED_BYTES,
    ROOT_ID,
    Inode,
    body_of,
    decode_hashed,
    decode_header,
    entry_key,
    header_key,
    inode_key,
)

_ID_BYTES: Final = 16
_ENTRY_BYTES: Final = 17
PATH_NAMES_MAX: Final = 2_048


@dataclass(frozen=True, slots=True)
class LeafProof:
    """`inners`: size and the children's hashes of each inner node, from the root; `bucket`: the leaves they lead to."""

    text: bytes
    inners: tuple[tuple[int, bytes], ...]
    bucket: bytes


@dataclass(frozen=True, slots=True)
class PathProof:
    """`entries[i]` proves the i-th name of the path; `inode` the attributes of what the last one names."""

    entries: tuple[LeafProof, ...]
    inode: LeafProof


def open_tree(reader: Reader, workspace_id: bytes) -> MerkleTree | None:
    """The tree of a workspace as the reader shows it."""
    record = reader.get(Family.TREE, header_key(workspace_id))
    if record is None:
        return None
    header = decode_header(workspace_id, record)
    return MerkleTree(reader, workspace_id, header.leaf_count, header.root)


def prove_leaf(tree: MerkleTree, key: bytes, text: bytes) -> LeafProof | None:
    """None if this leaf, with exactly this text, is not in the tree."""
    way, bucket = tree.walk(key)
    wanted = key + blake3(text).digest()
    if not any(bucket[at : at + LEAF_BYTES] == wanted for at in range(0, len(bucket), LEAF_BYTES)):
        return None
    return LeafProof(text, tuple((node.size, node.hashes()) for node in way), bucket)


def verify_leaf(root: bytes, key: bytes, proof: LeafProof) -> bool:
    """Whether the leaf stands at `key` in the tree with this root. Total: any bytes are answered with True or False."""
    path = nibbles(key)
    inners, bucket = proof.inners, proof.bucket
    if len(key) != KEY_BYTES or len(inners) > DEPTH_MAX or len(bucket) % LEAF_BYTES:
        return False
    if not 0 < len(bucket) <= BUCKET_LEAVES * LEAF_BYTES:
        return False
    wanted = key + blake3(proof.text).digest()
    if not any(bucket[at : at + LEAF_BYTES] == wanted for at in range(0, len(bucket), LEAF_BYTES)):
        return False
    digest = bucket_hash(len(inners), bucket)
    for depth in range(len(inners) - 1, -1, -1):
        size, hashes = inners[depth]
        at = path[depth] * HASH_BYTES
        if len(hashes) != WIDTH * HASH_BYTES or not 0 < size < 1 << 64 or hashes[at : at + HASH_BYTES] != digest:
            return False
        digest = inner_hash(depth, size, hashes)
    return digest == root


def prove_path(reader: Reader, tree: MerkleTree, workspace_id: bytes, names: Sequence[bytes]) -> PathProof | None:
    """The proof for a path of names from the root directory; None if nothing stands there."""
    entries: list[LeafProof] = []
    inode_id = ROOT_ID
    for name in names[:PATH_NAMES_MAX]:
        record = reader.get(Family.TREE, entry_key(workspace_id, inode_id, name))
        if record is None:
            return None
        body = body_of(record)
        proof = prove_leaf(tree, entry_leaf_key(inode_id, name), entry_leaf_text(inode_id, name, body))
        if proof is None:
            return None
        entries.append(proof)
        inode_id = body[:_ID_BYTES]
    record = reader.get(Family.TREE, inode_key(workspace_id, inode_id))
    if record is None or len(names) > PATH_NAMES_MAX:
        return None
    inode = prove_leaf(tree, inode_leaf_key(inode_id), inode_leaf_text(inode_id, body_of(record)))
    return None if inode is None else PathProof(tuple(entries), inode)


def verify_path(root: bytes, names: Sequence[bytes], proof: PathProof) -> Inode | None:
    """What the proof says of the inode the path names: the covered attributes only. None if the proof fails."""
    if len(proof.entries) != len(names):
        return None
    inode_id = ROOT_ID
    for name, entry in zip(names, proof.entries, strict=True):
        # The text must be that of this directory and this name; only the inode it names is taken from it.
        value = entry.text[2 + _ID_BYTES : 2 + _ID_BYTES + _ENTRY_BYTES]
        if entry.text != entry_leaf_text(inode_id, name, value) or len(value) != _ENTRY_BYTES:
            return None
        if not verify_leaf(root, entry_leaf_key(inode_id, name), entry):
            return None
        inode_id = value[:_ID_BYTES]
    body = proof.inode.text[2 + _ID_BYTES :]
    if len(body) != HASHED_BYTES or proof.inode.text != inode_leaf_text(inode_id, body):
        return None
    if not verify_leaf(root, inode_leaf_key(inode_id), proof.inode):
        return None
    return decode_hashed(inode_id, body)
