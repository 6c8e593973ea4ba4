"""Workers against real nodes: following, kill -9 at any moment, failures that stop, histories that change."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio

from hypercluster.client.client import Client
from hypercluster.client.export_tree import export_tree
from hypercluster.client.lane_types import S_NS, LaneSettings
from hypercluster.client.sqlite_store import SqliteStore
from hypercluster.client.worker.mirror import DATABASE
from hypercluster.client.worker.state import WorkerState, read_status
from hypercluster.client.worker.worker import Worker, state_directory
from hypercluster.client.workspace import Workspace
from hypercluster.errors import HyperClusterError
from hypercluster.state_machine.store import Change, Family
from hypercluster.state_machine.workspace.records import PLACE_BYTES, inode_key
from tests.demo.compare import diff, listing_differences
from tests.integration.cluster import Cluster, eventually

PATIENT = LaneSettings(no_leader_ns=20 * S_NS, deadline_ns=60 * S_NS)

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Cluster]:
    async with Cluster(tmp_path_factory.mktemp("worker"), 3) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def client(cluster: Cluster) -> AsyncIterator[Client]:
    async with Client(replace(cluster.client_settings(), lane=PATIENT)) as opened:
        yield opened


@contextlib.asynccontextmanager
async def running(client: Client, workspace: Workspace, directory: Path) -> AsyncIterator[Worker]:
    async with Worker(client, workspace.workspace_id, workspace.name, "w", directory) as worker:
        work = asyncio.create_task(worker.run())
        try:
            yield worker
        finally:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)


async def churn(workspace: Workspace, draw: random.Random, rounds: int) -> None:
    """Operations of every kind, most of them accepted."""
    ops = workspace.ops
    directories, files = [bytes(16)], list[bytes]()
    names = [b"a", b"b", b"c", b"d.lock", b"\xff"]
    for _ in range(rounds):
        spot = (draw.choice(directories), draw.choice(names))
        other = (draw.choice(directories), draw.choice(names))
        with contextlib.suppress(HyperClusterError):
            match draw.randrange(9):
                case 0:
                    directories.append((await ops.mkdir(*spot, draw.choice((0o755, 0o500)))).inode_id)
                case 1 | 2:
                    files.append((await ops.create(*spot, draw.choice((0o644, 0o400)))).inode_id)
                case 3 if files:
                    await ops.write(draw.choice(files), draw.randbytes(draw.choice((10, 3_000, 90_000))), 100)
                case 4 if files:
                    await ops.append(draw.choice(files), draw.randbytes(50))
                case 5:
                    await ops.rename(spot, other)
                case 6 if files:
                    await ops.link(draw.choice(files), *spot)
                case 7 if files:
                    await ops.set_xattr(draw.choice(files), b"user.x", draw.randbytes(3))
                case _:
                    await ops.unlink(*spot)


async def assert_equals_export(workspace: Workspace, directory: Path, out: Path) -> None:
    await export_tree(workspace, out)
    assert diff(directory, out) == []
    assert listing_differences(directory, out) == []


@pytest.mark.req("WS-1", "WS-50", "WS-51", "WS-63")
async def test_a_mirror_follows_and_goes_on_after_a_restart(client: Client, tmp_path: Path) -> None:
    workspace = await client.create_workspace("following")
    draw = random.Random(1)
    mirror = tmp_path / "mirror"
    for turn in range(3):
        await churn(workspace, draw, 30)
        async with running(client, workspace, mirror) as worker:
            await churn(workspace, draw, 60)
            barrier = await workspace.barrier()
            async with asyncio.timeout(20):
                await worker.wait_applied(barrier.workspace.log_index)
            assert worker.status.root == barrier.workspace.root.hex()
            assert (await worker.verify()).findings == []
            assert worker.status.rebuilds == (1 if turn == 0 else 0)
            await eventually(lambda: worker.status.state is WorkerState.LIVE, "the worker is live")
        await assert_equals_export(workspace, mirror, tmp_path / f"out-{turn}")
    status = read_status(state_directory(mirror))
    assert status is not None
    assert status["applied_index"] == barrier.workspace.log_index


@pytest.mark.req("WS-55")
async def test_kill_9_at_any_moment_loses_nothing(client: Client, cluster: Cluster, tmp_path: Path) -> None:
    await kill_and_follow(client, cluster, tmp_path, seed=7, kills=5)


@pytest.mark.long
@pytest.mark.req("WS-55")
@pytest.mark.parametrize("seed", range(4))
async def test_kill_9_many_times_loses_nothing(client: Client, cluster: Cluster, tmp_path: Path, seed: int) -> None:
    await kill_and_follow(client, cluster, tmp_path, seed=100 + seed, kills=25)


async def kill_and_follow(client: Client, cluster: Cluster, tmp_path: Path, seed: int, kills: int) -> None:
    print(f"seed {seed}")
    workspace = await client.create_workspace(f"killed-{seed}")
    draw = random.Random(seed)
    mirror = tmp_path / "mirror"

    def start() -> subprocess.Popen[bytes]:
        arguments = ["worker", "run", str(mirror), "-w", workspace.name, "--name", "w"]
        config = ["--config", str(cluster.client_file)]
        with (tmp_path / "log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "hypercluster.cli.main", *arguments, *config],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def has_reached(log_index: int, root: bytes) -> bool:
        status = read_status(state_directory(mirror)) or {}
        return (status.get("applied_index"), status.get("root")) == (log_index, root.hex())

    def is_up() -> bool:
        return (read_status(state_directory(mirror)) or {}).get("pid") == process.pid

    process = start()
    cut_short = 0
    stop = asyncio.Event()

    async def write() -> None:
        while not stop.is_set():
            await churn(workspace, draw, 20)

    writing = asyncio.create_task(write())
    for _ in range(kills):
        await eventually(is_up, "the worker starts", 20)
        await asyncio.sleep(draw.random() * 0.4)  # when it dies is the point of the test, not a wait for anything
        process.kill()
        process.wait()
        store = SqliteStore(str(state_directory(mirror) / DATABASE))
        cut_short += store.record("plan") is not None or store.record("state") != b"ready"
        store.close()
        process = start()
    stop.set()
    await writing
    print(f"{cut_short} of {kills} kills left something to end")
    try:
        final = (await workspace.barrier()).workspace
        await eventually(lambda: has_reached(final.log_index, final.root), "it is there again, with that root", 30)
        await assert_equals_export(workspace, mirror, tmp_path / "out")
        await eventually(is_up, "it is this process that has it, not the one before", 20)
        process.send_signal(signal.SIGTERM)
        await eventually(lambda: process.poll() is not None, "the worker stops")
        assert process.returncode == 0, (tmp_path / "log").read_text()
    finally:
        process.kill()
        process.wait()


@pytest.mark.req("WS-5")
async def test_a_replay_that_differs_stops_the_worker_until_it_is_cleared(client: Client, tmp_path: Path) -> None:
    workspace = await client.create_workspace("damaged")
    made = await workspace.put("file", b"one")
    await workspace.put("other", b"same")
    mirror = tmp_path / "mirror"
    async with running(client, workspace, mirror) as worker:
        await worker.wait_applied((await workspace.barrier()).workspace.log_index)
    before = (await workspace.barrier()).workspace.log_index
    damage_mode(state_directory(mirror) / DATABASE, workspace.workspace_id, made.inode_id)
    await workspace.chmod("other", 0o600)  # replays well: the damaged record is not looked at
    bad = await workspace.append("file", b"two")
    async with running(client, workspace, mirror) as worker:
        await eventually(lambda: worker.status.failure is not None, "the worker stops")
        failure = worker.status.failure
        assert failure is not None
        assert (failure.log_index, worker.status.applied_index) == (bad.log_index, bad.log_index - 1)
        assert "root" in failure.message
        assert worker.status.state is WorkerState.STOPPED
        assert worker.status.as_json()["read_only"]
    assert before == bad.log_index - 2
    assert (mirror / "file").read_bytes() == b"one"
    assert (mirror / "other").stat().st_mode & 0o777 == 0o600
    async with running(client, workspace, mirror) as worker:
        assert worker.status.failure == failure
        await worker.clear_failure(rebuild=True)
    async with running(client, workspace, mirror) as worker:
        await worker.wait_applied(bad.log_index)
    assert (mirror / "file").read_bytes() == b"onetwo"


def damage_mode(path: Path, workspace_id: bytes, inode_id: bytes) -> None:
    """One bit of a file's mode in the worker's database, behind its back."""
    store = SqliteStore(str(path))
    key = inode_key(workspace_id, inode_id)
    record = bytearray(store.get(Family.TREE, key) or b"")
    record[PLACE_BYTES + 2] ^= 0o001
    store.write([Change(Family.TREE, key, bytes(record))])
    store.close()


@pytest.mark.req("D-17", "WS-52")
async def test_a_mirror_of_another_history_is_built_anew(client: Client, tmp_path: Path) -> None:
    workspace = await client.create_workspace("history")
    await workspace.put("file", b"content")
    mirror = tmp_path / "mirror"
    async with running(client, workspace, mirror) as worker:
        await worker.wait_applied(2)
    (mirror / "file").write_bytes(b"of another life")
    store = SqliteStore(str(state_directory(mirror) / DATABASE))
    store.put_record("history_id", os.urandom(16))
    store.close()
    async with running(client, workspace, mirror) as worker:
        await eventually(lambda: worker.status.rebuilds == 1, "the mirror is rebuilt")
        await eventually(lambda: worker.status.state is WorkerState.LIVE, "the worker is live")
    assert (mirror / "file").read_bytes() == b"content"


@pytest.mark.req("WS-5")
async def test_a_full_disk_stops_a_worker_and_not_its_report(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No room for the status file, for the database of a rebuild, or for that of a batch: it stays, and says so."""
    workspace = await client.create_workspace("full")
    await workspace.put("file", b"content")

    def no_room(*_: object) -> None:
        raise OSError(errno.ENOSPC, "no room")

    def no_rows(*_: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as patch:
        patch.setattr("hypercluster.client.worker.worker.write_status", no_room)
        patch.setattr("hypercluster.client.worker.rebuild.Rebuild.add", no_rows)
        async with running(client, workspace, tmp_path / "mirror") as worker:
            await eventually(lambda: worker.status.state is WorkerState.STOPPED, "the worker has stopped")
            assert worker.status.failure is not None and "make room" in worker.status.failure.message
            assert str(tmp_path / "mirror") in worker.status.failure.message
    async with running(client, workspace, tmp_path / "mirror") as worker:
        await worker.wait_applied((await workspace.barrier()).workspace.log_index)
        with monkeypatch.context() as patch:
            patch.setattr("hypercluster.client.worker.mirror.Mirror.commit", no_rows)
            await workspace.put("file", b"more")
            await eventually(lambda: worker.status.state is WorkerState.STOPPED, "the worker has stopped")
    async with running(client, workspace, tmp_path / "mirror") as worker:
        await worker.wait_applied((await workspace.barrier()).workspace.log_index)
        assert (await worker.verify()).findings == []
        assert (tmp_path / "mirror" / "file").read_bytes() == b"more"


@pytest.mark.req("WS-52")
async def test_a_worker_that_comes_too_late_for_the_log_starts_from_a_snapshot(tmp_path: Path) -> None:
    async with (
        Cluster(tmp_path, 1, module="tests.integration.short_log_node") as forgetful,
        Client(replace(forgetful.client_settings(), lane=PATIENT)) as client,
    ):
        workspace = await client.create_workspace("late")
        mirror = tmp_path / "mirror"
        draw = random.Random(5)
        await churn(workspace, draw, 10)
        for turn, rounds in enumerate((15, 120)):
            async with running(client, workspace, mirror) as worker:
                await worker.wait_applied((await workspace.barrier()).workspace.log_index)
                assert worker.status.rebuilds == (1 if turn == 0 else 0)
            await churn(workspace, draw, rounds)
        async with running(client, workspace, mirror) as worker:
            await worker.wait_applied((await workspace.barrier()).workspace.log_index)
            assert worker.status.rebuilds == 1
            assert (await worker.verify()).findings == []
        await assert_equals_export(workspace, mirror, tmp_path / "out")


@pytest.mark.req("WS-55", "WS-61")
async def test_verify_finds_what_was_changed_in_the_mirror(client: Client, cluster: Cluster, tmp_path: Path) -> None:
    workspace = await client.create_workspace("verified")
    for name in ("one", "two", "three", "four"):
        await workspace.put(name, os.urandom(20_000))
    await workspace.write("four", b"in the middle", 5_000)
    mirror = tmp_path / "mirror"
    async with running(client, workspace, mirror) as worker:
        await worker.wait_applied((await workspace.barrier()).workspace.log_index)
        assert (await worker.verify()).findings == []
        with (mirror / "one").open("r+b") as file:
            file.seek(10_000)
            file.write(b"\x00\x01\x02")
        with (mirror / "four").open("r+b") as file:
            file.seek(19_000)
            file.write(b"\x00\x01\x02")
        (mirror / "two").unlink()
        (mirror / "new").touch()
        os.utime(mirror / "three", ns=(0, 5))
        words = sorted(f"{f.path.decode()} {f.words}" for f in (await worker.verify()).findings)
    found = {word.split()[0] for word in words}
    assert {"one", "two", "three", "four", "new"} <= found, words

    def run() -> subprocess.CompletedProcess[bytes]:
        arguments = ["worker", "verify", str(mirror), "-w", "verified", "--json", "--config", str(cluster.client_file)]
        return subprocess.run(
            [sys.executable, "-m", "hypercluster.cli.main", *arguments], capture_output=True, check=False
        )

    done = await asyncio.to_thread(run)
    assert done.returncode == 1, done.stderr
    assert {f["path"] for f in json.loads(done.stdout)["findings"]} >= {"one", "two", "three", "four", "new"}


@pytest.mark.req("WS-51")
async def test_a_worker_rides_out_the_death_of_its_node(tmp_path: Path) -> None:
    async with Cluster(tmp_path, 3) as dying, Client(replace(dying.client_settings(), lane=PATIENT)) as client:
        workspace = await client.create_workspace("riding")
        mirror = tmp_path / "mirror"
        draw = random.Random(3)
        async with running(client, workspace, mirror) as worker:
            for name in list(dying.plans):
                writing = asyncio.create_task(churn(workspace, draw, 40))
                await dying.restart(name)
                await dying.leader()
                await writing
            barrier = await workspace.barrier()
            async with asyncio.timeout(20):
                await worker.wait_applied(barrier.workspace.log_index)
            assert (await worker.verify()).findings == []
        await assert_equals_export(workspace, mirror, tmp_path / "out")
