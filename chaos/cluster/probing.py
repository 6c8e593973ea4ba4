"""What every network of a cluster under test shares: probes from inside, by the asker.

Owns: `ProbedNetwork`: who reaches whom, and how long a packet takes; how the asker is started.
Never: cuts anything.
Invariants: a probe that the asker can not send says so by an exception; only a packet that did not arrive is "does not
reach". A lost packet is not a cut: PROBES packets are tried.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from chaos.seams import Link, Pair

PROBE_S = 0.5
PROBES = 3
CLIENTS = "clients"


class Prober(Protocol):
    async def ask(self, question: Mapping[str, object]) -> Mapping[str, object]: ...


def asker_command(places: Mapping[str, Mapping[str, object]], cluster: Mapping[str, object] | None = None) -> list[str]:
    """How to start it. `places`: name -> namespace and probe address, "clients" among them; `cluster`: client_file,
    cluster_id in hexadecimal, addresses."""
    spec = {"places": {name: dict(place) for name, place in places.items()}, "cluster": cluster}
    return [sys.executable, "-m", "chaos.cluster.asker", json.dumps(spec)]


@dataclass(frozen=True, slots=True)
class Path:
    """What became of one packet. `round_trip_ms` counts only where it came back."""

    there: bool
    back: bool
    round_trip_ms: float


class ProbedNetwork:
    features: frozenset[str] = frozenset()

    def __init__(self) -> None:
        self._prober: Prober | None = None

    def asked_by(self, prober: Prober) -> None:
        self._prober = prober

    async def cut(self, pairs: Iterable[Pair]) -> None:
        raise NotImplementedError("this network can not be cut")

    async def shape(self, links: Mapping[Pair, Link]) -> None:
        raise NotImplementedError("the links of this network can not be made bad")

    async def heal(self) -> None:
        return

    async def probe(self, source: str, target: str, timeout_s: float = PROBE_S) -> Path:
        """One packet."""
        if self._prober is None:
            raise RuntimeError("the cluster is not started: nobody is there to probe")
        found = await self._prober.ask({"ask": "probe", "source": source, "target": target, "timeout_s": timeout_s})
        return Path(bool(found["there"]), bool(found["back"]), float(str(found["round_trip_ms"])))

    async def reaches(self, source: str, target: str) -> bool:
        for _ in range(PROBES):
            if (await self.probe(source, target)).back:
                return True
        return False

    async def hears(self, target: str, source: str) -> bool:
        """Whether what `source` sends gets to `target`, whatever comes back."""
        for _ in range(PROBES):
            if (await self.probe(source, target)).there:
                return True
        return False


async def reach_matrix(network: ReachingNetwork, names: Iterable[str]) -> dict[Pair, bool]:
    """Every ordered pair of different names."""
    listed = list(names)
    pairs = [(a, b) for a in listed for b in listed if a != b]
    found = await asyncio.gather(*(network.reaches(a, b) for a, b in pairs))
    return dict(zip(pairs, found, strict=True))


class ReachingNetwork(Protocol):
    async def reaches(self, source: str, target: str) -> bool: ...
