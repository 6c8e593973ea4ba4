"""The waiting room is bounded in all, by author and in time (HIS-3)."""

from __future__ import annotations

import pytest

from hypercluster.history_sync.pending import Missing, Pending
from hypercluster.limits import HISTORY_PENDING_MAX, HISTORY_PENDING_OF_AUTHOR_MAX, HISTORY_PENDING_S
from hypercluster.state_machine.history.events import Event
from tests.unit.history_sync.chains import Author, Peer


def waiting(author: int, seq: int) -> Event:
    return Event(b"", b"", b"", author.to_bytes(32, "big"), seq, b"", (), 16, "", b"", 0)


@pytest.mark.req("HIS-3")
def test_no_author_fills_it_and_what_leaves_makes_room() -> None:
    pending = Pending()
    assert all(pending.put(waiting(1, seq), 0.0) for seq in range(2, HISTORY_PENDING_OF_AUTHOR_MAX + 2))
    assert not pending.put(waiting(1, 10**6), 0.0)
    assert not pending.put(waiting(1, 2), 0.0), "one that waits already takes no second place"
    assert pending.take(waiting(1, 2).author, 2) == waiting(1, 2)
    assert pending.put(waiting(1, 10**6), 0.0)
    for author in range(2, HISTORY_PENDING_MAX // HISTORY_PENDING_OF_AUTHOR_MAX + 1):
        assert all(pending.put(waiting(author, seq), 0.0) for seq in range(HISTORY_PENDING_OF_AUTHOR_MAX))
    assert len(pending) == HISTORY_PENDING_MAX and not pending.put(waiting(1_000, 2), 0.0)


@pytest.mark.req("HIS-3")
def test_nothing_waits_for_more_than_an_hour() -> None:
    pending = Pending()
    pending.put(waiting(1, 2), 0.0)
    pending.put(waiting(1, 3), 10.0)
    assert pending.expire(HISTORY_PENDING_S - 0.5) == 0
    assert pending.expire(HISTORY_PENDING_S) == 1 and pending.of_author(waiting(1, 2).author) == 1
    assert pending.take(waiting(1, 2).author, 2) is None
    assert pending.put(waiting(2, 2), 10.0 + HISTORY_PENDING_S) and len(pending) == 1


@pytest.mark.req("HIS-3")
def test_an_unknown_dependency_holds_nothing_up_and_is_fetched_later() -> None:
    ann, bob, peer = Author(1), Author(2), Peer("a")
    (seen,) = ann.chain(1)
    peer.add(bob.event(1, bytes(32), deps=[seen.hash, b"n" * 32]))
    assert peer.store.head(bob.key).seq == 1
    assert peer.receiver.missing.first(10) == [seen.hash, b"n" * 32]
    peer.add(seen)
    assert peer.receiver.missing.first(10) == [b"n" * 32]
    missing = Missing()
    for number in range(HISTORY_PENDING_MAX + 5):
        missing.add(number.to_bytes(32, "big"))
    assert len(missing) == HISTORY_PENDING_MAX
