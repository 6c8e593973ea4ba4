"""Registers: a few hot hub keys that everybody writes, compares-and-sets and reads.

Owns: the keys and when they are left for new ones, so that the history of one key stays small enough to be checked
and its versions are all kept.
Invariants: every number is written once at most in a process; an acknowledged version is what the next
compare-and-set expects, or an older one, so that some are refused.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from chaos.workloads.hub_reads import NAMESPACE, free_epoch, read_key
from chaos.workloads.logical import LogicalClient
from chaos.workloads.operations import Answer, Bench, Operation
from chaos.workloads.pace import Deck
from chaos.workloads.plan import setting, tag_of
from hypercluster.client.hub import HubWritten
from hypercluster.errors import RefusedError

CARDS = {
    ("write", ""): 12,
    ("cas", ""): 10,
    ("read", "linearizable"): 16,
    ("read", "leader_local"): 3,
    ("read", "bounded_stale"): 5,
}
TOGETHER = 0.7  # share of operations on the key of the turn, which all workers of the turn share


@dataclass(slots=True)
class Key:
    """One hot key, until it has seen enough."""

    name: str
    ops: int = 0
    changes: int = 0
    version: int = 0  # the newest that an answer named


class Register:
    def __init__(self) -> None:
        self._values = itertools.count(1)

    async def prepare(self, bench: Bench) -> None:
        plan = bench.plan
        self._rng = random.Random(bench.rng.getrandbits(64))
        self._deck = Deck(CARDS, self._rng)
        self._prefix = f"r{tag_of(plan.seed)}."
        self._ops_max = setting(plan, "ops_per_key", 300, 1, 100_000)
        self._changes_max = setting(plan, "changes_per_key", 90, 1, 100_000)  # a node lists 100 versions of a key
        count = setting(plan, "keys", 4, 1, 100)
        self._epoch = 0

        async def begin(who: LogicalClient) -> None:
            self._epoch = await free_epoch(who, self._prefix)

        await bench.until_done(begin)
        self._keys = [self._new_key(number) for number in range(count)]

    def _new_key(self, number: int) -> Key:
        made = Key(f"{self._prefix}{self._epoch}-{number}")
        self._epoch += 1
        return made

    def _key(self, turn: int) -> Key:
        together = self._rng.random() < TOGETHER
        number = turn % len(self._keys) if together else self._rng.randrange(len(self._keys))
        key = self._keys[number]
        if key.ops >= self._ops_max or key.changes >= self._changes_max:
            key = self._keys[number] = self._new_key(number)
        key.ops += 1
        return key

    async def draw(self, who: LogicalClient, turn: int) -> Operation | None:
        op, level = self._deck.draw()
        key = self._key(turn)
        if op == "read":
            own = level == "bounded_stale" and self._rng.random() < 0.5
            return _noting(key, read_key(key.name, level, who.seen_index if own else 0))
        key.changes += 1
        value = next(self._values)
        if op == "write":
            return Operation("write", key.name, _set(key, value, None), value)
        return Operation("cas", key.name, _set(key, value, key.version), [key.version, value])


def _set(key: Key, value: int, expected: int | None) -> Callable[[LogicalClient], Awaitable[Answer]]:
    async def run(who: LogicalClient) -> Answer:
        payload = b"%d" % value
        try:
            written: HubWritten = await who.client.hub.set(
                NAMESPACE, key.name.encode(), payload, expected_version=expected
            )
        except RefusedError as refused:
            key.version = max(key.version, refused.version)
            raise
        key.version = max(key.version, written.version)
        shown = value if expected is None else [expected, value]
        return Answer(shown, {"version": written.version, "raft_index": written.raft_index})

    return run


def _noting(key: Key, operation: Operation) -> Operation:
    """The same read; the version it finds is what the next compare-and-set expects."""

    async def run(who: LogicalClient) -> Answer:
        answer = await operation.run(who)
        key.version = max(key.version, answer.extra["version"])
        return answer

    return Operation(operation.op, operation.key, run, level=operation.level, extra=operation.extra)
