"""A TCP relay whose wire can be cut, made silent or clogged, between two real processes or transports.

Owns: `TcpProxy`. `cut()` closes every connection and refuses new ones; `silence()` keeps connections and swallows
what comes, as a lost cable does; `clog()` stops reading, as a peer that does not read does; `heal()` ends all three.
"""

from __future__ import annotations

import asyncio


class TcpProxy:
    def __init__(self, target_host: str, target_port: int) -> None:
        self._target = (target_host, target_port)
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._open = asyncio.Event()  # not clogged
        self._open.set()
        self._refusing = False
        self._silent = False
        self.relayed_bytes = 0
        self.connections = 0

    async def start(self) -> int:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, limit=64 * 1024)
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    def cut(self) -> None:
        self._refusing = True
        for writer in list(self._writers):
            writer.transport.abort()

    def silence(self) -> None:
        self._silent = True

    def clog(self) -> None:
        self._open.clear()

    def heal(self) -> None:
        """Connections that were silenced stay broken streams: they are closed, so that both ends start over."""
        if self._silent:
            for writer in list(self._writers):
                writer.transport.abort()
        self._refusing = self._silent = False
        self._open.set()

    async def stop(self) -> None:
        self._refusing = True
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()
        for _ in range(5):  # a connection that was just being accepted reaches _accept, which closes it
            await asyncio.sleep(0)
        self.cut()
        while self._tasks:
            for task in list(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._refusing:
            writer.transport.abort()
            return
        self.connections += 1
        accepting = asyncio.current_task()
        assert accepting is not None
        self._tasks.add(accepting)
        accepting.add_done_callback(self._tasks.discard)
        try:
            other_reader, other_writer = await asyncio.open_connection(*self._target, limit=64 * 1024)
        except (OSError, asyncio.CancelledError):
            writer.transport.abort()
            return
        if self._refusing:
            writer.transport.abort()
            other_writer.transport.abort()
            return
        for source, sink in ((reader, other_writer), (other_reader, writer)):
            self._writers.add(sink)
            task = asyncio.create_task(self._relay(source, sink))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _relay(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        try:
            while True:
                await self._open.wait()
                piece = await source.read(64 * 1024)
                if not piece:
                    break
                await self._open.wait()
                if self._silent:
                    continue
                self.relayed_bytes += len(piece)
                sink.write(piece)
                await sink.drain()
        except OSError:
            pass
        finally:
            self._writers.discard(sink)
            sink.transport.abort()
