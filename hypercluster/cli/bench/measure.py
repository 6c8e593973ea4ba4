"""The measurements of a bench run, each against a live cluster.

Owns: what is done and for how long. Figures and bars are in report.py and suite.py.
Never: more than one load at a time; a measured run with a leader change counts as an error.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

from hypercluster.cli.bench.etcd import LoadResult
from hypercluster.cli.bench.load import Plan
from hypercluster.cli.bench.local import LocalCluster, cpu_s
from hypercluster.client.client import Client
from hypercluster.errors import HyperClusterError
from hypercluster.values import ReadLevel


async def run_load(plan: Plan) -> LoadResult:
    """In a process of its own, as any client is."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "hypercluster.cli.bench.load", json.dumps(asdict(plan)),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    out, err = await asyncio.wait_for(process.communicate(), plan.seconds + plan.warm + 90)
    if process.returncode != 0:
        raise RuntimeError(f"the load failed: {err.decode(errors='replace')[-800:]}")
    return LoadResult(**json.loads(out))


async def hub_load(
    cluster: LocalCluster, *, sessions: int, window: int, per_message: int, seconds: float
) -> LoadResult:
    term = await cluster.term()
    result = await run_load(
        await cluster.plan(sessions=sessions, window=window, per_message=per_message, seconds=seconds)
    )
    if await cluster.term() != term:
        raise RuntimeError("the leader changed during a measured run")
    return result


async def file_load(cluster: LocalCluster, *, seconds: float, seed: int) -> LoadResult:
    """Creates and appends of small files in one workspace, a Merkle root each (PERF-4)."""
    async with Client(cluster.settings(), name="bench") as client:
        workspace = await client.create_workspace(f"bench-{seed}")
        inode_ids = []
        for number in range(8):
            path = b"append-%d" % number
            await workspace.put(path, b"")
            inode_ids.append((await workspace.inode_id(path)).hex())
        plan = await cluster.plan(
            sessions=8,
            window=64,
            per_message=16,
            seconds=seconds,
            seed=seed,
            estimate_ops_s=20_000,
            workspace_id=workspace.workspace_id.hex(),
            inode_ids=tuple(inode_ids),
        )
    return await run_load(plan)


async def read_load(cluster: LocalCluster, level: ReadLevel, *, tasks: int, seconds: float) -> LoadResult:
    """Gets of one key each, through the library, `tasks` at once."""
    latencies: list[float] = []
    async with Client(cluster.settings(), name="bench") as client:
        await client.hub.set("metadata", b"bench-read", b'"value"')
        end_s = time.perf_counter() + seconds

        async def reader() -> None:
            while (began_s := time.perf_counter()) < end_s:
                await client.hub.get("metadata", b"bench-read", level=level)
                latencies.append((time.perf_counter() - began_s) * 1e3)

        await asyncio.gather(*(reader() for _ in range(tasks)))
    latencies.sort()
    count = len(latencies)
    return LoadResult(count / seconds, latencies[count // 2], latencies[int(count * 0.99)], latencies[-1], count, 0)


def disk_sync_ms(directory: Path, rounds: int = 200) -> float:
    """Median fdatasync of a 4 KiB overwrite on the disk below `directory`."""
    with tempfile.NamedTemporaryFile(dir=directory) as file:
        os.pwrite(file.fileno(), bytes(1 << 20), 0)
        os.fsync(file.fileno())
        times = []
        for number in range(rounds):
            os.pwrite(file.fileno(), os.urandom(4096), 4096 * (number % 200))
            began_s = time.perf_counter()
            os.fdatasync(file.fileno())
            times.append(time.perf_counter() - began_s)
    return statistics.median(times) * 1e3


async def failover_s(cluster: LocalCluster) -> float:
    """Seconds from kill -9 of the leader to the next acknowledged write; the killed node is started again."""
    leader = await cluster.leader()
    async with Client(cluster.settings(), name="bench") as client:
        await client.hub.set("metadata", b"failover", b'"before"')
        cluster.kill(leader)
        began_s = time.perf_counter()
        while True:
            try:
                await client.hub.set("metadata", b"failover", b'"after"')
                break
            except HyperClusterError:
                if time.perf_counter() - began_s > 60:
                    raise
    took_s = time.perf_counter() - began_s
    cluster.start(leader)
    await cluster.leader()
    return took_s


async def idle_core_percent(cluster: LocalCluster, seconds: float) -> float:
    """CPU of all nodes together while nobody asks anything of them, in percent of one core (PERF-8)."""
    await asyncio.sleep(2)
    before = {pid: cpu_s(pid) for pid in cluster.pids()}
    await asyncio.sleep(seconds)
    return sum(cpu_s(pid) - was for pid, was in before.items()) / seconds * 100
