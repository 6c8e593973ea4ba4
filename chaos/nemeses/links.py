"""Links that are slow, uneven, lossy or narrow, each direction for itself.

Owns: the nemeses link-*, and how bad a link is drawn to be.
Never: cuts a link whole: that is partitions.py.
Invariants: at least one direction is bad while it lasts; what is bad between clients and nodes is bad for clients too.
`probe` is '' only when everybody reaches everybody and the quickest of some packets is quick again everywhere.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Mapping, Sequence

from chaos.cluster.probing import CLIENTS
from chaos.nemeses.partitions import NETWORK, not_whole
from chaos.seams import ClusterUnderTest, Link, Pair

SHARE = 0.5  # of the directions, roughly
SLOW_MS = (30.0, 200.0)  # a round trip takes no longer than the shortest election timeout
QUICK_MS = 20.0  # no direction is drawn to be slower by less than this
TRIES = 5

KINDS: Mapping[str, Callable[[random.Random], Link]] = {
    "delay": lambda rng: Link(delay_ms=rng.uniform(*SLOW_MS)),
    "jitter": lambda rng: Link(delay_ms=70.0, jitter_ms=rng.uniform(20.0, 50.0)),
    "loss": lambda rng: Link(loss=rng.uniform(0.02, 0.3)),
    "rate": lambda rng: Link(rate_mbit=rng.uniform(0.5, 5.0)),
}


def draw_links(kind: str, names: Sequence[str], rng: random.Random) -> dict[Pair, Link]:
    """Raises KeyError for an unknown kind."""
    make = KINDS[kind]
    pairs = [(a, b) for a in names for b in names if a != b]
    chosen = [pair for pair in pairs if rng.random() < SHARE] or [rng.choice(pairs)]
    return {pair: make(rng) for pair in chosen}


class BadLinks:
    needs = frozenset({"links"})
    excludes = NETWORK

    def __init__(self, kind: str) -> None:
        """One of KINDS."""
        self.name = f"link-{kind}"
        self._kind = kind

    async def begin(self, cluster: ClusterUnderTest, rng: random.Random) -> str:
        links = draw_links(self._kind, [*cluster.nodes, CLIENTS], rng)
        await cluster.network.shape(links)
        return ", ".join(f"{a}>{b} {words(link)}" for (a, b), link in sorted(links.items()))

    async def heal(self, cluster: ClusterUnderTest) -> None:
        await cluster.network.heal()

    async def probe(self, cluster: ClusterUnderTest) -> str:
        return await not_whole(cluster) or await slow_paths(cluster)


def words(link: Link) -> str:
    parts = [
        f"{link.delay_ms:.0f} ms" if link.delay_ms else "",
        f"±{link.jitter_ms:.0f} ms" if link.jitter_ms else "",
        f"loses {link.loss:.0%}" if link.loss else "",
        f"{link.rate_mbit:.1f} Mbit/s" if link.rate_mbit else "",
    ]
    return " ".join(part for part in parts if part) or "good"


async def slow_paths(cluster: ClusterUnderTest) -> str:
    """One path after the other: many packets at once would wait for each other."""
    names = [*cluster.nodes, CLIENTS]
    slow: list[str] = []
    for a, b in [(a, b) for a in names for b in names if a < b]:
        best_ms = await _best_ms(cluster, a, b)
        if best_ms >= QUICK_MS:
            slow.append(f"{a} to {b} and back takes {best_ms:.0f} ms")
    return "; ".join(slow)


async def _best_ms(cluster: ClusterUnderTest, source: str, target: str) -> float:
    best_ms = float("inf")
    for _ in range(TRIES):
        began_s = time.monotonic()
        if await cluster.network.reaches(source, target):
            best_ms = min(best_ms, (time.monotonic() - began_s) * 1e3)
        if best_ms < QUICK_MS:
            break
        await asyncio.sleep(0)
    return best_ms
