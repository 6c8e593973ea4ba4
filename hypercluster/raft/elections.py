"""Who leads: pre-vote, stickiness, votes as a set, check-quorum, transfer (Raft 4.2.3, 6.4, 9.6; CL-11).

Owns: `Elections`: timeouts, pre-vote and vote rounds, the quorum that a leader must keep hearing, and handing over.
Never: raises its term before a quorum has said it would vote; campaigns while unfit (disk, clock), as a learner or
as a removed member; counts a vote from outside the configuration or twice.
Invariants: one vote a term, durable before the answer leaves; a node that hears a leader helps nobody depose it,
except in a transfer which that leader asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pysyncobj.syncobj import SyncObj

from hypercluster.errors import DiskFullError
from hypercluster.pb.v1.peer_pb2 import (
    PeerFrame,
    PreVote,
    PreVoteReply,
    RequestVote,
    TermNotice,
    TimeoutNow,
    VoteReply,
)
from hypercluster.raft.core import CANDIDATE, FOLLOWER, LEADER, EngineCore
from hypercluster.raft.engine import NotProposed, ProposalOutcome
from hypercluster.raft.guard import library_seams
from hypercluster.raft.peers import Peer
from hypercluster.raft.proposals import call_safely
from hypercluster.raft.settings import EngineParts, EngineSettings
from hypercluster.values import Index, NodeId


@dataclass(slots=True)
class Transfer:
    target: NodeId
    done: Callable[[ProposalOutcome | None], None]
    deadline_s: float
    sent: bool = False


class Elections(EngineCore):
    def __init__(self, parts: EngineParts, settings: EngineSettings) -> None:
        self._leader_contact_s = float("-inf")
        self._pre_votes: set[NodeId] = set()
        self._pre_vote_term = 0
        self._votes: set[NodeId] = set()
        self._transfer: Transfer | None = None
        self._quorum_grace_s = float("-inf")
        self._full_since_s: float | None = None
        self.stamp_floor_ns = 0
        super().__init__(parts, settings)

    def _close(self, reason: str) -> None:
        super()._close(reason)
        self._end_transfer(NotProposed(reason, None))

    # --- fitness ------------------------------

    def median_ahead_ns(self) -> int:
        voters = [peer.node_id for peer in self.voting_peers()]
        return self.clocks.median_ahead_ns(voters, self.clock.wall_ns(), self.now())

    def clock_is_off(self) -> bool:
        return self.clocks.is_off(self.median_ahead_ns())

    def is_fit(self) -> bool:
        return self._full_since_s is None and not self._refusal and not self.clock_is_off()

    def disk_is_full(self) -> None:
        """CL-4: step down, refuse writes, keep reads; `_look_for_room` ends it."""
        self._full_since_s = self.now()
        if self.is_leader():
            successor = self._best_successor()
            if successor is not None:
                self.send(successor, PeerFrame(timeout_now=TimeoutNow(term=self.term())))
            self.step_down()

    def _look_for_room(self, now: float) -> None:
        if self._full_since_s is None or now - self._full_since_s < self.settings.disk_full_retry_ms / 1e3:
            return
        self._full_since_s = None if self.parts.has_room is None or self.parts.has_room() else now

    # --- campaigning ------------------------------

    def tick_election(self, now: float, lagged: bool) -> None:
        self._look_for_room(now)
        if self.is_leader():
            self._check_quorum(now, lagged)
            return
        if not self.is_voter() or now < self._SyncObj__raftElectionDeadline:
            return
        if lagged:
            # The loop was held up: a leader's heartbeats may lie unread in the sockets. Read them first.
            self._SyncObj__raftElectionDeadline = now + self.settings.heartbeat_ms / 1e3
            return
        self._begin_pre_vote(now)

    def _begin_pre_vote(self, now: float) -> None:
        self._SyncObj__raftElectionDeadline = now + self._SyncObj__generateRaftTimeout()
        self._SyncObj__raftLeader = None
        if self._full_since_s is not None or self._refusal:
            return
        self._pre_vote_term = self.term() + 1
        self._pre_votes = {self.node_id}
        request = PreVote(
            term=self._pre_vote_term,
            last_index=self.wal.last_index,
            last_term=self.wal.last_term,
            clock_ns=self.clock.wall_ns(),
        )
        for peer in self.voting_peers():  # also with a clock in doubt: the answers tell whose it is
            self.send(peer, PeerFrame(pre_vote=request))
        self._count_pre_votes()

    def _count_pre_votes(self) -> None:
        if len(self._pre_votes) >= self.quorum() and self.is_fit():
            self._campaign(transfer=False)

    def _campaign(self, *, transfer: bool) -> None:
        self._pre_vote_term = 0
        self._SyncObj__raftElectionDeadline = self.now() + self._SyncObj__generateRaftTimeout()
        self._SyncObj__raftLeader = None
        self._SyncObj__setState(CANDIDATE)
        self._SyncObj__setCurrentTerm(self.term() + 1, self.node_id)
        self._votes = {self.node_id}
        request = RequestVote(
            term=self.term(), last_index=self.wal.last_index, last_term=self.wal.last_term, transfer=transfer
        )
        for peer in self.voting_peers():
            self.send(peer, PeerFrame(request_vote=request))
        self._count_votes()
        self.parts.wake()

    def _count_votes(self) -> None:
        self._SyncObj__votesCount = len(self._votes)
        if self._SyncObj__raftState == CANDIDATE and len(self._votes) >= self.quorum():
            self._become_leader()

    def _become_leader(self) -> None:
        now = self.now()
        for peer in self.peer_list:
            peer.new_term()
            peer.heard_s = now
        self._end_transfer(NotProposed("NO_QUORUM", self.node_id))  # it came back here
        self.digests.reset()
        self.freshness.reset()
        self.stamp_floor_ns = max(self.stamp_floor_ns, self._last_stamp_ns())
        try:
            with library_seams(self.journal, self.clock.monotonic):
                SyncObj._SyncObj__onBecomeLeader(self)
        except DiskFullError:
            self.disk_is_full()

    def _last_stamp_ns(self) -> int:
        """The end of the newest stamp in this node's log, or the checkpoint's when the log holds no batch (D-5)."""
        latest = self.parts.checkpoints.latest()
        floor = 0 if latest is None else latest.last_stamp_ns
        for index in range(self.wal.last_index, self.wal.base_index, -1):
            end = self.parts.stamp_end(self.wal.entry(Index(index)).payload)
            if end:
                return max(floor, end)
        return floor

    # --- answering ------------------------------

    def _is_sticky(self) -> bool:
        """This node leads, or heard a leader within the minimum election timeout."""
        return self.is_leader() or self.now() - self._leader_contact_s < self.settings.election_min_ms / 1e3

    def _is_up_to_date(self, last_term: int, last_index: int) -> bool:
        return (last_term, last_index) >= (self.wal.last_term, self.wal.last_index)

    def on_pre_vote(self, peer: Peer, vote: PreVote) -> None:
        self.clocks.heard(peer.node_id, vote.clock_ns, self.now())
        granted = (
            vote.term > self.term() and self._is_up_to_date(vote.last_term, vote.last_index) and not self._is_sticky()
        )
        reply = PreVoteReply(term=vote.term if granted else self.term(), granted=granted, clock_ns=self.clock.wall_ns())
        self.send(peer, PeerFrame(pre_vote_reply=reply))

    def on_pre_vote_reply(self, peer: Peer, reply: PreVoteReply) -> None:
        self.clocks.heard(peer.node_id, reply.clock_ns, self.now())
        if not reply.granted:
            self.observe_term(reply.term)
            return
        if self.is_leader() or not peer.is_voter or not reply.term == self._pre_vote_term == self.term() + 1:
            return
        self._pre_votes.add(peer.node_id)
        self._count_pre_votes()

    def on_request_vote(self, peer: Peer, request: RequestVote) -> None:
        if request.term > self.term() and (request.transfer or not self._is_sticky()):
            self.observe_term(request.term)
        if request.term != self.term():
            self.send(peer, PeerFrame(term_notice=TermNotice(term=self.term())))
            return
        voted_for = self._SyncObj__votedForNodeId
        granted = (
            self._SyncObj__raftState == FOLLOWER
            and self._is_up_to_date(request.last_term, request.last_index)
            and voted_for in (None, peer.node_id)
        )
        if granted:
            if voted_for is None:
                self._SyncObj__setCurrentTerm(request.term, peer.node_id)
            self._SyncObj__raftElectionDeadline = self.now() + self._SyncObj__generateRaftTimeout()
        self.send(peer, PeerFrame(vote_reply=VoteReply(term=self.term(), granted=granted)))

    def on_vote_reply(self, peer: Peer, reply: VoteReply) -> None:
        self.observe_term(reply.term)
        if reply.granted and reply.term == self.term() and peer.is_voter:
            self._votes.add(peer.node_id)
            self._count_votes()

    def on_term_notice(self, peer: Peer, notice: TermNotice) -> None:
        self.observe_term(notice.term)

    # --- keeping and handing over leadership ------------------------------

    def _check_quorum(self, now: float, lagged: bool) -> None:
        if lagged:
            self._quorum_grace_s = now + self.settings.heartbeat_ms / 1e3
        since = now - self.settings.fallback_ms / 1e3
        heard = sum(1 for peer in self.voting_peers() if peer.heard_s > since) + self.is_voter()
        if heard < self.quorum() and now >= self._quorum_grace_s:
            self.step_down()
            return
        if self.clock_is_off() and self._transfer is None:
            self._begin_transfer(None, lambda _: None)

    def tick_transfer(self, now: float) -> None:
        transfer = self._transfer
        if transfer is None:
            return
        if not self.is_leader():
            leader = self.leader_id()
            if leader is not None and leader != self.node_id:
                self._end_transfer(None)
                return
        elif not transfer.sent:
            peer = self.peers.get(transfer.target)
            if peer is not None and peer.verified and self.match_index(peer) == self.wal.last_index:
                transfer.sent = self.send(peer, PeerFrame(timeout_now=TimeoutNow(term=self.term())))
        if now >= transfer.deadline_s:
            self._end_transfer(NotProposed("DEADLINE", self.leader_id()))

    def _begin_transfer(self, to: NodeId | None, done: Callable[[ProposalOutcome | None], None]) -> None:
        if not self.is_leader():
            call_safely(done, NotProposed("NOT_LEADER", self.leader_id()))
            return
        if self._transfer is not None:
            call_safely(done, NotProposed("QUEUE_FULL", self.node_id))
            return
        peer = self._best_successor() if to is None else self.peers.get(to)
        if peer is None or not peer.is_voter or peer.unfit or not peer.connected:
            call_safely(done, NotProposed("NO_QUORUM", self.node_id))
            return
        self._transfer = Transfer(peer.node_id, done, self.now() + self.settings.transfer_ms / 1e3)
        self.parts.wake()

    def _end_transfer(self, outcome: ProposalOutcome | None) -> None:
        transfer, self._transfer = self._transfer, None
        if transfer is not None:
            call_safely(transfer.done, outcome)

    def _best_successor(self) -> Peer | None:
        since = self.now() - self.settings.fallback_ms / 1e3
        able = [p for p in self.voting_peers() if p.connected and p.verified and not p.unfit and p.heard_s > since]
        return max(able, key=lambda p: (self.match_index(p), p.node_id), default=None)

    def on_timeout_now(self, peer: Peer, request: TimeoutNow) -> None:
        """The present leader asks us to stand at once (Raft 3.10). Nobody else may."""
        from_leader = request.term == self.term() and self.leader_id() == peer.node_id
        if from_leader and self._SyncObj__raftState != LEADER and self.is_voter() and self.is_fit():
            self._campaign(transfer=True)
