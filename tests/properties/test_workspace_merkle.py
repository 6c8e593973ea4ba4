"""The Merkle tree against a from-scratch second version, over different histories, restarts and damage (WS-35).

HYPERCLUSTER_SEED=n replays one seed; a failure names it.
"""

from __future__ import annotations

import dataclasses
import os
import random
from collections.abc import Callable

import pytest
from blake3 import blake3

from hypercluster.errors import DamagedError, InvariantError
from hypercluster.state_machine.overlay import Overlay
from hypercluster.state_machine.store import Change, Family, MemoryStore
from hypercluster.state_machine.workspace import merkle, merkle_nodes
from hypercluster.state_machine.workspace.merkle import MerkleTree
from hypercluster.state_machine.workspace.proofs import (
    LeafProof,
    PathProof,
    open_tree,
    prove_leaf,
    prove_path,
    verify_leaf,
    verify_path,
)
from tests.unit.workspace import ops
from tests.unit.workspace.site import Site

SEEDS = [int(os.environ["HYPERCLUSTER_SEED"])] if "HYPERCLUSTER_SEED" in os.environ else range(8)
WORKSPACE = b"workspace-------"


def root_from_scratch(leaves: dict[bytes, bytes]) -> bytes:
    """Written from the text of merkle.py and the rules of WS-35, by recursion over hexadecimal digits."""

    def subtree(found: dict[str, bytes], depth: int) -> bytes:
        if not found:
            return bytes(32)
        if len(found) <= 16:
            text = b"".join(bytes.fromhex(key) + found[key] for key in sorted(found))
            return blake3(b"\x01" + bytes([depth]) + text).digest()
        kids = b"".join(
            subtree({key: leaf for key, leaf in found.items() if key[depth] == digit}, depth + 1)
            for digit in "0123456789abcdef"
        )
        return blake3(b"\x02" + bytes([depth]) + len(found).to_bytes(8, "big") + kids).digest()

    return subtree({key.hex(): leaf for key, leaf in leaves.items()}, 0)


def key_of(number: int) -> bytes:
    return blake3(b"key %d" % number).digest()[:20]


class Grown:
    """A tree over a store that is written entry by entry, as the shell does."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        self.overlay = Overlay(self.store)
        self.tree = MerkleTree(self.overlay, WORKSPACE, 0, bytes(32))
        self.leaves: dict[bytes, bytes] = {}
        self.last_changes: list[Change] = []

    def update(self, leaves: list[tuple[bytes, bytes | None]]) -> bytes:
        for key, leaf in leaves:
            if leaf is None:
                self.leaves.pop(key, None)
            else:
                self.leaves[key] = leaf
        return self.tree.update(leaves)

    def end_entry(self) -> None:
        self.tree.flush(self.overlay)
        self.last_changes = self.overlay.take_changes()
        self.store.write(self.last_changes)
        self.tree.trim()

    def restart(self) -> None:
        self.overlay = Overlay(self.store)
        self.tree = MerkleTree(self.overlay, WORKSPACE, len(self.leaves), self.tree.root_hash)


@pytest.fixture(params=[2_048, 40], ids=["pages", "small pages"])
def paged(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Small pages make a tree of a few hundred leaves go through everything a tree of millions does."""
    leaves: int = request.param
    monkeypatch.setattr(merkle, "PAGED_LEAVES", leaves)
    return leaves


@pytest.mark.req("WS-35", "D-4")
@pytest.mark.parametrize("seed", SEEDS)
def test_incremental_roots_equal_those_from_scratch_and_restarts_change_nothing(seed: int, paged: int) -> None:
    draw = random.Random(seed)
    warm, cold = Grown(), Grown()
    size = draw.choice([20, 300, 1_500])
    for number in range(160):
        for _ in range(draw.randint(1, 6)):
            shrinking = (number // 40) % 2
            leaves: list[tuple[bytes, bytes | None]] = []
            for _ in range(draw.randint(1, 6)):
                leaf = None if draw.random() < (0.75 if shrinking else 0.2) else draw.randbytes(32)
                leaves.append((key_of(draw.randrange(size)), leaf))
            root = warm.update(leaves)
            assert cold.update(leaves) == root, f"seed {seed}, entry {number}"
        assert root == root_from_scratch(warm.leaves), f"seed {seed}, entry {number}"
        assert warm.tree.size == len(warm.leaves)
        warm.end_entry()
        cold.end_entry()
        assert warm.last_changes == cold.last_changes, f"seed {seed}, entry {number}: the digest would differ"
        if draw.random() < 0.4:
            cold.restart()
    assert list(warm.store.items()) == list(cold.store.items()), f"seed {seed}: records depend on restarts"


@pytest.mark.req("CL-17", "D-4")
def test_the_order_of_changes_does_not_depend_on_what_is_loaded(paged: int) -> None:
    """The digest covers the order: a node that was restarted must not differ from one that was not."""
    warm, cold = Grown(), Grown()
    leaves: list[tuple[bytes, bytes | None]] = [(key_of(number), bytes(32)) for number in range(20 * paged)]
    for grown in (warm, cold):
        grown.update(leaves)
        grown.end_entry()
    warm.tree.walk(key_of(5))
    cold.restart()
    found: list[list[Change]] = []
    for grown in (warm, cold):
        grown.update([(key_of(5), b"%032d" % 5)])
        grown.end_entry()
        found.append(grown.last_changes)
    pages = [change.key for change in found[0] if change.key[16:17] == b"n"]
    assert len(pages) > 1, "the leaf must stand below more than one page"
    assert found[0] == found[1]


@pytest.mark.req("WS-35", "D-4")
@pytest.mark.parametrize("left", [0, 10, 17, 30])
def test_one_entry_may_empty_a_subtree_that_has_pages(left: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(merkle, "PAGED_LEAVES", 40)
    grown, small = Grown(), Grown()
    grown.update([(key_of(number), b"%032d" % number) for number in range(1_500)])
    grown.end_entry()
    for number in range(1_499, -1, -1):  # down to nothing and up again, all in one entry
        grown.update([(key_of(number), None)])
    for each in (grown, small):
        each.update([(key_of(number), b"%032d" % number) for number in range(left)])
        each.end_entry()
    assert grown.tree.root_hash == small.tree.root_hash == root_from_scratch(grown.leaves)
    assert list(grown.store.items()) == list(small.store.items())


@pytest.mark.req("WS-35")
@pytest.mark.parametrize("seed", SEEDS)
def test_the_same_leaves_give_the_same_root_and_records_whatever_the_history(seed: int, paged: int) -> None:
    draw = random.Random(seed)
    wanted = {key_of(number): draw.randbytes(32) for number in range(draw.choice([1, 16, 17, 400]))}
    found: list[tuple[bytes, list[Change]]] = []
    for detour in (0, 200, 900):
        grown = Grown()
        others = [key_of(10_000 + number) for number in range(detour)]
        steps: list[tuple[bytes, bytes | None]] = [(key, draw.randbytes(32)) for key in others]
        steps += [(key, draw.randbytes(32)) for key in wanted]
        steps += list(wanted.items())
        steps += [(key, None) for key in others]
        if detour:
            # Every leaf is set and each detour undone, in another order each time.
            last = dict(steps)
            early = [(key, draw.randbytes(32)) for key in last]
            late: list[tuple[bytes, bytes | None]] = list(last.items())
            draw.shuffle(early)
            draw.shuffle(late)
            steps = [*early, *late]
        for start in range(0, len(steps), 7):
            grown.update(steps[start : start + 7])
            grown.end_entry()
        found.append((grown.tree.root_hash, list(grown.store.items())))
    assert found[0] == found[1] == found[2], f"seed {seed}"
    assert found[0][0] == root_from_scratch(wanted)


@pytest.mark.req("WS-35")
def test_letting_go_of_a_large_tree_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(merkle, "PAGED_LEAVES", 64)
    monkeypatch.setattr(merkle, "LOADED_LEAVES_MAX", 100)
    grown = Grown()
    let_go = 0
    for number in range(900):
        grown.update([(key_of(number), b"%032d" % number)])
        grown.end_entry()
        let_go += type(grown.tree.root) is int
    assert let_go > 3
    assert grown.tree.root_hash == root_from_scratch(grown.leaves)


def walk_everywhere(tree: MerkleTree) -> None:
    for number in range(300):
        tree.walk(key_of(number))


@pytest.mark.req("WS-35")
@pytest.mark.parametrize("what", ["bucket", "missing bucket", "page", "missing page"])
def test_a_damaged_record_is_found_when_it_is_read(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(merkle, "PAGED_LEAVES", 64)
    grown = Grown()
    grown.update([(key_of(number), b"%032d" % number) for number in range(300)])
    grown.end_entry()
    kind = b"b" if "bucket" in what else b"n"
    victim = next(found for found in grown.store.items() if found.key[16:17] == kind)
    assert victim.value is not None
    damaged = None if "missing" in what else bytes([victim.value[0] ^ 1]) + victim.value[1:]
    grown.store.write([Change(Family.MERKLE, victim.key, damaged)])
    grown.restart()
    with pytest.raises(DamagedError, match=r"Merkle tree .*rejoin"):
        walk_everywhere(grown.tree)


def tampered(proof: LeafProof, draw: random.Random) -> list[LeafProof]:
    """Proofs that differ from a good one in one place each."""

    def flipped(text: bytes) -> bytes:
        at = draw.randrange(len(text))
        return text[:at] + bytes([text[at] ^ (1 << draw.randrange(8))]) + text[at + 1 :]

    found = [
        dataclasses.replace(proof, text=flipped(proof.text)),
        dataclasses.replace(proof, text=proof.text + b"\0"),
        dataclasses.replace(proof, bucket=flipped(proof.bucket)),
        dataclasses.replace(proof, bucket=proof.bucket[52:]),
        dataclasses.replace(proof, bucket=b""),
        dataclasses.replace(proof, inners=((1, bytes(512)), *proof.inners)),
    ]
    for at, (size, hashes) in enumerate(proof.inners):
        others = ((size + 1, hashes), (size, flipped(hashes)), (-1, hashes), (size, hashes[:-1]))
        found += [
            dataclasses.replace(proof, inners=(*proof.inners[:at], other, *proof.inners[at + 1 :])) for other in others
        ]
        found.append(dataclasses.replace(proof, inners=proof.inners[:at] + proof.inners[at + 1 :]))
    return found


@pytest.mark.req("WS-35")
@pytest.mark.parametrize("seed", SEEDS)
def test_a_proof_holds_for_its_leaf_and_root_and_nothing_else(seed: int) -> None:
    draw = random.Random(seed)
    grown = Grown()
    texts = {key_of(number): b"text %d" % number for number in range(draw.choice([1, 10, 17, 2_000]))}
    grown.update([(key, blake3(text).digest()) for key, text in texts.items()])
    root = grown.tree.root_hash
    for key, text in draw.sample(sorted(texts.items()), min(len(texts), 30)):
        proof = prove_leaf(grown.tree, key, text)
        assert proof is not None
        assert verify_leaf(root, key, proof), f"seed {seed}"
        assert not verify_leaf(blake3(root).digest(), key, proof)
        assert not verify_leaf(root, key_of(999_999), proof)
        for bad in tampered(proof, draw):
            assert not verify_leaf(root, key, bad), f"seed {seed}: {bad}"
        assert prove_leaf(grown.tree, key, text + b"!") is None
    assert prove_leaf(grown.tree, key_of(999_999), b"text") is None


def _grown_site() -> tuple[Site, list[list[bytes]]]:
    site = Site()
    site.found()
    paths: list[list[bytes]] = [[]]
    for outer in range(12):
        above = site.directory(b"d%d" % outer)
        below = site.directory(b"sub", above)
        paths += [[b"d%d" % outer], [b"d%d" % outer, b"sub"]]
        for number in range(8):
            inode_id = site.file(b"f%d" % number, below)
            site.done(ops.append(inode_id, b"%d %d" % (outer, number)))
            paths.append([b"d%d" % outer, b"sub", b"f%d" % number])
    return site, paths


@pytest.mark.req("WS-35")
def test_a_path_is_proven_with_its_attributes_and_an_old_proof_fails_against_a_newer_root() -> None:
    site, paths = _grown_site()
    tree = open_tree(site.store, site.workspace_id)
    assert tree is not None
    root = site.header.root
    proofs: dict[int, PathProof] = {}
    for number, names in enumerate(paths):
        proof = prove_path(site.store, tree, site.workspace_id, names)
        assert proof is not None
        proofs[number] = proof
        proven = verify_path(root, names, proof)
        assert proven is not None
        stored = site.inode(proven.inode_id)
        covered = (
            "kind",
            "mode",
            "size",
            "nlink",
            "mtime_ns",
            "ctime_ns",
            "inode_no",
            "content_digest",
            "xattr_digest",
        )
        for attribute in covered:
            assert getattr(proven, attribute) == getattr(stored, attribute)
        assert verify_path(root, [*names, b"more"], proof) is None
        if names:
            assert verify_path(root, [*names[:-1], b"other"], proof) is None
    assert prove_path(site.store, tree, site.workspace_id, [b"nothing"]) is None
    # A proof of one file does not pass for another, nor one with another file's attributes.
    first, second = paths[3], paths[4]
    assert verify_path(root, first, proofs[4]) is None
    crossed = dataclasses.replace(proofs[3], inode=proofs[4].inode)
    assert verify_path(root, first, crossed) is None
    assert verify_path(root, second, dataclasses.replace(proofs[4], entries=proofs[3].entries)) is None
    site.done(ops.chmod(site.inode(ops.ROOT).inode_id, 0o700))
    assert all(verify_path(site.header.root, names, proofs[number]) is None for number, names in enumerate(paths))


Break = Callable[[pytest.MonkeyPatch], None]


def _no_domain_between_leaf_and_inner(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(merkle_nodes, "_INNER_PREFIX", b"\x01")


def _splits_late(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(merkle, "BUCKET_LEAVES", 17)


def _never_collapses(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(MerkleTree, "_collapse", lambda self, path, way, levels: None)


def _forgets_to_hash_a_level(patch: pytest.MonkeyPatch) -> None:
    real = MerkleTree._set

    def set_leaf(
        self: MerkleTree, path: bytes, key: bytes, leaf: bytes | None, levels: list[dict[object, object]]
    ) -> None:
        real(self, path, key, leaf, levels)  # type: ignore[arg-type]
        if len(levels) > 1:
            levels[-1].clear()

    patch.setattr(MerkleTree, "_set", set_leaf)


def _keeps_the_size(patch: pytest.MonkeyPatch) -> None:
    class FixedSize:
        def pack(self, size: int) -> bytes:
            return bytes(8)

        def pack_into(self, page: bytearray, at: int, size: int) -> None:
            pass

    patch.setattr(merkle, "SIZE", FixedSize())
    patch.setattr(merkle_nodes, "SIZE", FixedSize())


@pytest.mark.req("WS-35")
@pytest.mark.parametrize(
    "broken",
    [_no_domain_between_leaf_and_inner, _splits_late, _never_collapses, _forgets_to_hash_a_level, _keeps_the_size],
)
def test_known_bad_trees_are_caught(broken: Break, monkeypatch: pytest.MonkeyPatch) -> None:
    broken(monkeypatch)
    with pytest.raises((AssertionError, DamagedError, InvariantError, KeyError, IndexError)):
        compare_seeds(4)


def compare_seeds(count: int) -> None:
    for seed in range(count):
        test_incremental_roots_equal_those_from_scratch_and_restarts_change_nothing(seed, 2_048)
