"""Judging one group: the lane first, then each command that is new (D-7).

Owns: the order of the lane's questions: whose lane, which seqs were judged before, which come next, and what is
stored of the answers. A group's commands are answered in seq order, whatever they are.
Invariants: a command reaches its system's judge exactly once per (client_id, client_seq), and only as the lane's
next seq; after a "not yet" answer the rest of the run is SEQ_GAP; what is answered now equals what a retry would get.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from hypercluster.pb.v1.command_pb2 import Command
from hypercluster.state_machine.abandoning import judge_abandon
from hypercluster.state_machine.context import OpContext
from hypercluster.state_machine.coordination.judging import judge_coordination
from hypercluster.state_machine.decoded import DecodedGroup, HubOp, Run
from hypercluster.state_machine.hub import Hub
from hypercluster.state_machine.lanes import Lane, Lanes
from hypercluster.state_machine.maintenance import judge_maintenance
from hypercluster.state_machine.oplog import accepted_ranges
from hypercluster.state_machine.outcome import (
    FORBIDDEN,
    IDEMPOTENCY_CONFLICT,
    INTERNAL,
    NOT_YET,
    OK,
    SEQ_GAP,
    UNKNOWN,
    FileOutcome,
    GroupResult,
    RunResult,
)
from hypercluster.state_machine.results import encode_run, stored_form
from hypercluster.state_machine.workspace import judge as judge_file
from hypercluster.values import Index, Nanos, Seq

_Answer = tuple[Index, int, int, FileOutcome | None]  # index, reason, version, file
_HUB_ONLY = {HubOp}
_SEQ_MAX = (1 << 63) - 1


class GroupJudge:
    """Judges the groups of one entry, in order. `ranges` tells of the last one which hub commands it accepted."""

    __slots__ = ("_context", "_hub", "_lanes", "_quarantined", "_stamp_ns", "ranges")

    def __init__(
        self,
        context: OpContext,
        lanes: Lanes,
        hub: Hub,
        stamp_ns: int,
        quarantined: Callable[[int], bool] | None,
    ) -> None:
        self._context = context
        self._lanes = lanes
        self._hub = hub
        self._stamp_ns = stamp_ns  # of command 0 of the entry
        self._quarantined = quarantined
        self.ranges: Sequence[tuple[int, int, int]] = ()

    def judge(self, group: DecodedGroup, ordinal: int) -> GroupResult:
        """`ordinal` is the place of the group's first command in the entry."""
        run = group.run
        self.ranges = ()
        if len(run.client_id) != 16 or not 1 <= run.first_seq <= _SEQ_MAX:
            return self._all(run, UNKNOWN)  # admission turns this away; here it must only not raise (D-4)
        lane = self._lanes.get(run.client_id)
        if lane is None:
            # A basis at or above this entry was never known to anyone: it must not pass a floor by being large.
            if not self._lanes.dedupe_floor <= run.basis < self._context.index:
                return self._all(run, UNKNOWN)
            lane = self._lanes.start(run.client_id, group.principal, group.scope, run.first_seq)
        elif lane.principal != group.principal or lane.scope != group.scope:
            return self._all(run, FORBIDDEN)
        self._lanes.note(lane, self._stamp_ns + ordinal, run.floor)
        old_count = min(lane.last_seq + 1 - run.first_seq, len(run.ops))
        if old_count < 0:
            result = self._all(run, SEQ_GAP)
        elif old_count == 0:
            result = GroupResult(run.client_id, (self._judge_new(lane, group, ordinal, 0),))
        else:
            runs = self._answer_old(lane, run, old_count)
            if old_count < len(run.ops):
                runs.append(self._judge_new(lane, group, ordinal, old_count))
            result = GroupResult(run.client_id, tuple(runs))
        self._lanes.save(lane)
        return result

    def _all(self, run: Run, reason: int) -> GroupResult:
        count = len(run.ops)
        return GroupResult(
            run.client_id, (RunResult(run.first_seq, count, self._context.index, (reason,) * count, (0,) * count),)
        )

    def _judge_new(self, lane: Lane, group: DecodedGroup, ordinal: int, position: int) -> RunResult:
        """Judges the commands from `position` on; their first is the lane's next seq."""
        run, index = group.run, self._context.index
        ops = run.ops[position:] if position else run.ops
        count = len(ops)
        first_seq = run.first_seq + position
        hub_only = set(map(type, ops)) == _HUB_ONLY
        if self._quarantined is None and hub_only:
            reasons, versions = self._judge_hub(group, ops, ordinal + position)
            files: Sequence[FileOutcome | None] = ()
            judged = count
        else:
            reasons, versions, files, judged = self._judge_mixed(group, ops, first_seq, ordinal + position)
        result = _columns(first_seq, count, index, reasons, versions, files)
        if judged:
            stored = result
            if judged < count:
                stored = _columns(first_seq, judged, index, reasons[:judged], versions[:judged], files[:judged])
            raws = run.raws[position : position + judged]
            self._lanes.add_run(lane, first_seq, judged, index, encode_run(raws, stored))
        if hub_only and versions and not result.reasons:  # all accepted: the common case
            self.ranges = ((position, count, versions[0]),)
        elif result.versions:
            hub = [type(op) is HubOp for op in ops]
            self.ranges = accepted_ranges(reasons, versions, hub, position)
        return result

    def _judge_hub(
        self, group: DecodedGroup, ops: Sequence[HubOp | Command], ordinal: int
    ) -> tuple[list[int], list[int]]:
        context, index, judge = self._context, self._context.index, self._hub.judge
        state = self._hub.scope_state(group.scope)
        reasons: list[int] = []
        versions: list[int] = []
        for op in ops:
            context.ordinal = ordinal
            reason, version = judge(state, op, index, ordinal)  # type: ignore[arg-type]
            reasons.append(reason)
            versions.append(version)
            ordinal += 1
        return reasons, versions

    def _judge_mixed(
        self, group: DecodedGroup, ops: Sequence[HubOp | Command], first_seq: int, ordinal: int
    ) -> tuple[list[int], list[int], list[FileOutcome | None], int]:
        """Reasons, versions, files, and how many commands were judged before a "not yet"."""
        run, context = group.run, self._context
        context.principal, context.scope, context.worker = group.principal, group.scope, group.worker
        context.client_id, context.workspace_id, context.origin = run.client_id, run.workspace_id, run.origin
        first_raw = len(run.raws) - len(ops)
        reasons: list[int] = []
        versions: list[int] = []
        files: list[FileOutcome | None] = []
        judged = len(ops)
        for position, op in enumerate(ops):
            context.ordinal = ordinal + position
            context.stamp_ns = Nanos(self._stamp_ns + ordinal + position)
            context.seq = Seq(first_seq + position)
            context.command = run.raws[first_raw + position]
            reason, version, file = self._judge_one(group, op)
            if reason in NOT_YET:
                judged = position
                rest = len(ops) - position - 1
                reasons += [reason] + [SEQ_GAP] * rest
                versions += [0] * (rest + 1)
                files += [file] + [None] * rest
                break
            reasons.append(reason)
            versions.append(version)
            files.append(file)
        return reasons, versions, files, judged

    def _judge_one(self, group: DecodedGroup, op: HubOp | Command) -> tuple[int, int, FileOutcome | None]:
        context = self._context
        if self._quarantined is not None and self._quarantined(context.ordinal):
            return INTERNAL, 0, None
        if type(op) is HubOp:
            state = self._hub.scope_state(group.scope)
            return *self._hub.judge(state, op, context.index, context.ordinal), None
        assert isinstance(op, Command)
        if op.HasField("file"):  # asked first, because they are the most
            file = judge_file(context, op)
        elif op.HasField("maintenance"):
            return *judge_maintenance(context, self._lanes, op.maintenance), None
        elif op.HasField("abandon"):
            return *judge_abandon(context, self._lanes, op.abandon), None
        elif op.HasField("coordination"):
            file = judge_coordination(context, op.coordination)
        else:
            file = judge_file(context, op)
        return file.reason, 0, file if file.reason in NOT_YET else stored_form(file)

    def _answer_old(self, lane: Lane, run: Run, old_count: int) -> list[RunResult]:
        """The first `old_count` commands were judged before: answers from what is stored."""
        answers: list[_Answer] = []
        here = self._context.index
        stored = None
        for position in range(old_count):
            seq = run.first_seq + position
            if stored is None or seq >= stored.result.first_seq + stored.result.count:
                stored = lane.find(seq)
            if stored is None:
                answers.append((here, UNKNOWN, 0, None))
                continue
            result, place = stored.result, seq - stored.result.first_seq
            if not stored.matches(place, run.raws[position]):
                answers.append((here, IDEMPOTENCY_CONFLICT, 0, None))
                continue
            reason = result.reasons[place] if result.reasons else OK
            version = result.versions[place] if result.versions else 0
            answers.append((result.index, reason, version, result.files[place] if result.files else None))
        return _by_index(run.first_seq, answers)


def _columns(
    first_seq: int,
    count: int,
    index: Index,
    reasons: Sequence[int],
    versions: Sequence[int],
    files: Sequence[FileOutcome | None],
) -> RunResult:
    """A column that says nothing is empty."""
    return RunResult(
        first_seq,
        count,
        index,
        tuple(reasons) if any(reasons) else (),
        tuple(versions) if any(versions) else (),
        tuple(files) if files and any(file is not None for file in files) else (),
    )


def _by_index(first_seq: int, answers: Sequence[_Answer]) -> list[RunResult]:
    runs: list[RunResult] = []
    start = 0
    for position in range(1, len(answers) + 1):
        if position < len(answers) and answers[position][0] == answers[start][0]:
            continue
        part = answers[start:position]
        columns = [answer[1] for answer in part], [answer[2] for answer in part], [answer[3] for answer in part]
        runs.append(_columns(first_seq + start, len(part), part[0][0], *columns))
        start = position
    return runs
