"""The hazards of a workspace's latest operations, read from its op log (WS-46).

Owns: the list for people; the verdicts stand in the records, made in apply (hazards.py).
Never: a state of its own, so a hazard is listed as long as its operation is in the log.
Bounds: HAZARD_LIST_OPS_MAX operations are looked at, from the newest back.
"""

from __future__ import annotations

from collections.abc import Iterator

from hypercluster.limits import HAZARD_LIST_OPS_MAX
from hypercluster.pb.v1.workspace_command_pb2 import LogBatch, LogRecord
from hypercluster.state_machine.coordination.events import HazardEvent
from hypercluster.state_machine.store import Reader
from hypercluster.state_machine.workspace.oplog import scan_log, scan_log_back
from hypercluster.state_machine.workspace.paths import best_path


def hazard_steps(reader: Reader, workspace_id: bytes) -> Iterator[HazardEvent | None]:
    """The newest first, in steps of one record of the log each, or of two: None for one that was looked through. For
    those who share their thread; the state may move on between two steps.

    The path is where the inode stands now; empty if it has no name any more. Of an earlier operation that is no longer
    in the log nothing is known but its index."""
    left = HAZARD_LIST_OPS_MAX
    for part in scan_log_back(reader, workspace_id):
        for record in reversed(LogBatch.FromString(part.batch).records[-left:]):
            left -= 1
            if record.HasField("hazard"):
                yield _event(reader, workspace_id, record)
        if not left:
            return
        yield None


def _event(reader: Reader, workspace_id: bytes, record: LogRecord) -> HazardEvent:
    hazard = record.hazard
    earlier = _read_record(reader, workspace_id, hazard.conflicting_log_index)
    return HazardEvent(
        int(hazard.kind),
        hazard.conflicting_log_index,
        record.log_index,
        record.inode_id,
        record.worker,
        record.origin.agent,
        "" if earlier is None else earlier.worker,
        "" if earlier is None else earlier.origin.agent,
        best_path(reader, workspace_id, record.inode_id),
    )


def _read_record(reader: Reader, workspace_id: bytes, log_index: int) -> LogRecord | None:
    part = next(scan_log(reader, workspace_id, log_index), None)
    if part is None:
        return None
    return next((one for one in LogBatch.FromString(part.batch).records if one.log_index == log_index), None)
