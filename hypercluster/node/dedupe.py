"""The fast path of a retry: the answer apply stored, without another entry (D-3, D-7).

Owns: nothing; it reads a lane as apply left it.
Never: judges. Only a run whose every command is stored, with the same bytes and for the same principal and scope, is
answered here: such an answer is final whoever leads. Everything else (a conflict, a forgotten result, a run that is
new in part) goes to apply.
"""

from __future__ import annotations

from hypercluster.state_machine.decoded import DecodedGroup
from hypercluster.state_machine.lanes import Lane
from hypercluster.state_machine.outcome import GroupResult, RunResult
from hypercluster.state_machine.results import StoredRun


def stored_answer(lane: Lane | None, group: DecodedGroup) -> GroupResult | None:
    """None: let apply judge."""
    run = group.run
    if lane is None or lane.principal != group.principal or lane.scope != group.scope:
        return None
    parts: list[RunResult] = []
    position = 0
    while position < len(run.raws):
        seq = run.first_seq + position
        stored = lane.find(seq)
        if stored is None:
            return None
        result = stored.result
        place = seq - result.first_seq
        count = min(result.count - place, len(run.raws) - position)
        if not _same_bytes(stored, place, run.raws[position : position + count]):
            return None
        parts.append(_slice(result, seq, place, count))
        position += count
    return GroupResult(run.client_id, tuple(parts))


def _same_bytes(stored: StoredRun, place: int, raws: tuple[bytes, ...]) -> bool:
    return all(stored.matches(place + offset, raw) for offset, raw in enumerate(raws))


def _slice(result: RunResult, first_seq: int, place: int, count: int) -> RunResult:
    end = place + count
    return RunResult(
        first_seq,
        count,
        result.index,
        result.reasons[place:end],
        result.versions[place:end],
        result.files[place:end],
    )
