"""The userspace switch between the namespaces, seen from the harness.

Owns: the switch's process, and the table of what is cut and what is bad.
Never: moves a frame: that is chaos/switch.
Invariants: cuts and bad links are told together, as one table, and are in force when the call
returns; `heal` ends both.
"""

from __future__ import annotations

import json
import secrets
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path

from chaos.cluster.lines import LineChild
from chaos.cluster.namespaces import DEVICE, RunNamespaces
from chaos.cluster.probing import ProbedNetwork
from chaos.seams import Link, Pair


class SwitchNetwork(ProbedNetwork):
    features = frozenset({"cut", "links"})

    def __init__(self) -> None:
        super().__init__()
        self._process: LineChild | None = None
        self._cut: tuple[Pair, ...] = ()
        self._shape: Mapping[Pair, Link] = {}

    def begin(self, process: LineChild) -> None:
        self._process = process

    async def cut(self, pairs: Iterable[Pair]) -> None:
        """Raises ValueError for a name that is no place."""
        await self._tell(tuple(pairs), self._shape)

    async def shape(self, links: Mapping[Pair, Link]) -> None:
        """Raises ValueError naming the field and its limit."""
        await self._tell(self._cut, dict(links))

    async def heal(self) -> None:
        await self._tell((), {})

    async def counts(self) -> Mapping[str, int]:
        """Frames so far: all, dropped, and those that had to wait."""
        return await self._tell(self._cut, self._shape)

    async def _tell(self, cut: tuple[Pair, ...], shape: Mapping[Pair, Link]) -> Mapping[str, int]:
        if self._process is None:
            raise RuntimeError("the switch is not there")
        table = {"cut": list(cut), "shape": [(*pair, asdict(link)) for pair, link in shape.items()]}
        answer = await self._process.ask({"ask": "links", **table})
        self._cut, self._shape = cut, shape
        return dict(answer["counts"])


class SwitchWire:
    def __init__(self) -> None:
        self.network = SwitchNetwork()
        self.process: LineChild | None = None

    async def open(self, namespaces: RunNamespaces, log_directory: Path) -> None:
        spec = {
            "namespaces": {place: namespaces.name(place) for place in namespaces.places},
            "device": DEVICE,
            "seed": secrets.randbits(32),
        }
        command = [sys.executable, "-m", "chaos.switch", json.dumps(spec)]
        self.process = LineChild(command, log_directory / "switch.log")
        await self.process.start()
        self.network.begin(self.process)

    async def close(self) -> None:
        """Its devices go with it."""
        if self.process is not None:
            await self.process.close()
