"""What takes a while: rolling restart, a new member, a follower that needs a checkpoint, all under load."""

from __future__ import annotations

import asyncio
import contextlib
import random
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from chaos.cluster.lines import PROJECT
from chaos.cluster.nodes import Build, ProcessCluster, dies_with_us
from chaos.nemeses.membership import MemberReplaced
from chaos.nemeses.processes import FallBehind, RollingRestart
from chaos.seams import Nemesis
from hypercluster.client.client import Client
from hypercluster.client.settings import read_settings
from hypercluster.errors import HyperClusterError
from tests.chaos.networks import eventually, is_alive, small_cluster

pytestmark = [pytest.mark.req("CH-4"), pytest.mark.long, pytest.mark.timeout(300)]


class Load:
    """Writes one after another, and goes on after whatever is not done."""

    def __init__(self) -> None:
        self.acknowledged = 0

    async def run(self, client_file: Path) -> None:
        async with Client(read_settings(client_file)) as client:
            for number in range(1_000_000):
                with contextlib.suppress(HyperClusterError):
                    await client.hub.set("metadata", b"load-%d" % (number % 100), b"%d" % number)
                    self.acknowledged += 1


@contextlib.asynccontextmanager
async def under_load(directory: Path, build: Build | None = None) -> AsyncIterator[tuple[ProcessCluster, Load]]:
    async with small_cluster("local", directory, build) as cluster:
        load = Load()
        writing = asyncio.create_task(load.run(cluster.client_file))
        try:
            await eventually(lambda: load.acknowledged > 20, "writes are acknowledged")
            yield cluster, load
        finally:
            writing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await writing


async def healed(nemesis: Nemesis, cluster: ProcessCluster, load: Load) -> None:
    await nemesis.heal(cluster)

    async def is_healed() -> bool:
        return await nemesis.probe(cluster) == ""

    await eventually(is_healed, f"{nemesis.name} is healed", 60)
    await cluster.healthy(30)
    before = load.acknowledged
    await eventually(lambda: load.acknowledged > before + 20, "writes are acknowledged again", 30)
    assert cluster.unexpected_exits() == []


OWNER = """
    import asyncio, sys
    from pathlib import Path
    from tests.chaos.networks import small_cluster

    async def main():
        async with small_cluster("local", Path(sys.argv[1])) as cluster:
            print(*[cluster.pid(node) for node in cluster.nodes], flush=True)
            await asyncio.sleep(600)

    asyncio.run(main())
"""


def owner_of_a_cluster(directory: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", textwrap.dedent(OWNER), str(directory)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, cwd=PROJECT, text=True)


async def test_nodes_end_with_a_harness_that_is_killed(tmp_path: Path) -> None:
    if not dies_with_us():
        pytest.skip("not run: there is no setpriv")
    with owner_of_a_cluster(tmp_path) as owner:
        try:
            assert owner.stdout is not None
            pids = [int(pid) for pid in owner.stdout.readline().split()]
            assert len(pids) == 3 and all(map(is_alive, pids))
        finally:
            owner.kill()
    await eventually(lambda: not any(map(is_alive, pids)), "they end too")


async def test_rolling_restart(tmp_path: Path) -> None:
    async with under_load(tmp_path) as (cluster, load):
        nemesis = RollingRestart()
        pids = {node: cluster.pid(node) for node in cluster.nodes}
        await nemesis.begin(cluster, random.Random(1))
        await healed(nemesis, cluster, load)
        assert all(cluster.pid(node) != pid for node, pid in pids.items())


async def test_a_follower_that_fell_behind_takes_a_checkpoint(tmp_path: Path) -> None:
    async with under_load(tmp_path) as (cluster, load):
        nemesis = FallBehind()
        await nemesis.begin(cluster, random.Random(1))
        assert await nemesis.probe(cluster) != ""
        await healed(nemesis, cluster, load)
        assert nemesis.took_checkpoint


async def test_a_member_is_replaced(tmp_path: Path) -> None:
    async with under_load(tmp_path) as (cluster, load):
        nemesis = MemberReplaced()
        words = await nemesis.begin(cluster, random.Random(1))
        assert "is no member any more" in words
        assert "not running" in await nemesis.probe(cluster)
        before = load.acknowledged
        await eventually(lambda: load.acknowledged > before + 20, "the others go on without it", 30)
        await healed(nemesis, cluster, load)
        victim = words.split()[0]
        home = tmp_path / "hosts" / victim
        assert len(list(home.glob("data.aside-*"))) == 1, "the member before it is kept aside"
        await nemesis.heal(cluster)
        assert await nemesis.probe(cluster) == "", "healing what is healed changes nothing"
        assert len(list(home.glob("data.aside-*"))) == 1
