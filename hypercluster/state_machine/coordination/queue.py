"""Who may hold a target, and who is next: arithmetic over one `Table`.

Owns: which kinds stand beside each other, and the order in which a queue is served (WS-40): first come, first served.
A shared request does not overtake an exclusive one that waits; nobody is passed over but a waiter whose deadline has
passed by the command's stamp, which only waits for the logged step that ends it.
Never: state, tokens, events.
Invariants: the holders of a lock are one exclusive or any number of shared ones, those of a semaphore at most its
permits; after `next_served` found nothing, nobody waits for a target that could be his.
"""

from __future__ import annotations

from hypercluster.state_machine.coordination.records import EXCLUSIVE, GRACE, PERMIT, QUEUED, SHARED, Row, Table


def admits(table: Table, kind: int) -> bool:
    """Whether one more of this kind may hold beside the present holders."""
    if kind == PERMIT:
        return len(table.holders) < table.permits
    return not table.holders or (kind == SHARED and table.holders[0].kind == SHARED)


def waits(row: Row, stamp_ns: int) -> bool:
    """Whether it is a queued request whose time is not over."""
    return row.state == QUEUED and not 0 < row.when_ns <= stamp_ns


def anyone_waits(table: Table, stamp_ns: int) -> bool:
    return any(waits(row, stamp_ns) for row in table.queue)


def next_served(table: Table, stamp_ns: int) -> Row | None:
    """The first of the queue, if it may hold now."""
    for row in table.queue:
        if waits(row, stamp_ns):
            return row if admits(table, row.kind) else None
    return None


def find(table: Table, lock_id: int) -> Row | None:
    return next((row for row in (*table.holders, *table.queue) if row.lock_id == lock_id), None)


def without(table: Table, row: Row | None) -> Table:
    """A copy in which this row does not stand."""
    return Table(
        table.permits,
        [known for known in table.holders if known is not row],
        [known for known in table.queue if known is not row],
    )


def in_grace(table: Table) -> bool:
    return any(row.state == GRACE for row in table.holders)


def sole_holder(table: Table) -> Row | None:
    """The holder of a target that is held exclusively."""
    return table.holders[0] if table.holders and table.holders[0].kind == EXCLUSIVE else None
