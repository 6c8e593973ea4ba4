"""A known-bad build: a retry of a judged command is judged again (CH-10).

`dedupe_off()` patches this process until it is left; `install()` patches it for good, for the entry point of a test
build. The product has no setting that does this.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from hypercluster.state_machine.decoded import DecodedGroup
from hypercluster.state_machine.group import GroupJudge
from hypercluster.state_machine.lanes import _RUN_BYTES, _run_key
from hypercluster.state_machine.outcome import GroupResult
from hypercluster.state_machine.store import Change, Family

_judge = GroupJudge.judge


def _judge_again(self: GroupJudge, group: DecodedGroup, ordinal: int) -> GroupResult:
    """As the product does, with the lane set back to just before whatever arrives, and forward again afterwards.

    Nothing else is broken: memory and records of the lane agree, so that a node that restarts goes on like the others,
    and the lane does not fall behind its client, so that the run does not end in a gap instead of in a count.
    """
    lanes, run = self._lanes, group.run
    lane = lanes.get(run.client_id)
    if lane is None or not 1 <= run.first_seq <= lane.last_seq:
        return _judge(self, group, ordinal)
    last_seq, lane.last_seq = lane.last_seq, run.first_seq - 1
    lane.floor = min(lane.floor, lane.last_seq)
    while lane.runs and lane.runs[-1][0] + lane.runs[-1][1] > run.first_seq:
        first_seq, _, record = lane.runs.pop()
        lane.weight -= len(record) + _RUN_BYTES
        lanes._cached_bytes -= len(record) + _RUN_BYTES
        lanes._changes.append(Change(Family.LANES, _run_key(lane.client_id, first_seq), None))
    result = _judge(self, group, ordinal)
    lane.last_seq = max(lane.last_seq, last_seq)
    lanes.save(lane)
    return result


def install() -> None:
    GroupJudge.judge = _judge_again  # type: ignore[method-assign]


@contextmanager
def dedupe_off() -> Iterator[None]:
    install()
    try:
        yield
    finally:
        GroupJudge.judge = _judge  # type: ignore[method-assign]
