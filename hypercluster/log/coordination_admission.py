"""What the leader turns away of commands about locks, of guards and of abandons, by a look at their own bytes (D-3).

Owns: the checks of LockAcquire, LockRelease, LockReclaim, LockSteps, Guard and Abandon, and the way to those of
claim_admission.py.
Never: a look at replicated state: whether an inode exists, a token is good or a queue is full is for apply to say.
Invariants: the only errors are MalformedError and TooLargeError, and each names the field and the limit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from hypercluster.errors import MalformedError, TooLargeError
from hypercluster.limits import GUARDS_MAX, LOCK_NAME_BYTES_MAX, LOCK_PERMITS_MAX, LOCK_STEPS_MAX, LOCK_WAIT_MS_MAX
from hypercluster.log.claim_admission import check_reserve, check_unreserve, check_workspace_set
from hypercluster.log.field_checks import ID_BYTES, NUMBER_MAX, between, exactly, sized
from hypercluster.pb.v1 import coordination_command_pb2 as pb

_NAME_BYTES: Final = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._/:-")
_KINDS: Final = (pb.LOCK_KIND_SHARED, pb.LOCK_KIND_EXCLUSIVE, pb.LOCK_KIND_PERMIT)
_STEPS: Final = (
    (pb.LOCK_STATE_HELD, pb.LOCK_STATE_GRACE),
    (pb.LOCK_STATE_GRACE, pb.LOCK_STATE_HELD),
    (pb.LOCK_STATE_GRACE, pb.LOCK_STATE_FREE),
    (pb.LOCK_STATE_QUEUED, pb.LOCK_STATE_FREE),
)


def check_coordination(command: pb.CoordinationCommand, where: str) -> None:
    kind = command.WhichOneof("kind")
    where = f"{where}.{kind}"
    match kind:
        case "lock_acquire":
            _check_acquire(command.lock_acquire, where)
        case "lock_release":
            _lock_id(f"{where}.lock_id", command.lock_release.lock_id)
        case "lock_reclaim":
            _lock_id(f"{where}.lock_id", command.lock_reclaim.lock_id)
            between(f"{where}.token", command.lock_reclaim.token, 1, "NUMBER_MAX", NUMBER_MAX)
        case "reserve":
            check_reserve(command.reserve, where)
        case "unreserve":
            check_unreserve(command.unreserve, where)
        case "workspace_set":
            check_workspace_set(command.workspace_set, where)
        case _:
            raise MalformedError(f"{where} is no command")


def _check_acquire(op: pb.LockAcquire, where: str) -> None:
    _check_target(op.target, f"{where}.target")
    if op.kind not in _KINDS:
        raise MalformedError(f"{where}.kind is {op.kind}, must be SHARED, EXCLUSIVE or PERMIT")
    sized(f"{where}.wait_ms", op.wait_ms, "LOCK_WAIT_MS_MAX", LOCK_WAIT_MS_MAX, unit="ms")
    if op.wait_ms and not op.wait:
        raise MalformedError(f"{where}.wait_ms is {op.wait_ms}, must be 0 without wait")
    if op.kind != pb.LOCK_KIND_PERMIT:
        if op.permits:
            raise MalformedError(f"{where}.permits is {op.permits}, must be 0 unless kind is PERMIT")
        return
    if op.target.WhichOneof("what") != "name":
        raise MalformedError(f"{where}.target must be a name for kind PERMIT")
    between(f"{where}.permits", op.permits, 1, "LOCK_PERMITS_MAX", LOCK_PERMITS_MAX)


def _check_target(target: pb.LockTarget, where: str) -> None:
    match target.WhichOneof("what"):
        case "inode_id":
            exactly(f"{where}.inode_id", target.inode_id, ID_BYTES)
        case "name":
            name = target.name.encode()
            sized(f"{where}.name", len(name), "LOCK_NAME_BYTES_MAX", LOCK_NAME_BYTES_MAX)
            if not name or not _NAME_BYTES.issuperset(name):
                raise MalformedError(f"{where}.name must be 1 byte or more of [a-zA-Z0-9._/:-]")
        case _:
            raise MalformedError(f"{where} must be an inode_id or a name")


def check_guards(guards: Sequence[pb.Guard], where: str) -> None:
    sized(where, len(guards), "GUARDS_MAX", GUARDS_MAX, unit="guards")
    for number, guard in enumerate(guards):
        if guard.HasField("target"):
            _check_target(guard.target, f"{where}[{number}].target")
        between(f"{where}[{number}].token", guard.token, 1, "NUMBER_MAX", NUMBER_MAX)
        if guard.history_id:
            exactly(f"{where}[{number}].history_id", guard.history_id, ID_BYTES)


def check_lock_steps(command: pb.LockSteps, where: str) -> None:
    exactly(f"{where}.workspace_id", command.workspace_id, ID_BYTES)
    count = len(command.steps)
    if not 1 <= count <= LOCK_STEPS_MAX:
        error = TooLargeError if count else MalformedError
        raise error(f"{where}.steps holds {count}, limit LOCK_STEPS_MAX is 1 to {LOCK_STEPS_MAX}")
    for number, step in enumerate(command.steps):
        _lock_id(f"{where}.steps[{number}].lock_id", step.lock_id)
        if (step.from_state, step.to_state) not in _STEPS:
            raise MalformedError(
                f"{where}.steps[{number}] goes from {step.from_state} to {step.to_state}: no such step"
            )
        if step.from_state == pb.LOCK_STATE_QUEUED:
            if step.token:
                raise MalformedError(f"{where}.steps[{number}].token is {step.token}, must be 0 for a queued request")
        else:
            between(f"{where}.steps[{number}].token", step.token, 1, "NUMBER_MAX", NUMBER_MAX)
            if step.wait_until_ns:
                raise MalformedError(f"{where}.steps[{number}].wait_until_ns must be 0 for a lock that is held")


def check_abandon(abandon: pb.Abandon, sender: bytes, where: str) -> None:
    exactly(f"{where}.client_id", abandon.client_id, ID_BYTES)
    if abandon.client_id == sender:
        raise MalformedError(f"{where}.client_id is the sender's own: an abandon travels in another lane")
    between(f"{where}.through_seq", abandon.through_seq, 1, "NUMBER_MAX", NUMBER_MAX - 1)
    between(f"{where}.basis", abandon.basis, 0, "NUMBER_MAX", NUMBER_MAX)


def _lock_id(field: str, lock_id: int) -> None:
    between(field, lock_id, 1, "NUMBER_MAX", NUMBER_MAX)
