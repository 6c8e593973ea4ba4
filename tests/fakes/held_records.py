"""Records held as they are, over any reader: what `RocksStore.hold` gives, for states in memory."""

from __future__ import annotations

from itertools import islice

from hypercluster.errors import TurnedAwayError
from hypercluster.state_machine.store import Family, Reader


class HeldScan:
    def __init__(self, reader: Reader, family: Family, start: bytes, end: bytes) -> None:
        self._pairs = iter(list(reader.scan(family, start, end)))
        self.ended = False

    def take(self, count_max: int) -> list[tuple[bytes, bytes]]:
        if self.ended:
            raise TurnedAwayError("the state was closed or replaced while it was being read; ask again")
        return list(islice(self._pairs, count_max))

    def end(self) -> None:
        self.ended = True
