"""The processes of a cluster under test, wherever they run.

Owns: founding, one process a node, their ends and why they ended, their logs, what they say of themselves.
Never: knows whether a node runs on loopback or in a namespace: that is its Site's; never touches a process it did not
start.
Invariants: whatever happens after `__aenter__` began, `__aexit__` leaves no process, namespace or mount of this cluster
behind; a node that ended though nobody ended it or announced it is in `unexpected_exits`, also when it was started
again since. When the harness itself is killed, its nodes end with it.

    DIR/nodes/n1/log, node.toml, …    as `cluster init` lays it out; data where the node's host wants it
    DIR/nodes/client.toml             for clients
    DIR/nodes/other.toml              for clients of another worker
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from chaos.cluster.lines import PROJECT, LineChild
from chaos.cluster.probing import Prober, asker_command
from chaos.seams import Host, HostRig, Network, NodeView
from hypercluster.cli.founding import CLIENT_FILE, NodePlan, found_cluster
from hypercluster.credentials.certificates import KeyPair, issue_client, write_pair
from hypercluster.values import ClusterId

START_S = 60.0  # from nothing to a leader
STATUS_S = 1.0
STOP_S = 20.0  # a graceful stop takes at most STOP_MS
KILLED_S = 30.0  # a process in an uninterruptible call dies when that ends
LOOK_S = 0.05
LAST_WORDS_BYTES = 1_500
CLIENT_NAME = "chaos"
OTHER_NAME, OTHER_FILE = "other", "other.toml"
PRODUCT = "hypercluster.cli.main"

# The product's defaults, but for a rate limit out of the way, and logs so short that a follower which is down for some
# seconds under load needs a checkpoint.
SETTINGS: Mapping[str, Mapping[str, object]] = {
    "rate": {"ops_per_s": 1_000_000, "burst_ops": 1_000_000, "bytes_per_s": 1 << 36},
    "raft": {"log_keep_entries": 500, "checkpoint_every_entries": 1_500},
}


class NodeEndedError(RuntimeError):
    """A node ended while the cluster was started. Its last words."""


@dataclass(frozen=True, slots=True)
class Build:
    """What is run: `python -m MODULE ARGUMENTS serve --config …`."""

    module: str = PRODUCT
    arguments: Sequence[str] = ()


class Site(Protocol):
    """Where the nodes run and how they reach each other."""

    @property
    def network(self) -> Network: ...

    @property
    def client_prefix(self) -> Sequence[str]: ...

    def plans(self, nodes: Sequence[str]) -> list[NodePlan]: ...

    def prefix(self, node: str) -> Sequence[str]:
        """What a node's command line begins with."""

    def places(self) -> Mapping[str, Mapping[str, object]]:
        """For the asker: every node and "clients" with its namespace and the address of its probe socket."""

    async def open(self, log_directory: Path) -> None: ...

    def asked_by(self, asker: Prober) -> None:
        """From now on the network probes through it."""

    async def close(self) -> None:
        """Leaves nothing behind, also after a failed `open`. Every process of the cluster is gone by then."""


class ProcessCluster:
    """A ClusterUnderTest of processes on this machine."""

    def __init__(
        self,
        directory: Path,
        nodes: int,
        site: Site,
        rigs: Mapping[str, HostRig],
        build: Build,
        settings: Mapping[str, Mapping[str, object]] = SETTINGS,
    ) -> None:
        """`settings`: sections of every node's configuration."""
        self.directory = directory.resolve()
        self.nodes: Sequence[str] = tuple(f"n{i + 1}" for i in range(nodes))
        if missing := [name for name in self.nodes if name not in rigs]:
            raise ValueError(f"hosts: none for {', '.join(missing)}")
        self._site = site
        self._rigs = rigs
        self._build = build
        self._settings = settings
        self.network: Network = site.network
        self.hosts: Mapping[str, Host] = {name: rigs[name].host for name in self.nodes}
        host_features = frozenset.intersection(*(frozenset(host.features) for host in self.hosts.values()))
        self.features = frozenset(site.network.features) | host_features
        self._home = self.directory / "nodes"
        self.client_file = self._home / CLIENT_FILE
        self.other_client_file = self._home / OTHER_FILE
        self.client_prefix: Sequence[str] = site.client_prefix
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._excused: set[str] = set()  # whose present process may end, or was ended by us
        self._exits: list[str] = []
        self._asker: LineChild | None = None
        self.directory.mkdir(parents=True, exist_ok=True)

    # --- its life ---

    async def __aenter__(self) -> ProcessCluster:
        try:
            await self._site.open(self.directory)
            for name in self.nodes:
                self._rigs[name].start()
            self._asker = LineChild(self._found(), self.directory / "asker.log")
            await self._asker.start()
            self._site.asked_by(self._asker)
            for name in self.nodes:
                self.start(name)
            await self._all_up()
        except BaseException:
            await self._close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._close()

    async def _all_up(self) -> None:
        """Raises NodeEndedError as soon as one of them ends."""
        whole = asyncio.create_task(self.healthy(START_S))
        try:
            while not (await asyncio.wait([whole], timeout=LOOK_S))[0]:
                if ended := self.unexpected_exits():
                    raise NodeEndedError("; ".join(ended))
            await whole
        finally:
            whole.cancel()

    async def _close(self) -> None:
        """All of it is tried; the first thing that fails is raised in the end."""
        async with contextlib.AsyncExitStack() as steps:
            steps.push_async_callback(self._site.close)
            for name in self.nodes:
                steps.callback(self._rigs[name].close)
            for name in self.nodes:
                steps.callback(self.kill, name)
            if self._asker is not None:
                steps.push_async_callback(self._asker.close)

    def _found(self) -> list[str]:
        """Founds the cluster, puts every node's data where its host wants it; the asker's command line."""
        plans = self._site.plans(self.nodes)
        cluster_id = found_cluster(self._home, plans, client_name=CLIENT_NAME, settings=self._settings)
        _certify_other(self._home, cluster_id)
        for name in self.nodes:
            self._place_data(name, self._rigs[name].data_directory.resolve())
        asked = {
            "client_file": str(self.client_file),
            "cluster_id": cluster_id.hex(),
            "addresses": {plan.name: plan.client_address() for plan in plans},
        }
        return asker_command(self._site.places(), asked)

    def _place_data(self, name: str, wanted: Path) -> None:
        founded = self._home / name / "data"
        if wanted == founded:
            return
        wanted.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(founded, wanted, dirs_exist_ok=True)
        _sync(wanted)  # founding had synced what it wrote, and the power may be cut at any moment
        shutil.rmtree(founded)
        os.sync()  # `cluster init` syncs what it makes: a power cut must find it whole, copied or not
        config = self._home / name / "node.toml"
        text, count = re.subn(r'(?m)^data = "data"$', lambda _: f"data = {json.dumps(str(wanted))}", config.read_text())
        if count != 1:
            raise ValueError(f"{config}: expected one line that places the data, found {count}")
        config.write_text(text)

    # --- processes ---

    def start(self, node: str) -> None:
        if self.is_running(node):
            return
        self._note_exit(node)
        self._excused.discard(node)
        build = self._build
        command = [sys.executable, "-m", build.module, *build.arguments, "serve", "--config", str(self._config(node))]
        with self.log(node).open("ab") as log:
            self._processes[node] = subprocess.Popen(
                [*dies_with_us(), *self._site.prefix(node), *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **self._rigs[node].environment},
                cwd=PROJECT,
                start_new_session=True,  # a Ctrl-C at the harness is the harness's alone
            )

    def kill(self, node: str) -> None:
        process = self._processes.get(node)
        if process is None:
            return
        if process.poll() is None:
            self._excused.add(node)
            process.kill()
            process.wait(KILLED_S)

    def pause(self, node: str) -> None:
        if self.is_running(node):
            self._processes[node].send_signal(signal.SIGSTOP)

    def resume(self, node: str) -> None:
        if self.is_running(node):
            self._processes[node].send_signal(signal.SIGCONT)

    async def stop(self, node: str) -> int:
        process = self._processes[node]
        if process.poll() is None:
            self._excused.add(node)
            process.terminate()
        end_s = time.monotonic() + STOP_S
        while process.poll() is None:
            if time.monotonic() > end_s:
                raise TimeoutError(f"{node} does not end within {STOP_S:.0f} s of SIGTERM: {self._last_words(node)}")
            await asyncio.sleep(LOOK_S)
        return process.returncode

    def is_running(self, node: str) -> bool:
        process = self._processes.get(node)
        return process is not None and process.poll() is None

    def is_paused(self, node: str) -> bool:
        if not self.is_running(node):
            return False
        try:
            stat = Path(f"/proc/{self._processes[node].pid}/stat").read_text(encoding="ascii", errors="replace")
        except FileNotFoundError:
            return False
        return stat.rpartition(")")[2].split()[0] in "Tt"

    def pid(self, node: str) -> int:
        """Of its newest process."""
        return self._processes[node].pid

    def expect_exit(self, node: str) -> None:
        self._excused.add(node)

    def unexpected_exits(self) -> list[str]:
        ended_now = [words for node in self.nodes if (words := self._exit_words(node))]
        return [*self._exits, *ended_now]

    def _note_exit(self, node: str) -> None:
        if words := self._exit_words(node):
            self._exits.append(words)

    def _exit_words(self, node: str) -> str:
        """'' unless its present process ended and nobody meant it to."""
        process = self._processes.get(node)
        if process is None or process.poll() is None or node in self._excused:
            return ""
        return f"{node} ended with {process.returncode}: {self._last_words(node)}"

    # --- what they say ---

    def log(self, node: str) -> Path:
        return self._home / node / "log"

    def _config(self, node: str) -> Path:
        return self._home / node / "node.toml"

    def _last_words(self, node: str) -> str:
        path = self.log(node)
        if not path.exists():
            return ""
        with path.open("rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - LAST_WORDS_BYTES))
            return log.read().decode(errors="replace").strip()

    async def status(self, node: str) -> NodeView | None:
        if not self.is_running(node) or self._asker is None:
            return None
        answer = await self._asker.ask({"ask": "status", "node": node, "timeout_s": STATUS_S})
        said = answer["status"]
        return None if said is None else NodeView(**said)

    async def _all_status(self) -> dict[str, NodeView | None]:
        found = await asyncio.gather(*(self.status(node) for node in self.nodes))
        return dict(zip(self.nodes, found, strict=True))

    async def leader(self, deadline_s: float = 10.0) -> str:
        """The one that leads in the highest term seen."""
        end_s = time.monotonic() + deadline_s
        while True:
            found = await self._all_status()
            leaders = [(view.term, node) for node, view in found.items() if view is not None and view.role == "leader"]
            if leaders:
                return max(leaders)[1]
            if time.monotonic() > end_s:
                raise TimeoutError(f"no leader within {deadline_s:.0f} s: {self._words(found)}")
            await asyncio.sleep(LOOK_S)

    async def healthy(self, deadline_s: float = 60.0) -> None:
        end_s = time.monotonic() + deadline_s
        wanted_index: int | None = None
        while True:
            found = await self._all_status()
            views = [view for view in found.values() if view is not None]
            if wanted_index is None and len(views) == len(self.nodes):
                wanted_index = max(view.commit_index for view in views)
            if wanted_index is not None and len(views) == len(self.nodes) and _agree(views, wanted_index):
                return
            if time.monotonic() > end_s:
                raise TimeoutError(f"not whole within {deadline_s:.0f} s: {self._words(found)}")
            await asyncio.sleep(LOOK_S)

    def _words(self, found: Mapping[str, NodeView | None]) -> str:
        return "; ".join(self._node_words(node, view) for node, view in found.items())

    def _node_words(self, node: str, view: NodeView | None) -> str:
        if view is not None:
            return f"{node} {view.role} of term {view.term}, leader {view.leader!r}, applied {view.applied_index}"
        if self.is_running(node):
            return f"{node} {'is stopped' if self.is_paused(node) else 'runs and does not answer'}"
        return f"{node} does not run: {self._last_words(node)[-300:]}"


def dies_with_us() -> tuple[str, ...]:
    """What a command line begins with so that the kernel ends it when this process is killed, where that can be had."""
    return ("setpriv", "--pdeathsig", "KILL", "--") if shutil.which("setpriv") else ()


def _certify_other(home: Path, cluster_id: ClusterId) -> None:
    """A second worker: what is certified for one is not for the other."""
    ca = KeyPair((home / "ca.pem").read_bytes(), (home / "ca.key").read_bytes())
    write_pair(issue_client(ca, cluster_id, OTHER_NAME), home / f"{OTHER_NAME}.pem", home / f"{OTHER_NAME}.key")
    text = (home / CLIENT_FILE).read_text(encoding="utf-8").replace('"client.', f'"{OTHER_NAME}.')
    (home / OTHER_FILE).write_text(text, encoding="utf-8")


def _sync(directory: Path) -> None:
    """What lies there is on disk, and so are the names that lead to it."""
    for path in [*directory.rglob("*"), directory, directory.parent]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _agree(views: Sequence[NodeView], index: int) -> bool:
    """One leads, all know it, all have applied so much."""
    leaders = [view.leader for view in views if view.role == "leader"]
    return (
        len(leaders) == 1
        and all(view.leader == leaders[0] and view.leader for view in views)
        and all(view.applied_index >= index and view.commit_index > 0 for view in views)
    )
