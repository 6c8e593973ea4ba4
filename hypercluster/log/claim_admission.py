"""What the leader turns away of reservations, settings, open leases and reaps, by a look at their own bytes (D-3).

Owns: the checks of Reserve, Unreserve, WorkspaceSet, OpenLeaseChanges and Reap, and of the reservations a file command
names.
Never: a look at replicated state: whose a reservation is and whether an orphan is due is for apply to say.
Invariants: the only errors are MalformedError and TooLargeError, and each names the field and the limit.
"""

from __future__ import annotations

from collections.abc import Sequence

from hypercluster.errors import MalformedError, TooLargeError
from hypercluster.limits import (
    LOCAL_PATTERNS_BYTES_MAX,
    OPEN_LEASES_A_COMMAND_MAX,
    PRINCIPAL_BYTES_MAX,
    REAP_A_COMMAND_MAX,
    RESERVATION_IDS_MAX,
    RESERVATION_PATTERN_BYTES_MAX,
    RESERVATION_TTL_MS,
    SNAPSHOT_EVERY_S_MAX,
    SNAPSHOTS_MAX,
)
from hypercluster.log.field_checks import ID_BYTES, NUMBER_MAX, between, exactly, sized
from hypercluster.pb.v1 import coordination_command_pb2 as pb
from hypercluster.state_machine.coordination.patterns import pattern_fault


def check_reserve(op: pb.Reserve, where: str) -> None:
    least_ms, most_ms = RESERVATION_TTL_MS
    between(f"{where}.ttl_ms", op.ttl_ms, least_ms, "RESERVATION_TTL_MS", most_ms)
    between(f"{where}.reservation_id", op.reservation_id, 0, "NUMBER_MAX", NUMBER_MAX)
    if op.reservation_id and not op.pattern:
        return  # a renewal as it stands
    size = len(op.pattern)
    sized(f"{where}.pattern", size, "RESERVATION_PATTERN_BYTES_MAX", RESERVATION_PATTERN_BYTES_MAX)
    fault = pattern_fault(op.pattern)
    if fault:
        raise MalformedError(f"{where}.pattern {fault}")


def check_unreserve(op: pb.Unreserve, where: str) -> None:
    between(f"{where}.reservation_id", op.reservation_id, 1, "NUMBER_MAX", NUMBER_MAX)


def check_workspace_set(op: pb.WorkspaceSet, where: str) -> None:
    sized(f"{where}.local_patterns", len(op.local_patterns), "LOCAL_PATTERNS_BYTES_MAX", LOCAL_PATTERNS_BYTES_MAX)
    if b"\0" in op.local_patterns:
        raise MalformedError(f"{where}.local_patterns holds NUL, which no path has")
    between(f"{where}.quota_bytes", op.quota_bytes, 0, "NUMBER_MAX", NUMBER_MAX)
    between(f"{where}.quota_nodes", op.quota_nodes, 0, "NUMBER_MAX", NUMBER_MAX)
    between(f"{where}.snapshot_every_s", op.snapshot_every_s, 0, "SNAPSHOT_EVERY_S_MAX", SNAPSHOT_EVERY_S_MAX)
    between(f"{where}.snapshots_kept", op.snapshots_kept, 0, "SNAPSHOTS_MAX", SNAPSHOTS_MAX)
    if not op.ListFields():
        raise MalformedError(f"{where} sets nothing")


def check_reservation_ids(named: Sequence[int], where: str) -> None:
    sized(where, len(named), "RESERVATION_IDS_MAX", RESERVATION_IDS_MAX, unit="reservations")
    for number, reservation_id in enumerate(named):
        between(f"{where}[{number}]", reservation_id, 1, "NUMBER_MAX", NUMBER_MAX)


def check_open_leases(command: pb.OpenLeaseChanges, where: str) -> None:
    exactly(f"{where}.workspace_id", command.workspace_id, ID_BYTES)
    count = len(command.opened) + len(command.ended)
    if not 1 <= count <= OPEN_LEASES_A_COMMAND_MAX:
        error = TooLargeError if count else MalformedError
        raise error(
            f"{where} holds {count} leases, limit OPEN_LEASES_A_COMMAND_MAX is 1 to {OPEN_LEASES_A_COMMAND_MAX}"
        )
    for field, leases in (("opened", command.opened), ("ended", command.ended)):
        for number, lease in enumerate(leases):
            exactly(f"{where}.{field}[{number}].inode_id", lease.inode_id, ID_BYTES)
            size = len(lease.worker.encode())
            sized(f"{where}.{field}[{number}].worker", size, "PRINCIPAL_BYTES_MAX", PRINCIPAL_BYTES_MAX)
            if not size:
                raise MalformedError(f"{where}.{field}[{number}].worker is empty")


def check_reap(command: pb.Reap, where: str) -> None:
    """Without inodes it only empties pages that wait to be reclaimed."""
    exactly(f"{where}.workspace_id", command.workspace_id, ID_BYTES)
    sized(f"{where}.inode_ids", len(command.inode_ids), "REAP_A_COMMAND_MAX", REAP_A_COMMAND_MAX, unit="inodes")
    for number, inode_id in enumerate(command.inode_ids):
        exactly(f"{where}.inode_ids[{number}]", inode_id, ID_BYTES)
