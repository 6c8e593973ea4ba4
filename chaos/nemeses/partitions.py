"""The network between the nodes falls apart; clients still reach every node.

Owns: the nemeses partition-*, and the pairs that each cuts.
Never: cuts clients off: a node that is cut off from the others and still answers clients is the harder case.
Invariants: `begin` returns only when the cut is seen from inside: whoever shall not reach does not, whoever shall does;
`probe` is '' only when everybody reaches everybody.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterable, Sequence

from chaos.cluster.probing import CLIENTS, reach_matrix
from chaos.nemeses.processes import leader_or_any
from chaos.seams import ClusterUnderTest, Network, Pair

NETWORK = frozenset({"network"})
SEEN_S = 6.0  # on a busy machine packets that are not cut may be late
SHAPES = ("halves", "leader", "bridge", "ring", "leader-deaf", "leader-mute")


def between(some: Iterable[str], others: Iterable[str]) -> set[Pair]:
    """Both directions."""
    listed = list(others)
    return {pair for a in some for b in listed for pair in ((a, b), (b, a))}


def pairs_of(shape: str, order: Sequence[str], leader: str) -> set[Pair]:
    """What is cut. `order` is all nodes as they were drawn; `leader` is one of them."""
    others = [node for node in order if node != leader]
    half = len(order) // 2
    match shape:
        case "halves":
            return between(order[:half], order[half:])
        case "leader":
            return between([leader], others)
        case "bridge":
            # The one in the middle sees both sides.
            return between(order[:half], order[half + 1 :])
        case "ring":
            # Each sees its neighbours. Of three all are neighbours: there the ring is open at one place.
            size = len(order)
            near = {(i, (i + 1) % size) for i in range(size if size > 3 else size - 1)}
            apart = [(i, j) for i in range(size) for j in range(i) if (i, j) not in near and (j, i) not in near]
            return {pair for i, j in apart for pair in between([order[i]], [order[j]])}
        case "leader-deaf":
            return {(node, leader) for node in others}
        case "leader-mute":
            return {(leader, node) for node in others}
        case _:
            raise ValueError(f"shape: {shape!r}, must be one of {', '.join(SHAPES)}")


async def not_as_cut(network: Network, names: Sequence[str], cut: Iterable[Pair]) -> str:
    """'' when exactly those pairs reach each other that are cut in neither direction."""
    pairs = set(cut)
    found = await reach_matrix(network, names)
    wrong = [
        f"{a} {'reaches' if reaches else 'does not reach'} {b}"
        for (a, b), reaches in found.items()
        if reaches == ((a, b) in pairs or (b, a) in pairs)
    ]
    return "; ".join(wrong)


async def not_whole(cluster: ClusterUnderTest) -> str:
    return await not_as_cut(cluster.network, [*cluster.nodes, CLIENTS], ())


async def seen_to_be_cut(cluster: ClusterUnderTest, name: str, pairs: set[Pair]) -> None:
    """Returns once exactly what was cut is seen to be. Raises RuntimeError."""
    end_s = time.monotonic() + SEEN_S
    while wrong := await not_as_cut(cluster.network, [*cluster.nodes, CLIENTS], pairs):
        if time.monotonic() > end_s:
            raise RuntimeError(f"{name}: the network is not cut as asked: {wrong}")


class Partition:
    needs = frozenset({"cut"})
    excludes = NETWORK

    def __init__(self, shape: str) -> None:
        """One of SHAPES."""
        self.name = f"partition-{shape}"
        self._shape = shape

    async def begin(self, cluster: ClusterUnderTest, rng: random.Random) -> str:
        order = list(cluster.nodes)
        rng.shuffle(order)
        leader = await leader_or_any(cluster, rng)
        pairs = pairs_of(self._shape, order, leader)
        await cluster.network.cut(pairs)
        await seen_to_be_cut(cluster, self.name, pairs)
        return self._words(order, leader)

    def _words(self, order: Sequence[str], leader: str) -> str:
        half = len(order) // 2
        match self._shape:
            case "halves":
                return f"{', '.join(order[:half])} | {', '.join(order[half:])}"
            case "leader":
                return f"{leader} alone"
            case "bridge":
                return f"{', '.join(order[:half])} | {order[half]} sees both | {', '.join(order[half + 1 :])}"
            case "ring":
                return f"each sees its neighbours: {' - '.join(order)}"
            case "leader-deaf":
                return f"{leader} hears nobody"
            case _:
                return f"nobody hears {leader}"

    async def heal(self, cluster: ClusterUnderTest) -> None:
        await cluster.network.heal()

    async def probe(self, cluster: ClusterUnderTest) -> str:
        return await not_whole(cluster)
