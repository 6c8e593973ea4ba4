"""A bridge of the kernel between the namespaces, and nftables that drop frames on it.

Owns: the bridge's own namespace, its ports, and one table of family bridge.
Never: shapes links: this is for cuts alone, at the full speed of the kernel.
Invariants: what is cut is replaced in one transaction: no moment with half of it. A frame is judged by the ports it
comes in and goes out by, so that broadcasts and ARP are cut with the rest, and one direction alone can be.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from pathlib import Path

from chaos.cluster.namespaces import DEVICE, RunNamespaces, prefix_into, run
from chaos.cluster.probing import ProbedNetwork
from chaos.seams import Pair

SWITCH = "switch"
BRIDGE = "br0"
TABLE = "chaos"
NFT_S = 10.0

RULES = f"""
table bridge {TABLE} {{
  set cut {{ typeof iifname . oifname; }}
  chain frames {{
    type filter hook forward priority 0; policy accept;
    iifname . oifname @cut drop
  }}
}}
"""


class BridgeNetwork(ProbedNetwork):
    features = frozenset({"cut"})

    def __init__(self) -> None:
        super().__init__()
        self._nft: tuple[str, ...] = ()
        self._places: frozenset[str] = frozenset()

    async def begin(self, namespace: str, places: Iterable[str]) -> None:
        self._nft = (*prefix_into(namespace), "nft", "-f", "-")
        self._places = frozenset(places)
        await self._tell(RULES)

    async def cut(self, pairs: Iterable[Pair]) -> None:
        """Raises ValueError for a name that is no place."""
        wanted = sorted(set(pairs))
        if unknown := {name for pair in wanted for name in pair} - self._places:
            raise ValueError(f"pairs: no place is named {', '.join(sorted(unknown))}")
        lines = [f"flush set bridge {TABLE} cut"]
        if wanted:
            elements = ", ".join(f'"{port_of(source)}" . "{port_of(target)}"' for source, target in wanted)
            lines.append(f"add element bridge {TABLE} cut {{ {elements} }}")
        await self._tell("\n".join(lines) + "\n")

    async def heal(self) -> None:
        await self.cut(())

    async def _tell(self, script: str) -> None:
        if not self._nft:
            raise RuntimeError("the bridge is not there")
        process = await asyncio.create_subprocess_exec(
            *self._nft,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        try:
            async with asyncio.timeout(NFT_S):
                said, _ = await process.communicate(script.encode())
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if process.returncode != 0:
            raise OSError(f"nft: {said.decode(errors='replace').strip()}")


class BridgeWire:
    def __init__(self) -> None:
        self.network = BridgeNetwork()

    async def open(self, namespaces: RunNamespaces, log_directory: Path) -> None:
        namespaces.add(SWITCH)
        switch = namespaces.name(SWITCH)
        run("ip", "-n", switch, "link", "add", BRIDGE, "type", "bridge", "forward_delay", "0", "stp_state", "0")
        run("ip", "-n", switch, "link", "set", BRIDGE, "up")
        for place in namespaces.places:
            port = port_of(place)
            ends = ("name", DEVICE, "netns", namespaces.name(place), "type", "veth", "peer", "name", port)
            run("ip", "link", "add", *ends, "netns", switch)
            run("ip", "-n", switch, "link", "set", port, "master", BRIDGE, "up")
        await self.network.begin(switch, namespaces.places)

    async def close(self) -> None:
        """Everything lies in the switch's namespace, and goes with it."""


def port_of(place: str) -> str:
    """The bridge's port towards a place."""
    return f"p-{place}"
