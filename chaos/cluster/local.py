"""All nodes on loopback: processes are killed and paused, the network between them is always whole.

Owns: free ports, and a network without a fault.
Never: needs root, or anything of the kernel beyond sockets.
Invariants: no port is given twice within a cluster; all are below those that the kernel gives to outgoing connections.
"""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from chaos.cluster.probing import CLIENTS, ProbedNetwork, Prober
from hypercluster.cli.founding import NodePlan

LOOPBACK = "127.0.0.1"
PORTS = (15_000, 32_000)
PORTS_A_NODE = 4  # clients, peers, admin, and the probe socket


class LocalSite:
    def __init__(self) -> None:
        self.network = ProbedNetwork()
        self.client_prefix: Sequence[str] = ()
        self._probe_ports: dict[str, int] = {}

    def plans(self, nodes: Sequence[str]) -> list[NodePlan]:
        ports = free_ports(PORTS_A_NODE * len(nodes) + 1)
        self._probe_ports = {CLIENTS: ports.pop(), **{node: ports.pop() for node in nodes}}
        return [NodePlan(node, LOOPBACK, *ports[3 * i : 3 * i + 3]) for i, node in enumerate(nodes)]

    def prefix(self, node: str) -> Sequence[str]:
        return ()

    def places(self) -> Mapping[str, Mapping[str, object]]:
        return {name: {"namespace": "", "probe": (LOOPBACK, port)} for name, port in self._probe_ports.items()}

    async def open(self, log_directory: Path) -> None:
        return

    def asked_by(self, asker: Prober) -> None:
        self.network.asked_by(asker)

    async def close(self) -> None:
        return


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now, by TCP or UDP."""
    rng = random.Random(os.urandom(8))
    chosen: list[int] = []
    while len(chosen) < count:
        port = rng.randrange(*PORTS)
        if port not in chosen and _is_free(port, (socket.SOCK_STREAM, socket.SOCK_DGRAM)):
            chosen.append(port)
    return chosen


def _is_free(port: int, kinds: Iterable[socket.SocketKind]) -> bool:
    for kind in kinds:
        with socket.socket(socket.AF_INET, kind) as tried:
            try:
                tried.bind((LOOPBACK, port))
            except OSError:
                return False
    return True
