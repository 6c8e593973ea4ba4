"""`hypercluster dev`: a cluster with one command; Ctrl-C stops it, data stays (OPS-2)."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.integration.cluster import free_ports


def run_dev(directory: Path, port_base: int) -> tuple[subprocess.Popen[str], list[str]]:
    """The process, and what it printed until it was ready."""
    options = ["--data", str(directory), "--port-base", str(port_base)]
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "hypercluster.cli.main", "dev", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    lines: list[str] = []
    assert process.stdout is not None
    for line in process.stdout:
        lines.append(line.rstrip())
        if line.startswith("Try:"):
            return process, lines
    raise AssertionError("\n".join(lines))


def ask(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "hypercluster.cli.main", *arguments, "--config", str(directory / "client.toml")],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def end(process: subprocess.Popen[str]) -> int:
    process.send_signal(signal.SIGINT)
    try:
        return process.wait(15)
    finally:
        assert process.stdout is not None
        process.stdout.close()


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.req("OPS-2", "OPS-6")
@pytest.mark.timeout(150)
def test_dev_runs_a_cluster_stops_it_and_continues_it(tmp_path: Path) -> None:
    directory = tmp_path / "dev"
    base = free_ports(1)[0] // 10 * 10
    process, lines = run_dev(directory, base)
    try:
        assert lines[0].startswith("cluster  dev-") and "3 nodes · mTLS" in lines[0]
        assert sum("leader" in line for line in lines[1:4]) == 1 and all("ready" in line for line in lines[1:4])
        found = json.loads(ask(directory, "status", "--json").stdout)
        assert found["health"] == "healthy" and found["voters_ok"] == 3
        written = ask(directory, "hub", "set", "greeting", '"hello"')
        assert written.returncode == 0, written.stderr
        assert (directory / "client.key").stat().st_mode & 0o077 == 0
        options = ["--data", str(directory), "--port-base", str(base)]
        again = subprocess.run(
            [sys.executable, "-m", "hypercluster.cli.main", "dev", *options],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert again.returncode == 1 and "is running already" in again.stderr and not again.stdout
    finally:
        began_s = time.monotonic()
        code = end(process)
    assert code == 0 and time.monotonic() - began_s < 13
    assert not any(listens(base + 10 * node) for node in range(3)), "no node outlives the command"
    process, _ = run_dev(directory, base)
    try:
        read = ask(directory, "hub", "get", "greeting")
        assert read.returncode == 0 and "hello" in read.stdout, read.stderr
    finally:
        assert end(process) == 0


@pytest.mark.req("CL-14")
def test_dev_refuses_an_even_number_of_nodes(tmp_path: Path) -> None:
    answer = subprocess.run(
        [sys.executable, "-m", "hypercluster.cli.main", "dev", "--nodes", "4", "--data", str(tmp_path / "x")],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        env=os.environ,
    )
    assert answer.returncode == 1 and "survive the loss of 1, no more than 3 would" in answer.stderr
    assert not (tmp_path / "x").exists()
