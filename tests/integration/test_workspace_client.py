"""The client library and its commands against real nodes."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio

from hypercluster.client.chunking import hash_of
from hypercluster.client.client import Client
from hypercluster.client.export_tree import export_tree
from hypercluster.client.import_tree import import_tree
from hypercluster.client.lane_types import S_NS, Intent, LaneSettings
from hypercluster.client.sync_client import SyncClient
from hypercluster.client.workspace import Workspace
from hypercluster.client.workspace_check import compare_nodes
from hypercluster.errors import (
    BehindError,
    MalformedError,
    NoQuorumError,
    NotFoundError,
    OutcomeUnknownError,
    RefusedError,
)
from hypercluster.pb.v1 import workspace_pb2
from hypercluster.values import ReadLevel
from tests.demo.compare import diff, listing_differences
from tests.integration.cluster import Cluster

PATIENT = LaneSettings(no_leader_ns=20 * S_NS, deadline_ns=60 * S_NS)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Cluster]:
    async with Cluster(tmp_path_factory.mktemp("client"), 3) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def client(cluster: Cluster) -> AsyncIterator[Client]:
    async with Client(replace(cluster.client_settings(), lane=PATIENT)) as opened:
        yield opened


pytestmark = pytest.mark.asyncio(loop_scope="module")


def difficult_tree(top: Path) -> None:
    (top / "a" / "b" / "c").mkdir(parents=True)
    (top / "a" / "empty").touch()
    (top / "a" / "b" / "small").write_bytes(b"small")
    (top / "a" / "b" / "inline").write_bytes(os.urandom(8192))
    (top / "a" / "b" / "chunked").write_bytes(os.urandom(8193))
    (top / "large").write_bytes(os.urandom(2_500_000))
    (top / "script").write_text("#!/bin/sh\n")
    (top / "script").chmod(0o4711)
    (top / "read only").write_text("x")
    (top / "read only").chmod(0o400)
    os.link(top / "script", top / "a" / "other name")
    (top / "link").symlink_to("a/b")
    (top / "dangling").symlink_to("/nowhere")
    with open(os.fsencode(top) + b"/\xff\x01", "wb") as file:
        file.write(b"bytes")
    os.setxattr(top / "large", "user.kind", b"\x00big")
    os.setxattr(top / "a", "user.kind", b"directory")
    os.utime(top / "a" / "empty", ns=(0, 1_234_567_890_123_456_789))
    os.utime(top / "a", ns=(0, 987_654_321))
    (top / "a" / "b" / "c").chmod(0o500)


@pytest.mark.req("WS-60", "WS-61")
async def test_what_goes_in_comes_out(client: Client, tmp_path: Path) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    source.mkdir()
    difficult_tree(source)
    workspace = await client.create_workspace("roundtrip")
    told: list[int] = []
    report = await import_tree(workspace, str(source), lambda progress: told.append(progress.entries_done))
    assert report.skipped == []
    assert (report.files, report.directories, report.symlinks, report.links) == (8, 3, 2, 1)
    assert told[-1] == 14
    exported = await export_tree(workspace, out)
    assert exported.problems == {}
    assert (exported.log_index, exported.root) == (report.log_index, report.root)
    assert diff(source, out) == []
    assert listing_differences(source, out) == []
    assert out.stat().st_mode == source.stat().st_mode
    assert out.stat().st_mtime_ns == source.stat().st_mtime_ns
    with pytest.raises(MalformedError, match="not an empty directory"):
        await export_tree(workspace, out)
    # A second import over the first changes what has changed and nothing else.
    (source / "a" / "b" / "small").write_bytes(b"other")
    (source / "link").unlink()
    (source / "link").symlink_to("elsewhere")
    await import_tree(workspace, str(source))
    await export_tree(workspace, tmp_path / "again")
    assert diff(source, tmp_path / "again") == []
    assert listing_differences(source, tmp_path / "again") == []


@pytest.mark.req("WS-60", "WS-28")
async def test_files_by_path(client: Client) -> None:
    workspace = await client.create_workspace("paths")
    await workspace.mkdir("docs")
    await workspace.put("docs/one", b"first")
    inode = await workspace.stat("docs/one")
    assert inode.kind == workspace_pb2.FILE_KIND_FILE
    assert (inode.size, inode.nlink, inode.mode) == (5, 1, 0o644)
    await workspace.append("docs/one", b" second")
    assert b"".join([b async for b in workspace.get("docs/one")]) == b"first second"
    with pytest.raises(RefusedError) as stale:
        await workspace.put("docs/one", b"lost update", base_index=inode.content_index)
    assert (stale.value.reason, stale.value.errno) == ("PRECONDITION_FAILED", errno.EBUSY)
    present = (await workspace.stat("docs/one")).content_index
    assert stale.value.version == present
    await workspace.put("docs/one", b"third", base_index=present)
    await workspace.link("docs/one", "docs/two")
    await workspace.symlink("one", "docs/three")
    await workspace.chmod("docs/one", 0o600)
    await workspace.utimens("docs/two", 42)
    await workspace.set_xattr("docs/one", "user.x", b"y")
    found = await workspace.stat("docs/two", with_xattrs=True)
    assert (found.nlink, found.mode, found.mtime_ns) == (2, 0o600, 42)
    assert [(x.name, x.value) for x in found.xattrs] == [(b"user.x", b"y")]
    await workspace.remove_xattr("docs/one", "user.x")
    await workspace.rename("docs/two", "docs/zwei")
    await workspace.fsync("docs/one")
    assert [entry.name async for entry in workspace.readdir("docs")] == [b"one", b"three", b"zwei"]
    walked = [entry.path async for entry in workspace.walk()]
    assert walked == [b"docs", b"docs/one", b"docs/three", b"docs/zwei"]
    for path, number in (("nowhere", errno.ENOENT), ("docs/one/x", errno.ENOTDIR)):
        with pytest.raises(RefusedError) as refused:
            await workspace.stat(path)
        assert refused.value.errno == number
    with pytest.raises(RefusedError, match="ENOTEMPTY") as full:
        await workspace.rmdir("docs")
    assert full.value.errno == errno.ENOTEMPTY
    await workspace.unlink("docs/zwei")
    indexes = [record.log_index async for record in workspace.log()]
    assert indexes == list(range(1, (await workspace.barrier()).workspace.log_index + 1))
    roots = await compare_nodes(workspace)
    assert len({(node.log_index, node.root) for node in roots}) == 1
    assert not any(node.problem for node in roots)


@pytest.mark.req("WS-14", "WS-32")
async def test_content_is_sent_once_and_fetched_verified(client: Client) -> None:
    workspace = await client.create_workspace("content")
    content = os.urandom(300_000)
    await workspace.put("one", content)
    assert (workspace.ops.chunks.sent, workspace.ops.chunks.shared) == (5, 0)
    again = await client.open_workspace("content")
    await again.put("two", content)
    assert (again.ops.chunks.sent, again.ops.chunks.shared) == (0, 5)
    inode = await again.stat("two")
    assert await again.pread(inode.inode_id, 65_000, 1_000) == content[65_000:66_000]
    assert await again.pread(inode.inode_id, 299_990, 100) == content[-10:]
    await again.write("two", b"tail", 400_000)
    assert await again.pread(inode.inode_id, 299_999, 5) == content[-1:] + bytes(4)
    with pytest.raises(NotFoundError):
        await again.ops.chunks.fetch([hash_of(b"nobody has this")])


@pytest.mark.req("WS-12", "WS-31")
async def test_many_operations_in_flight_keep_their_order(client: Client) -> None:
    workspace = await client.create_workspace("order")
    made = await workspace.put("log", b"")
    waits = [asyncio.ensure_future(workspace.ops.append(made.inode_id, b"%05d\n" % i)) for i in range(3_000)]
    results = await asyncio.gather(*waits)
    assert [r.applied_offset for r in results] == [6 * i for i in range(3_000)]
    content = b"".join([block async for block in workspace.get("log")])
    assert content == b"".join(b"%05d\n" % i for i in range(3_000))


@pytest.mark.req("WS-60", "CL-10")
async def test_hub_values_and_levels(client: Client) -> None:
    written = await client.hub.set("settings", b"limit", b"1", expected_version=0)
    with pytest.raises(RefusedError) as refused:
        await client.hub.set("settings", b"limit", b"2", expected_version=0)
    assert (refused.value.reason, refused.value.version) == ("PRECONDITION_FAILED", written.version)
    await client.hub.set("settings", b"limit", b"2", expected_version=written.version)
    for level in ReadLevel:
        value = await client.hub.get("settings", b"limit", level=level, min_index=client.known_index())
        assert value.payload == b"2"
        assert value.node_id in {"n1", "n2", "n3"}
    versions = await client.hub.versions("settings", b"limit")
    assert [(v.payload, v.version, v.deleted) for v in versions] == [
        (b"2", value.version, False),
        (b"1", written.version, False),
    ]
    assert [v.version for v in await client.hub.versions("settings", b"limit", limit=1)] == [value.version]
    for number in range(12):
        await client.hub.set("metadata", b"list/%02d" % number, b"%d" % number)
    listed = [value.key async for value in client.hub.list("metadata", b"list/")]
    assert listed == [b"list/%02d" % number for number in range(12)]
    await client.hub.delete("metadata", b"list/00")
    assert not (await client.hub.get("metadata", b"list/00")).found
    assert (await client.hub.versions("metadata", b"list/00"))[0].deleted
    with pytest.raises(RefusedError, match="namespace"):
        await client.hub.set("nonsense", b"k", b"1")


@pytest.mark.req("CL-10")
async def test_a_client_waits_for_the_index_it_was_told_of(cluster: Cluster, client: Client) -> None:
    workspace = await client.create_workspace("told")
    made = await workspace.mkdir("there")
    for address in cluster.client_settings().nodes:
        async with Client(replace(cluster.client_settings(), nodes=(address,), read_deadline_s=1.0)) as other:
            other.see_at_least(made.raft_index)
            assert other.known_index() == made.raft_index == other.lane().lane.known_index
            seen = Workspace(other, workspace.workspace_id, "told")
            assert (await seen.stat("there", level=ReadLevel.BOUNDED_STALE)).inode_id == made.inode_id
            there = await seen.look("there", level=ReadLevel.BOUNDED_STALE)
            assert there.inode is not None and there.inode.inode_id == made.inode_id
            assert there.state.applied_index >= made.raft_index
            assert (await seen.look("nowhere", level=ReadLevel.BOUNDED_STALE)).inode is None
            other.see_at_least(1 << 40)
            assert other.lane().lane.known_index == 1 << 40
            with pytest.raises((BehindError, NoQuorumError)):
                await seen.stat("there", level=ReadLevel.BOUNDED_STALE)


@pytest.mark.req("D-7", "WS-12")
async def test_an_intent_sent_by_another_run_is_answered_as_the_first_time(cluster: Cluster, client: Client) -> None:
    await client.hub.set("metadata", b"intent", b"0")
    intent = Intent.parse(Intent(os.urandom(16), 5, client.known_index()).token())
    answers = []
    for _ in range(3):
        async with Client(cluster.client_settings(), resume=intent) as run:
            answers.append(await run.hub.set("metadata", b"intent", b"1"))
    assert answers[0] == answers[1] == answers[2]
    async with Client(cluster.client_settings()) as run:
        assert (await run.intent_status(intent))[0]
        judged, index = await run.intent_status(replace(intent, seq=6))
        assert (judged, index >= answers[0].raft_index) == (False, True)
    async with Client(cluster.client_settings(), resume=intent) as run:
        with pytest.raises(RefusedError, match="key") as conflict:
            await run.hub.set("metadata", b"intent", b"2")
    assert conflict.value.reason == "IDEMPOTENCY_CONFLICT"


@pytest.mark.req("WS-60")
async def test_one_malformed_command_fails_alone(client: Client) -> None:
    done = await asyncio.gather(
        client.hub.set("metadata", b"good/1", b"1"),
        client.hub.set("metadata", b"bad", b"not json"),
        client.hub.set("metadata", b"good/2", b"2"),
        return_exceptions=True,
    )
    assert isinstance(done[1], MalformedError)
    assert "payload" in str(done[1])
    assert not isinstance(done[0], BaseException)
    assert not isinstance(done[2], BaseException)


@pytest.mark.req("WS-60")
async def test_the_synchronous_face(cluster: Cluster) -> None:
    def work() -> None:
        with SyncClient(cluster.client_settings()) as client:
            client.hub.set("metadata", b"sync", b"1")
            assert client.hub.get("metadata", b"sync").payload == b"1"
            workspace = client.create_workspace("sync")
            workspace.put("file", b"content")
            workspace.put("other", b"more")
            assert b"".join(workspace.get("file")) == b"content"
            assert [entry.name for entry in workspace.readdir()] == [b"file", b"other"]
            with pytest.raises(RefusedError):
                workspace.unlink("nothing")
            assert len(client.status()) == 3

    await asyncio.to_thread(work)


@pytest.mark.req("WS-34")
async def test_a_client_keeps_below_the_rate_and_does_not_show_it(tmp_path: Path) -> None:
    slow = {"rate": {"ops_per_s": 400, "burst_ops": 50, "bytes_per_s": 1 << 30}}
    async with (
        Cluster(tmp_path, 1, settings=slow) as limited,
        Client(replace(limited.client_settings(), lane=PATIENT)) as client,
    ):
        loop = asyncio.get_running_loop()
        started_s = loop.time()
        sets = [client.hub.set("metadata", b"k%d" % i, b"1", lane=i % 3) for i in range(1_000)]
        written = await asyncio.gather(*sets)
        took_s = loop.time() - started_s
    assert sorted(w.version for w in written) == list(range(1, 1_001))
    assert took_s > 1.9  # 950 beyond the burst at 400 a second
    assert took_s < 12


@pytest.mark.req("WS-3", "D-8")
async def test_without_a_quorum_nothing_is_written_and_the_error_says_so(tmp_path: Path) -> None:
    async with Cluster(tmp_path, 3) as dying:
        quick = LaneSettings(no_leader_ns=S_NS // 2, deadline_ns=3 * S_NS // 2)
        settings = replace(dying.client_settings(), lane=quick, read_deadline_s=1.0)
        async with Client(settings) as client:
            await client.hub.set("metadata", b"k", b"1")
            leader = await dying.leader()
            for name in dying.plans:
                if name != leader:
                    dying.kill(name)
            dying.kill(leader)
            # The first is on the wire before the client can know that nobody reads it; the second is never sent.
            with pytest.raises(OutcomeUnknownError):
                await client.hub.set("metadata", b"k", b"2")
            with pytest.raises(NoQuorumError):
                await client.hub.set("metadata", b"k", b"3")
            with pytest.raises(NoQuorumError, match="refuses the connection"):
                await client.hub.get("metadata", b"k")


@pytest.mark.req("WS-61")
async def test_the_commands(cluster: Cluster, tmp_path: Path) -> None:
    def run(*arguments: str, stdin: bytes = b"", code: int = 0) -> str:
        command = [sys.executable, "-m", "hypercluster.cli.main", *arguments, "--config", str(cluster.client_file)]
        done = subprocess.run(command, input=stdin, capture_output=True, check=False)
        assert done.returncode == code, (arguments, done.stdout, done.stderr)
        return (done.stdout + done.stderr).decode()

    def work() -> None:
        source = tmp_path / "source"
        source.mkdir()
        difficult_tree(source)
        imported = json.loads(run("workspace", "import", "cli", str(source), "--json"))
        assert (imported["files"], imported["skipped"]) == (8, [])
        run("workspace", "put", "cli", "new", stdin=b"hello\n")
        assert run("workspace", "cat", "cli", "new") == "hello\n"
        run("workspace", "mv", "cli", "new", "newer")
        run("workspace", "ln", "cli", "newer", "newest")
        stat = json.loads(run("workspace", "stat", "cli", "newest", "--json"))
        assert (stat["kind"], stat["nlink"], stat["size"]) == ("file", 2, 6)
        names = [json.loads(line)["name"] for line in run("workspace", "ls", "cli", "--json").splitlines()]
        assert "newest" in names
        assert "ENOTEMPTY" in run("workspace", "rm", "cli", "a", code=1)
        run("workspace", "rm", "cli", "a", "-r")
        assert json.loads(run("workspace", "log", "cli", "-n", "1", "--json"))["op"] == "rmdir"
        assert json.loads(run("workspace", "verify", "cli", "--json"))["equal"]
        assert "✓" in run("workspace", "export", "cli", str(tmp_path / "out"))
        assert (tmp_path / "out" / "newer").read_bytes() == b"hello\n"
        assert "there is none of this name" in run("workspace", "ls", "nothing", code=1)
        run("hub", "set", "greeting", '"hi"')
        assert run("hub", "get", "greeting") == '"hi"\n'
        assert "is not JSON" in run("hub", "set", "greeting", "hi", code=2)
        run("hub", "get", "nothing", code=1)

    await asyncio.to_thread(work)
