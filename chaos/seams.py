"""What the parts of the harness know of each other: protocols only.

Owns: no behaviour. A part is replaced by another that keeps its protocol: a cluster of processes by one of hosts, a
nemesis by a crueller one.
Invariants: whoever implements `heal` may be asked to heal at any moment, twice, and after a failed `begin`.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from chaos.records import Event, Verdict

Pair = tuple[str, str]  # from node, to node: frames that way


@dataclass(frozen=True, slots=True)
class NodeView:
    """What a node says of itself."""

    role: str
    term: int
    leader: str
    commit_index: int
    applied_index: int
    digest: str  # at applied_index
    base_index: int = 0  # the log begins behind it
    clock_skew_ms: int = 0


@dataclass(frozen=True, slots=True)
class Link:
    """One direction between two nodes, or a node and the clients ("clients")."""

    delay_ms: float = 0.0
    jitter_ms: float = 0.0
    loss: float = 0.0  # 0 to 1
    rate_mbit: float = 0.0  # 0: as fast as it goes


class Network(Protocol):
    """Between nodes, and between nodes and clients (the name "clients")."""

    features: frozenset[str]  # "cut", "links"

    async def cut(self, pairs: Iterable[Pair]) -> None:
        """Exactly these directions are cut from now on."""

    async def shape(self, links: Mapping[Pair, Link]) -> None:
        """Exactly these directions are bad from now on. Raises NotImplementedError without the feature."""

    async def heal(self) -> None: ...

    async def reaches(self, source: str, target: str) -> bool:
        """Whether a packet gets there and an answer back."""


class Host(Protocol):
    """Disk and clock of one node."""

    features: frozenset[str]  # "shim", "power", "fill"

    def sync_delay(self, delay_ms: float, share: float = 1.0) -> None:
        """fdatasync and fsync below the data directory take so much longer."""

    def sync_error(self, errno: int, share: float = 1.0) -> None: ...

    def clock(self, offset_ms: float, rate: float = 1.0) -> None:
        """The wall clock is so far off, and runs so fast from now on."""

    def steers(self) -> bool:
        """A process that is running now is under the rules of the shim: the node's, where it runs."""

    def fill(self, free_bytes: int) -> None:
        """Takes the room on the disk until so much is left."""

    def power_cut(self) -> None:
        """What was not synced is gone. The node's process is killed with it; `restore` mounts again."""

    def restore(self) -> None: ...

    def heal(self, *, disk: bool = True, clock: bool = True) -> None:
        """Rules off, room back, the clock right, the disk mounted. Starts no process. One part alone where another
        nemesis may still be at work on the other."""

    def probe(self, *, disk: bool = True, clock: bool = True) -> str:
        """'' when the disk takes a synced write at its usual pace and the clock is right; else what is wrong."""


class HostRig(Protocol):
    """What makes a Host for one node: made before the cluster is founded, closed after its process is gone."""

    @property
    def host(self) -> Host: ...

    @property
    def data_directory(self) -> Path:
        """Where the node's data lies; on a disk of its own, a directory below the mount."""

    @property
    def environment(self) -> Mapping[str, str]:
        """Of the node's process."""

    def start(self) -> None: ...

    def close(self) -> None:
        """Leaves no mount, device or process behind, also after a failed start."""


class ClusterUnderTest(Protocol):
    """A running cluster. Nodes are named n1, n2, …"""

    directory: Path
    nodes: Sequence[str]
    network: Network
    hosts: Mapping[str, Host]
    features: frozenset[str]  # its own, its network's and its hosts'
    client_file: Path  # settings for hypercluster.client
    other_client_file: Path  # with the certificate of another worker
    client_prefix: Sequence[str]  # what a client's command line begins with, to run where it reaches all nodes

    async def __aenter__(self) -> ClusterUnderTest: ...

    async def __aexit__(self, *_: object) -> None: ...

    def start(self, node: str) -> None: ...

    def kill(self, node: str) -> None:
        """SIGKILL; returns when the process is gone. Nothing happens to one that is down."""

    def pause(self, node: str) -> None: ...

    def resume(self, node: str) -> None: ...

    async def stop(self, node: str) -> int:
        """SIGTERM; the exit status. Raises TimeoutError."""

    def is_running(self, node: str) -> bool: ...

    def is_paused(self, node: str) -> bool:
        """Its process stands still, as the kernel says it."""

    async def status(self, node: str) -> NodeView | None:
        """None when it does not answer within a second."""

    async def leader(self, deadline_s: float = 10.0) -> str:
        """Raises TimeoutError."""

    async def healthy(self, deadline_s: float = 60.0) -> None:
        """All nodes run, one leads, all have applied what was committed when this was asked. Raises TimeoutError."""

    def log(self, node: str) -> Path: ...

    def expect_exit(self, node: str) -> None:
        """A nemesis is about to make this node end by itself: excused until it is started again."""

    def unexpected_exits(self) -> list[str]:
        """Nodes that ended though nobody ended them, with their last words. Disks that failed on purpose excuse it."""


class Nemesis(Protocol):
    name: str
    needs: frozenset[str]  # features without which it is not run
    excludes: frozenset[str]  # what it must not overlap with: "processes", "network", "disks", "clocks", "members"

    async def begin(self, cluster: ClusterUnderTest, rng: random.Random) -> str:
        """Breaks something; says what, naming nodes."""

    async def heal(self, cluster: ClusterUnderTest) -> None: ...

    async def probe(self, cluster: ClusterUnderTest) -> str:
        """'' when it is healed, seen from outside; else what is not."""


@dataclass(frozen=True, slots=True)
class LoadPlan:
    """What one workload process is told. As JSON on its command line."""

    workload: str
    seed: int
    client_file: str
    history_file: str
    workers: int = 4
    ops_per_s: float = 50.0  # of all workers together; a bound on the size of the history
    settings: Mapping[str, Any] = field(default_factory=dict)
    other_client_file: str = ""  # of another worker; every second place of the workload is its


class Workload(Protocol):
    """Runs in a process of its own: `python -m chaos.workloads PLAN`. Ends by SIGTERM, within its deadline."""

    name: str
    ops: frozenset[str]  # each must succeed at least once for a run to be valid


@dataclass(frozen=True, slots=True)
class Finished:
    """A run as checkers see it. `final` is what the observer read when all was healed (workloads/observer.py)."""

    events: Sequence[Event]
    final: Mapping[str, Any]
    directory: Path
    budget_s: float = 120.0  # for each checker


class Checker(Protocol):
    name: str

    def check(self, run: Finished) -> Verdict: ...
