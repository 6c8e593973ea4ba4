"""The members of the cluster, as an operator's client sees and changes them (QUO-1).

Owns: the calls, and their repetition: each names an incarnation and asks for a state, not for a change, so that asking
again after an unknown outcome is harmless.
Never: decides which step comes next; waits for a learner to catch up.
Invariants: a refusal by the rules (StepRefusedError) or for want of rights is final and is not asked for again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import grpc

from hypercluster.client.nodes import Nodes
from hypercluster.client.stubs import cluster_service
from hypercluster.errors import ChangeInProgressError
from hypercluster.pb.v1 import cluster_pb2
from hypercluster.pb.v1.cluster_pb2 import MembersResponse, PeerInfo

STEP_S = 15.0
PAUSE_S = 0.1


async def members(nodes: Nodes, deadline_s: float = STEP_S) -> MembersResponse:
    """The committed configuration, by a leader that a majority confirmed."""
    request = cluster_pb2.MembersRequest()
    return await _ask(
        nodes, lambda c, t: cluster_service(c).Members(request, timeout=t), "the cluster's members", deadline_s
    )


async def add_member(
    nodes: Nodes, node_id: str, incarnation: bytes, peer_address: str, *, promote: bool, deadline_s: float = STEP_S
) -> MembersResponse:
    """As a learner; with `promote` the leader makes it a voter once it has caught up."""
    request = cluster_pb2.AddMemberRequest(
        node_id=node_id, incarnation=incarnation, peer_address=peer_address, promote=promote
    )
    return await _ask(
        nodes, lambda c, t: cluster_service(c).AddMember(request, timeout=t), f"add member {node_id}", deadline_s
    )


async def promote_member(nodes: Nodes, node_id: str, incarnation: bytes, deadline_s: float = STEP_S) -> MembersResponse:
    request = cluster_pb2.PromoteMemberRequest(node_id=node_id, incarnation=incarnation)
    return await _ask(
        nodes, lambda c, t: cluster_service(c).PromoteMember(request, timeout=t), f"promote {node_id}", deadline_s
    )


async def remove_member(nodes: Nodes, node_id: str, incarnation: bytes, deadline_s: float = STEP_S) -> MembersResponse:
    """Of this incarnation; one that is no member any more counts as removed."""
    request = cluster_pb2.RemoveMemberRequest(node_id=node_id, incarnation=incarnation)
    return await _ask(
        nodes, lambda c, t: cluster_service(c).RemoveMember(request, timeout=t), f"remove {node_id}", deadline_s
    )


def find(found: MembersResponse, node_id: str) -> PeerInfo | None:
    return next((member for member in found.members if member.node_id == node_id), None)


async def _ask(
    nodes: Nodes,
    call: Callable[[grpc.aio.Channel, float], Awaitable[MembersResponse]],
    what: str,
    deadline_s: float,
) -> MembersResponse:
    end_s = time.monotonic() + deadline_s
    while True:
        try:
            return await nodes.read(call, what, deadline_s=max(0.1, end_s - time.monotonic()))
        except ChangeInProgressError:
            if time.monotonic() + PAUSE_S > end_s:
                raise
            await asyncio.sleep(PAUSE_S)
