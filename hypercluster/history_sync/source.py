"""What the protocol needs of a place that holds histories of one scope, and one that lives in memory.

Owns: the protocols `HistorySource` and `HistoryStore`, and `MemoryHistory`, the store of tests and of small tools. A
node reads its replicated state through the first, a worker and an outbox keep the second on disk.
Never: signatures; what is put in was checked by whoever took it in.
Invariants: authors come in byte order, an author's events by seq; a store takes an event only when the chain's rule
accepts it (state_machine/history/chain.py), and a frozen chain takes nothing more.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple, Protocol

from hypercluster.state_machine.history.chain import NO_HEAD, Head, Verdict, judge
from hypercluster.state_machine.history.events import Event


class Base(NamedTuple):
    """Events up to `seq` are compacted away; `hash` is that of the last of them."""

    seq: int
    hash: bytes


class ForkProof(NamedTuple):
    """Two events that one author signed for one seq."""

    held: Event
    other: Event


class HistorySource(Protocol):
    """Reads of one scope."""

    def authors(self, first: bytes, end: bytes, limit: int) -> Sequence[bytes]:
        """At most `limit` authors from `first` on and below `end` (no bound where it is empty), ascending."""

    def head(self, author: bytes) -> Head:
        """NO_HEAD where nothing is held."""

    def base(self, author: bytes) -> Base: ...

    def event(self, author: bytes, seq: int) -> Event | None: ...

    def events(self, author: bytes, after_seq: int) -> Iterator[Event]:
        """Ascending by seq, from after_seq + 1 on; nothing when that is below the base."""


class HistoryStore(HistorySource, Protocol):
    """A source that takes events in."""

    def insert(self, event: Event) -> Verdict:
        """Judges by the chain's rule and keeps what is accepted. A fork is kept as proof and freezes the chain."""

    def fork(self, author: bytes) -> ForkProof | None:
        """Why the author's chain is frozen."""

    def place(self, event_hash: bytes) -> tuple[bytes, int] | None:
        """Author and seq of an event that is held."""


@dataclass(slots=True)
class _Chain:
    base: Base
    events: list[Event] = field(default_factory=list)
    proof: ForkProof | None = None


class MemoryHistory:
    """`HistoryStore` in memory."""

    def __init__(self) -> None:
        self._chains: dict[bytes, _Chain] = {}
        self._authors: list[bytes] = []
        self._places: dict[bytes, tuple[bytes, int]] = {}

    def authors(self, first: bytes, end: bytes, limit: int) -> Sequence[bytes]:
        start = bisect_left(self._authors, first)
        stop = bisect_left(self._authors, end) if end else len(self._authors)
        return self._authors[start : min(stop, start + limit)]

    def head(self, author: bytes) -> Head:
        chain = self._chains.get(author)
        if chain is None:
            return NO_HEAD
        return Head(chain.events[-1].seq, chain.events[-1].hash) if chain.events else Head(*chain.base)

    def base(self, author: bytes) -> Base:
        chain = self._chains.get(author)
        return Base(*NO_HEAD) if chain is None else chain.base

    def event(self, author: bytes, seq: int) -> Event | None:
        chain = self._chains.get(author)
        if chain is None or not chain.base.seq < seq <= chain.base.seq + len(chain.events):
            return None
        return chain.events[seq - chain.base.seq - 1]

    def events(self, author: bytes, after_seq: int) -> Iterator[Event]:
        chain = self._chains.get(author)
        if chain is not None and after_seq >= chain.base.seq:
            yield from chain.events[after_seq - chain.base.seq :]

    def place(self, event_hash: bytes) -> tuple[bytes, int] | None:
        return self._places.get(event_hash)

    def fork(self, author: bytes) -> ForkProof | None:
        chain = self._chains.get(author)
        return None if chain is None else chain.proof

    def insert(self, event: Event) -> Verdict:
        chain = self._chains.get(event.author)
        verdict = judge(self.head(event.author), event, partial(self._held_hash, event.author))
        if verdict in (Verdict.FORKED, Verdict.DUPLICATE_GENESIS):
            held = self.event(event.author, event.seq)
            if chain is not None and chain.proof is None and held is not None:
                chain.proof = ForkProof(held, event)
            return verdict
        if verdict is not Verdict.ACCEPTED:
            return verdict
        if chain is None:
            chain = self._chains[event.author] = _Chain(Base(*NO_HEAD))
            insort(self._authors, event.author)
        elif chain.proof is not None:
            return Verdict.FROZEN
        chain.events.append(event)
        self._places[event.hash] = (event.author, event.seq)
        return verdict

    def compact(self, author: bytes, base_seq: int) -> None:
        """Forgets the author's events up to `base_seq`; the head stays known."""
        chain = self._chains[author]
        count = min(base_seq - chain.base.seq, len(chain.events))
        if count <= 0:
            return
        for event in chain.events[:count]:
            del self._places[event.hash]
        last = chain.events[count - 1]
        chain.base = Base(last.seq, last.hash)
        del chain.events[:count]

    def _held_hash(self, author: bytes, seq: int) -> bytes | None:
        event = self.event(author, seq)
        return None if event is None else event.hash
