"""What two peers have of each author, and what follows from it (HIS-4).

Owns: the comparison of an author's heads, and the digest over a list of heads.
Invariants: a fork is found also below a higher seq: the side that is ahead looks up its own event at the other's seq
before it sends anything; where that event is compacted away, nothing can be said and nothing is sent (HIS-10).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from enum import Enum
from typing import NamedTuple

from hypercluster.history_sync.source import HistorySource
from hypercluster.state_machine.history.chain import Head


class Relation(Enum):
    """Of this side to the other."""

    SYNCED = "synced"
    AHEAD = "ahead"
    BEHIND = "behind"
    FORKED = "forked"
    COMPACTED = "compacted"  # ahead, without the events the other lacks


class AuthorHead(NamedTuple):
    """An author's last event, as a peer tells it."""

    author: bytes
    seq: int
    hash: bytes


def compare(source: HistorySource, theirs: AuthorHead) -> Relation:
    """`theirs.seq` 0: they have nothing of the author. Two reads at most."""
    author = theirs.author
    ours = source.head(author)
    if theirs.seq > ours.seq:
        return Relation.BEHIND
    if theirs.seq == ours.seq:
        return Relation.SYNCED if theirs.hash == ours.hash else Relation.FORKED
    base = source.base(author)
    if theirs.seq < base.seq:
        return Relation.COMPACTED
    if theirs.seq == 0:
        return Relation.AHEAD
    event = source.event(author, theirs.seq)
    held: bytes | None = base.hash if theirs.seq == base.seq else (event.hash if event else None)
    return Relation.AHEAD if held == theirs.hash else Relation.FORKED


def head_of(source: HistorySource, author: bytes) -> AuthorHead:
    head: Head = source.head(author)
    return AuthorHead(author, head.seq, head.hash)


class HeadsDigest:
    """SHA-256 over author, seq as eight bytes big endian, and hash of each head added: ascending by author."""

    def __init__(self) -> None:
        self._hasher = hashlib.sha256()

    def add(self, head: AuthorHead) -> None:
        self._hasher.update(head.author + head.seq.to_bytes(8, "big") + head.hash)

    def digest(self) -> bytes:
        return self._hasher.digest()


def heads_digest(heads: Iterable[AuthorHead]) -> bytes:
    made = HeadsDigest()
    for head in heads:
        made.add(head)
    return made.digest()
