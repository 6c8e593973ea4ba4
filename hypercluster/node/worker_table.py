"""The workers that have a session with this node: how far each is, and which of them can not go on (WS-5, WS-50).

Owns: one bounded row a session, kept as long as the session; what the status page says of them.
Never: decides about a worker, keeps a row beyond its session, or says anything of workers at other nodes.
Invariants: a row is what its worker said last; two sessions of one worker are two rows; words of a worker are cut to
WORKER_WORDS_MAX and never reach a metric's label.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from hypercluster.errors import QueueFullError
from hypercluster.limits import WORKER_PROBLEMS_SHOWN, WORKERS_MAX
from hypercluster.telemetry.metrics import Metrics
from hypercluster.values import Scope

WORKER_WORDS_MAX = 500


@dataclass(frozen=True, slots=True)
class Pressure:
    """How hard a worker's host has it, as the worker says."""

    cpu_permille: int = 0
    memory_permille: int = 0
    disk_free_bytes: int = 0
    disk_total_bytes: int = 0


@dataclass(frozen=True, slots=True)
class ApplyFailure:
    """last_apply_error of WS-5."""

    log_index: int
    errno: int
    words: str


@dataclass(slots=True)
class ConnectedWorker:
    """One session. `worker` is the certificate's name, `applied_index` a log_index."""

    scope: Scope
    workspace_id: bytes
    worker: str
    name: str  # what it calls itself
    mount_instance: bytes
    connected_at_ns: int
    heard_s: float  # of a monotonic clock
    applied_index: int = 0
    read_only: bool = False
    missing_chunks: int = 0
    failure: ApplyFailure | None = None
    pressure: Pressure = Pressure()


class WorkerTable:
    """All sessions of a node."""

    def __init__(self, metrics: Metrics, *, workers_max: int = WORKERS_MAX) -> None:
        self._rows: dict[int, ConnectedWorker] = {}
        self._metrics = metrics
        self._workers_max = workers_max

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, row: ConnectedWorker) -> None:
        """Raises QueueFullError."""
        if len(self._rows) >= self._workers_max:
            raise QueueFullError(f"{len(self._rows)} workers have a session here, limit WORKERS_MAX: use another node")
        self._rows[id(row)] = row
        self._metrics.workers.set(len(self._rows))

    def remove(self, row: ConnectedWorker) -> None:
        self._rows.pop(id(row), None)
        self._metrics.workers.set(len(self._rows))

    def of(self, workspace_id: bytes) -> Iterator[ConnectedWorker]:
        """In the order in which they came."""
        return (row for row in list(self._rows.values()) if row.workspace_id == workspace_id)

    def problems(self) -> list[str]:
        """Of workers that stopped at an operation, in words for an operator; a bounded number of them."""
        found: list[str] = []
        for row in self._rows.values():
            if len(found) == WORKER_PROBLEMS_SHOWN:
                break
            if row.failure is not None:
                words = f"log_index {row.failure.log_index}, errno {row.failure.errno}: {row.failure.words}"
                found.append(f"{row.name or row.worker} ({row.workspace_id.hex()[:8]}) stopped: {words}")
        return found
