"""One client lane (D-7, D-8): commands in, Submit messages out, every command settled exactly once.

Owns: seqs, floor, basis, the window, batching, and what is known of the outcome of each command.
Never: I/O, clocks, randomness of its own. Times (`now_ns`) are passed in, `next_deadline_ns()` comes back; the
same code runs under the simulation's virtual clock.
Invariants: a command whose outcome is not known is only ever sent again with the same key, bytes and basis; a run
is sent in seq order; no more than `window` commands wait for an answer; a command is called NOT_DONE only if every
copy of it was answered and none was judged, and then its key is never sent again.
The server answers every command of a message exactly once on the stream it came by, or the stream breaks.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from hypercluster.client.lane_types import (
    ANSWERS,
    Answer,
    Entry,
    Instruction,
    Intent,
    Journal,
    LaneSettings,
    NeedChunks,
    Redirect,
    Send,
    Settled,
    SlowDown,
    Verdict,
    reason_name,
)
from hypercluster.errors import check
from hypercluster.pb.v1 import command_pb2 as command_pb
from hypercluster.pb.v1 import origin_pb2 as origin_pb
from hypercluster.values import ClientId

COMMAND_OVERHEAD_BYTES = 8  # tag and length of one command inside a Submit, rounded up


class Lane:
    """See the module. `new_client_id` gives 16 bytes that no other lane ever had."""

    def __init__(
        self,
        new_client_id: Callable[[], ClientId],
        rng: random.Random,
        *,
        settings: LaneSettings | None = None,
        journal: Journal | None = None,
        resume: Intent | None = None,
    ) -> None:
        """With `resume` the first command is sent under that key. Another run may have done it: it is not NOT_DONE."""
        self._new_client_id = new_client_id
        self._rng = rng
        self._settings = settings or LaneSettings()
        self._journal = journal
        self.known_index = 0  # the highest Raft index heard of: the basis of what is sent first from now on
        self._ticket_last = 0
        self._message_last = 0
        self._connected = False
        self._pause_until_ns = 0
        self._backoff_ns = self._settings.backoff_min_ns
        self._led_ns = 0
        self._out: list[Instruction] = []
        self._entries: dict[int, Entry] = {}
        self._first_basis = -1
        self._start_over()
        if resume is not None:
            self.client_id = ClientId(resume.client_id)
            self._head = self._cursor = resume.seq
            self._tail = resume.seq - 1
            self._first_basis = resume.basis

    def _start_over(self) -> None:
        """A new client_id: the key of every earlier command is behind us for good."""
        self.client_id = self._new_client_id()
        self._head = 1  # lowest seq without a result; the floor is the one before
        self._tail = 0  # highest seq given out
        self._cursor = 1  # no entry below it can be sent
        self._established = False  # the cluster is known to have judged a command of this lane
        self._isolate_until = 0  # up to here one command a message, one message at a time
        self._done_ahead = 0
        self._in_flight = 0
        self._messages: dict[int, int] = {}  # unanswered commands by message
        self._entries.clear()

    # --- what the caller asks ---------------------------------------------------------------------

    @property
    def pending(self) -> int:
        return len(self._entries)

    @property
    def has_room(self) -> bool:
        return len(self._entries) < self._settings.window

    def next_deadline_ns(self) -> int | None:
        """When `advance` has to be called at the latest, if nothing else happens."""
        head = self._entries.get(self._head)
        if head is None:
            return None
        at = head.invoked_ns + self._settings.deadline_ns
        if self._is_leaderless(head):
            at = min(at, max(head.invoked_ns, self._led_ns) + self._settings.no_leader_ns)
        if self._connected and self._ready() > 0 and self._pause_until_ns:
            at = min(at, self._pause_until_ns)
        return at

    # --- events -----------------------------------------------------------------------------------

    def submit(
        self, now_ns: int, command: bytes, workspace_id: bytes = b"", origin: origin_pb.Origin | None = None
    ) -> int:
        """Takes a command; returns the ticket its `Settled` will carry. The caller has asked `has_room`."""
        check(self.has_room, "a lane takes no more than its window")
        self._ticket_last += 1
        entry = Entry(self._ticket_last, 0, command, workspace_id, origin, now_ns)
        self._enqueue(now_ns, entry)
        return entry.ticket

    def known(self, raft_index: int) -> None:
        """A Raft index that the cluster is known to have reached: the basis of commands not yet sent."""
        self.known_index = max(self.known_index, raft_index)

    def connected(self, now_ns: int) -> None:
        """A stream is open, and nothing has been sent on it."""
        self.disconnected(now_ns)
        self._connected = True
        self._pause_until_ns = 0

    def disconnected(self, now_ns: int) -> None:
        """The stream is gone: what was unanswered on it may or may not have been applied."""
        self._connected = False
        for entry in self._entries.values():
            if entry.message:
                entry.message = 0
                entry.tainted = True
        self._messages.clear()
        self._in_flight = 0
        self._cursor = self._head

    def chunks_sent(self, ticket: int) -> None:
        """The content that `NeedChunks` asked for is there."""
        for entry in self._of(ticket):
            entry.waits_for_chunks = False

    def give_up(self, ticket: int) -> None:
        """The caller does not want the command any more. It ends NOT_DONE, or UNKNOWN if a copy went unanswered."""
        for entry in self._of(ticket):
            entry.given_up = True

    def recall(self, ticket: int) -> None:
        """Gives the command up if no copy of it is on its way or went unanswered; otherwise it goes on."""
        for entry in self._of(ticket):
            entry.given_up |= not (entry.done or entry.message or entry.tainted)

    def _of(self, ticket: int) -> list[Entry]:
        return [entry for entry in self._entries.values() if entry.ticket == ticket]

    def acks(self, now_ns: int, acks: command_pb.Acks) -> None:
        """Answers from the open stream. Those of another client_id are of a lane that was left behind."""
        if acks.client_id != self.client_id:
            return
        self.known(acks.raft_index)
        reasons, versions, files = acks.reason, acks.version, acks.file
        for i in range(acks.count):
            entry = self._entries.get(acks.first_seq + i)
            if entry is None or entry.done:
                continue
            reason = reasons[i] if reasons else 0
            answer = ANSWERS.get(reason, Answer.AMBIGUOUS)
            self._answered(entry)
            if answer is not Answer.NO_LEADER:
                self._led_ns = now_ns
            if answer is Answer.OK or answer is Answer.REFUSED:
                verdict = Verdict.OK if answer is Answer.OK else Verdict.REFUSED
                version, file = versions[i] if versions else 0, files[i] if files else None
                settled = Settled(entry.ticket, verdict, reason, acks.message, acks.raft_index, version, file)
                self._settle(now_ns, entry, settled)
                self._established = True
                self._backoff_ns = self._settings.backoff_min_ns
            elif self._unsettled(now_ns, entry, reason, answer, acks):
                return  # the lane started over

    def advance(self, now_ns: int, budget: int = 1 << 30) -> list[Instruction]:
        """What to do now, in order. At most `budget` commands are sent (pacing)."""
        self._expire(now_ns)
        while budget > 0 and self._may_send(now_ns):
            run = self._next_run(min(budget, self._settings.batch_commands))
            if not run:
                break
            self._out.append(self._message(run))
            budget -= len(run)
        out, self._out = self._out, []
        return out

    # --- answers ----------------------------------------------------------------------------------

    def _answered(self, entry: Entry) -> None:
        if not entry.message:
            return
        left = self._messages[entry.message] - 1
        if left:
            self._messages[entry.message] = left
        else:
            del self._messages[entry.message]
        entry.message = 0
        self._in_flight -= 1

    def _unsettled(self, now_ns: int, entry: Entry, reason: int, answer: Answer, acks: command_pb.Acks) -> bool:
        """An answer that settles nothing by itself. True if the lane started over."""
        entry.refusal, entry.refusal_words = reason, acks.message
        self._cursor = min(self._cursor, entry.seq)
        match answer:
            case Answer.KEY_BROKEN:
                verdict = Verdict.UNKNOWN if reason == command_pb.REASON_UNKNOWN else Verdict.REFUSED
                self._break(now_ns, entry, verdict)
                return True
            case Answer.CHUNKS:
                entry.waits_for_chunks = True
                missing = tuple(acks.file[entry.seq - acks.first_seq].missing) if acks.file else ()
                self._out.append(NeedChunks(entry.ticket, missing))
            case Answer.PERMANENT if entry.run_length > 1:
                # One bad command turns its whole message away: send them one by one to find it.
                self._isolate_until = max(self._isolate_until, acks.first_seq + acks.count - 1)
            case Answer.PERMANENT:
                entry.given_up = True
            case Answer.AMBIGUOUS:
                entry.tainted = True
                self._back_off(now_ns, 0)
            case Answer.GAP:
                # The one that fills the gap was turned away and waits, or this is the head and must wait itself.
                if entry.seq == self._head:
                    self._back_off(now_ns, 0)
            case _:
                if answer is Answer.NO_LEADER:
                    self._out.append(Redirect(acks.leader_hint))
                elif reason == command_pb.REASON_RATE_LIMITED:
                    self._out.append(SlowDown(acks.retry_after_ms * 1_000_000))
                self._back_off(now_ns, acks.retry_after_ms * 1_000_000)
        return False

    def _back_off(self, now_ns: int, asked_ns: int) -> None:
        """Waits at least as long as asked, and longer each time, with jitter."""
        if self._pause_until_ns > now_ns:
            self._pause_until_ns = max(self._pause_until_ns, now_ns + asked_ns)
            return
        jittered = self._backoff_ns // 2 + self._rng.randrange(self._backoff_ns // 2 + 1)
        self._pause_until_ns = now_ns + max(asked_ns, jittered)
        self._backoff_ns = min(self._backoff_ns * 2, self._settings.backoff_max_ns)

    def _settle(self, now_ns: int, entry: Entry, settled: Settled) -> None:
        entry.done = True
        self._done_ahead += 1
        if entry.ticket:
            self._out.append(settled)
        if self._journal is not None and entry.ticket:
            kind = {Verdict.OK: "ok", Verdict.UNKNOWN: "info"}.get(settled.verdict, "fail")
            self._journal.record(kind, now_ns, self.client_id, entry.seq, entry.command, settled)
        while (head := self._entries.get(self._head)) is not None and head.done:
            del self._entries[self._head]
            self._done_ahead -= 1
            self._head += 1
        self._cursor = max(self._cursor, self._head)

    # --- giving up --------------------------------------------------------------------------------

    def _is_leaderless(self, entry: Entry) -> bool:
        if entry.tainted or entry.message:
            return False
        return entry.refusal == 0 or ANSWERS.get(entry.refusal) is Answer.NO_LEADER

    def _expire(self, now_ns: int) -> None:
        """Ends heads whose time is up. Later commands can not be judged before the head, so it alone is looked at."""
        while (head := self._entries.get(self._head)) is not None:
            asked = head.given_up and not head.message
            late = now_ns >= head.invoked_ns + self._settings.deadline_ns
            leaderless = self._is_leaderless(head) and (
                now_ns >= max(head.invoked_ns, self._led_ns) + self._settings.no_leader_ns
            )
            if not (asked or late or leaderless):
                return
            if head.tainted or head.message or self._done_ahead:
                self._break(now_ns, head, Verdict.UNKNOWN)
                return
            self._drop_head(now_ns, head)

    def _drop_head(self, now_ns: int, head: Entry) -> None:
        """Ends the head NOT_DONE: every copy of it was answered and none was judged, and its key is never sent again.
        Apply judges a lane in order, so no later command of this client_id can ever be judged either: they may have new
        keys."""
        reason = head.refusal or command_pb.REASON_NO_QUORUM
        words = head.refusal_words or "no leader answered"
        self._settle(now_ns, head, Settled(head.ticket, Verdict.NOT_DONE, reason, words))
        rest = list(self._entries.values())
        if self._journal is not None:
            for entry in rest:
                settled = Settled(entry.ticket, Verdict.NOT_DONE, reason, "sent again under another key")
                self._journal.record("fail", now_ns, self.client_id, entry.seq, entry.command, settled)
        self._start_over()
        for entry in rest:
            fresh = Entry(entry.ticket, 0, entry.command, entry.workspace_id, entry.origin, entry.invoked_ns)
            fresh.given_up = entry.given_up
            self._enqueue(now_ns, fresh)

    def _break(self, now_ns: int, broken: Entry, verdict: Verdict) -> None:
        """Ends every command of the lane: none may overtake one whose outcome is open (WS-4)."""
        for entry in list(self._entries.values()):
            if entry.done:
                continue
            intent = Intent(self.client_id, entry.seq, max(0, entry.basis))
            if entry is broken:
                reason, words = entry.refusal or command_pb.REASON_OUTCOME_UNKNOWN, entry.refusal_words
                self._settle(now_ns, entry, Settled(entry.ticket, verdict, reason, words, intent=intent))
            elif entry.tainted or entry.message:
                reason, words = command_pb.REASON_OUTCOME_UNKNOWN, "an earlier command has no known outcome"
                self._settle(now_ns, entry, Settled(entry.ticket, Verdict.UNKNOWN, reason, words, intent=intent))
            else:
                words = f"an earlier command of this lane ended with {reason_name(broken.refusal)}"
                settled = Settled(entry.ticket, Verdict.NOT_DONE, command_pb.REASON_OUTCOME_UNKNOWN, words)
                self._settle(now_ns, entry, settled)
        self._start_over()

    # --- sending ----------------------------------------------------------------------------------

    def _enqueue(self, now_ns: int, entry: Entry) -> None:
        self._tail += 1
        entry.seq = self._tail
        self._entries[entry.seq] = entry
        entry.tainted = self._first_basis >= 0  # a copy of another run may be applied yet
        entry.basis, self._first_basis = self._first_basis, -1
        if self._journal is not None and entry.ticket:
            self._journal.record("invoke", now_ns, self.client_id, entry.seq, entry.command, None)

    def _ready(self) -> int:
        return len(self._entries) - self._in_flight - self._done_ahead

    def _may_send(self, now_ns: int) -> bool:
        if not self._connected or now_ns < self._pause_until_ns or self._ready() <= 0:
            return False
        self._pause_until_ns = 0
        if not self._messages:
            return True
        if not self._established or self._cursor <= self._isolate_until:
            # An unknown lane starts at whatever seq reaches the cluster first: that must be this one's first message.
            return False
        if len(self._messages) < self._settings.messages_in_flight or self._ready() >= self._settings.gather_commands:
            return True
        # More than half a message: waiting gathers nothing to go with it.
        following = self._entries.get(max(self._cursor, self._head))
        return following is not None and 2 * len(following.command) > self._settings.batch_bytes

    def _next_run(self, count_max: int) -> list[Entry]:
        """The next commands that can share a message: consecutive, of one workspace, origin and basis."""
        seq = max(self._cursor, self._head)
        while seq <= self._tail and ((e := self._entries[seq]).message or e.done):
            seq += 1
        run: list[Entry] = []
        room = self._settings.batch_bytes
        if seq <= self._isolate_until:
            count_max = 1
        while seq <= self._tail and len(run) < count_max:
            entry = self._entries[seq]
            if entry.message or entry.done or entry.waits_for_chunks or entry.given_up:
                break
            first = run[0] if run else entry
            alike = entry.workspace_id == first.workspace_id and entry.origin == first.origin
            if not alike or entry.basis != first.basis:
                break
            room -= len(entry.command) + COMMAND_OVERHEAD_BYTES
            if room < 0 and run:
                break
            run.append(entry)
            seq += 1
        if run:
            self._cursor = seq
        return run

    def _message(self, run: list[Entry]) -> Send:
        first = run[0]
        basis = first.basis if first.basis >= 0 else self.known_index
        self._message_last += 1
        for entry in run:
            entry.basis = basis
            entry.message = self._message_last
            entry.run_length = len(run)
        self._messages[self._message_last] = len(run)
        self._in_flight += len(run)
        submit = command_pb.Submit(
            client_id=self.client_id,
            first_seq=first.seq,
            floor=self._head - 1,
            basis=basis,
            workspace_id=first.workspace_id,
            origin=first.origin,
            commands=[entry.command for entry in run],
        )
        return Send(submit.SerializeToString(), first.seq, len(run))
