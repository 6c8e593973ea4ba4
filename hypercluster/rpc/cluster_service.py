"""ClusterService: this node's own view, and leadership transfer.

Owns: the conversion of a node's report into NodeStatus.
Never: needs a quorum for a status.
"""

from __future__ import annotations

import asyncio

from hypercluster.errors import DeadlineError, MalformedError, OutcomeUnknownError
from hypercluster.node.report import NodeReport, Reporter
from hypercluster.node.standing import Standing
from hypercluster.pb.v1 import cluster_pb2
from hypercluster.raft.engine import Engine, NotProposed, ProposalOutcome, Unknown
from hypercluster.rpc.calls import Call
from hypercluster.values import NodeId


class ClusterService:
    def __init__(self, engine: Engine, standing: Standing, reporter: Reporter) -> None:
        self._engine = engine
        self._standing = standing
        self._reporter = reporter

    async def status(self, _: cluster_pb2.StatusRequest, __: Call) -> cluster_pb2.NodeStatus:
        return node_status(self._reporter.report())

    async def transfer_leader(
        self, request: cluster_pb2.TransferLeaderRequest, call: Call
    ) -> cluster_pb2.TransferLeaderResponse:
        """Answered once another leader is seen."""
        self._standing.require_leads()
        status = self._standing.status()
        voters = [member.node_id for member in status.membership.voters()]
        if request.to and request.to not in voters:
            raise MalformedError(f"to: {request.to!r} is no voter; the voters are {', '.join(voters)}")
        done: asyncio.Future[ProposalOutcome | None] = asyncio.get_running_loop().create_future()

        def finish(outcome: ProposalOutcome | None) -> None:
            if not done.done():
                done.set_result(outcome)

        self._engine.transfer_leadership(NodeId(request.to) if request.to else None, finish)
        try:
            async with asyncio.timeout(call.timeout_s):
                outcome = await done
        except TimeoutError:
            raise DeadlineError("no other leader was seen in time; the transfer may still happen") from None
        match outcome:
            case NotProposed():
                raise self._standing.turn_away(outcome)
            case Unknown():
                raise OutcomeUnknownError(f"the transfer did not end: {outcome.reason}")
            case _:
                now = self._engine.status()
                return cluster_pb2.TransferLeaderResponse(leader=now.leader or "", term=now.term)


def node_status(report: NodeReport) -> cluster_pb2.NodeStatus:
    status = report.engine
    peers = {peer.node_id: peer for peer in status.peers}
    members = []
    for member in status.membership.members:
        peer = peers.get(member.node_id)
        mine = member.node_id == status.node_id
        members.append(
            cluster_pb2.PeerInfo(
                node_id=member.node_id,
                incarnation=member.incarnation,
                peer_address=member.address,
                client_address=report.client_addresses.get(member.node_id, ""),
                suffrage=member.suffrage.name.lower(),
                connected=mine or (peer is not None and peer.connected),
                match_index=status.durable_index if mine else (peer.match_index if peer else 0),
                in_flight_bytes=peer.in_flight_bytes if peer else 0,
                fsync_us=peer.fsync_us if peer else report.fsync_p95_us,
                last_contact_ms=peer.last_contact_ms if peer else 0,
            )
        )
    return cluster_pb2.NodeStatus(
        node_id=status.node_id,
        role=status.role.value,
        term=status.term,
        leader=status.leader or "",
        leader_client_address=report.client_addresses.get(status.leader, "") if status.leader else "",
        last_index=status.last_index,
        durable_index=status.durable_index,
        commit_index=status.commit_index,
        applied_index=status.applied_index,
        base_index=status.base_index,
        digest=report.digest,
        peers=members,
        refusing_writes=status.refusing_writes,
        cluster_id=report.cluster_id,
        history_id=report.history_id,
        version=report.version,
        clock_skew_ms=status.clock_skew_ms,
        disk_free_bytes=report.disk_free_bytes,
        disk_total_bytes=report.disk_total_bytes,
        fsync_p95_us=report.fsync_p95_us,
        commit_p50_us=report.commit_p50_us,
        commit_p99_us=report.commit_p99_us,
        started_at_ns=report.started_at_ns,
        leader_since_ns=report.leader_since_ns,
    )
