"""Records of a workspace as messages.

Owns: the conversions, and the cut of a page that would be too large. Never: reads.
"""

from __future__ import annotations

from typing import TypeVar

from google.protobuf.message import Message

from hypercluster import limits
from hypercluster.node.worker_table import ConnectedWorker
from hypercluster.pb.v1 import workspace_pb2 as pb
from hypercluster.state_machine.workspace.errnos import ENOENT
from hypercluster.state_machine.workspace.extents import Extent
from hypercluster.state_machine.workspace.proofs import LeafProof
from hypercluster.state_machine.workspace.records import KIND_DIRECTORY, KIND_FILE, KIND_SYMLINK, Header, Inode

__all__ = ["ENOENT", "extent", "inode", "proof_leaf", "summary", "within_bytes", "worker"]

M = TypeVar("M", bound=Message)

_KINDS = {
    KIND_FILE: pb.FILE_KIND_FILE,
    KIND_DIRECTORY: pb.FILE_KIND_DIRECTORY,
    KIND_SYMLINK: pb.FILE_KIND_SYMLINK,
}


def summary(header: Header) -> pb.WorkspaceSummary:
    return pb.WorkspaceSummary(
        workspace_id=header.workspace_id,
        name=header.name,
        log_index=header.log_index,
        root=header.root,
        inode_count=header.inode_count,
        bytes_total=header.mapped_bytes,
        raft_index=header.raft_index,
        op_count=header.log_index,
    )


def inode(node: Inode) -> pb.Inode:
    return pb.Inode(
        inode_id=node.inode_id,
        inode_no=node.inode_no,
        kind=_KINDS[node.kind],
        mode=node.mode,
        uid=node.uid,
        gid=node.gid,
        size=node.size,
        nlink=node.nlink,
        mtime_ns=node.mtime_ns,
        ctime_ns=node.ctime_ns,
        symlink_target=node.target,
        content_index=node.content_index,
        metadata_index=node.metadata_index,
    )


def proof_leaf(proof: LeafProof) -> pb.ProofLeaf:
    inners = [pb.ProofInner(size=size, hashes=hashes) for size, hashes in proof.inners]
    return pb.ProofLeaf(text=proof.text, inners=inners, bucket=proof.bucket)


def extent(found: Extent) -> pb.Extent:
    return pb.Extent(
        offset=found.offset, length=found.length, chunk_hash=found.chunk_hash, chunk_offset=found.chunk_offset
    )


def within_bytes(page: list[M], more: bool) -> tuple[list[M], bool]:
    """As much of a page as fits an answer, at least one record."""
    size_bytes = 0
    for position, message in enumerate(page):
        size_bytes += message.ByteSize()
        if size_bytes > limits.READ_BYTES_MAX and position:
            return page[:position], True
    return page, more


def worker(row: ConnectedWorker, log_index: int, now_s: float) -> pb.WorkerStatus:
    """`log_index` is the workspace's here, `now_s` of the clock that the row's times are of."""
    failure, pressure = row.failure, row.pressure
    return pb.WorkerStatus(
        worker=row.worker,
        name=row.name,
        mount_instance=row.mount_instance,
        applied_index=row.applied_index,
        lag=max(0, log_index - row.applied_index),
        read_only=row.read_only,
        missing_chunks=row.missing_chunks,
        error_log_index=0 if failure is None else failure.log_index,
        error_errno=0 if failure is None else failure.errno,
        error_message="" if failure is None else failure.words,
        pressure=pb.Pressure(
            cpu_permille=pressure.cpu_permille,
            memory_permille=pressure.memory_permille,
            disk_free_bytes=pressure.disk_free_bytes,
            disk_total_bytes=pressure.disk_total_bytes,
        ),
        connected_at_ns=row.connected_at_ns,
        silent_ms=max(0, int((now_s - row.heard_s) * 1000)),
    )
