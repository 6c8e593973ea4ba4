"""The items one side has, sorted and sealed for a session (NEG-2, NEG-5).

Owns: the order (timestamp, id), lookups by bound, and fingerprints of any range: the first 16 bytes of SHA-256 over the
sum of the ids modulo 2^256, little endian, and the count as a varint (NEG-1). Sums up to each block of ids are kept,
so that a fingerprint costs two sums of at most a block, however many items it covers.
Never: changes once it is made, so what an answer was computed from is what the next one is.
Invariants: strictly ascending; 40 bytes an item and 1 more for sums.
"""

from __future__ import annotations

import hashlib
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from typing import Final

from hypercluster.errors import MalformedError
from hypercluster.history_sync.negentropy.wire import FINGERPRINT_BYTES, ID_BYTES, INFINITY, Bound, encode_varint

_BLOCK: Final = 32  # ids
_MODULUS_MASK: Final = (1 << 256) - 1


class SealedItems:
    """`items`: (timestamp, id) in any order. Raises MalformedError for a duplicate, a bad id or timestamp."""

    def __init__(self, items: Iterable[tuple[int, bytes]]) -> None:
        ordered = sorted(items)
        for timestamp, item_id in ordered:
            if len(item_id) != ID_BYTES:
                raise MalformedError(f"an item's id has {len(item_id)} bytes, must have {ID_BYTES}")
            if not 0 <= timestamp < INFINITY:
                raise MalformedError(f"an item's timestamp is {timestamp}, must be 0 to {INFINITY - 1}")
        for place in range(1, len(ordered)):
            if ordered[place] == ordered[place - 1]:
                raise MalformedError(f"the item {ordered[place][0]}, {ordered[place][1].hex()} is there twice")
        self._timestamps = array("Q", [timestamp for timestamp, _ in ordered])
        self._ids = b"".join([item_id for _, item_id in ordered])
        self._sums: list[int] = [0]  # of all ids before each block
        for start in range(0, len(ordered) - _BLOCK + 1, _BLOCK):
            self._sums.append(self._sums[-1] + self._sum(start, start + _BLOCK) & _MODULUS_MASK)

    def __len__(self) -> int:
        return len(self._timestamps)

    def timestamp(self, place: int) -> int:
        return self._timestamps[place]

    def item_id(self, place: int) -> bytes:
        return self._ids[place * ID_BYTES : (place + 1) * ID_BYTES]

    def ids(self, start: int, end: int) -> bytes:
        """One behind the other."""
        return self._ids[start * ID_BYTES : end * ID_BYTES]

    def find(self, bound: Bound, start: int) -> int:
        """How many items, from `start` on, lie below `bound`, counted from 0."""
        first = bisect_left(self._timestamps, bound.timestamp, start)
        if not bound.prefix:
            return first
        last = bisect_right(self._timestamps, bound.timestamp, first)
        return bisect_left(range(len(self)), bound.prefix, first, last, key=self.item_id)

    def fingerprint(self, start: int, end: int) -> bytes:
        total = (self._before(end) - self._before(start)) & _MODULUS_MASK
        return hashlib.sha256(total.to_bytes(32, "little") + encode_varint(end - start)).digest()[:FINGERPRINT_BYTES]

    def _before(self, place: int) -> int:
        block = place // _BLOCK
        return self._sums[block] + self._sum(block * _BLOCK, place)

    def _sum(self, start: int, end: int) -> int:
        ids = self._ids
        total = 0
        for position in range(start * ID_BYTES, end * ID_BYTES, ID_BYTES):
            total += int.from_bytes(ids[position : position + ID_BYTES], "little")
        return total
