"""What the Merkle tree of a workspace costs by its size, in this process: updates and proofs (WS-35).

Owns: the two measurements. CPU time of this thread, as machines are shared.
Never: disk or network; the tree lies in memory as it does on a node that serves it.
"""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from blake3 import blake3

from hypercluster.errors import check
from hypercluster.state_machine.overlay import Overlay
from hypercluster.state_machine.store import MemoryStore
from hypercluster.state_machine.workspace.leaves import HASH_BYTES, KEY_BYTES
from hypercluster.state_machine.workspace.merkle import MerkleTree
from hypercluster.state_machine.workspace.proofs import prove_leaf, verify_leaf

UPDATES = 20_000
PROOFS = 2_000
BUILD_STEP = 500
TEXT_BYTES = 64  # of a leaf, about what an entry has


class Cost(NamedTuple):
    """Microseconds of one operation."""

    p50_us: float
    p99_us: float


class TreeCost(NamedTuple):
    leaves: int
    update: Cost
    proof: Cost
    verification: Cost


def measure_tree(leaves: int, seed: int) -> TreeCost:
    draw = random.Random(seed)
    overlay = Overlay(MemoryStore())
    tree = MerkleTree(overlay, bytes(16), 0, bytes(HASH_BYTES))
    texts = [draw.randbytes(TEXT_BYTES) for _ in range(leaves)]
    for start in range(0, leaves, BUILD_STEP):
        tree.update([(text[:KEY_BYTES], blake3(text).digest()) for text in texts[start : start + BUILD_STEP]])
    tree.flush(overlay)
    overlay.take_changes()
    clock = time.thread_time_ns
    updates, proofs, checks = [], [], []
    with _collector_off():
        for text in draw.choices(texts, k=PROOFS):
            key = text[:KEY_BYTES]
            began_ns = clock()
            proof = prove_leaf(tree, key, text)
            proved_ns = clock()
            holds = proof is not None and verify_leaf(tree.root_hash, key, proof)
            proofs.append(proved_ns - began_ns)
            checks.append(clock() - proved_ns)
            check(holds, "a proof of what is in the tree holds")
        for text in draw.choices(texts, k=UPDATES):
            change = [(text[:KEY_BYTES], draw.randbytes(HASH_BYTES))]
            began_ns = clock()
            tree.update(change)
            updates.append(clock() - began_ns)
    return TreeCost(leaves, _cost(updates), _cost(proofs), _cost(checks))


def _cost(spent_ns: list[int]) -> Cost:
    spent_ns.sort()
    return Cost(spent_ns[len(spent_ns) // 2] / 1_000, spent_ns[int(len(spent_ns) * 0.99)] / 1_000)


@contextmanager
def _collector_off() -> Iterator[None]:
    """As a node runs between its own collections."""
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.unfreeze()
