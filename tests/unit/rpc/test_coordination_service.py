"""CoordinationService: bounds of its requests, lists in parts, and a stream that begins with the present (CL-13)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from hypercluster import limits
from hypercluster.errors import MalformedError, NotLeaderError, TooLargeError, WrongWorkspaceError
from hypercluster.pb.v1 import coordination_pb2 as pb
from hypercluster.pb.v1 import read_pb2
from hypercluster.pb.v1.coordination_command_pb2 import LOCK_STATE_FREE, LOCK_STATE_HELD, LockTarget
from hypercluster.rpc.coordination_service import CoordinationService
from hypercluster.state_machine.coordination import leases
from hypercluster.state_machine.workspace.records import ROOT_ID
from tests.unit.node.commands import client
from tests.unit.node.locks import LockNode, acquire, release
from tests.unit.rpc.test_command_stream import PipeCall, turns

STALE = read_pb2.ReadOptions(level=read_pb2.READ_LEVEL_BOUNDED_STALE)


class World(LockNode):
    def __init__(self) -> None:
        super().__init__()
        self.service = CoordinationService(self.state, self.reads, self.leases, self.opens, self.events)

    async def renew(self, *asked: tuple[int, int], **_: Any) -> Any:
        request = pb.RenewRequest(
            workspace_id=self.workspace_id,
            locks=[pb.LockRenewal(lock_id=lock_id, token=token) for lock_id, token in asked],
        )
        task = asyncio.create_task(self.service.renew(request, PipeCall()))  # type: ignore[arg-type]
        await turns()
        self.engine.confirm_reads(self.host.applied_index)
        return await task

    @asynccontextmanager
    async def watching(self, **fields: Any) -> AsyncIterator[PipeCall]:
        call = PipeCall()
        request = pb.WatchEventsRequest(**{"workspace_id": self.workspace_id, **fields})
        task = asyncio.create_task(self.service.watch_events(request, call))  # type: ignore[arg-type]
        await turns()
        try:
            yield call
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def events(call: PipeCall) -> list[pb.CoordinationEvent]:
    written, call.written = call.written, []
    return [pb.CoordinationEvent.FromString(message) for message in written]


@pytest.mark.req("WS-41")
async def test_a_renewal_says_of_each_lock_how_it_stands() -> None:
    world = World()
    held = world.lock(1, acquire("build"))
    answer = await world.renew((held.lock_id, held.token), (7, 7))
    found = [(lock.lock_id, lock.state, lock.token) for lock in answer.locks]
    assert found == [(held.lock_id, LOCK_STATE_HELD, held.token), (7, LOCK_STATE_FREE, 0)]
    assert answer.state.applied_index == world.host.applied_index


@pytest.mark.req("CL-13")
async def test_requests_are_bounded_and_name_the_field() -> None:
    world = World()
    service, call = world.service, PipeCall()
    many = [pb.LockRenewal(lock_id=1)] * (limits.RENEW_LOCKS_MAX + 1)
    with pytest.raises(TooLargeError, match="locks: 1001, limit RENEW_LOCKS_MAX"):
        await service.renew(pb.RenewRequest(workspace_id=world.workspace_id, locks=many), call)  # type: ignore[arg-type]
    with pytest.raises(WrongWorkspaceError):
        await service.renew(pb.RenewRequest(workspace_id=b"x" * 16), call)  # type: ignore[arg-type]
    for target, words in ((LockTarget(inode_id=b"x"), "target.inode_id"), (LockTarget(name="a b"), "target.name")):
        with pytest.raises(MalformedError, match=words):
            await service.locks(pb.LocksRequest(workspace_id=world.workspace_id, target=target), call)  # type: ignore[arg-type]
    for request, error in (
        (pb.WatchEventsRequest(client_ids=[client(1)] * (limits.EVENT_CLIENTS_MAX + 1)), TooLargeError),
        (pb.WatchEventsRequest(client_ids=[b"short"]), MalformedError),
        (pb.WatchEventsRequest(workspace_id=b"x" * 16), WrongWorkspaceError),
    ):
        with pytest.raises(error):
            await service.watch_events(request, call)  # type: ignore[arg-type]
    assert not call.written
    world.engine.follow("n2")
    world.standing.forget()
    with pytest.raises(NotLeaderError):
        await service.renew(pb.RenewRequest(workspace_id=world.workspace_id), call)  # type: ignore[arg-type]


@pytest.mark.req("WS-44")
async def test_a_renewal_carries_all_that_a_worker_holds_open_or_says_nothing_of_it() -> None:
    world = World()

    async def renewed(**fields: Any) -> None:
        request = pb.RenewRequest(workspace_id=world.workspace_id, **fields)
        task = asyncio.create_task(world.service.renew(request, PipeCall()))  # type: ignore[arg-type]
        await turns()
        world.engine.confirm_reads(world.host.applied_index)
        await task

    def logged() -> list[tuple[bytes, str]]:
        world.pass_time(3)
        found = leases.list_leases(world.state, world.workspace_id, None, 10)
        return [(lease.inode_id, lease.worker) for lease in found]

    await renewed(with_opens=True, open_inodes=[ROOT_ID])
    assert logged() == [(ROOT_ID, "alice")]
    await renewed()
    assert logged() == [(ROOT_ID, "alice")], "a renewal of locks alone leaves leases as they are"
    await renewed(with_opens=True)
    assert logged() == []
    for words, fields in (
        ("open_inodes: 4001, limit OPEN_LEASES_OF_WORKER_MAX", {"with_opens": True, "open_inodes": [ROOT_ID] * 4_001}),
        ("open_inodes: each has 16", {"with_opens": True, "open_inodes": [b"x"]}),
        ("open_inodes: only where", {"open_inodes": [ROOT_ID]}),
    ):
        with pytest.raises((MalformedError, TooLargeError), match=words):
            await renewed(**fields)


async def test_locks_are_listed_in_pages_or_by_target() -> None:
    world = World()
    held = [world.lock(1, acquire(name)) for name in ("a", "b", "c")]
    waits = world.lock(2, acquire("b"))

    async def listed(**fields: Any) -> pb.LocksResponse:
        request = pb.LocksRequest(read=STALE, workspace_id=world.workspace_id, **fields)
        return await world.service.locks(request, PipeCall())  # type: ignore[arg-type]

    page = await listed(limit=2)
    assert ([lock.lock_id for lock in page.locks], page.more) == ([held[0].lock_id, held[1].lock_id], True)
    rest = await listed(limit=2, after=held[1].lock_id)
    assert ([lock.lock_id for lock in rest.locks], rest.more) == ([held[2].lock_id, waits.lock_id], False)
    of_b = await listed(target=LockTarget(name="b"))
    assert [(lock.lock_id, lock.position) for lock in of_b.locks] == [(held[1].lock_id, 0), (waits.lock_id, 1)]
    assert of_b.locks[0].target.name == "b" and of_b.locks[0].principal == "client:alice"


@pytest.mark.req("WS-40")
async def test_a_watch_begins_with_what_is_held_and_goes_on_with_what_happens() -> None:
    world = World()
    held = world.lock(1, acquire("build"))
    world.lock(2, acquire("test"))
    async with world.watching(client_ids=[client(1)]) as call:
        (first,) = events(call)
        assert [lock.lock_id for lock in first.held.locks] == [held.lock_id] and not first.held.more
        assert first.raft_index == world.host.applied_index
        world.lock(1, release(held.lock_id))
        await turns()
        (told,) = events(call)
        assert told.lock.kind == pb.LOCK_EVENT_KIND_RELEASED and told.raft_index == world.host.applied_index
    assert not world.events._watches, "the watch ends with its stream"


@pytest.mark.req("CL-13")
async def test_a_watcher_that_takes_nothing_is_given_the_present_list_and_then_every_event(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("hypercluster.node.events.EVENT_QUEUE_MAX", 4)
    monkeypatch.setattr(limits, "EVENT_LIST_PAGE", 2)
    world = World()
    async with world.watching(everything=True) as call:
        assert [event.WhichOneof("event") for event in events(call)] == ["held"]
        call.reading.clear()
        held = [world.lock(1, acquire(f"l{number}")) for number in range(7)]
        await turns()
        call.reading.set()
        await turns()
        assert world.metrics.event_resyncs._value.get() >= 1
        world.lock(1, release(held[0].lock_id))
        await turns()
        known: dict[int, int] = {}
        for event in events(call):
            if event.WhichOneof("event") == "held":
                known |= {lock.lock_id: lock.state for lock in event.held.locks}
            else:
                known[event.lock.lock.lock_id] = event.lock.lock.state
        assert known == {lock.lock_id: LOCK_STATE_HELD for lock in held[1:]} | {held[0].lock_id: LOCK_STATE_FREE}
