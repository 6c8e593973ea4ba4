"""Locks, reservations, settings, hazards and what befalls them as messages.

Owns: the conversions. Never: reads.
"""

from __future__ import annotations

from hypercluster.pb.v1 import coordination_command_pb2 as command_pb
from hypercluster.pb.v1 import coordination_pb2 as pb
from hypercluster.state_machine.coordination.events import CoordinationEvent, HazardEvent, LockRow
from hypercluster.state_machine.coordination.reservations import Reservation
from hypercluster.state_machine.coordination.settings import WorkspaceSettings


def target(lock: LockRow) -> command_pb.LockTarget:
    if lock.inode_id:
        return command_pb.LockTarget(inode_id=lock.inode_id)
    return command_pb.LockTarget(name=lock.name)


def lock_record(lock: LockRow) -> pb.LockRecord:
    return pb.LockRecord(
        lock_id=lock.lock_id,
        target=target(lock),
        kind=lock.kind,  # type: ignore[arg-type]
        state=lock.state,  # type: ignore[arg-type]
        token=lock.token,
        client_id=lock.client_id,
        handle_id=lock.handle_id,
        principal=lock.principal,
        worker=lock.worker,
        agent=lock.agent,
        asked_ns=lock.asked_ns,
        granted_ns=lock.granted_ns,
        wait_until_ns=lock.wait_until_ns,
        permits=lock.permits,
        position=lock.position,
    )


def hazard_record(hazard: HazardEvent) -> pb.HazardEvent:
    return pb.HazardEvent(
        hazard=command_pb.Hazard(
            kind=hazard.kind,  # type: ignore[arg-type]
            conflicting_log_index=hazard.conflicting_log_index,
        ),
        log_index=hazard.log_index,
        inode_id=hazard.inode_id,
        worker=hazard.worker,
        agent=hazard.agent,
        other_worker=hazard.other_worker,
        other_agent=hazard.other_agent,
        path=hazard.path,
    )


def reservation_record(found: Reservation) -> pb.ReservationRecord:
    return pb.ReservationRecord(
        reservation_id=found.reservation_id,
        pattern=found.pattern,
        exclusive=found.exclusive,
        expires_ns=found.expires_ns,
        worker=found.worker,
        agent=found.agent,
        client_id=found.client_id,
    )


def settings_record(found: WorkspaceSettings) -> command_pb.WorkspaceSet:
    """Every field is there, also where nobody has set it."""
    return command_pb.WorkspaceSet(
        local_patterns=found.local_patterns,
        enforce_reservations=found.enforce_reservations,
        quota_bytes=found.quota_bytes,
        quota_nodes=found.quota_nodes,
        snapshot_every_s=found.snapshot_every_s,
        snapshots_kept=found.snapshots_kept,
    )


def encode_event(index: int, event: CoordinationEvent) -> bytes:
    """A serialized CoordinationEvent, encoded once for all who watch."""
    if isinstance(event, HazardEvent):
        return pb.CoordinationEvent(raft_index=index, hazard=hazard_record(event)).SerializeToString()
    told = pb.LockEvent(kind=event.kind, lock=lock_record(event.lock), cycle=event.cycle)  # type: ignore[arg-type]
    return pb.CoordinationEvent(raft_index=index, lock=told).SerializeToString()
