"""The bytes of a file as one node, or any node, has them.

Owns: extents to blocks, holes as zeros.
Never: more than BLOCK_EXTENTS chunks in memory at once.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

from hypercluster.client.workspace import Workspace
from hypercluster.pb.v1 import read_pb2, workspace_pb2
from hypercluster.values import ReadLevel

BLOCK_EXTENTS = 128  # chunks of 64 KiB at most
HOLE_BYTES = 1 << 20


async def blocks(
    workspace: Workspace, inode_id: bytes, level: ReadLevel, states: list[read_pb2.ReadState] | None = None
) -> AsyncIterator[bytes]:
    """In order, to the end of the file. `states` is told how fresh each answer was."""
    at = size = 0
    page: workspace_pb2.ExtentsResponse
    async for page in workspace.extents(inode_id, level=level):
        size = page.size
        if states is not None:
            states.append(page.state)
        for start in range(0, len(page.extents), BLOCK_EXTENTS):
            some = page.extents[start : start + BLOCK_EXTENTS]
            chunks = await workspace.ops.chunks.fetch(extent.chunk_hash for extent in some)
            for extent in some:
                for hole in _zeros(extent.offset - at):
                    yield hole
                yield chunks[extent.chunk_hash][extent.chunk_offset : extent.chunk_offset + extent.length]
                at = extent.offset + extent.length
    for hole in _zeros(size - at):
        yield hole


def _zeros(count: int) -> list[bytes]:
    """A few blocks: the files of the workloads have small holes or none."""
    return [bytes(min(HOLE_BYTES, count - done)) for done in range(0, count, HOLE_BYTES)]
