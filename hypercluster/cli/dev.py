"""`hypercluster dev`: a whole cluster on this machine, with one command (OPS-2).

Owns: founding the directory the first time, the node processes, and the table a newcomer sees.
Never: runs a node inside this process: what is tried here is what runs elsewhere.
Invariants: no node outlives a command that ends by a signal or an error; data stays; running it again continues
where it was.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path

import click

from hypercluster.cli.founding import CLIENT_FILE, NodePlan, found_cluster
from hypercluster.cli.probing import refuse_where_a_cluster_answers
from hypercluster.cli.status import Overview, look
from hypercluster.client.settings import read_settings
from hypercluster.config import VOTERS_ALLOWED, why_not_voters
from hypercluster.errors import HyperClusterError, Outcome, WrongDirectoryError
from hypercluster.storage.identity import DirectoryLock

NODE_PORTS = 10  # a node's ports: base + 10 n, + 1 peers, + 2 admin
PORT_BASE_MAX = 65_535 - NODE_PORTS * max(VOTERS_ALLOWED)
READY_S = 30.0
STOP_S = 12.0
DEV_SETTINGS = {"rate": {"ops_per_s": 10_000, "burst_ops": 10_000, "bytes_per_s": 1 << 30}}
TRY = "Try:  hypercluster hub set greeting '\"hello\"'      (Ctrl-C stops the cluster; data stays)"


class DevError(HyperClusterError):
    reason = "DEV"
    outcome = Outcome.DEFINITELY_NOT


@click.command()
@click.option("--nodes", default=None, type=int, help="1, 3, 5 or 7; 3 the first time.")
@click.option("--data", "directory", default=".hypercluster", show_default=True, type=click.Path(path_type=Path),
              help="Where the cluster lives. Made the first time, continued afterwards.")  # fmt: skip
@click.option(
    "--port-base",
    default=7801,
    type=click.IntRange(1, PORT_BASE_MAX),
    show_default=True,
    help="First port; each node takes three of the next ten.",
)
def dev(nodes: int | None, directory: Path, port_base: int) -> int:
    """Run a whole cluster on this machine, until Ctrl-C.

    Makes certificates, starts real node processes with mutual TLS, and writes client.toml, which the other commands
    find by themselves when they run in the same directory.
    """
    if not (directory / CLIENT_FILE).exists():
        wanted = 3 if nodes is None else nodes
        if wanted not in VOTERS_ALLOWED:
            raise DevError(f"--nodes {wanted}: {why_not_voters(wanted)}")
        found(directory, wanted, port_base)
    names = existing_nodes(directory)
    if nodes not in (None, len(names)):
        raise DevError(f"--nodes {nodes}: the cluster in {directory} has {len(names)}; give another --data")
    with _only_one(directory):
        return asyncio.run(_run(directory, names))


@contextlib.contextmanager
def _only_one(directory: Path) -> Iterator[None]:
    """Nodes of another run would answer in place of ours, and pass for them."""
    try:
        lock = DirectoryLock(str(directory))
    except WrongDirectoryError:
        raise DevError(
            f"the cluster in {directory} is running already: see `hypercluster status`, or stop it with Ctrl-C where "
            "it was started"
        ) from None
    with lock:
        yield


def found(directory: Path, nodes: int, port_base: int) -> None:
    plans = [
        NodePlan(f"n{i + 1}", "127.0.0.1", port_base + NODE_PORTS * i, port_base + NODE_PORTS * i + 1,
                 port_base + NODE_PORTS * i + 2)
        for i in range(nodes)
    ]  # fmt: skip
    refuse_where_a_cluster_answers(plans)
    found_cluster(directory, plans, client_name="dev", settings=DEV_SETTINGS)


def existing_nodes(directory: Path) -> list[str]:
    names = sorted(p.parent.name for p in directory.glob("*/node.toml"))
    if not names:
        raise WrongDirectoryError(f"{directory} has {CLIENT_FILE} and no nodes: remove it, or choose another directory")
    return names


async def _run(directory: Path, names: list[str]) -> int:
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    began_s = time.monotonic()
    processes = {name: start_node(directory, name) for name in names}
    try:
        ready = asyncio.create_task(_until_ready(directory, processes))
        stopped = asyncio.create_task(stop.wait())
        await asyncio.wait([ready, stopped], return_when=asyncio.FIRST_COMPLETED)
        if not stop.is_set():
            show(directory, ready.result(), time.monotonic() - began_s)
            await _watch(directory, processes, stop)
        ready.cancel()
        stopped.cancel()
    finally:
        await _stop(processes)
    return 0


def start_node(directory: Path, name: str) -> subprocess.Popen[bytes]:
    """Its log goes to DIR/NAME/log. It gets no Ctrl-C of its own: the command stops it in order."""
    with (directory / name / "log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "hypercluster.cli.main", "serve", "--config", str(directory / name / "node.toml")],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


async def _until_ready(directory: Path, processes: dict[str, subprocess.Popen[bytes]]) -> Overview:
    settings = read_settings(directory / CLIENT_FILE)
    end_s = time.monotonic() + READY_S
    while True:
        _check_alive(directory, processes)
        overview = await look(settings)
        if overview.health == "healthy" and overview.voters_ok == len(processes):
            return overview
        if time.monotonic() > end_s:
            lines = [f"  {seen.name}  {seen.address}  {seen.state}" for seen in overview.nodes]
            raise DevError("\n".join([f"the cluster is not ready after {READY_S:.0f} s ({overview.health})", *lines]))
        await asyncio.sleep(0.1)


def _check_alive(directory: Path, processes: dict[str, subprocess.Popen[bytes]]) -> None:
    for name, process in processes.items():
        if process.poll() is not None:
            raise DevError(f"{name} ended with exit code {process.returncode}:\n{last_lines(directory / name / 'log')}")


def last_lines(path: Path, lines: int = 5) -> str:
    with path.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - 8_192))
        tail = file.read().decode(errors="replace").splitlines()[-lines:]
    return "\n".join(f"  {line}" for line in tail)


def show(directory: Path, overview: Overview, took_s: float) -> None:
    leader = overview.leader
    cluster = leader.cluster_id.hex()[:4] if leader is not None else ""
    click.echo(f"cluster  dev-{cluster} · {len(overview.nodes)} nodes · mTLS · data in {directory}")
    for seen in overview.nodes:
        said = seen.said
        role = said.role if said is not None else "?"
        leads = leader is not None and seen.name == leader.node_id
        term = f"term {leader.term}" if leads and leader is not None else ""
        ready = f"ready in {took_s:.1f} s" if leads else "ready"
        click.echo(f"{seen.name}  {seen.address:<16}  {role:<9}  {term:<8}  {ready}")
    admin = [_admin_address(directory, seen.name) for seen in overview.nodes]
    click.echo(f"metrics  {'  '.join(f'http://{address}/metrics' for address in admin if address)}")
    click.echo(TRY)


def _admin_address(directory: Path, name: str) -> str:
    table = tomllib.loads((directory / name / "node.toml").read_text(encoding="utf-8"))
    return str(table.get("listen", {}).get("admin", ""))


async def _watch(directory: Path, processes: dict[str, subprocess.Popen[bytes]], stop: asyncio.Event) -> None:
    """A node that ends by itself is named once; the others go on, as they would elsewhere."""
    told: set[str] = set()
    while not stop.is_set():
        for name, process in processes.items():
            if process.poll() is not None and name not in told:
                told.add(name)
                words = last_lines(directory / name / "log")
                click.echo(f"{name} ended with exit code {process.returncode}:\n{words}", err=True)
        if len(told) == len(processes):
            raise DevError("every node has ended")
        try:
            async with asyncio.timeout(0.5):
                await stop.wait()
        except TimeoutError:
            continue


async def _stop(processes: dict[str, subprocess.Popen[bytes]]) -> None:
    """All at once; whoever takes too long is killed."""
    for process in processes.values():
        if process.poll() is None:
            process.terminate()
    await asyncio.gather(*(asyncio.to_thread(_wait, process) for process in processes.values()))
    for process in processes.values():
        if process.poll() is None:
            process.kill()
        process.wait()


def _wait(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(STOP_S)
