"""One authenticated stream to one peer: the queue towards it, the task that writes it, the loop that reads it.

Owns: `PeerLink`. The transport makes one after the hellos and drops it for ever when anything is wrong.
Never: authentication, reconnecting, parsing of frames.
Invariants: frames leave in the order of `offer` and are delivered in the order of arrival; nothing is delivered and
nothing is taken after `close`; at most PEER_IN_FLIGHT_BYTES_MAX wait, whatever the peer does.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final

import grpc.aio

from hypercluster.errors import MalformedError, check
from hypercluster.limits import PEER_FRAME_BYTES_MAX, PEER_IN_FLIGHT_BYTES_MAX
from hypercluster.raft import peer_wire
from hypercluster.values import Incarnation, NodeId

# What a queued frame costs beside its bytes, so that a flood of tiny frames is bounded as well.
FRAME_COST_BYTES: Final = 64


class PeerLink:
    """`read` and `write` are those of a grpc.aio stream, of either side."""

    def __init__(
        self,
        peer: NodeId,
        incarnation: Incarnation,
        read: Callable[[], Awaitable[object]],
        write: Callable[[bytes], Awaitable[None]],
        deliver: Callable[[NodeId, bytes], None],
    ) -> None:
        self.peer = peer
        self.incarnation = incarnation
        self.problem = ""  # why it ended, for the log
        self.bad_message = False  # it ended because the peer broke the framing
        self._read = read
        self._write = write
        self._deliver = deliver
        self._queue: deque[bytes] = deque()
        self._queued_bytes = 0
        self._filled = asyncio.Event()
        self._closed = asyncio.Event()

    @property
    def open(self) -> bool:
        return not self._closed.is_set()

    @property
    def queued_bytes(self) -> int:
        return self._queued_bytes

    def offer(self, frame: bytes) -> bool:
        """False when the queue is full or the link closed: the frame is dropped."""
        check(len(frame) <= PEER_FRAME_BYTES_MAX, f"a peer frame of {len(frame)} bytes is over the limit")
        cost = len(frame) + FRAME_COST_BYTES
        if not self.open or self._queued_bytes + cost > PEER_IN_FLIGHT_BYTES_MAX:
            return False
        self._queue.append(frame)
        self._queued_bytes += cost
        self._filled.set()
        return True

    def close(self, problem: str) -> None:
        """`run` returns soon; nothing is delivered from now on. Idempotent."""
        if self.open:
            self.problem = problem
            self._closed.set()
            self._queue.clear()
            self._queued_bytes = 0

    async def run(self) -> None:
        """Until the stream or the link ends. What `deliver` raises comes out of here."""
        tasks = [asyncio.create_task(part()) for part in (self._write_queue, self._read_stream, self._closed.wait)]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self.close("the stream ended")
            for task in tasks:
                task.cancel()
            # A task that is already finished keeps its outcome: it is looked at below, not lost.
            ended = await asyncio.gather(*tasks, return_exceptions=True)
        for outcome in ended:
            if isinstance(outcome, BaseException) and not isinstance(outcome, asyncio.CancelledError):
                raise outcome

    async def _write_queue(self) -> None:
        try:
            while self.open:
                if not self._queue:
                    self._filled.clear()
                    await self._filled.wait()
                    if not self._queue:  # the link was closed between the offer and this turn
                        continue
                count = len(self._queue)
                message, size = peer_wire.take(self._queue)
                cost = size + FRAME_COST_BYTES * (count - len(self._queue))
                await self._write(message)
                if self.open:
                    self._queued_bytes -= cost
        except (grpc.RpcError, grpc.aio.UsageError, grpc.aio.AbortError, asyncio.InvalidStateError) as error:
            self.close(f"writing failed: {type(error).__name__}")

    async def _read_stream(self) -> None:
        while self.open:
            try:
                message = await self._read()
                frames = peer_wire.split(message) if isinstance(message, bytes) else None
            except MalformedError as error:
                self.bad_message = True
                return self.close(str(error))
            except (grpc.RpcError, grpc.aio.UsageError, asyncio.InvalidStateError) as error:
                return self.close(f"reading failed: {type(error).__name__}")
            if frames is None:
                return self.close("the peer ended the stream")
            for frame in frames:
                if self.open:
                    self._deliver(self.peer, frame)
        return None
