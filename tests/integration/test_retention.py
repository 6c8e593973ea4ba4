"""Snapshots, trimming and archives of three real nodes, and workers that begin with a snapshot (WS-51 to WS-54)."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio
from click.testing import CliRunner

from hypercluster.cli.node_archive import archive as archive_commands
from hypercluster.cli.workspace import workspace as workspace_commands
from hypercluster.client.client import Client
from hypercluster.client.lane_types import S_NS, LaneSettings
from hypercluster.client.snapshots import list_snapshots, node_manifest, take_snapshot, verify_snapshot
from hypercluster.client.worker import feed
from hypercluster.client.worker.snapshots import _pieces, snapshot, stored_snapshot
from hypercluster.client.worker.worker import Worker
from hypercluster.client.workspace import Workspace
from hypercluster.errors import HyperClusterError, NotFoundError
from hypercluster.limits import HAZARD_WINDOW_OPS
from hypercluster.pb.v1 import workspace_pb2
from tests.integration.cluster import FAST_RATE, Cluster

PATIENT = LaneSettings(no_leader_ns=30 * S_NS, deadline_ns=60 * S_NS)
SETTINGS = {
    **FAST_RATE,
    "raft": {"election_min_ms": 1_500, "election_max_ms": 3_000},  # a machine that is busy with other tests
    "retention": {"snapshot_every_s": 1, "snapshots_kept": 3, "oplog_keep_s": 0, "oplog_keep_ops": 300},
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Cluster]:
    async with Cluster(tmp_path_factory.mktemp("retention"), settings=SETTINGS) as made:
        yield made


@pytest_asyncio.fixture(loop_scope="module")
async def client(cluster: Cluster) -> AsyncIterator[Client]:
    async with Client(cluster.client_settings()) as made:
        yield made


async def filled(client: Client, name: str, files: int) -> Workspace:
    workspace = await client.create_workspace(name)
    draw = random.Random(files)
    for number in range(files):
        found = await workspace.ops.create(bytes(16), b"file %04d" % number, 0o644)
        await workspace.ops.write(found.inode_id, draw.randbytes(draw.choice((10, 900, 70_000))))
    return workspace


async def until(holds: Callable[[], Awaitable[bool]], what: str, deadline_s: float = 60.0) -> None:
    """Asks until it holds. Fails naming `what`."""
    end_s = asyncio.get_running_loop().time() + deadline_s
    while True:
        if await holds():
            return
        assert asyncio.get_running_loop().time() < end_s, what
        await asyncio.sleep(0.1)


async def newest_everywhere(workspace: Workspace) -> int:
    """Takes a snapshot of what is there now, and waits until each node has written it."""
    log_index = (await take_snapshot(workspace)).log_index
    async with asyncio.timeout(30):
        for address in workspace.client.settings.nodes:
            while True:
                with contextlib.suppress(HyperClusterError):
                    await node_manifest(workspace, address, log_index)
                    break
                await asyncio.sleep(0.05)
    return log_index


@pytest.mark.req("WS-53")
@pytest.mark.asyncio(loop_scope="module")
async def test_every_node_writes_the_same_snapshot_signs_it_and_can_prove_it(client: Client, cluster: Cluster) -> None:
    workspace = await filled(client, "proved", 40)
    log_index = await newest_everywhere(workspace)
    manifests = [await node_manifest(workspace, address, log_index) for address in client.settings.nodes]
    assert len({answer.manifest.manifest for answer in manifests}) == 1
    checks = await verify_snapshot(workspace, log_index)
    assert [check.problem for check in checks] == ["", "", ""]
    assert sorted(check.signed_by for check in checks) == ["n1", "n2", "n3"]
    arguments = ["--config", str(cluster.client_file)]

    def run(*words: str) -> dict[str, object]:
        result = CliRunner().invoke(workspace_commands, [*words, "--json", *arguments], standalone_mode=False)
        assert result.exception is None, result.exception
        assert not result.return_value
        return json.loads(result.output)  # type: ignore[no-any-return]

    listed = await asyncio.to_thread(run, "snapshot", "list", "proved")
    assert listed["snapshots"][-1]["log_index"] == log_index  # type: ignore[index]
    taken = await asyncio.to_thread(run, "snapshot", "take", "proved")
    assert taken == {"log_index": log_index, "taken": False}
    proved = await asyncio.to_thread(run, "snapshot", "verify", "proved")
    assert {row["problem"] for row in proved["nodes"]} == {""}  # type: ignore[index, attr-defined]


@pytest.mark.req("WS-51", "WS-52")
@pytest.mark.asyncio(loop_scope="module")
async def test_followers_serve_log_chunks_and_snapshots(client: Client, cluster: Cluster, tmp_path: Path) -> None:
    workspace = await filled(client, "served", 20)
    log_index = await newest_everywhere(workspace)
    leader = cluster.plans[await cluster.leader()].client_address()
    followers = [address for address in client.settings.nodes if address != leader]
    assert len(followers) == 2
    root = (await workspace.barrier()).workspace.root
    history_id = (await workspace.barrier()).state.history_id
    for address in followers:
        pieces = [piece async for piece in snapshot(client.nodes, address, workspace.workspace_id)]
        assert (pieces[0].log_index, pieces[0].root) == (log_index, root)
        assert pieces[0].HasField("manifest"), "from its pages"
        records = 0
        async for event in feed.watch(client.nodes, address, workspace.workspace_id, 1, history_id):
            if isinstance(event, feed.CaughtUp):
                assert (event.log_index, event.root) == (log_index, root)
                break
            assert isinstance(event, feed.Records)
            records += len(event.records)
        assert records == log_index
        mirror = tmp_path / address.replace(":", "-")
        async with Worker(client, workspace.workspace_id, workspace.name, "w", mirror) as worker:
            running = asyncio.create_task(worker.run())
            async with asyncio.timeout(20):
                await worker.wait_applied(log_index)
            assert worker.status.root == root.hex()
            assert (await worker.verify()).findings == []
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


@pytest.mark.req("WS-52")
@pytest.mark.asyncio(loop_scope="module")
async def test_a_snapshot_goes_on_with_another_node_by_page(client: Client) -> None:
    workspace = await filled(client, "resumed", 300)
    log_index = await newest_everywhere(workspace)
    nodes, addresses = client.nodes, client.settings.nodes

    async def records(address: str) -> list[object]:
        stored = stored_snapshot(nodes, address, workspace.workspace_id, log_index)
        return [record async for piece, _ in stored for record in piece.records]

    whole = await records(addresses[0])
    assert len(whole) > 900
    assert await records(addresses[1]) == whole
    with pytest.raises(NotFoundError):
        await anext(stored_snapshot(nodes, addresses[0], workspace.workspace_id, log_index + 1))
    # A node that stops in the middle: its pieces come from the first, the rest from another one.
    request = workspace_pb2.TreeSnapshotRequest(workspace_id=workspace.workspace_id, log_index=log_index)
    request.from_page = 3
    rest = [piece async for piece in _pieces(nodes, addresses[2], request)]
    assert rest[0].next_page > 3
    tail = [record for piece in rest for record in piece.records]
    assert 0 < len(tail) < len(whole)
    assert whole[-len(tail) :] == tail


@pytest.mark.req("WS-53", "WS-54")
@pytest.mark.asyncio(loop_scope="module")
async def test_the_log_is_trimmed_into_archives_that_hold_and_snapshots_are_bounded(
    client: Client, cluster: Cluster
) -> None:
    workspace = await filled(client, "trimmed", 10)
    while (await list_snapshots(workspace)).retention.log_index < HAZARD_WINDOW_OPS + 700:
        await asyncio.gather(*(workspace.ops.mkdir(bytes(16), b"d%06d" % random.getrandbits(30)) for _ in range(20)))
    async with asyncio.timeout(120):
        while (await list_snapshots(workspace)).retention.log_floor < 300:
            await workspace.ops.mkdir(bytes(16), b"e%06d" % random.getrandbits(30))
            await asyncio.sleep(0.1)
    listed = await list_snapshots(workspace)
    assert 1 <= len(listed.snapshots) <= 4
    assert listed.retention.replay_floor >= listed.retention.log_floor
    assert listed.retention.archive_last == listed.retention.log_floor - 1

    async def archived(name: str) -> bool:
        data = cluster.directory / name / "data"
        result = await asyncio.to_thread(
            CliRunner().invoke, archive_commands, ["verify", str(data), "--json"], standalone_mode=False
        )
        rows = {row["workspace"]: row for row in json.loads(result.output)["workspaces"]}
        row = rows.get(workspace.workspace_id.hex())
        return row is not None and not row["damage"] and row["first"] == 1 and row["last"] >= 250

    for name in cluster.plans:
        await until(lambda name=name: archived(name), f"the archive of {name} is sound")  # type: ignore[misc]


@pytest.mark.req("WS-53")
@pytest.mark.asyncio(loop_scope="module")
async def test_a_killed_node_has_its_snapshots_again(client: Client, cluster: Cluster) -> None:
    workspace = await filled(client, "killed", 15)
    log_index = await newest_everywhere(workspace)
    leader = await cluster.leader()
    follower = next(name for name in cluster.plans if name != leader)
    cluster.kill(follower)
    cluster.start(follower)
    address = cluster.plans[follower].client_address()

    async def sound() -> bool:
        try:
            (check,) = await verify_snapshot(workspace, log_index, (address,))
        except HyperClusterError:
            return False
        return not check.problem

    await until(sound, f"{follower} has its snapshot")


@pytest.mark.req("WS-51", "WS-53")
async def test_a_node_that_missed_snapshots_has_them_from_its_peers(tmp_path: Path) -> None:
    """It was down while they were taken, and what it gets of the state is a checkpoint: it never saw those trees."""
    raft = {**SETTINGS["raft"], "log_keep_entries": 100, "checkpoint_every_entries": 100}
    settings = {**SETTINGS, "raft": raft, "retention": {"snapshot_every_s": 3_600}}
    async with Cluster(tmp_path, settings=settings) as cluster:
        client_settings = replace(cluster.client_settings(), lane=PATIENT, read_deadline_s=30.0)
        async with Client(client_settings) as client:
            await _misses_and_has(cluster, client)


async def _misses_and_has(cluster: Cluster, client: Client) -> None:
    workspace = await filled(client, "missed", 10)
    leader = await cluster.leader()
    victim = next(name for name in sorted(cluster.plans) if name != leader)
    cluster.kill(victim)
    taken: list[int] = []
    for turn in range(3):
        for number in range(120):
            await workspace.ops.create(bytes(16), b"turn %d file %d" % (turn, number), 0o644)
        taken.append((await take_snapshot(workspace)).log_index)
    await workspace.ops.mkdir(bytes(16), b"later")
    cluster.start(victim)
    address = cluster.plans[victim].client_address()
    signers: dict[int, str] = {}

    async def sound(log_index: int) -> bool:
        try:
            (check,) = await verify_snapshot(workspace, log_index, (address,))
        except HyperClusterError:
            return False
        signers[log_index] = check.signed_by
        return not check.problem

    for log_index in reversed(taken):
        await until(lambda: sound(log_index), f"{victim} has {log_index}")  # noqa: B023 (awaited in its turn)
    assert signers[taken[0]] != victim, "that tree was gone before it came back; the last may still have been its own"
    assert "came from a peer" in cluster.log(victim)


@pytest.mark.long
@pytest.mark.req("WS-53", "WS-54")
@pytest.mark.parametrize("seed", range(2))
async def test_nodes_killed_again_and_again_lose_no_record_and_no_page(tmp_path: Path, seed: int) -> None:
    """Whatever was trimmed is in each node's archive, without a gap, up to where its log begins; and what it stored of
    snapshots is whole."""
    print(f"seed {seed}")
    draw = random.Random(seed)
    settings = {**SETTINGS, "retention": {**SETTINGS["retention"], "oplog_keep_ops": 50, "snapshots_kept": 2}}
    async with Cluster(tmp_path, settings=settings) as cluster:
        client_settings = replace(cluster.client_settings(), lane=PATIENT, read_deadline_s=30.0)
        async with Client(client_settings) as client:
            workspace = await client.create_workspace("killed-often")
            stop = asyncio.Event()

            async def load() -> None:
                while not stop.is_set():
                    names = [b"%010d" % draw.getrandbits(32) for _ in range(20)]
                    results = await asyncio.gather(
                        *(workspace.ops.mkdir(bytes(16), name) for name in names), return_exceptions=True
                    )
                    assert all(not isinstance(found, AssertionError) for found in results)

            loading = asyncio.create_task(load())
            for _ in range(8):
                await asyncio.sleep(draw.uniform(0.5, 2.0))
                name = draw.choice(sorted(cluster.plans))
                cluster.kill(name)
                await asyncio.sleep(draw.uniform(0.0, 0.5))
                cluster.start(name)
            stop.set()
            await loading

            async def settled() -> bool:
                try:
                    log_index = (await take_snapshot(workspace)).log_index
                    checks = await verify_snapshot(workspace, log_index)
                except HyperClusterError:
                    return False
                return [check.problem for check in checks] == ["", "", ""]

            await until(settled, "each node has the newest snapshot, whole", 120.0)
            floor = (await list_snapshots(workspace)).retention.log_floor
            assert floor > 100
        for name in sorted(cluster.plans):
            assert await cluster.stop(name) == 0
            data = cluster.directory / name / "data"
            result = CliRunner().invoke(archive_commands, ["verify", str(data), "--json"], standalone_mode=False)
            (row,) = json.loads(result.output)["workspaces"]
            assert (row["damage"], row["gaps"], row["first"]) == ([], [], 1), name
            assert row["last"] >= floor - 1, name
