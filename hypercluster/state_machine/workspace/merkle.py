"""The Merkle tree of a workspace: a hash-keyed radix tree, 16 children a node, one BLAKE3 a level (WS-35).

Owns: the tree in memory, and its buckets and pages in Family.MERKLE; its nodes stand in merkle_nodes.py.
Shape: a subtree of at most BUCKET_LEAVES leaves is one bucket, a larger one an inner node; so the shape, and with it
the root, is a function of the set of leaves alone, whatever the history.
Records: every bucket (path -> leaves), rewritten by the entry that changes it; and a page for every inner node of
PAGED_LEAVES leaves or more. Opening reads one page; a subtree below the paged ones is built from its buckets when it is
first touched and checked against the hash its parent holds. Smaller inner nodes are never stored.
Invariants: records are a function of the leaves; what is loaded changes speed only.
"""

from __future__ import annotations

from binascii import hexlify
from collections.abc import Iterable, Sequence
from struct import Struct
from typing import Final

from blake3 import blake3

from hypercluster.errors import REJOIN, DamagedError, check
from hypercluster.state_machine.overlay import Overlay
from hypercluster.state_machine.store import Family, Reader
from hypercluster.state_machine.workspace.leaves import HASH_BYTES, KEY_BYTES
from hypercluster.state_machine.workspace.merkle_nodes import (
    BUCKET_HEADS,
    HEAD_BYTES,
    LEAF_BYTES,
    NIBBLES,
    SIZE,
    SIZE_AT,
    SLOTS,
    WIDTH,
    Inner,
    Kid,
    bucket_hash,
    build_subtree,
    nibbles,
    size_of,
    with_leaf,
)
from hypercluster.state_machine.workspace.records import ZERO_HASH

BUCKET_LEAVES: Final = 16
PAGED_LEAVES: Final = 2_048
LOADED_LEAVES_MAX: Final = 4_000_000  # in memory, a tree; beyond it everything is let go and loaded again as needed

BUCKET: Final = b"b"
PAGE: Final = b"n"

_KID_SIZES: Final = Struct(">16Q")

# Nodes to be hashed again, by depth, each with its parent and the slot it has there.
Levels = list[dict[Inner, tuple[Inner | None, int]]]
_Changed = tuple[bytes, list[Inner]]  # the path of a leaf that was changed, and the nodes on its way from the root


def _whole(condition: bool, message: str) -> None:
    """What does not hold is this node's own damage, and no command's fault."""
    if not condition:
        raise DamagedError(f"{message}. {REJOIN}. A worker rebuilds its mirror instead")


class MerkleTree:
    """One workspace's tree over `reader`. Changes are kept until `flush` puts them into the overlay."""

    __slots__ = ("_buckets", "_gone_pages", "_hasher", "_loaded", "_prefix", "_reader", "_touched", "root", "root_hash")

    def __init__(self, reader: Reader, workspace_id: bytes, size: int, root_hash: bytes) -> None:
        self._reader = reader
        self._prefix = workspace_id
        self._buckets: dict[bytes, bytes | None] = {}  # path -> leaves, or None: gone
        self._touched: dict[bytes, Inner] = {}  # nodes that have, or should have, a page
        self._gone_pages: set[bytes] = set()  # of nodes that this entry turned into buckets
        self._loaded = 0
        self._hasher = blake3()  # between two uses it holds nothing
        self.root: Kid = size or None
        self.root_hash = root_hash if size else ZERO_HASH

    @property
    def size(self) -> int:
        return size_of(self.root)

    # --- changing ---------------------------------------------------------------------------------

    def update(self, leaves: Sequence[tuple[bytes, bytes | None]]) -> bytes:
        """Sets (hash) or removes (None) leaves and answers the root. Shared nodes are hashed once."""
        changed: list[_Changed] = []
        for number, (key, leaf) in enumerate(leaves):
            path = hexlify(key).translate(NIBBLES)
            way = self._change(path, key, leaf)
            if not way:
                self._reshape(changed, leaves[number:])
                return self.root_hash
            changed.append((path, way))
        if len(changed) > 1:
            changed.sort()
            for number in range(len(changed) - 1):
                self._hash_shared(*changed[number], changed[number + 1][0])
        if changed:
            self._hash(*changed[-1])
        return self.root_hash

    def _change(self, path: bytes, key: bytes, leaf: bytes | None) -> list[Inner] | None:
        """The most common changes, on the shortest way: everything is loaded, and no bucket becomes an inner node or
        the other way about. Answers the nodes to be hashed, from the root; None where nothing was done."""
        way: list[Inner] = []
        kid = self.root
        for digit in path:
            if type(kid) is not Inner:
                break
            way.append(kid)
            kid = kid.kids[digit]
        old = kid if type(kid) is bytes else b""
        if not way or not (old or kid is None):
            return None
        at = old.find(key)
        if at % LEAF_BYTES == 0 and leaf is not None:
            new = old[: at + KEY_BYTES] + leaf + old[at + LEAF_BYTES :]
        else:
            new = with_leaf(old, key, leaf)
            grown = (len(new) - len(old)) // LEAF_BYTES
            if not grown or len(new) > BUCKET_LEAVES * LEAF_BYTES or way[-1].size + grown <= BUCKET_LEAVES:
                return None
            self._grow(way, grown)
        depth = len(way)
        way[-1].kids[path[depth - 1]] = self._buckets[path[:depth]] = new or None
        for node in way:
            if node.due:
                node.due = False
                self._touched[path[: way.index(node)]] = node
        return way

    def _grow(self, way: list[Inner], grown: int) -> None:
        self._loaded += grown
        for node in way:
            node.size = size = node.size + grown
            SIZE.pack_into(node.page, SIZE_AT, size)
            if size == PAGED_LEAVES:
                node.due = True

    def _hash_shared(self, path: bytes, way: list[Inner], following: bytes) -> None:
        """Hashes what the way to the next path, which is no smaller, does not pass: the rest goes with that one."""
        shared, depth = 0, len(way)  # of both ways: the depth of the lowest node
        while shared < depth and path[shared] == following[shared]:
            shared += 1
        if shared < depth:  # otherwise both lead to the same bucket
            self._hash(path, way, shared)

    def _hash(self, path: bytes, way: list[Inner], top: int = -1) -> None:
        """Hashes the bucket at the end of a way and the nodes above it, up to the one at depth `top`, which is only
        told, or the root. One hasher for all: making one costs more than it does here."""
        hasher, depth = self._hasher, len(way)
        bucket = way[-1].kids[path[depth - 1]]
        digest = ZERO_HASH
        if bucket is not None:
            hasher.reset()
            hasher.update(BUCKET_HEADS[depth])
            hasher.update(bucket)  # type: ignore[arg-type]
            digest = hasher.digest()
        while True:
            depth -= 1
            page = way[depth].page
            page[SLOTS[path[depth]]] = digest
            if depth == top:
                return
            hasher.reset()
            hasher.update(page)
            digest = hasher.digest()
            if not depth:
                self.root_hash = digest
                return

    def _reshape(self, changed: list[_Changed], leaves: Sequence[tuple[bytes, bytes | None]]) -> None:
        """Changes of any kind, after those of `changed`, whose nodes are not hashed yet."""
        levels: Levels = []
        for path, way in changed:
            parent: Inner | None = None
            for depth, node in enumerate(way):
                if depth == len(levels):
                    levels.append({})
                levels[depth][node] = (parent, path[depth - 1] if depth else 0)
                parent = node
            slot = path[len(way) - 1]
            bucket = way[-1].kids[slot]
            way[-1].put_hash(slot, bucket_hash(len(way), bucket) if type(bucket) is bytes else ZERO_HASH)
        for key, leaf in leaves:
            self._set(nibbles(key), key, leaf, levels)
        for level in reversed(levels):
            for node, (parent, slot) in level.items():
                digest = node.digest()
                if parent is None:
                    self.root_hash = digest
                else:
                    parent.put_hash(slot, digest)

    def _set(self, path: bytes, key: bytes, leaf: bytes | None, levels: Levels) -> None:
        parent: Inner | None = None
        slot = depth = 0
        kid = self.root
        way: list[Inner] = []
        while True:
            if type(kid) is int:
                kid = self._load(path[:depth], kid, self.root_hash if parent is None else parent.hash_at(slot))
                self._place(parent, slot, kid)
            if type(kid) is not Inner:
                break
            if depth == len(levels):
                levels.append({})
            levels[depth][kid] = (parent, slot)
            # One below the bound: this very leaf may take it there.
            if kid.size >= PAGED_LEAVES - 1 or kid.paged:
                self._touched[path[:depth]] = kid
            way.append(kid)
            parent, slot = kid, path[depth]
            kid = parent.kids[slot]
            depth += 1
        old = kid if type(kid) is bytes else b""
        new = with_leaf(old, key, leaf)
        if len(new) != len(old):
            grown = 1 if len(new) > len(old) else -1
            self._loaded += grown
            for node in way:
                node.resize(node.size + grown)
            if grown < 0 and way and way[-1].size <= BUCKET_LEAVES:
                self._place(parent, slot, new or None)
                self._buckets[path[:depth]] = None
                self._collapse(path, way, levels)
                return
        if parent is not None and 0 < len(new) <= BUCKET_LEAVES * LEAF_BYTES:
            parent.kids[slot] = self._buckets[path[:depth]] = new
            parent.put_hash(slot, bucket_hash(depth, new))
        else:
            self._put_subtree(path[:depth], parent, slot, new)

    def _put_subtree(self, path: bytes, parent: Inner | None, slot: int, leaves: bytes) -> None:
        """Puts a bucket at `path`, splitting it as often as it is too large; hashes what it makes."""
        kid: Kid
        if len(leaves) <= BUCKET_LEAVES * LEAF_BYTES:
            kid = leaves or None
            digest = bucket_hash(len(path), leaves) if leaves else ZERO_HASH
            self._buckets[path] = kid
        else:
            kid = Inner(len(path), len(leaves) // LEAF_BYTES)
            self._buckets[path] = None
            parts: list[list[bytes]] = [[] for _ in range(WIDTH)]
            for at in range(0, len(leaves), LEAF_BYTES):
                leaf = leaves[at : at + LEAF_BYTES]
                digit = leaf[len(path) >> 1]
                parts[(digit & 15) if len(path) & 1 else digit >> 4].append(leaf)
            for digit, part in enumerate(parts):
                if part:
                    self._put_subtree(path + bytes([digit]), kid, digit, b"".join(part))
            digest = kid.digest()
        self._place(parent, slot, kid)
        if parent is None:
            self.root_hash = digest
        else:
            parent.put_hash(slot, digest)

    def _collapse(self, path: bytes, way: list[Inner], levels: Levels) -> None:
        """The topmost node that became small enough turns into one bucket."""
        depth = next(depth for depth, node in enumerate(way) if node.size <= BUCKET_LEAVES)
        for at, gone in enumerate(way[depth:], start=depth):
            del levels[at][gone]
        if way[depth].paged:
            below = [found for found in self._touched if found.startswith(path[:depth])]
            self._gone_pages.update([found for found in below if self._touched.pop(found).paged])
        leaves = b"".join(self._gather(path[:depth], way[depth]))
        parent, slot = (way[depth - 1], path[depth - 1]) if depth else (None, 0)
        self._put_subtree(path[:depth], parent, slot, leaves)

    def _gather(self, path: bytes, node: Inner) -> Iterable[bytes]:
        for digit, kid in enumerate(node.kids):
            below = path + bytes([digit])
            if type(kid) is bytes:
                self._buckets[below] = None
                yield kid
            elif kid is not None:
                loaded = kid if type(kid) is Inner else self._load(below, size_of(kid), node.hash_at(digit))
                if type(loaded) is bytes:
                    self._buckets[below] = None
                    yield loaded
                else:
                    check(type(loaded) is Inner, "a subtree loads as a node or a bucket")
                    yield from self._gather(below, loaded)  # type: ignore[arg-type]

    def _place(self, parent: Inner | None, slot: int, kid: Kid) -> None:
        if parent is None:
            self.root = kid
            if kid is None:
                self.root_hash = ZERO_HASH
        else:
            parent.kids[slot] = kid

    # --- loading and storing ----------------------------------------------------------------------

    def _load(self, path: bytes, size: int, digest: bytes) -> Inner | bytes:
        """A subtree from its records; what does not hash to what its parent says is damage."""
        loaded: Inner | bytes
        if size <= BUCKET_LEAVES:
            found = self._reader.get(Family.MERKLE, self._prefix + BUCKET + path)
            _whole(found is not None, "a bucket of the Merkle tree is missing")
            loaded = found or b""
            computed = bucket_hash(len(path), loaded)
        else:
            loaded = self._load_page(path, size) if size >= PAGED_LEAVES else self._load_buckets(path, size)
            computed = loaded.digest()
        _whole(computed == digest, "a subtree of the Merkle tree does not have the hash its parent holds")
        return loaded

    def _load_page(self, path: bytes, size: int) -> Inner:
        record = self._reader.get(Family.MERKLE, self._prefix + PAGE + path)
        _whole(record is not None, "a page of the Merkle tree is missing")
        node = Inner(len(path), size)
        node.paged = node.due = True
        node.page[HEAD_BYTES:] = (record or b"")[: WIDTH * HASH_BYTES]
        node.kids = [kid or None for kid in _KID_SIZES.unpack_from(record or b"", WIDTH * HASH_BYTES)]
        return node

    def _load_buckets(self, path: bytes, size: int) -> Inner:
        start = self._prefix + BUCKET + path
        skip = len(self._prefix) + len(BUCKET)
        records = [(key[skip:], leaves) for key, leaves in self._reader.scan(Family.MERKLE, start, start + b"\x10")]
        self._loaded += size
        node = build_subtree(len(path), records, 0, len(records))
        _whole(type(node) is Inner and node.size == size, "a subtree of the Merkle tree has lost leaves")
        return node  # type: ignore[return-value]

    def flush(self, overlay: Overlay) -> None:
        """Puts the changed buckets and pages into the overlay: once an entry. Pages go in order of their paths: the
        order in which they were touched depends on what was loaded, and the digest covers the order (CL-17)."""
        put, delete = overlay.put, overlay.delete
        for path, leaves in self._buckets.items():
            if leaves is None:
                delete(Family.MERKLE, self._prefix + BUCKET + path)
            else:
                put(Family.MERKLE, self._prefix + BUCKET + path, leaves)
        self._buckets.clear()
        for path, node in sorted(self._touched.items()):
            key = self._prefix + PAGE + path
            if node.size >= PAGED_LEAVES:
                node.paged = node.due = True
                self._gone_pages.discard(path)
                put(Family.MERKLE, key, node.hashes() + _KID_SIZES.pack(*[size_of(kid) for kid in node.kids]))
            elif node.paged:
                node.paged = node.due = False
                delete(Family.MERKLE, key)
        self._touched.clear()
        for path in sorted(self._gone_pages):
            delete(Family.MERKLE, self._prefix + PAGE + path)
        self._gone_pages.clear()

    def trim(self) -> None:
        """Lets go of everything loaded when it is too much: between entries."""
        check(not self._buckets and not self._touched, "only a flushed tree may be let go")
        if self._loaded > LOADED_LEAVES_MAX:
            self.root, self._loaded = self.size or None, 0

    # --- reading ----------------------------------------------------------------------------------

    def walk(self, key: bytes) -> tuple[list[Inner], bytes]:
        """The inner nodes from the root towards `key`, and the leaves of the bucket they end in."""
        path, way = nibbles(key), list[Inner]()
        parent: Inner | None = None
        slot = depth = 0
        kid = self.root
        while kid is not None and type(kid) is not bytes:
            if type(kid) is int:
                kid = self._load(path[:depth], kid, self.root_hash if parent is None else parent.hash_at(slot))
                self._place(parent, slot, kid)
                continue
            check(type(kid) is Inner, "a kid of the Merkle tree has no other form")
            parent, slot = kid, path[depth]  # type: ignore[assignment]
            way.append(parent)  # type: ignore[arg-type]
            kid = parent.kids[slot]  # type: ignore[union-attr]
            depth += 1
        return way, kid or b""
