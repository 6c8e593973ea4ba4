"""A counter: one hub key that everybody counts up, by reading it and putting the next number in its place.

Owns: the epochs, each with a key whose versions are all kept.
Invariants: an increment that fails was refused in every attempt, or never sent: it certainly did not count.
"""

from __future__ import annotations

import asyncio
import random

from chaos.workloads.hub_reads import NAMESPACE, free_epoch, number_in, read_key
from chaos.workloads.logical import LogicalClient, NotDoneError
from chaos.workloads.operations import Answer, Bench, Operation
from chaos.workloads.pace import Deck
from chaos.workloads.plan import setting, tag_of
from hypercluster.errors import RefusedError

CARDS = {"increment": 3, "read": 1}
ATTEMPTS_MAX = 12
APART_S = 0.004  # the first attempts of rivals; more with each


class Counter:
    def __init__(self) -> None:
        self._asked = 0

    async def prepare(self, bench: Bench) -> None:
        self._rng = random.Random(bench.rng.getrandbits(64))
        self._deck = Deck(CARDS, self._rng)
        self._prefix = f"c{tag_of(bench.plan.seed)}."
        self._increments_max = setting(bench.plan, "increments_per_key", 90, 1, 100_000)

        async def begin(who: LogicalClient) -> None:
            self._epoch = await free_epoch(who, self._prefix)

        await bench.until_done(begin)

    async def draw(self, who: LogicalClient, turn: int) -> Operation | None:
        if self._deck.draw() == "read":
            return read_key(f"{self._prefix}{self._epoch}", "linearizable")
        if self._asked >= self._increments_max:
            self._epoch, self._asked = self._epoch + 1, 0
        self._asked += 1
        return self._increment(f"{self._prefix}{self._epoch}")

    def _increment(self, key: str) -> Operation:
        async def run(who: LogicalClient) -> Answer:
            for attempt in range(ATTEMPTS_MAX):
                found = await who.client.hub.get(NAMESPACE, key.encode())
                number = (number_in(found) or 0) + 1
                try:
                    written = await who.client.hub.set(
                        NAMESPACE, key.encode(), b"%d" % number, expected_version=found.version
                    )
                except RefusedError as refused:
                    if refused.reason != "PRECONDITION_FAILED":
                        raise
                    await asyncio.sleep(self._rng.random() * APART_S * (attempt + 1))
                    continue
                return Answer(number, {"version": written.version, "raft_index": written.raft_index})
            raise NotDoneError("CONTENDED")

        return Operation("increment", key, run)
