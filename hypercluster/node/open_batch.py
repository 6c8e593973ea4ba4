"""What waits for the next batch, and which of it goes into one (WS-30, WS-37).

Owns: two queues, of ordinary runs and of runs that put chunks; what a batch of either takes.
Never: proposes, answers, reads a clock; decides when chunk puts may go, and how many bytes (chunk_pace.py does).
Invariants: arrival order within a queue; a lane's runs are never reordered, also across the queues. Chunk puts go in
batches of their own, of at most half the bytes of a batch and at most the share that is passed in: an operation that
comes after them waits until their entry is on disk and applied. A run too large for its share goes alone; admission
turns away what is too large for half a batch of the usual size. Every call
of `take` and `take_puts` takes something if anything waits in its queue that does not wait behind the other.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

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


class Queue:
    """Runs in the order they arrived, and what they add up to."""

    __slots__ = ("_tickets", "flushes", "lanes", "ops", "size_bytes")

    def __init__(self) -> None:
        self._tickets: deque[Ticket] = deque()
        self.lanes: dict[bytes, int] = {}  # client -> its runs waiting here
        self.flushes = 0  # runs that hold an fsync
        self.ops = 0
        self.size_bytes = 0

    def __bool__(self) -> bool:
        return bool(self._tickets)

    @property
    def head(self) -> Ticket:
        return self._tickets[0]

    def add(self, ticket: Ticket) -> None:
        client_id = ticket.group.run.client_id
        self._tickets.append(ticket)
        self.lanes[client_id] = self.lanes.get(client_id, 0) + 1
        self.flushes += ticket.flush
        self.ops += ticket.ops
        self.size_bytes += ticket.size_bytes

    def pop(self) -> Ticket:
        ticket = self._tickets.popleft()
        client_id = ticket.group.run.client_id
        left = self.lanes[client_id] - 1
        if left:
            self.lanes[client_id] = left
        else:
            del self.lanes[client_id]
        self.flushes -= ticket.flush
        self.ops -= ticket.ops
        self.size_bytes -= ticket.size_bytes
        return ticket


class OpenBatch:
    """Everything admitted and not yet proposed."""

    __slots__ = ("_ordinary", "_puts")

    def __init__(self) -> None:
        self._ordinary = Queue()
        self._puts = Queue()

    @property
    def ops(self) -> int:
        """Commands of ordinary runs."""
        return self._ordinary.ops

    @property
    def puts_bytes(self) -> int:
        """Of chunk puts, and of what waits behind its own lane's."""
        return self._puts.size_bytes

    def add(self, ticket: Ticket) -> bool:
        """Answers whether it is an ordinary run: no chunk put, and none of its lane's ahead of it."""
        # A run behind its own lane's chunk puts stays behind them.
        ordinary = not (ticket.bulk or (self._puts and ticket.group.run.client_id in self._puts.lanes))
        (self._ordinary if ordinary else self._puts).add(ticket)
        return ordinary

    def oldest_s(self) -> float:
        """When the longest waiting ordinary run arrived. There must be one."""
        return self._ordinary.head.arrived_s

    def is_due(self, ops_max: int, bytes_max: int) -> bool:
        """There is a whole batch of ordinary runs, or one of them holds an fsync."""
        ordinary = self._ordinary
        return ordinary.ops >= ops_max or ordinary.size_bytes >= bytes_max or ordinary.flushes > 0

    def puts_wait(self) -> bool:
        """There are chunk puts that no earlier run of their lane holds up."""
        return bool(self._puts) and self._puts.head.group.run.client_id not in self._ordinary.lanes

    def take(self, ops_max: int, bytes_max: int) -> list[Ticket]:
        """The next batch of ordinary runs, in the order in which it goes into the entry."""
        queue, taken = self._ordinary, list[Ticket]()
        ops = size = 0
        while queue:
            head = queue.head
            if taken and (ops + head.ops > ops_max or size + head.size_bytes > bytes_max):
                break
            taken.append(queue.pop())
            ops += head.ops
            size += head.size_bytes
        return taken

    def take_puts(self, ops_max: int, bytes_max: int, share_bytes: int) -> list[Ticket]:
        """The next batch of chunk puts, with what waited behind those of its own lane."""
        queue, taken = self._puts, list[Ticket]()
        ops = size = puts_bytes = 0
        share_bytes = min(share_bytes, bytes_max // 2)
        while self.puts_wait():
            head = queue.head
            puts_bytes += (
                head.size_bytes if head.bulk else 0
            )  # what only waits behind puts takes nothing of their share
            if taken and (ops + head.ops > ops_max or size + head.size_bytes > bytes_max or puts_bytes > share_bytes):
                break
            taken.append(queue.pop())
            ops += head.ops
            size += head.size_bytes
        return taken
