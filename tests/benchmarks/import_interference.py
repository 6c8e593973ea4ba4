"""What an import does to everybody else (WS-37): `python -m tests.benchmarks.import_interference [--mib N] [--ops N]`.

Takes a cluster of three real nodes on this machine. A client makes small operations one after the other (an empty file,
a few appended bytes), first alone and then while another process imports files that share no chunk. Prints the
percentiles of both and the ratio of the p99s, which is to stay below 3; exit status 1 when it does not.
The probe is one client that waits for each answer, so what it measures is latency and not throughput. The nodes, the
import and the probe share the cores of this machine, which a cluster on machines of its own would not: with fewer than
six cores the ratio is an upper bound.
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
from dataclasses import dataclass
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


async def measure(mib: int, ops: int, seed: int, *, limited: bool) -> tuple[Latency, Latency, float]:
    """Latency alone and beside the import, and the import's MiB a second."""
    with tempfile.TemporaryDirectory() as directory:
        source = Path(directory) / "source"
        fill(source, mib, seed)
        async with (
            Cluster(Path(directory), 3, settings={} if limited else FAST_RATE) as cluster,
            Client(cluster.client_settings(), name="probe") as client,
        ):
            workspace = await client.create_workspace("probe")
            await client.create_workspace("content")
            probe = Probe(workspace, bytes(16))
            await probe.run(WARM_UP)
            alone = latency_of(await probe.run(ops))
            begun_s = time.perf_counter()
            importing = asyncio.create_task(import_beside(cluster, source))
            beside = latency_of(await probe.run(0, importing))
            took_s = time.perf_counter() - begun_s
            if await importing:
                raise SystemExit(f"the import ended with {importing.result()}")
    return alone, beside, mib / took_s


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mib", type=int, default=1_024, help="how much is imported")
    parser.add_argument("--ops", type=int, default=1_000, help="operations of the probe alone")
    parser.add_argument("--seed", type=int, default=1, help="of the content")
    parser.add_argument("--limited", action="store_true", help="with the product's rate limit of one principal")
    asked = parser.parse_args()
    alone, beside, mib_per_s = asyncio.run(measure(asked.mib, asked.ops, asked.seed, limited=asked.limited))
    ratio = beside.p99_ms / alone.p99_ms
    words = f"to stay below {RATIO_MAX:.0f}; {mib_per_s:.1f} MiB/s imported; load {os.getloadavg()[0]:.1f}"
    print(f"alone:              {alone}")
    print(f"beside the import:  {beside}")
    print(f"ratio of the p99s: {ratio:.1f} ({words})")
    return 0 if ratio < RATIO_MAX else 1


if __name__ == "__main__":
    sys.exit(main())
