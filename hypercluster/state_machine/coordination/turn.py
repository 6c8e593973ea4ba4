"""One command about locks while it is carried out: the tables it has loaded, and everything it changes.

Owns: the order "judge first, change afterwards", the next token, the counts, and the events. What judges looks at
tables through the turn and refuses with nothing changed, or calls `begin`, `end`, `move` and at last `commit`, which
writes each changed record once.
Invariants: a grant takes the counter's next number, which is never reset (D-10); after `serve` nobody waits for a
target that could be his; a request has all of its records or none (records.py).
"""

from __future__ import annotations

from hypercluster.errors import check
from hypercluster.pb.v1 import coordination_pb2 as events_pb
from hypercluster.pb.v1.origin_pb2 import Origin
from hypercluster.state_machine.context import OpContext
from hypercluster.state_machine.coordination import queue, records
from hypercluster.state_machine.coordination.events import LockEvent
from hypercluster.state_machine.coordination.records import EXCLUSIVE, FREE, HELD, QUEUED, Request, Row, Table, Target
from hypercluster.state_machine.keys import number
from hypercluster.state_machine.meta import LOCK_TOKEN, counter_change, read_counter
from hypercluster.state_machine.store import Family

GRANTED = int(events_pb.LOCK_EVENT_KIND_GRANTED)
EXPIRING = int(events_pb.LOCK_EVENT_KIND_EXPIRING)
RENEWED = int(events_pb.LOCK_EVENT_KIND_RENEWED)
LOST = int(events_pb.LOCK_EVENT_KIND_LOST)
WAIT_ENDED = int(events_pb.LOCK_EVENT_KIND_WAIT_ENDED)
RELEASED = int(events_pb.LOCK_EVENT_KIND_RELEASED)
DEADLOCK = int(events_pb.LOCK_EVENT_KIND_DEADLOCK)
JOINED = int(events_pb.LOCK_EVENT_KIND_QUEUED)


class LockTurn:
    """See the module. `stamp_ns` is the command's: deadlines are judged by it."""

    __slots__ = ("_changed", "_context", "_counts", "_overlay", "_tables", "_token", "stamp_ns", "workspace_id")

    def __init__(self, ctx: OpContext, workspace_id: bytes) -> None:
        self.workspace_id = workspace_id
        self.stamp_ns = int(ctx.stamp_ns)
        self._context = ctx
        self._overlay = ctx.overlay
        self._tables: dict[Target, Table] = {}
        self._changed: dict[Target, None] = {}
        self._counts: dict[bytes, int] = {}  # of clients, as they are to be written
        self._token: int | None = None  # the newest given out, once one was

    # --- looking ----------------------------------------------------------------------------------

    @property
    def rows_loaded(self) -> int:
        return sum(map(len, self._tables.values()))

    def table_rows(self, target: Target) -> int:
        """How many rows loading the target's table would add."""
        if target in self._tables:
            return 0
        return records.table_rows(self._get(records.table_key(self.workspace_id, target)) or b"")

    def table(self, target: Target) -> Table:
        """To be changed through this turn only."""
        if target not in self._tables:
            self._tables[target] = self._read(target)
        return self._tables[target]

    def _read(self, target: Target) -> Table:
        record = self._get(records.table_key(self.workspace_id, target))
        return Table(0, [], []) if record is None else records.decode_table(record)

    def request(self, lock_id: int) -> Request | None:
        record = self._get(records.lock_key(self.workspace_id, lock_id))
        return None if record is None else records.decode_request(lock_id, record)

    def find(self, lock_id: int) -> tuple[Request, Row] | None:
        """A lock or queued request that has not ended."""
        request = self.request(lock_id)
        return None if request is None else (request, self.row_of(request))

    def row_of(self, request: Request) -> Row:
        row = queue.find(self.table(request.target), request.lock_id)
        check(row is not None, f"lock {request.lock_id} stands in the table of its target")
        assert row is not None
        return row

    def owned(self, handle_id: int, target: Target) -> tuple[Request, Row] | None:
        """What the command's own client has of the target under this handle."""
        key = records.owned_key(self.workspace_id, self._context.client_id, handle_id, target)
        lock_id = records.read_number_record(self._get(key))
        return self.find(lock_id) if lock_id else None

    def count(self, client_id: bytes) -> int:
        """Requests of a client."""
        if client_id not in self._counts:
            self._counts[client_id] = records.read_number_record(
                self._get(records.count_key(self.workspace_id, client_id))
            )
        return self._counts[client_id]

    def count_all(self) -> int:
        """Requests of the workspace, as they were before this turn."""
        return records.read_number_record(self._get(records.all_key(self.workspace_id)))

    def own_request(self, handle_id: int, target: Target) -> Request:
        """A request of the command's client; its id is the command's stamp."""
        ctx = self._context
        agent = Origin.FromString(ctx.origin).agent if ctx.origin else ""
        return Request(self.stamp_ns, target, ctx.client_id, handle_id, ctx.principal, ctx.worker, agent)

    def _get(self, key: bytes) -> bytes | None:
        return self._overlay.get(Family.COORDINATION, key)

    # --- changing ---------------------------------------------------------------------------------

    def tell(self, kind: int, request: Request, row: Row, permits: int, *, ended: bool = False) -> None:
        lock = records.lock_row(self.workspace_id, request, row, permits, state=FREE if ended else None)
        self._context.effects.events.append((self.workspace_id, LockEvent(kind, lock)))

    def tell_deadlock(self, request: Request, kind: int, cycle: tuple[int, ...]) -> None:
        lock = records.lock_row(self.workspace_id, request, Row(request.lock_id, 0, 0, kind, FREE, True), 0)
        self._context.effects.events.append((self.workspace_id, LockEvent(DEADLOCK, lock, cycle)))

    def begin(self, request: Request, row: Row) -> Row:
        """A new request: a holder, whose token is given here, or the last of the queue. Answers its row."""
        table = self.table(request.target)
        self._changed[request.target] = None
        self._put(records.lock_key(self.workspace_id, request.lock_id), records.encode_request(request))
        self._put(self._owned_key(request), number(request.lock_id))
        self._counts[request.client_id] = self.count(request.client_id) + 1
        if row.state == QUEUED:
            table.queue.append(row)
            if in_graph(row):
                self._put(self._wait_key(request), records.encode_wait(request, row.when_ns))
            self.tell(JOINED, request, row, table.permits)
            return row
        return self._grant(request, row)

    def _grant(self, request: Request, row: Row) -> Row:
        table = self.table(request.target)
        check(queue.admits(table, row.kind), f"lock {row.lock_id} is granted beside those it excludes")
        if self._token is None:
            self._token = read_counter(self._overlay, LOCK_TOKEN)
        self._token += 1
        held = row._replace(token=self._token, when_ns=self.stamp_ns, state=HELD)
        table.holders.append(held)
        self.tell(GRANTED, request, held, table.permits)
        return held

    def end(self, request: Request, row: Row, event: int) -> None:
        """The lock or the wait is over. `serve` follows, when all of the command's ends are made."""
        table = self.table(request.target)
        self._changed[request.target] = None
        (table.queue if row.state == QUEUED else table.holders).remove(row)
        self._delete(records.lock_key(self.workspace_id, request.lock_id))
        self._delete(self._owned_key(request))
        self._counts[request.client_id] = self.count(request.client_id) - 1
        self._leave_graph(request, row)
        self.tell(event, request, row, table.permits, ended=True)

    def move(self, request: Request, row: Row, state: int, event: int) -> None:
        """A holder goes from HELD to GRACE, or back; it stays a holder with its token."""
        table = self.table(request.target)
        self._changed[request.target] = None
        moved = row._replace(state=state)
        table.holders[table.holders.index(row)] = moved
        self.tell(event, request, moved, table.permits)

    def serve(self, target: Target) -> None:
        """Grants to the queue what has become free."""
        table = self.table(target)
        while (row := queue.next_served(table, self.stamp_ns)) is not None:
            self._changed[target] = None
            request = self.request(row.lock_id)
            check(request is not None, f"waiter {row.lock_id} has a record of its own")
            assert request is not None
            table.queue.remove(row)
            self._leave_graph(request, row)
            self._grant(request, row)

    def _leave_graph(self, request: Request, row: Row) -> None:
        if row.state == QUEUED and in_graph(row):
            record = self._get(self._wait_key(request))
            # A wait whose time was over may have been followed by another of the same owner.
            if record is not None and records.decode_wait(record).lock_id == request.lock_id:
                self._delete(self._wait_key(request))

    # --- ending -----------------------------------------------------------------------------------

    def commit(self) -> None:
        """Writes what changed: tables, counts, the token counter."""
        for target in self._changed:
            table, key = self._tables[target], records.table_key(self.workspace_id, target)
            if len(table):
                self._put(key, table.encode())
            else:
                self._delete(key)
        change = 0
        for client_id, count in self._counts.items():
            key = records.count_key(self.workspace_id, client_id)
            before = records.read_number_record(self._get(key))
            self._put_count(key, before, count)
            change += count - before
        total = self.count_all()
        self._put_count(records.all_key(self.workspace_id), total, total + change)
        if self._token is not None:
            change_of_token = counter_change(LOCK_TOKEN, self._token)
            self._overlay.put(Family.META, change_of_token.key, change_of_token.value or b"")

    def _put_count(self, key: bytes, before: int, count: int) -> None:
        check(count >= 0, "a count of locks is never below zero")
        if count == before:
            return
        if count:
            self._put(key, number(count))
        else:
            self._delete(key)

    def _put(self, key: bytes, value: bytes) -> None:
        self._overlay.put(Family.COORDINATION, key, value)

    def _delete(self, key: bytes) -> None:
        self._overlay.delete(Family.COORDINATION, key)

    def _owned_key(self, request: Request) -> bytes:
        return records.owned_key(self.workspace_id, request.client_id, request.handle_id, request.target)

    def _wait_key(self, request: Request) -> bytes:
        return records.wait_key(self.workspace_id, request.client_id, request.handle_id)


def in_graph(row: Row) -> bool:
    """Whether it takes part in the wait-for graph (WS-47)."""
    return row.one_at_a_time and row.kind == EXCLUSIVE
