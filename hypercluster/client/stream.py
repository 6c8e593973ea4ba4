"""The one command stream of a client: lanes on one side, a gRPC stream to the leader on the other.

Owns: the loop that finds the leader, opens the stream, writes what lanes want sent, hands back answers, and calls
lanes when their time has come.
Never: decides about retries or outcomes; lane.py does, and this file only carries its instructions out.
Invariants: one stream at a time; answers of a stream that was left are not read; a lane hears `disconnected`
before it hears of the next stream; every future is resolved exactly once, also when the client is closed.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from typing import NamedTuple

import grpc

from hypercluster.client.abandoning_lane import AbandoningLane
from hypercluster.client.lane import Lane
from hypercluster.client.lane_types import Intent, Journal, NeedChunks, Redirect, Send, Settled, SlowDown, Verdict
from hypercluster.client.nodes import Nodes
from hypercluster.client.pacing import Pacer
from hypercluster.errors import InvariantError, TurnedAwayError, check
from hypercluster.limits import MIB, SUBMITS_MAX
from hypercluster.pb.v1 import command_pb2 as command_pb
from hypercluster.pb.v1 import origin_pb2 as origin_pb
from hypercluster.values import ClientId

STREAM_METHOD = "/hypercluster.v1.CommandService/Stream"
SILENT_NS = 2_000_000_000  # answers overdue for so long: ask whether another node leads
IDLE_TICK_S = 1.0
GATHER_BYTES_MAX = 1 * MIB  # of several Submits in one message; one that is larger goes alone
RECONNECT_S = (0.03, 0.5)

# Called with the hashes a command lacks; puts them into the cluster.
ChunkUpload = Callable[[Mapping[bytes, bytes]], Awaitable[None]]


class Pending(NamedTuple):
    """A command a lane has taken, and where its outcome will be."""

    ticket: int
    outcome: asyncio.Future[Settled]


class LanePort:
    """One lane, as the rest of the client uses it. Commands submitted one after the other are judged in that order."""

    def __init__(self, stream: CommandStream, lane: Lane) -> None:
        self._stream = stream
        self.lane = lane
        self.futures: dict[int, asyncio.Future[Settled]] = {}
        self.content: dict[int, tuple[Mapping[bytes, bytes], ChunkUpload]] = {}
        self.room = asyncio.Event()
        self._turn = asyncio.Lock()  # fair: who waits first for room, is first in the lane

    async def submit(
        self,
        command: bytes,
        workspace_id: bytes = b"",
        *,
        chunks: Mapping[bytes, bytes] | None = None,
        upload: ChunkUpload | None = None,
    ) -> Settled:
        """Waits for room in the window, then for the outcome. Cancelling the wait does not recall the command."""
        return await (await self.enqueue(command, workspace_id, chunks=chunks, upload=upload)).outcome

    async def enqueue(
        self,
        command: bytes,
        workspace_id: bytes = b"",
        *,
        chunks: Mapping[bytes, bytes] | None = None,
        upload: ChunkUpload | None = None,
    ) -> Pending:
        """Waits for room in the window only: who enqueues several in a row has them judged in that order."""
        async with self._turn:
            while not self.lane.has_room:
                self._stream.check_open()
                self.room.clear()
                await self.room.wait()
            return self._take(command, workspace_id, chunks, upload)

    def recall(self, ticket: int) -> None:
        """Ends the command NOT_DONE if no copy of it is on its way; otherwise it goes on."""
        self.lane.recall(ticket)
        self._stream.wake()

    def _take(
        self,
        command: bytes,
        workspace_id: bytes,
        chunks: Mapping[bytes, bytes] | None,
        upload: ChunkUpload | None,
    ) -> Pending:
        self._stream.check_open()
        ticket = self.lane.submit(time.monotonic_ns(), command, workspace_id, self._stream.origin)
        future: asyncio.Future[Settled] = asyncio.get_running_loop().create_future()
        self.futures[ticket] = future
        if chunks and upload is not None:
            self.content[ticket] = (chunks, upload)
        self._stream.has_work(self)
        return Pending(ticket, future)

    def fail_all(self, error: BaseException) -> None:
        futures, self.futures = list(self.futures.values()), {}
        for future in futures:
            if not future.done():
                future.set_exception(error)
        self.room.set()

    def settle(self, settled: Settled) -> None:
        self.content.pop(settled.ticket, None)
        self._stream.judged += settled.verdict in (Verdict.OK, Verdict.REFUSED)
        future = self.futures.pop(settled.ticket)
        if not future.done():  # the caller may have been cancelled
            future.set_result(settled)
        self.room.set()


class CommandStream:
    """See the module. Start it with `start`, and end it with `close` in the same loop."""

    def __init__(self, nodes: Nodes, rng: random.Random, origin: origin_pb.Origin | None, journal: Journal | None):
        self.origin = origin
        self.judged = 0  # commands of all lanes, chunks among them
        self._nodes = nodes
        self._rng = rng
        self._journal = journal
        self._pacer = Pacer()
        self._ports: list[LanePort] = []
        self._busy: dict[LanePort, None] = {}  # those with commands that wait, the longest unserved first
        self._wake = asyncio.Event()
        self._work = asyncio.Event()
        self._outbox: deque[bytes] = deque()
        self._outbox_filled = asyncio.Event()
        self._call: grpc.aio.StreamStreamCall[bytes, command_pb.AcksBatch] | None = None
        self._address = ""
        self._heard_ns = 0
        self._closed = False
        self._defect: BaseException | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._uploads: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        self._tasks = [asyncio.create_task(self._pump_loop()), asyncio.create_task(self._connect_loop())]
        for task in self._tasks:
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """A loop that ends by itself is a defect: whoever waits must hear of it, and not wait for ever."""
        if task.cancelled() or task.exception() is None:
            return
        self._defect = task.exception()
        for port in self._ports:
            port.fail_all(InvariantError(f"the client's stream ended by a defect: {self._defect!r}"))

    def check_open(self) -> None:
        check(self._defect is None, f"the client's stream ended by a defect: {self._defect!r}")
        if self._closed:
            raise TurnedAwayError("the client is closed")

    def open_lane(self, new_client_id: Callable[[], ClientId], resume: Intent | None = None) -> LanePort:
        settings = self._nodes.settings.lane
        lane = AbandoningLane(new_client_id, self._rng, settings=settings, journal=self._journal, resume=resume)
        port = LanePort(self, lane)
        if self._call is not None:
            lane.connected(time.monotonic_ns())
        if self._ports:
            lane.known(max(p.lane.known_index for p in self._ports))
        self._ports.append(port)
        return port

    def close_lane(self, port: LanePort) -> None:
        """The lane takes no more commands and none of its commands waits. The cluster forgets it in time (D-7)."""
        check(not port.lane.pending, "a lane with commands that wait is not closed")
        self._ports.remove(port)
        self._busy.pop(port, None)

    @property
    def pending(self) -> int:
        """Commands whose outcome somebody waits for."""
        return sum(len(port.futures) for port in self._ports)

    def has_work(self, port: LanePort) -> None:
        self._busy.setdefault(port)
        self.wake()

    def wake(self) -> None:
        self._wake.set()
        self._work.set()

    async def close(self) -> None:
        """Commands still waiting end as unknown: nobody will read their answers."""
        self._closed = True
        for task in (*self._tasks, *self._uploads):
            task.cancel()
        await asyncio.gather(*self._tasks, *self._uploads, return_exceptions=True)
        for port in self._ports:
            for ticket in list(port.futures):
                words = "the client was closed"
                port.settle(Settled(ticket, Verdict.UNKNOWN, command_pb.REASON_OUTCOME_UNKNOWN, words))

    # --- lanes --------------------------------------------------------------------------------------

    async def _pump_loop(self) -> None:
        """Gives lanes their turns. A turn waits for the loop to come round, so that what is ready goes together."""
        while True:
            self._wake.clear()
            next_ns = self._pump(time.monotonic_ns())
            wait_s = IDLE_TICK_S if next_ns is None else (next_ns - time.monotonic_ns()) / 1e9
            if wait_s > 0:
                try:
                    async with asyncio.timeout(min(wait_s, IDLE_TICK_S)):
                        await self._wake.wait()
                except TimeoutError:
                    continue
            await asyncio.sleep(0)

    def _pump(self, now_ns: int) -> int | None:
        """Runs every lane that has commands once; returns when to do so again at the latest."""
        budget = self._pacer.budget(now_ns)
        held = budget <= 0
        next_ns: int | None = self._pacer.next_ns(now_ns) if held else None
        for port in list(self._busy):
            sent = 0
            for instruction in port.lane.advance(now_ns, budget):
                match instruction:
                    case Send(payload, _, count):
                        sent += count
                        self._outbox.append(payload)
                        self._outbox_filled.set()
                    case Settled():
                        port.settle(instruction)
                    case Redirect(leader_hint):
                        self._redirect(leader_hint)
                    case SlowDown(retry_after_ns):
                        self._pacer.slow_down(now_ns, retry_after_ns)
                    case NeedChunks():
                        self._send_chunks(port, instruction)
            if sent:
                self._pacer.spend(now_ns, sent)
                budget -= sent
                # Whoever was served goes behind the others, so that a small budget reaches every lane in turn.
                del self._busy[port]
                self._busy[port] = None
            if not port.lane.pending:
                self._busy.pop(port, None)
            due_ns = port.lane.next_deadline_ns()
            if due_ns is not None and not (held and due_ns <= now_ns):
                next_ns = due_ns if next_ns is None else min(next_ns, due_ns)
        return next_ns

    def _send_chunks(self, port: LanePort, need: NeedChunks) -> None:
        content, upload = port.content.get(need.ticket, ({}, None))
        missing = {chunk_hash: content[chunk_hash] for chunk_hash in need.missing if chunk_hash in content}
        if upload is None or len(missing) < len(need.missing) or not missing:
            port.lane.give_up(need.ticket)
            self.wake()
            return

        async def send() -> None:
            try:
                await upload(missing)
                port.lane.chunks_sent(need.ticket)
            except Exception:  # whatever it was: nobody brings the content, so the command must end
                port.lane.give_up(need.ticket)
            self.wake()

        task = asyncio.create_task(send())
        self._uploads.add(task)
        task.add_done_callback(self._uploads.discard)

    def _redirect(self, leader_hint: str) -> None:
        if leader_hint == self._address:
            return
        self._nodes.leader = ""
        self._nodes.learn_leader(leader_hint)
        if self._call is not None:
            self._call.cancel()

    # --- the stream ---------------------------------------------------------------------------------

    async def _connect_loop(self) -> None:
        pause_s = RECONNECT_S[0]
        while True:
            if not self._busy:
                self._work.clear()
                await self._work.wait()
            address, index = await self._nodes.find_leader(suspect=self._address)
            if address:
                for port in self._ports:
                    port.lane.known(index)
                if await self._serve(address):
                    pause_s = RECONNECT_S[0]
            await asyncio.sleep(pause_s * (0.5 + self._rng.random() / 2))
            pause_s = min(pause_s * 2, RECONNECT_S[1])

    async def _serve(self, address: str) -> bool:
        """One stream, until it breaks. True if it ever carried an answer."""
        open_stream: grpc.aio.StreamStreamMultiCallable[bytes, command_pb.AcksBatch] = self._nodes.channel(
            address
        ).stream_stream(STREAM_METHOD, request_serializer=None, response_deserializer=command_pb.AcksBatch.FromString)
        call = open_stream(wait_for_ready=False)
        self._call, self._address = call, address
        self._outbox.clear()
        self._heard_ns = time.monotonic_ns()
        for port in self._ports:
            port.lane.connected(self._heard_ns)
        self._wake.set()
        heard = False
        side = [asyncio.create_task(self._write_loop(call)), asyncio.create_task(self._watch(call))]
        try:
            async for batch in call:
                heard = True
                self._heard(batch)
            self._nodes.said[address] = "closed the stream"
        except grpc.aio.AioRpcError as error:
            self._nodes.said[address] = f"broke the stream: {error.code().name} {error.details()}"
        except asyncio.CancelledError:
            if self._closed:
                raise
            current = asyncio.current_task()
            if current is not None and current.cancelling():
                raise
        finally:
            self._call = None
            for task in side:
                task.cancel()
            await asyncio.gather(*side, return_exceptions=True)
            call.cancel()
            now_ns = time.monotonic_ns()
            for port in self._ports:
                port.lane.disconnected(now_ns)
            self._outbox.clear()
        return heard

    def _heard(self, batch: command_pb.AcksBatch) -> None:
        now_ns = self._heard_ns = time.monotonic_ns()
        for acks in batch.acks:
            for port in self._busy:
                if port.lane.client_id == acks.client_id:
                    port.lane.acks(now_ns, acks)
                    break
        self._wake.set()

    async def _write_loop(self, call: grpc.aio.StreamStreamCall[bytes, command_pb.AcksBatch]) -> None:
        while True:
            while self._outbox:
                try:
                    await call.write(self._next_message())
                except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
                    call.cancel()
                    return
            self._outbox_filled.clear()
            if not self._outbox:
                await self._outbox_filled.wait()

    def _next_message(self) -> bytes:
        """What lanes have ready, as one SubmitBatch, as far as it goes into one."""
        submits = [self._outbox.popleft()]
        size_bytes = len(submits[0])
        while self._outbox and len(submits) < SUBMITS_MAX and size_bytes + len(self._outbox[0]) <= GATHER_BYTES_MAX:
            submits.append(self._outbox.popleft())
            size_bytes += len(submits[-1])
        return command_pb.SubmitBatch(submits=submits).SerializeToString()

    async def _watch(self, call: grpc.aio.StreamStreamCall[bytes, command_pb.AcksBatch]) -> None:
        """A leader that hangs, or is cut off, does not close the stream: look whether another has taken over."""
        while True:
            await asyncio.sleep(SILENT_NS / 4e9)
            waiting = bool(self._busy)
            if not waiting or time.monotonic_ns() - self._heard_ns < SILENT_NS:
                if not waiting:
                    self._heard_ns = time.monotonic_ns()
                continue
            address, _ = await self._nodes.find_leader(suspect=self._address)
            if address and address != self._address:
                call.cancel()
                return
