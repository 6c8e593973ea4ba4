"""Peers that are cut off at any reply of any exchange have the same histories once they can talk (HIS-4, HIS-15).

The seed of a run is printed; HYPERCLUSTER_HISTORY_SEED takes one.
"""

from __future__ import annotations

import os
import random

import pytest

from hypercluster.state_machine.history.events import Event
from tests.unit.history_sync.chains import Author, Peer

SEED = int(os.environ.get("HYPERCLUSTER_HISTORY_SEED") or random.SystemRandom().randrange(1 << 32))
ROUNDS = 12


@pytest.mark.req("HIS-4", "HIS-9", "HIS-15")
def test_three_peers_converge_whatever_is_cut() -> None:
    print(f"HYPERCLUSTER_HISTORY_SEED={SEED}")
    for round_number in range(ROUNDS):
        drawn = random.Random(f"{SEED}/{round_number}")
        peers = [Peer(name) for name in "abc"]
        last: dict[int, Event] = {}
        homes = {seed: drawn.randrange(3) for seed in range(1, 5)}  # an author writes at one peer
        for _ in range(60):
            if drawn.random() < 0.5:
                seed = drawn.choice(list(homes))
                hint_ms = drawn.randrange(1 << 60)  # poisoned on purpose: it decides nothing
                before = last.get(seed)
                event = Author(seed).event(
                    before.seq + 1 if before else 1, before.hash if before else bytes(32), hint_ms=hint_ms
                )
                last[seed] = event
                peers[homes[seed]].add(event)
                continue
            one, other = drawn.sample(peers, 2)
            cut_at = drawn.randrange(1, 5)
            for exchange in one.pull(other, cut=lambda number, at=cut_at: number >= at):
                pushed = list(exchange.to_push())
                other.add(*pushed[: drawn.randrange(len(pushed) + 1)])
        for _ in range(2):
            for one in peers:
                for other in peers:
                    if one is not other:
                        for exchange in one.pull(other):
                            other.add(*exchange.to_push())
        expected = {event.author: (event.seq, event.hash) for event in last.values()}
        assert [peer.heads() for peer in peers] == [expected] * 3
        assert all(peer.store.fork(author) is None for peer in peers for author in expected)
        assert all(len(peer.receiver.pending) == 0 for peer in peers)
