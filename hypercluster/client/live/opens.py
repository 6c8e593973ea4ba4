"""What this worker has held open for long, reported to the cluster, which keeps its content meanwhile (WS-44).

Owns: `Opens`: the report, every third of a lease's time while there is something to say, and once after that.
Never: decides how long content is kept; orphans outlive a short open without any report.
Invariants: a report names all that is held, at most OPEN_LEASES_OF_WORKER_MAX, the longest open first; one that fails
is made again with the next.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Final

from hypercluster.client.nodes import Nodes
from hypercluster.client.stubs import coordination_service
from hypercluster.errors import HyperClusterError
from hypercluster.limits import OPEN_LEASE_TTL_MS, OPEN_LEASES_OF_WORKER_MAX
from hypercluster.pb.v1 import coordination_pb2

LONG_S: Final = 10.0
INSTANCE_BYTES: Final = 16
EVERY_S: Final = OPEN_LEASE_TTL_MS / 3_000


class Opens:
    """In the loop. `held_for` answers what has been held open for so many seconds, the longest first."""

    def __init__(self, nodes: Nodes, workspace_id: bytes, held_for: Callable[[float], list[bytes]]) -> None:
        self._nodes = nodes
        self._workspace_id = workspace_id
        self._held_for = held_for
        self._instance = os.urandom(INSTANCE_BYTES)  # this worker may have other mounts, which report for themselves
        self._told = False  # the cluster may know of some

    async def run(self) -> None:
        while True:
            await asyncio.sleep(EVERY_S)
            held = self._held_for(LONG_S)[:OPEN_LEASES_OF_WORKER_MAX]
            if held or self._told:
                await self._report(held)

    async def _report(self, held: list[bytes]) -> None:
        request = coordination_pb2.RenewRequest(
            workspace_id=self._workspace_id, open_inodes=held, with_opens=True, opens_instance=self._instance
        )
        self._told = True
        try:
            await self._nodes.read(
                lambda channel, timeout: coordination_service(channel).Renew(request, timeout=timeout),
                "report what is held open",
                deadline_s=EVERY_S,
            )
        except HyperClusterError:
            return
        self._told = bool(held)
