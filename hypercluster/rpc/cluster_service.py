"""ClusterService: this node's own view, leadership transfer, and the members.

Owns: the conversion of a node's report into NodeStatus and MembersResponse, and the checks of a request's fields.
Never: needs a quorum for a status; shows as the members what no majority confirmed.
"""

from __future__ import annotations

import asyncio

from hypercluster.config import split_address
from hypercluster.credentials.names import NODE_ID_PATTERN
from hypercluster.errors import DeadlineError, MalformedError, OutcomeUnknownError
from hypercluster.limits import NODE_ADDRESS_BYTES_MAX
from hypercluster.node.members import MemberChanges, Step, adding, promoting, removing
from hypercluster.node.report import NodeReport, Reporter
from hypercluster.node.standing import Standing
from hypercluster.pb.v1 import cluster_pb2, peer_pb2
from hypercluster.raft.engine import Engine, NotProposed, ProposalOutcome, Unknown
from hypercluster.rpc.calls import Call
from hypercluster.values import Incarnation, Member, NodeId, Suffrage

INCARNATION_BYTES = 16


class ClusterService:
    def __init__(self, engine: Engine, standing: Standing, reporter: Reporter) -> None:
        self._engine = engine
        self._standing = standing
        self._reporter = reporter
        self._changes = MemberChanges(engine, standing)

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

    async def members(self, _: cluster_pb2.MembersRequest, call: Call) -> cluster_pb2.MembersResponse:
        self._standing.require_leads()
        await self._changes.confirmed(call.timeout_s)
        return self._members()

    async def add_member(self, request: cluster_pb2.AddMemberRequest, call: Call) -> cluster_pb2.MembersResponse:
        node_id, incarnation = _named(request)
        address = request.peer_address
        if split_address(address) is None or len(address.encode()) > NODE_ADDRESS_BYTES_MAX:
            raise MalformedError(f"peer_address: expected host:port of at most {NODE_ADDRESS_BYTES_MAX} bytes")
        learner = Member(node_id, incarnation, address, Suffrage.LEARNER, request.promote)
        return await self._change(adding(learner), call)

    async def promote_member(
        self, request: cluster_pb2.PromoteMemberRequest, call: Call
    ) -> cluster_pb2.MembersResponse:
        return await self._change(promoting(*_named(request)), call)

    async def remove_member(self, request: cluster_pb2.RemoveMemberRequest, call: Call) -> cluster_pb2.MembersResponse:
        return await self._change(removing(*_named(request)), call)

    async def _change(self, step: Step, call: Call) -> cluster_pb2.MembersResponse:
        await self._changes.take(step, call.timeout_s)
        return self._members()

    def _members(self) -> cluster_pb2.MembersResponse:
        report = self._reporter.report(fresh=True)
        membership = report.engine.membership
        return cluster_pb2.MembersResponse(
            index=membership.index,
            configured_voters=membership.configured_voters,
            quorum=membership.quorum(),
            members=peer_infos(report),
            cluster_id=report.cluster_id,
            history_id=report.history_id,
            leader=report.engine.leader or "",
            quarantined=[peer_pb2.QuarantinedCommand(index=i, ordinal=o) for i, o in report.quarantined],
        )


def _named(
    request: cluster_pb2.AddMemberRequest | cluster_pb2.PromoteMemberRequest | cluster_pb2.RemoveMemberRequest,
) -> tuple[NodeId, Incarnation]:
    if NODE_ID_PATTERN.fullmatch(request.node_id) is None:
        raise MalformedError("node_id: 1 to 63 lower-case letters, digits and hyphens, no hyphen at either end")
    if len(request.incarnation) != INCARNATION_BYTES:
        raise MalformedError(f"incarnation: {len(request.incarnation)} bytes, expected {INCARNATION_BYTES}")
    return NodeId(request.node_id), Incarnation(request.incarnation)


def node_status(report: NodeReport) -> cluster_pb2.NodeStatus:
    status = report.engine
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
        peers=peer_infos(report),
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
        workers_connected=report.workers_connected,
        worker_problems=report.worker_problems,
    )


def peer_infos(report: NodeReport) -> list[cluster_pb2.PeerInfo]:
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
                promote=member.promote,
                problem="" if mine else report.problems.get(member.node_id, ""),
            )
        )
    return members
