"""One RPC as a service sees it.

Owns: `Call`: who calls, until when, and reads and writes of raw messages with their bounds (CL-13).
Never: authenticates (gate.py does, before a service is reached) or interprets a message beyond its form.
Invariants: a message over CLIENT_MESSAGE_BYTES_MAX, one that does not parse, or one with unknown fields is refused
with one status and a reason code; a write that the peer does not take within STREAM_STALL_S ends the call.
"""

from __future__ import annotations

import asyncio
from typing import Any, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message

from hypercluster import limits
from hypercluster.errors import MalformedError, StreamStalledError, TooLargeError
from hypercluster.node.words import Caller

M = TypeVar("M", bound=Message)


class Call:
    """`timeout_s` bounds a unary call: the caller's deadline, or ours where that is nearer. `close` ends its watch."""

    __slots__ = ("_began_s", "_context", "_loop", "_stalled", "_timer", "_writer", "caller", "timeout_s")

    def __init__(self, context: grpc.aio.ServicerContext[Any, Any], caller: Caller) -> None:
        self._context = context
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._writer: asyncio.Task[Any] | None = None
        self._began_s = 0.0
        self._stalled = False
        self.caller = caller
        remaining_s = context.time_remaining()
        longest_s = limits.UNARY_DEADLINE_MS / 1000
        self.timeout_s = longest_s if remaining_s is None else max(0.0, min(remaining_s, longest_s))

    async def read(self) -> bytes | None:
        """The next message of the stream, None at its end."""
        message = await self._context.read()
        if message is grpc.aio.EOF:
            return None
        content: bytes = message
        check_size(content)
        return content

    async def write(self, message: bytes) -> None:
        """One writer at a time. Raises StreamStalledError."""
        self._began_s = self._loop.time()
        self._writer = asyncio.current_task()
        if self._timer is None:
            # One timer looks now and then, instead of one for each write.
            self._timer = self._loop.call_later(limits.STREAM_STALL_S, self._look)
        try:
            await self._context.write(message)
        except asyncio.CancelledError:
            if self._stalled:
                raise StreamStalledError(f"nothing was read from this stream for {limits.STREAM_STALL_S} s") from None
            raise
        finally:
            self._writer = None

    def _look(self) -> None:
        now_s = self._loop.time()
        waited_s = now_s - self._began_s if self._writer is not None else 0.0
        if self._writer is not None and waited_s >= limits.STREAM_STALL_S:
            self._stalled = True
            self._writer.cancel()
            return
        self._timer = self._loop.call_later(limits.STREAM_STALL_S - waited_s, self._look)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()


def check_size(message: bytes) -> None:
    if len(message) > limits.CLIENT_MESSAGE_BYTES_MAX:
        raise TooLargeError(
            f"the message has {len(message)} bytes, limit CLIENT_MESSAGE_BYTES_MAX is {limits.CLIENT_MESSAGE_BYTES_MAX}"
        )


def parse(kind: type[M], content: bytes) -> M:
    """A request of exactly this version's fields (SEC-3). Raises MalformedError or TooLargeError."""
    check_size(content)
    try:
        message = kind.FromString(content)
    except DecodeError:
        raise MalformedError(f"{kind.__name__}: this is not such a message") from None
    message.DiscardUnknownFields()
    if message.ByteSize() != len(content):
        raise MalformedError(f"{kind.__name__}: it has fields this version does not know, or a field twice")
    return message
