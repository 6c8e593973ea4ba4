"""Rounds of: write, take all three nodes down at one moment, bring them back, go on; and the verdict at the end.

Owns: `Rounds`, which drives a cluster and its load, and `verdict`, which compares journals, logs and contents.
Never: how the nodes are taken down and what is done to their disks meanwhile: the tests bring that along.
Invariants: a round ends only when a command that was first sent after the restart is acknowledged; the moment of each
blow is drawn from the seed, as a number of acknowledgements; a node that ends by itself is `RefusedToStart`.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import grpc

from hypercluster.client.client import Client
from hypercluster.errors import HyperClusterError
from tests.crash.contents import check_chains, compare_contents
from tests.crash.load import Load
from tests.demo import checker
from tests.integration.cluster import Cluster

LEADER_S = 180.0  # three nodes replay all they have not flushed, on however few cores
PROGRESS_S = 120.0
DRAIN_S = 185.0  # the load's own deadline, and a little
LOG_LINES = 3


class RefusedToStart(AssertionError):
    """A node ended by itself after its restart."""


def kill_all(cluster: Cluster) -> None:
    """SIGKILL to every node at one moment, and only then the waiting."""
    for process in cluster.processes.values():
        process.kill()
    for process in cluster.processes.values():
        process.wait()


@dataclass
class Verdict:
    reports: dict[str, checker.Report] = field(default_factory=dict)  # by the node whose op log was read
    problems: list[str] = field(default_factory=list)

    @property
    def lost(self) -> int:
        return sum(len(report.lost) for report in self.reports.values())

    @property
    def holds(self) -> bool:
        return not self.problems and bool(self.reports) and all(report.holds for report in self.reports.values())

    def lines(self) -> list[str]:
        lines = [f"{name}: {line}" for name, report in self.reports.items() for line in report.lines()]
        return lines + [f"problem: {problem}" for problem in self.problems[:10]]


class Rounds:
    def __init__(
        self, cluster: Cluster, load: Load, seed: int, take_down: Callable[[], None], mend: Callable[[], None]
    ) -> None:
        """`mend` runs between the end of the processes and their restart."""
        self._cluster = cluster
        self._load = load
        self._rng = random.Random(seed)
        self._take_down = take_down
        self._mend = mend
        self._probe: Client | None = None
        self.first_commits_s: list[float] = []

    async def run(self, count: int, *, acknowledgements: tuple[int, int] = (40, 300)) -> None:
        """`acknowledgements`: from how few to how many the load gets between a restart and the next blow."""
        self._probe = await self._load.client("probe")
        for number in range(1, count + 1):
            await self._progress(self._rng.randint(*acknowledgements))
            before = self._load.acknowledged
            self._take_down()
            self._mend()
            restarts = 1
            if self._rng.random() < 0.2:  # and once more, while they replay or elect
                restarts += 1
                self._start_all()
                await self._one_answers()
                self._take_down()
                self._mend()
            self._start_all()
            took_s = await self._first_commit()
            self.first_commits_s.append(took_s)
            words = "" if restarts == 1 else ", taken down twice"
            print(
                f"round {number}: {before} acknowledged before it{words}; first commit {took_s:.2f} s after the start",
                flush=True,
            )

    async def verdict(self) -> Verdict:
        await self._load.stop(DRAIN_S)
        return await verdict(self._cluster, self._load)

    def _start_all(self) -> None:
        for name in self._cluster.plans:
            self._cluster.start(name)

    async def _progress(self, count: int) -> None:
        """Until the load has so many more acknowledgements."""
        wanted, end = self._load.acknowledged + count, time.monotonic() + PROGRESS_S
        while self._load.acknowledged < wanted:
            self._check_alive()
            assert time.monotonic() < end, f"fewer than {count} acknowledgements within {PROGRESS_S} s"
            await asyncio.sleep(0.001)

    async def _one_answers(self) -> None:
        end = time.monotonic() + LEADER_S
        name = self._rng.choice(sorted(self._cluster.plans))
        while await self._cluster.status(name, 0.2) is None:
            self._check_alive()
            assert time.monotonic() < end, f"{name} did not answer within {LEADER_S} s"

    async def _first_commit(self) -> float:
        """Seconds from the start of the processes to the acknowledgement of a command that is sent only now."""
        assert self._probe is not None
        began_s = time.monotonic()
        writing = asyncio.ensure_future(self._write_probe(began_s + LEADER_S))
        try:
            while not writing.done():
                self._check_alive()
                await asyncio.wait([writing], timeout=0.05)
        finally:
            writing.cancel()
        return writing.result() - began_s

    async def _write_probe(self, end_s: float) -> float:
        assert self._probe is not None
        refusal = ""
        while time.monotonic() < end_s:
            value = b'"%s"' % self._rng.randbytes(8).hex().encode()
            try:
                await self._probe.hub.set("metadata", b"probe/%d" % (len(self.first_commits_s) // 50), value)
                return time.monotonic()
            except HyperClusterError as error:
                refusal = str(error)
        raise AssertionError(f"nothing was committed within {LEADER_S} s: {refusal}")

    def _check_alive(self) -> None:
        self._load.check_alive()
        for name, process in self._cluster.processes.items():
            if process.poll() is not None:
                tail = "\n".join(self._cluster.log(name).splitlines()[-LOG_LINES:])
                raise RefusedToStart(f"{name} ended by itself with {process.returncode}: {tail}")


async def verdict(cluster: Cluster, load: Load) -> Verdict:
    """After the load: the log of every node against the journals, its files against the log, and equal digests."""
    found = Verdict()
    commands = checker.read_journals(load.journals)
    leader = await cluster.leader(LEADER_S)
    versions = await checker.fetch_versions(cluster.channel(leader), checker.hub_keys(commands))
    found.problems += check_chains(versions)
    await _settle(cluster, leader, found)
    for name in cluster.plans:
        channel = cluster.channel(name)
        try:
            log = await checker.fetch_log(channel, load.workspace_id)
            found.problems += [f"{name}: {p}" for p in await compare_contents(channel, load.workspace_id, log)]
        except grpc.aio.AioRpcError as error:
            log = []
            found.problems.append(f"{name}: the workspace can not be read: {error.details()}")
        found.reports[name] = checker.check(commands, log, versions)
    return found


async def _settle(cluster: Cluster, leader: str, found: Verdict) -> None:
    """Waits until every node has applied the same index, and compares digests there."""
    end = time.monotonic() + LEADER_S
    while time.monotonic() < end:
        status = await cluster.status(leader)
        if status is not None:
            statuses = await cluster.all_applied(status.commit_index, LEADER_S)
            if len({s.applied_index for s in statuses}) == 1:
                if len({s.digest for s in statuses}) != 1:
                    found.problems.append(f"digests differ at index {statuses[0].applied_index}")
                return
    found.problems.append("the nodes never stood at the same index")
