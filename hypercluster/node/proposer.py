"""Admission, batching and answers: the leader's side of the write path (docs/architecture.md, steps 2 to 4).

Owns: every command between its arrival and its answer; the bounds on them (CL-13, WS-34).
Never: judges what depends on replicated state (D-3). It turns away only what no earlier entry can change, and
repeats a verdict only when apply stored it for the same bytes.
Invariants: each message is answered exactly once, with a verdict for each of its commands; what is turned away was
not proposed; the commands of a lane go into the log in the order in which they passed the gate; at most
`batches_in_flight_max` batches are in flight, and beside them at most as many of chunk puts; what is pending is
bounded in commands and bytes. Runs on the node's one loop; nothing here blocks.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from hypercluster import limits
from hypercluster.errors import (
    HolderAliveError,
    MalformedError,
    NotLeaderError,
    QueueFullError,
    RateLimitedError,
    TooLargeError,
    TurnedAwayError,
    fatal_if_raised,
)
from hypercluster.log.entry import batch_of, encode_batch
from hypercluster.node.answers import REASONS, Address, address_of, refusal, unread, verdicts_of
from hypercluster.node.chunk_pace import BatchInFlight, ChunkPace
from hypercluster.node.lane_gate import LaneGate
from hypercluster.node.open_batch import OpenBatch, Ticket
from hypercluster.node.rate_limit import RateLimits, RateSettings
from hypercluster.node.run_kinds import group_bytes, kinds_of
from hypercluster.node.standing import Standing
from hypercluster.node.words import Caller, Cancellable, Sink, Turns, Verdict
from hypercluster.raft.engine import Clock, Committed, Engine, NotProposed, ProposalOutcome
from hypercluster.state_machine.decoded import DecodedEntry, DecodedGroup, Run
from hypercluster.state_machine.outcome import Applied, GroupResult
from hypercluster.telemetry.metrics import Metrics
from hypercluster.values import ClientId, Nanos

log = logging.getLogger(__name__)

ID_SEED_BYTES = 16
WINDOW_MAX_S = 0.05  # that a batch waits for another at most, however long that one takes


@dataclass(frozen=True, slots=True)
class ProposerSettings:
    window_ms: int = limits.BATCH_WINDOW_MS
    ops_max: int = limits.BATCH_OPS_MAX
    bytes_max: int = limits.BATCH_BYTES_MAX
    batches_in_flight_max: int = limits.BATCHES_IN_FLIGHT_MAX
    pending_ops_max: int = limits.PENDING_OPS_MAX
    pending_bytes_max: int = limits.PENDING_BYTES_MAX
    rate: RateSettings = field(default_factory=RateSettings)


@dataclass(frozen=True, slots=True)
class Admission:
    """The questions that admission asks of pure code and of the state."""

    parse: Callable[[bytes], Run]  # raises MalformedError or TooLargeError
    judged: Callable[[ClientId], int | None]  # the last seq of a lane that apply has judged
    stored: Callable[[DecodedGroup], GroupResult | None]  # the stored answer to a retry of the same bytes
    sign: Callable[[bytes], None] = lambda _: None  # a client is alive
    # Of a run that reclaims locks: the sink for its verdict. Raises HolderAliveError (WS-43).
    reclaim: Callable[[Run, Sink], Sink] = lambda _, sink: sink


class Proposer:
    """One a node; it proposes while this node leads, and turns everything away otherwise."""

    def __init__(
        self,
        engine: Engine,
        standing: Standing,
        admission: Admission,
        turns: Turns,
        clock: Clock,
        metrics: Metrics,
        settings: ProposerSettings,
        *,
        random_bytes: Callable[[int], bytes] = os.urandom,
        encode: Callable[[DecodedEntry], bytes] = encode_batch,
    ) -> None:
        self._engine = engine
        self._standing = standing
        self._admission = admission
        self._turns = turns
        self._clock = clock
        self._metrics = metrics
        self._settings = settings
        self._random_bytes = random_bytes
        self._encode = encode
        self._gate: LaneGate[Ticket] = LaneGate()
        self._rates = RateLimits(settings.rate)
        self._open = OpenBatch()
        self._pace = ChunkPace()
        self._in_flight = 0  # batches of ordinary runs; the pace knows of those of chunk puts
        self._close_soon = False
        self._pumping = False
        self._pump_again = False
        self._timer: Cancellable | None = None
        self._timer_s = 0.0
        self._stopping = False
        self._on_idle: list[Callable[[], None]] = []
        self.pending_ops = 0
        self.pending_bytes = 0
        self.admitted_ops = 0  # ever

    # -- admission --------------------------------------------------------------------------------

    def submit(self, message: bytes, caller: Caller, sink: Sink) -> None:
        """`message` is a serialized Submit, as received. Raises MalformedError or TooLargeError when it is not even
        clear whose commands they are; whatever else happens is told to `sink`."""
        try:
            run = self._admission.parse(message)
        except (MalformedError, TooLargeError) as error:
            addressed = unread(message)
            if addressed is None:
                raise
            self._turn_away(addressed, error, sink)
            return
        self.submit_run(run, message, caller, sink)

    def submit_run(self, run: Run, message: bytes, caller: Caller, sink: Sink, *, limited: bool = True) -> None:
        """`run` is what `message` parses to. The node's own commands are not `limited` by a rate."""
        try:
            ticket = self._admit(run, message, caller, sink, limited)
        except TurnedAwayError as error:
            self._turn_away(address_of(run), error, sink)
            return
        if ticket is not None:
            self._enter(ticket)

    def _admit(self, run: Run, message: bytes, caller: Caller, sink: Sink, limited: bool) -> Ticket | None:
        """None: answered already, from what apply stored. Raises TurnedAwayError."""
        group = DecodedGroup(message, caller.principal, caller.scope, caller.worker, run)
        self._standing.require_writes(stopping=self._stopping)
        judged = self._admission.judged(run.client_id)
        if judged is not None and run.first_seq <= judged:
            result = self._admission.stored(group)
            if result is not None:
                self._answer(sink, verdicts_of(result, self._standing.term()))
                return None
        now_s = self._clock.monotonic()
        size_bytes = group_bytes(group)
        self._require_room(len(run.ops), size_bytes)
        bulk, flush, reclaims = kinds_of(run)
        if limited:
            self._require_rate(caller.worker or caller.principal, len(run.ops), len(message), now_s)
        self._admission.sign(run.client_id)
        if reclaims:
            sink = self._admission.reclaim(run, sink)
        return Ticket(group, caller, sink, len(run.ops), size_bytes, bulk, flush, now_s)

    def _require_room(self, ops: int, size_bytes: int) -> None:
        ops_max, bytes_max = self._settings.pending_ops_max, self._settings.pending_bytes_max
        if self.pending_ops + ops > ops_max or self.pending_bytes + size_bytes > bytes_max:
            raise QueueFullError(
                f"{self.pending_ops} commands ({self.pending_bytes} bytes) wait for an answer, limit {ops_max} "
                f"({bytes_max} bytes): send again later"
            )

    def _require_rate(self, who: str, ops: int, size_bytes: int, now_s: float) -> None:
        rates, rate = self._rates, self._settings.rate
        begun = rates.quarantines
        pause_ms = rates.admit(who, ops, size_bytes, now_s)
        if not pause_ms:
            return
        self._metrics.rate_limit_rejections.inc()
        words = f"{who} may send {rate.ops_per_s} commands and {rate.bytes_per_s} bytes a second"
        if rates.quarantines != begun:
            self._metrics.quarantines.inc()
            log.warning(
                "a worker that ignores its pauses is quarantined", extra={"fields": {"worker": who, "ms": pause_ms}}
            )
        if rates.is_quarantined(who, now_s):
            words += f"; it went on before its pauses were over and is quarantined for {pause_ms} ms more"
        raise RateLimitedError(words, pause_ms)

    def _enter(self, ticket: Ticket) -> None:
        run = ticket.group.run
        judged = self._admission.judged(run.client_id)
        passed = self._gate.arrive(
            run.client_id, run.first_seq, ticket.ops, ticket.size_bytes, judged, ticket, ticket.arrived_s
        )
        if passed is None:
            self._answer(
                ticket.sink, [refusal(address_of(run), REASONS["SEQ_GAP"], "a command before these has not arrived")]
            )
            return
        self.pending_ops += ticket.ops
        self.pending_bytes += ticket.size_bytes
        self.admitted_ops += ticket.ops
        for free in passed:
            if self._open.add(free):
                self._pace.others_sent(ticket.arrived_s)
        self._pump()

    def _turn_away(self, whose: Address, error: TurnedAwayError, sink: Sink) -> None:
        hint = error.leader_hint if isinstance(error, NotLeaderError) else ""
        pause_ms = error.retry_after_ms if isinstance(error, RateLimitedError | HolderAliveError) else 0
        reason = REASONS.get(error.reason, REASONS["NO_QUORUM"])
        self._answer(sink, [refusal(whose, reason, str(error), leader_hint=hint, retry_after_ms=pause_ms)])

    # -- batching ---------------------------------------------------------------------------------

    def _pump(self) -> None:
        """Looks at the open batch until nothing changes. An engine that refuses answers within `propose`: its call of
        this function from `_settle` only asks for another round, or each batch would deepen the stack."""
        self._pump_again = True
        if self._pumping:
            return
        self._pumping = True
        try:
            while self._pump_again:
                self._pump_again = False
                self._look()
        finally:
            self._pumping = False

    def _look(self) -> None:
        """Closes an open batch if its time has come, or arranges to look again when it will have."""
        batch, settings = self._open, self._settings
        now_s = self._clock.monotonic()
        due_s: float | None = None
        if batch.ops and self._in_flight < settings.batches_in_flight_max:
            window_s = self._window_s() if self._in_flight else float("inf")
            if batch.is_due(settings.ops_max, settings.bytes_max) or batch.oldest_s() + window_s <= now_s:
                self._close(batch.take(settings.ops_max, settings.bytes_max))
                return
            if self._in_flight:
                due_s = batch.oldest_s() + window_s
            else:
                self._close_next_turn()
        if batch.puts_wait():
            share_bytes = self._pace.share_bytes(now_s)
            if not share_bytes:
                puts_due_s = self._pace.due_s(now_s)
                due_s = puts_due_s if due_s is None else min(due_s, puts_due_s or due_s)
            elif batch.puts_bytes >= share_bytes or not self._pace.in_flight:
                self._close_next_turn()
        self._watch_clock(due_s)

    def _window_s(self) -> float:
        """How long an open batch waits while another is in flight: the window that is set, or as long as batches take
        now where that is longer. So what arrives meanwhile shares one entry, whose cost is by the entry more than by
        the command, and a batch that is held up does not hold up the next (WS-30). Those of chunk puts do not count."""
        return max(self._settings.window_ms / 1000, min(self._pace.plain_s, WINDOW_MAX_S))

    def _close_next_turn(self) -> None:
        """One more turn: what other streams have read in this one comes along."""
        if not self._close_soon:
            self._close_soon = True
            self._turns.call_soon(self._on_soon)

    def _on_soon(self) -> None:
        with fatal_if_raised("closing a batch"):
            self._close_in_time()

    def _close_in_time(self) -> None:
        self._close_soon = False
        batch, settings = self._open, self._settings
        if batch.ops and not self._in_flight:
            self._close(batch.take(settings.ops_max, settings.bytes_max))
        if batch.puts_wait() and (share_bytes := self._pace.share_bytes(self._clock.monotonic())):
            self._close(batch.take_puts(settings.ops_max, settings.bytes_max, share_bytes))
        self._pump()

    def _close(self, tickets: list[Ticket]) -> None:
        ops = sum([t.ops for t in tickets])
        batch = self._pace.began(self._clock.monotonic(), sum([t.size_bytes for t in tickets if t.bulk]))
        self._in_flight += not batch.chunk_bytes
        try:
            stamp_ns = self._engine.next_stamp_ns(ops)
            entry = batch_of(Nanos(stamp_ns), self._random_bytes(ID_SEED_BYTES), [t.group for t in tickets])
            payload = self._encode(entry)
        except TurnedAwayError as error:
            self._settle(tickets, NotProposed(error.reason), batch)
            return
        self._metrics.batch_size.observe(ops)
        self._metrics.batch_bytes.observe(len(payload))
        self._metrics.forced_flush_count.inc(any(t.flush for t in tickets))
        self._engine.propose(payload, entry, partial(self._on_outcome, tickets, batch))
        self._pump()

    def _on_outcome(self, tickets: Sequence[Ticket], batch: BatchInFlight, outcome: ProposalOutcome) -> None:
        with fatal_if_raised("settling a batch"):
            self._settle(tickets, outcome, batch)

    def _watch_clock(self, batch_due_s: float | None) -> None:
        """One timer for the open batch and for what the gate holds."""
        held_until_s = self._gate.next_deadline()
        due = [d for d in (batch_due_s, held_until_s) if d is not None]
        if not due:
            return
        when_s = min(due)
        if self._timer is not None:
            if self._timer_s <= when_s:
                return
            self._timer.cancel()
        self._timer_s = when_s
        delay_s = max(0.0, when_s - self._clock.monotonic())
        self._timer = self._turns.call_at(self._turns.time() + delay_s, self._on_clock)

    def _on_clock(self) -> None:
        with fatal_if_raised("looking at what waits"):
            self._look_at_the_clock()

    def _look_at_the_clock(self) -> None:
        self._timer = None
        for late in self._gate.expired(self._clock.monotonic()):
            self._drop(late, REASONS["SEQ_GAP"], "a command before these did not arrive in time")
        self._pump()
        if self._timer is None:
            self._watch_clock(None)

    def _drop(self, ticket: Ticket, reason: int, message: str) -> None:
        """Answers a run that was held back; it never passed the gate."""
        self._forget_pending(ticket)
        self._answer(ticket.sink, [refusal(address_of(ticket.group.run), reason, message)])

    # -- answers ----------------------------------------------------------------------------------

    def _settle(self, tickets: Sequence[Ticket], outcome: ProposalOutcome, batch: BatchInFlight) -> None:
        self._in_flight -= not batch.chunk_bytes
        self._pace.ended(self._clock.monotonic(), batch, counts=isinstance(outcome, Committed))
        term = self._standing.term()
        if isinstance(outcome, Committed) and isinstance(outcome.result, Applied):
            for ticket, result in zip(tickets, outcome.result.groups, strict=True):
                self._finish(ticket, verdicts_of(result, outcome.term))
        else:
            reason, words, hint = self._explain(outcome)
            for ticket in tickets:
                self._finish(
                    ticket, [refusal(address_of(ticket.group.run), reason, words, leader_hint=hint, term=term)]
                )
        if tickets:
            waited_s = self._clock.monotonic() - tickets[0].arrived_s
            self._metrics.batch_latency_ms.observe(waited_s * 1000)
            self._standing.note_commit(self._clock.monotonic(), int(waited_s * 1e6))
        self._pump()
        if self.pending_ops == 0:
            self._tell_idle()

    def _explain(self, outcome: ProposalOutcome) -> tuple[int, str, str]:
        """(reason, words, leader hint) of a batch that was not applied here."""
        if isinstance(outcome, NotProposed):
            error = self._standing.turn_away(outcome)
            hint = error.leader_hint if isinstance(error, NotLeaderError) else ""
            return REASONS[error.reason], str(error), hint
        why = "the outcome is lost" if isinstance(outcome, Committed) else outcome.reason
        return REASONS["OUTCOME_UNKNOWN"], f"{why}: send again with the same key", self._standing.leader_address(None)

    def _finish(self, ticket: Ticket, verdicts: Sequence[Verdict]) -> None:
        self._gate.finished(ticket.group.run.client_id)
        self._forget_pending(ticket)
        self._answer(ticket.sink, verdicts)

    def _forget_pending(self, ticket: Ticket) -> None:
        self.pending_ops -= ticket.ops
        self.pending_bytes -= ticket.size_bytes

    def _answer(self, sink: Sink, verdicts: Sequence[Verdict]) -> None:
        try:
            sink(verdicts)
        except Exception:  # a stream that has gone must not keep the others from their answers
            log.exception("an answer could not be handed over")

    # -- stop -------------------------------------------------------------------------------------

    def stop(self, on_idle: Callable[[], None]) -> None:
        """Turns new work away; `on_idle` is called once everything admitted has been answered."""
        self._stopping = True
        self._on_idle.append(on_idle)
        for held in self._gate.abandon():
            self._drop(held, REASONS["SHUTTING_DOWN"], "this node is shutting down")
        if self.pending_ops == 0:
            self._tell_idle()

    def _tell_idle(self) -> None:
        waiting, self._on_idle = self._on_idle, []
        for tell in waiting:
            tell()

    def waiting(self, client_id: ClientId, seq: int) -> Caller | None:
        """Who sent the command that is held back or proposed here under this key; None: there is none (WS-4)."""
        ticket = self._gate.waiting(client_id, seq)
        return None if ticket is None else ticket.caller

    @property
    def held_bytes(self) -> int:
        return self._gate.held_bytes
