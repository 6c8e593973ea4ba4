"""What an import does to everybody else (WS-37): `python -m tests.benchmarks.import_interference [--mib N]`.

Takes a cluster of three real nodes on this machine. A client makes small operations one after the other (an empty file,
a few appended bytes), by turns alone and while another process imports files that share no chunk: what else the machine
does falls on both alike. Prints the percentiles of each round and of all, and the ratio of the p99s over all rounds,
which is to stay below 3; exit status 1 when it does not.
The probe is one client that waits for each answer, so what it measures is latency and not throughput. The nodes, the
import and the probe share the cores of this machine, which a cluster on machines of its own would not: with fewer than
six cores the ratio is an upper bound. What each process took of the cores is printed, too.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import statistics
import sys
import tempfile
import time
from asyncio import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from hypercluster.client.client import Client
from hypercluster.client.workspace import Workspace
from tests.integration.cluster import FAST_RATE, Cluster

MIB = 1 << 20
FILE_MIB = 16
RATIO_MAX = 3.0
WARM_UP = 50


@dataclass(frozen=True, slots=True)
class Latency:
    ops: int
    p50_ms: float
    p99_ms: float
    max_ms: float

    def __str__(self) -> str:
        return (
            f"{self.ops} operations, p50 {self.p50_ms:.1f} ms, p99 {self.p99_ms:.1f} ms, longest {self.max_ms:.1f} ms"
        )


class Probe:
    """Small operations, one after the other."""

    def __init__(self, workspace: Workspace, directory: bytes) -> None:
        self._ops = workspace.ops
        self._directory = directory
        self._made = 0

    async def run(self, count: int, until: asyncio.Task[int] | None = None) -> list[float]:
        """Seconds of each of `count` operations, or of as many as there are before `until` is done."""
        took: list[float] = []
        inode_id = b""
        while len(took) < count if until is None else not until.done():
            self._made += 1
            begun_s = time.perf_counter()
            if self._made % 2 or not inode_id:
                inode_id = (await self._ops.create(self._directory, b"p%d" % self._made)).inode_id
            else:
                await self._ops.append(inode_id, b"a small record\n")
            took.append(time.perf_counter() - begun_s)
        return took


def latency_of(took: list[float]) -> Latency:
    cuts = statistics.quantiles(took, n=100, method="inclusive")
    return Latency(len(took), cuts[49] * 1e3, cuts[98] * 1e3, max(took) * 1e3)


def fill(directory: Path, mib: int, seed: int) -> None:
    """Random content: nothing of it compresses, and no chunk is there twice."""
    directory.mkdir()
    rng = random.Random(seed)
    for number in range(0, mib, FILE_MIB):
        with (directory / f"{number}.bin").open("wb") as file:
            for _ in range(min(FILE_MIB, mib - number)):
                file.write(rng.randbytes(MIB))


async def import_beside(cluster: Cluster, source: Path) -> int:
    command = [sys.executable, "-m", "hypercluster.cli.main", "workspace", "import", "content", str(source)]
    made = await subprocess.create_subprocess_exec(
        *command, "--config", str(cluster.client_file), stdout=subprocess.DEVNULL
    )
    return await made.wait()


def cpu_s(pid: int) -> float:
    """What a process has used of the cores since it began."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@dataclass(slots=True)
class Measured:
    """Seconds of each operation of the probe; what the cores did while an import ran."""

    alone: list[float] = field(default_factory=list)
    beside: list[float] = field(default_factory=list)
    import_s: float = 0.0
    busy_s: dict[str, float] = field(default_factory=dict)


class Rounds:
    """The phases, by turns."""

    def __init__(self, cluster: Cluster, probe: Probe, ops: int) -> None:
        self._cluster = cluster
        self._probe = probe
        self._ops = ops
        self.measured = Measured()

    async def one(self, number: int, source: Path) -> None:
        alone = await self._probe.run(self._ops)
        before = self._cpu_s()
        begun_s = time.perf_counter()
        importing = asyncio.create_task(import_beside(self._cluster, source))
        beside = await self._probe.run(0, importing)
        if await importing:
            raise SystemExit(f"the import ended with {importing.result()}")
        measured = self.measured
        measured.import_s += time.perf_counter() - begun_s
        for name, after_s in self._cpu_s().items():
            measured.busy_s[name] = measured.busy_s.get(name, 0.0) + after_s - before[name]
        measured.alone += alone
        measured.beside += beside
        one, other = latency_of(alone), latency_of(beside)
        words = f"p50 {one.p50_ms:.1f} and {other.p50_ms:.1f} ms, p99 {one.p99_ms:.1f} and {other.p99_ms:.1f} ms"
        print(f"round {number}: {words}, {other.p99_ms / one.p99_ms:.1f} times; {len(beside)} operations", flush=True)

    def _cpu_s(self) -> dict[str, float]:
        nodes = {name: cpu_s(process.pid) for name, process in self._cluster.processes.items()}
        imports = os.times()
        return {**nodes, "imports": imports.children_user + imports.children_system, "probe": time.process_time()}


async def measure(mib: int, rounds: int, ops: int, seed: int, *, limited: bool) -> tuple[Measured, str]:
    """What was measured, and which node led."""
    with tempfile.TemporaryDirectory() as directory:
        sources = [Path(directory) / f"source-{number}" for number in range(rounds)]
        for number, source in enumerate(sources):
            fill(source, mib // rounds, seed + number)
        async with (
            Cluster(Path(directory), 3, settings={} if limited else FAST_RATE) as cluster,
            Client(cluster.client_settings(), name="probe") as client,
        ):
            workspace = await client.create_workspace("probe")
            await client.create_workspace("content")
            probe = Probe(workspace, bytes(16))
            await probe.run(WARM_UP)
            all_rounds = Rounds(cluster, probe, ops)
            for number, source in enumerate(sources):
                await all_rounds.one(number, source)
            return all_rounds.measured, await cluster.leader()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mib", type=int, default=1_024, help="how much is imported in all")
    parser.add_argument("--rounds", type=int, default=8, help="in how many imports, each behind a phase without one")
    parser.add_argument("--ops", type=int, default=500, help="operations of the probe alone, in each round")
    parser.add_argument("--seed", type=int, default=1, help="of the content")
    parser.add_argument("--limited", action="store_true", help="with the product's rate limit of one principal")
    asked = parser.parse_args()
    measured, leader = asyncio.run(measure(asked.mib, asked.rounds, asked.ops, asked.seed, limited=asked.limited))
    alone, beside = latency_of(measured.alone), latency_of(measured.beside)
    ratio = beside.p99_ms / alone.p99_ms
    shares = ", ".join(f"{name} {used / measured.import_s:.0%}" for name, used in measured.busy_s.items())
    print(f"alone:              {alone}")
    print(f"beside the import:  {beside}")
    print(f"of a core, while importing: {shares}; {leader} leads; load {os.getloadavg()[0]:.1f}")
    print(f"ratio of the p99s: {ratio:.1f} (to stay below {RATIO_MAX:.0f}; {asked.mib / measured.import_s:.1f} MiB/s)")
    return 0 if ratio < RATIO_MAX else 1


if __name__ == "__main__":
    sys.exit(main())
