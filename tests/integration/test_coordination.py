"""Locks over real nodes: leases across a leader's death, expiry, events on any node, a minority, reclaim."""

from __future__ import annotations

import asyncio
import os
import time
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import grpc
import pytest
import pytest_asyncio

from hypercluster.client.client import Client
from hypercluster.client.lane_types import S_NS, LaneSettings
from hypercluster.client.workspace import Workspace
from hypercluster.limits import LOCK_GRACE_MS, LOCK_TTL_MS
from hypercluster.pb.v1 import command_pb2_grpc, coordination_pb2_grpc, workspace_pb2, workspace_pb2_grpc
from hypercluster.pb.v1 import coordination_command_pb2 as command_pb
from hypercluster.pb.v1 import coordination_pb2 as pb
from hypercluster.pb.v1.command_pb2 import REASON_HOLDER_ALIVE, REASON_OK, Command, Submit
from hypercluster.state_machine.workspace.records import ROOT_ID
from tests.integration.cluster import START_S, Cluster, eventually

PATIENT = LaneSettings(no_leader_ns=20 * S_NS, deadline_ns=60 * S_NS)
TTL_S, GRACE_S = LOCK_TTL_MS / 1000, LOCK_GRACE_MS / 1000
HELD, QUEUED, FREE = command_pb.LOCK_STATE_HELD, command_pb.LOCK_STATE_QUEUED, command_pb.LOCK_STATE_FREE
KINDS = {number: name.removeprefix("LOCK_EVENT_KIND_") for name, number in pb.LockEventKind.items()}


class Agent:
    """One client of one workspace that holds locks."""

    def __init__(self, cluster: Cluster, client: Client, workspace: Workspace) -> None:
        self.cluster = cluster
        self.client = client
        self.workspace_id = workspace.workspace_id

    @property
    def client_id(self) -> bytes:
        return self.client.lane().lane.client_id

    async def command(self, command: command_pb.CoordinationCommand) -> tuple[int, command_pb.LockAck]:
        raw = Command(coordination=command).SerializeToString()
        settled = await self.client.lane().submit(raw, self.workspace_id)
        lock = settled.file.lock if settled.file is not None else command_pb.LockAck()
        return settled.reason, lock

    async def acquire(self, name: str) -> command_pb.LockAck:
        asked = command_pb.LockAcquire(
            target=command_pb.LockTarget(name=name), kind=command_pb.LOCK_KIND_EXCLUSIVE, handle_id=1, wait=True
        )
        reason, lock = await self.command(command_pb.CoordinationCommand(lock_acquire=asked))
        assert reason == REASON_OK
        return lock

    async def command_once(self, command: command_pb.CoordinationCommand) -> tuple[int, command_pb.LockAck]:
        """On a lane of its own, and without the library's retries."""
        submit = Submit(
            client_id=os.urandom(16),
            first_seq=1,
            basis=self.client.known_index(),
            workspace_id=self.workspace_id,
            commands=[Command(coordination=command).SerializeToString()],
        )
        channel = self.client.nodes.channel(self.cluster.address(await self.cluster.leader()))
        stub = command_pb2_grpc.CommandServiceStub(channel)  # type: ignore[no-untyped-call]
        (acks,) = (await stub.Call(submit, timeout=5)).acks
        return (acks.reason or [0])[0], acks.file[0].lock if acks.file else command_pb.LockAck()

    def stub(self, node: str) -> coordination_pb2_grpc.CoordinationServiceStub:
        channel = self.client.nodes.channel(self.cluster.address(node))
        return coordination_pb2_grpc.CoordinationServiceStub(channel)  # type: ignore[no-untyped-call]

    async def renew(self, node: str, *locks: command_pb.LockAck, timeout_s: float = 3.0) -> list[int]:
        """States, in order. Raises AioRpcError."""
        request = pb.RenewRequest(
            workspace_id=self.workspace_id,
            locks=[pb.LockRenewal(lock_id=lock.lock_id, token=lock.token) for lock in locks],
        )
        answer: pb.RenewResponse = await self.stub(node).Renew(request, timeout=timeout_s)
        return [lock.state for lock in answer.locks]

    async def kept(self, *locks: command_pb.LockAck) -> None:
        """Renews at whoever leads, until it is cancelled."""
        while True:
            try:
                states = await self.renew(await self.cluster.leader(), *locks)
            except grpc.aio.AioRpcError:
                continue
            assert FREE not in states, states
            await asyncio.sleep(TTL_S / 5)

    async def listed(self, name: str) -> list[pb.LockRecord]:
        request = pb.LocksRequest(workspace_id=self.workspace_id, target=command_pb.LockTarget(name=name))
        answer: pb.LocksResponse = await self.stub(await self.cluster.leader()).Locks(request, timeout=5)
        return list(answer.locks)


class Listener:
    """A watch of events on one node."""

    def __init__(self, agent: Agent, node: str) -> None:
        request = pb.WatchEventsRequest(
            workspace_id=agent.workspace_id, client_ids=[agent.client_id], min_index=agent.client.known_index()
        )
        self.call = agent.stub(node).WatchEvents(request)
        self.held: list[int] = []

    async def begin(self) -> Listener:
        first = await self.call.read()
        assert first.WhichOneof("event") == "held", first
        self.held = [lock.lock_id for lock in first.held.locks]
        return self

    async def until(self, kind: str, deadline_s: float = 15.0) -> tuple[list[str], pb.LockRecord]:
        """What came up to and including the first event of this kind, and its lock."""
        seen: list[str] = []
        async with asyncio.timeout(deadline_s):
            while True:
                event = await self.call.read()
                assert event is not grpc.aio.EOF
                seen.append(KINDS[event.lock.kind])
                if seen[-1] == kind:
                    return seen, event.lock.lock


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Cluster]:
    async with Cluster(tmp_path_factory.mktemp("locks"), 3) as running:
        await running.all_applied(1, START_S)
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def agents(cluster: Cluster, request: pytest.FixtureRequest) -> AsyncIterator[tuple[Agent, Agent]]:
    settings = replace(cluster.client_settings(), lane=PATIENT)
    async with Client(settings) as first, Client(settings) as second:
        name = request.node.name.lower().replace("[", "-").replace("]", "")
        made = await first.create_workspace(name[:100])
        yield (
            Agent(cluster, first, made),
            Agent(cluster, second, await second.open_workspace(made.name)),
        )


pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.mark.req("WS-40", "WS-41", "WS-42")
async def test_a_silent_holder_s_lock_passes_on_and_every_node_tells_of_it(agents: tuple[Agent, Agent]) -> None:
    holder, waiter = agents
    held = await holder.acquire("build")
    queued = await waiter.acquire("build")
    assert (held.state, queued.state, held.ttl_ms, held.grace_ms) == (HELD, QUEUED, LOCK_TTL_MS, LOCK_GRACE_MS)
    nodes = list(holder.cluster.plans)
    watches = [await Listener(waiter, node).begin() for node in nodes]
    assert {tuple(watch.held) for watch in watches} == {(queued.lock_id,)}
    began_s = time.monotonic()
    keep = asyncio.create_task(waiter.kept(queued))
    try:
        heard = await asyncio.gather(*(watch.until("GRANTED") for watch in watches))
    finally:
        keep.cancel()
    assert time.monotonic() - began_s > TTL_S + GRACE_S - 1
    for seen, lock in heard:
        assert seen == ["EXPIRING", "GRANTED"], "the waiter hears that the lock before it expires"
        assert lock.token > held.token
    assert await holder.renew(await holder.cluster.leader(), held) == [FREE]
    for watch in watches:
        watch.call.cancel()


@pytest.mark.long
@pytest.mark.req("WS-41")
async def test_the_holder_is_warned_in_its_grace_and_keeps_its_lock_by_a_renewal(agents: tuple[Agent, Agent]) -> None:
    holder, _ = agents
    held = await holder.acquire("build")
    leader = await holder.cluster.leader()
    follower = next(node for node in holder.cluster.plans if node != leader)
    watch = await Listener(holder, follower).begin()
    assert (await watch.until("EXPIRING"))[1].state == command_pb.LOCK_STATE_GRACE
    assert await holder.renew(leader, held) == [HELD]
    seen, lock = await watch.until("RENEWED")
    assert seen == ["RENEWED"] and (lock.token, lock.state) == (held.token, HELD)
    watch.call.cancel()


@pytest.mark.long
@pytest.mark.req("WS-42", "D-6", "WS-43")
async def test_a_lock_survives_the_leader_with_its_token_and_is_reclaimed_from_the_silent_only(
    agents: tuple[Agent, Agent],
) -> None:
    holder, other = agents
    cluster = holder.cluster
    held = await holder.acquire("build")
    leader = await cluster.leader()
    cluster.kill(leader)
    keep = asyncio.create_task(holder.kept(held))
    await cluster.leader(other_than=leader)
    await asyncio.sleep(0)
    (row,) = await holder.listed("build")
    assert (row.token, row.state) == (held.token, HELD)
    take = command_pb.CoordinationCommand(
        lock_reclaim=command_pb.LockReclaim(lock_id=held.lock_id, token=held.token, handle_id=2)
    )
    began_s = time.monotonic()
    cluster.start(leader)
    while time.monotonic() < began_s + TTL_S + 1:
        assert (await other.command_once(take))[0] == REASON_HOLDER_ALIVE, "it is renewed"
        await asyncio.sleep(0.5)
    assert not keep.done()
    keep.cancel()
    reason, taken = REASON_HOLDER_ALIVE, command_pb.LockAck()
    while reason == REASON_HOLDER_ALIVE:
        assert time.monotonic() < began_s + 30
        reason, taken = await other.command_once(take)
        await asyncio.sleep(0.1)
    assert reason == REASON_OK and taken.state == HELD and taken.token > held.token


@pytest.mark.req("D-6", "D-11")
async def test_a_leader_without_a_majority_renews_nothing(agents: tuple[Agent, Agent]) -> None:
    holder, _ = agents
    held = await holder.acquire("build")
    assert await renewed_by_a_minority(holder, held) == []
    assert await holder.renew(await holder.cluster.leader(), held) == [HELD]


async def renewed_by_a_minority(holder: Agent, held: command_pb.LockAck) -> list[int]:
    """What a leader that has just lost both others answers; nothing if it refuses."""
    cluster = holder.cluster
    leader = await cluster.leader()
    assert await holder.renew(leader, held) == [HELD]
    followers = [node for node in cluster.plans if node != leader]
    for node in followers:
        cluster.pause(node)
    try:
        return await holder.renew(leader, held, timeout_s=1.5)
    except grpc.aio.AioRpcError as refused:
        if refused.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
            raise
        return []
    finally:
        for node in followers:
            cluster.resume(node)


@pytest.mark.long
@pytest.mark.req("D-6", "CH-10")
async def test_a_build_that_renews_without_a_round_is_seen_to_do_so(tmp_path: Path) -> None:
    bad = Cluster(tmp_path, 3, module="tests.known_bad.serve", arguments=("--bad", "renew_without_round"))
    async with bad, Client(replace(bad.client_settings(), lane=PATIENT)) as client:
        holder = Agent(bad, client, await client.create_workspace("bad"))
        assert await renewed_by_a_minority(holder, await holder.acquire("build")) == [HELD]


T = TypeVar("T")


async def until(condition: Callable[[T], object], ask: Callable[[], Awaitable[T]]) -> None:
    end_s = time.monotonic() + 5
    while not condition(await ask()):
        assert time.monotonic() < end_s
        await asyncio.sleep(0.02)


async def drain(call: grpc.aio.StreamStreamCall[object, object]) -> None:
    while await call.read() is not grpc.aio.EOF:
        pass


@pytest.mark.req("WS-5", "WS-50")
async def test_a_worker_s_session_shows_at_its_node_and_its_failure_in_the_status(agents: tuple[Agent, Agent]) -> None:
    agent, _ = agents
    cluster, workspace_id = agent.cluster, agent.workspace_id
    channel = agent.client.nodes.channel(cluster.address("n2"))
    stub = workspace_pb2_grpc.WorkspaceServiceStub(channel)  # type: ignore[no-untyped-call]
    call = stub.Session()
    hello = workspace_pb2.WorkerHello(protocol="hypersync/1", workspace_id=workspace_id, worker="builder")
    await call.write(workspace_pb2.WorkerMessage(hello=hello))
    welcome = (await call.read()).welcome
    assert welcome.limits.lock_ttl_ms == LOCK_TTL_MS and welcome.commit_index > 0 and welcome.term > 0

    async def shown() -> list[workspace_pb2.WorkerStatus]:
        answer = await stub.Workers(workspace_pb2.WorkersRequest(workspace_id=workspace_id), timeout=5)
        return list(answer.workers)

    assert [(row.name, row.worker, row.error_log_index) for row in await shown()] == [("builder", "tester", 0)]
    applied = workspace_pb2.WorkerApplied(
        workspace_id=workspace_id, read_only=True, error_log_index=7, error_errno=28, error_message="no room"
    )
    await call.write(workspace_pb2.WorkerMessage(applied=applied))
    await until(lambda rows: rows[0].read_only, shown)
    status = await cluster.status("n2")
    assert status is not None and status.workers_connected == 1
    assert "builder" in status.worker_problems[0] and "no room" in status.worker_problems[0]
    elsewhere = await cluster.status("n1")
    assert elsewhere is not None and not elsewhere.worker_problems, "a node tells of its own sessions"
    applied.workspace_id = b"x" * 16
    await call.write(workspace_pb2.WorkerMessage(applied=applied))
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await drain(call)
    assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    await until(lambda rows: not rows, shown)


@pytest.mark.req("WS-44")
async def test_what_is_held_open_for_long_is_logged_and_its_end_too(agents: tuple[Agent, Agent]) -> None:
    agent, _ = agents
    metric = "hypercluster_open_leases"
    leader = await agent.cluster.leader()
    request = pb.RenewRequest(workspace_id=agent.workspace_id, with_opens=True, open_inodes=[ROOT_ID])

    def logged() -> float:
        plan = agent.cluster.plans[leader]
        with urllib.request.urlopen(f"http://127.0.0.1:{plan.admin_port}/metrics", timeout=5) as page:
            lines = page.read().decode().splitlines()
        return float(next(line for line in lines if line.startswith(metric + " ")).split()[1])

    await agent.stub(leader).Renew(request, timeout=5)
    await eventually(lambda: logged() == 1, "the lease is logged")
    request.ClearField("open_inodes")
    await agent.stub(leader).Renew(request, timeout=5)
    await eventually(lambda: logged() == 0, "the lease has ended")
