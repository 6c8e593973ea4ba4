"""Locks on ranges of bytes, of files that are one host's alone (WS-56).

Owns: `RangeLocks`: who has which range of which file, by the rules of fcntl(2); an owner's new lock replaces, splits
and joins what it had. A flock is the whole range, in a table of its own.
Never: waits, or knows files and processes: both are keys.
Invariants: no byte has an exclusive lock and another owner's lock; an owner's ranges do not overlap, and those of one
kind that touch are one.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Final

END: Final = 1 << 63  # behind the last byte a file can have


@dataclass(frozen=True, slots=True)
class Range:
    """Bytes from `start` up to, and without, `end`."""

    owner: int
    start: int
    end: int
    exclusive: bool
    pid: int

    def overlaps(self, start: int, end: int) -> bool:
        return self.start < end and start < self.end


class RangeLocks:
    """One thread at a time."""

    def __init__(self) -> None:
        self._ranges: dict[Hashable, list[Range]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._ranges.values()))

    def of(self, file: Hashable) -> list[Range]:
        return list(self._ranges.get(file, ()))

    def blocker(self, file: Hashable, wish: Range) -> Range | None:
        """What another owner has that does not go together with `wish`."""
        for held in self._ranges.get(file, ()):
            if held.owner != wish.owner and held.overlaps(wish.start, wish.end) and (held.exclusive or wish.exclusive):
                return held
        return None

    def take(self, file: Hashable, wish: Range) -> bool:
        """False, and nothing is done, if something is in the way."""
        if self.blocker(file, wish) is not None:
            return False
        self.free(file, wish.owner, wish.start, wish.end)
        start, end = wish.start, wish.end
        kept: list[Range] = []
        for held in self._ranges.get(file, ()):
            touches = held.start <= end and start <= held.end
            if held.owner == wish.owner and held.exclusive == wish.exclusive and touches:
                start, end = min(start, held.start), max(end, held.end)
            else:
                kept.append(held)
        self._ranges[file] = [*kept, Range(wish.owner, start, end, wish.exclusive, wish.pid)]
        return True

    def free(self, file: Hashable, owner: int, start: int = 0, end: int = END) -> bool:
        """True if the owner had something there."""
        kept: list[Range] = []
        had = False
        for held in self._ranges.get(file, ()):
            if held.owner != owner or not held.overlaps(start, end):
                kept.append(held)
                continue
            had = True
            if held.start < start:
                kept.append(Range(owner, held.start, start, held.exclusive, held.pid))
            if end < held.end:
                kept.append(Range(owner, end, held.end, held.exclusive, held.pid))
        if kept:
            self._ranges[file] = kept
        else:
            self._ranges.pop(file, None)
        return had
