"""What becomes of a defect in the leader's write path: it stops the node."""

from __future__ import annotations

import pytest

from hypercluster.errors import InvariantError
from hypercluster.raft.engine import Committed
from hypercluster.state_machine.outcome import Applied
from hypercluster.values import Digest, Index, Nanos, Term
from tests.unit.node.commands import client, hub_set, submit
from tests.unit.node.test_proposer import Node


def test_a_batch_that_can_not_be_settled_stops_the_node() -> None:
    """Its messages would never be answered, and keep their room: a node that goes on after that takes no writes, once
    it has happened often enough, and nobody knows why."""
    node = Node()
    node.send(submit(client(1), 1, hub_set("a")))
    node.turns.settle()
    proposal = node.engine.proposals.popleft()
    without_results = Applied(Index(1), Term(3), Digest(bytes(32)), Nanos(1), [])
    with pytest.raises(InvariantError, match="settling a batch failed"):
        proposal.done(Committed(Index(1), Term(3), without_results))


def test_a_batch_that_can_not_be_made_stops_the_node(monkeypatch: pytest.MonkeyPatch) -> None:
    node = Node()
    monkeypatch.setattr(node.proposer, "_encode", lambda _: bytes(1 // 0))
    node.send(submit(client(1), 1, hub_set("a")))
    with pytest.raises(InvariantError, match="closing a batch failed"):
        node.turns.settle()
