"""How fast a worker's mirror takes small new files: `python -m tests.benchmarks.mirror_files [FILES]`.

Records as an import makes them (create, write, time) are replayed and materialised as the worker does it, syncs
included, without a network.
"""

from __future__ import annotations

import asyncio
import cProfile
import pstats
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

from hypercluster.client.worker.applying import Applier
from hypercluster.client.worker.mirror import Mirror
from hypercluster.client.worker.rebuild import Rebuild
from hypercluster.client.worker.worker import BATCH_RECORDS_MAX
from hypercluster.pb.v1.workspace_command_pb2 import LogBatch, LogRecord
from hypercluster.state_machine.workspace.transfer import export_records
from tests.unit.workspace import ops
from tests.unit.workspace.site import Site

T = TypeVar("T")
FILES_A_DIRECTORY = 100
FILE_BYTES = 2_000


def records_of(files: int) -> tuple[Site, list[tuple[int, bytes, bytes]], list[LogRecord]]:
    site = Site(seed=1)
    site.found()
    exported = [(int(c.family), c.key, c.value or b"") for c in export_records(site.store, site.workspace_id)]
    directory = ops.ROOT
    for number in range(files):
        if number % FILES_A_DIRECTORY == 0:
            directory = site.directory(b"d%d" % number)
        inode_id = site.one(ops.create(directory, b"f%d" % number)).inode_id
        site.entry(ops.write(inode_id, 0, b"%d" % number * (FILE_BYTES // 4)), ops.utimens(inode_id, number))
    return site, exported, [r for batch in site.batches for r in LogBatch.FromString(batch).records]


async def inline(call: Callable[[], T], /) -> T:
    return call()


def measure(files: int, base: Path, *, profile: bool = False) -> float:
    """Files a second."""
    site, exported, records = records_of(files)
    mirror = Mirror(str(base / "mirror"), str(base / "state"), site.workspace_id)

    async def fetch(hashes: list[bytes]) -> dict[bytes, bytes]:
        return {h: site.chunks[h] for h in hashes}

    in_thread: Callable[[Callable[[], T]], Awaitable[T]] = inline
    applier = Applier(mirror, fetch, in_thread)

    async def run() -> float:
        rebuild = Rebuild(mirror)
        rebuild.begin(b"history---------")
        rebuild.add(exported)
        header = mirror.view.header()
        assert header is not None
        rebuild.check(header.log_index, header.root)
        await applier.build(rebuild)
        started_s = time.perf_counter()
        for start in range(0, len(records), BATCH_RECORDS_MAX):
            batch = await applier.apply(records[start : start + BATCH_RECORDS_MAX])
            assert not batch.problem
        return time.perf_counter() - started_s

    profiler = cProfile.Profile()
    if profile:
        profiler.enable()
    took_s = asyncio.run(run())
    if profile:
        profiler.disable()
        pstats.Stats(profiler).sort_stats("tottime").print_stats(35)
    mirror.close()
    return files / took_s


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as directory:
        count = int(sys.argv[1]) if len(sys.argv) > 1 else 5_000
        print(f"{measure(count, Path(directory), profile='--profile' in sys.argv):.0f} files/s")
