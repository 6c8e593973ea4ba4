"""A known-bad build: a retry of a judged command is judged again (CH-10).

`dedupe_off()` patches this process until it is left; `install()` patches it for good, for the entry point of a test
build. The product has no setting that does this.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from hypercluster.state_machine.decoded import DecodedGroup
from hypercluster.state_machine.group import GroupJudge
from hypercluster.state_machine.outcome import GroupResult

_judge = GroupJudge.judge


def _judge_again(self: GroupJudge, group: DecodedGroup, ordinal: int) -> GroupResult:
    """As the product does, with the lane set back to just before whatever arrives."""
    lane = self._lanes.get(group.run.client_id)
    if lane is not None and group.run.first_seq <= lane.last_seq:
        lane.last_seq = group.run.first_seq - 1
        lane.floor = min(lane.floor, lane.last_seq)
        while lane.runs and lane.runs[-1][0] + lane.runs[-1][1] > group.run.first_seq:
            lane.runs.pop()
    return _judge(self, group, ordinal)


def install() -> None:
    GroupJudge.judge = _judge_again  # type: ignore[method-assign]


@contextmanager
def dedupe_off() -> Iterator[None]:
    install()
    try:
        yield
    finally:
        GroupJudge.judge = _judge  # type: ignore[method-assign]
