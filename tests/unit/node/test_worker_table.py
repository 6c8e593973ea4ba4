"""The workers that a node has a session with."""

from __future__ import annotations

import pytest

from hypercluster.errors import QueueFullError
from hypercluster.limits import WORKER_PROBLEMS_SHOWN
from hypercluster.node.worker_table import ApplyFailure, ConnectedWorker, WorkerTable
from hypercluster.telemetry.metrics import Metrics
from tests.unit.node.commands import SCOPE


def row(name: str, workspace_id: bytes = b"w" * 16) -> ConnectedWorker:
    return ConnectedWorker(SCOPE, workspace_id, "host", name, b"", 1, 1.0)


def test_rows_live_as_long_as_their_session_and_are_bounded() -> None:
    table = WorkerTable(Metrics(), workers_max=3)
    rows = [row("a"), row("a"), row("b", b"v" * 16)]
    for one in rows:
        table.add(one)
    assert [found.name for found in table.of(b"w" * 16)] == ["a", "a"], "two sessions of one worker are two rows"
    with pytest.raises(QueueFullError, match="WORKERS_MAX"):
        table.add(row("c"))
    table.remove(rows[0])
    table.remove(rows[0])
    assert len(table) == 2
    table.add(row("c"))


@pytest.mark.req("WS-5")
def test_a_worker_that_stopped_is_told_to_operators_in_words() -> None:
    table = WorkerTable(Metrics())
    for number in range(WORKER_PROBLEMS_SHOWN + 5):
        stopped = row(f"w{number}")
        stopped.failure = ApplyFailure(7, 28, "no room")
        table.add(stopped)
    table.add(row("well"))
    problems = table.problems()
    assert len(problems) == WORKER_PROBLEMS_SHOWN
    assert problems[0] == f"w0 ({(b'w' * 16).hex()[:8]}) stopped: log_index 7, errno 28: no room"
