"""The log from the leader to the others, and back what they hold (Raft 5.3, 5.4; CL-2, CL-5, CL-6).

Owns: `Replication`: append frames with flow control, the follower's check of them, acknowledgements, and the
commit index on both sides.
Never: truncates without a conflict of terms, nor at or below the commit index; rewinds on success; counts an
acknowledgement of another term, a learner, or this node's own entries before its disk has them.
Invariants: within a term what a node acknowledged never falls; a follower's commit index stays within what it
verified against this term's leader; a quorum is D-9's, over the newest configuration in the log.
"""

from __future__ import annotations

from hypercluster.errors import DiskFullError, DivergedError, check
from hypercluster.pb.v1.peer_pb2 import AppendAck, AppendEntries, PeerFrame, RaftEntry, TermNotice
from hypercluster.raft.digests import Verdict
from hypercluster.raft.elections import Elections
from hypercluster.raft.membership import decode_membership, is_config
from hypercluster.raft.peers import Peer
from hypercluster.raft.settings import EngineParts, EngineSettings
from hypercluster.storage.wal.types import LogEntry
from hypercluster.values import Digest, Index, NodeId, Term

HELLO_AGAIN_S = 1.0
DIVERGED = DivergedError.reason


class Replication(Elections):
    def __init__(self, parts: EngineParts, settings: EngineSettings) -> None:
        self._heartbeat_s = 0.0
        self._notice_s = float("inf")  # when the followers are told a commit index that no entry carried
        self._sent_up_to = Index(0)
        super().__init__(parts, settings)

    def _term_changed(self) -> None:
        super()._term_changed()
        self._refusal = "" if self._refusal == DIVERGED else self._refusal  # the next leader asks anew

    # --- leader: sending ------------------------------

    def _SyncObj__sendAppendEntries(self) -> None:
        """One round: heartbeat, entries that are due, the commit index, a question for everybody's digest."""
        now = self.now()
        self._heartbeat_s = now + self.settings.heartbeat_ms / 1e3
        self._notice_s = float("inf")
        self._sent_up_to = self.wal.last_index
        self.round += 1
        self.freshness.round_sent(self.round, self.clock.boottime_ns(), self.commit_index())
        self._ask_digests(now)
        for peer in self.peer_list:
            self._replicate_to(peer, heartbeat=True)

    def tick_replication(self, now: float) -> None:
        """Eager: whatever was appended leaves in this turn, in one round; otherwise the heartbeat, or a notice."""
        if not self.is_leader():
            return
        due = now >= self._heartbeat_s or now >= self._notice_s or self.reads.round_wanted > self.round
        if due or self.wal.last_index != self._sent_up_to:
            self._SyncObj__sendAppendEntries()

    def _replicate_to(self, peer: Peer, *, heartbeat: bool) -> None:
        if not peer.connected or not peer.active:
            return
        now = self.now()
        if now - peer.heard_s > HELLO_AGAIN_S and now - peer.hello_sent_s > HELLO_AGAIN_S:
            self.say_hello(peer)
        following = self._SyncObj__raftNextIndex[peer.node]
        if following <= self.wal.base_index:
            self.send_checkpoint(peer, now)
            if heartbeat:
                self._send_append(peer, Index(self.wal.base_index + 1), [])
            return
        sent = False
        while following <= self.wal.last_index and self._may_send(peer):
            entries = self.wal.entries(Index(following), self.settings.append_bytes_max)
            entries = entries[: self.settings.append_entries_max]
            if not self._send_append(peer, Index(following), entries):
                return
            following = entries[-1].index + 1
            self._SyncObj__raftNextIndex[peer.node] = following
            peer.sent(entries[-1].index, sum(len(entry.payload) for entry in entries))
            sent = True
        if heartbeat and not sent:
            self._send_append(peer, Index(following), [])

    def _may_send(self, peer: Peer) -> bool:
        """Bounded by bytes in flight; until the peer's log is placed, by one frame at a time."""
        if not peer.in_flight:
            return True
        return peer.verified and peer.in_flight_bytes < self.settings.in_flight_bytes_max

    def _send_append(self, peer: Peer, following: Index, entries: list[LogEntry]) -> bool:
        prev = Index(following - 1)
        prev_term = self.wal.term_at(prev)
        check(prev_term is not None, f"the entry before {following} is not in the log")
        question = self.digests.question
        append = AppendEntries(
            term=self.term(),
            prev_index=prev,
            prev_term=prev_term,
            commit_index=self.commit_index(),
            entries=[RaftEntry(index=e.index, term=e.term, payload=e.payload) for e in entries],
            round=self.round,
            clock_ns=self.clock.wall_ns(),
            probe_echo_ns=peer.probe_echo_ns,
            digest_index=0 if question is None else question.index,
            digest=(question.confirmed or b"") if question is not None else b"",
        )
        return self.send(peer, PeerFrame(append=append))

    def send_checkpoint(self, peer: Peer, now: float) -> None:
        """Checkpointing fills it in."""
        raise NotImplementedError

    # --- follower ------------------------------

    def follow(self, peer: Peer, term: int) -> bool:
        """A frame of a leader. False when its term is over; otherwise this node follows it."""
        if term < self.term():
            self.send(peer, PeerFrame(term_notice=TermNotice(term=self.term())))
            return False
        self.observe_term(term)
        check(not self.is_leader(), f"two leaders in term {term}: {self.node_id} and {peer.node_id}")
        now = self.now()
        self._leader_contact_s = now
        self._SyncObj__raftElectionDeadline = now + self._SyncObj__generateRaftTimeout()
        self._pre_vote_term = 0
        self._SyncObj__raftLeader = peer.node
        self.step_down()
        self._SyncObj__raftLeader = peer.node
        return True

    def on_append(self, peer: Peer, append: AppendEntries) -> None:
        if not self.follow(peer, append.term):
            return
        self.clocks.heard(peer.node_id, append.clock_ns, self.now())
        self.digests.heard(append.digest_index, append.digest)
        prev, prev_term, entries = append.prev_index, append.prev_term, list(append.entries)
        base = self.wal.base_index
        if prev < base:
            # Below our base everything is committed, hence the same: only what reaches above it is looked at.
            entries = [entry for entry in entries if entry.index > base]
            prev, prev_term = base, self.wal.base_term
            if not entries:
                self._acknowledge(peer, append, base)
                return
        held_term = self.wal.term_at(Index(prev))
        if held_term is None:
            self._reject(peer, append, self.wal.last_index + 1)
        elif held_term != prev_term:
            # Everything up to the commit index matches any leader: one hint reaches past the whole difference.
            self._reject(peer, append, min(prev, self.commit_index() + 1))
        else:
            self._acknowledge(peer, append, self._store(Index(prev), entries))

    def _store(self, prev: Index, entries: list[RaftEntry]) -> Index:
        """Keeps what matches, truncates at the first conflict, appends the rest. Returns the last index that is now
        the same as the leader's."""
        known = 0
        for entry in entries:
            held_term = self.wal.term_at(Index(entry.index))
            if held_term is None:
                break
            if held_term != entry.term:
                self._truncate_from(Index(entry.index))
                break
            known += 1
        fresh = [LogEntry(Index(e.index), Term(e.term), e.payload) for e in entries[known:]]
        if fresh:
            try:
                self.journal.append(fresh)
            except DiskFullError:
                self.disk_is_full()
                return Index(prev + known)
            self._configurations_appended(fresh)
        return Index(prev + len(entries))

    def _truncate_from(self, index: Index) -> None:
        check(index > self.commit_index(), f"a leader asks to truncate committed entry {index}")
        self.journal.truncate_from(index)
        if self.members.truncate_from(index):
            self._rebuild_peers()

    def _configurations_appended(self, entries: list[LogEntry]) -> None:
        """Effective when appended, not when committed (QUO-1)."""
        changed = False
        for entry in entries:
            if is_config(entry.payload) and entry.index > self.membership().index:
                self.members.append(decode_membership(entry.payload, entry.index))
                changed = True
        if changed:
            self._rebuild_peers()

    def _acknowledge(self, peer: Peer, append: AppendEntries, verified: Index) -> None:
        """An acknowledgement of entries waits for their sync; a heartbeat's says at once what is durable already."""
        self.verified_index = verified = max(self.verified_index, verified)
        after = self.journal.hard_generation
        match = min(verified, self.wal.durable_index)
        if verified > match and (append.entries or self.journal.log_generation <= after):
            after, match = max(after, self.journal.log_generation), verified  # what waits anyway says all of it
        self._send_ack(peer, append.round, success=True, match=match, after=after)
        commit = min(Index(append.commit_index), self.verified_index)
        self.set_commit(commit)
        self.freshness.echoed(append.probe_echo_ns, Index(append.commit_index))
        self.parts.wake()

    def _reject(self, peer: Peer, append: AppendEntries, hint: int) -> None:
        self._send_ack(peer, append.round, success=False, match=Index(hint), after=0)

    def _send_ack(self, peer: Peer, round_number: int, *, success: bool, match: Index, after: int) -> None:
        asked = self.digests.asked_index
        digest = self.host.digest_at(asked) if asked and asked <= self.applied_index() else None
        ack = AppendAck(
            term=self.term(),
            success=success,
            match_index=match,
            round=round_number,
            digest_index=asked if digest else 0,
            digest=digest or b"",
            fsync_us=self.fsync_us,
            clock_ns=self.clock.wall_ns(),
            probe_ns=self.clock.boottime_ns(),
            applied_index=self.applied_index(),
            unfit=not self.is_fit(),
        )
        self.send(peer, PeerFrame(append_ack=ack), after)

    # --- leader: acknowledgements ------------------------------

    def on_append_ack(self, peer: Peer, ack: AppendAck) -> None:
        self.observe_term(ack.term)
        if not self.is_leader() or not peer.active or ack.term != self.term():
            return  # S2: an acknowledgement given to another leadership says nothing about this one
        now = self.now()
        peer.heard_s = now
        peer.fsync_us, peer.unfit = ack.fsync_us, ack.unfit
        self.clocks.heard(peer.node_id, ack.clock_ns, now)
        self.round_answered(peer, ack.round)
        if peer.probe_waiting is None and ack.probe_ns:
            peer.probe_waiting = (ack.probe_ns, self.round)
        if ack.success:
            self._matched(peer, Index(ack.match_index))
        elif ack.round > peer.rewound_round:
            self._rewind(peer, ack.match_index)
        if peer.is_voter and self.digests.answer(peer.node_id, ack.digest_index, ack.digest):
            self._judge_digests()
        self.parts.wake()

    def round_answered(self, peer: Peer, round_number: int) -> None:
        """Confirms up to that round (CL-10). One that this leader has not begun is no answer to it."""
        if round_number <= self.round:
            peer.acked_round = max(peer.acked_round, round_number)

    def _matched(self, peer: Peer, match: Index) -> None:
        check(match <= self.wal.last_index, f"{peer.node_id} acknowledges {match}, beyond this leader's log")
        matched, following = self._SyncObj__raftMatchIndex, self._SyncObj__raftNextIndex
        matched[peer.node] = max(matched[peer.node], match)
        following[peer.node] = max(following[peer.node], matched[peer.node] + 1)
        peer.verified = True
        peer.acknowledged(Index(matched[peer.node]))
        self._advance_commit()
        if following[peer.node] <= self.wal.last_index:
            self._replicate_to(peer, heartbeat=False)

    def _rewind(self, peer: Peer, hint: int) -> None:
        """Back to the hint, never below what is known to match and never forward. Rejections of rounds that were
        sent before the rewind answer frames that were given up: they count no second time."""
        following = self._SyncObj__raftNextIndex
        matched = self._SyncObj__raftMatchIndex[peer.node]
        before = following[peer.node]
        following[peer.node] = max(matched + 1, min(before, hint, self.wal.last_index + 1))
        if following[peer.node] == before:
            return  # the same frame again would be rejected again: it waits for the heartbeat, or for a checkpoint
        peer.forget_flight()
        peer.rewound_round = self.round
        self.round += 1
        self._replicate_to(peer, heartbeat=True)

    # --- commit ------------------------------

    def quorum_index(self) -> Index:
        """The highest index that a quorum of the newest configuration holds on disk."""
        held = [self.match_index(peer) for peer in self.voting_peers()]
        if self.is_voter():
            held.append(self.own_durable_index())
        held.sort(reverse=True)
        quorum = self.quorum()
        return held[quorum - 1] if len(held) >= quorum else Index(0)

    def own_durable_index(self) -> Index:
        return self.wal.durable_index

    def _advance_commit(self) -> None:
        if not self.is_leader():
            return
        index = min(self.quorum_index(), self.wal.last_index)
        if index > self.commit_index() and self.wal.term_at(index) == self.term():
            self.set_commit(index)
            self._notice_s = min(self._notice_s, self.now() + self.settings.commit_notice_ms / 1e3)

    def set_commit(self, index: Index) -> None:
        if index > self._SyncObj__raftCommitIndex:
            self._SyncObj__raftCommitIndex = index
            self.journal.setRaftCommitIndex(index)
            if len(self.peers) != len(self.peer_list) and index >= self.membership().index:
                self._rebuild_peers()

    def confirmed_round(self) -> int:
        """The newest round that a quorum of voters answered in this term, this node included."""
        rounds = [peer.acked_round for peer in self.voting_peers()]
        if self.is_voter():
            rounds.append(self.round)
        rounds.sort(reverse=True)
        quorum = self.quorum()
        return rounds[quorum - 1] if len(rounds) >= quorum else 0

    # --- digests (CL-17) ------------------------------

    def _ask_digests(self, now: float) -> None:
        if self._refusal == DIVERGED:
            self._judge_digests()  # the disagreement may have ended with a change of members
        applied = self.applied_index()
        if self.digests.may_ask(applied, now):
            digest = self.host.digest_at(applied)
            if digest is not None:
                self.digests.ask(applied, self.node_id, digest, now)

    def _judge_digests(self) -> None:
        question = self.digests.question
        if question is None:
            return
        voters = {peer.node_id for peer in self.voting_peers()} | {self.node_id}
        question.answers = {NodeId(k): Digest(v) for k, v in question.answers.items() if k in voters}
        match question.verdict(self.node_id, self.quorum()):
            case Verdict.AGREED | Verdict.OPEN:
                self._refusal = "" if self._refusal == DIVERGED else self._refusal
            case Verdict.MINORITY:
                self.diverged(question.index)
            case Verdict.SPLIT:
                self._refusal = DIVERGED

    def diverged(self, index: Index) -> None:
        """The adapter stops the node."""
        raise NotImplementedError
