"""A cluster of our own for a bench run: three node processes with mTLS on loopback, data in one directory.

Owns: founding it, starting, killing and restarting nodes, finding the leader, CPU times of the processes.
Never: other settings than the product's defaults, except a rate limit that is out of the way.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import time
from pathlib import Path

from hypercluster.cli.bench.etcd import free_ports
from hypercluster.cli.bench.load import Plan
from hypercluster.cli.dev import last_lines, start_node
from hypercluster.cli.founding import CLIENT_FILE, NodePlan, found_cluster
from hypercluster.cli.status import look
from hypercluster.client.settings import ClientSettings, read_settings
from hypercluster.credentials.tls import expect_any_node
from hypercluster.errors import DeadlineError, NotFoundError

RATE = {"rate": {"ops_per_s": 1_000_000, "burst_ops": 1_000_000, "bytes_per_s": 1 << 36}}
READY_S = 30.0
TICKS = os.sysconf("SC_CLK_TCK")


def cpu_s(pid: int) -> float:
    """User and system seconds of a process, its threads included."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


class LocalCluster:
    """An async context manager; no process outlives it."""

    def __init__(self, directory: Path, nodes: int = 3) -> None:
        self._directory = directory
        ports = free_ports(3 * nodes)
        self._plans = [NodePlan(f"n{i + 1}", "127.0.0.1", *ports[3 * i : 3 * i + 3]) for i in range(nodes)]
        self.cluster_id = found_cluster(directory, self._plans, client_name="bench", settings=RATE)
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    async def __aenter__(self) -> LocalCluster:
        try:
            for plan in self._plans:
                self.start(plan.name)
            await self.leader()
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        for process in self.processes.values():
            process.kill()
        for process in self.processes.values():
            process.wait()

    def settings(self) -> ClientSettings:
        return read_settings(self._directory / CLIENT_FILE)

    def start(self, name: str) -> None:
        self.processes[name] = start_node(self._directory, name)

    def kill(self, name: str) -> None:
        self.processes[name].kill()
        self.processes[name].wait()

    def pids(self) -> list[int]:
        return [p.pid for p in self.processes.values() if p.poll() is None]

    def address(self, name: str) -> str:
        return next(plan.client_address() for plan in self._plans if plan.name == name)

    async def leader(self, *, all_up: bool = True) -> str:
        """Its name, once it leads and (if asked) every node is well."""
        end_s = time.monotonic() + READY_S
        while time.monotonic() < end_s:
            overview = await look(self.settings())
            if overview.leader is not None and (not all_up or overview.health == "healthy"):
                return str(overview.leader.node_id)
            await asyncio.sleep(0.1)
        ended = [name for name, process in self.processes.items() if process.poll() is not None]
        words = "\n".join(f"{name}: {last_lines(self._directory / name / 'log')}" for name in ended)
        raise DeadlineError(f"the bench cluster has no leader after {READY_S:.0f} s\n{words}")

    async def term(self) -> int:
        overview = await look(self.settings())
        if overview.leader is None:
            raise NotFoundError("the bench cluster has no leader")
        return int(overview.leader.term)

    async def plan(self, **values: object) -> Plan:
        """A load at the leader."""
        tls = self.settings().tls
        assert tls is not None, "founding makes certificates"
        return Plan(
            address=self.address(await self.leader()),
            ca=str(tls.trust),
            cert=str(tls.certificate),
            key=str(tls.key),
            server_name=str(dict(expect_any_node(self.cluster_id))["grpc.ssl_target_name_override"]),
            **values,  # type: ignore[arg-type]
        )
