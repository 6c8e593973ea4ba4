"""Who follows a workspace right now, and how far each has come (WS-5, WS-50).

Owns: the question put to every node, as each knows only the workers that have a session with it.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import grpc

from hypercluster.client.answers import from_rpc
from hypercluster.client.stubs import workspace_service
from hypercluster.errors import HyperClusterError
from hypercluster.pb.v1 import workspace_pb2

if TYPE_CHECKING:
    from hypercluster.client.workspace import Workspace

TIMEOUT_S = 3.0

NodeAnswer = list[workspace_pb2.WorkerStatus] | HyperClusterError


async def connected_workers(workspace: Workspace) -> dict[str, NodeAnswer]:
    """By node address; a node that does not answer with its error."""
    addresses = workspace.client.settings.nodes
    found = await asyncio.gather(*(_ask(workspace, address) for address in addresses))
    return dict(zip(addresses, found, strict=True))


async def _ask(workspace: Workspace, address: str) -> NodeAnswer:
    request = workspace_pb2.WorkersRequest(workspace_id=workspace.workspace_id)
    try:
        answer: workspace_pb2.WorkersResponse = await workspace_service(
            workspace.client.nodes.channel(address)
        ).Workers(request, timeout=TIMEOUT_S)
    except grpc.aio.AioRpcError as error:
        return from_rpc(error, address)
    return list(answer.workers)
