"""A lane that gives up for ever what ended without a known outcome, before it goes on (WS-4).

Owns: the Abandon of a client_id with open outcomes, sent as the first command of the next one; the commands that wait
for it.
Never: I/O or clocks, as lane.py. Never sends a command of its caller while an outcome is open: it could overtake one
that is applied later. So what is submitted meanwhile ends ok, refused, or NOT_DONE, and never UNKNOWN.
Invariants: an abandon has no deadline; it is sent again until it is judged, and is the same command each time. One that
can not be judged (the cluster does not know the lane any more, or turns it away for good) is let go: no copy of the old
commands can be judged then either, or nobody can ever say.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable

from hypercluster.client.lane import Lane
from hypercluster.client.lane_types import Entry, Intent, Journal, LaneSettings, Settled, Verdict
from hypercluster.errors import check
from hypercluster.pb.v1 import command_pb2 as command_pb
from hypercluster.pb.v1 import coordination_command_pb2 as coordination_pb
from hypercluster.pb.v1 import origin_pb2 as origin_pb
from hypercluster.values import ClientId

_OWN = 0  # the ticket of what the lane sends for itself


class AbandoningLane(Lane):
    """See the module."""

    def __init__(
        self,
        new_client_id: Callable[[], ClientId],
        rng: random.Random,
        *,
        settings: LaneSettings | None = None,
        journal: Journal | None = None,
        resume: Intent | None = None,
    ) -> None:
        self._open: dict[ClientId, tuple[int, int]] = {}  # (through_seq, basis) of client_ids with open outcomes
        self._asking: dict[int, ClientId] = {}  # by the seq of the Abandon
        self._held: deque[Entry] = deque()  # commands that wait until nothing is open
        super().__init__(new_client_id, rng, settings=settings, journal=journal, resume=resume)

    @property
    def is_abandoning(self) -> bool:
        """Whether commands wait for an abandon to be applied."""
        return bool(self._open)

    @property
    def pending(self) -> int:
        return super().pending + len(self._held)

    @property
    def has_room(self) -> bool:
        return super().pending + len(self._held) < self._settings.window

    def next_deadline_ns(self) -> int | None:
        if not self._open:
            return super().next_deadline_ns()
        times = [self._held_until_ns(entry) for entry in self._held]
        if self._connected and self._ready() > 0 and self._pause_until_ns:
            times.append(self._pause_until_ns)
        return min(times, default=None)

    def submit(
        self, now_ns: int, command: bytes, workspace_id: bytes = b"", origin: origin_pb.Origin | None = None
    ) -> int:
        if not self._open:
            return super().submit(now_ns, command, workspace_id, origin)
        check(self.has_room, "a lane takes no more than its window")
        self._ticket_last += 1
        self._held.append(Entry(self._ticket_last, 0, command, workspace_id, origin, now_ns))
        return self._ticket_last

    def _of(self, ticket: int) -> list[Entry]:
        if ticket == _OWN:  # nobody gives up what the lane itself has to do
            return []
        return super()._of(ticket) + [entry for entry in self._held if entry.ticket == ticket]

    # --- outcomes that stay open --------------------------------------------------------------------

    def _break(self, now_ns: int, broken: Entry, verdict: Verdict) -> None:
        if broken.ticket == _OWN:
            self._open.pop(self._asking[broken.seq], None)
            self._start_over()
        else:
            left = [entry for entry in self._entries.values() if not entry.done]
            unknown = verdict is Verdict.UNKNOWN or any(entry.tainted or entry.message for entry in left)
            client_id, through_seq = self.client_id, self._tail
            basis = min((entry.basis for entry in left if entry.basis >= 0), default=0)
            super()._break(now_ns, broken, verdict)
            if unknown:
                self._open[client_id] = through_seq, basis
        self._ask(now_ns)

    def _ask(self, now_ns: int) -> None:
        for client_id, (through_seq, basis) in self._open.items():
            abandon = coordination_pb.Abandon(client_id=client_id, through_seq=through_seq, basis=basis)
            command = command_pb.Command(abandon=abandon).SerializeToString()
            self._enqueue(now_ns, Entry(_OWN, 0, command, b"", None, now_ns))
            self._asking[self._tail] = client_id
        self._go_on(now_ns)

    def _start_over(self) -> None:
        self._asking.clear()
        super()._start_over()

    def _settle(self, now_ns: int, entry: Entry, settled: Settled) -> None:
        super()._settle(now_ns, entry, settled)
        if entry.ticket == _OWN:
            self._open.pop(self._asking.pop(entry.seq), None)
            self._go_on(now_ns)

    def _go_on(self, now_ns: int) -> None:
        while self._held and not self._open:
            self._enqueue(now_ns, self._held.popleft())

    # --- time ---------------------------------------------------------------------------------------

    def _held_until_ns(self, entry: Entry) -> int:
        settings = self._settings
        no_leader_ns = max(entry.invoked_ns, self._led_ns) + settings.no_leader_ns
        return min(entry.invoked_ns + settings.deadline_ns, no_leader_ns)

    def _expire(self, now_ns: int) -> None:
        if not self._open:
            super()._expire(now_ns)
            return
        head = self._entries.get(self._head)
        if head is not None and head.given_up and not head.message:
            # Turned away for what it is: nobody will ever judge it.
            self._settle(now_ns, head, Settled(_OWN, Verdict.NOT_DONE, head.refusal, head.refusal_words))
        for entry in list(self._held):
            if entry.given_up or now_ns >= self._held_until_ns(entry):
                self._held.remove(entry)
                words = "no leader has ended the earlier command whose outcome is not known"
                self._out.append(Settled(entry.ticket, Verdict.NOT_DONE, command_pb.REASON_NO_QUORUM, words))
