"""The engine itself: the contract of engine.py over the library's node.

Owns: `RaftEngine`: start and stop, what callers ask (propose, read, transfer, change members), the order of work in
a tick, the apply loop, and which frame goes where.
Never: blocks; applies what is not durable here; hands a frame of a stranger to the protocol.
Invariants: a tick sends what is due before it applies, so that a long apply delays no heartbeat of this turn; the
applied index moves only after `Host.apply` returned (CL-16); an entry of unknown type stops the node.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from pysyncobj.node import Node

from hypercluster.errors import (
    REJOIN,
    ApplyFailedError,
    DiskFullError,
    DivergedError,
    MalformedError,
    NotLeaderError,
    check,
)
from hypercluster.limits import ENTRY_BYTES_MAX
from hypercluster.log.entry import EntryType
from hypercluster.pb.v1.peer_pb2 import PeerFrame, PeerHello, TimeoutNow
from hypercluster.raft.checkpointing import Checkpointing
from hypercluster.raft.clocks import NANOS_PER_MS
from hypercluster.raft.core import is_batch
from hypercluster.raft.engine import (
    Committed,
    EngineStatus,
    NotProposed,
    PeerStatus,
    ProposalOutcome,
    ReadOutcome,
)
from hypercluster.raft.frames import PROTOCOL, decode_frame
from hypercluster.raft.membership import encode_membership, is_config, step_refusal
from hypercluster.raft.peers import Peer
from hypercluster.raft.proposals import Proposal, call_safely
from hypercluster.raft.settings import EngineParts, EngineSettings
from hypercluster.storage.wal.types import LogEntry
from hypercluster.values import Incarnation, Index, Membership, NodeId, Suffrage, Term

log = logging.getLogger(__name__)

APPLY_BYTES = 4 << 20  # read from the log at a time
RESUME_MS = 1  # a host that is not ready is asked again after this


class RaftEngine(Checkpointing):
    """`Engine` over pysyncobj. One instance per life of a node; everything on the owner's loop."""

    def __init__(self, parts: EngineParts, settings: EngineSettings) -> None:
        self._promised_s = float("inf")
        self._paused = False
        self._routes: dict[str, Callable[[Peer, PeerFrame], None]] = {
            "append": lambda peer, frame: self.on_append(peer, frame.append),
            "append_ack": lambda peer, frame: self.on_append_ack(peer, frame.append_ack),
            "pre_vote": lambda peer, frame: self.on_pre_vote(peer, frame.pre_vote),
            "pre_vote_reply": lambda peer, frame: self.on_pre_vote_reply(peer, frame.pre_vote_reply),
            "request_vote": lambda peer, frame: self.on_request_vote(peer, frame.request_vote),
            "vote_reply": lambda peer, frame: self.on_vote_reply(peer, frame.vote_reply),
            "term_notice": lambda peer, frame: self.on_term_notice(peer, frame.term_notice),
            "timeout_now": lambda peer, frame: self.on_timeout_now(peer, frame.timeout_now),
            "checkpoint_offer": lambda peer, frame: self.on_checkpoint_offer(peer, frame.checkpoint_offer),
            "checkpoint_piece": lambda peer, frame: self.on_checkpoint_piece(peer, frame.checkpoint_piece),
            "checkpoint_ack": lambda peer, frame: self.on_checkpoint_ack(peer, frame.checkpoint_ack),
            "chunk_request": lambda peer, frame: self.on_chunk_request(peer, frame.chunk_request),
            "chunk_reply": lambda peer, frame: self.on_chunk_reply(peer, frame.chunk_reply),
        }
        super().__init__(parts, settings)

    # --- life ------------------------------

    def start(self) -> None:
        check(not self._started, "an engine is started once")
        self._started = True
        self.parts.transport.start(self._on_frame_bytes, self._on_connected, self._on_disconnected)
        self.parts.transport.set_peers(self.speaking_members())
        self.parts.wake()

    def stop(self) -> None:
        if not self.stopped:
            self._close("STOPPED")

    # --- frames ------------------------------

    def _on_connected(self, node_id: NodeId) -> None:
        peer = self.peers.get(node_id)
        if self.stopped or peer is None:
            return
        with self.fail_stop():
            peer.connected = True
            peer.session = None
            peer.forget_flight()
            self._SyncObj__onNodeConnected(peer.node)
            self.say_hello(peer)
            if self.is_leader():
                matched = self.match_index(peer)
                self._SyncObj__raftNextIndex[peer.node] = (matched or self.wal.last_index) + 1
                peer.rewound_round = self.round
                self.round += 1
                self._replicate_to(peer, heartbeat=True)

    def _on_disconnected(self, node_id: NodeId) -> None:
        peer = self.peers.get(node_id)
        if peer is not None:
            peer.connected, peer.hello = False, None
            peer.session = None
            peer.forget_flight()
            self._SyncObj__onNodeDisconnected(peer.node)

    def _on_frame_bytes(self, node_id: NodeId, content: bytes) -> None:
        peer = self.peers.get(node_id)
        if self.stopped or peer is None:
            return
        try:
            frame = decode_frame(content)
        except MalformedError as error:
            log.warning("%s: frame of %s dropped: %s", self.node_id, node_id, error)
            return
        with self.fail_stop():
            self._SyncObj__onMessageReceived(peer.node, frame)
            if self.wal.dirty:
                self.parts.wake()  # a vote or a term that waits for its sync must not wait for a timer too

    def _SyncObj__onMessageReceived(self, node: Node, message: PeerFrame) -> None:
        peer = self.peers[NodeId(node.id)]
        kind = message.WhichOneof("kind") or ""
        if kind == "hello":
            self._on_hello(peer, message.hello)
        elif peer.hello is None:
            self.say_hello(peer, ask=True)
        elif peer.refused or peer.hello != peer.member.incarnation:
            log.warning("%s: %s speaks as an incarnation that is not a member", self.node_id, peer.node_id)
        else:
            self._routes[kind](peer, message)

    def _on_hello(self, peer: Peer, hello: PeerHello) -> None:
        if not hello.incarnation:
            self.say_hello(peer)
            return
        peer.hello = Incarnation(hello.incarnation)
        peer.refused = (
            hello.cluster_id != self.parts.identity.cluster_id
            or hello.node_id != peer.node_id
            or hello.protocol != PROTOCOL
        )

    # --- what callers ask ------------------------------

    def propose(self, payload: bytes, context: object, done: Callable[[ProposalOutcome], None]) -> None:
        reason = self._proposal_refusal(payload)
        if reason:
            hint = self._transfer.target if self._transfer is not None and self.is_leader() else self.leader_id()
            call_safely(done, NotProposed(reason, hint))
        elif self.proposals.offer(Proposal(payload, context, done)):
            self.stamp_floor_ns = max(self.stamp_floor_ns, self.parts.stamp_end(payload))
            if self.proposals.queued == 1:
                self.parts.wake()
        else:
            call_safely(done, NotProposed("QUEUE_FULL", self.node_id))

    def _proposal_refusal(self, payload: bytes) -> str:
        if self._refusal:
            return self._refusal
        if self._full_since_s is not None:
            return "DISK_FULL"
        if not self.is_leader() or self._transfer is not None:
            return "NOT_LEADER"
        if not is_batch(payload):
            return "MALFORMED"
        return "TOO_LARGE" if len(payload) > ENTRY_BYTES_MAX else ""

    def read_index(self, done: Callable[[ReadOutcome], None]) -> None:
        if self.stopped or not self.is_leader():
            call_safely(done, NotProposed("NOT_LEADER", self.leader_id()))
            return
        target = Index(max(self.commit_index(), self.own_no_op()))
        if not self.reads.add(target, self.round + 1, done):
            call_safely(done, NotProposed("QUEUE_FULL", self.node_id))
        elif len(self.reads) == 1:
            self.parts.wake()

    def transfer_leadership(self, to: NodeId | None, done: Callable[[ProposalOutcome | None], None]) -> None:
        self._begin_transfer(to, done)

    def change_membership(self, wanted: Membership, done: Callable[[ProposalOutcome], None]) -> None:
        reason = self.stopped or self._step_refusal(wanted)  # also while DIVERGED: removing a node may be the way out
        if reason:
            log.info("%s: change of members refused: %s", self.node_id, reason)
            call_safely(done, NotProposed(reason, self.leader_id()))
            return
        proposal = Proposal(encode_membership(wanted), None, done)
        if not self.proposals.offer(proposal):
            call_safely(done, NotProposed("QUEUE_FULL", self.node_id))
            return
        with self.fail_stop():
            self._append_proposals()  # at once, behind what is queued: the gate is judged by what the log holds now
        self.parts.wake()

    def _step_refusal(self, wanted: Membership) -> str:
        if not self.is_leader() or self._transfer is not None:
            return "NOT_LEADER"
        if self._full_since_s is not None:
            return "DISK_FULL"
        current = self.membership()
        if self.commit_index() < self.own_no_op() or self.commit_index() < current.index:
            return "CHANGE_IN_PROGRESS"
        since = self.now() - self.settings.fallback_ms / 1e3
        reachable = [self.node_id, *(p.node_id for p in self.peer_list if p.connected and p.heard_s > since)]
        for member in wanted.voters():
            peer = self.peers.get(member.node_id)
            if peer is not None and not peer.is_voter:
                behind = self.commit_index() - self.match_index(peer)
                if not peer.verified or behind > self.settings.promote_lag_entries_max:
                    return f"{member.node_id} is {behind} entries behind: it is promoted once it has caught up"
        return step_refusal(current, wanted, reachable)

    def next_stamp_ns(self, span: int) -> int:
        if not self.is_leader():
            raise NotLeaderError("only the leader stamps", self.leader_id() or "")
        stamp = self.clocks.stamp_ns(self.clock.wall_ns(), self.median_ahead_ns(), self.stamp_floor_ns)
        self.stamp_floor_ns = stamp + span
        return stamp

    # --- the tick ------------------------------

    def tick(self) -> None:
        if self.stopped or not self._started:
            return
        with self.fail_stop():
            self.doTick(0.0)

    def _onTick(self, timeToWait: float = 0.0) -> None:
        now = self.now()
        lagged = now - self._promised_s > self.settings.election_min_ms / 2e3
        self._promised_s = float("inf")
        self.tick_election(now, lagged)
        self.tick_transfer(now)
        self._append_proposals()
        self.tick_replication(now)
        self.start_sync()
        self._advance_commit()
        self._SyncObj__applyLogEntries()
        self._answer_reads()
        self.tick_checkpoint()
        self._promised_s = self.next_deadline()

    def next_deadline(self) -> float:
        if self.stopped:
            return float("inf")
        now = self.now()
        due = now + self.settings.election_min_ms / 2e3
        if self.is_leader():
            due = min(due, self._heartbeat_s, self._notice_s)
        elif self.is_voter():
            due = min(due, self._SyncObj__raftElectionDeadline)
        if self._paused:
            due = min(due, now + RESUME_MS / 1e3)
        return due

    def _append_proposals(self) -> None:
        """Everything queued becomes one run of entries: one frame to each peer, one sync (CL-6)."""
        if not self.proposals.queued or not self.is_leader():
            return
        taken = self.proposals.take_queue()
        first, term = self.wal.last_index + 1, self.term()
        entries = [LogEntry(Index(first + n), term, proposal.payload) for n, proposal in enumerate(taken)]
        try:
            self.journal.append(entries)
        except DiskFullError:
            for proposal in taken:
                self.proposals.answer(proposal, NotProposed("DISK_FULL", None))
            self.disk_is_full()
            return
        for entry, proposal in zip(entries, taken, strict=True):
            self.proposals.file(entry.index, term, proposal)
        self._configurations_appended(entries)

    def _SyncObj__applyLogEntries(self) -> None:
        """Up to what is committed and durable here: a state ahead of its own log could not be replayed."""
        self._paused = False
        bound = min(self.commit_index(), self.wal.durable_index)
        while self.applied_index() < bound and not self.stopped:
            for entry in self.wal.entries(Index(self.applied_index() + 1), APPLY_BYTES):
                if entry.index > bound or self.stopped:
                    break
                # What the engine itself adds takes next to nothing, and a new leader serves no read before its no-op.
                if entry.payload[0] == EntryType.BATCH and not self.host.ready():
                    self._paused = True
                    return
                self._apply(entry)
        self.freshness.applied(self.applied_index())
        self._check_statement()

    def _apply(self, entry: LogEntry) -> None:
        proposal = self.proposals.find(entry.index, entry.term)  # answered only after apply: if that fails, by _close
        result: object = None
        kind = entry.payload[0]
        if kind == EntryType.BATCH:
            context = None if proposal is None else proposal.context
            try:
                result = self.host.apply(entry.index, entry.term, entry.payload, context)
            except Exception as error:
                raise ApplyFailedError(
                    f"apply of entry {entry.index} (term {entry.term}) raised: {error!r}", entry.index
                ) from error
        elif kind in (EntryType.NO_OP, EntryType.CONFIG):
            self.host.advance(entry.index, entry.term)
        else:
            raise ApplyFailedError(f"entry {entry.index} has type 0x{kind:02x}, which this release does not know")
        check(self.host.applied_index == entry.index, f"the host did not store index {entry.index} with its entry")
        self._SyncObj__raftLastApplied = entry.index
        self.applied_entry(entry.index, len(entry.payload))
        if self.proposals.take(entry.index, entry.term) is not None and proposal is not None:
            self.proposals.answer(proposal, Committed(entry.index, entry.term, result))
        if is_config(entry.payload):
            self._configuration_committed(entry.index)

    def _configuration_committed(self, index: Index) -> None:
        """A leader that is no voter any more has nothing left to lead (SELF): it names a successor and steps down."""
        if self.is_leader() and self.membership().index == index and not self.is_voter():
            self._SyncObj__sendAppendEntries()  # the commit index, for those who stay
            successor = self._best_successor()
            if successor is not None:
                self.send(successor, PeerFrame(timeout_now=TimeoutNow(term=self.term())))
            self.step_down()

    def _answer_reads(self) -> None:
        if not self.is_leader():
            return
        confirmed = self.confirmed_round()
        self.freshness.round_confirmed(confirmed, self.own_no_op())
        self.freshness.applied(self.applied_index())
        for peer in self.peer_list:
            waiting = peer.probe_waiting
            if waiting is not None and confirmed > waiting[1] and self.commit_index() >= self.own_no_op():
                peer.probe_echo_ns, peer.probe_waiting = waiting[0], None
        for done, outcome in self.reads.take_ready(self.term(), confirmed, self.applied_index()):
            call_safely(done, outcome)

    # --- divergence (CL-17) ------------------------------

    def _check_statement(self) -> None:
        statement = self.digests.statement_due(self.applied_index())
        if statement is not None:
            own = self.host.digest_at(statement[0])
            if own is not None and own != statement[1]:
                self.diverged(statement[0])

    def diverged(self, index: Index) -> None:
        self.step_down()
        raise DivergedError(f"this node's state differs from the majority's at index {index}. {REJOIN}")

    # --- what can be seen ------------------------------

    def refusing_writes(self) -> str:
        return self._refusal or ("DISK_FULL" if self._full_since_s is not None else "")

    def status(self) -> EngineStatus:
        now = self.now()
        ahead_ms = int(self.median_ahead_ns() / NANOS_PER_MS)
        return EngineStatus(
            node_id=self.node_id,
            role=self.role(),
            term=Term(self.term()),
            leader=self.leader_id(),
            last_index=self.wal.last_index,
            durable_index=self.wal.durable_index,
            commit_index=self.commit_index(),
            applied_index=self.applied_index(),
            base_index=self.wal.base_index,
            membership=self.membership(),
            peers=tuple(self._peer_status(peer, now) for peer in self.peer_list),
            refusing_writes=self.refusing_writes(),
            clock_skew_ms=-ahead_ms,
            fresh_boottime_ns=self.freshness.boottime_ns,
            stopped=self.stopped,
        )

    def _peer_status(self, peer: Peer, now: float) -> PeerStatus:
        return PeerStatus(
            node_id=peer.node_id,
            suffrage=Suffrage(peer.member.suffrage),
            connected=peer.connected,
            match_index=self.match_index(peer),
            in_flight_bytes=peer.in_flight_bytes,
            fsync_us=peer.fsync_us,
            last_contact_ms=int(min(max(now - peer.heard_s, 0.0), 1e9) * 1000),
        )
