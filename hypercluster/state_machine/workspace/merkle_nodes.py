"""The nodes of a workspace's Merkle tree, their bytes and their hashes (WS-35).

Owns: `Inner`, the bytes of a bucket, and the hash rules of both. An inner node is kept as the bytes that are hashed:
prefix, depth, size, and the hashes of its kids next to one another.
Never: reads or writes of a store, or a decision about the shape of a tree: those are the tree's (merkle.py).
Invariants: a bucket's leaves are sorted by their keys; what a node says of its size is what its hash covers.
"""

from __future__ import annotations

from binascii import hexlify
from struct import Struct
from typing import Final

from blake3 import blake3

from hypercluster.state_machine.workspace.leaves import HASH_BYTES, KEY_BYTES

WIDTH: Final = 16
LEAF_BYTES: Final = KEY_BYTES + HASH_BYTES
DEPTH_MAX: Final = 2 * KEY_BYTES

NIBBLES: Final = bytes.maketrans(b"0123456789abcdef", bytes(range(16)))
_INNER_PREFIX: Final = b"\x02"
SIZE_AT: Final = 2  # behind prefix and depth
HEAD_BYTES: Final = SIZE_AT + 8
SLOTS: Final = [slice(at, at + HASH_BYTES) for at in range(HEAD_BYTES, HEAD_BYTES + WIDTH * HASH_BYTES, HASH_BYTES)]
SIZE: Final = Struct(">Q")
BUCKET_HEADS: Final = [b"\x01" + bytes([depth]) for depth in range(DEPTH_MAX + 1)]


def bucket_hash(depth: int, leaves: bytes) -> bytes:
    """`leaves`: sorted (key, hash) records; their number follows from the length."""
    return blake3(BUCKET_HEADS[depth] + leaves).digest()


def inner_hash(depth: int, size: int, hashes: bytes) -> bytes:
    """`hashes`: of the 16 children, zero for an empty one."""
    return blake3(_INNER_PREFIX + bytes([depth]) + SIZE.pack(size) + hashes).digest()


def nibbles(key: bytes) -> bytes:
    return hexlify(key).translate(NIBBLES)


class Inner:
    """An inner node. A kid is None, a bucket's leaves, an Inner, or the size (int) of a subtree not loaded.

    `paged`: it has a page in the store. `due`: that page is not yet among those this entry writes."""

    __slots__ = ("due", "kids", "page", "paged", "size")

    def __init__(self, depth: int, size: int) -> None:
        self.page = bytearray(_INNER_PREFIX + bytes([depth]) + SIZE.pack(size) + bytes(WIDTH * HASH_BYTES))
        self.kids: list[Inner | bytes | int | None] = [None] * WIDTH
        self.size = size
        self.paged = self.due = False

    def resize(self, size: int) -> None:
        self.size = size
        SIZE.pack_into(self.page, SIZE_AT, size)

    def put_hash(self, slot: int, digest: bytes) -> None:
        self.page[SLOTS[slot]] = digest

    def hash_at(self, slot: int) -> bytes:
        return bytes(self.page[SLOTS[slot]])

    def hashes(self) -> bytes:
        return bytes(self.page[HEAD_BYTES:])

    def digest(self) -> bytes:
        return blake3(self.page).digest()


Kid = Inner | bytes | int | None


def size_of(kid: Kid) -> int:
    if type(kid) is Inner:
        return kid.size
    if type(kid) is bytes:
        return len(kid) // LEAF_BYTES
    return kid if type(kid) is int else 0


def with_leaf(leaves: bytes, key: bytes, leaf: bytes | None) -> bytes:
    """The bucket with the leaf set, or without it."""
    at = leaves.find(key)
    while at > 0 and at % LEAF_BYTES:
        at = leaves.find(key, at + 1)
    if at >= 0:
        if leaf is None:
            return leaves[:at] + leaves[at + LEAF_BYTES :]
        return leaves[: at + KEY_BYTES] + leaf + leaves[at + LEAF_BYTES :]
    if leaf is None:
        return leaves
    at = 0
    while at < len(leaves) and leaves[at : at + KEY_BYTES] < key:
        at += LEAF_BYTES
    return leaves[:at] + key + leaf + leaves[at:]


def build_subtree(depth: int, records: list[tuple[bytes, bytes]], first: int, last: int) -> Inner | bytes:
    """The subtree of records[first:last], which are sorted by path and share its first `depth` digits."""
    if last - first == 1 and len(records[first][0]) == depth:
        return records[first][1]
    node = Inner(depth, 0)
    size, at = 0, first
    while at < last:
        digit = records[at][0][depth]
        end = at + 1
        while end < last and records[end][0][depth] == digit:
            end += 1
        kid = build_subtree(depth + 1, records, at, end)
        node.kids[digit] = kid
        if type(kid) is bytes:
            size += len(kid) // LEAF_BYTES
            node.put_hash(digit, bucket_hash(depth + 1, kid))
        elif type(kid) is Inner:
            size += kid.size
            node.put_hash(digit, kid.digest())
        at = end
    node.resize(size)
    return node
