"""What the Merkle root covers: one leaf per inode with a name, one per directory entry (WS-35).

Owns: the keys and the hashes of leaves. A leaf's key is where it stands in the tree; its hash binds its whole
identity, so a leaf can not be passed off as another.
Invariants: the root directory has a leaf and no entry; an orphan has neither, so that reaping it, which takes no
log_index (D-2), leaves the root as it is. Locks, leases, indexes of WS-28 and atime are not covered.
"""

from __future__ import annotations

from typing import Final

from blake3 import blake3

from hypercluster.state_machine.workspace.records import HASHED_BYTES

KEY_BYTES: Final = 20
HASH_BYTES: Final = 32

_LEAF: Final = b"\x00"
_INODE: Final = b"I"
_ENTRY: Final = b"E"


def inode_leaf_key(inode_id: bytes) -> bytes:
    return blake3(_INODE + inode_id).digest()[:KEY_BYTES]


def inode_leaf_text(inode_id: bytes, record: bytes) -> bytes:
    """What is hashed for an inode: its id and the covered part of its record."""
    return _LEAF + _INODE + inode_id + record[:HASHED_BYTES]


def inode_leaf_hash(inode_id: bytes, record: bytes) -> bytes:
    return blake3(_LEAF + _INODE + inode_id + record[:HASHED_BYTES]).digest()


def entry_leaf_key(directory: bytes, name: bytes) -> bytes:
    return blake3(_ENTRY + directory + name).digest()[:KEY_BYTES]


def entry_leaf_text(directory: bytes, name: bytes, value: bytes) -> bytes:
    """What is hashed for a directory entry; `value` is its record: inode id and kind, of fixed size."""
    return _LEAF + _ENTRY + directory + value + name


def entry_leaf_hash(directory: bytes, name: bytes, value: bytes) -> bytes:
    return blake3(_LEAF + _ENTRY + directory + value + name).digest()
