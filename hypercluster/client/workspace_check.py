"""The root of a workspace on every node at one log index (WS-35).

Owns: the comparison. Never: repairs.
Invariants: nodes are compared at one index, or not at all: each is asked for a read at an index that all had reached
when it was chosen, and a workspace that is being written to is asked again.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import grpc

from hypercluster.client.answers import from_rpc
from hypercluster.client.stubs import workspace_service
from hypercluster.client.workspace import Workspace
from hypercluster.errors import HyperClusterError
from hypercluster.pb.v1 import workspace_pb2
from hypercluster.values import ReadLevel

ROUNDS = 20
ROUND_PAUSE_S = 0.1
TIMEOUT_S = 3.0


@dataclass(frozen=True, slots=True)
class NodeRoot:
    """One node's word; `problem` says why it gave none."""

    address: str
    log_index: int
    root: bytes
    problem: str = ""


async def compare_nodes(workspace: Workspace) -> list[NodeRoot]:
    """Asks every configured node until all answer for one log index, or patience ends."""
    found: list[NodeRoot] = []
    for _ in range(ROUNDS):
        index = (await workspace.barrier()).state.applied_index
        addresses = workspace.client.settings.nodes
        found = await asyncio.gather(*(_ask(workspace, address, index) for address in addresses))
        if len({node.log_index for node in found if not node.problem}) <= 1:
            return found
        await asyncio.sleep(ROUND_PAUSE_S)
    return found


async def _ask(workspace: Workspace, address: str, min_index: int) -> NodeRoot:
    request = workspace_pb2.BarrierRequest(
        read=workspace.client.read_options(ReadLevel.BOUNDED_STALE, min_index), workspace_id=workspace.workspace_id
    )
    try:
        answer: workspace_pb2.BarrierResponse = await workspace_service(
            workspace.client.nodes.channel(address)
        ).Barrier(request, timeout=TIMEOUT_S)
    except grpc.aio.AioRpcError as error:
        problem: HyperClusterError = from_rpc(error, address)
        return NodeRoot(address, 0, b"", str(problem))
    return NodeRoot(address, answer.workspace.log_index, answer.workspace.root)
