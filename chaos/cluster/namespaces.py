"""Every node in a network namespace of its own, the clients in another, the wire between them in a third.

Owns: the namespaces of a run, their names, addresses and their end; the sweep of what killed runs left behind.
Never: touches a namespace of a run that lives, or the network of the machine itself.
Invariants: names carry the run's id, so two runs do not meet; a run holds a lock on its id as long as its process
lives, whatever its number, and only what has no such owner is swept. Neighbours know each other's hardware address for
good: a cut of one direction is a cut of that direction alone, without ARP to fail the other way round.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from chaos.cluster.entering import PLACE
from chaos.cluster.owners import Owned, without_owner
from chaos.cluster.probing import CLIENTS, ProbedNetwork, Prober
from hypercluster.cli.founding import NodePlan

OWNERS = Path("/run/hypercluster-chaos")  # one locked file a run that has namespaces
PREFIX = "hc"
SUBNET = "10.77.0"
DEVICE = "eth0"
CLIENT_PORT, PEER_PORT, ADMIN_PORT, PROBE_PORT = 7801, 7802, 7803, 7899
COMMAND_S = 20.0
EMPTY_S = 10.0


class Wire(Protocol):
    """What joins the namespaces."""

    @property
    def network(self) -> ProbedNetwork: ...

    async def open(self, run: RunNamespaces, log_directory: Path) -> None:
        """Gives every place its device, without an address."""

    async def close(self) -> None: ...


class RunNamespaces:
    """The namespaces of one run. `places` are the nodes and the clients, in the order of their addresses."""

    def __init__(self, places: Sequence[str]) -> None:
        self.run_id = secrets.token_hex(3)
        self.places = tuple(places)
        self._made: list[str] = []
        self._owned = Owned(OWNERS / self.run_id)

    def name(self, place: str) -> str:
        return f"{PREFIX}{self.run_id}-{place}"

    def address(self, place: str) -> str:
        return f"{SUBNET}.{10 + self.places.index(place)}"

    def hardware_address(self, place: str) -> str:
        return f"02:00:00:00:00:{10 + self.places.index(place):02x}"

    def own(self) -> None:
        """From now on the run's id is taken."""
        self._owned.take()

    def add(self, place: str) -> None:
        run("ip", "netns", "add", self.name(place))
        self._made.append(self.name(place))
        run("ip", "-n", self.name(place), "link", "set", "lo", "up")

    def settle(self, place: str) -> None:
        """Its device gets addresses, goes up, and knows all the others."""
        name = self.name(place)
        lines = [
            f"link set {DEVICE} address {self.hardware_address(place)}",
            f"addr add {self.address(place)}/24 dev {DEVICE}",
            f"link set {DEVICE} up",
            *(
                f"neigh replace {self.address(other)} lladdr {self.hardware_address(other)} nud permanent dev {DEVICE}"
                for other in self.places
                if other != place
            ),
        ]
        run("ip", "-n", name, "-batch", "-", said="\n".join(lines) + "\n")

    def remove(self) -> None:
        """What still runs in them ends with them. Also after a failed `add`; twice is harmless."""
        for name in reversed(self._made):
            remove_namespace(name)
        self._made.clear()
        self._owned.release()


class NamespaceSite:
    def __init__(self, nodes: Sequence[str], wire: Wire) -> None:
        self._nodes = tuple(nodes)
        self._wire = wire
        self.run = RunNamespaces((CLIENTS, *nodes))
        self.network = wire.network
        self.client_prefix: Sequence[str] = prefix_into(self.run.name(CLIENTS))

    def plans(self, nodes: Sequence[str]) -> list[NodePlan]:
        return [NodePlan(node, self.run.address(node), CLIENT_PORT, PEER_PORT, ADMIN_PORT) for node in nodes]

    def prefix(self, node: str) -> Sequence[str]:
        return prefix_into(self.run.name(node))

    def places(self) -> Mapping[str, Mapping[str, object]]:
        return {
            place: {"namespace": self.run.name(place), "probe": (self.run.address(place), PROBE_PORT)}
            for place in self.run.places
        }

    async def open(self, log_directory: Path) -> None:
        sweep()
        self.run.own()
        for place in self.run.places:
            self.run.add(place)
        await self._wire.open(self.run, log_directory)
        for place in self.run.places:
            self.run.settle(place)

    def asked_by(self, asker: Prober) -> None:
        self.network.asked_by(asker)

    async def close(self) -> None:
        try:
            await self._wire.close()
        finally:
            self.run.remove()


def prefix_into(namespace: str) -> tuple[str, ...]:
    """Of the network alone: `ip netns exec` would give the process mounts of its own, and with them a hold on every
    disk of the cluster that is mounted at that moment."""
    return ("nsenter", f"--net={PLACE / namespace}", "--")


def sweep() -> list[str]:
    """Removes the namespaces of runs whose process is gone, with what still runs in them; their names."""
    removed: list[str] = []
    for run_id, _ in without_owner(OWNERS):
        for path in sorted(PLACE.glob(f"{PREFIX}{run_id}-*")):
            remove_namespace(path.name)
            removed.append(path.name)
    return removed


def remove_namespace(name: str) -> None:
    """With the processes in it: they are of the same run, and nobody else's."""
    if not (PLACE / name).exists():
        return
    end_s = time.monotonic() + EMPTY_S
    while pids := run("ip", "netns", "pids", name).split():
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        if time.monotonic() > end_s:
            raise TimeoutError(f"namespace {name}: processes {', '.join(pids)} do not die")
    run("ip", "netns", "del", name)


def run(*command: str, said: str = "") -> str:
    """Its output. Raises OSError with its words."""
    done = subprocess.run(command, input=said, capture_output=True, text=True, check=False, timeout=COMMAND_S)
    if done.returncode != 0:
        raise OSError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout
