"""Checkpoints between nodes, and compaction behind them (CL-8, CL-9; Raft 7).

Owns: `Checkpointing`: offering and streaming a checkpoint to a peer whose entries are gone, receiving one, the
chunks that travel by difference, when to make one, and how much of the log is kept behind it.
Never: replaces anything before the whole is verified; acknowledges more than the checkpoint's index; moves the
commit index on a piece (S3); compacts beyond what the host has flushed.
Invariants: an incoming checkpoint belongs to one leader and term; another, or an older one than the state, is
dropped before it touches anything. Damaged means rejected, and the node keeps what it has (S4).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from hypercluster.errors import DamagedError, DiskFullError, FatalError, MalformedError, check
from hypercluster.limits import CHUNK_REQUEST_HASHES_MAX
from hypercluster.pb.v1.peer_pb2 import (
    CheckpointAck,
    CheckpointOffer,
    CheckpointPiece,
    Chunk,
    ChunkReply,
    ChunkRequest,
    PeerFrame,
)
from hypercluster.raft.engine import CheckpointMeta, CheckpointReceiver, Unknown
from hypercluster.raft.frames import meta_of, offer_of, piece_crc, piece_is_whole
from hypercluster.raft.membership import MembershipLog
from hypercluster.raft.peers import CheckpointSession, Peer
from hypercluster.raft.replication import Replication
from hypercluster.raft.settings import EngineParts, EngineSettings
from hypercluster.values import Index, NodeId

# What may go wrong with an incoming checkpoint without anything being wrong with this node.
STAGING_ERRORS: Final = (DamagedError, DiskFullError, MalformedError, OSError, ValueError)
UNASKED: Final = 0  # the round of an answer that came by itself: it confirms none; this node's own count is no leader's


@dataclass(slots=True)
class Incoming:
    """The one checkpoint this node is receiving."""

    meta: CheckpointMeta
    receiver: CheckpointReceiver
    leader: NodeId
    term: int
    offset: int = 0
    verifying: bool = False
    verified: bool = False
    verify_running: bool = False
    chunks_asked_s: float = float("-inf")


class Checkpointing(Replication):
    def __init__(self, parts: EngineParts, settings: EngineSettings) -> None:
        self._incoming: Incoming | None = None
        self._outgoing_verify: Incoming | None = None  # given up, but its verify still runs beside the loop
        self._creating = False
        self._applied_bytes = 0  # since the last checkpoint
        self._marks: list[tuple[Index, int]] = []  # index, bytes applied by then: how much log lies behind an index
        self._bytes_total = 0
        self._compacted_for = -1
        super().__init__(parts, settings)

    def _term_changed(self) -> None:
        super()._term_changed()
        self._abandon_incoming()

    # --- sending ------------------------------

    def send_checkpoint(self, peer: Peer, now: float) -> None:
        session = peer.session
        if session is None:
            latest = self.parts.checkpoints.latest()
            if now < peer.session_after_s or latest is None:
                return
            check(latest.index >= self.wal.base_index, "the log is compacted beyond the latest checkpoint")
            session = peer.session = CheckpointSession(latest, progress_s=now)
            self._offer(peer, session)
        elif now - session.progress_s > self.settings.checkpoint_retry_ms / 1e3:
            session.progress_s = now  # offered again, the receiver answers where it stands
            self._offer(peer, session)

    def _offer(self, peer: Peer, session: CheckpointSession) -> None:
        session.sent = session.acked
        self.send(peer, PeerFrame(checkpoint_offer=offer_of(session.meta, self.term(), self.round)))

    def _send_pieces(self, peer: Peer, session: CheckpointSession) -> None:
        total, window = session.meta.bytes_total, self.settings.checkpoint_window_bytes
        while session.sent < total and session.sent - session.acked < window:
            content = self.parts.checkpoints.read_piece(
                session.meta.checkpoint_id, session.sent, self.settings.checkpoint_piece_bytes
            )
            if not content:  # no longer kept: start over with the latest
                self._end_session(peer)
                return
            piece = CheckpointPiece(
                term=self.term(),
                checkpoint_id=session.meta.checkpoint_id,
                offset=session.sent,
                content=content,
                crc=piece_crc(content),
                round=self.round,
            )
            if not self.send(peer, PeerFrame(checkpoint_piece=piece)):
                return
            session.sent += len(content)

    def _end_session(self, peer: Peer) -> None:
        peer.session = None
        peer.session_after_s = self.now() + self.settings.heartbeat_ms / 1e3

    def on_checkpoint_ack(self, peer: Peer, ack: CheckpointAck) -> None:
        self.observe_term(ack.term)
        if not self.is_leader() or not peer.active or ack.term != self.term():
            return
        peer.heard_s = self.now()
        self.round_answered(peer, ack.round)
        session = peer.session
        if session is None or session.meta.checkpoint_id != ack.checkpoint_id:
            return
        if ack.installed:
            peer.session = None
            self._matched(peer, session.meta.index)
        elif ack.rejected:
            self._end_session(peer)
        else:
            if ack.offset != session.acked:
                session.progress_s = self.now()
            if ack.offset < session.acked or ack.offset > session.sent:
                session.sent = ack.offset  # the receiver began anew, or knows more than we remember
            session.acked = ack.offset
            self._send_pieces(peer, session)

    # --- receiving ------------------------------

    def on_checkpoint_offer(self, peer: Peer, offer: CheckpointOffer) -> None:
        if not self.follow(peer, offer.term):
            return
        incoming = self._incoming
        if offer.index <= self.applied_index():
            # Older than the state (S9): nothing is replaced, and what it covers is here and durable.
            self._answer_offer(peer, offer.checkpoint_id, offer.round, installed=True)
        elif incoming is not None and incoming.meta.checkpoint_id == offer.checkpoint_id:
            self._answer_offer(peer, offer.checkpoint_id, offer.round, offset=incoming.offset)
            self._continue_incoming()
        else:
            self._abandon_incoming()
            self._begin_incoming(peer, offer)

    def _begin_incoming(self, peer: Peer, offer: CheckpointOffer) -> None:
        if self._outgoing_verify is not None:
            return  # the leader offers again
        try:
            meta = meta_of(offer)
            receiver = self.parts.checkpoints.receive(meta)
        except STAGING_ERRORS as error:
            self._answer_offer(peer, offer.checkpoint_id, offer.round, rejected=str(error) or "refused")
            return
        self._incoming = Incoming(meta, receiver, peer.node_id, self.term())
        self._answer_offer(peer, offer.checkpoint_id, offer.round, offset=0)
        self._continue_incoming()

    def on_checkpoint_piece(self, peer: Peer, piece: CheckpointPiece) -> None:
        if not self.follow(peer, piece.term):
            return
        incoming = self._incoming
        if incoming is None or incoming.meta.checkpoint_id != piece.checkpoint_id or incoming.leader != peer.node_id:
            return  # of a stream that was given up; the leader offers again
        if not piece_is_whole(piece):
            self._reject_incoming(peer, piece.round, f"piece at {piece.offset} does not match its CRC")
            return
        if piece.offset == incoming.offset and not incoming.verifying:
            try:
                incoming.receiver.write(piece.offset, piece.content)
            except STAGING_ERRORS as error:
                self._reject_incoming(peer, piece.round, str(error))
                return
            incoming.offset += len(piece.content)
        self._answer_offer(peer, piece.checkpoint_id, piece.round, offset=incoming.offset)
        self._continue_incoming()

    def _answer_offer(
        self, peer: Peer, checkpoint_id: str, round_number: int, *, offset: int = 0, installed: bool = False,
        rejected: str = "",
    ) -> None:  # fmt: skip
        ack = CheckpointAck(
            term=self.term(),
            checkpoint_id=checkpoint_id,
            offset=offset,
            installed=installed,
            rejected=bool(rejected),
            message=rejected[:500],
            round=round_number,
        )
        self.send(peer, PeerFrame(checkpoint_ack=ack), self.journal.log_generation if installed else None)

    def _continue_incoming(self) -> None:
        """Everything is here: verify beside the loop, then fetch the chunks that lack, then install."""
        incoming = self._incoming
        if incoming is None or incoming.offset < incoming.meta.bytes_total:
            return
        if not incoming.verifying:
            incoming.verifying = incoming.verify_running = True
            self.parts.bulk.submit(incoming.receiver.verify, lambda error: self._verified(incoming, error))
        elif incoming.verified:
            self._ask_chunks(incoming)

    def _verified(self, incoming: Incoming, error: BaseException | None) -> None:
        incoming.verify_running = False
        if self._outgoing_verify is incoming:
            self._outgoing_verify = None
            incoming.receiver.abort()
        if self.stopped or self._incoming is not incoming:
            return
        with self.fail_stop():
            if error is None:
                incoming.verified = True
                self._ask_chunks(incoming)
            elif isinstance(error, STAGING_ERRORS):
                peer = self.peers.get(incoming.leader)
                if peer is not None:
                    self._reject_incoming(peer, UNASKED, str(error))
            else:
                raise error

    def _ask_chunks(self, incoming: Incoming) -> None:
        missing = incoming.receiver.missing_chunks(CHUNK_REQUEST_HASHES_MAX)
        if not missing:
            self._install(incoming)
            return
        peer = self.peers.get(incoming.leader)
        if peer is not None and self.now() - incoming.chunks_asked_s > self.settings.heartbeat_ms / 1e3:
            incoming.chunks_asked_s = self.now()
            self.send(peer, PeerFrame(chunk_request=ChunkRequest(hashes=missing)))

    def on_chunk_request(self, peer: Peer, request: ChunkRequest) -> None:
        chunks: list[Chunk] = []
        for chunk_hash in request.hashes:
            content = self.parts.chunks.read_chunk(chunk_hash)
            chunks.append(Chunk(hash=chunk_hash, content=content or b"", absent=content is None))
        self.send(peer, PeerFrame(chunk_reply=ChunkReply(chunks=chunks)))

    def on_chunk_reply(self, peer: Peer, reply: ChunkReply) -> None:
        incoming = self._incoming
        if incoming is None or not incoming.verified or incoming.leader != peer.node_id:
            return
        for chunk in reply.chunks:
            if chunk.absent:
                self._reject_incoming(peer, UNASKED, "the leader no longer has a chunk of its checkpoint")
                return
            try:
                incoming.receiver.add_chunk(chunk.hash, chunk.content)
            except STAGING_ERRORS as error:
                self._reject_incoming(peer, UNASKED, str(error))
                return
        incoming.chunks_asked_s = float("-inf")
        self._ask_chunks(incoming)

    def _install(self, incoming: Incoming) -> None:
        """The state is replaced by rename first, the log follows; a stop in between is mended by `align_log`."""
        meta = incoming.meta
        self._incoming = None
        if meta.index <= self.applied_index():
            incoming.receiver.abort()
        else:
            try:
                incoming.receiver.install()
            except FatalError:
                raise
            except Exception as error:
                raise DamagedError(f"installing checkpoint {meta.checkpoint_id} failed half way: {error}") from error
            check(self.host.applied_index == meta.index, "an installed checkpoint must be the host's state")
            self._adopt_state(meta)
        peer = self.peers.get(incoming.leader)
        if peer is not None:
            self._answer_offer(peer, meta.checkpoint_id, UNASKED, installed=True)
        self.parts.wake()

    def _adopt_state(self, meta: CheckpointMeta) -> None:
        """Keeps the log's suffix when it continues the checkpoint (Raft 7), otherwise begins anew at its index."""
        if self.wal.term_at(meta.index) == meta.term:
            self.wal.compact_to(meta.index)
        else:
            self.journal.reset_to(meta.index, meta.term)
        self._SyncObj__raftLastApplied = meta.index
        self.set_commit(meta.index)
        self.stamp_floor_ns = max(self.stamp_floor_ns, meta.last_stamp_ns)
        self._marks.clear()
        # Only the base may be newer (a node that joined was admitted with it); others count as far as the log has them.
        self.members = MembershipLog(max(self.members.base, meta.membership, key=lambda known: known.index))
        self._scan_configurations(Index(self.wal.base_index + 1))
        self._rebuild_peers()
        for proposal in self.proposals.take_up_to(meta.index):
            self.proposals.answer(proposal, Unknown("CHECKPOINT_INSTALLED"))

    def _reject_incoming(self, peer: Peer, round_number: int, why: str) -> None:
        incoming = self._incoming
        if incoming is not None:
            self._abandon_incoming()
            self._answer_offer(peer, incoming.meta.checkpoint_id, round_number, rejected=why or "damaged")

    def _abandon_incoming(self) -> None:
        """Its staged files go, but not under the feet of a verify that reads them."""
        incoming, self._incoming = self._incoming, None
        if incoming is not None and incoming.verify_running:
            self._outgoing_verify = incoming
        elif incoming is not None:
            incoming.receiver.abort()

    # --- making and compacting ------------------------------

    def applied_entry(self, index: Index, size_bytes: int) -> None:
        """Keeps account of how much log there is, for when to make a checkpoint and what to keep behind it."""
        self._applied_bytes += size_bytes
        self._bytes_total += size_bytes
        if not self._marks or self._bytes_total - self._marks[-1][1] >= self.settings.log_keep_bytes // 64:
            self._marks.append((index, self._bytes_total))

    def tick_checkpoint(self) -> None:
        if self._incoming is not None and self._incoming.meta.index <= self.applied_index():
            self._abandon_incoming()  # the log brought more: nobody sends the rest, and it would hold up compaction
        if self._creating or self._incoming is not None:
            return
        self._compact()
        applied = self.applied_index()
        latest = self.parts.checkpoints.latest()
        behind = applied - (0 if latest is None else latest.index)
        if behind <= 0 or applied < self.members.at(applied).index:
            return
        if behind >= self.settings.checkpoint_every_entries or (
            self._applied_bytes >= self.settings.checkpoint_every_bytes
        ):
            term = self.wal.term_at(applied)
            check(term is not None, f"applied entry {applied} is not in the log")
            self._creating, self._applied_bytes = True, 0
            self.parts.checkpoints.create(applied, term or self.term(), self.members.at(applied), self._created)

    def _created(self, meta: CheckpointMeta | None) -> None:
        self._creating = False
        if not self.stopped:
            self.parts.wake()

    def _compact(self) -> None:
        latest = self.parts.checkpoints.latest()
        if latest is None:
            return
        to = int(min(latest.index, self.parts.flushed_index()))
        if to == self._compacted_for:
            return  # every tick asks; the answer changes with a checkpoint or a flush only
        self._compacted_for = to
        to = min(to, max(to - self.settings.log_keep_entries, self._kept_by_bytes(to)))
        if to > self.wal.base_index:
            self.wal.compact_to(Index(to))
            self.members.forget_below(Index(to))
            self._marks = [mark for mark in self._marks if mark[0] > to]

    def _kept_by_bytes(self, to: int) -> int:
        """The highest index with more than log_keep_bytes between it and `to`; 0 when there is not that much."""
        upto = max((total for index, total in self._marks if index <= to), default=0)
        return max((index for index, total in self._marks if upto - total > self.settings.log_keep_bytes), default=0)
