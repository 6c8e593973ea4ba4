"""IntentStatus (WS-4): what became of a command, as of a confirmed index, told to its own worker only."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from hypercluster.errors import ForbiddenError, MalformedError, NotLeaderError
from hypercluster.node.reads import Reads
from hypercluster.node.words import Caller
from hypercluster.pb.v1 import workspace_pb2 as pb
from hypercluster.pb.v1.command_pb2 import REASON_ABANDONED, REASON_PRECONDITION_FAILED, REASON_UNKNOWN, Command
from hypercluster.pb.v1.coordination_command_pb2 import Abandon
from hypercluster.rpc.workspace_service import WorkspaceService
from hypercluster.values import ClusterId, HistoryId, NodeId
from tests.unit.node.commands import CALLER, SCOPE, client, hub_set, submit
from tests.unit.node.test_proposer import Node
from tests.unit.rpc.test_command_stream import PipeCall, turns

NO_SNAPSHOTS: Any = SimpleNamespace(list_snapshots=None, take_snapshot=None, snapshot_manifest=None, tree_snapshot=None)


class World(Node):
    def __init__(self) -> None:
        super().__init__()
        self.reads = Reads(
            self.engine,
            self.standing,
            lambda: self.host.applied_index,
            lambda: 0,
            asyncio.get_running_loop(),
            self.metrics,
            node_id=NodeId("n1"),
            cluster_id=ClusterId(b"c" * 16),
            history_id=HistoryId(b"h" * 16),
        )
        sessions: Any = SimpleNamespace(standing=self.standing, identity=None)
        self.service = WorkspaceService(
            self.state, SimpleNamespace(), self.reads, SimpleNamespace(), self.proposer, sessions, NO_SNAPSHOTS  # type: ignore[arg-type]
        )  # fmt: skip

    async def ask(self, seq: int, caller: Caller = CALLER, lane: int = 1) -> pb.IntentStatusResponse:
        call = PipeCall()
        call.caller = caller
        request = pb.IntentStatusRequest(client_id=client(lane), client_seq=seq)
        asked = asyncio.create_task(self.service.intent_status(request, call))  # type: ignore[arg-type]
        await turns()
        assert not asked.done(), "nothing is said before a majority has confirmed that this node leads"
        self.engine.confirm_reads(self.host.applied_index)
        return await asked


@pytest.mark.req("WS-4")
async def test_an_intent_is_in_flight_until_it_is_judged_and_then_answered_as_it_was() -> None:
    world = World()
    assert (await world.ask(1)).intent == pb.INTENT_STATE_NOT_FOUND
    guarded = Command()
    guarded.CopyFrom(hub_set("b"))
    guarded.hub.expected_version = 9
    world.send(submit(client(1), 1, hub_set("a"), guarded))
    assert (await world.ask(2)).intent == pb.INTENT_STATE_IN_FLIGHT, "it waits for its batch"
    world.turns.settle()
    assert (await world.ask(2)).intent == pb.INTENT_STATE_IN_FLIGHT, "it is proposed"
    assert (await world.ask(3)).intent == pb.INTENT_STATE_NOT_FOUND
    world.commit()
    done = await world.ask(1)
    assert (done.intent, done.raft_index, done.reason, done.version) == (pb.INTENT_STATE_COMMITTED, 1, 0, 1)
    refused = await world.ask(2)
    assert (refused.intent, refused.reason) == (pb.INTENT_STATE_COMMITTED, REASON_PRECONDITION_FAILED)
    assert done.state.applied_index == 1


@pytest.mark.req("WS-4", "WS-12")
async def test_an_intent_held_back_behind_a_gap_is_in_flight() -> None:
    world = World()
    world.send(submit(client(1), 1, hub_set("a")))
    world.turns.settle()
    world.commit()
    world.send(submit(client(1), 3, hub_set("c")))
    world.turns.settle()
    assert not world.engine.proposals
    assert (await world.ask(3)).intent == pb.INTENT_STATE_IN_FLIGHT
    assert (await world.ask(2)).intent == pb.INTENT_STATE_NOT_FOUND


@pytest.mark.req("WS-4")
async def test_only_the_same_worker_is_told() -> None:
    world = World()
    bob = Caller("client:bob", SCOPE, "bob")
    world.send(submit(client(1), 1, hub_set("a")))
    with pytest.raises(ForbiddenError, match="another worker"):
        await world.ask(1, bob)
    world.turns.settle()
    world.commit()
    for seq in (1, 2):
        with pytest.raises(ForbiddenError, match="another worker"):
            await world.ask(seq, bob)
    world.send(submit(client(1), 2, hub_set("a")), bob)
    assert (await world.ask(1)).intent == pb.INTENT_STATE_COMMITTED, "who sends on another's lane keeps nothing from it"


async def test_a_result_that_is_not_kept_is_said_to_be_unknown() -> None:
    world = World()
    world.send(submit(client(1), 5, hub_set("a")))
    world.turns.settle()
    world.commit()
    found = await world.ask(4)
    assert (found.intent, found.reason) == (pb.INTENT_STATE_FORGOTTEN, REASON_UNKNOWN)


@pytest.mark.req("WS-4")
async def test_a_node_that_does_not_lead_says_nothing_of_intents() -> None:
    world = World()
    world.engine.follow("n2")
    request = pb.IntentStatusRequest(client_id=client(1), client_seq=1)
    with pytest.raises(NotLeaderError):
        await world.service.intent_status(request, PipeCall())  # type: ignore[arg-type]
    with pytest.raises(MalformedError, match="client_id"):
        await world.service.intent_status(pb.IntentStatusRequest(client_id=b"x"), PipeCall())  # type: ignore[arg-type]


@pytest.mark.req("WS-4")
async def test_an_intent_that_was_given_up_says_so() -> None:
    world = World()
    world.send(submit(client(1), 1, hub_set("a")))
    world.turns.settle()
    world.commit()
    given_up = Command(abandon=Abandon(client_id=client(1), through_seq=2))
    world.send(submit(client(2), 1, given_up))
    world.turns.settle()
    world.commit()
    assert (await world.ask(1)).reason == 0
    found = await world.ask(2)
    assert (found.intent, found.reason) == (pb.INTENT_STATE_COMMITTED, REASON_ABANDONED)
    assert (await world.ask(3)).intent == pb.INTENT_STATE_NOT_FOUND
