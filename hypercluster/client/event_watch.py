"""Events of a workspace as they are applied: locks that move, hazards (WS-40, WS-41, WS-46).

Owns: `watch_events`, which goes on at another node when one is lost, and `EventWatch`, a watch that calls back.
Never: concludes anything from an event that did not come. A watch begins with a list of the locks as they stand, and so
does every reconnection; who must not miss a change asks the leader now and then (leases.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Collection
from contextlib import aclosing
from typing import TYPE_CHECKING

import grpc

from hypercluster.client.answers import from_rpc
from hypercluster.client.stubs import coordination_service
from hypercluster.errors import (
    ForbiddenError,
    HistoryChangedError,
    MalformedError,
    NotFoundError,
    UnauthenticatedError,
    WrongClusterError,
    WrongWorkspaceError,
)
from hypercluster.pb.v1 import coordination_pb2

if TYPE_CHECKING:
    from hypercluster.client.client import Client

RECONNECT_S = (0.05, 1.0)
READY_S = 1.0
CLIENT_IDS_MAX = 1_000
# What asking another node, or later, does not mend.
FINAL = (
    ForbiddenError,
    HistoryChangedError,
    MalformedError,
    NotFoundError,
    UnauthenticatedError,
    WrongClusterError,
    WrongWorkspaceError,
)


async def watch_events(
    client: Client, workspace_id: bytes, client_ids: Collection[bytes] = (), *, everything: bool = False
) -> AsyncGenerator[coordination_pb2.CoordinationEvent, None]:
    """Without `client_ids` the events of every client of the caller's worker, with `everything` of all workers. Ends
    only by an error that another node would answer, too."""
    request = coordination_pb2.WatchEventsRequest(
        workspace_id=workspace_id,
        client_ids=sorted(client_ids)[:CLIENT_IDS_MAX],
        everything=everything,
        min_index=client.known_index(),
    )
    pause_s = RECONNECT_S[0]
    nodes = client.settings.nodes
    turn = int.from_bytes(workspace_id[:4], "big")
    while True:
        call = coordination_service(client.nodes.channel(nodes[turn % len(nodes)])).WatchEvents(request)
        try:
            event: coordination_pb2.CoordinationEvent
            async for event in call:
                pause_s = RECONNECT_S[0]
                yield event
        except grpc.aio.AioRpcError as error:
            found = from_rpc(error, "watch events")
            if isinstance(found, FINAL):
                raise found from error
        finally:
            call.cancel()
        turn += 1
        await asyncio.sleep(pause_s)
        pause_s = min(2 * pause_s, RECONNECT_S[1])


class EventWatch:
    """Follows some clients until it is cancelled; a further client makes it begin again."""

    def __init__(
        self, client: Client, workspace_id: bytes, heard: Callable[[bytes, coordination_pb2.CoordinationEvent], None]
    ) -> None:
        self._client = client
        self._workspace_id = workspace_id
        self._heard = heard
        self._client_ids: set[bytes] = set()
        self._begun = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._ended: list[asyncio.Task[None]] = []

    def follow(self, client_id: bytes) -> None:
        if client_id in self._client_ids:
            return
        if len(self._client_ids) >= CLIENT_IDS_MAX:
            self._client_ids.clear()
        self._client_ids.add(client_id)
        self.cancel()
        self._begun.clear()
        self._task = asyncio.create_task(self._run())

    async def ready(self) -> None:
        """Returns once events are coming in, or after a while."""
        try:
            async with asyncio.timeout(READY_S):
                await self._begun.wait()
        except TimeoutError:
            return

    async def _run(self) -> None:
        events = watch_events(self._client, self._workspace_id, self._client_ids)
        async with aclosing(events) as stream:
            async for event in stream:
                self._begun.set()
                self._heard(self._workspace_id, event)

    def cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()
            self._ended = [task for task in self._ended if not task.done()]
            self._ended.append(self._task)
            self._task = None

    async def done(self) -> None:
        """After `cancel`."""
        await asyncio.gather(*self._ended, return_exceptions=True)
