"""The end of a link, at every moment relative to what its two tasks are doing: nothing comes out of it but silence."""

from __future__ import annotations

import asyncio

import grpc
import grpc.aio
import pytest

from hypercluster.raft.peer_link import PeerLink
from hypercluster.values import Incarnation, NodeId


class Stream:
    """One side of a stream whose other side dies when the test says so."""

    def __init__(self) -> None:
        self.dead: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        self.written: list[bytes] = []

    async def read(self) -> object:
        return await self.dead

    async def write(self, message: bytes) -> None:
        self.written.append(message)

    def die(self) -> None:
        nothing = grpc.aio.Metadata()
        self.dead.set_exception(grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, nothing, nothing, "Socket closed"))


async def settle() -> None:
    """Long enough for both tasks to be where they wait."""
    for _ in range(5):
        await asyncio.sleep(0)


@pytest.mark.req("CL-1")
@pytest.mark.parametrize("offered_first", [True, False])
@pytest.mark.parametrize("turns_between", range(4))
async def test_a_frame_offered_while_the_peer_dies_ends_the_link_and_nothing_else(
    offered_first: bool, turns_between: int
) -> None:
    """1. The writer waits for a frame. 2. One is offered, which wakes it. 3. In the same turn of the loop the reader
    learns that the peer is gone, and closes the link, which empties the queue. 4. The writer runs."""
    stream = Stream()
    link = PeerLink(NodeId("n2"), Incarnation(bytes(16)), stream.read, stream.write, lambda *_: None)
    running = asyncio.create_task(link.run())
    await settle()
    steps = [lambda: link.offer(b"frame"), stream.die]
    first, second = steps if offered_first else steps[::-1]
    first()
    for _ in range(turns_between):
        await asyncio.sleep(0)
    second()
    await running  # raises nothing
    assert not link.open
    assert link.problem == "reading failed: AioRpcError"
    assert link.queued_bytes == 0
    assert not link.offer(b"after")


async def test_a_link_closed_while_its_writer_is_woken_writes_nothing() -> None:
    stream = Stream()
    link = PeerLink(NodeId("n2"), Incarnation(bytes(16)), stream.read, stream.write, lambda *_: None)
    running = asyncio.create_task(link.run())
    await settle()
    assert link.offer(b"frame")
    link.close("replaced by a new stream")
    await running
    assert stream.written == []
    assert link.problem == "replaced by a new stream"
