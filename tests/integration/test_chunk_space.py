"""Content that no file has leaves the disks of real nodes, and what files have stays on each of them (WS-54).

The clocks are real; the waits are those of a test build (hasty_node.py). A node is killed while it lets go.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from hypercluster.client.client import Client
from hypercluster.client.export_tree import export_tree
from hypercluster.client.lane_types import S_NS, LaneSettings
from hypercluster.client.snapshots import list_snapshots, take_snapshot
from hypercluster.client.workspace import Workspace
from hypercluster.node.opening import referenced_hashes
from hypercluster.storage.chunk_store import ChunkStore
from hypercluster.storage.disk import PosixDisk
from hypercluster.storage.rocks import RocksStore
from hypercluster.storage.runner import InlineRunner
from hypercluster.values import ChunkHash
from tests.integration.cluster import FAST_RATE, Cluster
from tests.integration.hasty_node import KEEP_S

SEED = 7
GONE, KEPT = 40, 10
FILE_BYTES = 300_000
LESS_S = 240.0
SETTINGS = {
    **FAST_RATE,
    "raft": {
        "log_keep_entries": 100,
        "checkpoint_every_entries": 100,
        "election_min_ms": 1_500,
        "election_max_ms": 3_000,  # a machine that is busy with other tests
    },
    "retention": {"snapshot_every_s": 1, "snapshots_kept": 1},
}
PATIENT = LaneSettings(no_leader_ns=60 * S_NS, deadline_ns=120 * S_NS)


def on_disk(cluster: Cluster, name: str) -> int:
    """Bytes that the segments of chunks take, as the file system counts them."""
    found = (cluster.data(name) / "chunks").glob("*.chunks")
    return sum(path.stat().st_blocks * 512 for path in found)


async def filled(client: Client, draw: random.Random) -> tuple[Workspace, dict[str, bytes]]:
    """A workspace whose every other kind of file is to go; answers what stays."""
    workspace = await client.create_workspace("space")
    kept: dict[str, bytes] = {}
    for number in range(GONE + KEPT):
        name = f"{'kept' if number % 5 == 4 else 'gone'}-{number:03d}"
        made = await workspace.ops.create(bytes(16), name.encode(), 0o644)
        content = draw.randbytes(FILE_BYTES)
        await workspace.ops.write(made.inode_id, content)
        if name.startswith("kept"):
            kept[name] = content
    return workspace, kept


async def work_until(workspace: Workspace, names: itertools.count[int], holds: Callable[[], bool], what: str) -> None:
    """Small changes go on, as they do in a cluster: checkpoints are made by them."""
    end_s = time.monotonic() + LESS_S
    while not holds():
        assert time.monotonic() < end_s, what
        await asyncio.gather(*(workspace.ops.mkdir(bytes(16), b"d%06d" % next(names)) for _ in range(4)))


def lost_chunks(data: Path) -> tuple[int, int]:
    """Of a stopped node: (chunks its state names, those of them that are not here whole)."""
    store = RocksStore(str(data / "state"))
    chunks = ChunkStore(str(data / "chunks"), PosixDisk(), InlineRunner())
    try:
        named = list(referenced_hashes(store))
        return len(named), sum(chunks.get(ChunkHash(found)) is None for found in named)
    finally:
        chunks.close()
        store.close()


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.req("WS-54")
async def test_what_no_file_has_leaves_the_disk_and_an_export_is_byte_equal(tmp_path: Path) -> None:
    print(f"seed {SEED}")
    draw, names = random.Random(SEED), itertools.count()
    async with Cluster(tmp_path, settings=SETTINGS, module="tests.integration.hasty_node") as cluster:
        settings = replace(cluster.client_settings(), lane=PATIENT, read_deadline_s=60.0)
        async with Client(settings) as client:
            workspace, kept = await filled(client, draw)
            full = {name: on_disk(cluster, name) for name in cluster.plans}
            assert min(full.values()) > (GONE + KEPT) * FILE_BYTES
            for number in range(GONE + KEPT):
                if number % 5 != 4:
                    await workspace.ops.unlink(bytes(16), b"gone-%03d" % number)
            await take_snapshot(workspace)  # of a tree without them: the one before goes, and lets them go
            began_s = time.monotonic()
            first = min(cluster.plans)

            def less(share: float, *of: str) -> bool:
                return all(on_disk(cluster, name) < share * full[name] for name in of)

            await work_until(workspace, names, lambda: less(0.9, first), f"{first} begins to let go")
            assert time.monotonic() - began_s >= KEEP_S
            cluster.kill(first)  # in the middle of it
            cluster.start(first)
            await work_until(workspace, names, lambda: less(0.35, *full), "the disks of all nodes have room again")
            took_s = time.monotonic() - began_s
            left = {name: on_disk(cluster, name) for name in full}
            print(f"bytes of segments before: {full}, after {took_s:.0f} s: {left}")
            assert (await list_snapshots(workspace)).retention.gc_freed_bytes > 0
            await export_tree(workspace, tmp_path / "exported")
            exported = {path.name: path.read_bytes() for path in (tmp_path / "exported").iterdir() if path.is_file()}
            assert exported.keys() == kept.keys()
            assert all(exported[name] == content for name, content in kept.items())
        for name in sorted(cluster.plans):
            assert await cluster.stop(name, 60.0) == 0
            named, lost = lost_chunks(cluster.data(name))
            assert (named >= KEPT * FILE_BYTES // 65_536, lost) == (True, 0), name
