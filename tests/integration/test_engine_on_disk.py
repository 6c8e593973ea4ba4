"""Three engines on one asyncio loop with the real log, the real sync thread and the real clock."""

from __future__ import annotations

import asyncio
import pathlib
import random
from collections.abc import AsyncIterator

import pytest

from hypercluster.raft.adapter import RaftEngine
from hypercluster.raft.driver import EngineDriver, SystemClock, ThreadSyncRunner
from hypercluster.raft.engine import Committed, ProposalOutcome
from hypercluster.raft.settings import EngineParts, EngineSettings, Identity
from hypercluster.storage.disk import PosixDisk
from hypercluster.storage.wal.log import Wal
from hypercluster.values import Index, NodeId
from tests.engine_world.state import HistoryHost, MemoryCheckpoints, StateDisk
from tests.engine_world.world import CLUSTER, incarnation, members
from tests.fakes.memory_transport import MemoryNetwork, MemoryPeerTransport
from tests.fakes.waiting import eventually

NAMES = "abc"


class Node:
    """One node's life; its directory and flushed state outlive it."""

    def __init__(self, name: str, directory: pathlib.Path, state: StateDisk, network: MemoryNetwork) -> None:
        loop = asyncio.get_running_loop()
        self.name, self.state = name, state
        self.host = HistoryHost(state, lambda *_: None)
        self.wal, self.report = Wal.open(PosixDisk(), str(directory), segment_bytes=1 << 20, reserve_bytes=1 << 20)
        self.syncs, self.bulk = ThreadSyncRunner(loop, f"sync-{name}"), ThreadSyncRunner(loop, f"bulk-{name}")
        checkpoints = MemoryCheckpoints(self.host, name)
        clock = SystemClock()
        self.driver = EngineDriver(loop, clock)
        self.fatal: list[BaseException] = []
        self.engine = RaftEngine(
            EngineParts(
                identity=Identity(CLUSTER, NodeId(name), incarnation(name)),
                initial=members(NAMES),
                wal=self.wal,
                host=self.host,
                checkpoints=checkpoints,
                chunks=checkpoints,
                transport=MemoryPeerTransport(network, NodeId(name), incarnation(name)),
                clock=clock,
                syncs=self.syncs,
                bulk=self.bulk,
                rng=random.Random(name),
                wake=self.driver.wake,
                on_fatal=self.fatal.append,
                flushed_index=lambda: Index(state.applied),
                stamp_end=lambda _: 0,
            ),
            EngineSettings(),
        )
        self.driver.run(self.engine)

    def close(self) -> None:
        self.engine.stop()
        self.driver.close()
        self.syncs.close()
        self.bulk.close()
        self.wal.close()


class Cluster:
    def __init__(self, directory: pathlib.Path) -> None:
        self.directory, self.network = directory, MemoryNetwork()
        self.states = {name: StateDisk() for name in NAMES}
        self.nodes: dict[str, Node] = {}

    def start(self, *names: str) -> None:
        for name in names:
            path = self.directory / name
            path.mkdir(exist_ok=True)
            self.nodes[name] = Node(name, path, self.states[name], self.network)

    def stop(self, *names: str) -> None:
        for name in names:
            self.nodes.pop(name).close()

    async def leader(self) -> Node:
        def leading() -> list[Node]:
            found = [node for node in self.nodes.values() if node.engine.is_leader()]
            return [node for node in found if node.engine.applied_index() >= node.engine.own_no_op()]

        await eventually(lambda: bool(leading()), "a leader")
        return leading()[-1]

    async def propose(self, node: Node, count: int, prefix: str) -> list[ProposalOutcome]:
        outcomes: list[ProposalOutcome] = []
        for n in range(count):
            node.engine.propose(b"\x10" + f"{prefix}{n}".encode(), None, outcomes.append)
        await eventually(lambda: len(outcomes) == count, "answers")
        return outcomes


@pytest.fixture
async def cluster(tmp_path: pathlib.Path) -> AsyncIterator[Cluster]:
    made = Cluster(tmp_path)
    made.start(*NAMES)
    yield made
    made.stop(*made.nodes)


@pytest.mark.req("CL-2", "CL-6", "CL-12")
async def test_three_nodes_commit_lose_their_leader_and_go_on(cluster: Cluster) -> None:
    first = await cluster.leader()
    outcomes = await cluster.propose(first, 200, "x")
    assert all(isinstance(outcome, Committed) for outcome in outcomes)
    cluster.stop(first.name)
    second = await cluster.leader()
    assert [payload for _, _, payload in second.host.history] == [b"\x10x%d" % n for n in range(200)]
    assert all(isinstance(outcome, Committed) for outcome in await cluster.propose(second, 50, "y"))
    cluster.start(first.name)
    back = cluster.nodes[first.name]
    await eventually(lambda: len(back.host.history) == 250, "the old leader catches up")
    assert back.host.history == second.host.history
    assert not any(node.fatal for node in cluster.nodes.values())


@pytest.mark.req("CL-2", "CL-3")
async def test_everything_acknowledged_is_there_after_all_were_stopped(cluster: Cluster) -> None:
    leader = await cluster.leader()
    assert all(isinstance(o, Committed) for o in await cluster.propose(leader, 300, "x"))
    term = leader.engine.term()
    cluster.stop(*NAMES)
    cluster.start(*NAMES)
    leader = await cluster.leader()
    assert leader.engine.term() > term
    assert [payload for _, _, payload in leader.host.history] == [b"\x10x%d" % n for n in range(300)]


@pytest.mark.req("CL-6")
async def test_a_turns_proposals_share_a_sync(cluster: Cluster) -> None:
    leader = await cluster.leader()
    before = leader.wal.durable_generation
    await cluster.propose(leader, 500, "x")
    assert leader.wal.durable_generation - before <= 5
