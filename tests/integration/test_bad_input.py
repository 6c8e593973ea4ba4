"""Bad input to real nodes: on the wire, in the data directory. Each ends in one clear error, and nothing is lost.

Messages between peers are attacked in test_peer_security.py; full disks in tests/crash/test_full_disk.py.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import grpc
import pytest
import pytest_asyncio
from google_crc32c import value as crc32c

from hypercluster.node.answers import REASONS
from hypercluster.pb.v1 import command_pb2, hub_command_pb2, read_pb2, workspace_command_pb2, workspace_pb2
from tests.integration.cluster import Cluster, eventually
from tests.integration.test_three_nodes import read, reason_of, write, write_until_acknowledged

EXIT_REFUSED, EXIT_FATAL = 1, 4
CODES = {"MALFORMED": grpc.StatusCode.INVALID_ARGUMENT, "TOO_LARGE": grpc.StatusCode.RESOURCE_EXHAUSTED}
LANE = bytes(15) + b"\x09"
HUB_SET = hub_command_pb2.HUB_OP_TYPE_SET
GOOD = command_pb2.Command(
    hub=hub_command_pb2.HubCommand(namespace="metadata", key=b"good", op_type=HUB_SET, payload=b"1")
).SerializeToString()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Cluster]:
    async with Cluster(tmp_path_factory.mktemp("bad-input"), 1) as running:
        await write_until_acknowledged(running, 1, 1, "a", '"1"')  # from now on nothing changes by itself
        yield running


pytestmark = pytest.mark.asyncio(loop_scope="module")


# --- on the wire ----------------------------------------------------------------------------------


def submit(*commands: bytes, **fields: object) -> bytes:
    values: dict[str, object] = {"client_id": LANE, "first_seq": 1, **fields}
    return command_pb2.Submit(commands=commands, **values).SerializeToString()  # type: ignore[arg-type]


def hub(**fields: object) -> bytes:
    values: dict[str, object] = {"namespace": "metadata", "key": b"k", "op_type": HUB_SET, "payload": b"1", **fields}
    command = command_pb2.Command(hub=hub_command_pb2.HubCommand(**values))  # type: ignore[arg-type]
    return command.SerializeToString()


CREATE = command_pb2.Command(
    file=workspace_command_pb2.FileCommand(
        create=workspace_command_pb2.Create(place=workspace_command_pb2.Place(directory=bytes(16), name=b"x"))
    )
).SerializeToString()
FORGET = command_pb2.Command(
    maintenance=command_pb2.MaintenanceCommand(forget_lane=command_pb2.ForgetLane(client_id=LANE, last_seq=1))
).SerializeToString()

# What is sent, the reason it is turned away with, and what the words must name: the field, and the limit.
TURNED_AWAY: dict[str, tuple[bytes, str, str]] = {
    "unknown command": (submit(b"\xaa\x06\x02hi"), "MALFORMED", r"commands\[0\]"),
    "no command kind": (submit(b""), "MALFORMED", r"commands\[0\]"),
    "not a command": (submit(b"\xff\xff\xff"), "MALFORMED", r"commands\[0\]"),
    "second of two": (submit(GOOD, b"\xff\xff\xff"), "MALFORMED", r"commands\[1\]"),
    "unknown field": (submit(GOOD) + b"\xfa\x06\x02hi", "MALFORMED", "Submit"),
    "command too large": (submit(b"x" * (1024 * 1024 + 1)), "TOO_LARGE", r"commands\[0\].*1048576"),
    "value too large": (submit(hub(payload=b'"%s"' % (b"x" * 262144))), "TOO_LARGE", r"payload.*262144"),
    "key too long": (submit(hub(key=b"k" * 1025)), "TOO_LARGE", r"key.*1024"),
    "no key": (submit(hub(key=b"")), "MALFORMED", r"key.*1024"),
    "namespace": (submit(hub(namespace="../x")), "MALFORMED", "namespace"),
    "not JSON": (submit(hub(payload=b"{")), "MALFORMED", "payload"),
    "floor": (submit(GOOD, floor=1), "MALFORMED", "floor"),
    "no workspace": (submit(CREATE), "MALFORMED", "workspace_id"),
    "operators only": (submit(FORGET), "MALFORMED", "maintenance"),
}


async def call(cluster: Cluster, message: bytes) -> command_pb2.Acks:
    """The answer to all commands of one message. Raises AioRpcError."""
    method: grpc.aio.UnaryUnaryMultiCallable[bytes, command_pb2.AcksBatch] = cluster.channel("n1").unary_unary(
        "/hypercluster.v1.CommandService/Call", response_deserializer=command_pb2.AcksBatch.FromString
    )
    batch = await method(message, timeout=10)
    assert len(batch.acks) == 1
    acks: command_pb2.Acks = batch.acks[0]
    return acks


async def state_of(cluster: Cluster) -> tuple[int, bytes]:
    status = await cluster.status("n1")
    assert status is not None
    return status.applied_index, status.digest


@pytest.mark.req("D-3", "D-8")
@pytest.mark.parametrize("name", TURNED_AWAY)
async def test_a_bad_command_is_turned_away_with_its_reason_and_the_field(cluster: Cluster, name: str) -> None:
    message, reason, words = TURNED_AWAY[name]
    before = await state_of(cluster)
    acks = await call(cluster, message)
    assert set(acks.reason) == {REASONS[reason]}, acks
    assert re.search(words, acks.message), acks.message
    assert len(acks.message) < 400
    assert acks.raft_index == 0
    assert await state_of(cluster) == before, "nothing was proposed"


@pytest.mark.req("CL-13")
@pytest.mark.parametrize(
    ("message", "reason", "words"),
    [
        (b"\xff\xff\xff", "MALFORMED", "Submit"),
        (submit(GOOD, client_id=b"short"), "MALFORMED", "client_id"),
        (submit(GOOD, first_seq=0), "MALFORMED", "first_seq"),
        (submit(), "MALFORMED", "commands.*256"),
        (submit(*[GOOD] * 257), "TOO_LARGE", "commands.*256"),
        (submit(*[b"x" * 1_000_000] * 3), "TOO_LARGE", "2097152"),
    ],
    ids=["not a Submit", "client id", "seq 0", "no command", "too many commands", "over 2 MiB"],
)
async def test_a_message_without_an_address_ends_its_call_alone(
    cluster: Cluster, message: bytes, reason: str, words: str
) -> None:
    before = await state_of(cluster)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call(cluster, message)
    assert (refused.value.code(), reason_of(refused.value)) == (CODES[reason], reason)
    assert re.search(words, refused.value.details() or ""), refused.value.details()
    await stream_ends(cluster, command_pb2.SubmitBatch(submits=[message]).SerializeToString(), reason, words)
    assert await state_of(cluster) == before
    acks = await write(cluster, "n1", 1, 1, "a", '"1"')
    assert not any(acks.reason), "the node goes on"


@pytest.mark.req("CL-13")
@pytest.mark.parametrize(
    ("message", "reason", "words"),
    [
        (b"\xff\xff\xff", "MALFORMED", "SubmitBatch"),
        (b"", "MALFORMED", "submits.*256"),
        (b"\x12\x00", "MALFORMED", "SubmitBatch"),
        (b"\x0a\x00" * 257, "TOO_LARGE", "submits.*256"),
    ],
    ids=["not a SubmitBatch", "no Submit", "an unknown field", "too many"],
)
async def test_a_bad_stream_message_ends_its_stream_alone(
    cluster: Cluster, message: bytes, reason: str, words: str
) -> None:
    before = await state_of(cluster)
    await stream_ends(cluster, message, reason, words)
    assert await state_of(cluster) == before


async def stream_ends(cluster: Cluster, message: bytes, reason: str, words: str) -> None:
    streams: grpc.aio.StreamStreamMultiCallable[bytes, bytes] = cluster.channel("n1").stream_stream(
        "/hypercluster.v1.CommandService/Stream"
    )
    stream = streams()
    await stream.write(message)
    with pytest.raises(grpc.aio.AioRpcError) as ended:
        await stream.read()
    assert (ended.value.code(), reason_of(ended.value)) == (CODES[reason], reason)
    assert re.search(words, ended.value.details() or ""), ended.value.details()


@pytest.mark.req("D-8")
async def test_another_workspace_or_cluster_is_refused_by_name(cluster: Cluster) -> None:
    nowhere = b"\x07" * 16
    acks = await call(cluster, submit(CREATE, workspace_id=nowhere, client_id=b"\x05" * 16))
    assert list(acks.reason) == [REASONS["NO_WORKSPACE"]]
    service = "/hypercluster.v1.WorkspaceService/"
    requests: list[tuple[str, bytes, str]] = [
        ("Stat", workspace_pb2.StatRequest(workspace_id=nowhere, path=b"x").SerializeToString(), "WRONG_WORKSPACE"),
        ("Stat", workspace_pb2.StatRequest(workspace_id=b"short", path=b"x").SerializeToString(), "WRONG_WORKSPACE"),
        (
            "List",
            workspace_pb2.WorkspaceListRequest(read=read_pb2.ReadOptions(cluster_id=b"y" * 16)).SerializeToString(),
            "WRONG_CLUSTER",
        ),
    ]
    for method, message, reason in requests:
        ask: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = cluster.channel("n1").unary_unary(service + method)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await ask(message, timeout=5)
        assert reason_of(refused.value) == reason, (method, refused.value.details())


# --- in the data directory ----------------------------------------------------------------------


def change(path: Path, edit: Callable[[bytearray], None]) -> None:
    content = bytearray(path.read_bytes())
    edit(content)
    path.write_bytes(content)


def flip(path: Path, at: int) -> None:
    def edit(content: bytearray) -> None:
        content[at] ^= 0x10

    change(path, edit)


def newer_identity(data: Path) -> None:
    lines = (data / "identity").read_bytes().replace(b"format: 1", b"format: 2").splitlines(keepends=True)
    body = b"".join(lines[:-1])
    (data / "identity").write_bytes(body + b"crc32c: %08x\n" % crc32c(body))


def no_segment(data: Path) -> None:
    for segment in (data / "wal").glob("*.wal"):
        segment.unlink()


def damaged_manifest(data: Path) -> None:
    checkpoint = data / "checkpoints" / f"{1:016x}-{1:016x}"
    checkpoint.mkdir()
    (checkpoint / "CHECKPOINT").write_bytes(b"HCCHECKP" + bytes(100))


def newer_manifest(data: Path) -> None:
    checkpoint = data / "checkpoints" / f"{1:016x}-{1:016x}"
    checkpoint.mkdir()
    (checkpoint / "CHECKPOINT").write_bytes(b"HCCHECKP" + (2).to_bytes(4, "big") + bytes(8))


def flip_first_entries(data: Path) -> None:
    flip(next((data / "wal").glob("*.wal")), 5000)


def flip_segment_header(data: Path) -> None:
    flip(next((data / "wal").glob("*.wal")), 20)


def lost_current(data: Path) -> None:
    next((data / "state").rglob("CURRENT")).write_bytes(b"nonsense\n")


# What is done to the directory of a stopped node, and what its one line of error must say.
DAMAGE: dict[str, tuple[Callable[[Path], None], str]] = {
    "identity damaged": (lambda data: flip(data / "identity", 70), r"identity is damaged.*hypercluster node rejoin"),
    "identity newer": (newer_identity, r"has format 2, this release reads up to 1: install"),
    "identity missing": (lambda data: (data / "identity").unlink(), r"has no identity file but is not empty"),
    "founding damaged": (lambda data: flip(data / "founding", 20), r"founding"),
    "log damaged": (flip_first_entries, r"/wal.*hypercluster wal inspect"),
    "log header damaged": (flip_segment_header, r"/wal.*hypercluster wal inspect"),
    "log missing": (no_segment, r"/wal"),
    "checkpoint damaged": (damaged_manifest, r"checkpoints/"),
    "checkpoint newer": (newer_manifest, r"format 2.*newer version"),
    "state damaged": (lost_current, r"/state"),
    "directory missing": (shutil.rmtree, r"is not there.*cluster init"),
}


async def ends_with(cluster: Cluster, code: int = EXIT_FATAL) -> str:
    """Starts n1, which must end by itself; returns what it printed."""
    name = "n1"
    before = len(cluster.log(name))
    cluster.start(name)
    process = cluster.processes[name]
    await eventually(lambda: process.poll() is not None, f"{name} refuses to start", 30)
    assert process.returncode == code, cluster.log(name)[before:]
    return cluster.log(name)[before:]


def check_one_error(printed: str, words: str) -> None:
    errors = [line for line in printed.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, printed
    assert re.search(words, errors[0]), errors[0]
    assert "Traceback" not in printed


OFTEN = ("identity damaged", "identity newer", "log damaged", "checkpoint damaged")


@pytest.mark.req("CL-3", "CL-15")
async def test_a_damaged_directory_is_refused_and_nothing_in_it_is_changed(tmp_path: Path) -> None:
    await refuse_damage(tmp_path, [name for name in DAMAGE if name in OFTEN])


@pytest.mark.long
@pytest.mark.req("CL-3", "CL-15")
async def test_a_directory_damaged_in_other_ways_is_refused(tmp_path: Path) -> None:
    await refuse_damage(tmp_path, [name for name in DAMAGE if name not in OFTEN])


async def refuse_damage(tmp_path: Path, names: list[str]) -> None:
    """Each damage to a copy of one directory; the node that gets it back as it was has everything."""
    async with Cluster(tmp_path, 1) as cluster:
        for seq in range(1, 40):
            await write(cluster, "n1", 1, seq, f"k{seq}", f'"{seq}"')
        assert await cluster.stop("n1") == 0
        data, kept = cluster.data("n1"), tmp_path / "kept"
        shutil.copytree(data, kept)
        for name in names:
            damage, words = DAMAGE[name]
            damage(data)
            as_damaged = contents(data)
            print(name)
            check_one_error(await ends_with(cluster), words)
            assert contents(data) == as_damaged, f"{name}: a refused directory was changed"
            shutil.rmtree(data, ignore_errors=True)
            shutil.copytree(kept, data)
        cluster.start("n1")
        await cluster.leader(20)
        for seq in range(1, 40):
            assert (await read(cluster, "n1", f"k{seq}")).records[0].payload == f'"{seq}"'.encode()


def contents(data: Path) -> dict[str, bytes]:
    """Of everything a node must not touch before it knows that the directory is sound."""
    if not data.exists():
        return {}
    names = ("identity", "founding", "wal", "checkpoints")
    files = [path for name in names for path in ((data / name), *(data / name).rglob("*")) if path.is_file()]
    return {str(path.relative_to(data)): path.read_bytes() for path in files}


@pytest.mark.long
@pytest.mark.req("CL-15")
async def test_a_directory_of_somebody_else_is_refused(tmp_path: Path) -> None:
    """Of another node, of another cluster, and one that is in use."""
    async with Cluster(tmp_path / "ours", 3) as cluster:
        await write_until_acknowledged(cluster, 1, 1, "a", '"1"')
        first = cluster.processes["n1"]
        check_one_error(await ends_with(cluster), r"is open in another process \(pid \d+\)")
        cluster.processes["n1"] = first
        for name in ("n1", "n2"):
            cluster.kill(name)
        own, theirs = cluster.data("n1"), cluster.data("n2")
        own.rename(tmp_path / "own")
        shutil.copytree(theirs, own)
        check_one_error(await ends_with(cluster), r"belongs to node 'n2', the configuration names 'n1'")
        shutil.rmtree(own)
        stranger = Cluster(tmp_path / "theirs", 3)
        shutil.copytree(stranger.data("n1"), own)
        printed = await ends_with(cluster, EXIT_REFUSED)
        check_one_error(printed, f"{cluster.cluster_id.hex()}/node/n1, .*{stranger.cluster_id.hex()}/node/n1: give")
        shutil.rmtree(own)
        (tmp_path / "own").rename(own)
        for name in ("n1", "n2"):
            cluster.start(name)
        leader = await cluster.leader(20)
        index = (await write_until_acknowledged(cluster, 1, 2, "b", '"2"'))[0]
        await cluster.all_applied(index, 20)
        assert (await read(cluster, leader, "a", level=read_pb2.READ_LEVEL_LEADER_LOCAL)).records[0].payload == b'"1"'
