"""The power of all three disks is cut under load, the nodes with it, and the disks come back as a cut leaves them.

Every node has an ext4 file system of its own on a loop device. A cut is the shutdown call of the file system, without
its journal written out: what the node has not synced is gone, as with a real disk. A build whose log does not sync is
run the same way, and is caught.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from chaos.cluster.image import PowerDisk, cut_all, why_not
from tests.crash.load import Load
from tests.crash.rounds import RefusedToStart, Rounds, Verdict, kill_all
from tests.integration.cluster import Cluster

ROUNDS = int(os.environ.get("HYPERCLUSTER_POWER_ROUNDS", "8"))
SEED = int(os.environ.get("HYPERCLUSTER_POWER_SEED", "1"))
DISK_BYTES = 2 << 30  # sparse

pytestmark = [pytest.mark.root, pytest.mark.long, pytest.mark.timeout(1800)]


@pytest.fixture
def opened() -> Iterator[ExitStack]:
    """Disks are removed last, whatever happens."""
    reason = why_not()
    if reason:
        pytest.skip(reason)
    with ExitStack() as stack:
        yield stack


def give_disks(cluster: Cluster, opened: ExitStack) -> list[PowerDisk]:
    """Every node's data directory becomes a disk of its own."""
    disks = []
    for name in cluster.plans:
        disk = PowerDisk(cluster.directory / f"{name}.image", cluster.data(name), DISK_BYTES)
        opened.callback(disk.remove)
        disk.mount()
        disks.append(disk)
    return disks


async def run(tmp_path: Path, opened: ExitStack, rounds: int, seed: int, *arguments: str) -> Verdict:
    """`arguments` choose a test build."""
    print(f"seed {seed}, {rounds} rounds")
    module = "tests.known_bad.serve" if arguments else "hypercluster.cli.main"
    cluster = Cluster(tmp_path, module=module, arguments=arguments)
    disks = give_disks(cluster, opened)

    def cut() -> None:
        cut_all(disks)
        kill_all(cluster)

    def come_back() -> None:
        for disk in disks:
            disk.unmount()
            disk.mount()

    async with cluster:
        load = Load(cluster.client_settings(), tmp_path, seed)
        try:
            await load.start()
            driver = Rounds(cluster, load, seed, cut, come_back)
            await driver.run(rounds)
            found = await driver.verdict()
        finally:
            await load.stop(0)
    print("\n".join(found.lines()))
    return found


@pytest.mark.req("CL-2", "CL-3", "CL-7", "CL-8", "CH-4")
async def test_nothing_is_lost_when_the_power_of_all_disks_is_cut(tmp_path: Path, opened: ExitStack) -> None:
    found = await run(tmp_path, opened, ROUNDS, SEED)
    assert found.holds


@pytest.mark.req("CH-10", "CL-2")
async def test_a_build_whose_log_does_not_sync_is_caught(tmp_path: Path, opened: ExitStack) -> None:
    """After one cut a node refuses what is left of its log, or acknowledged writes are gone."""
    refused, lost = "", 0
    try:
        found = await run(tmp_path, opened, 1, SEED, "--bad", "no_fsync")
        lost = found.lost
        assert not found.holds
    except RefusedToStart as refusal:
        refused = str(refusal)
        print(f"refused to start: {refused}")
    assert lost > 0 or "/wal" in refused


@pytest.mark.req("CH-10", "CL-2")
async def test_a_build_that_does_not_sync_entries_is_caught(tmp_path: Path, opened: ExitStack) -> None:
    """Its segments are whole, so it starts and works on: only the journals tell that writes are gone."""
    found = await run(tmp_path, opened, 1, SEED, "--bad", "entries_unsynced")
    assert all(report.lost for report in found.reports.values())
