"""A set: numbers that are added once each, as hub keys that must not exist yet, and listed all at once.

Owns: the epochs, each small enough that its listing is one page, and so one moment.
Invariants: a number is asked for once in a process; whoever is told PRECONDITION_FAILED by an add has met it there.
"""

from __future__ import annotations

import itertools
import random

from chaos.workloads.hub_reads import NAMESPACE, free_epoch
from chaos.workloads.logical import LogicalClient
from chaos.workloads.operations import Answer, Bench, Operation
from chaos.workloads.pace import Deck
from chaos.workloads.plan import WORKERS_MAX, setting, tag_of
from hypercluster.client.hub import LIST_PAGE

ADDS_MAX = LIST_PAGE - WORKERS_MAX
CARDS = {"add": 5, "read_all": 1}
LOOK_BACK = 0.2  # share of listings of the epoch before: late additions would show there


class UniqueSet:
    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self._adds = 0

    async def prepare(self, bench: Bench) -> None:
        self._rng = random.Random(bench.rng.getrandbits(64))
        self._deck = Deck(CARDS, self._rng)
        self._prefix = f"s{tag_of(bench.plan.seed)}."
        self._adds_max = setting(bench.plan, "adds_per_epoch", 300, 1, ADDS_MAX)

        async def begin(who: LogicalClient) -> None:
            self._epoch = self._first = await free_epoch(who, self._prefix)

        await bench.until_done(begin)

    async def draw(self, who: LogicalClient, turn: int) -> Operation | None:
        if self._deck.draw() == "read_all":
            back = 1 if self._epoch > self._first and self._rng.random() < LOOK_BACK else 0
            return self._read_all(f"{self._prefix}{self._epoch - back}")
        if self._adds >= self._adds_max:
            self._epoch, self._adds = self._epoch + 1, 0
        self._adds += 1
        return self._add(f"{self._prefix}{self._epoch}", next(self._numbers))

    def _add(self, key: str, number: int) -> Operation:
        async def run(who: LogicalClient) -> Answer:
            written = await who.client.hub.set(
                NAMESPACE, f"{key}-{number}".encode(), b"%d" % number, expected_version=0
            )
            return Answer(number, {"version": written.version, "raft_index": written.raft_index})

        return Operation("add", key, run, number)

    def _read_all(self, key: str) -> Operation:
        async def run(who: LogicalClient) -> Answer:
            found = [value async for value in who.client.hub.list(NAMESPACE, f"{key}-".encode())]
            extra = {"raft_index": found[0].raft_index, "node": found[0].node_id} if found else {}
            return Answer(sorted(int(value.payload) for value in found), extra)

        return Operation("read_all", key, run, level="linearizable")
