"""Who holds which mirror stream: learners and archive copies on a hash ring that moves slowly (QUO-5).

Owns: `Ring`, where a name belongs among given members; `MirrorRing`, where every stream is, and what moves when.
Never: reads a clock, counts a vote or knows a voter: nothing that replicates or elects looks at it.
Invariants: the same calls give the same answers in every process; a stream moves only after the members have been the
same for RING_STABLE_S, and in any span of that length at most RING_MOVES_PERCENT of the streams do (or one, where that
is less than one); what a member left behind goes before what merely belongs elsewhere. A first place is no move.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from blake3 import blake3

from hypercluster.errors import QueueFullError
from hypercluster.limits import (
    RING_MEMBERS_MAX,
    RING_MOVES_PERCENT,
    RING_POINTS,
    RING_STABLE_S,
    RING_STREAMS_MAX,
)

STABLE_NS: Final = RING_STABLE_S * 1_000_000_000


def _point(kind: bytes, name: str, number: int = 0) -> int:
    encoded = name.encode()
    return int.from_bytes(blake3(b"%s %d %d " % (kind, number, len(encoded)) + encoded).digest(8), "big")


class Ring:
    """Consistent hashing (Karger et al., 1997): a member that comes or goes moves no stream between the others."""

    def __init__(self, members: Iterable[str]) -> None:
        self.members = tuple(sorted(set(members)))
        if len(self.members) > RING_MEMBERS_MAX:
            raise QueueFullError(f"members: {len(self.members)}, limit RING_MEMBERS_MAX {RING_MEMBERS_MAX}")
        points = sorted((_point(b"member", name, n), name) for name in self.members for n in range(RING_POINTS))
        self._places = [place for place, _ in points]
        self._names = [name for _, name in points]

    def owner(self, stream: str) -> str | None:
        """None only without members."""
        if not self._names:
            return None
        return self._names[bisect_right(self._places, _point(b"stream", stream)) % len(self._names)]


@dataclass(frozen=True, slots=True)
class Move:
    stream: str
    source: str
    target: str


class MirrorRing:
    """Where the streams are. `now_ns` of the calls must not fall."""

    def __init__(self) -> None:
        self._ring = Ring(())
        self._changed_ns = 0
        self._moved_ns: int | None = None
        self._holders: dict[str, str] = {}
        self._owners: dict[str, str] = {}  # by the present ring; beside the holders what is still to be moved
        self._nowhere: dict[str, None] = {}  # streams that came while there was no member, in that order

    def __len__(self) -> int:
        return len(self._holders) + len(self._nowhere)

    @property
    def members(self) -> tuple[str, ...]:
        return self._ring.members

    def holder(self, stream: str) -> str | None:
        """The last one, also after it left, until the stream is moved. None: not placed, or not known."""
        return self._holders.get(stream)

    def set_members(self, now_ns: int, members: Iterable[str]) -> None:
        """Moves nothing; another set than before begins the wait anew. Raises QueueFullError."""
        ring = Ring(members)
        if ring.members == self._ring.members:
            return
        self._ring, self._changed_ns = ring, now_ns
        nowhere, self._nowhere = self._nowhere, {}
        for stream in nowhere:
            self._place(stream)
        self._owners = {stream: ring.owner(stream) or "" for stream in self._holders}

    def add(self, stream: str) -> str | None:
        """Its place: at once, wherever the ring says. Raises QueueFullError."""
        if stream not in self._holders and stream not in self._nowhere:
            if len(self) >= RING_STREAMS_MAX:
                raise QueueFullError(f"streams: {len(self)}, limit RING_STREAMS_MAX")
            self._place(stream)
        return self._holders.get(stream)

    def remove(self, stream: str) -> None:
        self._holders.pop(stream, None)
        self._owners.pop(stream, None)
        self._nowhere.pop(stream, None)

    def _place(self, stream: str) -> None:
        owner = self._ring.owner(stream)
        if owner is None:
            self._nowhere[stream] = None
        else:
            self._holders[stream] = self._owners[stream] = owner

    def next_deadline_ns(self) -> int | None:
        """When something may move; None when everything is where it belongs."""
        if not self._ring.members or all(self._owners[s] == holder for s, holder in self._holders.items()):
            return None
        return max(self._changed_ns, self._changed_ns if self._moved_ns is None else self._moved_ns) + STABLE_NS

    def advance(self, now_ns: int) -> list[Move]:
        """What moves now; it counts as done."""
        due_ns = self.next_deadline_ns()
        if due_ns is None or now_ns < due_ns:
            return []
        members = set(self._ring.members)
        wrong = [stream for stream, holder in self._holders.items() if self._owners[stream] != holder]
        wrong.sort(key=lambda stream: (self._holders[stream] in members, _point(b"stream", stream), stream))
        moves = [
            Move(stream, self._holders[stream], self._owners[stream])
            for stream in wrong[: max(1, len(self._holders) * RING_MOVES_PERCENT // 100)]
        ]
        for move in moves:
            self._holders[move.stream] = move.target
        self._moved_ns = now_ns
        return moves
