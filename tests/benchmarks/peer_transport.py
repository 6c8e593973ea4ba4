"""What the peer streams cost: round trips and one-way frames between two processes, beside plain TCP without TLS.

Run as `python -m tests.benchmarks.peer_transport`. Prints one line a case: median round trip, frames a second, and the
CPU time of both processes a frame. The plain TCP rows are the floor: length, bytes, no TLS, no HTTP/2, same loop.
"""

from __future__ import annotations

import asyncio
import os
import random
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import uvloop

from hypercluster.raft import peer_link, peer_wire
from tests.fakes.waiting import eventually
from tests.integration.test_peer_security import N1, N2, Remote, make, members

ROUNDS = 2_000
BYTES = 150 << 20
FRAMES_MAX = 20_000


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rsplit(") ", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Answers:
    """Frames that came back, awaited by count."""

    def __init__(self) -> None:
        self.count = 0
        self._wanted = 0
        self._reached = asyncio.Event()

    def one(self, *_: object) -> None:
        self.count += 1
        if self.count >= self._wanted:
            self._reached.set()

    async def until(self, count: int) -> None:
        self._wanted = count
        self._reached.clear()
        if self.count < count:
            await self._reached.wait()


async def measure(
    name: str,
    size: int,
    send: Callable[[bytes], Awaitable[None]],
    answers: Answers,
    pids: tuple[int, int],
    flush: bytes,
) -> None:
    frame = random.Random(1).randbytes(size)
    trips = []
    for _ in range(ROUNDS if size < 100_000 else 100):
        begun = time.perf_counter()
        await send(b"e" + frame)
        await answers.until(answers.count + 1)
        trips.append(time.perf_counter() - begun)
    trips.sort()
    count = min(FRAMES_MAX, BYTES // size)
    cpu, begun = sum(map(cpu_s, pids)), time.perf_counter()
    for _ in range(count):
        await send(b"x" + frame)
    await send(flush)
    await answers.until(answers.count + 1)
    took, cpu = time.perf_counter() - begun, sum(map(cpu_s, pids)) - cpu
    p50, p99 = trips[len(trips) // 2] * 1e6, trips[-len(trips) // 100] * 1e6
    rates = (
        f"{count / took:8.0f} frames/s {count * size / took / 1e6:6.0f} MB/s {cpu / count * 1e6:7.1f} us CPU a frame"
    )
    print(f"{name:20} {size:8} B  round trip p50 {p50:5.0f} us, p99 {p99:5.0f} us {rates}", flush=True)


async def over_grpc(name: str, directory: Path, sizes: tuple[int, ...]) -> None:
    remote = Remote(directory, N2, echo=True)
    node = make(N1, directory)
    answers = Answers()
    await node.transport.listen("127.0.0.1:0")
    up = asyncio.Event()
    node.transport.start(answers.one, lambda _: up.set(), lambda _: None)
    node.transport.set_peers(members({N2: f"127.0.0.1:{remote.port}"}))
    await up.wait()

    async def send(frame: bytes) -> None:
        await eventually(lambda: node.transport.send(N2, frame), "room in the queue")

    for size in sizes:
        await measure(name, size, send, answers, (os.getpid(), remote.pid), b"e")
    node.transport.close()
    await node.transport.wait_closed()
    remote.stop()


PLAIN_PEER = """
import asyncio, struct, sys, uvloop
async def serve(reader, writer):
    try:
        while True:
            frame = await reader.readexactly(struct.unpack("I", await reader.readexactly(4))[0])
            if frame[:1] == b"e":
                writer.write(struct.pack("I", len(frame)) + frame)
    except asyncio.IncompleteReadError:
        writer.close()
async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", 0, limit=1 << 22)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()
uvloop.run(main())
"""


async def over_plain_tcp(sizes: tuple[int, ...]) -> None:
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", PLAIN_PEER, stdout=subprocess.PIPE)
    assert process.stdout is not None
    port = int(await process.stdout.readline())
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 22)
    answers = Answers()

    async def read() -> None:
        while True:
            await reader.readexactly(struct.unpack("I", await reader.readexactly(4))[0])
            answers.one()

    async def send(frame: bytes) -> None:
        writer.write(struct.pack("I", len(frame)))
        writer.write(frame)
        await writer.drain()

    task = asyncio.create_task(read())
    for size in sizes:
        await measure("plain TCP", size, send, answers, (os.getpid(), process.pid), b"e")
    task.cancel()
    writer.close()
    process.kill()
    await process.wait()


async def main() -> None:
    sizes = (200, 4_000, 130_000, 1_000_000)
    with tempfile.TemporaryDirectory() as directory:
        await over_plain_tcp(sizes)
        await over_grpc("gRPC, frames joined", Path(directory), sizes)
        take = peer_wire.take
        peer_link.peer_wire.take = lambda queue: take(queue, join=False)  # type: ignore[assignment, misc]
        await over_grpc("gRPC, one a message", Path(directory), sizes[:2])


if __name__ == "__main__":
    uvloop.run(main())
