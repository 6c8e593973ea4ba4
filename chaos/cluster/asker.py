"""Asks nodes and paths from inside: `python -m chaos.cluster.asker SPEC`, a child of the harness.

Owns: gRPC to every node from where the clients are, and one UDP socket in every place by which a probe tells whether
packets get there.
Never: decides anything; opens a socket outside the places it was given.
Invariants: sockets of all places are opened before any thread exists, because a network namespace is a thread's own;
afterwards the process stays in the clients' namespace. It ends when its standard input does.

SPEC is JSON: places, and the cluster to ask (without it, paths alone can be probed).

    {"number": 1, "ask": "status", "node": "n1", "timeout_s": 1.0}  ->  {"number": 1, "status": {…} or null}
    {"number": 2, "ask": "probe", "source": "n1", "target": "n2", "timeout_s": 1.0}
        ->  {"number": 2, "there": true, "back": true, "round_trip_ms": 0.2}
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from chaos.cluster.entering import enter, inside

NONCE_BYTES = 16
CALL, REPLY = b"?", b"!"
PROBES_MAX = 1_024
Address = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Place:
    """`namespace` '' is the one that the harness runs in. `probe` is where the place's socket is bound."""

    namespace: str
    probe: Address


@dataclass(slots=True)
class Probe:
    sent_ns: int
    there: bool = False
    back: asyncio.Event = field(default_factory=asyncio.Event)


class Sockets:
    """One in every place; a probe goes from one to another and is answered by it."""

    def __init__(self, places: Mapping[str, Place]) -> None:
        self._places = places
        self._sockets = {name: inside(place.namespace, partial(_bound, place)) for name, place in places.items()}
        self._open: dict[bytes, Probe] = {}

    def listen(self) -> None:
        loop = asyncio.get_running_loop()
        for opened in self._sockets.values():
            loop.add_reader(opened, self._arrived, opened)

    async def probe(self, source: str, target: str, timeout_s: float) -> dict[str, object]:
        if len(self._open) >= PROBES_MAX:
            raise ValueError(f"PROBES_MAX {PROBES_MAX} probes are open")
        nonce = os.urandom(NONCE_BYTES)
        probe = self._open[nonce] = Probe(time.monotonic_ns())
        try:
            _send(self._sockets[source], CALL + nonce, self._places[target].probe)
            async with asyncio.timeout(timeout_s):
                await probe.back.wait()
        except TimeoutError:
            return {"there": probe.there, "back": False, "round_trip_ms": 0.0}
        finally:
            del self._open[nonce]
        return {"there": True, "back": True, "round_trip_ms": (time.monotonic_ns() - probe.sent_ns) / 1e6}

    def _arrived(self, opened: socket.socket) -> None:
        try:
            packet, sender = opened.recvfrom(64)
        except OSError:
            return  # an earlier packet was refused somewhere; the probe that sent it runs out of time
        probe = self._open.get(packet[1:])
        if probe is None:
            return
        if packet[:1] == CALL:
            probe.there = True
            _send(opened, REPLY + packet[1:], sender)
        elif packet[:1] == REPLY:
            probe.back.set()


def _bound(place: Place) -> socket.socket:
    opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    opened.setblocking(False)
    opened.bind(place.probe)
    return opened


def _send(opened: socket.socket, packet: bytes, to: Address) -> None:
    with contextlib.suppress(OSError):  # no way there at the moment: the same as a packet that is lost
        opened.sendto(packet, to)


class Nodes:
    """Status of the nodes over gRPC. Channels stay open; a node that comes back is reached again at once."""

    def __init__(self, client_file: Path, cluster_id: bytes, addresses: Mapping[str, str]) -> None:
        # Imported here: these start threads, which must be born in the clients' namespace.
        import hypercluster  # noqa: F401, I001  # before gRPC: it settles the cipher list
        import grpc
        from hypercluster.client.settings import read_settings
        from hypercluster.client.stubs import cluster_service
        from hypercluster.credentials import tls
        from hypercluster.pb.v1 import cluster_pb2
        from hypercluster.values import ClusterId

        files = read_settings(client_file).tls
        if files is None:
            raise ValueError(f"{client_file}: names no certificates")
        options = [
            ("grpc.initial_reconnect_backoff_ms", 50),
            ("grpc.min_reconnect_backoff_ms", 3_000),
            ("grpc.max_reconnect_backoff_ms", 500),
            *tls.expect_any_node(ClusterId(cluster_id)),
        ]
        credentials = tls.channel_credentials(tls.load(files))
        self._refused: type[Exception] = grpc.aio.AioRpcError
        self._request = cluster_pb2.StatusRequest()
        self._stubs = {
            name: cluster_service(grpc.aio.secure_channel(address, credentials, options=options))
            for name, address in addresses.items()
        }

    async def status(self, node: str, timeout_s: float) -> dict[str, object]:
        try:
            said = await self._stubs[node].Status(self._request, timeout=timeout_s)
        except self._refused:
            return {"status": None}
        view = {
            "role": said.role,
            "term": said.term,
            "leader": said.leader,
            "commit_index": said.commit_index,
            "applied_index": said.applied_index,
            "digest": said.digest.hex(),
            "base_index": said.base_index,
            "clock_skew_ms": said.clock_skew_ms,
        }
        return {"status": view}


async def _answer(question: Mapping[str, Any], sockets: Sockets, nodes: Nodes | None) -> dict[str, object]:
    try:
        match question["ask"]:
            case "status" if nodes is not None:
                return await nodes.status(question["node"], question["timeout_s"])
            case "probe":
                return await sockets.probe(question["source"], question["target"], question["timeout_s"])
            case other:
                return {"error": f"ask: {other!r}, expected status or probe"}
    except (KeyError, TypeError, ValueError) as error:
        return {"error": f"{type(error).__name__}: {error}"}


async def _serve(spec: Mapping[str, Any], sockets: Sockets) -> None:
    nodes: Nodes | None = None
    if found := spec.get("cluster"):
        nodes = Nodes(Path(found["client_file"]), bytes.fromhex(found["cluster_id"]), found["addresses"])
    sockets.listen()
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    print(json.dumps({"ready": True}), flush=True)
    open_questions: set[asyncio.Task[None]] = set()

    async def answer(question: Mapping[str, Any]) -> None:
        found = await _answer(question, sockets, nodes)
        print(json.dumps({"number": question["number"], **found}), flush=True)

    while line := await lines.readline():
        task = asyncio.create_task(answer(json.loads(line)))
        open_questions.add(task)
        task.add_done_callback(open_questions.discard)


def main(arguments: list[str]) -> None:
    if len(arguments) != 1:
        sys.exit("usage: python -m chaos.cluster.asker SPEC")
    spec = json.loads(arguments[0])
    places = {name: Place(place["namespace"], tuple(place["probe"])) for name, place in spec["places"].items()}
    if (threads := len(os.listdir("/proc/self/task"))) != 1:
        sys.exit(f"{threads} threads before the clients' namespace was entered: those would stay outside")
    sockets = Sockets(places)
    enter(places["clients"].namespace)
    asyncio.run(_serve(spec, sockets))


if __name__ == "__main__":
    main(sys.argv[1:])
