"""Three real node processes: what is acknowledged survives kill -9, reads are linearizable, strangers stay out."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import grpc
import pytest
from google.rpc import status_pb2

from hypercluster.credentials.certificates import issue_client, make_ca, write_pair
from hypercluster.credentials.tls import TlsFiles
from hypercluster.node.answers import REASONS
from hypercluster.pb.v1 import command_pb2, command_pb2_grpc, hub_pb2, hub_pb2_grpc, read_pb2
from hypercluster.rpc.status import error_info
from hypercluster.values import ClusterId
from tests.integration.cluster import Cluster
from tests.unit.node.commands import client, hub_set, submit


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    """A cluster of one test's own, which may break it."""
    async with Cluster(tmp_path) as running:
        yield running


@pytest.fixture(scope="module")
def shared_directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Nodes for the tests that leave them as they are; each test has channels of its own loop."""
    cluster = Cluster(tmp_path_factory.mktemp("shared"))
    for name in cluster.plans:
        cluster.start(name)
    yield cluster
    asyncio.run(cluster.close())


@pytest.fixture
async def calm(shared_directory: Cluster) -> AsyncIterator[Cluster]:
    """The shared cluster with a leader."""
    await shared_directory.leader(20)
    await shared_directory.all_applied(1, 20)
    yield shared_directory
    await shared_directory.close_channels()


def commands(cluster: Cluster, node: str) -> command_pb2_grpc.CommandServiceStub:
    return command_pb2_grpc.CommandServiceStub(cluster.channel(node))  # type: ignore[no-untyped-call]


def hub(cluster: Cluster, node: str) -> hub_pb2_grpc.HubServiceStub:
    return hub_pb2_grpc.HubServiceStub(cluster.channel(node))  # type: ignore[no-untyped-call]


def message(lane: int, seq: int, key: str, value: str) -> command_pb2.Submit:
    return command_pb2.Submit.FromString(submit(client(lane), seq, hub_set(key, value)))


def batch(*messages: command_pb2.Submit) -> command_pb2.SubmitBatch:
    return command_pb2.SubmitBatch(submits=[m.SerializeToString() for m in messages])


async def write(cluster: Cluster, node: str, lane: int, seq: int, key: str, value: str) -> command_pb2.Acks:
    answer = await commands(cluster, node).Call(message(lane, seq, key, value), timeout=5)
    assert len(answer.acks) == 1
    acks: command_pb2.Acks = answer.acks[0]
    return acks


async def read(cluster: Cluster, node: str, key: str, **options: int) -> hub_pb2.HubGetResponse:
    request = hub_pb2.HubGetRequest(namespace="metadata", keys=[key.encode()], read=read_pb2.ReadOptions(**options))
    answer: hub_pb2.HubGetResponse = await hub(cluster, node).Get(request, timeout=5)
    return answer


async def write_until_acknowledged(cluster: Cluster, lane: int, seq: int, key: str, value: str) -> tuple[int, str]:
    """Through whatever node leads, with the same key until it is answered: (Raft index, node)."""
    end = time.monotonic() + 15
    while time.monotonic() < end:
        for node, process in cluster.processes.items():
            if process.poll() is not None:
                continue
            with contextlib.suppress(grpc.aio.AioRpcError):
                batch = await commands(cluster, node).Call(message(lane, seq, key, value), timeout=1)
                acks = batch.acks[0]
                if not any(acks.reason):
                    return acks.raft_index, node
        await asyncio.sleep(0.01)
    raise AssertionError("no write was acknowledged within 15 s")


def reason_of(error: grpc.aio.AioRpcError) -> str:
    raw = dict(error.trailing_metadata() or ()).get("grpc-status-details-bin", b"")
    info = error_info(status_pb2.Status.FromString(raw if isinstance(raw, bytes) else raw.encode()))
    return info.reason if info is not None else ""


@pytest.mark.req("CL-12", "CL-10")
async def test_acknowledged_writes_survive_kill_9_of_the_leader(cluster: Cluster) -> None:
    written: dict[str, str] = {}
    gaps_s = []
    for kill in range(2):
        leader = await cluster.leader()
        for number in range(30):
            key = f"k{kill}-{number}"
            await write_until_acknowledged(cluster, 1, kill * 31 + number + 1, key, f'"{number}"')
            written[key] = f'"{number}"'
        cluster.kill(leader)
        began_s = time.monotonic()
        _, node = await write_until_acknowledged(cluster, 1, kill * 31 + 31, f"after-{kill}", '"alive"')
        gaps_s.append(time.monotonic() - began_s)
        assert node != leader
        for key, value in written.items():
            answer = await read(cluster, node, key)
            assert answer.records[0].payload == value.encode(), key
            assert answer.state.staleness_ms == 0
        cluster.start(leader)
        index = (await read(cluster, node, "after-0")).state.applied_index
        await cluster.all_applied(index, 20)
    print(f"next commit after kill -9: {', '.join(f'{gap:.2f} s' for gap in gaps_s)}")
    assert max(gaps_s) < 2.0, gaps_s
    statuses = await cluster.all_applied(0)
    by_index = {s.applied_index: s.digest for s in statuses}
    assert len(set(by_index.values())) == len(by_index), "equal index, equal digest"


@pytest.mark.req("CL-13")
async def test_any_node_names_the_leader(calm: Cluster) -> None:
    leader = await calm.leader()
    follower = next(name for name in calm.plans if name != leader)
    await calm.all_applied(1)
    acks = await write(calm, follower, 1, 1, "a", '"1"')
    assert list(acks.reason) == [REASONS["NOT_LEADER"]]
    assert acks.leader_hint == calm.address(leader)
    assert acks.raft_index == 0
    done = await write(calm, leader, 1, 1, "a", '"1"')
    assert not done.reason and done.raft_index > 0, "a turn-away left the key free"
    again = await write(calm, leader, 1, 1, "a", '"1"')
    assert (again.raft_index, list(again.version)) == (done.raft_index, list(done.version))
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await read(calm, follower, "a")
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    assert reason_of(refused.value) == "NOT_LEADER"


@pytest.mark.req("CL-10")
async def test_followers_answer_bounded_stale_and_read_your_writes(cluster: Cluster) -> None:
    leader = await cluster.leader()
    follower = next(name for name in cluster.plans if name != leader)
    for seq in range(1, 20):
        acks = await write(cluster, leader, 1, seq, "a", f'"{seq}"')
        answer = await read(cluster, follower, "a", level=2, min_index=acks.raft_index)
        assert answer.records[0].payload == f'"{seq}"'.encode()
        assert answer.state.staleness_ms < 2_000
        assert answer.state.applied_index >= acks.raft_index
    cluster.pause(leader)
    others = [n for n in cluster.plans if n not in {leader, follower}]
    cluster.kill(others[0])
    await asyncio.sleep(0)
    end = time.monotonic() + 8
    while (await read(cluster, follower, "a", level=2)).state.staleness_ms < 1_500:
        assert time.monotonic() < end, "staleness must grow while no leader is heard"
        await asyncio.sleep(0.05)
    with pytest.raises(grpc.aio.AioRpcError) as stale:
        await read(cluster, follower, "a", level=2, staleness_max_ms=1_000)
    assert reason_of(stale.value) == "BEHIND"
    with pytest.raises(grpc.aio.AioRpcError) as alone:
        await write_once(cluster, follower)
    assert alone.value
    cluster.resume(leader)


async def write_once(cluster: Cluster, node: str) -> None:
    """Raises when the write is turned away."""
    acks = await write(cluster, node, 9, 1, "minority", '"x"')
    assert acks.reason[0] == REASONS["NOT_LEADER"]
    await read(cluster, node, "a")


@pytest.mark.req("CL-11", "OPS-6")
async def test_a_graceful_stop_hands_leadership_over(cluster: Cluster) -> None:
    leader = await cluster.leader()
    await write_until_acknowledged(cluster, 1, 1, "a", '"1"')
    term = (await cluster.status(leader)).term  # type: ignore[union-attr]
    stream = commands(cluster, leader).Stream()
    await stream.write(batch(message(2, 1, "b", '"1"')))
    assert not any((await stream.read()).acks[0].reason)
    stopping = asyncio.create_task(cluster.stop(leader, 10.0))  # with a client that never ends its stream
    node, seq, gaps_s = leader, 1, []
    while node == leader:
        seq += 1
        began_s = time.monotonic()
        _, node = await write_until_acknowledged(cluster, 1, seq, "a", f'"{seq}"')
        gaps_s.append(time.monotonic() - began_s)
    assert await stopping == 0
    assert max(gaps_s) < 1.5, "handed over, not timed out"
    after = await cluster.status(node)
    assert after is not None and after.term == term + 1
    assert '"leadership handed over", "outcome": "None"' in cluster.log(leader)


@pytest.mark.req("CL-10", "CL-11", "D-11")
async def test_cut_off_nodes_depose_nobody_and_a_minority_serves_nothing_new(cluster: Cluster) -> None:
    await write_until_acknowledged(cluster, 1, 1, "a", '"1"')
    leader = await cluster.leader()
    followers = [name for name in cluster.plans if name != leader]
    term = (await cluster.status(leader)).term  # type: ignore[union-attr]

    cluster.pause(followers[0])
    await silence(cluster, leader, followers[0], 1_500)
    cluster.resume(followers[0])
    acks = await write(cluster, leader, 1, 2, "a", '"2"')
    assert not acks.reason
    await cluster.all_applied(acks.raft_index)
    after = await cluster.status(leader)
    assert after is not None and (after.role, after.term) == ("leader", term), "it came back and deposed nobody"

    for name in followers:
        cluster.pause(name)
    began_s = time.monotonic()
    with pytest.raises(grpc.aio.AioRpcError) as unconfirmed:
        await read(cluster, leader, "a")
    assert reason_of(unconfirmed.value) in {"NOT_LEADER", "NO_QUORUM", "BEHIND"}
    while (status := await cluster.status(leader)) is not None and status.role == "leader":
        assert time.monotonic() - began_s < 2 * 0.8 + 1.0, "a leader without a majority steps down"
    refused = await write(cluster, leader, 1, 3, "a", '"3"')
    assert list(refused.reason) == [REASONS["NOT_LEADER"]]
    stale = await read(cluster, leader, "a", level=2)
    assert stale.records[0].payload == b'"2"', "a minority goes on to serve stale reads"
    for name in followers:
        cluster.resume(name)
    await write_until_acknowledged(cluster, 1, 3, "a", '"3"')


async def silence(cluster: Cluster, leader: str, peer: str, span_ms: int) -> None:
    """Until the leader has not heard of `peer` for so long."""
    end = time.monotonic() + 10
    while True:
        status = await cluster.status(leader)
        if status is not None and any(p.node_id == peer and p.last_contact_ms > span_ms for p in status.peers):
            return
        assert time.monotonic() < end
        await asyncio.sleep(0.02)


async def test_a_restart_of_all_keeps_everything(cluster: Cluster) -> None:
    leader = await cluster.leader()
    for seq in range(1, 50):
        await write(cluster, leader, 1, seq, f"k{seq}", f'"{seq}"')
    for name in cluster.plans:
        cluster.kill(name)
    for name in cluster.plans:
        cluster.start(name)
    leader = await cluster.leader(20)
    end = time.monotonic() + 10
    while True:
        try:
            answers = [await read(cluster, leader, f"k{seq}") for seq in range(1, 50)]
            break
        except grpc.aio.AioRpcError:
            assert time.monotonic() < end
            leader = await cluster.leader()
    assert [a.records[0].payload for a in answers] == [f'"{seq}"'.encode() for seq in range(1, 50)]
    again = await write(cluster, leader, 1, 49, "k49", '"49"')
    assert not again.reason and again.version, "the stored answer survives, too"


@pytest.mark.req("CL-13")
async def test_a_stream_carries_many_lanes_and_answers_each_command_once(calm: Cluster) -> None:
    leader = await calm.leader()
    stream = commands(calm, leader).Stream()
    lanes, per_lane = 8, 120
    for seq in range(1, per_lane + 1):
        runs = [message(lane, seq, f"{lane}", f'"{seq}"') for lane in range(100, 100 + lanes)]
        await stream.write(batch(*runs[:3]))
        await stream.write(batch(*runs[3:]))
    await stream.done_writing()
    seen: dict[bytes, list[int]] = {}
    async for answer in stream:
        for acks in answer.acks:
            assert not any(acks.reason), acks
            seen.setdefault(acks.client_id, []).extend(range(acks.first_seq, acks.first_seq + acks.count))
    assert {k: v == list(range(1, per_lane + 1)) for k, v in seen.items()} == {
        client(100 + n): True for n in range(lanes)
    }


async def test_only_certificates_of_this_cluster_get_in(calm: Cluster, tmp_path: Path) -> None:
    leader = await calm.leader()
    stranger_id = ClusterId(b"x" * 16)
    stranger = make_ca(stranger_id)
    write_pair(issue_client(stranger, stranger_id, "mallory"), tmp_path / "m.pem", tmp_path / "m.key")
    (tmp_path / "both.pem").write_bytes((calm.directory / "ca.pem").read_bytes() + stranger.certificate_pem)
    channel = calm.new_channel(leader, TlsFiles(tmp_path / "both.pem", tmp_path / "m.pem", tmp_path / "m.key"))
    stub = hub_pb2_grpc.HubServiceStub(channel)  # type: ignore[no-untyped-call]
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await stub.Get(hub_pb2.HubGetRequest(namespace="metadata", keys=[b"a"]), timeout=3)
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    await channel.close()


async def test_bad_input_gets_one_status_with_a_reason(calm: Cluster) -> None:
    leader = await calm.leader()
    call = calm.channel(leader).unary_unary("/hypercluster.v1.HubService/Get")
    for content, code, reason in (
        (b"\xff\xff", grpc.StatusCode.INVALID_ARGUMENT, "MALFORMED"),
        (b"\xfa\x01\x02hi", grpc.StatusCode.INVALID_ARGUMENT, "MALFORMED"),
        (b"\x12" + b"\xff\xff\x7f" + bytes(2_097_151), grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_LARGE"),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call(content, timeout=3)
        assert (refused.value.code(), reason_of(refused.value)) == (code, reason)
    with pytest.raises(grpc.aio.AioRpcError) as other:
        await hub(calm, leader).Get(
            hub_pb2.HubGetRequest(namespace="metadata", keys=[b"a"], read=read_pb2.ReadOptions(cluster_id=b"y" * 16)),
            timeout=3,
        )
    assert reason_of(other.value) == "WRONG_CLUSTER"
    unknown = calm.channel(leader).unary_unary("/hypercluster.v1.HubService/Nothing")
    with pytest.raises(grpc.aio.AioRpcError) as nothing:
        await unknown(b"", timeout=3)
    assert nothing.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_the_disk_layout_is_as_documented(calm: Cluster) -> None:
    await write_until_acknowledged(calm, 1, 1, "a", '"1"')
    for name in calm.plans:
        found = {p.name for p in calm.data(name).iterdir()}
        assert {"identity", "founding", "lock", "wal", "state", "chunks", "checkpoints"} <= found, name
        assert (calm.data(name) / "identity").stat().st_mode & 0o777 == 0o600


async def test_status_names_every_node(calm: Cluster) -> None:
    leader = await calm.leader()
    await calm.all_applied(1)
    answer = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "hypercluster.cli.main", "status", "--json", "--config", str(calm.client_file)],
        capture_output=True,
        timeout=20,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
    found = json.loads(answer.stdout)
    assert found["leader"] == leader
    assert {node["node"]: node["state"] for node in found["nodes"]} == dict.fromkeys(calm.plans, "ok")


@pytest.mark.req("D-16")
async def test_nothing_secret_enters_log_or_state(calm: Cluster) -> None:
    """Private keys authenticate every one of these writes; none of their bytes reaches a log, a state or a chunk."""
    await write_until_acknowledged(calm, 95, 1, "secret", '"1"')
    secrets = []
    for file in calm.directory.rglob("*.key"):
        pem = file.read_bytes()
        secrets += [b"".join(pem.splitlines()[1:-1])[:48], base64.b64decode(b"".join(pem.splitlines()[1:-1]))[-64:]]
    assert len(secrets) >= 2 * (len(calm.plans) + 2), "a key a node, one of the authority, one of the client"
    stored = b"".join(f.read_bytes() for name in calm.plans for f in calm.data(name).rglob("*") if f.is_file())
    assert b"secret" in stored, "what was written is there: this looks at the right files"
    assert not [secret for secret in secrets if secret in stored]
