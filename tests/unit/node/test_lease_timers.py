"""The leader's timers over leases, by themselves: what they keep is bounded by what there is (WS-40, WS-41)."""

from __future__ import annotations

import pytest

from hypercluster.node import lease_timers
from hypercluster.node.lease_timers import FREE, HELD, QUEUED, LeaseTimers
from hypercluster.pb.v1 import coordination_command_pb2 as pb
from hypercluster.state_machine.coordination.events import LockRow

DAY_NS = 86_400 * 1_000_000_000


def row(lock_id: int, state: int, wait_until_ns: int = 0) -> LockRow:
    kind = int(pb.LOCK_KIND_EXCLUSIVE)
    token = 0 if state == QUEUED else lock_id
    return LockRow(
        lock_id, b"w" * 16, b"", "name", kind, state, token, b"c" * 16, 0, "client:a", "a", "", 1, 1, wait_until_ns, 0
    )


@pytest.mark.req("WS-40")
def test_waits_with_a_far_deadline_that_are_over_at_once_leave_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease_timers, "ENDS_OVER_MAX", 10)
    timers = LeaseTimers()
    timers.begin(0.0)
    for lock_id in range(1, 4):
        timers.note(row(lock_id, QUEUED, wait_until_ns=lock_id * DAY_NS), 0.0)
    for lock_id in range(10, 1_000):
        timers.note(row(lock_id, QUEUED, wait_until_ns=DAY_NS), 0.0)
        timers.note(row(lock_id, HELD if lock_id % 2 else FREE), 0.0)
        timers.note(row(lock_id, FREE), 0.0)
        assert len(timers._ends) <= 10 + 2 * 4
    assert (len(timers), timers.counts[QUEUED]) == (3, 3)
    steps = timers.due(1.0, DAY_NS, 100)
    assert [(step.lock_id, step.wait_until_ns) for step in steps] == [(1, DAY_NS)], "the others are not over"
    assert timers.settle(steps, 1.0) == []
    assert [step.lock_id for step in timers.due(1.0, 3 * DAY_NS, 100)] == [1, 2, 3], "what was not judged is due again"
