"""A node's peer port in a process of its own, for attacks: prints its port, echoes what members send, tells on request.

Run as `python -m tests.integration.peer_victim CONFIG.json`. Each line on stdin is answered by one JSON line.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import resource
import sys
from pathlib import Path

import uvloop

from hypercluster.credentials.tls import ReloadingFiles, TlsFiles
from hypercluster.raft import peer_timing
from hypercluster.raft.peer_hello import LocalNode
from hypercluster.raft.peer_timing import PeerTiming
from hypercluster.raft.peer_transport import GrpcPeerTransport
from hypercluster.values import ClusterId, Incarnation, Index, Member, Membership, NodeId, Suffrage

_STATM = os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)  # open already when there are no descriptors left


def rss_bytes() -> int:
    return int(os.pread(_STATM, 100, 0).split()[1]) * resource.getpagesize()


def peak_bytes() -> int:
    """Of this program: getrusage would begin at what the process that started it had used, also after exec."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no VmHWM in /proc/self/status")


async def serve(config: dict[str, object]) -> None:
    if config.get("descriptors_max"):
        limit = int(str(config["descriptors_max"]))
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    if config.get("known_bad_unbounded_messages"):
        peer_timing.PEER_MESSAGE_BYTES_MAX = -1  # type: ignore[misc]
    directory = Path(str(config["tls"]))
    fatal: list[str] = []
    transport = GrpcPeerTransport(
        LocalNode(
            ClusterId(bytes.fromhex(str(config["cluster_id"]))),
            NodeId(str(config["node_id"])),
            Incarnation(bytes.fromhex(str(config["incarnation"]))),
            "127.0.0.1:7000",
            "0.1",
        ),
        ReloadingFiles(TlsFiles(directory / "ca.crt", directory / "own.crt", directory / "own.key")),
        rng=random.Random(1),
        on_fatal=lambda error: fatal.append(repr(error)),
        timing=PeerTiming(handshake_timeout_s=1.5, idle_s=3.0),
    )
    port = await transport.listen(f"127.0.0.1:{config.get('port', 0)}")
    seen = {"frames": 0, "bytes": 0, "connects": 0}

    def on_frame(peer: NodeId, frame: bytes) -> None:
        seen["frames"] += 1
        seen["bytes"] += len(frame)
        if config.get("echo") and frame.startswith(b"e"):
            transport.send(peer, frame)

    def on_connected(_: NodeId) -> None:
        seen["connects"] += 1

    transport.start(on_frame, on_connected, lambda _: None)
    raw_members: list[list[str]] = config["members"]  # type: ignore[assignment]
    members = tuple(
        Member(NodeId(n), Incarnation(bytes.fromhex(i)), address, Suffrage.VOTER) for n, i, address in raw_members
    )
    transport.set_peers(Membership(Index(1), 3, members))
    print(port, flush=True)
    loop = asyncio.get_running_loop()
    while await loop.run_in_executor(None, sys.stdin.readline):
        report = {
            **seen,
            "rss": rss_bytes(),
            "peak": peak_bytes(),
            "refused": transport.refused_counts(),
            "fatal": fatal,
        }
        print(json.dumps(report), flush=True)
    transport.close()
    await transport.wait_closed()


if __name__ == "__main__":
    uvloop.run(serve(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))))
