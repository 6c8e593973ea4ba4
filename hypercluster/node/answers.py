"""Verdicts: from what apply returned, or for what was turned away.

Owns: the numbers of the reason codes, and the address of a message that could not be parsed in full.
Never: judges, sends.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from google.protobuf.message import DecodeError

from hypercluster import limits
from hypercluster.node.words import Verdict
from hypercluster.pb.v1 import command_pb2
from hypercluster.state_machine.decoded import Run
from hypercluster.state_machine.outcome import GroupResult

# "SEQ_GAP" -> 40: the codes of errors.py and of the engine's outcomes, as numbers of the Reason enum.
REASONS: Mapping[str, int] = {n.removeprefix("REASON_"): int(v) for n, v in command_pb2.Reason.items()}

CLIENT_ID_BYTES = 16


class Address(NamedTuple):
    """Whose commands a verdict is about."""

    client_id: bytes
    first_seq: int
    ops: int


def address_of(run: Run) -> Address:
    return Address(run.client_id, run.first_seq, len(run.raws))


def unread(message: bytes) -> Address | None:
    """The address of a Submit that admission refused to parse; None when even that is not to be made out."""
    if len(message) > limits.CLIENT_MESSAGE_BYTES_MAX:
        return None
    try:
        submit = command_pb2.Submit.FromString(message)
    except DecodeError:
        return None
    ops = len(submit.commands)
    if len(submit.client_id) != CLIENT_ID_BYTES or not 1 <= ops <= limits.SUBMIT_COMMANDS_MAX or submit.first_seq < 1:
        return None
    return Address(submit.client_id, submit.first_seq, ops)


def refusal(
    whose: Address, reason: int, message: str, *, leader_hint: str = "", retry_after_ms: int = 0, term: int = 0
) -> Verdict:
    """One reason for a whole run."""
    return Verdict(
        whose.client_id,
        whose.first_seq,
        whose.ops,
        reasons=(reason,) * whose.ops,
        message=message,
        leader_hint=leader_hint,
        retry_after_ms=retry_after_ms,
        term=term,
    )


def verdicts_of(result: GroupResult, term: int) -> list[Verdict]:
    return [
        Verdict(result.client_id, run.first_seq, run.count, run.index, run.reasons, run.versions, run.files, term=term)
        for run in result.runs
    ]
