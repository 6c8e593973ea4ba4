"""How far back a worker may go on by the log, and from where on it must begin with a snapshot (WS-52).

Owns: the replay window of a worker that comes, and the lag at which one that is connected is cut over.
Never: removes anything: chunks and operations stay at least as long as this says (state_machine/workspace/retention).
Invariants: the window is never wider than what the log holds, and the lag never narrower than the window, so that who
was let in by the log is not turned out at once.
"""

from __future__ import annotations

from hypercluster import limits
from hypercluster.state_machine.store import Reader
from hypercluster.state_machine.workspace import queries
from hypercluster.state_machine.workspace.oplog import first_since, first_stamp_ns, log_floor

_NS_A_MS = 1_000_000


def replay_floor(reader: Reader, workspace_id: bytes, now_ns: int) -> int:
    """The lowest log_index a worker may ask for. One above the head is always allowed: it has no gap."""
    header = queries.read_header(reader, workspace_id)
    head = header.log_index if header is not None else 0
    kept_from = log_floor(reader, workspace_id)
    if kept_from is None:
        return head + 1
    by_count = head - limits.REPLAY_WINDOW_OPS + 1
    since = first_since(reader, workspace_id, now_ns - limits.REPLAY_WINDOW_MS * _NS_A_MS, head)
    return max(kept_from, by_count, since)


def lags_too_far(head: int, first_index: int, batch: bytes, now_ns: int) -> str:
    """Why a worker that is to be sent this batch next is cut over to a snapshot; '' if it may go on."""
    if head - first_index >= limits.LAG_MAX_OPS:
        return f"it is {head - first_index + 1} operations behind, LAG_MAX_OPS is {limits.LAG_MAX_OPS}"
    age_ms = (now_ns - first_stamp_ns(batch)) // _NS_A_MS
    if age_ms >= limits.LAG_MAX_MS:
        return f"it is {age_ms} ms behind, LAG_MAX_MS is {limits.LAG_MAX_MS}"
    return ""
