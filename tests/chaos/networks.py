"""Networks of five places without a cluster in them, and who hears whom there."""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest

from chaos.cluster.bridge import BridgeNetwork, BridgeWire
from chaos.cluster.features import why_not
from chaos.cluster.host import hosts_for
from chaos.cluster.lines import LineChild
from chaos.cluster.local import LocalSite
from chaos.cluster.namespaces import NamespaceSite
from chaos.cluster.nodes import Build, ProcessCluster
from chaos.cluster.probing import CLIENTS, asker_command
from chaos.cluster.switch import SwitchNetwork, SwitchWire
from chaos.seams import Pair

KINDS = ("namespaces", "switch")
NODES = ("n1", "n2", "n3", "n4", "n5")
PLACES = (*NODES, CLIENTS)
QUIET_S = 0.2  # after which a packet that has not arrived is taken for cut


def needs(kind: str) -> None:
    """Skips, with the words for what is missing."""
    if words := why_not(kind):
        pytest.skip(f"not run: {words}")


class OpenNetwork:
    """An async context manager."""

    def __init__(self, kind: str, directory: Path) -> None:
        self.bridge, self.switch = BridgeWire(), SwitchWire()
        self.site = NamespaceSite(NODES, self.bridge if kind == "namespaces" else self.switch)
        self.network: BridgeNetwork | SwitchNetwork = (self.bridge if kind == "namespaces" else self.switch).network
        self._directory = directory
        self._asker = LineChild(asker_command(self.site.places()), directory / "asker.log")

    async def __aenter__(self) -> OpenNetwork:
        try:
            await self.site.open(self._directory)
            await self._asker.start()
            self.site.asked_by(self._asker)
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._asker.close()
        await self.site.close()

    async def deaf(self, *wanted: Pair, places: Iterable[str] = PLACES) -> set[Pair]:
        """The directions in which a packet does not arrive: a path that is not `wanted` so is given another chance."""
        listed = list(places)
        left = {(a, b) for a in listed for b in listed if a != b}
        for _ in range(4):  # a packet may be late once, on a busy machine
            if left == set(wanted):
                break
            pairs = sorted(left)
            found = await asyncio.gather(*(self.network.probe(a, b, QUIET_S) for a, b in pairs))
            left -= {pair for pair, path in zip(pairs, found, strict=True) if path.there}
        return left

    async def round_trip_ms(self, source: str, target: str) -> float:
        """The quickest of five."""
        found = [await self.network.probe(source, target, 2.0) for _ in range(5)]
        assert all(path.back for path in found)
        return min(path.round_trip_ms for path in found)


def in_namespace(prefix: Sequence[str]) -> subprocess.Popen[bytes]:
    """A process there that nobody but the namespace's end will end."""
    return subprocess.Popen([*prefix, "sleep", "600"])


def is_alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def small_cluster(kind: str, directory: Path, build: Build | None = None) -> ProcessCluster:
    """Three nodes with logs as short as they can be."""
    nodes = NODES[:3]
    sites = {"local": LocalSite, "namespaces": lambda: NamespaceSite(nodes, BridgeWire())}
    site = sites[kind]() if kind in sites else NamespaceSite(nodes, SwitchWire())
    short = {"log_keep_entries": 100, "checkpoint_every_entries": 100}
    settings = {"raft": short, "rate": {"ops_per_s": 1_000_000, "burst_ops": 1_000_000, "bytes_per_s": 1 << 36}}
    rigs = hosts_for(directory / "hosts", nodes, frozenset())
    return ProcessCluster(directory, 3, site, rigs, build or Build(), settings)


async def eventually(condition: object, what: str, deadline_s: float = 10.0) -> None:
    """`condition` is a function, or an async one."""
    assert callable(condition)
    end_s = time.monotonic() + deadline_s
    while True:
        found = condition()
        if asyncio.iscoroutine(found):
            found = await found
        if found:
            return
        assert time.monotonic() < end_s, f"not within {deadline_s:.0f} s: {what}"
        await asyncio.sleep(0.02)
