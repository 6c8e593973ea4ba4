"""How many bytes of old versions are kept, and where the floor must be for them to fit (D-18).

Owns: how much was written at which index, sampled; nothing is read for it.
Never: a clock, a proposal, or a look at the state: what RocksDB says of a family's size falls only when it has
compacted what was removed, so a floor that followed it would run away.
Invariants: what is kept above a floor is never taken for less than it is; what was there when the directory was opened,
or came with a checkpoint, is one block that goes as a whole; SAMPLES_MAX samples are kept, at growing distances.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import Final, NamedTuple

from hypercluster.values import Index

SAMPLES_MAX: Final = 2_048
KEPT_PERCENT: Final = 75  # of the budget, after the floor was moved for it: so it moves seldom


class VersionsSize(NamedTuple):
    """Bytes of versions: in the directory when it was opened, and written to it since."""

    stored_bytes: int
    written_bytes: int


class VersionsBudget:
    """Of one node; a leader proposes by its own."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._stored_bytes = 0
        self._indexes: list[int] = []
        self._written: list[int] = []  # by then

    def note(self, index: Index, size: VersionsSize) -> None:
        """The state is at `index`. Less written than before means another directory."""
        if not self._indexes or index < self._indexes[-1] or size.written_bytes < self._written[-1]:
            self._stored_bytes = size.stored_bytes + size.written_bytes
            self._indexes, self._written = [index], [size.written_bytes]
        elif index > self._indexes[-1]:
            self._indexes.append(index)
            self._written.append(size.written_bytes)
            if len(self._indexes) > SAMPLES_MAX:
                del self._indexes[1:-1:2], self._written[1:-1:2]

    def kept_bytes(self, floor: int) -> int:
        """Of the versions written above the floor, at most."""
        if not self._indexes:
            return 0
        place = bisect_right(self._indexes, floor) - 1
        if place < 0:
            return self._stored_bytes + self._written[-1] - self._written[0]
        return self._written[-1] - self._written[place]

    def floor(self, present: int) -> int:
        """Where the floor must be; the present one where it may stay."""
        if self.kept_bytes(present) <= self._bytes_max:
            return present
        gone = self._written[-1] - self._bytes_max * KEPT_PERCENT // 100
        return max(present, self._indexes[min(bisect_left(self._written, gone), len(self._indexes) - 1)])
