"""What coordination tells whoever watches, as values: how a lock moved, and which operations may have met.

Owns: `LockRow`, `LockEvent`, `HazardEvent`. Judging a command adds them to `Effects.events`, each with the workspace
it happened in; the shell fans them out after the entry's changes are written (`Applied.events`), and the leader's
lease timers follow from them: every grant, every wait that begins and every end of either is told, also to who knows
it from its own acknowledgement.
Never: read back. Events are a function of the state and the entry, and nothing of them is stored.
Invariants: in the order in which it happened; a row is the lock as the event leaves it (FREE, when it ended).
"""

from __future__ import annotations

from typing import NamedTuple


class LockRow(NamedTuple):
    """One lock or queued request: see LockRecord in the proto."""

    lock_id: int
    workspace_id: bytes
    inode_id: bytes  # of the target, or empty for a name
    name: str
    kind: int  # a number of LockKind
    state: int  # a number of LockState
    token: int  # 0 for a queued request
    client_id: bytes
    handle_id: int
    principal: str
    worker: str
    agent: str
    asked_ns: int
    granted_ns: int  # 0 for a queued request
    wait_until_ns: int  # 0: no deadline
    permits: int  # of the semaphore, 0 for a lock
    position: int = 0  # in the queue, from 1, where a query answers; 0 in events


class LockEvent(NamedTuple):
    kind: int  # a number of LockEventKind
    lock: LockRow
    cycle: tuple[int, ...] = ()  # of a DEADLOCK: tickets, from the one that was asked for


class HazardEvent(NamedTuple):
    """See HazardEvent in the proto."""

    kind: int  # a number of HazardKind
    conflicting_log_index: int
    log_index: int
    inode_id: bytes
    worker: str
    agent: str
    other_worker: str
    other_agent: str
    path: bytes = b""


CoordinationEvent = LockEvent | HazardEvent
