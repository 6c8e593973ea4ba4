"""`python -m chaos.workloads.observer PLAN`: the final state of a healed cluster, read over its public API.

Owns: the order of the looking: nodes at rest at one index, then workspaces from every node, hub keys, nodes again.
Never: judges what it finds, or changes anything.
Invariants: what could not be read stands in `problems`, and then the exit status is 1: what was not seen is not well.
Exit status 2: a plan that is none.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from chaos.workloads.final import put_final, put_part
from chaos.workloads.observed import LogPaths, hub_keys, log_record, node_state, tree_of
from chaos.workloads.plan import BadPlanError, ObserverPlan, read_observer_plan
from hypercluster.client.client import Client
from hypercluster.client.settings import ClientSettings, read_settings
from hypercluster.client.workspace import Workspace
from hypercluster.client.workspace_check import compare_nodes
from hypercluster.errors import HyperClusterError
from hypercluster.pb.v1 import workspace_pb2

LOOK_AGAIN_S = 0.05
READ_S = 10.0

Json = dict[str, Any]


class Observer:
    def __init__(self, plan: ObserverPlan, whole: Client, single: dict[str, Client], problems: list[str]) -> None:
        """`whole` reaches all nodes, each of `single` one. What can not be read is told to `problems`."""
        self._plan = plan
        self._whole = whole
        self._single = single
        self._out = Path(plan.directory)
        self._addresses = {name: client.settings.nodes[0] for name, client in single.items()}
        self._problems = problems

    async def observe(self) -> Json:
        before = await self._nodes_at_rest()
        index = max((node.get("applied_index", 0) for node in before.values()), default=0)
        leader = max(before, key=lambda name: (before[name].get("role") == "leader", before[name].get("term", 0)))
        self._single = {name: client for name, client in self._single.items() if "problem" not in before[name]}
        for client in (self._whole, *self._single.values()):
            client.see_at_least(index)
        workspaces: Json = {}
        for summary in await self._whole.workspaces():
            if summary.name.startswith(self._plan.workspaces):
                workspaces[summary.name] = await self._workspace(summary, leader)
        hub = {"metadata": await hub_keys(self._whole, self._plan.hub_prefix)}
        return {
            "index": index,
            "nodes": await self._nodes_at_rest(),
            "workspaces": workspaces,
            "hub": {name: put_part(self._out, f"hub-{name}", keys) for name, keys in hub.items()},
        }

    async def _nodes_at_rest(self) -> Json:
        """Every node's own view, once all have applied the same index; else what they say after `rest_s`."""
        end_s = time.monotonic() + self._plan.rest_s
        while True:
            views = await asyncio.gather(*map(self._view, self._addresses))
            found = dict(zip(self._addresses, views, strict=True))
            indexes = {view.get("applied_index", -1) for view in views}
            led = any(view.get("role") == "leader" for view in views)
            if led and len(indexes) == 1 and -1 not in indexes:
                return found
            if time.monotonic() > end_s:
                words = [f"{name} {view.get('applied_index', view.get('problem'))}" for name, view in found.items()]
                self._problems.append(f"nodes are not at rest at one index under a leader: {', '.join(words)}")
                return found
            await asyncio.sleep(LOOK_AGAIN_S)

    async def _view(self, name: str) -> Json:
        address = self._addresses[name]
        try:
            return {"address": address, **node_state(await self._whole.nodes.status(address))}
        except HyperClusterError as error:
            return {"address": address, "problem": str(error)}

    async def _workspace(self, summary: workspace_pb2.WorkspaceSummary, leader: str) -> Json:
        name = summary.name
        workspace = Workspace(self._whole, summary.workspace_id, name)
        paths = LogPaths()
        log = [paths.told(log_record(record)) async for record in workspace.log(address=self._addresses[leader])]
        roots = await self._roots(workspace)
        trees: Json = {}
        files: Json = {}
        for node, client in self._single.items():
            mine = Workspace(client, summary.workspace_id, name)
            try:
                tree, found = await tree_of(mine, with_records=node == leader)
            except HyperClusterError as error:
                self._problems.append(f"{name}: its tree on {node}: {error}")
                continue
            trees[node] = put_part(self._out, f"tree-{name}-{node}", tree)
            files = found if node == leader else files
        return {
            "workspace_id": summary.workspace_id.hex(),
            "log_index": {node: at for node, (at, _) in roots.items()},
            "root": {node: root for node, (_, root) in roots.items()},
            "log": put_part(self._out, f"log-{name}", log),
            "tree": trees,
            "files": put_part(self._out, f"files-{name}", files),
        }

    async def _roots(self, workspace: Workspace) -> dict[str, tuple[int, str]]:
        """(log index, root) by node; of all nodes at one log index."""
        by_address = {node.address: node for node in await compare_nodes(workspace)}
        found: dict[str, tuple[int, str]] = {}
        for name, address in self._addresses.items():
            node = by_address[address]
            if node.problem:
                self._problems.append(f"{workspace.name}: its root on {name}: {node.problem}")
            else:
                found[name] = (node.log_index, node.root.hex())
        return found


async def find_nodes(
    settings: ClientSettings, wanted: Sequence[str], rest_s: float
) -> tuple[dict[str, str], list[str]]:
    """(client address by name, what is wrong). Asks the addresses of the settings, and those that the leader names."""
    found: dict[str, str] = {}
    end_s = time.monotonic() + rest_s
    async with Client(settings) as client:
        while True:
            for address, status in (await client.status()).items():
                if isinstance(status, HyperClusterError):
                    continue
                found[status.node_id] = address
                if status.role == "leader":
                    members = {peer.node_id: peer.client_address for peer in status.peers if peer.client_address}
                    found = {**members, **found}
            if found and all(name in found for name in wanted):
                break
            if time.monotonic() > end_s:
                break
            await asyncio.sleep(LOOK_AGAIN_S)
    missing = [f"{name}: no node of this name is found" for name in wanted if name not in found]
    return {name: found[name] for name in sorted(found) if name in wanted or not wanted}, missing


async def run(plan: ObserverPlan) -> list[str]:
    """Writes the final state; returns what was wrong with the reading of it."""
    settings = replace(read_settings(Path(plan.client_file)), read_deadline_s=READ_S)
    problems: list[str] = []
    state: Json = {}
    async with AsyncExitStack() as stack:
        try:
            async with asyncio.timeout(plan.deadline_s):
                addresses, missing = await find_nodes(settings, plan.nodes, plan.rest_s)
                problems += missing
                if addresses:
                    whole = Client(replace(settings, nodes=tuple(addresses.values())))
                    single = {n: Client(replace(settings, nodes=(address,))) for n, address in addresses.items()}
                    for client in (whole, *single.values()):
                        await stack.enter_async_context(client)
                    state = await Observer(plan, whole, single, problems).observe()
                else:
                    problems.append("the final state could not be read: no node answers")
        except (HyperClusterError, TimeoutError) as error:
            words = str(error) or f"it took longer than {plan.deadline_s} s"
            problems.append(f"the final state could not be read: {words}")
    put_final(Path(plan.directory), {**state, "problems": problems})
    return problems


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit("usage: python -m chaos.workloads.observer PLAN")
    try:
        plan = read_observer_plan(sys.argv[1])
    except BadPlanError as error:
        print(f"plan: {error}", file=sys.stderr)
        sys.exit(2)
    problems = asyncio.run(run(plan))
    for words in problems:
        print(words, file=sys.stderr)
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    main()
