"""How fast a live tree is: `python -m tests.benchmarks.live_tree [--ops N] [--creates N]`.

Two parts. `apply_rate` replays a recorded log into a replica on disk, flushes included, without a network. `against`
takes a cluster of three real nodes on this machine: a lone create by the library and by the tree, in turns, so that the
difference is what the tree adds to a commit; then creates one after the other, and by 8 threads.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from hypercluster.client.client import Client
from hypercluster.client.live.chunk_cache import BYTES_MAX_LEAST, ChunkCache
from hypercluster.client.live.live_tree import LiveWorkspace
from hypercluster.client.live.ports import ROOT_ID, Process
from hypercluster.client.live.replica import Replica
from hypercluster.client.live.shelf import Shelf
from hypercluster.pb.v1 import workspace_command_pb2 as file_pb
from hypercluster.pb.v1.workspace_command_pb2 import FileCommand, LogBatch
from hypercluster.state_machine.workspace.transfer import export_records
from tests.integration.cluster import Cluster
from tests.unit.client.live.trees import ME, create, mkdir
from tests.unit.workspace import ops
from tests.unit.workspace.site import Site

THREADS = 8
TURN_S = 0.002
FLUSH_EVERY = 2_000


@dataclass(frozen=True, slots=True)
class Figures:
    commit_us: float  # median of a lone create by the library: to the leader, on a majority, and back
    create_us: float  # the same through the tree: committed and applied here
    alone_per_s: float
    threads_per_s: float


def apply_rate(count: int, directory: Path) -> tuple[float, float]:
    """Operations a second, and a second of CPU: files are made, written and renamed."""
    site = Site(seed=1)
    site.found()
    exported = [(int(c.family), c.key, c.value or b"") for c in export_records(site.store, site.workspace_id)]
    above = ops.ROOT
    for number in range(count // 3):
        if number % 100 == 0:
            above = site.directory(b"d%d" % number)
        inode_id = site.done(ops.create(above, b"t%d" % number)).inode_id
        site.done(ops.write(inode_id, 0, b"%d" % number * 100))
        site.done(ops.rename(above, b"t%d" % number, above, b"f%d" % number))
    records = [(r, None) for batch in site.batches for r in LogBatch.FromString(batch).records]
    shelf = Shelf(str(directory / "state"), site.workspace_id)
    building = shelf.build(b"history---------")
    building.add(exported)
    store = building.finish(0, _root(site, exported))
    cache = ChunkCache(shelf.chunks_path, BYTES_MAX_LEAST)
    replica = Replica(store, cache, site.workspace_id)
    begun_s, begun_cpu_s, at = time.perf_counter(), time.process_time(), 0
    while at < len(records):
        done = replica.apply(records[at : at + 256], TURN_S)
        assert not done.problem, done.problem
        if at // FLUSH_EVERY != (at + len(done.applied)) // FLUSH_EVERY:
            cache.flush()
            replica.flush()
        at += len(done.applied)
    replica.flush()
    took_s, took_cpu_s = time.perf_counter() - begun_s, time.process_time() - begun_cpu_s
    assert replica.root == site.header.root
    replica.close()
    cache.close()
    shelf.close()
    return len(records) / took_s, len(records) / took_cpu_s


def _root(site: Site, exported: list[tuple[int, bytes, bytes]]) -> bytes:
    from hypercluster.state_machine.workspace.records import decode_header, header_key

    header = next(value for _, key, value in exported if key == header_key(site.workspace_id))
    return decode_header(site.workspace_id, header).root


async def against(cluster: Cluster, directory: Path, creates: int) -> Figures:
    async with Client(cluster.client_settings(), name="bench") as client:
        workspace = await client.create_workspace("bench")
        async with LiveWorkspace(client, workspace.workspace_id, "bench", "bench", directory / "live") as tree:
            commits: list[float] = []
            made: list[float] = []
            for number in range(creates):
                begun_s = time.perf_counter()
                await workspace.ops.create(ROOT_ID, b"l%d" % number, exclusive=True)
                commits.append(time.perf_counter() - begun_s)
                await tree.barrier()
                begun_s = time.perf_counter()
                await create(tree, b"t%d" % number)
                made.append(time.perf_counter() - begun_s)
            above = await mkdir(tree, b"alone")
            begun_s = time.perf_counter()
            for number in range(creates):
                await create(tree, b"%d" % number, above)
            alone_s = time.perf_counter() - begun_s
            threads_s = await asyncio.to_thread(_by_threads, tree, await mkdir(tree, b"threads"), creates)
    return Figures(
        statistics.median(commits) * 1e6,
        statistics.median(made) * 1e6,
        creates / alone_s,
        THREADS * creates / threads_s,
    )


def _by_threads(tree: LiveWorkspace, above: bytes, creates: int) -> float:
    """As system calls come: each thread waits for its own."""

    def work(thread: int) -> None:
        for number in range(creates):
            place = file_pb.Place(directory=above, name=b"%d.%d" % (thread, number))
            command = FileCommand(create=file_pb.Create(place=place, mode=0o644, exclusive=True))
            tree.run_in_loop(tree.mutate(Process(ME.pid, ME.start_ticks + thread), command))

    threads = [threading.Thread(target=work, args=(thread,)) for thread in range(THREADS)]
    begun_s = time.perf_counter()
    for started in threads:
        started.start()
    for started in threads:
        started.join()
    return time.perf_counter() - begun_s


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ops", type=int, default=10_000)
    parser.add_argument("--creates", type=int, default=200)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        per_s, per_cpu_s = apply_rate(asked.ops, Path(directory))
        print(f"apply: {per_s:.0f} operations/s, {per_cpu_s:.0f} a second of CPU")
        async with Cluster(Path(directory), 3) as cluster:
            found = await against(cluster, Path(directory), asked.creates)
    print(f"a lone create: {found.create_us:.0f} µs, of it {found.commit_us:.0f} µs for the commit (medians)")
    print(f"creates: {found.alone_per_s:.0f}/s one after the other, {found.threads_per_s:.0f}/s by {THREADS} threads")


if __name__ == "__main__":
    asyncio.run(main())
