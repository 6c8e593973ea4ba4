"""The whole tree of a workspace, streamed as the records of its store (WS-51, WS-52).

Owns: the pieces. Never: pauses apply: the records are those of one moment, whatever is written meanwhile.
Invariants: all families are read as they were at the first piece, whose header gives log_index and root; every piece
is bounded; reading yields to the loop between pieces.
"""

from __future__ import annotations

from hypercluster import limits
from hypercluster.pb.v1 import workspace_pb2 as pb
from hypercluster.rpc.calls import Call
from hypercluster.state_machine.store import Reader
from hypercluster.state_machine.workspace import queries
from hypercluster.state_machine.workspace.records import prefix_end
from hypercluster.state_machine.workspace.transfer import EXPORTED_FAMILIES


async def send_snapshot(reader: Reader, workspace_id: bytes, history_id: bytes, call: Call) -> None:
    """Both scans begin in one turn of the loop, before the first write: they see the same state."""
    header = queries.read_header(reader, workspace_id)
    end = prefix_end(workspace_id)
    scans = [(family, reader.scan(family, workspace_id, end)) for family in EXPORTED_FAMILIES]
    if header is None:
        return

    def piece(last: bool) -> bytes:
        return pb.TreeSnapshotPiece(
            log_index=header.log_index, root=header.root, records=records, last=last, history_id=history_id
        ).SerializeToString()

    records: list[pb.TreeRecord] = []
    size_bytes = 0
    for family, pairs in scans:
        for key, value in pairs:
            records.append(pb.TreeRecord(family=int(family), key=key, value=value))
            size_bytes += len(key) + len(value)
            if size_bytes >= limits.SNAPSHOT_PIECE_BYTES:
                await call.write(piece(last=False))
                records, size_bytes = [], 0
    await call.write(piece(last=True))
