"""What waits for the next batch, and which of it goes into one (WS-30, WS-37).

Owns: two queues, of ordinary runs and of runs that put chunks, and the choice between them.
Never: proposes, answers, reads a clock.
Invariants: arrival order within a queue; a lane's runs are never reordered, also across the queues; chunk puts take
at most half of a batch while other runs wait, and never more than BATCH_CHUNK_BYTES_MAX: an operation that comes
after them waits until their entry is on disk and applied. That share they get. A run too large for it goes alone, at
most in every second batch while others wait; every call of `take` takes something if anything waits.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from hypercluster.limits import BATCH_CHUNK_BYTES_MAX
from hypercluster.node.words import Caller, Sink
from hypercluster.state_machine.decoded import DecodedGroup


@dataclass(slots=True)
class Ticket:
    """One message on its way to an answer."""

    group: DecodedGroup
    caller: Caller
    sink: Sink
    ops: int
    size_bytes: int
    bulk: bool  # it puts chunks
    flush: bool  # it holds an fsync: its batch is not held open (WS-26)
    arrived_s: float


class OpenBatch:
    """Everything admitted and not yet proposed."""

    __slots__ = (
        "_bulk",
        "_bulk_bytes",
        "_bulk_lanes",
        "_ordinary",
        "_ordinary_lanes",
        "_solo_last",
        "flush",
        "ops",
        "size_bytes",
    )

    def __init__(self) -> None:
        self._ordinary: deque[Ticket] = deque()
        self._bulk: deque[Ticket] = deque()
        self._ordinary_lanes: dict[bytes, int] = {}  # client -> its runs waiting in that queue
        self._bulk_lanes: dict[bytes, int] = {}
        self._bulk_bytes = 0
        self._solo_last = False
        self.ops = 0
        self.size_bytes = 0
        self.flush = False

    def add(self, ticket: Ticket) -> None:
        client_id = ticket.group.run.client_id
        self.ops += ticket.ops
        self.size_bytes += ticket.size_bytes
        self.flush = self.flush or ticket.flush
        # A run behind its own lane's chunk puts stays behind them.
        if ticket.bulk or (self._bulk_lanes and client_id in self._bulk_lanes):
            self._bulk.append(ticket)
            self._bulk_bytes += ticket.size_bytes
            self._bulk_lanes[client_id] = self._bulk_lanes.get(client_id, 0) + 1
        else:
            self._ordinary.append(ticket)
            self._ordinary_lanes[client_id] = self._ordinary_lanes.get(client_id, 0) + 1

    def oldest_s(self) -> float:
        """When the longest waiting run arrived. Something must be waiting."""
        return min(queue[0].arrived_s for queue in (self._ordinary, self._bulk) if queue)

    def is_full(self, ops_max: int, bytes_max: int) -> bool:
        """There is a whole batch of something."""
        return self.ops >= ops_max or self.size_bytes >= bytes_max or self._bulk_bytes >= _share(bytes_max)

    def take(self, ops_max: int, bytes_max: int) -> list[Ticket]:
        """The next batch, in the order in which it goes into the entry."""
        others_wait = bool(self._ordinary)
        if self._is_solo_due(others_wait, bytes_max):
            self._solo_last = True
            taken = [self._pop_bulk()]
            self._count(taken)
            return taken
        self._solo_last = False
        half_ops, share_bytes = (ops_max + 1) // 2, _share(bytes_max)
        reserved_bytes = min(self._bulk_bytes, share_bytes)
        reserved_ops = min(len(self._bulk), half_ops) if reserved_bytes else 0
        taken = []
        ops = size = 0
        while self._ordinary:
            head = self._ordinary[0]
            if taken and (
                ops + head.ops > ops_max - reserved_ops or size + head.size_bytes > bytes_max - reserved_bytes
            ):
                break
            taken.append(self._pop_ordinary())
            ops += head.ops
            size += head.size_bytes
        bulk_ops, bulk_bytes = half_ops if others_wait else ops_max, share_bytes
        while self._bulk:
            head = self._bulk[0]
            blocked = head.group.run.client_id in self._ordinary_lanes  # its own lane waits further ahead
            room = ops + head.ops <= ops_max and size + head.size_bytes <= bytes_max
            # What only waits behind its own lane's puts takes nothing of their share.
            within = not head.bulk or (head.ops <= bulk_ops and head.size_bytes <= bulk_bytes)
            if blocked or (taken and not (room and within)):
                break
            taken.append(self._pop_bulk())
            ops += head.ops
            size += head.size_bytes
            if head.bulk:
                bulk_ops -= head.ops
                bulk_bytes -= head.size_bytes
        self._count(taken)
        return taken

    def _is_solo_due(self, others_wait: bool, bytes_max: int) -> bool:
        if not (others_wait and self._bulk) or self._solo_last:
            return False
        head = self._bulk[0]
        return head.size_bytes > _share(bytes_max) and head.group.run.client_id not in self._ordinary_lanes

    def _count(self, taken: list[Ticket]) -> None:
        self.ops -= sum([t.ops for t in taken])
        self.size_bytes -= sum([t.size_bytes for t in taken])
        if self.flush:
            self.flush = any(t.flush for t in self._ordinary) or any(t.flush for t in self._bulk)

    def _pop_ordinary(self) -> Ticket:
        ticket = self._ordinary.popleft()
        _leave(self._ordinary_lanes, ticket.group.run.client_id)
        return ticket

    def _pop_bulk(self) -> Ticket:
        ticket = self._bulk.popleft()
        self._bulk_bytes -= ticket.size_bytes
        _leave(self._bulk_lanes, ticket.group.run.client_id)
        return ticket


def _share(bytes_max: int) -> int:
    """Of a batch, for chunk puts."""
    return min(bytes_max // 2, BATCH_CHUNK_BYTES_MAX)


def _leave(lanes: dict[bytes, int], client_id: bytes) -> None:
    left = lanes[client_id] - 1
    if left:
        lanes[client_id] = left
    else:
        del lanes[client_id]
