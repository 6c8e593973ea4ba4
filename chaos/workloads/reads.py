"""Readers: the keys that registers write, read at all levels from all nodes by clients that write nothing (CL-10).

Owns: the choice of keys: those that were written last, found by listing.
Never: writes. The listing is no part of the history.
"""

from __future__ import annotations

import random
import time

from chaos.workloads.hub_reads import NAMESPACE, read_key
from chaos.workloads.logical import LogicalClient
from chaos.workloads.operations import Bench, Operation
from chaos.workloads.pace import Deck
from chaos.workloads.plan import setting
from hypercluster.errors import HyperClusterError
from hypercluster.values import ReadLevel

CARDS = {"linearizable": 3, "leader_local": 2, "bounded_stale": 5}
LOOK_S = 1.0


class Reads:
    """The setting `prefix` names the keys; it defaults to those of all registers."""

    def __init__(self) -> None:
        self._keys: list[str] = []
        self._look_s = 0.0

    async def prepare(self, bench: Bench) -> None:
        self._rng = random.Random(bench.rng.getrandbits(64))
        self._deck = Deck(CARDS, self._rng)
        self._prefix = str(bench.plan.settings.get("prefix", "r")).encode()
        self._count = setting(bench.plan, "keys", 4, 1, 100)

    async def draw(self, who: LogicalClient, turn: int) -> Operation | None:
        if time.monotonic() >= self._look_s:
            self._look_s = time.monotonic() + LOOK_S
            await self._look(who)
        if not self._keys:
            return None
        level = self._deck.draw()
        again = level == "bounded_stale" and self._rng.random() < 0.5
        key = self._keys[turn % len(self._keys)]
        return read_key(key, level, who.seen_index if again else 0)

    async def _look(self, who: LogicalClient) -> None:
        """Any node's word is good enough to choose by."""
        try:
            listing = who.client.hub.list(NAMESPACE, self._prefix, level=ReadLevel.BOUNDED_STALE)
            found = [(value.version, value.key.decode()) async for value in listing]
        except HyperClusterError:
            return
        self._keys = [key for _, key in sorted(found)[-self._count :]]
