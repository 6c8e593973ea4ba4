"""The admin listener: /metrics, /health and /ready over plain HTTP, loopback only (OBS-1, OBS-2).

Owns: a minimal HTTP/1.1 server for GET; other parts add routes.
Never: changes anything, serves a body it was sent, keeps a connection open.
Invariants: a request is at most REQUEST_BYTES_MAX, a connection lives at most CONNECTION_S, at most
CONNECTIONS_MAX at once; a route that fails answers 500 and stops nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass

REQUEST_BYTES_MAX = 8_192
CONNECTION_S = 10.0
CONNECTIONS_MAX = 64

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Page:
    status: int
    content_type: str
    body: bytes


Route = Callable[[], Page]

_WORDS = {200: "OK", 400: "Bad Request", 404: "Not Found", 405: "Method Not Allowed", 500: "Error", 503: "Unavailable"}


def text_page(status: int, text: str) -> Page:
    return Page(status, "text/plain; charset=utf-8", text.encode())


class AdminListener:
    def __init__(self, routes: dict[str, Route]) -> None:
        self._routes = routes
        self._server: asyncio.Server | None = None
        self._open = 0

    async def start(self, host: str, port: int) -> int:
        """The port bound (useful with port 0)."""
        self._server = await asyncio.start_server(self._serve, host, port, limit=REQUEST_BYTES_MAX)
        bound: int = self._server.sockets[0].getsockname()[1]
        return bound

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open += 1
        try:
            if self._open > CONNECTIONS_MAX:
                return
            async with asyncio.timeout(CONNECTION_S):
                page, head_only = await self._answer(reader)
                writer.write(_encode(page, head_only))
                await writer.drain()
        except (TimeoutError, OSError, asyncio.IncompleteReadError):
            pass  # the other side went away or was too slow: nothing is owed to it
        finally:
            self._open -= 1
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader) -> tuple[Page, bool]:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError:
            return text_page(400, f"a request is at most {REQUEST_BYTES_MAX} bytes\n"), False
        parts = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ")
        if len(parts) != 3 or not parts[2].startswith("HTTP/1."):
            return text_page(400, "this is not HTTP/1\n"), False
        method, target, _ = parts
        if method not in ("GET", "HEAD"):
            return text_page(405, "only GET\n"), False
        route = self._routes.get(target.partition("?")[0])
        if route is None:
            return text_page(404, "known: " + ", ".join(sorted(self._routes)) + "\n"), method == "HEAD"
        try:
            return route(), method == "HEAD"
        except Exception:
            log.exception("admin route failed", extra={"fields": {"route": target}})
            return text_page(500, "error; the node's log has the details\n"), method == "HEAD"


def _encode(page: Page, head_only: bool) -> bytes:
    head = (
        f"HTTP/1.1 {page.status} {_WORDS.get(page.status, 'Status')}\r\n"
        f"Content-Type: {page.content_type}\r\nContent-Length: {len(page.body)}\r\n"
        "Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\nConnection: close\r\n\r\n"
    ).encode("latin-1")
    return head if head_only else head + page.body
