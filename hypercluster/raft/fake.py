"""An engine of one node without consensus, for tests of what stands above: the same contract, nothing to elect.

Owns: `FakeEngine`: proposals in order, applied after the sync of the log when it is given one (at the next tick
otherwise), reads behind them, and the same refusals as the real one.
Never: pretends to more nodes than one: a transfer or a second voter is refused.
Invariants: those of engine.py; the contract tests run it beside the adapter.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from hypercluster.errors import ApplyFailedError, DiskFailedError, DiskFullError, FatalError, NotLeaderError, check
from hypercluster.limits import ENTRY_BYTES_MAX, PENDING_BYTES_MAX, PENDING_OPS_MAX, READS_PENDING_MAX
from hypercluster.log.entry import EntryType, encode_no_op
from hypercluster.raft.core import is_batch
from hypercluster.raft.engine import (
    Clock,
    Committed,
    EngineStatus,
    Host,
    NotProposed,
    ProposalOutcome,
    ReadOutcome,
    ReadReady,
    SyncRunner,
    Unknown,
)
from hypercluster.raft.membership import encode_membership, step_refusal
from hypercluster.raft.proposals import call_safely
from hypercluster.storage.wal.types import HardState, LogEntry, SyncJob, WriteAheadLog
from hypercluster.values import NO_INDEX, Index, Membership, NodeId, Role, Suffrage, Term


@dataclass(frozen=True, slots=True)
class Filed:
    entry: LogEntry
    context: object
    done: Callable[[ProposalOutcome], None]
    membership: Membership | None = None


class FakeEngine:
    """`wal` and `syncs` together, or neither."""

    def __init__(
        self,
        node_id: NodeId,
        membership: Membership,
        host: Host,
        clock: Clock,
        *,
        wal: WriteAheadLog | None = None,
        syncs: SyncRunner | None = None,
        wake: Callable[[], None] = lambda: None,
        on_fatal: Callable[[BaseException], None] = lambda _: None,
    ) -> None:
        check((wal is None) == (syncs is None), "a log is synced by its runner")
        self._node_id, self._membership, self._host, self._clock = node_id, membership, host, clock
        self._wal, self._syncs, self._wake, self._on_fatal = wal, syncs, wake, on_fatal
        self._term = Term(1 if wal is None else wal.hard_state.term + 1)
        self._last = host.applied_index if wal is None else wal.last_index
        self._filed: deque[Filed] = deque()
        self._bytes = 0
        self._reads: deque[tuple[Index, Callable[[ReadOutcome], None]]] = deque()
        self._stamp_floor_ns = 0
        self._refusal = "STOPPED"  # until it is started
        self._paused = False

    # --- life ----------------------------------------------------------------------

    def start(self) -> None:
        self._refusal = ""
        if self._wal is not None:
            self._wal.save_hard_state(HardState(self._term, self._node_id))
        self._file(encode_no_op(), None, lambda _: None)

    def stop(self) -> None:
        if self._refusal == "STOPPED":
            return
        self._refusal = "STOPPED"
        filed, self._filed = self._filed, deque()
        reads, self._reads = self._reads, deque()
        for waiting in filed:
            call_safely(waiting.done, Unknown("STOPPED"))
        for _, done in reads:
            call_safely(done, NotProposed("NOT_LEADER"))

    # --- what callers ask ------------------------------------------------------------

    def propose(self, payload: bytes, context: object, done: Callable[[ProposalOutcome], None]) -> None:
        reason = self._refusal
        if not reason and not is_batch(payload):
            reason = "MALFORMED"
        if not reason and len(payload) > ENTRY_BYTES_MAX:
            reason = "TOO_LARGE"
        if not reason and (len(self._filed) >= PENDING_OPS_MAX or self._bytes + len(payload) > PENDING_BYTES_MAX):
            reason = "QUEUE_FULL"
        if not reason:
            try:
                self._file(payload, context, done)
            except DiskFullError:
                reason = "DISK_FULL"
        if reason:
            call_safely(done, NotProposed(reason, None if self._refusal else self._node_id))

    def _file(
        self,
        payload: bytes,
        context: object,
        done: Callable[[ProposalOutcome], None],
        membership: Membership | None = None,
    ) -> None:
        entry = LogEntry(Index(self._last + 1), self._term, payload)
        if self._wal is not None:
            self._wal.append([entry])
        self._last = entry.index
        self._bytes += len(payload)
        self._filed.append(Filed(entry, context, done, membership))
        self._wake()

    def read_index(self, done: Callable[[ReadOutcome], None]) -> None:
        if self._refusal:
            call_safely(done, NotProposed("NOT_LEADER"))
        elif len(self._reads) >= READS_PENDING_MAX:
            call_safely(done, NotProposed("QUEUE_FULL", self._node_id))
        else:
            self._reads.append((max(self._host.applied_index, Index(1)), done))
            self._wake()

    def transfer_leadership(self, to: NodeId | None, done: Callable[[ProposalOutcome | None], None]) -> None:
        call_safely(done, NotProposed("NO_QUORUM", self._node_id))

    def change_membership(self, wanted: Membership, done: Callable[[ProposalOutcome], None]) -> None:
        reason = self._refusal or step_refusal(self._membership, wanted, [self._node_id])
        if not reason and any(filed.membership is not None for filed in self._filed):
            reason = "CHANGE_IN_PROGRESS"
        if reason:
            call_safely(done, NotProposed(reason, self._node_id))
            return
        self._file(encode_membership(wanted), None, done, wanted)

    def next_stamp_ns(self, span: int) -> int:
        if self._refusal:
            raise NotLeaderError("only the leader stamps")
        stamp = max(self._clock.wall_ns(), self._stamp_floor_ns)
        self._stamp_floor_ns = stamp + span
        return stamp

    # --- the tick ----------------------------------------------------------------------

    def tick(self) -> None:
        if self._refusal:
            return
        try:
            self._sync()
            self._apply()
        except FatalError as error:
            self._fail(error)

    def _sync(self) -> None:
        job = None if self._wal is None else self._wal.take_job()
        if job is not None and self._syncs is not None:
            self._syncs.submit(job.run, lambda error: self._synced(job, error))

    def _synced(self, job: SyncJob, error: BaseException | None) -> None:
        if self._refusal or self._wal is None:
            return
        if error is not None:
            self._fail(error if isinstance(error, FatalError) else DiskFailedError(f"a sync failed: {error!r}"))
            return
        self._wal.finish(job)
        self._wake()

    def _apply(self) -> None:
        durable = self._last if self._wal is None else self._wal.durable_index
        self._paused = False
        while self._filed and self._filed[0].entry.index <= durable and not self._refusal:
            if not self._host.ready():
                self._paused = True
                break
            self._apply_one(self._filed.popleft())
        while self._reads and self._reads[0][0] <= self._host.applied_index:
            index, done = self._reads.popleft()
            call_safely(done, ReadReady(index, self._term))

    def _apply_one(self, filed: Filed) -> None:
        entry, result = filed.entry, None
        self._bytes -= len(entry.payload)
        if entry.payload[0] == EntryType.BATCH:
            try:
                result = self._host.apply(entry.index, entry.term, entry.payload, filed.context)
            except Exception as error:
                call_safely(filed.done, Unknown("STOPPED"))
                raise ApplyFailedError(f"apply of entry {entry.index} raised: {error!r}") from error
        else:
            self._host.advance(entry.index, entry.term)
        if filed.membership is not None:
            wanted = filed.membership
            self._membership = Membership(entry.index, wanted.configured_voters, wanted.members)
        if self._wal is not None:
            self._wal.save_commit_index(entry.index)
        call_safely(filed.done, Committed(entry.index, entry.term, result))

    def _fail(self, error: BaseException) -> None:
        self.stop()
        self._on_fatal(error)

    def next_deadline(self) -> float:
        return self._clock.monotonic() + (0.001 if self._paused else 1.0)

    def status(self) -> EngineStatus:
        applied = self._host.applied_index
        own = self._membership.find(self._node_id)
        leads = not self._refusal and own is not None and own.suffrage is Suffrage.VOTER
        return EngineStatus(
            node_id=self._node_id,
            role=Role.LEADER if leads else Role.FOLLOWER,
            term=self._term,
            leader=self._node_id if leads else None,
            last_index=self._last,
            durable_index=self._last if self._wal is None else self._wal.durable_index,
            commit_index=applied,
            applied_index=applied,
            base_index=NO_INDEX if self._wal is None else self._wal.base_index,
            membership=self._membership,
            peers=(),
            refusing_writes=self._refusal,
            clock_skew_ms=0,
            fresh_boottime_ns=self._clock.boottime_ns(),
            stopped=self._refusal,
        )
