"""Which event comes next in an author's chain (HIS-2, HIS-5): the one rule for nodes, workers and outboxes alike.

Never: state; what is held is passed in.
Invariants: a chain that only takes what is ACCEPTED here has no gap, no duplicate, and each event names the hash of the
one before; two events of one seq are never both accepted.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import NamedTuple

from hypercluster.state_machine.history.events import NO_HASH, Event


class Head(NamedTuple):
    """An author's last event; seq 0 and no hash where there is none."""

    seq: int
    hash: bytes


NO_HEAD = Head(0, NO_HASH)


class Verdict(Enum):
    ACCEPTED = "accepted"
    DUPLICATE = "duplicate"  # held already: no error
    GAP = "gap"  # others come before it
    NOT_GENESIS = "not_genesis"  # seq 1 that names an event before
    PREV_MISMATCH = "prev_mismatch"  # comes next, but follows another event than the one held
    FORKED = "forked"  # another event of a seq that is held: proof that the author signed two
    DUPLICATE_GENESIS = "duplicate_genesis"  # the same of seq 1
    FROZEN = "frozen"  # comes next in a chain that forked before: nothing more is taken (HIS-5)


def judge(head: Head, event: Event, held_hash: Callable[[int], bytes | None]) -> Verdict:
    """`held_hash(seq)`: None where nothing is held, which at or below the head means that it is compacted away.
    A chain that is frozen is for the caller to know."""
    if event.seq > head.seq + 1:
        return Verdict.GAP
    if event.seq == head.seq + 1:
        if event.prev == head.hash:
            return Verdict.ACCEPTED
        return Verdict.PREV_MISMATCH if head.seq else Verdict.NOT_GENESIS
    held = held_hash(event.seq)
    if held is None or held == event.hash:  # of a compacted one nothing is known, and nothing is wanted
        return Verdict.DUPLICATE
    return Verdict.DUPLICATE_GENESIS if event.seq == 1 else Verdict.FORKED
