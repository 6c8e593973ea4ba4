"""Locks through the library and `lock run`, over real nodes (WS-40 to WS-47, WS-60, WS-65)."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio

from hypercluster.client.client import Client
from hypercluster.client.lane_types import S_NS, Intent, LaneSettings
from hypercluster.client.leases import boot_ns
from hypercluster.client.lock_guard import LockGuard
from hypercluster.client.sync_client import SyncClient
from hypercluster.client.workspace import Workspace
from hypercluster.errors import (
    DeadlockError,
    FencedError,
    LockBusyError,
    LockLostError,
    LockWaitOverError,
    MalformedError,
    OutcomeUnknownError,
    RefusedError,
)
from hypercluster.pb.v1 import coordination_command_pb2 as lock_pb
from hypercluster.pb.v1 import coordination_pb2
from tests.integration.cluster import Cluster, eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")

# Says every 20 ms that it lives, and first what it was given.
BEATS = """
import os, sys, time
out = open(sys.argv[1], "w", buffering=1)
print(os.environ["HYPERCLUSTER_GUARD"], os.environ["HYPERCLUSTER_TOKEN"], os.environ["HYPERCLUSTER_LOCK_ID"], file=out)
while True:
    print(time.clock_gettime_ns(time.CLOCK_BOOTTIME), file=out)
    time.sleep(0.02)
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Cluster]:
    async with Cluster(tmp_path_factory.mktemp("locks"), 3) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def clients(cluster: Cluster) -> AsyncIterator[tuple[Client, Client]]:
    settings = cluster.client_settings()
    async with Client(settings) as first, Client(settings) as second:
        yield first, second


async def both(clients: tuple[Client, Client], name: str) -> tuple[Workspace, Workspace]:
    """The workspace, with one file in it, as each of the two sees it."""
    made = await clients[0].create_workspace(name)
    await made.put("file", b"content")
    return made, await clients[1].open_workspace(name)


async def until(condition: Callable[[], Awaitable[bool]], what: str, deadline_s: float = 15.0) -> None:
    end = time.monotonic() + deadline_s
    while not await condition():
        assert time.monotonic() < end, f"not within {deadline_s} s: {what}"
        await asyncio.sleep(0.01)


async def until_locks(workspace: Workspace, target: str, count: int) -> list[coordination_pb2.LockRecord]:
    """Once as many hold it or wait for it."""
    found: list[coordination_pb2.LockRecord] = []

    async def as_many() -> bool:
        found[:] = await workspace.locks(target)
        return len(found) == count

    await until(as_many, f"{count} hold or await {target}")
    return found


@pytest.mark.req("WS-40", "WS-42", "WS-60", "D-10")
async def test_a_lock_excludes_hands_over_and_fences(clients: tuple[Client, Client]) -> None:
    mine, theirs = await both(clients, "excludes")
    async with mine.lock("file") as lock:
        first = lock.token
        await lock.workspace.put("file", b"under the lock")
        with pytest.raises(LockBusyError):
            await theirs.lock("file", wait_s=0).acquire()
        with pytest.raises(LockWaitOverError):
            await theirs.lock("file", wait_s=0.2).acquire()
        (holder,) = await mine.locks("file")
        assert (holder.state, holder.token) == (lock_pb.LOCK_STATE_HELD, first)
        waiting = asyncio.ensure_future(theirs.lock("file", wait_s=30).acquire())
        found = await until_locks(mine, "file", 2)
        assert (found[1].state, found[1].position) == (lock_pb.LOCK_STATE_QUEUED, 1)
        guard = lock.guard()
    second = await waiting
    assert second.token > first
    stale = mine.ops.guarded(lambda: [guard])
    with pytest.raises(FencedError) as fenced:
        await stale.truncate(await mine.inode_id("file"), 0)
    assert fenced.value.reason == "FENCED"
    await mine.write("file", b"a write without a token is not checked")
    await second.release()
    assert await mine.locks() == []


@pytest.mark.req("WS-40", "WS-47")
async def test_shared_locks_semaphores_and_names(clients: tuple[Client, Client]) -> None:
    mine, theirs = await both(clients, "kinds")
    async with mine.lock("file", shared=True) as one, theirs.lock("file", shared=True) as other:
        assert one.token != other.token
        with pytest.raises(LockBusyError):
            await mine.lock("file", wait_s=0).acquire()
    async with mine.semaphore("slots", 2), theirs.semaphore("slots", 2):
        with pytest.raises(LockBusyError):
            await mine.semaphore("slots", 2, wait_s=0).acquire()
        with pytest.raises(RefusedError) as other_number:
            await mine.semaphore("slots", 3, wait_s=0).acquire()
        assert not isinstance(other_number.value, LockBusyError)
    async with mine.lock("name:deploy/prod") as named:
        await named.workspace.put("file", b"guarded by a name")
    with pytest.raises(RefusedError):
        await mine.lock("nothing", wait_s=0).acquire()
    for wrong in ("name:", "name:ü", "name:" + "x" * 129):
        with pytest.raises(MalformedError, match="name"):
            await mine.lock(wrong, wait_s=0).acquire()
    with pytest.raises(MalformedError, match="permits"):
        mine.semaphore("slots", 0)
    with pytest.raises(MalformedError, match="wait_s"):
        mine.lock("file", wait_s=-1)


@pytest.mark.req("WS-47")
async def test_a_wait_that_would_close_a_cycle_is_refused_with_the_cycle(clients: tuple[Client, Client]) -> None:
    mine, theirs = await both(clients, "cycles")
    async with mine.lock("name:x", one_at_a_time=True), theirs.lock("name:y", one_at_a_time=True):
        waiting = asyncio.ensure_future(mine.lock("name:y", one_at_a_time=True, wait_s=30).acquire())
        await until_locks(mine, "name:y", 2)
        with pytest.raises(DeadlockError) as refused:
            await theirs.lock("name:x", one_at_a_time=True, wait_s=30).acquire()
        assert len(refused.value.cycle) == 2
        # Taking what one holds already is no wait: it is the same lock, until both have ended.
        async with theirs.lock("name:y", one_at_a_time=True, wait_s=0):
            pass
        assert len(await mine.locks("name:y")) == 2
    await (await waiting).release()


@pytest.mark.req("WS-40")
async def test_who_stops_waiting_leaves_nothing_behind(clients: tuple[Client, Client]) -> None:
    mine, theirs = await both(clients, "cancelled")
    async with mine.lock("file"):
        waiting = asyncio.ensure_future(theirs.lock("file").acquire())
        await until_locks(mine, "file", 2)
        waiting.cancel()
        with suppress(asyncio.CancelledError):
            await waiting
        await until_locks(mine, "file", 1)
    # An acquire that is given up before it is answered is given back, too.
    for turns in range(4):
        asking = asyncio.ensure_future(mine.lock("file", wait_s=0).acquire())
        for _ in range(turns):
            await asyncio.sleep(0)
        asking.cancel()
        with suppress(asyncio.CancelledError):
            await asking
    await until_locks(mine, "file", 0)
    async with asyncio.timeout(5), theirs.lock("file"):
        pass


@pytest.mark.req("WS-60")
async def test_the_synchronous_face_of_a_lock(cluster: Cluster, clients: tuple[Client, Client]) -> None:
    mine, _ = await both(clients, "synchronous")

    def work() -> int:
        with SyncClient(cluster.client_settings()) as client:
            workspace = client.open_workspace("synchronous")
            with workspace.lock("file", wait_s=5) as lock:
                assert not lock.lost and lock.guard().token == lock.token
                lock.workspace.put("file", b"guarded")
                with pytest.raises(LockBusyError), workspace.lock("file", wait_s=0):
                    pass
                token: int = lock.token
            with workspace.semaphore("slots", 1, wait_s=5):
                pass
            return token

    assert await asyncio.to_thread(work) > 0
    assert b"".join([block async for block in mine.get("file")]) == b"guarded"
    assert await mine.locks() == []


@pytest.mark.req("WS-42", "WS-60", "D-6")
async def test_a_lock_survives_its_leader_with_its_token(cluster: Cluster, clients: tuple[Client, Client]) -> None:
    mine, theirs = await both(clients, "leaders")
    async with mine.lock("file") as lock:
        token, ends_ns = lock.token, lock.ends_ns
        leader = await cluster.leader()
        cluster.kill(leader)
        try:
            await cluster.leader(other_than=leader)
            # Renewed by the new leader, and beyond where it would have ended.
            await eventually(lambda: lock.ends_ns > ends_ns + 1_000_000_000, "it is renewed", 15)
            assert lock.token == token
            await lock.workspace.append("file", b"still mine")
            with pytest.raises(LockBusyError):
                await theirs.lock("file", wait_s=0).acquire()
        finally:
            cluster.start(leader)
    await cluster.all_applied(1, 20)


@pytest.mark.req("WS-60", "D-11")
async def test_a_lock_that_can_not_be_known_to_hold_is_lost_loudly(
    cluster: Cluster, clients: tuple[Client, Client]
) -> None:
    mine, _ = await both(clients, "lost")
    loose = await mine.lock("name:loose").acquire()
    stopped = list(cluster.processes)[:2]

    async def body() -> None:
        async with mine.lock("file"):
            for name in stopped:
                cluster.pause(name)
            await asyncio.Event().wait()

    began_ns = boot_ns()
    try:
        with pytest.raises(LockLostError, match="no leader answered"):
            await body()
        assert 3e9 < boot_ns() - began_ns < 7e9, "before the cluster could have ended it, and not at once"
        # Without `async with` nobody is cancelled; then whatever touches it says so.
        await eventually(lambda: loose.lost, "the other one is lost, too")
        for use in (lambda: loose.token, loose.guard):
            with pytest.raises(LockLostError):
                use()
        with pytest.raises(LockLostError):
            await loose.workspace.ops.truncate(bytes(16), 0)
        with pytest.raises(LockLostError):
            await loose.release()
    finally:
        for name in stopped:
            cluster.resume(name)
    await cluster.leader(20)


def lock_run(cluster: Cluster, *arguments: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "hypercluster.cli.main", "workspace", "lock", "run"]
    config = ["--config", str(cluster.client_file)]
    return subprocess.Popen([*command, *config, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE)


async def ended(process: subprocess.Popen[bytes]) -> tuple[int, bytes]:
    """Its exit code, and what it wrote."""
    try:
        out, error = await asyncio.to_thread(process.communicate, timeout=60)
    finally:
        process.kill()
    return process.returncode, out + error


def beats(file: Path) -> list[int]:
    return [int(line) for line in file.read_text().splitlines()[1:-1]]


@pytest.mark.req("WS-65", "WS-42", "WS-61")
async def test_a_paused_supervisor_does_not_let_its_command_outlive_the_lock(
    cluster: Cluster, clients: tuple[Client, Client], tmp_path: Path
) -> None:
    _, theirs = await both(clients, "paused")
    file = tmp_path / "beats"
    supervisor = lock_run(cluster, "paused", "file", "--", sys.executable, "-c", BEATS, str(file))
    try:
        await eventually(lambda: file.exists() and len(file.read_text().splitlines()) > 3, "the command runs", 20)
        given = file.read_text().splitlines()[0].split()
        guard = LockGuard.parse(given[0])
        assert guard is not None and guard.token == int(given[1]) > 0 and int(given[2]) > 0
        guarded = theirs.ops.guarded(lambda: [guard.message()])
        await guarded.write(await theirs.inode_id("file"), b"its token is good")
        supervisor.send_signal(signal.SIGSTOP)
        lock = theirs.lock("file")
        async with asyncio.timeout(30):
            await lock.acquire()
        granted_ns = boot_ns()
        last_ns = beats(file)[-1]
        assert last_ns < granted_ns - 300_000_000, "the command was dead before another had the lock"
        assert lock.token > guard.token
        with pytest.raises(FencedError):
            await guarded.write(await theirs.inode_id("file"), b"too late")
        await lock.release()
        supervisor.send_signal(signal.SIGCONT)
        code, said = await ended(supervisor)
        assert code == 3 and b"was lost" in said
        assert beats(file)[-1] == last_ns
    finally:
        supervisor.kill()
        supervisor.communicate()


@pytest.mark.req("WS-65", "WS-61")
async def test_lock_run_ends_as_its_command_does(
    cluster: Cluster, clients: tuple[Client, Client], tmp_path: Path
) -> None:
    mine, _ = await both(clients, "runs")
    put = f"{sys.executable} -m hypercluster.cli.main workspace put runs file --config {cluster.client_file}"
    # A command below it carries the token by itself; what it leaves in its process group ends with it.
    left = tmp_path / "left"
    script = f"echo guarded | {put}; (sleep 60; touch {left}) & echo $! > {tmp_path / 'pid'}; exit 7"
    code, said = await ended(lock_run(cluster, "--wait", "5", "runs", "file", "--", "sh", "-c", script))
    assert code == 7, said
    assert b"".join([block async for block in mine.get("file")]) == b"guarded\n"
    record = (await mine.stat("file")).content_index
    assert record > 0
    pid = int((tmp_path / "pid").read_text())
    await eventually(lambda: not os.path.exists(f"/proc/{pid}/cmdline") or _is_dead(pid), "what it left is gone")
    assert await mine.locks() == []
    async with mine.lock("file"):
        code, said = await ended(lock_run(cluster, "--wait", "0", "runs", "file", "--", "true"))
        assert code == 1 and b"another holds the lock" in said
    code, said = await ended(lock_run(cluster, "runs", "file", "--", "/nowhere/at/all"))
    assert code == 127 and b"No such file" in said


def _is_dead(pid: int) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    return True


@pytest.mark.long
@pytest.mark.req("WS-65")
async def test_a_killed_supervisor_and_a_signal_end_the_command(
    cluster: Cluster, clients: tuple[Client, Client], tmp_path: Path
) -> None:
    mine, _ = await both(clients, "killed")
    for number in (signal.SIGKILL, signal.SIGTERM):
        file = tmp_path / f"beats {number}"
        supervisor = lock_run(cluster, "killed", "name:job", "--", sys.executable, "-c", BEATS, str(file))
        try:
            await eventually(lambda file=file: file.exists() and file.stat().st_size > 200, "the command runs", 20)
            supervisor.send_signal(number)
            code, _ = await ended(supervisor)
            assert code == (-9 if number == signal.SIGKILL else 128 + signal.SIGTERM)
            seen: list[int] = []

            def is_silent(file: Path = file, seen: list[int] = seen) -> bool:
                seen.append(file.stat().st_size)
                return time.clock_gettime_ns(time.CLOCK_BOOTTIME) - beats(file)[-1] > 500_000_000

            await eventually(is_silent, "the command is dead", 10)
        finally:
            supervisor.kill()
            supervisor.communicate()
    # After SIGTERM the lock was released; after SIGKILL it ends by itself.
    async with asyncio.timeout(15), mine.lock("name:job"):
        pass


@pytest.mark.long
@pytest.mark.req("WS-43")
async def test_a_new_client_reclaims_what_an_older_one_left(cluster: Cluster, clients: tuple[Client, Client]) -> None:
    mine, _ = await both(clients, "reclaimed")
    async with Client(cluster.client_settings()) as older:
        await (await older.open_workspace("reclaimed")).lock("file").acquire()
        (record,) = await mine.locks("file")
    async with mine.reclaim(record) as lock:
        assert lock.token > record.token
        await lock.workspace.put("file", b"taken over")
    with pytest.raises(FencedError):
        await mine.reclaim(record).acquire()


@pytest.mark.req("WS-47", "WS-61", "WS-45", "WS-56")
async def test_the_commands(cluster: Cluster, clients: tuple[Client, Client], tmp_path: Path) -> None:
    mine, _ = await both(clients, "commands")

    def run(*arguments: str, code: int = 0) -> bytes:
        command = [sys.executable, "-m", "hypercluster.cli.main", "workspace", *arguments]
        done = subprocess.run([*command, "--config", str(cluster.client_file)], capture_output=True, check=False)
        assert done.returncode == code, (arguments, done.stdout, done.stderr)
        return done.stdout + done.stderr

    def rows(*arguments: str, code: int = 0) -> list[dict[str, object]]:
        return [json.loads(line) for line in run(*arguments, "--json", code=code).splitlines()]

    def with_the_lock(token: int) -> None:
        (why,) = rows("lock", "why", "commands", "file")
        assert (why["state"], why["token"], why["worker"] or why["principal"]) == ("held", token, why["worker"])
        assert b"held exclusive" in run("lock", "why", "commands", "file")
        assert [row["target"] for row in rows("lock", "list", "commands")] == [why["target"]] == ["file"]

    def the_rest() -> None:
        assert b"nobody holds it" in run("lock", "why", "commands", "file")
        made = rows("reserve", "commands", "src/**", "--for", "60")[0]["reservation_id"]
        (found,) = rows("reservations", "commands")
        assert (found["reservation_id"], found["pattern"], found["exclusive"]) == (made, "src/**", True)
        run("unreserve", "commands", str(made))
        assert rows("reservations", "commands") == []
        patterns = tmp_path / "patterns"
        patterns.write_bytes(b"build/\n*.o\n")
        (after,) = rows("set", "commands", "--local-patterns", str(patterns), "--quota-nodes", "5000")
        assert (after["local_patterns"], after["quota_nodes"]) == (["build/", "*.o"], 5000)
        assert b"build/, *.o" in run("status", "commands")
        patterns.write_bytes(b"[open\n")
        assert b"line 1: a bracket is not closed" in run("set", "commands", "--local-patterns", str(patterns), code=1)
        source = tmp_path / "source"
        (source / "build").mkdir(parents=True)
        (source / "build" / "x").touch()
        (source / "kept").touch()
        (imported,) = rows("import", "commands", str(source), "--strict", code=1)
        assert imported["files"] == 1 and "local patterns" in str(imported["skipped"])
        assert rows("hazards", "commands") == [] and rows("workers", "commands") == []

    async with mine.lock("file") as lock:
        await asyncio.to_thread(with_the_lock, lock.token)
    await asyncio.to_thread(the_rest)


@pytest.mark.req("WS-45", "WS-60")
async def test_what_is_written_through_a_reservation_is_announced(clients: tuple[Client, Client]) -> None:
    mine, theirs = await both(clients, "reserved")
    await mine.change_settings(lock_pb.WorkspaceSet(enforce_reservations=True))
    async with mine.reservation("fi*", ttl_s=2) as reserved:
        first_ns = (await mine.reservations())[0].expires_ns
        await reserved.workspace.put("file", b"reserved")
        (before,) = await mine.reservations()
        await eventually(lambda: boot_ns() >= reserved._ends_ns - 900_000_000, "it would end soon")
        await reserved.workspace.write("file", os.urandom(20_000))
        (after,) = await mine.reservations()
        assert before.reservation_id == after.reservation_id == reserved.reservation_id
        assert before.expires_ns == first_ns < after.expires_ns, "an upload renews what would end, and nothing before"
    assert await theirs.reservations() == []
    assert await reserved.current() == []


@pytest.mark.req("WS-4", "D-8")
async def test_an_open_outcome_is_closed_before_the_client_goes_on(cluster: Cluster) -> None:
    impatient = LaneSettings(no_leader_ns=20 * S_NS, deadline_ns=2 * S_NS)
    async with Client(replace(cluster.client_settings(), lane=impatient)) as client:
        workspace = await client.create_workspace("open-outcomes")
        await workspace.put("file", b"first")
        inode_id = await workspace.inode_id("file")
        stopped = [name for name in cluster.processes if name != await cluster.leader()]
        for name in stopped:
            cluster.pause(name)
        try:
            with pytest.raises(OutcomeUnknownError) as unknown:
                await workspace.ops.append(inode_id, b" second")
        finally:
            for name in stopped:
                cluster.resume(name)
        intent = Intent.parse(unknown.value.__notes__[0])
        await workspace.ops.append(inode_id, b" third")
        found = await client.intent_outcome(intent)
        assert found.state == "committed" and found.reason in {"OK", "ABANDONED"}
        content = b"".join([block async for block in workspace.get("file")])
        # Applied before what came next, or never.
        assert content == (b"first second third" if found.reason == "OK" else b"first third")
