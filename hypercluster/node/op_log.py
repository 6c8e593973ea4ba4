"""The op logs of workspaces as the fan-out reads them.

Owns: the reading, in slices of bounded size. Never: how fresh the state is.
Invariants: a slice begins with exactly the wanted log_index, and has at least one record if any is there; records
are passed on as the bytes they are stored in.
"""

from __future__ import annotations

from collections.abc import Callable

from hypercluster.node.fanout import Head, OpLog, Slice
from hypercluster.node.replay_window import lags_too_far, replay_floor
from hypercluster.pb.v1.workspace_command_pb2 import LogBatch
from hypercluster.state_machine.store import Reader
from hypercluster.state_machine.workspace import queries
from hypercluster.state_machine.workspace.oplog import log_floor, scan_log
from hypercluster.state_machine.workspace.snapshots import read_snapshot


def stored_op_log(reader: Reader, wall_ns: Callable[[], int]) -> OpLog:
    def head(workspace_id: bytes) -> Head | None:
        header = queries.read_header(reader, workspace_id)
        return None if header is None else Head(header.log_index, header.root)

    def retained_from(workspace_id: bytes) -> int:
        """The lowest log_index kept; one above the head when none is."""
        floor = log_floor(reader, workspace_id)
        if floor is not None:
            return floor
        found = head(workspace_id)
        return found.log_index + 1 if found is not None else 1

    def read(workspace_id: bytes, from_index: int, bytes_max: int) -> Slice | None:
        found = head(workspace_id)
        if found is None or found.log_index < from_index:
            return None
        batches: list[bytes] = []
        first = size_bytes = 0
        for part in scan_log(reader, workspace_id, from_index):
            if batches and size_bytes + len(part.batch) > bytes_max:
                break
            first = first or max(part.first_index, from_index)
            batches.append(without_first(part.batch, from_index - part.first_index))
            size_bytes += len(part.batch)
        if not batches:
            return None
        _, last = bounds(batches[-1])
        return Slice(first, last, batches)

    def replay_from(workspace_id: bytes) -> int:
        return replay_floor(reader, workspace_id, wall_ns())

    def too_far(workspace_id: bytes, part: Slice) -> str:
        found = head(workspace_id)
        return lags_too_far(found.log_index if found is not None else 0, part.first_index, part.batches[0], wall_ns())

    def is_snapshot(workspace_id: bytes, log_index: int) -> bool:
        return read_snapshot(reader, workspace_id, log_index) is not None

    return OpLog(head, retained_from, read, bounds, replay_from, too_far, is_snapshot)


def bounds(batch: bytes) -> tuple[int, int]:
    """First and last log_index of a LogBatch."""
    records = LogBatch.FromString(batch).records
    return records[0].log_index, records[-1].log_index


def without_first(batch: bytes, count: int) -> bytes:
    """The LogBatch without its first `count` records; those that stay keep their bytes."""
    position = 0
    for _ in range(count):
        position += 1  # the tag of `records`
        length = shift = 0
        while True:
            byte = batch[position]
            position += 1
            length |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
        position += length
    return batch[position:] if position else batch
