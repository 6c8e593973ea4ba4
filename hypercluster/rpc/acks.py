"""Verdicts as acknowledgement messages.

Owns: the conversion, and the joining of neighbouring runs of a lane into one set of columns.
Never: changes a verdict.
Invariants: every command of every verdict appears once; a column is either empty or as long as its run.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

from hypercluster.limits import LOCK_GRACE_MS, LOCK_TTL_MS
from hypercluster.node.words import Verdict
from hypercluster.pb.v1.command_pb2 import Acks, AcksBatch
from hypercluster.pb.v1.coordination_command_pb2 import Hazard, LockAck
from hypercluster.pb.v1.workspace_command_pb2 import FileAck
from hypercluster.state_machine.outcome import FileOutcome

T = TypeVar("T")

_NO_FILE = FileAck()


def encode(verdicts: Iterable[Verdict]) -> bytes:
    """A serialized AcksBatch."""
    return AcksBatch(acks=[_acks(verdict) for verdict in joined(verdicts)]).SerializeToString()


def joined(verdicts: Iterable[Verdict]) -> list[Verdict]:
    """Runs of one lane that follow on each other and were judged at one index become one."""
    out: list[Verdict] = []
    for verdict in verdicts:
        last = out[-1] if out else None
        if (
            last is not None
            and last.client_id == verdict.client_id
            and last.first_seq + last.ops == verdict.first_seq
            and last.raft_index == verdict.raft_index
            and last.term == verdict.term
            and last.message == verdict.message
            and last.leader_hint == verdict.leader_hint
            and last.retry_after_ms == verdict.retry_after_ms
        ):
            out[-1] = last._replace(
                ops=last.ops + verdict.ops,
                reasons=_column(last.reasons, last.ops, verdict.reasons, verdict.ops, 0),
                versions=_column(last.versions, last.ops, verdict.versions, verdict.ops, 0),
                files=_column(last.files, last.ops, verdict.files, verdict.ops, None),
            )
        else:
            out.append(verdict)
    return out


def _column(first: Sequence[T], first_ops: int, second: Sequence[T], second_ops: int, nothing: T) -> Sequence[T]:
    if not first and not second:
        return ()
    return [*(first or [nothing] * first_ops), *(second or [nothing] * second_ops)]


def _acks(verdict: Verdict) -> Acks:
    return Acks(
        client_id=verdict.client_id,
        first_seq=verdict.first_seq,
        count=verdict.ops,
        raft_index=verdict.raft_index,
        reason=verdict.reasons,
        version=verdict.versions,
        file=[_NO_FILE if f is None else file_ack(f) for f in verdict.files],
        message=verdict.message,
        leader_hint=verdict.leader_hint,
        retry_after_ms=verdict.retry_after_ms,
        term=verdict.term,
    )


def file_ack(outcome: FileOutcome) -> FileAck:
    lock, hazard = outcome.lock, outcome.hazard
    return FileAck(
        lock=None
        if lock is None
        else LockAck(
            state=lock.state,  # type: ignore[arg-type]
            lock_id=lock.lock_id,
            token=lock.token,
            ttl_ms=LOCK_TTL_MS,
            grace_ms=LOCK_GRACE_MS,
            cycle=lock.cycle,
        ),
        hazard=None if hazard is None else Hazard(kind=hazard.kind, conflicting_log_index=hazard.conflicting_log_index),  # type: ignore[arg-type]
        errno=outcome.errno,
        log_index=outcome.log_index,
        committed_at_ns=outcome.stamp_ns,
        root=outcome.root,
        inode_id=outcome.inode_id,
        inode_no=outcome.inode_no,
        applied_offset=outcome.applied_offset,
        present_index=outcome.present_index,
        missing=outcome.missing,
        existed=outcome.existed,
    )
