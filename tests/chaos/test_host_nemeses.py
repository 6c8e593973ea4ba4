"""Disks, clocks and power of a real cluster under a light load: broken, healed, seen to be healed; nothing is lost."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from chaos.cluster import image, open_cluster
from chaos.cluster.host import FILL, POWER, SHIM, hosts_for
from chaos.nemeses import clocks, disks, on_hosts, power
from chaos.nemeses.on_hosts import NemesisError
from chaos.seams import ClusterUnderTest, Nemesis
from chaos.shim import control
from chaos.shim.control import NoShimError
from hypercluster.client.client import Client
from hypercluster.client.lane_types import S_NS, LaneSettings
from hypercluster.client.settings import read_settings

NODES = ["n1", "n2", "n3"]
SEED = 5
PATIENCE_S = 60.0
LANE = LaneSettings(no_leader_ns=60 * S_NS, deadline_ns=60 * S_NS)


class Writes:
    """Counts a hub key up, one write after the other; what was acknowledged must be there at the end."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._stop = asyncio.Event()
        self.acknowledged = 0

    async def run(self) -> None:
        while not self._stop.is_set():
            await self._client.hub.set("metadata", b"count", b"%d" % (self.acknowledged + 1))
            self.acknowledged += 1

    def stop(self) -> None:
        self._stop.set()

    async def go_on(self, more: int = 3) -> None:
        wanted = self.acknowledged + more
        await until(lambda: _holds(self.acknowledged >= wanted), f"{more} more writes")


async def _holds(condition: bool) -> bool:
    return condition


async def until(look: Callable[[], Awaitable[object]], what: str) -> None:
    end_s = time.monotonic() + PATIENCE_S
    while not await look():
        assert time.monotonic() < end_s, f"not within {PATIENCE_S} s: {what}"
        await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def running(directory: Path, features: set[str]) -> AsyncIterator[tuple[ClusterUnderTest, Writes]]:
    rigs = hosts_for(directory / "hosts", NODES, features)
    with ExitStack() as closing:
        for rig in rigs.values():
            closing.enter_context(rig)
        async with open_cluster("local", directory, 3, rigs) as cluster:
            settings = replace(read_settings(cluster.client_file), lane=LANE, read_deadline_s=PATIENCE_S)
            async with Client(settings) as client:
                writes = Writes(client)
                task = asyncio.create_task(writes.run())
                try:
                    yield cluster, writes
                    await writes.go_on()
                finally:
                    writes.stop()
                    await asyncio.wait([task])
                task.result()
                found = await client.hub.get("metadata", b"count")
                assert found.payload == b"%d" % writes.acknowledged
                await cluster.healthy()
                assert cluster.unexpected_exits() == []


async def heals(nemesis: Nemesis, cluster: ClusterUnderTest) -> None:
    await nemesis.heal(cluster)
    await until(lambda: _is_healed(nemesis, cluster), f"{nemesis.name} is healed")
    await nemesis.heal(cluster)
    assert await nemesis.probe(cluster) == "", "healing twice changes nothing"


async def _is_healed(nemesis: Nemesis, cluster: ClusterUnderTest) -> bool:
    return not await nemesis.probe(cluster)


@pytest.fixture
def needs_shim(tmp_path: Path) -> None:
    try:
        control.build(tmp_path / "tried")
    except NoShimError as error:
        pytest.skip(f"not run: {error}")


@pytest.fixture
def needs_disks() -> None:
    if reason := image.why_not():
        pytest.skip(reason)


@pytest.mark.req("CH-4", "CL-4")
@pytest.mark.usefixtures("needs_shim")
async def test_disks_and_clocks_through_the_shim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    print(f"seed {SEED}")
    rng = random.Random(SEED)
    async with running(tmp_path, {SHIM}) as (cluster, writes):
        await writes.go_on()
        failing = disks.FailingSync()
        await failing.heal(cluster)  # before it began
        words = await failing.begin(cluster, rng)
        down = [node for node in NODES if not cluster.is_running(node)]
        assert len(down) == 1 and down[0] in words
        assert "failed and is not retried" in cluster.log(down[0]).read_text()
        assert await failing.probe(cluster) != ""
        await writes.go_on()
        await heals(failing, cluster)

        slow, jump, drift = disks.SlowSync(), clocks.ClockJump(), clocks.ClockDrift()
        assert "takes" in await slow.begin(cluster, rng)
        assert await slow.probe(cluster) != ""
        print(await jump.begin(cluster, rng))
        (off,) = jump._broken
        await until(lambda: _skew(cluster, off, 30_000), f"{off} notices its clock")
        assert "clock" in await jump.probe(cluster)
        await writes.go_on()
        await heals(slow, cluster)
        assert "clock" in await jump.probe(cluster), "the clock is not the disk's to heal"
        await heals(jump, cluster)
        print(await drift.begin(cluster, rng))
        assert await drift.probe(cluster) != ""
        await writes.go_on()
        await heals(drift, cluster)
        await faults_that_are_none_are_told_of(cluster, monkeypatch)


async def _skew(cluster: ClusterUnderTest, node: str, at_least_ms: int) -> bool:
    view = await cluster.status(node)
    return view is not None and abs(view.clock_skew_ms) >= at_least_ms


async def faults_that_are_none_are_told_of(cluster: ClusterUnderTest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shim that fails nothing stands in for a node that goes on after a failed sync."""
    monkeypatch.setattr(disks, "EXIT_S", 0.5)
    monkeypatch.setattr(on_hosts, "FELT_S", 0.2)
    for host in cluster.hosts.values():
        monkeypatch.setattr(host, "sync_error", lambda _: None)
        monkeypatch.setattr(host, "steers", lambda: False)
    for nemesis, words in ((disks.FailingSync(), "still there"), (clocks.ClockJump(), "not under the shim")):
        with pytest.raises(NemesisError, match=words):
            await nemesis.begin(cluster, random.Random(SEED))
        await heals(nemesis, cluster)


@pytest.mark.root
@pytest.mark.req("CH-4", "CL-4")
@pytest.mark.usefixtures("needs_disks")
async def test_full_disks_and_power_cuts(tmp_path: Path) -> None:
    print(f"seed {SEED}")
    rng = random.Random(SEED)
    async with running(tmp_path, {POWER, FILL}) as (cluster, writes):
        await writes.go_on()
        for nemesis in (disks.FullDisk(), power.PowerCut("minority")):
            words = await nemesis.begin(cluster, rng)
            print(words)
            assert await nemesis.probe(cluster) != ""
            await writes.go_on()
            await heals(nemesis, cluster)
        nemesis = power.PowerCut("all")
        assert "n1, n2, n3" in await nemesis.begin(cluster, rng)
        assert not any(cluster.is_running(node) for node in NODES)
        await heals(nemesis, cluster)
