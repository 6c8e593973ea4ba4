"""Real node processes on this machine, for tests: start, stop, kill, restart, find the leader, talk to them.

    async with Cluster(tmp_path, nodes=3) as cluster:
        leader = await cluster.leader()
        cluster.kill(leader)

`module` names what is run as `python -m MODULE serve --config …`, so that a test build can be put in the place of the
product. Everything lies below one directory; ports are free ones.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import grpc

from hypercluster.cli.founding import NodePlan, found_cluster
from hypercluster.client.settings import ClientSettings, read_settings
from hypercluster.credentials import tls
from hypercluster.credentials.certificates import KeyPair, issue_client, write_pair
from hypercluster.pb.v1 import cluster_pb2, cluster_pb2_grpc

T = TypeVar("T")

START_S = 20.0
FAST_RATE: Mapping[str, Mapping[str, object]] = {
    "rate": {"ops_per_s": 1_000_000, "burst_ops": 1_000_000, "bytes_per_s": 1 << 36}
}


def free_ports(count: int) -> list[int]:
    """Ports nobody listens on now, none twice, and below those that the kernel gives to outgoing connections."""
    chosen: list[int] = []
    rng = random.Random(os.urandom(8))
    while len(chosen) < count:
        port = rng.randrange(15_000, 32_000)
        if port in chosen:
            continue
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        chosen.append(port)
    return chosen


class Cluster:
    """A founded cluster. Use it as an async context manager: it starts all nodes and leaves none behind."""

    def __init__(
        self,
        directory: Path,
        nodes: int = 3,
        *,
        settings: Mapping[str, Mapping[str, object]] = FAST_RATE,
        module: str = "hypercluster.cli.main",
        arguments: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """`arguments` stand before `serve`."""
        self.directory = directory / "cluster"
        self.module = module
        self.arguments = tuple(arguments)
        self.environment = dict(environment or {})
        ports = free_ports(3 * nodes)
        self.plans = {f"n{i + 1}": NodePlan(f"n{i + 1}", "127.0.0.1", *ports[3 * i : 3 * i + 3]) for i in range(nodes)}
        self.cluster_id = found_cluster(
            self.directory, list(self.plans.values()), client_name="tester", settings=settings
        )
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._channels: dict[str, grpc.aio.Channel] = {}

    # --- processes ---

    async def __aenter__(self) -> Cluster:
        try:
            for name in self.plans:
                self.start(name)
            await self.leader(START_S)
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            for name in self.plans:
                print(f"--- last lines of {name}\n{self.log(name)[-3000:]}")
        await self.close()

    async def close_channels(self) -> None:
        """Channels belong to the loop that opened them."""
        channels, self._channels = list(self._channels.values()), {}
        for channel in channels:
            await channel.close()

    async def close(self) -> None:
        await self.close_channels()
        for process in self.processes.values():
            if process.poll() is None:
                process.kill()
            process.wait()

    def start(self, name: str) -> None:
        node = self.directory / name
        with (node / "log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [sys.executable, "-m", self.module, *self.arguments, "serve", "--config", str(node / "node.toml")],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **self.environment},
            )

    def kill(self, name: str) -> None:
        """SIGKILL, as a power cut of the process alone."""
        self.processes[name].kill()
        self.processes[name].wait()

    def pause(self, name: str) -> None:
        self.processes[name].send_signal(signal.SIGSTOP)

    def resume(self, name: str) -> None:
        self.processes[name].send_signal(signal.SIGCONT)

    async def stop(self, name: str, deadline_s: float = 15.0) -> int:
        """SIGTERM; the exit code."""
        process = self.processes[name]
        process.terminate()
        await eventually(lambda: process.poll() is not None, f"{name} stops", deadline_s)
        return process.returncode

    async def restart(self, name: str) -> None:
        self.kill(name)
        self.start(name)

    def log(self, name: str) -> str:
        path = self.directory / name / "log"
        return path.read_text(errors="replace") if path.exists() else ""

    # --- talking to them ---

    def data(self, name: str) -> Path:
        return self.directory / name / "data"

    @property
    def client_file(self) -> Path:
        return self.directory / "client.toml"

    def client_settings(self) -> ClientSettings:
        return read_settings(self.client_file)

    def client_pair(self, name: str) -> tls.TlsFiles:
        """Files of a further client certificate."""
        ca = KeyPair((self.directory / "ca.pem").read_bytes(), (self.directory / "ca.key").read_bytes())
        certificate, key = self.directory / f"{name}.pem", self.directory / f"{name}.key"
        if not certificate.exists():
            write_pair(issue_client(ca, self.cluster_id, name), certificate, key)
        return tls.TlsFiles(self.directory / "ca.pem", certificate, key)

    def address(self, name: str) -> str:
        return self.plans[name].client_address()

    def channel(self, name: str) -> grpc.aio.Channel:
        """Kept open; a node that comes back on its port is reached again."""
        found = self._channels.get(name)
        if found is None:
            found = self._channels[name] = self.new_channel(name, self.client_pair("tester-2"))
        return found

    def new_channel(self, name: str, files: tls.TlsFiles) -> grpc.aio.Channel:
        options = [
            ("grpc.max_receive_message_length", 8 << 20),
            ("grpc.initial_reconnect_backoff_ms", 50),
            ("grpc.min_reconnect_backoff_ms", 50),
            ("grpc.max_reconnect_backoff_ms", 200),
            *tls.expect_any_node(self.cluster_id),
        ]
        return grpc.aio.secure_channel(self.address(name), tls.channel_credentials(tls.load(files)), options=options)

    async def status(self, name: str, timeout_s: float = 1.0) -> cluster_pb2.NodeStatus | None:
        """None when the node does not answer."""
        stub = cluster_pb2_grpc.ClusterServiceStub(self.channel(name))  # type: ignore[no-untyped-call]
        try:
            answer: cluster_pb2.NodeStatus = await stub.Status(cluster_pb2.StatusRequest(), timeout=timeout_s)
        except grpc.aio.AioRpcError:
            return None
        return answer

    async def leader(self, deadline_s: float = 10.0, *, other_than: str = "") -> str:
        """The node that leads in the highest term seen, once one does."""
        end = time.monotonic() + deadline_s
        while time.monotonic() < end:
            best = (0, "")
            for name, process in self.processes.items():
                if process.poll() is not None or name == other_than:
                    continue
                status = await self.status(name)
                if status is not None and status.role == "leader":
                    best = max(best, (status.term, name))
            if best[1]:
                return best[1]
            await asyncio.sleep(0.02)
        raise AssertionError(f"no leader within {deadline_s} s")

    async def all_applied(self, index: int, deadline_s: float = 10.0) -> list[cluster_pb2.NodeStatus]:
        """Waits until every running node has applied `index`."""
        found: list[cluster_pb2.NodeStatus] = []

        async def look() -> bool:
            found.clear()
            for name, process in self.processes.items():
                if process.poll() is None:
                    status = await self.status(name)
                    if status is None or status.applied_index < index:
                        return False
                    found.append(status)
            return True

        end = time.monotonic() + deadline_s
        while not await look():
            assert time.monotonic() < end, f"not all nodes applied {index} within {deadline_s} s"
            await asyncio.sleep(0.02)
        return found


async def eventually(condition: Callable[[], object], what: str, deadline_s: float = 10.0) -> None:
    end = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end, f"not within {deadline_s} s: {what}"
        await asyncio.sleep(0.01)
