"""Events whose chain is not there yet (HIS-3).

Owns: the bounded buffer of events that wait for one before them, and the set of events that others depend on and that
nobody sent yet. Time is passed in.
Invariants: at most HISTORY_PENDING_MAX events, HISTORY_PENDING_OF_AUTHOR_MAX of one author, none for longer than
HISTORY_PENDING_S; counting costs no pass; what is taken frees its place at once.
"""

from __future__ import annotations

from collections import OrderedDict

from hypercluster.limits import HISTORY_PENDING_MAX, HISTORY_PENDING_OF_AUTHOR_MAX, HISTORY_PENDING_S
from hypercluster.state_machine.history.events import Event

_Key = tuple[bytes, int]  # author, seq


class Pending:
    """By (author, seq), oldest first."""

    def __init__(self) -> None:
        self._waiting: OrderedDict[_Key, tuple[float, Event]] = OrderedDict()
        self._of_author: dict[bytes, int] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def of_author(self, author: bytes) -> int:
        return self._of_author.get(author, 0)

    def put(self, event: Event, now_s: float) -> bool:
        """False: there is no room for it, or one of its seq waits already."""
        self.expire(now_s)
        key = (event.author, event.seq)
        if key in self._waiting or len(self._waiting) >= HISTORY_PENDING_MAX:
            return False
        if self.of_author(event.author) >= HISTORY_PENDING_OF_AUTHOR_MAX:
            return False
        self._waiting[key] = (now_s, event)
        self._of_author[event.author] = self.of_author(event.author) + 1
        return True

    def take(self, author: bytes, seq: int) -> Event | None:
        waiting = self._waiting.pop((author, seq), None)
        if waiting is None:
            return None
        self._left(author)
        return waiting[1]

    def expire(self, now_s: float) -> int:
        """How many waited too long."""
        count = 0
        while self._waiting:
            key, (since_s, _) = next(iter(self._waiting.items()))
            if now_s - since_s < HISTORY_PENDING_S:
                break
            del self._waiting[key]
            self._left(key[0])
            count += 1
        return count

    def _left(self, author: bytes) -> None:
        count = self._of_author[author] - 1
        if count:
            self._of_author[author] = count
        else:
            del self._of_author[author]


class Missing:
    """Hashes of events that accepted ones depend on and that are not held: to be fetched in the background."""

    def __init__(self) -> None:
        self._hashes: OrderedDict[bytes, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._hashes)

    def add(self, event_hash: bytes) -> None:
        if len(self._hashes) < HISTORY_PENDING_MAX:
            self._hashes[event_hash] = None

    def found(self, event_hash: bytes) -> None:
        self._hashes.pop(event_hash, None)

    def first(self, limit: int) -> list[bytes]:
        return [event_hash for event_hash, _ in zip(self._hashes, range(limit), strict=False)]
