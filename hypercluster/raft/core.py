"""The library's node, made ours: construction, restart, terms and roles, peers, frames out, syncs, and fail-stop.

Owns: `EngineCore`, the SyncObj subclass that the protocol modules build on, and the alignment of state, log and
checkpoint at start (S5, S9). Every mangled attribute of the library is touched below this class only.
Never: lets the library send, sleep, read a clock, wipe the log or pickle; goes on after a FatalError.
Invariants: the commit index never exceeds the log; a term or vote is in the log's buffer before anything that
reflects it is handed to the outbox; leaving leadership answers every proposal and read exactly once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from pysyncobj.syncobj import _RAFT_STATE, SyncObj, SyncObjConf
from pysyncobj.transport import Transport

from hypercluster.errors import REJOIN, DamagedError, DiskFailedError, FatalError, InvariantError, check
from hypercluster.limits import ENTRY_BYTES_MAX
from hypercluster.log.entry import EntryType
from hypercluster.pb.v1.peer_pb2 import PeerFrame, PeerHello
from hypercluster.raft.clocks import ClockWatch
from hypercluster.raft.digests import DigestWatch
from hypercluster.raft.engine import CheckpointMeta, NotProposed, Unknown
from hypercluster.raft.frames import PROTOCOL
from hypercluster.raft.guard import library_seams
from hypercluster.raft.journal import WalJournal
from hypercluster.raft.membership import MembershipLog, decode_membership, is_config
from hypercluster.raft.outbox import Outbox
from hypercluster.raft.peers import Peer, PeerNode
from hypercluster.raft.proposals import Proposals, call_safely
from hypercluster.raft.reads import Freshness, ReadRounds
from hypercluster.raft.settings import EngineParts, EngineSettings
from hypercluster.storage.wal.types import SyncJob
from hypercluster.values import Index, Member, Membership, NodeId, Role, Suffrage, Term

log = logging.getLogger(__name__)

FOLLOWER: Final = _RAFT_STATE.FOLLOWER
CANDIDATE: Final = _RAFT_STATE.CANDIDATE
LEADER: Final = _RAFT_STATE.LEADER
ROLES: Final = {FOLLOWER: Role.FOLLOWER, CANDIDATE: Role.CANDIDATE, LEADER: Role.LEADER}
SCAN_BYTES: Final = 4 << 20
LEADERSHIP_LOST: Final = "LEADERSHIP_LOST"
STOPPED: Final = "STOPPED"


class SilentTransport(Transport):
    """The library's own way out, closed: every frame is ours and leaves through the outbox."""

    def __init__(self) -> None:
        super().__init__(None, None, None)

    def send(self, node: object, message: object) -> bool:
        raise InvariantError("the library tried to send a message of its own")


def align_log(parts: EngineParts) -> CheckpointMeta | None:
    """Makes log and state meet (S9): keeps every entry that matches, replaces the log only where a checkpoint was
    installed and the node stopped before the log followed. Raises DamagedError when neither is the case."""
    wal, applied, latest = parts.wal, parts.host.applied_index, parts.checkpoints.latest()
    if latest is not None and latest.index == applied and wal.term_at(applied) != latest.term:
        check(wal.base_index <= applied, "the log was compacted beyond the state")
        wal.reset_to(latest.index, latest.term)
        wal.sync()
    if not wal.base_index <= applied <= wal.last_index:
        raise DamagedError(
            f"state is at index {applied}, the log holds {wal.base_index + 1} to {wal.last_index}: "
            f"this directory lost a part. {REJOIN}"
        )
    if wal.base_index > (0 if latest is None else latest.index) and parts.initial.configured_voters > 1:
        # Who joined or left below the base stands in a checkpoint alone, and with older members two majorities may be.
        raise DamagedError(
            f"the log begins behind entry {wal.base_index}, and the checkpoint that told who the members are is gone. "
            f"{REJOIN}"
        )
    if latest is not None and wal.term_at(latest.index) not in (None, latest.term):
        raise DamagedError(f"log and checkpoint {latest.checkpoint_id} differ at index {latest.index}. {REJOIN}")
    return latest


class EngineCore(SyncObj):
    """Attributes are set before the library's constructor runs, because that one looks at all of them."""

    def __init__(self, parts: EngineParts, settings: EngineSettings) -> None:
        self.parts, self.settings = parts, settings
        self.wal, self.clock, self.host = parts.wal, parts.clock, parts.host
        self.node_id = parts.identity.node_id
        self.journal = WalJournal(parts.wal)
        self.outbox = Outbox(parts.transport, parts.wal)
        self.proposals = Proposals()
        self.reads = ReadRounds()
        self.freshness = Freshness()
        self.clocks = ClockWatch(settings.clock_skew_max_ms)
        self.digests = DigestWatch()
        self.peers: dict[NodeId, Peer] = {}
        self.peer_list: list[Peer] = []  # sorted by node id: whatever is sent or counted goes in this order
        self._voting_peers: list[Peer] = []
        self._counted: Membership | None = None  # the configuration that the next two were read from
        self._votes_here = False
        self._quorum = 0
        self.round = 0
        self.fsync_us = 0
        self.verified_index = Index(0)  # follower: our log equals this term's leader's up to here
        self.stopped: str = ""
        self._started = False
        self._refusal = ""
        latest = align_log(parts)
        self.members = MembershipLog(parts.initial)
        conf = SyncObjConf(
            autoTick=False,
            appendEntriesPeriod=settings.heartbeat_ms / 1e3,
            raftMinTimeout=settings.election_min_ms / 1e3,
            raftMaxTimeout=settings.election_max_ms / 1e3,
            leaderFallbackTimeout=settings.fallback_ms / 1e3,
            connectionTimeout=max(3.5, settings.election_max_ms / 1e3),
            appendEntriesBatchSizeBytes=settings.append_bytes_max + ENTRY_BYTES_MAX,
            commandsWaitLeader=False,
            commandsQueueSize=1,
            useFork=False,
            dynamicMembershipChange=False,  # the library's own is not safe (S6); ours is in membership.py
            onStateChanged=self._role_changed,
        )
        with library_seams(self.journal, self.clock.monotonic):
            super().__init__(PeerNode(self.node_id), [], conf, nodeClass=PeerNode, transport=SilentTransport())
        self._SyncObj__serializer = None
        self._restore(latest)

    def _restore(self, latest: CheckpointMeta | None) -> None:
        """Commit index, applied index and configuration from what is on disk; nothing from the constructor's guess."""
        applied = self.host.applied_index
        self._SyncObj__raftLastApplied = applied
        self._SyncObj__raftCommitIndex = min(max(self.wal.commit_index, applied), self.wal.last_index)
        if latest is not None and latest.membership.index >= self.members.current.index:
            self.members = MembershipLog(latest.membership)
        self._scan_configurations(Index(self.wal.base_index + 1))
        self._rebuild_peers()

    def _scan_configurations(self, first: Index) -> None:
        while first <= self.wal.last_index:
            entries = self.wal.entries(first, SCAN_BYTES)
            for entry in entries:
                if is_config(entry.payload) and entry.index > self.members.current.index:
                    self.members.append(decode_membership(entry.payload, entry.index))
            first = Index(entries[-1].index + 1)

    # --- short names for what the library keeps ------------------------------

    def term(self) -> Term:
        return Term(self._SyncObj__raftCurrentTerm)

    def role(self) -> Role:
        return ROLES[self._SyncObj__raftState]

    def is_leader(self) -> bool:
        return self._SyncObj__raftState == LEADER

    def leader_id(self) -> NodeId | None:
        node = self._SyncObj__raftLeader
        return None if node is None else NodeId(node.id)

    def commit_index(self) -> Index:
        return Index(self._SyncObj__raftCommitIndex)

    def applied_index(self) -> Index:
        return Index(self._SyncObj__raftLastApplied)

    def match_index(self, peer: Peer) -> Index:
        return Index(self._SyncObj__raftMatchIndex.get(peer.node, 0))

    def own_no_op(self) -> Index:
        return Index(self._SyncObj__noopIDx or 0)

    def membership(self) -> Membership:
        return self.members.current

    def is_voter(self) -> bool:
        current = self.members.current
        if current is not self._counted:
            self._count(current)
        return self._votes_here

    def quorum(self) -> int:
        """Of the newest configuration in the log (D-9)."""
        current = self.members.current
        if current is not self._counted:
            self._count(current)
        return self._quorum

    def _count(self, current: Membership) -> None:
        """Once a configuration: every tick and every acknowledgement asks."""
        own = current.find(self.node_id)
        incarnation = self.parts.identity.incarnation
        self._votes_here = own is not None and own.suffrage is Suffrage.VOTER and own.incarnation == incarnation
        self._quorum = current.quorum()
        self._counted = current

    def voting_peers(self) -> list[Peer]:
        return self._voting_peers

    def now(self) -> float:
        return self.clock.monotonic()

    # --- terms and roles ------------------------------

    def _SyncObj__generateRaftTimeout(self) -> float:
        low, high = self.settings.election_min_ms, self.settings.election_max_ms
        return self.parts.rng.uniform(low, high) / 1e3

    def _SyncObj__setCurrentTerm(self, term: int, votedForNodeId: str | None) -> None:
        changed = term != self._SyncObj__raftCurrentTerm
        super()._SyncObj__setCurrentTerm(term, votedForNodeId)
        if changed:
            self._term_changed()

    def _term_changed(self) -> None:
        """Who led, what was verified, asked or half received: all of that belongs to the old term."""
        self._SyncObj__raftLeader = None
        self.verified_index = Index(0)
        self.digests.reset()
        self.freshness.reset()

    def observe_term(self, term: int) -> None:
        """A higher term was seen: adopt it, as a follower of nobody yet."""
        if term <= self._SyncObj__raftCurrentTerm:
            return
        self._SyncObj__setCurrentTerm(term, None)
        self.step_down()

    def step_down(self) -> None:
        if self._SyncObj__raftLeader is not None and self._SyncObj__raftLeader.id == self.node_id:
            self._SyncObj__raftLeader = None
        if self._SyncObj__raftState != FOLLOWER:
            self._SyncObj__raftLeader = None
            self._SyncObj__setState(FOLLOWER)
            self._SyncObj__raftElectionDeadline = self.now() + self._SyncObj__generateRaftTimeout()

    def _role_changed(self, old: int, new: int) -> None:
        log.info("%s: %s -> %s in term %d", self.node_id, ROLES[old].value, ROLES[new].value, self.term())
        if old == LEADER:
            self.freshness.reset()
            self._answer_all(LEADERSHIP_LOST, self.commit_index())
        self.parts.wake()

    def _answer_all(self, reason: str, keep_up_to: Index) -> None:
        """Queue: never proposed. In the log above `keep_up_to`: unknown. Committed ones get their result by apply."""
        not_leader = NotProposed("NOT_LEADER", self.leader_id())
        lost = list(self.proposals.take_above(keep_up_to))
        queued = self.proposals.take_queue()
        reads = self.reads.take_all(not_leader)
        for proposal in lost:
            self.proposals.answer(proposal, Unknown(reason))
        for proposal in queued:
            self.proposals.answer(proposal, not_leader)
        for done, outcome in reads:
            call_safely(done, outcome)

    # --- peers ------------------------------

    def _rebuild_peers(self) -> None:
        """After a change of configuration: appended, committed, truncated or installed. A stream that stays keeps its
        state; who is only in a configuration that may come back is heard, and sent nothing."""
        before, self.peers = self.peers, {}
        possible = self.members.possible_members(self.commit_index())
        for member in possible:
            if member.node_id != self.node_id:
                self.peers[member.node_id] = self._peer_for(member, before.get(member.node_id))
        for gone in sorted(before.keys() - self.peers.keys()):
            self._SyncObj__raftNextIndex.pop(before[gone].node, None)
            self._SyncObj__raftMatchIndex.pop(before[gone].node, None)
            self.clocks.forget(gone)
        self.peer_list = [peer for _, peer in sorted(self.peers.items()) if peer.active]
        self._voting_peers = [peer for peer in self.peer_list if peer.is_voter]
        self._SyncObj__otherNodes = {peer.node for peer in self._voting_peers}
        self._SyncObj__readonlyNodes = {peer.node for peer in self.peer_list if not peer.is_voter}
        if self._started and not self.stopped:
            self.parts.transport.set_peers(self.speaking_members())

    def speaking_members(self) -> Membership:
        current = self.membership()
        possible = self.members.possible_members(self.commit_index())
        return Membership(current.index, current.configured_voters, possible)

    def _peer_for(self, member: Member, old: Peer | None) -> Peer:
        active = self.membership().find(member.node_id) == member
        if old is not None and old.member.incarnation == member.incarnation:
            old.member, old.active = member, active
            return old
        peer = Peer(member, PeerNode(member.node_id), active)
        if old is not None:
            peer.connected, peer.hello, peer.refused = old.connected, old.hello, old.refused
        self._SyncObj__raftNextIndex[peer.node] = self.wal.last_index + 1
        self._SyncObj__raftMatchIndex[peer.node] = 0
        peer.heard_s = self.now()
        return peer

    def say_hello(self, peer: Peer, *, ask: bool = False) -> None:
        """First frame of every stream, and the answer to an empty one, which asks "who are you?"."""
        identity = self.parts.identity
        peer.hello_sent_s = self.now()
        hello = PeerHello(protocol=PROTOCOL)
        if not ask:
            hello.cluster_id = identity.cluster_id
            hello.node_id = identity.node_id
            hello.incarnation = identity.incarnation
            hello.client_address = identity.client_address
        self.outbox.send(peer.node_id, PeerFrame(hello=hello), after=0, term=self.term())

    def send(self, peer: Peer, frame: PeerFrame, after: int | None = None) -> bool:
        """Every frame carries or implies a term: it waits at least for the hard state (CL-2)."""
        generation = self.journal.hard_generation if after is None else max(after, self.journal.hard_generation)
        return self.outbox.send(peer.node_id, frame, after=generation, term=self.term())

    # --- syncs ------------------------------

    def start_sync(self) -> None:
        """One job out at a time; what is buffered meanwhile shares the next one (CL-6)."""
        if self.stopped:
            return
        job = self.wal.take_job()
        if job is None:
            return
        took_s: list[float] = []

        def run() -> None:
            began = self.clock.monotonic()
            job.run()
            took_s.append(self.clock.monotonic() - began)

        self.parts.syncs.submit(run, lambda error: self._synced(job, error, took_s))

    def _synced(self, job: SyncJob, error: BaseException | None, took_s: list[float]) -> None:
        if self.stopped:
            return
        with self.fail_stop():
            if error is not None:
                if isinstance(error, FatalError):
                    raise error
                raise DiskFailedError(f"a sync of the log failed: {error!r}") from error
            self.wal.finish(job)
            self.fsync_us = min(int(took_s[-1] * 1e6), (1 << 32) - 1)
            self.outbox.release(self.term())
            self.start_sync()
            self.parts.wake()

    # --- fail-stop ------------------------------

    @contextmanager
    def fail_stop(self) -> Iterator[None]:
        """Around every entry from outside: a fatal error, or one nobody foresaw, ends this node's part."""
        try:
            yield
        except FatalError as error:
            self._fail(error)
        except Exception as error:
            log.exception("%s: unforeseen error in the engine", self.node_id)
            failure = InvariantError(f"unforeseen error in the engine: {error!r}")
            failure.__cause__ = error
            self._fail(failure)

    def _fail(self, error: FatalError) -> None:
        if self.stopped:
            return
        log.critical("%s stops: %s: %s", self.node_id, error.reason, error)
        self._close(error.reason)
        self.parts.on_fatal(error)

    def _close(self, reason: str) -> None:
        self.stopped = reason
        self._refusal = reason
        self.outbox.drop_all()
        self.parts.transport.close()
        self._SyncObj__raftState = FOLLOWER
        self._SyncObj__raftLeader = None
        self._answer_all(STOPPED, Index(0))

    def guarded(self, call: Callable[[], None]) -> None:
        with self.fail_stop():
            call()


def is_batch(payload: bytes) -> bool:
    return payload[:1] == bytes((EntryType.BATCH,))
