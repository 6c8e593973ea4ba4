"""What must be durable before a flush of the state starts, when that is more than one thing (CL-8, WS-54).

Owns: `Barriers`, several of them as one. Never: knows what they hold.
Invariants: it is synced when each of them is, and a sync ends when each has ended its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from hypercluster.storage.rocks import ChunkBarrier


class Barriers:
    """`storage.rocks.ChunkBarrier` over several."""

    def __init__(self, parts: Sequence[ChunkBarrier]) -> None:
        self._parts = tuple(parts)

    def synced(self) -> bool:
        return all(part.synced() for part in self._parts)

    def start_sync(self, done: Callable[[BaseException | None], None]) -> None:
        """One after the other: they share a disk."""
        self._start(0, done)

    def _start(self, place: int, done: Callable[[BaseException | None], None]) -> None:
        while place < len(self._parts) and self._parts[place].synced():
            place += 1
        if place == len(self._parts):
            done(None)
            return

        def ended(error: BaseException | None) -> None:
            if error is not None:
                done(error)
            else:
                self._start(place + 1, done)

        self._parts[place].start_sync(ended)

    def sync(self) -> None:
        for part in self._parts:
            part.sync()
