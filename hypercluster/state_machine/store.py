"""What the state machine needs of a place to keep bytes.

Owns: `Family`, the `Store` protocol, `Change`, and `MemoryStore`. The core reads through `Store` and
never writes to it: `Machine.apply` returns ordered changes, and the shell writes them together with
the applied index in one atomic batch (CL-7).
Keys are bytes whose byte order is the logical order (see keys.py). Iteration order is byte order,
on every implementation; the contract tests in tests/contracts/test_store.py run over each of them.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from enum import IntEnum
from functools import partial
from itertools import repeat
from typing import NamedTuple, Protocol


class Family(IntEnum):
    """Column families. The numbers are on disk and in digests: never reuse one."""

    META = 0  # applied index, digest, floors, counters
    HUB = 1  # head values of hub namespaces
    OPLOG = 2  # hub and workspace operation logs; keys begin with b"H" for scopes, with b"W", b"B", b"F" for workspaces
    TREE = 3  # workspace inodes, directory entries, extents, xattrs
    CHUNKS = 4  # presence and accounting of chunks (bytes live in the chunk store)
    LANES = 5  # client lanes and stored results (D-7)
    VERSIONS = 6  # what objects held before, by Raft index and ordinal (D-18)
    MERKLE = 7  # Merkle pages of workspaces
    COORDINATION = 8  # locks, open leases, reservations, settings of workspaces; never part of a root


class Change(NamedTuple):
    """One key change. `value` None deletes."""

    family: Family
    key: bytes
    value: bytes | None


change_of_row = partial(tuple.__new__, Change)  # without a call of Python code for each: half of the time


class Reader(Protocol):
    """Reads of one consistent state."""

    def get(self, family: Family, key: bytes) -> bytes | None: ...

    def scan(self, family: Family, start: bytes, end: bytes, *, reverse: bool = False) -> Iterator[tuple[bytes, bytes]]:
        """Pairs with start <= key < end, in byte order (or its reverse). Safe against writes made meanwhile:
        each implementation iterates over the state as it was at the call."""


class Store(Reader, Protocol):
    """A reader that can also be changed, atomically, a list of changes at a time (last one of a key wins)."""

    def write(self, changes: Iterable[Change]) -> None: ...


class MemoryStore:
    """In-memory `Store` for tests, the simulation and small tools. Its keys are sorted when somebody asks for them in
    order, because writes are many and scans are few."""

    def __init__(self) -> None:
        self._values: list[dict[bytes, bytes]] = [{} for _ in Family]
        self._sorted: list[list[bytes] | None] = [None for _ in Family]  # None: the keys changed since

    def get(self, family: Family, key: bytes) -> bytes | None:
        return self._values[family].get(key)

    def _keys(self, family: Family) -> list[bytes]:
        keys = self._sorted[family]
        if keys is None:
            keys = self._sorted[family] = sorted(self._values[family])
        return keys

    def scan(self, family: Family, start: bytes, end: bytes, *, reverse: bool = False) -> Iterator[tuple[bytes, bytes]]:
        keys, values = self._keys(family), self._values[family]
        found = keys[bisect_left(keys, start) : bisect_left(keys, end)]
        pairs = [(k, values[k]) for k in found]
        return iter(reversed(pairs)) if reverse else iter(pairs)

    def write(self, changes: Iterable[Change]) -> None:
        every, sorted_keys = self._values, self._sorted
        for family, key, value in changes:
            values = every[family]
            if value is None:
                if values.pop(key, None) is not None:
                    sorted_keys[family] = None
            else:
                if key not in values:
                    sorted_keys[family] = None
                values[key] = value

    def items(self) -> Iterator[Change]:
        """Everything, by family and key: for checkpoints and comparisons."""
        for family in Family:
            keys = self._keys(family)
            rows = zip(repeat(family), keys, map(self._values[family].__getitem__, keys))
            yield from map(change_of_row, rows)

    def copy(self) -> MemoryStore:
        made = MemoryStore()
        made._values = [values.copy() for values in self._values]
        return made

    def same_pairs(self, other: MemoryStore) -> bool:
        return self._values == other._values
