"""Whole trees from the cluster: a stored snapshot, page by page, or the tree as a node has it now (WS-52, WS-53).

Owns: the stream of pieces, going on with another node where one stopped, and whether a manifest is to be believed.
Never: looks into records: whether they add up to the root is for who builds a tree of them.
Invariants: pieces come in order, once each, all of one log_index; of a stored snapshot the manifest comes first, signed
by a node of the cluster, and names the index and the root of every piece.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Final

import grpc

from hypercluster.client.answers import from_rpc
from hypercluster.client.nodes import Nodes
from hypercluster.client.stubs import workspace_service
from hypercluster.credentials.certificates import read_file
from hypercluster.errors import DamagedError, HyperClusterError, NoQuorumError
from hypercluster.pb.v1 import workspace_pb2
from hypercluster.snapshot_manifest import open_manifest, verified

RESUMED_MAX: Final = 8  # times in a row, without a piece between
RESUME_PAUSE_S: Final = 0.1  # times the number of failures in a row


async def live_tree(nodes: Nodes, address: str, workspace_id: bytes) -> AsyncGenerator[workspace_pb2.TreeSnapshotPiece]:
    """The tree as this node has it now, up to and including the piece marked last. Raises NoQuorumError if the node
    stops before it."""
    request = workspace_pb2.TreeSnapshotRequest(workspace_id=workspace_id, live=True)
    async for piece in _pieces(nodes, address, request):
        yield piece


async def snapshot(nodes: Nodes, address: str, workspace_id: bytes) -> AsyncGenerator[workspace_pb2.TreeSnapshotPiece]:
    """The newest snapshot from which the log goes on, or the live tree where a node has none. A stored one goes on with
    another node if this one stops. Raises an error of our tree, and DamagedError for a manifest that is not right."""
    request = workspace_pb2.TreeSnapshotRequest(workspace_id=workspace_id)
    others = [address, *(other for other in nodes.settings.nodes if other != address)]
    failures = 0
    while True:
        try:
            async for piece in _pieces(nodes, others[failures % len(others)], request):
                if piece.HasField("manifest"):
                    _check_manifest(nodes, piece)
                if request.log_index and (piece.log_index, piece.next_page) <= (request.log_index, request.from_page):
                    raise DamagedError(f"a snapshot goes on with page {piece.next_page} after {request.from_page}")
                failures = 0
                yield piece
                if piece.last:
                    return
                request.log_index = piece.log_index if piece.next_page else 0
                request.from_page = piece.next_page
        except HyperClusterError:
            failures += 1
            if not request.from_page or failures > RESUMED_MAX:
                raise
            await asyncio.sleep(RESUME_PAUSE_S * failures)


async def stored_snapshot(
    nodes: Nodes, address: str, workspace_id: bytes, log_index: int
) -> AsyncGenerator[tuple[workspace_pb2.TreeSnapshotPiece, str]]:
    """One stored snapshot of one node, and with its first piece who signed it. Raises NotFoundError if the node does
    not hold it, DamagedError for a manifest that is not right."""
    request = workspace_pb2.TreeSnapshotRequest(workspace_id=workspace_id, log_index=log_index)
    first = True
    async for piece in _pieces(nodes, address, request):
        if first and not piece.HasField("manifest"):
            raise DamagedError(f"{address} sent the snapshot of log_index {log_index} without its manifest")
        yield piece, _check_manifest(nodes, piece) if first else ""
        first = False


async def _pieces(
    nodes: Nodes, address: str, request: workspace_pb2.TreeSnapshotRequest
) -> AsyncGenerator[workspace_pb2.TreeSnapshotPiece]:
    call = workspace_service(nodes.channel(address)).TreeSnapshot(request)
    try:
        piece: workspace_pb2.TreeSnapshotPiece
        async for piece in call:
            yield piece
            if piece.last:
                return
    except grpc.aio.AioRpcError as error:
        raise from_rpc(error, f"snapshot from {address}") from error
    finally:
        call.cancel()
    raise NoQuorumError(f"snapshot from {address}: it ended before its last piece")


def _check_manifest(nodes: Nodes, piece: workspace_pb2.TreeSnapshotPiece) -> str:
    """Who signed it; '' where there are no certificates. Raises DamagedError."""
    if nodes.settings.tls is None:
        manifest, signer = open_manifest(piece.manifest), ""
    else:
        manifest, signer = verified(piece.manifest, read_file(nodes.settings.tls.trust))
    named = manifest.log_index, manifest.root, manifest.history_id
    if named != (piece.log_index, piece.root, piece.history_id):
        raise DamagedError(f"a piece of the snapshot of log_index {piece.log_index} is not what its manifest names")
    return signer
