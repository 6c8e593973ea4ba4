"""Chunks that were found to be nobody's, until their bytes may go (WS-54).

Owns: their hashes, by the look that found them, and which of them came back since.
Never: decides when bytes may go, or knows the chunk store.
Invariants: what came back after it was found is never given out again; a chunk takes HASH_BYTES of memory here and not
an object, because as many wait as a node makes in the time of two checkpoints, which is millions where logs grow line
by line. A filter of fixed size knows all that wait, and takes a few others for them: such a one is only remembered as
come back without need. Where more come back than are remembered, all is forgotten: it is found anew.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from hypercluster.values import ChunkHash, Index

HASH_BYTES: Final = 32
WAITING_MAX: Final = 2_000_000
RETURNED_MAX: Final = 100_000
_FILTER_BITS: Final = 1 << 26
_FILTER_PLACES: Final = (0, 4, 8)  # where in a hash, which is random, its three bits are read


@dataclass(slots=True)
class _Found:
    """What one look found: the state was at `index`."""

    index: Index
    found_s: float
    hashes: bytes
    taken: int = 0  # bytes of `hashes` that were given out


class WaitingChunks:
    """`count_max` is chosen smaller by tests only."""

    def __init__(self, count_max: int = WAITING_MAX) -> None:
        self._count_max = count_max
        self._looks: deque[_Found] = deque()
        self._count = 0
        self._returned: set[bytes] = set()
        self._filter = bytearray()  # made with the first that waits

    def __len__(self) -> int:
        return self._count

    @property
    def room(self) -> int:
        return self._count_max - self._count

    def add(self, index: Index, now_s: float, hashes: Sequence[bytes]) -> None:
        """Found nobody's in one look, at a moment at which the state was at `index`. None of them waits already."""
        if not hashes:
            return
        self._filter = self._filter or bytearray(_FILTER_BITS // 8)
        for chunk_hash in hashes:
            for place in _places(chunk_hash):
                self._filter[place >> 3] |= 1 << (place & 7)
        self._looks.append(_Found(index, now_s, b"".join(hashes)))
        self._count += len(hashes)

    def came_back(self, chunk_hash: bytes) -> None:
        """Somebody has it again: what was found of it does not hold."""
        if not self._count or not all(self._filter[place >> 3] >> (place & 7) & 1 for place in _places(chunk_hash)):
            return
        self._returned.add(chunk_hash)
        if len(self._returned) > RETURNED_MAX:
            self.clear()

    def take(self, count_max: int, may_go: Callable[[Index, float], bool]) -> list[ChunkHash]:
        """The longest known, as far as `may_go` says so of the index and the moment they were found at."""
        taken: list[ChunkHash] = []
        left = count_max
        while left and self._looks and may_go(self._looks[0].index, self._looks[0].found_s):
            look = self._looks[0]
            end = min(look.taken + left * HASH_BYTES, len(look.hashes))
            for at in range(look.taken, end, HASH_BYTES):
                chunk_hash = look.hashes[at : at + HASH_BYTES]
                if chunk_hash in self._returned:
                    self._returned.remove(chunk_hash)
                else:
                    taken.append(ChunkHash(chunk_hash))
            count = (end - look.taken) // HASH_BYTES
            look.taken = end
            left -= count
            self._count -= count
            if end == len(look.hashes):
                self._looks.popleft()
        if not self._count:
            self.clear()
        return taken

    def clear(self) -> None:
        self._looks.clear()
        self._returned.clear()
        self._count = 0
        self._filter = bytearray()


def _places(chunk_hash: bytes) -> list[int]:
    return [int.from_bytes(chunk_hash[at : at + 4], "big") % _FILTER_BITS for at in _FILTER_PLACES]
