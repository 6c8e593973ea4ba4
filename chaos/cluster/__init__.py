"""Clusters of real processes to be broken: on loopback, or in network namespaces (see DESIGN.md).

    async with open_cluster("switch", directory, 5, hosts) as cluster:
        cluster.kill(await cluster.leader())

Owns: which kinds there are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from chaos.cluster.bridge import BridgeWire
from chaos.cluster.features import KIND_NEEDS, host_features, probe, why_not
from chaos.cluster.local import LocalSite
from chaos.cluster.namespaces import NamespaceSite
from chaos.cluster.nodes import PRODUCT, Build, ProcessCluster, Site
from chaos.cluster.switch import SwitchWire
from chaos.seams import HostRig

KINDS = tuple(KIND_NEEDS)
NODES_ALLOWED = (3, 5)


def open_cluster(
    kind: str,
    directory: Path,
    nodes: int,
    hosts: Mapping[str, HostRig],
    module: str = PRODUCT,
    arguments: Sequence[str] = (),
) -> ProcessCluster:
    """An async context manager: founded and started when it is entered, and nothing of it left when it ends.

    `hosts`: a rig for each of n1, n2, …; `module` and `arguments` name what is run, `python -m MODULE ARGUMENTS serve`.
    Raises ValueError naming the argument; a machine that lacks something fails on entering (`why_not` says it before).
    """
    if nodes not in NODES_ALLOWED:
        raise ValueError(f"nodes: {nodes}, must be one of {', '.join(map(str, NODES_ALLOWED))}")
    names = [f"n{i + 1}" for i in range(nodes)]
    return ProcessCluster(directory, nodes, _site(kind, names), hosts, Build(module, tuple(arguments)))


def _site(kind: str, names: Sequence[str]) -> Site:
    match kind:
        case "local":
            return LocalSite()
        case "namespaces":
            return NamespaceSite(names, BridgeWire())
        case "switch":
            return NamespaceSite(names, SwitchWire())
        case _:
            raise ValueError(f"kind: {kind!r}, must be one of {', '.join(KINDS)}")


__all__ = ["KINDS", "NODES_ALLOWED", "ProcessCluster", "host_features", "open_cluster", "probe", "why_not"]
