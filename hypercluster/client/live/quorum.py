"""What is known of the cluster's ability to commit (WS-2, WS-3).

Owns: `Quorum`: when a leader last proved a majority, by an acknowledgement or a barrier; the barrier itself; the words
a person reads while there is none.
Never: mutations.
Invariants: a proof is as old as the moment its call was *sent*; while no proof was found the cluster is asked again
every PROBE_S, so the words go away by themselves.
"""

from __future__ import annotations

import asyncio
import errno
import os
import time

from hypercluster.client.answers import errno_of
from hypercluster.client.nodes import Nodes
from hypercluster.client.stubs import workspace_service
from hypercluster.errors import HyperClusterError
from hypercluster.pb.v1 import read_pb2, workspace_pb2

FRESH_S = 0.5  # a proof this young answers an open-for-write without a round trip
PROBE_S = 1.0


class Quorum:
    """In the loop."""

    def __init__(self, nodes: Nodes, workspace_id: bytes, no_leader_s: float) -> None:
        self._nodes = nodes
        self._workspace_id = workspace_id
        self._no_leader_s = no_leader_s
        self._proven_s = float("-inf")
        self._asking: asyncio.Task[int] | None = None
        self._lost = asyncio.Event()
        self.reason = ""  # why nothing can be committed; '' as far as is known it can

    def proven(self, since_s: float) -> None:
        """Something that was sent at `since_s` (monotonic) was answered by a leader with a majority."""
        self._proven_s = max(self._proven_s, since_s)
        self.reason = ""
        self._lost.clear()

    def lost(self, words: str) -> None:
        self.reason = words
        self._lost.set()

    async def barrier(self, deadline_s: float | None = None) -> int:
        """A log_index that a confirmed read index holds. Raises an error of our tree."""
        request = workspace_pb2.BarrierRequest(
            read=read_pb2.ReadOptions(level=read_pb2.READ_LEVEL_LINEARIZABLE), workspace_id=self._workspace_id
        )
        sent_s = time.monotonic()
        answer: workspace_pb2.BarrierResponse = await self._nodes.read(
            lambda channel, timeout: workspace_service(channel).Barrier(request, timeout=timeout),
            "confirm the state of the workspace",
            deadline_s=deadline_s,
        )
        self.proven(sent_s)
        return answer.workspace.log_index

    async def check(self) -> None:
        """Raises OSError(EROFS) if no leader proves a majority in time. Whoever asks meanwhile shares the answer."""
        if not self.reason and time.monotonic() - self._proven_s < FRESH_S:
            return
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self.barrier(self._no_leader_s))
        try:
            await asyncio.shield(self._asking)
        except HyperClusterError as error:
            number = errno_of(error)
            if number == errno.EROFS:
                self.lost(str(error))
            raise OSError(number, f"{os.strerror(number)}: {error}") from error

    async def run(self) -> None:
        """While there is none: asks until there is."""
        while True:
            await self._lost.wait()
            await asyncio.sleep(PROBE_S)
            try:
                await self.barrier(PROBE_S)
            except HyperClusterError as error:
                self.reason = str(error) if self._lost.is_set() else ""

    async def close(self) -> None:
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.gather(self._asking, return_exceptions=True)
