"""Three local etcd members and a compiled load at their leader: the other side of every ratio (PERF-2).

Owns: finding etcd and Go, building etcd_load.go once into a cache directory, starting and stopping members.
Never: `etcdctl check perf`, which limits itself.
"""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from dataclasses import dataclass

SOURCE = pathlib.Path(__file__).with_name("etcd_load.go")
GO_LIBRARY = pathlib.Path("/usr/share/gocode/src/go.etcd.io/etcd")  # Debian's golang-etcd-server-dev
INSTALL = "apt-get install etcd-server golang-go golang-etcd-server-dev"
READY_S = 30.0


class EtcdMissingError(Exception):
    """etcd or its load can not be had here; the message says what to install."""


@dataclass(frozen=True, slots=True)
class LoadResult:
    """One closed-loop run. Rates in operations (puts) a second, latencies in milliseconds a request."""

    ops_s: float
    p50_ms: float
    p99_ms: float
    max_ms: float
    samples: int
    errors: int


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def build_load(cache: pathlib.Path) -> pathlib.Path:
    """The compiled client; built again when its source changes."""
    if shutil.which("etcd") is None or shutil.which("go") is None or not GO_LIBRARY.is_dir():
        raise EtcdMissingError(f"etcd, Go or etcd's client library is missing. Try: {INSTALL}")
    source = SOURCE.read_bytes()
    target = cache / f"etcd_load-{hashlib.sha256(source).hexdigest()[:16]}"
    if target.exists():
        return target
    cache.mkdir(parents=True, exist_ok=True)
    environment = dict(os.environ, GO111MODULE="off", GOPATH="/usr/share/gocode", GOFLAGS="", GOCACHE=str(cache / "go"))
    made = subprocess.run(
        ["go", "build", "-o", str(target), str(SOURCE)], env=environment, capture_output=True, text=True, check=False
    )
    if made.returncode != 0:
        raise EtcdMissingError(f"etcd_load.go does not build:\n{made.stderr}\nTry: {INSTALL}")
    return target


def etcd_version() -> str:
    out = subprocess.run(["etcd", "--version"], capture_output=True, text=True, check=False).stdout
    return out.splitlines()[0].removeprefix("etcd Version: ") if out else "unknown"


class EtcdCluster:
    """Three members on loopback with their data under `directory`. A context manager."""

    def __init__(self, directory: pathlib.Path, load: pathlib.Path) -> None:
        self._directory = directory
        self._load = load
        ports = free_ports(6)
        self._clients, self._peers = ports[:3], ports[3:]
        self._members: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> EtcdCluster:
        members = ",".join(f"e{i}=http://127.0.0.1:{port}" for i, port in enumerate(self._peers))
        for i in range(3):
            client, peer = (f"http://127.0.0.1:{p}" for p in (self._clients[i], self._peers[i]))
            log = (self._directory / f"etcd{i}.log").open("wb")
            self._members.append(
                subprocess.Popen(
                    ["etcd", "--name", f"e{i}", "--data-dir", str(self._directory / f"etcd{i}"),
                     "--listen-client-urls", client, "--advertise-client-urls", client,
                     "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
                     "--initial-cluster", members, "--initial-cluster-state", "new"],
                    stdout=log, stderr=log,
                )
            )  # fmt: skip
            log.close()
        deadline = time.monotonic() + READY_S
        while not all(self._healthy(port) for port in self._clients):
            if time.monotonic() > deadline or any(m.poll() is not None for m in self._members):
                self.__exit__()
                raise EtcdMissingError(f"three etcd members did not come up; see {self._directory}/etcd*.log")
            time.sleep(0.1)
        return self

    def __exit__(self, *_: object) -> None:
        for member in self._members:
            member.kill()
        for member in self._members:
            member.wait()

    @staticmethod
    def _healthy(port: int) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1) as answer:
                return bool(json.load(answer).get("health") == "true")
        except (urllib.error.URLError, OSError, ValueError):
            return False

    def pids(self) -> list[int]:
        return [m.pid for m in self._members]

    def run(self, *, clients: int, conns: int, seconds: float, warm: float, value_bytes: int, txn: int) -> LoadResult:
        """One run of the compiled load against the leader."""
        endpoints = ",".join(f"127.0.0.1:{port}" for port in self._clients)
        out = subprocess.run(
            [str(self._load), "-endpoints", endpoints, "-clients", str(clients), "-conns", str(conns),
             "-seconds", str(seconds), "-warm", str(warm), "-value-bytes", str(value_bytes), "-txn", str(txn)],
            capture_output=True, text=True, check=True, timeout=seconds + warm + 60,
        )  # fmt: skip
        found = json.loads(out.stdout)
        return LoadResult(
            found["ops_s"], found["p50_ms"], found["p99_ms"], found["max_ms"], found["samples"], found["errors"]
        )
