"""Pure reads of locks, over any `Reader`.

Owns: what `lock why`, the pages of a workspace's locks and a new leader's lease timers ask.
Never: how fresh the reader is: the shell decides that (CL-10).
Invariants: the same reader gives the same answer; a page holds at most the `limit` its caller gives; each target's
record is read once a page.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from hypercluster.errors import REJOIN, DamagedError
from hypercluster.state_machine.coordination import records
from hypercluster.state_machine.coordination.events import LockRow
from hypercluster.state_machine.coordination.records import QUEUED, Request, Row, Table, Target
from hypercluster.state_machine.keys import number, prefix_end, read_number
from hypercluster.state_machine.meta import LOCK_TOKEN, read_counter
from hypercluster.state_machine.store import Family, Reader

__all__ = [
    "LockPage",
    "Target",
    "last_token",
    "leases",
    "list_locks",
    "lock_count",
    "locks_of_client",
    "locks_of_target",
    "read_lock",
    "waits",
]

_NOTHING = Table(0, [], [])
_START: Final = (b"", 0)


class LockPage(NamedTuple):
    """`more`: others follow; ask again after the last of these."""

    rows: tuple[LockRow, ...]
    more: bool


def read_lock(reader: Reader, workspace_id: bytes, lock_id: int) -> LockRow | None:
    """One lock or queued request, with its place in the queue; None once it ended."""
    record = reader.get(Family.COORDINATION, records.lock_key(workspace_id, lock_id))
    return None if record is None else _Page(reader, workspace_id).row(records.decode_request(lock_id, record))


def list_locks(reader: Reader, workspace_id: bytes, after: int, limit: int) -> LockPage:
    """Locks and queued requests of a workspace with ids above `after`, in the order in which they were asked for."""
    page = _Page(reader, workspace_id)
    rows: list[LockRow] = []
    for request in _requests(reader, workspace_id, after):
        if len(rows) == limit:
            return LockPage(tuple(rows), more=True)
        rows.append(page.row(request))
    return LockPage(tuple(rows), more=False)


def locks_of_target(reader: Reader, workspace_id: bytes, target: Target, after: int, limit: int) -> LockPage:
    """Holders of a target in the order of their grants, then its queue in the order in which it will be served; from
    the one behind `after` (a lock_id; 0, or one that is no longer there: from the first)."""
    table = _read_table(reader, workspace_id, target) or _NOTHING
    places = _places(table)
    start = next((place + 1 for place, (row, _) in enumerate(places) if row.lock_id == after), 0)
    rows = []
    for row, position in places[start : start + limit]:
        request = _request(reader, workspace_id, row.lock_id)
        rows.append(records.lock_row(workspace_id, request, row, table.permits, position=position))
    return LockPage(tuple(rows), more=start + limit < len(places))


def locks_of_client(reader: Reader, workspace_id: bytes, client_id: bytes) -> tuple[LockRow, ...]:
    """All that a client holds or waits for, LOCKS_OF_CLIENT_MAX at most, in the order in which it asked."""
    prefix = records.client_prefix(workspace_id, client_id)
    page = _Page(reader, workspace_id)
    found = [
        records.read_number_record(record) for _, record in reader.scan(Family.COORDINATION, prefix, prefix_end(prefix))
    ]
    return tuple(page.row(_request(reader, workspace_id, lock_id)) for lock_id in sorted(found))


def leases(reader: Reader, after: tuple[bytes, int], limit: int) -> LockPage:
    """Locks and queued requests of all workspaces, above (workspace_id, lock_id); (b"", 0) begins. A new leader reads
    them all: each gets a full TTL (D-6), and a wait its deadline."""
    rows: list[LockRow] = []
    workspace_id, last_id = after
    if workspace_id:
        page = list_locks(reader, workspace_id, last_id, limit)
        if page.more:
            return page
        rows += page.rows
    while (following := _next_workspace(reader, workspace_id)) is not None:
        workspace_id = following
        page = list_locks(reader, workspace_id, 0, limit - len(rows))
        rows += page.rows
        if page.more:
            return LockPage(tuple(rows), more=True)
    return LockPage(tuple(rows), more=False)


def waits(reader: Reader, after: tuple[bytes, int] = _START, limit: int = 1_000) -> LockPage:
    """Queued requests of all workspaces, as `leases`; their `wait_until_ns` is the deadline, 0 where there is none."""
    rows: list[LockRow] = []
    while True:
        page = leases(reader, after, limit)
        for row in page.rows:
            if row.state == QUEUED:
                if len(rows) == limit:
                    return LockPage(tuple(rows), more=True)
                rows.append(row)
        if not page.more:
            return LockPage(tuple(rows), more=False)
        after = (page.rows[-1].workspace_id, page.rows[-1].lock_id)


def lock_count(reader: Reader, workspace_id: bytes) -> int:
    """Locks and queued requests of a workspace."""
    return records.read_number_record(reader.get(Family.COORDINATION, records.all_key(workspace_id)))


def last_token(reader: Reader) -> int:
    """The token of the cluster's newest grant (D-10); 0 before the first."""
    return read_counter(reader, LOCK_TOKEN)


class _Page:
    """Rows of one workspace for one answer."""

    def __init__(self, reader: Reader, workspace_id: bytes) -> None:
        self._reader = reader
        self._workspace_id = workspace_id
        self._tables: dict[Target, tuple[int, dict[int, tuple[Row, int]]]] = {}

    def row(self, request: Request) -> LockRow:
        known = self._tables.get(request.target)
        if known is None:
            table = _read_table(self._reader, self._workspace_id, request.target) or _NOTHING
            known = table.permits, {row.lock_id: (row, position) for row, position in _places(table)}
            self._tables[request.target] = known
        permits, places = known
        if request.lock_id not in places:
            raise DamagedError(f"lock {request.lock_id} is not among those of its target. {REJOIN}")
        row, position = places[request.lock_id]
        return records.lock_row(self._workspace_id, request, row, permits, position=position)


def _places(table: Table) -> list[tuple[Row, int]]:
    """Rows and their position: 0 for holders, from 1 in the queue."""
    return [*((row, 0) for row in table.holders), *((row, place) for place, row in enumerate(table.queue, 1))]


def _requests(reader: Reader, workspace_id: bytes, after: int) -> Iterator[Request]:
    prefix = workspace_id + records.LOCK
    start = prefix + number(after) + b"\0"
    for key, record in reader.scan(Family.COORDINATION, start, prefix_end(prefix)):
        yield records.decode_request(read_number(key, len(prefix)), record)


def _next_workspace(reader: Reader, workspace_id: bytes) -> bytes | None:
    """The least id above `workspace_id` of a workspace that has records of coordination; b"" begins."""
    if workspace_id == b"\xff" * records.WORKSPACE_ID_BYTES:
        return None
    start = prefix_end(workspace_id) if workspace_id else b""
    found = next(iter(reader.scan(Family.COORDINATION, start, b"\xff" * (records.WORKSPACE_ID_BYTES + 1))), None)
    return None if found is None else found[0][: records.WORKSPACE_ID_BYTES]


def _read_table(reader: Reader, workspace_id: bytes, target: Target) -> Table | None:
    record = reader.get(Family.COORDINATION, records.table_key(workspace_id, target))
    return None if record is None else records.decode_table(record)


def _request(reader: Reader, workspace_id: bytes, lock_id: int) -> Request:
    record = reader.get(Family.COORDINATION, records.lock_key(workspace_id, lock_id))
    if record is None:
        raise DamagedError(f"lock {lock_id} has no record of its own. {REJOIN}")
    return records.decode_request(lock_id, record)
