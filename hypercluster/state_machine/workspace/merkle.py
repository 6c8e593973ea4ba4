"""The Merkle tree of a workspace: a hash-keyed radix tree, 16 children a node, one BLAKE3 a level (WS-35).

Owns: the tree in memory, its buckets and pages in Family.MERKLE, and the hash rules of its nodes.
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
from hypercluster.state_machine.workspace.records import ZERO_HASH

WIDTH: Final = 16
BUCKET_LEAVES: Final = 16
PAGED_LEAVES: Final = 2_048
LOADED_LEAVES_MAX: Final = 4_000_000  # in memory, a tree; beyond it everything is let go and loaded again as needed
LEAF_BYTES: Final = KEY_BYTES + HASH_BYTES
DEPTH_MAX: Final = 2 * KEY_BYTES

BUCKET: Final = b"b"
PAGE: Final = b"n"

_NIBBLES: Final = bytes.maketrans(b"0123456789abcdef", bytes(range(16)))
_INNER_PREFIX: Final = b"\x02"
_HEAD_BYTES: Final = 10  # prefix, depth, size
_SIZE: Final = Struct(">Q")
_KID_SIZES: Final = Struct(">16Q")
_BUCKET_HEADS: Final = [b"\x01" + bytes([depth]) for depth in range(DEPTH_MAX + 1)]


def bucket_hash(depth: int, leaves: bytes) -> bytes:
    """`leaves`: sorted (key, hash) records; their number follows from the length."""
    return blake3(_BUCKET_HEADS[depth] + leaves).digest()


def inner_hash(depth: int, size: int, hashes: bytes) -> bytes:
    """`hashes`: of the 16 children, zero for an empty one."""
    return blake3(_INNER_PREFIX + bytes([depth]) + _SIZE.pack(size) + hashes).digest()


def nibbles(key: bytes) -> bytes:
    return hexlify(key).translate(_NIBBLES)


class Inner:
    """An inner node. A kid is None, a bucket's leaves, an Inner, or the size (int) of a subtree not loaded."""

    __slots__ = ("kids", "page", "paged", "size")

    def __init__(self, depth: int, size: int) -> None:
        self.page = bytearray(_INNER_PREFIX + bytes([depth]) + _SIZE.pack(size) + bytes(WIDTH * HASH_BYTES))
        self.kids: list[Inner | bytes | int | None] = [None] * WIDTH
        self.size = size
        self.paged = False

    def resize(self, size: int) -> None:
        self.size = size
        self.page[2:_HEAD_BYTES] = _SIZE.pack(size)

    def put_hash(self, slot: int, digest: bytes) -> None:
        at = _HEAD_BYTES + slot * HASH_BYTES
        self.page[at : at + HASH_BYTES] = digest

    def hash_at(self, slot: int) -> bytes:
        at = _HEAD_BYTES + slot * HASH_BYTES
        return bytes(self.page[at : at + HASH_BYTES])

    def hashes(self) -> bytes:
        return bytes(self.page[_HEAD_BYTES:])

    def digest(self) -> bytes:
        return blake3(self.page).digest()


Kid = Inner | bytes | int | None
# Nodes to be hashed again, by depth, each with its parent and the slot it has there.
Levels = list[dict[Inner, tuple[Inner | None, int]]]


def _whole(condition: bool, message: str) -> None:
    """What does not hold is this node's own damage, and no command's fault."""
    if not condition:
        raise DamagedError(f"{message}. {REJOIN}. A worker rebuilds its mirror instead")


def _size_of(kid: Kid) -> int:
    if type(kid) is Inner:
        return kid.size
    if type(kid) is bytes:
        return len(kid) // LEAF_BYTES
    return kid if type(kid) is int else 0


class MerkleTree:
    """One workspace's tree over `reader`. Changes are kept until `flush` puts them into the overlay."""

    __slots__ = ("_buckets", "_gone_pages", "_loaded", "_prefix", "_reader", "_touched", "root", "root_hash")

    def __init__(self, reader: Reader, workspace_id: bytes, size: int, root_hash: bytes) -> None:
        self._reader = reader
        self._prefix = workspace_id
        self._buckets: dict[bytes, bytes | None] = {}  # path -> leaves, or None: gone
        self._touched: dict[bytes, Inner] = {}  # nodes that have, or should have, a page
        self._gone_pages: set[bytes] = set()  # of nodes that this entry turned into buckets
        self._loaded = 0
        self.root: Kid = size or None
        self.root_hash = root_hash if size else ZERO_HASH

    @property
    def size(self) -> int:
        return _size_of(self.root)

    # --- changing ---------------------------------------------------------------------------------

    def update(self, leaves: Sequence[tuple[bytes, bytes | None]]) -> bytes:
        """Sets (hash) or removes (None) leaves and answers the root. Shared nodes are hashed once."""
        if len(leaves) == 1 and self._replace(*leaves[0]):
            return self.root_hash
        levels: Levels = []
        for key, leaf in leaves:
            self._set(nibbles(key), key, leaf, levels)
        for level in reversed(levels):
            for node, (parent, slot) in level.items():
                page = node.page
                page[2:_HEAD_BYTES] = _SIZE.pack(node.size)
                digest = blake3(page).digest()
                if parent is None:
                    self.root_hash = digest
                else:
                    at = _HEAD_BYTES + slot * HASH_BYTES
                    parent.page[at : at + HASH_BYTES] = digest
        return self.root_hash

    def _replace(self, key: bytes, leaf: bytes | None) -> bool:
        """The most common change, on the shortest way: another hash for one leaf that is there and loaded."""
        path = hexlify(key).translate(_NIBBLES)
        way: list[Inner] = []
        kid = self.root
        depth = 0
        while type(kid) is Inner:
            way.append(kid)
            kid = kid.kids[path[depth]]
            depth += 1
        if leaf is None or not way or type(kid) is not bytes:
            return False
        at = kid.find(key)
        if at < 0 or at % LEAF_BYTES:
            return False
        bucket = kid[: at + KEY_BYTES] + leaf + kid[at + LEAF_BYTES :]
        way[-1].kids[path[depth - 1]] = self._buckets[path[:depth]] = bucket
        digest: bytes = blake3(_BUCKET_HEADS[depth] + bucket).digest()
        for depth in range(len(way) - 1, -1, -1):
            node = way[depth]
            start = _HEAD_BYTES + path[depth] * HASH_BYTES
            node.page[start : start + HASH_BYTES] = digest
            digest = blake3(node.page).digest()
            if node.size >= PAGED_LEAVES or node.paged:
                self._touched[path[:depth]] = node
        self.root_hash = digest
        return True

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
        new = _with_leaf(old, key, leaf)
        if len(new) != len(old):
            grown = 1 if len(new) > len(old) else -1
            self._loaded += grown
            for node in way:
                node.size += grown  # its page follows when it is hashed
            if grown < 0 and way and way[-1].size <= BUCKET_LEAVES:
                self._place(parent, slot, new or None)
                self._buckets[path[:depth]] = None
                self._collapse(path, way, levels)
                return
        if parent is not None and 0 < len(new) <= BUCKET_LEAVES * LEAF_BYTES:
            parent.kids[slot] = self._buckets[path[:depth]] = new
            at = _HEAD_BYTES + slot * HASH_BYTES
            parent.page[at : at + HASH_BYTES] = blake3(_BUCKET_HEADS[depth] + new).digest()
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
                loaded = kid if type(kid) is Inner else self._load(below, _size_of(kid), node.hash_at(digit))
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
        node.paged = True
        node.page[_HEAD_BYTES:] = (record or b"")[: WIDTH * HASH_BYTES]
        node.kids = [kid or None for kid in _KID_SIZES.unpack_from(record or b"", WIDTH * HASH_BYTES)]
        return node

    def _load_buckets(self, path: bytes, size: int) -> Inner:
        start = self._prefix + BUCKET + path
        skip = len(self._prefix) + len(BUCKET)
        records = [(key[skip:], leaves) for key, leaves in self._reader.scan(Family.MERKLE, start, start + b"\x10")]
        self._loaded += size
        node = _build(len(path), records, 0, len(records))
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
                node.paged = True
                self._gone_pages.discard(path)
                put(Family.MERKLE, key, node.hashes() + _KID_SIZES.pack(*[_size_of(kid) for kid in node.kids]))
            elif node.paged:
                node.paged = False
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


def _with_leaf(leaves: bytes, key: bytes, leaf: bytes | None) -> bytes:
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


def _build(depth: int, records: list[tuple[bytes, bytes]], first: int, last: int) -> Inner | bytes:
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
        kid = _build(depth + 1, records, at, end)
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
