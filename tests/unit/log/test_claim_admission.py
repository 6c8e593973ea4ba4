"""What is turned away of reservations, settings, open leases and reaps, and that it names field and limit."""

from __future__ import annotations

from typing import Any

import pytest

from hypercluster import limits
from hypercluster.errors import MalformedError, TooLargeError
from hypercluster.log.admission import admit
from hypercluster.pb.v1.command_pb2 import Command, MaintenanceCommand
from hypercluster.pb.v1.coordination_command_pb2 import (
    CoordinationCommand,
    OpenLease,
    OpenLeaseChanges,
    Reap,
    Reserve,
    Unreserve,
    WorkspaceSet,
)
from tests.fakes.commands import client, submit
from tests.unit.workspace import ops

WORKSPACE = b"w" * 16
INODE = b"i" * 16
MAX = 1 << 63


def coordination(**kind: Any) -> Command:
    return Command(coordination=CoordinationCommand(**kind))


def reserve(**fields: Any) -> Command:
    return coordination(reserve=Reserve(**{"pattern": b"src/**", "ttl_ms": 1_000, **fields}))


def settings(**fields: Any) -> Command:
    return coordination(workspace_set=WorkspaceSet(**fields))


def leases(workspace_id: bytes = WORKSPACE, **fields: Any) -> Command:
    changes = OpenLeaseChanges(workspace_id=workspace_id, **fields)
    return Command(maintenance=MaintenanceCommand(open_lease_changes=changes))


def reap(workspace_id: bytes = WORKSPACE, *inode_ids: bytes) -> Command:
    return Command(maintenance=MaintenanceCommand(reap=Reap(workspace_id=workspace_id, inode_ids=inode_ids)))


LEASE = OpenLease(inode_id=INODE, worker="h")

PASS = [
    reserve(),
    reserve(pattern=b"x" * limits.RESERVATION_PATTERN_BYTES_MAX, ttl_ms=limits.RESERVATION_TTL_MS[1], exclusive=True),
    reserve(pattern=b"", reservation_id=7),
    coordination(unreserve=Unreserve(reservation_id=7)),
    settings(local_patterns=bytes([7]) * limits.LOCAL_PATTERNS_BYTES_MAX),
    settings(local_patterns=b""),
    settings(snapshots_kept=0, snapshot_every_s=0, quota_bytes=0, quota_nodes=MAX - 1),
    ops.under(ops.write(INODE, 0, b"x"), *range(1, limits.RESERVATION_IDS_MAX + 1)),
    leases(opened=[LEASE] * limits.OPEN_LEASES_A_COMMAND_MAX),
    leases(ended=[OpenLease(inode_id=INODE, worker="h" * limits.PRINCIPAL_BYTES_MAX)]),
    reap(),
    reap(WORKSPACE, *[INODE] * limits.REAP_A_COMMAND_MAX),
]

MALFORMED = {
    r"reserve.ttl_ms is 999": reserve(ttl_ms=999),
    r"reserve.ttl_ms is 86400001, must be 1000 to RESERVATION_TTL_MS": reserve(ttl_ms=86_400_001),
    r"reserve.reservation_id": reserve(reservation_id=MAX),
    r"reserve.pattern is 0 bytes": reserve(pattern=b""),
    r"reserve.pattern .* path from the root": reserve(pattern=b"/src"),
    r"reserve.pattern holds NUL": reserve(pattern=b"a\0"),
    r"reserve.pattern .* PATTERN_WILDCARDS_MAX": reserve(pattern=b"*" * 17),
    r"unreserve.reservation_id is 0": coordination(unreserve=Unreserve()),
    r"workspace_set sets nothing": settings(),
    r"workspace_set.local_patterns holds NUL": settings(local_patterns=b"a\0"),
    r"workspace_set.quota_bytes": settings(quota_bytes=MAX),
    r"workspace_set.quota_nodes": settings(quota_nodes=MAX),
    r"workspace_set.snapshot_every_s is .* SNAPSHOT_EVERY_S_MAX": settings(snapshot_every_s=1 << 31),
    r"workspace_set.snapshots_kept is .* SNAPSHOTS_MAX": settings(snapshots_kept=limits.SNAPSHOTS_MAX + 1),
    r"file.reservation_ids\[1\] is 0": ops.under(ops.write(INODE, 0, b"x"), 5, 0),
    r"open_lease_changes.workspace_id": leases(b"short", opened=[LEASE]),
    r"open_lease_changes holds 0 leases": leases(),
    r"opened\[0\].inode_id": leases(opened=[OpenLease(inode_id=b"x", worker="h")]),
    r"ended\[0\].worker is empty": leases(ended=[OpenLease(inode_id=INODE)]),
    r"reap.workspace_id": reap(b"short"),
    r"reap.inode_ids\[1\]": reap(WORKSPACE, INODE, b"x"),
}

TOO_LARGE = {
    "RESERVATION_PATTERN_BYTES_MAX": reserve(pattern=b"x" * (limits.RESERVATION_PATTERN_BYTES_MAX + 1)),
    "LOCAL_PATTERNS_BYTES_MAX": settings(local_patterns=b"x" * (limits.LOCAL_PATTERNS_BYTES_MAX + 1)),
    "RESERVATION_IDS_MAX": ops.under(ops.write(INODE, 0, b"x"), *[1] * (limits.RESERVATION_IDS_MAX + 1)),
    "OPEN_LEASES_A_COMMAND_MAX": leases(opened=[LEASE] * 200, ended=[LEASE] * 201),
    "PRINCIPAL_BYTES_MAX": leases(opened=[OpenLease(inode_id=INODE, worker="h" * 256)]),
    "REAP_A_COMMAND_MAX": reap(WORKSPACE, *[INODE] * (limits.REAP_A_COMMAND_MAX + 1)),
}


def sent(command: Command) -> bytes:
    return submit(client(1), 1, [command.SerializeToString()], workspace=WORKSPACE)


@pytest.mark.parametrize("number", range(len(PASS)))
def test_what_is_allowed_passes(number: int) -> None:
    assert admit(sent(PASS[number]), maintenance=True).ops == (PASS[number],)


@pytest.mark.req("D-3", "SEC-3")
@pytest.mark.parametrize("says", MALFORMED)
def test_malformed_names_the_field(says: str) -> None:
    with pytest.raises(MalformedError, match=says):
        admit(sent(MALFORMED[says]), maintenance=True)


@pytest.mark.req("D-3", "SEC-3")
@pytest.mark.parametrize("limit", TOO_LARGE)
def test_too_large_names_the_limit(limit: str) -> None:
    with pytest.raises(TooLargeError, match=f"{limit} is"):
        admit(sent(TOO_LARGE[limit]), maintenance=True)


@pytest.mark.req("SEC-3")
@pytest.mark.parametrize("command", [leases(opened=[LEASE]), reap()])
def test_leases_and_reaps_are_not_for_clients(command: Command) -> None:
    with pytest.raises(MalformedError, match="maintenance is not for clients"):
        admit(sent(command))
