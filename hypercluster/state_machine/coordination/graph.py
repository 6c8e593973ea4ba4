"""The wait-for graph of owners that wait for one thing at a time (WS-47).

Owns: the walk along it. An owner, (client, handle), has at most one wait in the graph, for a target that is held
exclusively by one owner: so from each owner one edge leads on, and a cycle is found by following it.
Only exclusive locks whose requests said `one_at_a_time` are in it, on both sides: an owner that said nothing may let go
of what it holds while it waits. Semaphores and shared locks are in no graph.
Never: state of its own. It reads the "LW" records, and of a table the one row that matters.
Invariants: at most LOCK_GRAPH_STEPS_MAX steps, of three reads each; a longer walk finds nothing, and the wait has its
time-out. Waits that are over by the command's stamp are none. Locks of one workspace only.
"""

from __future__ import annotations

from hypercluster.limits import LOCK_GRAPH_STEPS_MAX
from hypercluster.state_machine.coordination import queue, records
from hypercluster.state_machine.coordination.records import Request, Row, Table
from hypercluster.state_machine.coordination.turn import LockTurn, in_graph
from hypercluster.state_machine.overlay import Overlay
from hypercluster.state_machine.store import Family


def wait_of(overlay: Overlay, turn: LockTurn, client_id: bytes, handle_id: int) -> records.Wait | None:
    """What an owner waits for, if its time is not over."""
    record = overlay.get(Family.COORDINATION, records.wait_key(turn.workspace_id, client_id, handle_id))
    wait = None if record is None else records.decode_wait(record)
    return None if wait is None or 0 < wait.until_ns <= turn.stamp_ns else wait


def find_cycle(overlay: Overlay, turn: LockTurn, request: Request, table: Table) -> tuple[int, ...]:
    """The tickets of the waits in the cycle that `request` would close by waiting for `table`'s holder; it is the
    first of them. Empty when there is none."""
    cycle = [request.lock_id]
    holder = queue.sole_holder(table)
    for _ in range(LOCK_GRAPH_STEPS_MAX):
        owner = _owner(turn, holder)
        if owner is None:
            return ()
        if (owner.client_id, owner.handle_id) == (request.client_id, request.handle_id):
            return tuple(cycle)
        wait = wait_of(overlay, turn, owner.client_id, owner.handle_id)
        if wait is None:
            return ()
        cycle.append(wait.lock_id)
        record = overlay.get(Family.COORDINATION, records.table_key(turn.workspace_id, wait.target))
        holder = None if record is None else records.read_sole_holder(record)
    return ()


def _owner(turn: LockTurn, holder: Row | None) -> Request | None:
    return turn.request(holder.lock_id) if holder is not None and in_graph(holder) else None
