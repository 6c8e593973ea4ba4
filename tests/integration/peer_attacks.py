"""Dialers and listeners that break the rules of the peer port, each at one step.

Owns: `knock` (a gRPC dialer that sends any bytes), `flood` and `follow` (HTTP/2 by hand), `tls_dial`, `Impostor`.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from hypercluster.credentials.certificates import KeyPair
from hypercluster.credentials.names import node_dns_name
from hypercluster.limits import KIB
from hypercluster.pb.v1 import peer_pb2
from hypercluster.raft.peer_listener import METHOD, REASON_KEY, SERVICE
from hypercluster.values import NodeId
from tests.fakes import certs
from tests.fakes.waiting import eventually

PATH = f"/{SERVICE}/{METHOD}"


@dataclass(frozen=True)
class Answer:
    """What the dialer got: the status's name, the reason code, and the messages before it."""

    status: str
    reason: str
    replies: tuple[bytes, ...]


def hello(node_id: str = "n1", incarnation: bytes = b"n1/0............", **changes: Any) -> bytes:
    fields: dict[str, Any] = {
        "cluster_id": certs.CLUSTER, "node_id": node_id, "incarnation": incarnation, "protocol": 1, "version": "0.1",
        "client_address": "127.0.0.1:7001",
    }  # fmt: skip
    frame = peer_pb2.PeerFrame(hello=peer_pb2.PeerHello(**{**fields, **changes}))
    return message(frame.SerializeToString())


def message(*frames: bytes) -> bytes:
    return peer_pb2.PeerMessage(frames=frames).SerializeToString()


def forged_leader() -> bytes:
    """An append of term 10^6, as in the attack on a library that believes everybody."""
    entry = peer_pb2.RaftEntry(index=3, term=10**6, payload=b"forged")
    append = peer_pb2.AppendEntries(term=10**6, prev_index=2, prev_term=1, commit_index=3, entries=[entry])
    return message(peer_pb2.PeerFrame(append=append).SerializeToString())


async def knock(
    port: int,
    pair: KeyPair | None,
    messages: Sequence[bytes],
    *,
    wait_s: float = 5.0,
    pause: bool = False,
) -> Answer:
    """Opens a stream to what it takes for n2 and writes `messages`; "OPEN" when that is still so after `wait_s`.

    `pair` None: without TLS. `pause` waits for a reply after the first message."""
    return await asyncio.to_thread(_knock, port, pair, messages, wait_s, pause)


@contextlib.asynccontextmanager
async def member_stream(port: int, pair: KeyPair) -> AsyncIterator[grpc.aio.StreamStreamCall[bytes, bytes]]:
    """A stream to n2, as a true member opens it, before its hello."""
    credentials = grpc.ssl_channel_credentials(certs.ca().certificate_pem, pair.key_pem, pair.certificate_pem)
    name = ("grpc.ssl_target_name_override", node_dns_name(certs.CLUSTER, NodeId("n2")))
    options = [name, ("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.secure_channel(f"127.0.0.1:{port}", credentials, options=options) as channel:
        call: grpc.aio.StreamStreamCall[bytes, bytes] = channel.stream_stream(PATH)()
        yield call
        call.cancel()


async def visit(port: int, pair: KeyPair, body: bytes, seen: Callable[[], object]) -> bool:
    """What a true member does: hello, the other's hello, one frame. False when it was not let in."""
    async with member_stream(port, pair) as call:
        try:
            await call.write(hello())
            if not isinstance(await call.read(), bytes):
                return False
            await call.write(message(body))
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            return False
        await eventually(seen, "the member's frame")
        return True


def _knock(port: int, pair: KeyPair | None, messages: Sequence[bytes], wait_s: float, pause: bool) -> Answer:
    """By gRPC's threads: with grpc.aio, a write that comes too late hides the status that was received."""
    options = [("grpc.max_send_message_length", -1), ("grpc.enable_retries", 0), ("grpc.use_local_subchannel_pool", 1)]
    if pair is None:
        channel = grpc.insecure_channel(f"127.0.0.1:{port}", options=options)
    else:
        trust = certs.ca().certificate_pem
        credentials = grpc.ssl_channel_credentials(trust, pair.key_pem, pair.certificate_pem)
        name = ("grpc.ssl_target_name_override", node_dns_name(certs.CLUSTER, NodeId("n2")))
        channel = grpc.secure_channel(f"127.0.0.1:{port}", credentials, options=[*options, name])
    replied, over = threading.Event(), threading.Event()

    def requests() -> Iterator[bytes]:
        for number, one in enumerate(messages):
            if pause and number == 1:
                replied.wait(wait_s)
            yield one
        over.wait(wait_s + 1)

    replies: list[bytes] = []
    with channel:
        call = channel.stream_stream(PATH)(requests(), timeout=wait_s)
        try:
            for reply in call:
                replies.append(reply)
                replied.set()
        except grpc.RpcError:
            pass
        over.set()
        status = call.code().name
        reason = next((str(value) for key, value in call.trailing_metadata() or () if key == REASON_KEY), "")
    return Answer("OPEN" if status == "DEADLINE_EXCEEDED" else status, reason, tuple(replies))


def tls_context(version: ssl.TLSVersion | None, pair: KeyPair | None, directory: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    if version is not None:
        context.minimum_version = context.maximum_version = version
    if pair is not None:
        directory.mkdir(parents=True, exist_ok=True)
        chain = directory / "chain.pem"
        chain.write_bytes(pair.certificate_pem + pair.key_pem)
        context.load_cert_chain(chain)
    return context


def tls_dial(port: int, context: ssl.SSLContext, timeout_s: float = 5.0) -> ssl.SSLSocket:
    """Blocking. Raises OSError (ssl.SSLError included)."""
    plain = socket.create_connection(("127.0.0.1", port), timeout=timeout_s)
    try:
        return context.wrap_socket(plain)
    except BaseException:
        plain.close()
        raise


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def http2_request(path: str = PATH) -> bytes:
    """Preface, settings and the headers of one gRPC stream, HPACK literals without compression."""
    headers = b""
    for name, value in (
        (":method", "POST"), (":scheme", "https"), (":path", path), (":authority", "x"),
        ("content-type", "application/grpc"), ("te", "trailers"),
    ):  # fmt: skip
        headers += b"\0" + bytes((len(name),)) + name.encode() + bytes((len(value),)) + value.encode()
    return b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _frame(4, 0, 0, b"") + _frame(1, 4, 1, headers)


def oversized_message(claimed_bytes: int) -> bytes:
    """The first DATA frame of a gRPC message that says it is `claimed_bytes` long."""
    return _frame(0, 0, 1, struct.pack(">BI", 0, claimed_bytes) + bytes(1_000))


def flood(connection: socket.socket, opening: bytes, bytes_max: int) -> int:
    """Blocking: writes the opening, then DATA frames past every window, until the other end has had enough."""
    block = _frame(0, 0, 1, bytes(16_000)) * 16
    sent = 0
    try:
        connection.sendall(opening)
        while sent < bytes_max:
            connection.sendall(block)
            sent += len(block)
    except OSError:
        pass
    return sent


def follow(connection: socket.socket, opening: bytes, bytes_max: int) -> int:
    """Blocking: writes the opening, then DATA frames as far as the other end opens its windows, as a peer that keeps to
    HTTP/2 would; until the stream is closed, no window is opened for a second, or `bytes_max` are out."""
    windows = _Windows()
    sent = 0
    connection.settimeout(1.0)
    try:
        connection.sendall(opening)
        while sent < bytes_max and not windows.closed:
            room_bytes = min(windows.stream_bytes, windows.connection_bytes, 16_000)
            if room_bytes > 0:
                connection.sendall(_frame(0, 0, 1, bytes(room_bytes)))
                sent += room_bytes
                windows.stream_bytes -= room_bytes
                windows.connection_bytes -= room_bytes
            elif got := connection.recv(65_536):
                connection.sendall(windows.take(got))
            else:
                break
    except OSError:
        pass
    return sent


class _Windows:
    """How much the other end of stream 1 takes (RFC 9113, 6.9), from what it sends."""

    def __init__(self) -> None:
        self._initial_bytes = 65_535
        self.stream_bytes = self.connection_bytes = self._initial_bytes - 4 * KIB  # the opening has DATA frames, too
        self.closed = False
        self._received = b""

    def take(self, received: bytes) -> bytes:
        """Answers what is to be sent back."""
        self._received += received
        replies = b""
        while len(self._received) >= (whole := 9 + int.from_bytes(self._received[:3], "big")):
            head, payload = self._received[:9], self._received[9:whole]
            self._received = self._received[whole:]
            replies += self._frame(head[3], head[4], head[5:] == bytes(4), payload)
        return replies

    def _frame(self, kind: int, flags: int, is_of_connection: bool, payload: bytes) -> bytes:
        match kind:
            case 3 | 7:  # RST_STREAM, GOAWAY
                self.closed = True
            case 4 if not flags & 1:  # SETTINGS
                for key, value in struct.iter_unpack(">HI", payload):
                    if key == 4:
                        self.stream_bytes += value - self._initial_bytes
                        self._initial_bytes = value
                return _frame(4, 1, 0, b"")
            case 6 if not flags & 1:  # PING
                return _frame(6, 1, 0, payload)
            case 8 if is_of_connection:  # WINDOW_UPDATE
                self.connection_bytes += int.from_bytes(payload, "big")
            case 8:
                self.stream_bytes += int.from_bytes(payload, "big")
            case _:
                pass
        return b""


class Impostor:
    """A listener that pretends to be a node, and remembers every message it was given."""

    def __init__(self) -> None:
        self.messages: list[bytes] = []
        self.streams = 0
        self._server = grpc.aio.server()

    async def start(self, pair: KeyPair | None, trust: KeyPair | None = None, answers: Sequence[bytes] = ()) -> int:
        async def exchange(_: object, context: grpc.aio.ServicerContext[Any, Any]) -> None:
            self.streams += 1
            for answer in answers:
                await context.write(answer)
            while isinstance(one := await context.read(), bytes):
                self.messages.append(one)

        method: grpc.RpcMethodHandler[Any, Any] = grpc.stream_stream_rpc_method_handler(exchange)
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {METHOD: method}),))
        if pair is None:
            port = self._server.add_insecure_port("127.0.0.1:0")
        else:
            chain = [(pair.key_pem, pair.certificate_pem)]
            credentials = grpc.ssl_server_credentials(chain, (trust or certs.ca()).certificate_pem, True)
            port = self._server.add_secure_port("127.0.0.1:0", credentials)
        await self._server.start()
        return port

    async def stop(self) -> None:
        await self._server.stop(None)
