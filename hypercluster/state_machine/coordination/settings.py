"""What a workspace is set to: one record in Family.COORDINATION, workspace `S` (WS-45, WS-53, WS-56).

Owns: its layout and its defaults. Quotas stand in the workspace's header, where they are judged (WS-29).
Never: a meaning: the worker applies `local_patterns`, the leader takes the snapshots, claims are judged in apply.
Invariants: a workspace nobody has set has no record and the defaults; the record begins with its version.
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct
from typing import Final

from hypercluster.errors import check
from hypercluster.limits import SNAPSHOT_EVERY_S, SNAPSHOTS_KEPT
from hypercluster.state_machine.store import Family, Reader

_SETTINGS: Final = b"S"
_RECORD: Final = Struct(">BBII")  # version, enforce, snapshot_every_s, snapshots_kept; then the patterns
_VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class WorkspaceSettings:
    """See WorkspaceSet in the proto; the quotas are those of the header."""

    local_patterns: bytes = b""
    enforce_reservations: bool = False
    snapshot_every_s: int = SNAPSHOT_EVERY_S
    snapshots_kept: int = SNAPSHOTS_KEPT
    quota_bytes: int = 0
    quota_nodes: int = 0

    def encode(self) -> bytes:
        head = _RECORD.pack(_VERSION, self.enforce_reservations, self.snapshot_every_s, self.snapshots_kept)
        return head + self.local_patterns


def settings_key(workspace_id: bytes) -> bytes:
    return workspace_id + _SETTINGS


def stored_settings(reader: Reader, workspace_id: bytes) -> WorkspaceSettings:
    """Without the quotas."""
    record = reader.get(Family.COORDINATION, settings_key(workspace_id))
    if record is None:
        return WorkspaceSettings()
    version, enforce, every_s, kept = _RECORD.unpack_from(record)
    check(version == _VERSION, "the settings of a workspace have an unknown version")
    return WorkspaceSettings(record[_RECORD.size :], bool(enforce), every_s, kept)
