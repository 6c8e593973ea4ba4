"""Known-bad builds of the engine: each puts one defect of the library back (docs/raft-engine.md, CH-10).

`with ablate("S1"):` patches this process until it is left; several may be nested. Where it can be done, the library's
own lines run again; where the library's shape is gone (messages, journal), its decision is restated. The product has
no setting that does any of this.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from pysyncobj.syncobj import SyncObj

from hypercluster.errors import DiskFullError
from hypercluster.log.entry import EntryType
from hypercluster.pb.v1.peer_pb2 import AppendAck, AppendEntries, PeerFrame, RaftEntry, VoteReply
from hypercluster.raft import core
from hypercluster.raft.adapter import RaftEngine
from hypercluster.raft.checkpointing import Checkpointing
from hypercluster.raft.core import EngineCore
from hypercluster.raft.elections import Elections
from hypercluster.raft.engine import Committed
from hypercluster.raft.guard import PICKLE_NAMES
from hypercluster.raft.membership import MembershipLog
from hypercluster.raft.outbox import Outbox
from hypercluster.raft.peers import Peer
from hypercluster.raft.reads import ReadRounds
from hypercluster.raft.replication import Replication
from hypercluster.raft.settings import EngineParts
from hypercluster.storage.wal.types import LogEntry
from hypercluster.values import Index, Membership, NodeId

Patch = tuple[object, str, object]


# --- durability ------------------------------------------------------------------------


def _send_at_once(self: Outbox, to: NodeId, frame: PeerFrame, *, after: int, term: int) -> bool:
    return self._send_now(to, frame)


def _release_all(self: Outbox, term: int) -> None:
    """Any finished sync releases everything, also what is only in the next one."""
    held, self._held = self._held, []
    for frame in held:
        if frame.term == term:
            self._send_now(frame.to, frame.frame)


def _count_unsynced(self: Replication) -> Index:
    return self.wal.last_index


# --- the library's protocol ---------------------------------------------------------------


def _truncate_always(self: Replication, prev: Index, entries: list[RaftEntry]) -> Index:
    """syncobj.py 991-1006: everything after prevLogIdx goes, matching or not; then the entries are added."""
    if prev < self.wal.last_index:
        SyncObj._SyncObj__deleteEntriesFrom(self, prev + 1)  # type: ignore[attr-defined]
        self.members.truncate_from(Index(prev + 1))
    fresh = [LogEntry(Index(e.index), e.term, e.payload) for e in entries]  # type: ignore[arg-type]
    if fresh:
        try:
            self.journal.append(fresh)
        except DiskFullError:
            self.disk_is_full()
            return prev
        self._configurations_appended(fresh)
    return Index(prev + len(entries))


def _rewind_always(self: Replication, peer: Peer, hint: int) -> None:
    """syncobj.py 1077: every rejection sets nextIndex, also one that answers what was given up long ago."""
    self._SyncObj__raftNextIndex[peer.node] = min(hint, self.wal.last_index + 1)
    peer.forget_flight()
    self._replicate_to(peer, heartbeat=True)


_on_append_ack = Replication.on_append_ack


def _ack_without_term(self: Replication, peer: Peer, ack: AppendAck) -> None:
    ack.term = max(ack.term, self.term())
    _on_append_ack(self, peer, ack)


_on_append = Replication.on_append


def _commit_unverified(self: Replication, peer: Peer, append: AppendEntries) -> None:
    """syncobj.py 1034: min(leader's commit, own last index), whatever the message was about."""
    current = append.term >= self.term()
    _on_append(self, peer, append)
    if current and not self.is_leader():
        self.set_commit(min(Index(append.commit_index), self.wal.last_index))


def _damaged_is_installed(self: Checkpointing, peer: Peer, round_number: int, why: str) -> None:
    """syncobj.py 1510 and 1025: the failure is swallowed, success goes out."""
    incoming = self._incoming
    if incoming is not None:
        self._abandon_incoming()
        self._answer_offer(peer, incoming.meta.checkpoint_id, round_number, installed=True)


_restore = EngineCore._restore


def _restore_unclamped(self: EngineCore, latest: Any) -> None:
    _restore(self, latest)
    stored = self.wal.disk.image.commit_index  # type: ignore[attr-defined]
    self._SyncObj__raftCommitIndex = max(self._SyncObj__raftCommitIndex, stored)


def _any_step(self: RaftEngine, wanted: Membership) -> str:
    return "" if self.is_leader() else "NOT_LEADER"


def _no_scan(self: EngineCore, first: Index) -> None:
    """The library reads the configuration from its constructor and from entries as they are applied."""


def _newest_anyway(self: MembershipLog, index: Index) -> Membership:
    return dataclasses.replace(self.current, index=min(self.current.index, index))


def _not_rolled_back(self: MembershipLog, index: Index) -> bool:
    return False


# --- apply -------------------------------------------------------------------------------------


def _apply_by_library(self: RaftEngine, entry: LogEntry) -> None:
    """syncobj.py 708-734: apply, then the callback, and only then the index; what raises is tried again."""
    proposal = self.proposals.take(entry.index, entry.term)
    result: object = None
    if entry.payload[0] == EntryType.BATCH:
        result = self.host.apply(entry.index, entry.term, entry.payload, proposal and proposal.context)
    else:
        self.host.advance(entry.index, entry.term)
    if proposal is not None:
        proposal.done(Committed(entry.index, entry.term, result))
    self._SyncObj__raftLastApplied = entry.index


@contextmanager
def _swallow(self: EngineCore) -> Iterator[None]:
    with contextlib.suppress(Exception):
        yield


# --- elections -----------------------------------------------------------------------------------


def _no_pre_vote(self: Elections, now: float) -> None:
    self._campaign(transfer=True)


def _not_sticky(self: Elections) -> bool:
    return False


def _count_every_vote(self: Elections, peer: Peer, reply: VoteReply) -> None:
    """syncobj.py 1064: +1 a message, whoever sent it and however often."""
    if reply.granted and reply.term == self.term():
        self._votes.add(NodeId(f"{peer.node_id}#{len(self._votes)}"))
        self._count_votes()


def _never_falls_back(self: Elections, now: float, lagged: bool) -> None:
    """leaderFallbackTimeout as it comes, 30 s, is for ever here."""


_follow = Replication.follow


def _silent_to_the_past(self: Replication, peer: Peer, term: int) -> bool:
    return term >= self.term() and _follow(self, peer, term)


def _vote_twice(self: Elections, peer: Peer, request: Any) -> None:
    self._SyncObj__votedForNodeId = None
    _on_request_vote(self, peer, request)


_on_request_vote = Elections.on_request_vote


# --- start, reads, members, flow -------------------------------------------------------------------


def _wipe_log(parts: EngineParts) -> Any:
    """syncobj.py 1489-1495: a log that does not begin where the dump does is emptied."""
    wal, latest = parts.wal, parts.checkpoints.latest()
    if latest is not None and wal.base_index != latest.index:
        wal.reset_to(latest.index, latest.term)
        wal.sync()
    return latest


def _read_at_once(self: ReadRounds, index: Index, round_needed: int, done: Any) -> bool:
    """It leads, it believes, so it answers."""
    return _add(self, Index(0), 0, done)


_add = ReadRounds.add


def _on_hello_any(self: RaftEngine, peer: Peer, hello: Any) -> None:
    peer.hello, peer.refused = peer.member.incarnation, False


def _unbounded(self: Replication, peer: Peer) -> bool:
    return True


def _hint_one_back(self: Replication, peer: Peer, append: AppendEntries, hint: int) -> None:
    """syncobj.py 988: prevLogIdx, one step a round trip."""
    held = self.wal.term_at(Index(append.prev_index))
    _reject(self, peer, append, append.prev_index if held is not None else hint)


_reject = Replication._reject


def _keeps_leading(self: RaftEngine, index: Index) -> None:
    """The library lets no leader remove itself: it stays, outside its own configuration."""


def _no_judgement(self: Replication) -> None: ...


def _no_statement(self: RaftEngine) -> None: ...


def _no_skew(self: Elections) -> bool:
    return False


# --- the library's shape -------------------------------------------------------------------


def _forwarded(self: RaftEngine, payload: bytes, context: object, done: Any) -> None:
    """A follower of the library hands a command on and forgets it; when the connection drops, nobody ever answers."""
    if self.is_leader():
        _propose(self, payload, context, done)


_propose = RaftEngine.propose


def _whole_log_at_once(self: Replication, peer: Peer, *, heartbeat: bool) -> None:
    bounded, self.settings = self.settings, dataclasses.replace(self.settings, append_bytes_max=1 << 40)
    try:
        _replicate_to(self, peer, heartbeat=heartbeat)
    finally:
        self.settings = bounded


_replicate_to = Replication._replicate_to


def _dump_in_a_child(self: Checkpointing) -> None:
    child = os.fork()
    if not child:
        os._exit(0)
    os.waitpid(child, 0)
    _tick_checkpoint(self)


_tick_checkpoint = Checkpointing.tick_checkpoint


def _resolve_in_the_tick(self: RaftEngine) -> None:
    socket.getaddrinfo("127.0.0.1", 0)
    _tick(self)


_tick = RaftEngine.tick


def _loaders() -> list[Patch]:
    """The library's own loader, wherever it was: it has loaded the module that we import nowhere."""
    loader = sys.modules["pickle"]
    modules = [m for name, m in sys.modules.items() if name == "pysyncobj" or name.startswith("pysyncobj.")]
    found: list[Patch] = [
        (m, name, getattr(loader, name)) for m in modules for name in PICKLE_NAMES if hasattr(m, name)
    ]
    return [*found, (sys.modules["pysyncobj.pickle"], "pickle", loader)]


def _patches() -> dict[str, Callable[[], list[Patch]]]:
    return {
        "DUR": lambda: [(Outbox, "send", _send_at_once)],
        "DUR-leader": lambda: [(Replication, "own_durable_index", _count_unsynced)],
        "DUR-next-sync": lambda: [(Outbox, "release", _release_all)],
        "S1": lambda: [(Replication, "_store", _truncate_always), (Replication, "_rewind", _rewind_always)],
        "S2": lambda: [(Replication, "on_append_ack", _ack_without_term)],
        "S3": lambda: [(Replication, "on_append", _commit_unverified)],
        "S4": lambda: [(Checkpointing, "_reject_incoming", _damaged_is_installed)],
        "S5": lambda: [(EngineCore, "_restore", _restore_unclamped)],
        "S6": lambda: [(RaftEngine, "_step_refusal", _any_step)],
        "S6b": lambda: [(MembershipLog, "at", _newest_anyway)],
        "S6c": lambda: [(EngineCore, "_scan_configurations", _no_scan)],
        "S6d": lambda: [(MembershipLog, "truncate_from", _not_rolled_back)],
        "S7": lambda: [(RaftEngine, "_apply", _apply_by_library), (EngineCore, "fail_stop", _swallow)],
        "S8c": lambda: [(Replication, "follow", _silent_to_the_past), (Elections, "_check_quorum", _never_falls_back)],
        "S8d": lambda: [(Elections, "_begin_pre_vote", _no_pre_vote), (Elections, "_is_sticky", _not_sticky)],
        "S8e": lambda: [(Elections, "on_vote_reply", _count_every_vote)],
        "S9": lambda: [(core, "align_log", _wipe_log)],
        "VOTE": lambda: [(Elections, "on_request_vote", _vote_twice)],
        "READ": lambda: [(ReadRounds, "add", _read_at_once)],
        "L1": lambda: [(Replication, "_reject", _hint_one_back)],
        "FLOW": lambda: [(Replication, "_may_send", _unbounded)],
        "SELF": lambda: [(RaftEngine, "_configuration_committed", _keeps_leading)],
        "AMN": lambda: [(RaftEngine, "_on_hello", _on_hello_any)],
        "DIGEST": lambda: [
            (Replication, "_judge_digests", _no_judgement),
            (RaftEngine, "_check_statement", _no_statement),
        ],
        "CLOCK": lambda: [(Elections, "clock_is_off", _no_skew)],
        "S8a": lambda: [(RaftEngine, "propose", _forwarded)],
        "L2": lambda: [(Replication, "_replicate_to", _whole_log_at_once)],
        "RCE": _loaders,
        "FORK": lambda: [(Checkpointing, "tick_checkpoint", _dump_in_a_child)],
        "DNS": lambda: [(RaftEngine, "tick", _resolve_in_the_tick)],
        "LRN": lambda: [(Peer, "is_voter", property(lambda _: True))],
    }


NAMES = tuple(_patches())


@contextmanager
def ablate(name: str) -> Iterator[None]:
    patches = _patches()[name]()
    before = [(owner, attribute, getattr(owner, attribute)) for owner, attribute, _ in patches]
    for owner, attribute, replacement in patches:
        setattr(owner, attribute, replacement)
    try:
        yield
    finally:
        for owner, attribute, original in before:
            setattr(owner, attribute, original)


PRODUCT = "product"


@contextmanager
def build(name: str) -> Iterator[bool]:
    """`build("product")` patches nothing; any other name is an ablation. Yields whether it is the product: a test that
    ends in `assert holds == product` is seen to fail on the known-bad build each time it runs."""
    if name == PRODUCT:
        yield True
    else:
        with ablate(name):
            yield False
