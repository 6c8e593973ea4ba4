"""Reads and writes of one entry while it is being applied.

Owns: the ordered list of changes an entry makes, and a bounded cache of heads in front of the reader.
Never: writes to the store. The shell writes `take_changes()` before the next entry is applied.
Invariants: a read sees the writes made before it; two nodes that apply the same entry to the same state
produce the same changes in the same order; the cache changes speed only.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from hypercluster.state_machine.store import Change, Family, Reader, change_of_row

CACHE_KEYS_MAX = 200_000  # per family; the oldest half is dropped when it is full
CACHE_BYTES_MAX = 128 * 1024 * 1024  # of values, all families together, between entries

# "Known to be missing" in a cache, as None would mean "not known". Its length counts like that of a value.
_ABSENT: Final = bytearray()


class Overlay:
    """A `Reader` over `reader` plus what the present entry has written."""

    __slots__ = ("_bytes", "_cache", "_changes", "_reader", "derived")

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._cache: list[dict[bytes, bytes | bytearray]] = [{} for _ in Family]
        self._changes: list[Change] = []
        self._bytes = 0  # of the values in the cache
        # Objects made from the state, by the name of their owner (Merkle trees, open workspaces). They live as long
        # as the cache does, and each can be made again from the store.
        self.derived: dict[str, object] = {}

    @property
    def reader(self) -> Reader:
        """The state as it was before the present entry."""
        return self._reader

    def get(self, family: Family, key: bytes) -> bytes | None:
        found = self._cache[family].get(key)
        if found is None:
            value = self._reader.get(family, key)
            if value is None:
                self._cache[family][key] = _ABSENT
            else:
                self._cache[family][key] = value
                self._bytes += len(value)
            return value
        return None if found is _ABSENT else found  # type: ignore[return-value]

    def put(self, family: Family, key: bytes, value: bytes) -> None:
        cache = self._cache[family]
        self._bytes += len(value) - len(cache.get(key, _ABSENT))
        cache[key] = value
        self._changes.append(change_of_row((family, key, value)))

    def put_uncached(self, family: Family, key: bytes, value: bytes) -> None:
        """For records that apply never reads back: op log, versions. The key must be new."""
        self._changes.append(change_of_row((family, key, value)))

    def record(self, changes: Iterable[Change]) -> None:
        """Changes of keys that are never read through this overlay, because their owner keeps a cache of its own."""
        self._changes.extend(changes)

    def delete(self, family: Family, key: bytes) -> None:
        cache = self._cache[family]
        self._bytes -= len(cache.get(key, _ABSENT))
        cache[key] = _ABSENT
        self._changes.append(Change(family, key, None))

    def scan(self, family: Family, start: bytes, end: bytes, *, reverse: bool = False) -> Iterator[tuple[bytes, bytes]]:
        """Merges the reader with this entry's writes. Costs a pass over the entry's changes: for rare scans."""
        mine = {key: value for changed, key, value in self._changes if changed is family and start <= key < end}
        if not mine:
            yield from self._reader.scan(family, start, end, reverse=reverse)
            return
        pending = sorted(mine, reverse=reverse)
        position = 0
        for key, value in self._reader.scan(family, start, end, reverse=reverse):
            while position < len(pending) and ((pending[position] > key) if reverse else (pending[position] < key)):
                yield from self._written(mine, pending[position])
                position += 1
            if key not in mine:
                yield key, value
        for key in pending[position:]:
            yield from self._written(mine, key)

    def written(self, family: Family) -> dict[bytes, bytes | None]:
        """What this entry has written so far in one family: the last value of each key, None where it was deleted. For
        those who look at many small ranges, where `scan` would pass over the changes for each."""
        return {key: value for changed, key, value in self._changes if changed is family}

    @staticmethod
    def _written(mine: dict[bytes, bytes | None], key: bytes) -> Iterator[tuple[bytes, bytes]]:
        value = mine[key]
        if value is not None:
            yield key, value

    def take_changes(self) -> list[Change]:
        """The changes since the last call, in the order they were made."""
        changes, self._changes = self._changes, []
        for cache in self._cache:
            if len(cache) > CACHE_KEYS_MAX:
                self._drop_older_half(cache)
        while self._bytes > CACHE_BYTES_MAX:
            for cache in self._cache:
                self._drop_older_half(cache)
        return changes

    def _drop_older_half(self, cache: dict[bytes, bytes | bytearray]) -> None:
        for key in list(cache)[: (len(cache) + 1) // 2]:
            self._bytes -= len(cache.pop(key))

    def discard(self) -> None:
        """Forgets the cache: after a checkpoint replaced the state underneath."""
        self._changes.clear()
        self._bytes = 0
        self.derived.clear()
        for cache in self._cache:
            cache.clear()
