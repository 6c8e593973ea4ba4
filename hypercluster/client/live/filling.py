"""Content of a tree that came as a snapshot, fetched before anybody asks for it, so that reads are local.

Owns: `Filler`: the walk over the files of a tree, a part at a time, as far as the cache has room.
Never: pushes anything out of the cache; holds the tree's lock for more than one part.
Invariants: one group of chunks is out at a time, so reads and the log go before; a walk that was cut short begins again
with the next start, one that ended is not made again for the same tree.
"""

from __future__ import annotations

import asyncio

from hypercluster.client.live.chunk_cache import ChunkCache
from hypercluster.client.live.chunk_source import GROUP_CHUNKS, ChunkSource
from hypercluster.client.live.replica import Replica
from hypercluster.errors import HyperClusterError
from hypercluster.limits import CHUNK_BYTES_MAX
from hypercluster.state_machine.store import Family
from hypercluster.state_machine.workspace.content import ContentReader
from hypercluster.state_machine.workspace.records import INODE, KIND_FILE, decode_inode

PART_INODES = 50
PAUSE_S = 1.0
FILLED = "filled"
_IDS = 1 << 64  # of the first eight bytes of inode ids, which are evenly spread


class Filler:
    """In the loop."""

    def __init__(self, cache: ChunkCache, source: ChunkSource) -> None:
        self._cache = cache
        self._source = source

    async def fill(self, replica: Replica) -> None:
        """Until every file has been looked at, or the cache has no room."""
        if replica.record(FILLED) is not None:
            return
        with replica.lock:
            parts = replica.header().inode_count // PART_INODES + 1
        for number in range(parts):
            hashes = await asyncio.to_thread(self._part, replica, number * _IDS // parts, (number + 1) * _IDS // parts)
            for start in range(0, len(hashes), GROUP_CHUNKS):
                if self._cache.room_bytes < GROUP_CHUNKS * CHUNK_BYTES_MAX:
                    return
                await self._bring(hashes[start : start + GROUP_CHUNKS])
        replica.put_record(FILLED, b"")

    async def _bring(self, hashes: list[bytes]) -> None:
        """What no node has any more is left out: the tree is about to move on."""
        while True:
            try:
                await self._source.bring(hashes)
                return
            except HyperClusterError:
                await asyncio.sleep(PAUSE_S)

    def _part(self, replica: Replica, first: int, beyond: int) -> list[bytes]:
        """What the files with ids in a range refer to and is not here. In a thread of its own."""
        prefix = replica.workspace_id + INODE
        end = prefix + beyond.to_bytes(8, "big") if beyond < _IDS else prefix + b"\xff" * 17
        wanted: dict[bytes, None] = {}
        with replica.lock:
            for key, record in replica.store.scan(Family.TREE, prefix + first.to_bytes(8, "big"), end):
                inode = decode_inode(key[len(prefix) :], record)
                if inode.kind == KIND_FILE and inode.extent_count:
                    for extent in ContentReader(replica.store, replica.workspace_id, inode).extents():
                        wanted[extent.chunk_hash] = None
        return self._cache.lacking(wanted)
