"""Log records on their way to be applied: from the watch in order, and from our own acknowledgements as they come.

Owns: `Inbox`: what is known of the log above the applied prefix, and whose turn is next.
Never: applies; fetches.
Invariants: a record is given out once, in order, without gaps; what the watch brought twice, or brought after an
acknowledgement, must have the same root, otherwise the cluster has told two stories and DamagedError is raised.
Bounds: the watch stands while INBOX_RECORDS_MAX records or INBOX_BYTES_MAX wait; acknowledgements come one for each
mutation that waits here, and far ahead of the prefix they are not kept: the watch brings the record.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from hypercluster.client.live.ports import Process
from hypercluster.errors import DamagedError
from hypercluster.limits import MIB
from hypercluster.pb.v1.command_pb2 import Command
from hypercluster.pb.v1.workspace_command_pb2 import LogRecord

INBOX_RECORDS_MAX = 6_000
INBOX_BYTES_MAX = 32 * MIB
ROOTS_KEPT = 4_096  # of records applied from an acknowledgement, until the watch brings them


@dataclass(slots=True)
class Item:
    """A record that waits. `lacking`: chunks it needs that are not here yet; None: nobody has looked."""

    record: LogRecord
    own: Process | None
    lacking: set[bytes] | None = field(default=None)


def chunks_of(record: LogRecord) -> set[bytes]:
    """What its write refers to."""
    command = Command.FromString(record.command)
    return {piece.hash for piece in command.file.write.pieces} if command.file.HasField("write") else set()


class Inbox:
    """See the module."""

    def __init__(self, applied_index: int) -> None:
        self._next = applied_index + 1
        self._unseen = applied_index + 1
        self._items: dict[int, Item] = {}
        self._bytes = 0
        self._roots: deque[tuple[int, bytes]] = deque()  # of our own, in order of application

    def gap(self) -> int:
        """The record that those which are here wait for; 0 if there is no such."""
        return self._next if self._items and self._next not in self._items else 0

    @property
    def has_room(self) -> bool:
        """Whether the watch may bring more; always when the next record itself is still to come."""
        if self._next not in self._items:
            return True
        return len(self._items) < INBOX_RECORDS_MAX and self._bytes < INBOX_BYTES_MAX

    def put(self, record: LogRecord, own: Process | None) -> None:
        """Raises DamagedError if another record has been heard of under this index."""
        index = record.log_index
        if index < self._next:
            self._compare(record)
            return
        known = self._items.get(index)
        if known is not None:
            if known.record.root != record.root:
                raise DamagedError(f"record {index} has the root {record.root.hex()}, we were told another")
            return
        if own is not None and index >= self._next + INBOX_RECORDS_MAX:
            return
        self._items[index] = Item(record, own)
        self._bytes += len(record.command)

    def _compare(self, record: LogRecord) -> None:
        """What was applied from an acknowledgement is in the log, too."""
        while self._roots and self._roots[0][0] < record.log_index:
            self._roots.popleft()
        if self._roots and self._roots[0][0] == record.log_index:
            _, root = self._roots.popleft()
            if root != record.root:
                raise DamagedError(f"record {record.log_index} has the root {record.root.hex()}, we were told another")

    def next_unseen(self) -> Item | None:
        """The first, in order and without a gap, that this has not given out before: its chunks are to be seen to."""
        item = self._items.get(self._unseen)
        if item is not None:
            self._unseen += 1
        return item

    def ready(self, count_max: int) -> list[Item]:
        """Those that follow on the prefix without a gap and whose content is here."""
        found: list[Item] = []
        while (item := self._items.get(self._next + len(found))) is not None:
            if item.lacking is None or item.lacking or len(found) == count_max:
                break
            found.append(item)
        return found

    def take(self, count: int) -> None:
        """So many of the next ones were applied."""
        for _ in range(count):
            item = self._items.pop(self._next)
            self._bytes -= len(item.record.command)
            if item.own is not None:
                self._roots.append((self._next, item.record.root))
                if len(self._roots) > ROOTS_KEPT:
                    self._roots.popleft()
            self._next += 1

    def root_at(self, log_index: int) -> bytes | None:
        """Of a record that waits."""
        item = self._items.get(log_index)
        return None if item is None else item.record.root
