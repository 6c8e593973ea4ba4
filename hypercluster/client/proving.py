"""Asks the cluster for the proof of a path, and makes the file that others verify without one (WS-35).

Owns: `make_proof`: the inclusion proof, and of a file the extents that lead from its content to the proven digest.
Never: takes a node's word: the proof is verified here before it is handed out, and extents are those of the very
content that is proven, or none.
A file that is written to meanwhile is asked for again, a bounded number of times.
"""

from __future__ import annotations

from dataclasses import replace

from hypercluster.client.file_ops import shown
from hypercluster.client.proof_file import (
    PROOF_EXTENTS_MAX,
    PROOF_RESTS_BYTES_MAX,
    ProofFile,
    ProvenExtent,
)
from hypercluster.client.stubs import workspace_service
from hypercluster.client.workspace import Path, Workspace, file_error, to_bytes
from hypercluster.errors import BehindError, RefusedError
from hypercluster.limits import CHUNK_BYTES_MAX
from hypercluster.pb.v1 import workspace_pb2
from hypercluster.state_machine.workspace.content import content_digest
from hypercluster.state_machine.workspace.extents import Extent
from hypercluster.state_machine.workspace.proofs import LeafProof, PathProof
from hypercluster.state_machine.workspace.queries import path_names
from hypercluster.state_machine.workspace.records import KIND_DIRECTORY, KIND_SYMLINK, Inode
from hypercluster.values import ReadLevel

ROUNDS = 10
CHUNKS_AT_ONCE = 64


async def make_proof(
    workspace: Workspace, path: Path, *, log_index: int = 0, level: ReadLevel = ReadLevel.LINEARIZABLE
) -> ProofFile:
    """The proof of what stands at `path` now, or at `log_index`. Raises RefusedError with errno ENOENT, and
    HistoryGoneError for a tree that is no longer kept."""
    for _ in range(ROUNDS):
        proof = await _ask(workspace, path, log_index, level)
        inode = proof.verify()
        if inode is None:
            words = f"{_place(path)}: the node's proof does not hold against the root it names"
            raise RefusedError("PROOF_FAILED", words)
        if inode.kind == KIND_DIRECTORY:
            return proof
        try:
            if inode.kind == KIND_SYMLINK:
                node = await workspace.stat_inode(inode.inode_id, level=level)
                return replace(proof, target=node.symlink_target)
            extents = await _extents(workspace, inode, level)
        except RefusedError:
            continue  # it was removed after it was proven
        if extents is None:
            return proof
        if content_digest(inode.size, [found.extent for found in extents]) == inode.content_digest:
            return replace(proof, extents=tuple(extents))
    raise BehindError(f"{_place(path)}: it is written to so often that its content can not be read in one piece")


async def _ask(workspace: Workspace, path: Path, log_index: int, level: ReadLevel) -> ProofFile:
    request = workspace_pb2.ProofRequest(
        read=workspace.client.read_options(level, workspace.client.known_index()),
        workspace_id=workspace.workspace_id,
        path=to_bytes(path),
        log_index=log_index,
    )
    answer: workspace_pb2.ProofResponse = await workspace.client.nodes.read(
        lambda channel, timeout: workspace_service(channel).Proof(request, timeout=timeout),
        f"prove {_place(path)}",
        any_node=level is ReadLevel.BOUNDED_STALE,
    )
    if answer.errno:
        raise file_error(answer.errno, f"prove {_place(path)}")
    entries = tuple(_leaf(entry) for entry in answer.entries)
    return ProofFile(
        workspace.workspace_id,
        answer.log_index,
        answer.root,
        tuple(path_names(request.path)),
        PathProof(entries, _leaf(answer.inode)),
    )


def _leaf(message: workspace_pb2.ProofLeaf) -> LeafProof:
    return LeafProof(message.text, tuple((inner.size, inner.hashes) for inner in message.inners), message.bucket)


async def _extents(workspace: Workspace, inode: Inode, level: ReadLevel) -> list[ProvenExtent] | None:
    """With the rest of each chunk of which the file shows a part; None if it is too much for a file."""
    found: list[Extent] = []
    async for page in workspace.extents(inode.inode_id, level=level):
        found += [Extent(e.offset, e.length, e.chunk_offset, e.chunk_hash) for e in page.extents]
        if len(found) > PROOF_EXTENTS_MAX:
            return None
    rests_bytes = 0
    proven: list[ProvenExtent] = []
    for start in range(0, len(found), CHUNKS_AT_ONCE):
        part = found[start : start + CHUNKS_AT_ONCE]
        # An extent of the largest length shows its whole chunk: nothing has to be fetched for it.
        wanted = {extent.chunk_hash for extent in part if extent.length < CHUNK_BYTES_MAX}
        chunks = await workspace.ops.chunks.fetch(wanted)
        for extent in part:
            chunk = chunks.get(extent.chunk_hash, b"")
            end = extent.chunk_offset + extent.length
            proven.append(ProvenExtent(extent, chunk[: extent.chunk_offset], chunk[end:]))
            rests_bytes += max(0, len(chunk) - extent.length)
        if rests_bytes > PROOF_RESTS_BYTES_MAX:
            return None
    return proven


def _place(path: Path) -> str:
    return shown(to_bytes(path)) or "/"
