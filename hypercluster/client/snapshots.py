"""Workspace snapshots for people: which there are, taking one, and proving that a node holds one whole (WS-53).

Owns: the calls, and the check of a stored snapshot: its manifest, its signature, and the root of all its records.
Never: keeps a whole tree in memory: what the check needs of it are the leaves.
Invariants: a snapshot is called sound only if a node of this cluster signed its manifest, its records add up to the
root that the manifest names, and the cluster's log names the same root for it.
"""

from __future__ import annotations

from dataclasses import dataclass

import grpc

from hypercluster.client.answers import from_rpc
from hypercluster.client.stubs import workspace_service
from hypercluster.client.worker.snapshots import stored_snapshot
from hypercluster.client.workspace import Workspace
from hypercluster.errors import DamagedError, HyperClusterError, MalformedError, NotFoundError
from hypercluster.pb.v1 import workspace_pb2
from hypercluster.state_machine.store import Family, MemoryStore
from hypercluster.state_machine.workspace.records import ENTRY, HEADER, INODE
from hypercluster.state_machine.workspace.transfer import import_records, verify_tree
from hypercluster.values import ReadLevel

NEEDED = frozenset((HEADER, INODE, ENTRY))  # kinds of records that leaves are made of


@dataclass(frozen=True, slots=True)
class SnapshotCheck:
    """One node's copy; `problem` says what is wrong with it, '' if nothing is."""

    address: str
    log_index: int
    signed_by: str = ""
    records: int = 0
    problem: str = ""


async def list_snapshots(
    workspace: Workspace, level: ReadLevel = ReadLevel.LINEARIZABLE
) -> workspace_pb2.ListSnapshotsResponse:
    """All that are kept, oldest first, with what the answering node knows of retention."""
    request = workspace_pb2.ListSnapshotsRequest(
        read=workspace.client.read_options(level), workspace_id=workspace.workspace_id
    )
    answer: workspace_pb2.ListSnapshotsResponse = await workspace.client.nodes.read(
        lambda channel, timeout: workspace_service(channel).ListSnapshots(request, timeout=timeout),
        f"list the snapshots of {workspace.name}",
    )
    return answer


async def take_snapshot(workspace: Workspace) -> workspace_pb2.TakeSnapshotResponse:
    """Marks one now; `taken` False if nothing changed since the last, which is then the answer."""
    request = workspace_pb2.TakeSnapshotRequest(workspace_id=workspace.workspace_id)
    answer: workspace_pb2.TakeSnapshotResponse = await workspace.client.nodes.read(
        lambda channel, timeout: workspace_service(channel).TakeSnapshot(request, timeout=timeout),
        f"take a snapshot of {workspace.name}",
    )
    return answer


async def node_manifest(workspace: Workspace, address: str, log_index: int) -> workspace_pb2.SnapshotManifestResponse:
    """Raises NotFoundError where the node does not hold it (yet)."""
    request = workspace_pb2.SnapshotManifestRequest(workspace_id=workspace.workspace_id, log_index=log_index)
    stub = workspace_service(workspace.client.nodes.channel(address))
    try:
        answer: workspace_pb2.SnapshotManifestResponse = await stub.SnapshotManifest(
            request, timeout=workspace.client.settings.read_deadline_s
        )
    except grpc.aio.AioRpcError as error:
        raise from_rpc(error, address) from error
    return answer


async def verify_snapshot(workspace: Workspace, log_index: int, addresses: tuple[str, ...] = ()) -> list[SnapshotCheck]:
    """Reads the whole snapshot from each node and computes its root anew. Raises NotFoundError if it is not kept."""
    listed = {found.log_index: found for found in (await list_snapshots(workspace)).snapshots}
    if log_index not in listed:
        raise NotFoundError(f"{workspace.name} has no snapshot of log_index {log_index}; `snapshot list` shows which")
    nodes = addresses or workspace.client.settings.nodes
    return [await _verify_one(workspace, address, log_index, listed[log_index].root) for address in nodes]


async def _verify_one(workspace: Workspace, address: str, log_index: int, root: bytes) -> SnapshotCheck:
    store, records, signed_by = MemoryStore(), 0, ""
    kind_at = len(workspace.workspace_id)
    try:
        async for piece, name in stored_snapshot(workspace.client.nodes, address, workspace.workspace_id, log_index):
            signed_by = name or signed_by
            rows = [(record.family, record.key, record.value) for record in piece.records]
            records += len(rows)
            needed = [row for row in rows if row[0] == int(Family.TREE) and row[1][kind_at : kind_at + 1] in NEEDED]
            store.write(import_records(workspace.workspace_id, needed))
        found = verify_tree(store, workspace.workspace_id)
        if found is None or not found.sound:
            problem = "its records do not add up to its root"
        elif (found.log_index, found.computed_root) != (log_index, root):
            problem = f"its root is {found.computed_root.hex()}, the log says {root.hex()}"
        else:
            problem = ""
    except (HyperClusterError, DamagedError, MalformedError) as error:
        problem = str(error)
    return SnapshotCheck(address, log_index, signed_by, records, problem)
