"""Every workload against three real nodes, whole and broken; and the observer's view of what they left."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from chaos.records import FAIL, INFO, OK, Event, read
from chaos.seams import LoadPlan
from chaos.workloads import WORKLOADS
from chaos.workloads.final import read_final
from chaos.workloads.hub_reads import free_epoch
from chaos.workloads.logical import Crew
from chaos.workloads.plan import ObserverPlan
from chaos.workloads.tree import DIRECTORIES
from tests.chaos.workload_histories import check_history
from tests.integration.cluster import Cluster, eventually

LOAD_S = 3.0
SUCCESSES = 100  # of each workload, before its history is looked at
# As short as makes one frozen leader unknown outcomes, and no leader refusals.
IMPATIENT = {"no_leader_ms": 300, "deadline_ms": 400, "read_deadline_ms": 300}

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Cluster]:
    async with Cluster(tmp_path_factory.mktemp("workloads"), 3) as running:
        yield running


class Running:
    """Workload processes and their histories."""

    def __init__(self, cluster: Cluster, directory: Path) -> None:
        self._cluster = cluster
        self.directory = directory
        self.processes: dict[str, subprocess.Popen[str]] = {}

    def start(self, workload: str, seed: int, **settings: int) -> None:
        history = str(self.directory / f"{workload}.jsonl")
        plan = LoadPlan(workload, seed, str(self._cluster.client_file), history, 4, 80.0, settings)
        print(f"{workload} with seed {seed}")
        self.processes[workload] = subprocess.Popen(
            [sys.executable, "-m", "chaos.workloads", json.dumps(asdict(plan))], stderr=subprocess.PIPE, text=True
        )

    def events(self, workload: str) -> list[Event]:
        path = self.directory / f"{workload}.jsonl"
        return list(read(Event, path)) if path.exists() else []

    def have(self, condition: Callable[[Event], bool], count: int = 1, since_ns: int = 0) -> Callable[[], bool]:
        """Whether every running workload has so many events like this."""

        def look() -> bool:
            return all(
                sum(event.at_ns > since_ns and condition(event) for event in self.events(workload)) >= count
                for workload in self.processes
            )

        return look

    async def end(self) -> None:
        """All are told at once; each ends well within 10 s."""
        began_s = time.monotonic()
        for process in self.processes.values():
            process.send_signal(signal.SIGTERM)
        await eventually(lambda: all(p.poll() is not None for p in self.processes.values()), "the loads end", 10)
        print(f"the loads ended in {time.monotonic() - began_s:.1f} s")
        for workload, process in self.processes.items():
            _, words = process.communicate()
            assert (process.returncode, words) == (0, ""), workload
            check_history(self.events(workload))


@contextlib.contextmanager
def loads(cluster: Cluster, directory: Path) -> Iterator[Running]:
    running = Running(cluster, directory)
    try:
        yield running
    finally:
        for process in running.processes.values():
            if process.poll() is None:
                process.kill()
                process.communicate()


async def observe(plan: ObserverPlan) -> tuple[int, str]:
    """(exit status, what it said)"""
    command = [sys.executable, "-m", "chaos.workloads.observer", plan.to_json()]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stderr


def ok_of(events: list[Event], op: str) -> list[Event]:
    return [event for event in events if event.kind == OK and event.op == op]


@pytest.mark.req("CH-5")
async def test_every_operation_succeeds_and_the_final_state_holds_it(cluster: Cluster, tmp_path: Path) -> None:
    with loads(cluster, tmp_path) as running:
        for number, workload in enumerate(WORKLOADS):
            running.start(workload, 100 + number, paused_percent=1)
        began_s = time.monotonic()

        def is_enough() -> bool:
            done = {name: [e.op for e in running.events(name) if e.kind == OK] for name in WORKLOADS}
            return time.monotonic() > began_s + LOAD_S and all(
                len(ops) >= SUCCESSES and set(ops) >= WORKLOADS[name].ops for name, ops in done.items()
            )

        await eventually(is_enough, "every operation of every workload succeeds", 30)
        await running.end()
    histories = {name: running.events(name) for name in WORKLOADS}
    for name, events in histories.items():
        print(name, sorted(Counter((e.op, e.kind, e.error) for e in events if e.kind != "invoke").items()))
        assert not [event for event in events if event.kind == INFO], "nothing was broken"
    check_register(histories["register"], histories["reads"])
    plan = ObserverPlan(str(cluster.client_file), str(tmp_path), tuple(cluster.plans))
    assert await observe(plan) == (0, "")
    final = read_final(tmp_path)
    check_nodes(final)
    check_hub(final["hub"]["metadata"], histories)
    (workspace,) = [found for name, found in final["workspaces"].items() if name.startswith("files-")]
    check_log(workspace, histories["files"])
    check_files(workspace, histories["files"])


def check_register(register: list[Event], reads: list[Event]) -> None:
    assert {e.error for e in register if e.kind == FAIL} <= {"PRECONDITION_FAILED"}
    values = [e.value if e.op == "write" else e.value[1] for e in register if e.kind == "invoke" and e.op != "read"]
    assert len(values) == len(set(values)) > 20
    assert all(e.extra["version"] > 0 and e.extra["raft_index"] > 0 for e in ok_of(register, "write"))
    written = {(e.key, e.value) for e in register if e.op == "write"}
    written |= {(e.key, e.value[1]) for e in register if e.op == "cas" and e.value}
    for events in (register, reads):
        found = ok_of(events, "read")
        assert {e.level for e in found} == {"linearizable", "leader_local", "bounded_stale"}
        assert all(e.value is None or (e.key, e.value) in written for e in found)
        assert all(("staleness_ms" in e.extra) == (e.level == "bounded_stale") for e in found)
    assert {e.extra["node"] for e in ok_of(reads, "read") if e.level == "bounded_stale"} == {"n1", "n2", "n3"}
    wishes = {e.process: e.extra["min_index"] for e in reads if e.kind == "invoke" and "min_index" in e.extra}
    assert wishes
    for begun, end in pairwise(sorted(reads, key=lambda e: (e.process, e.at_ns))):
        if begun.kind == "invoke" and "min_index" in begun.extra and end.kind == OK:
            assert end.extra["raft_index"] >= begun.extra["min_index"]


def check_nodes(final: dict[str, Any]) -> None:
    assert final["problems"] == []
    assert list(final["nodes"]) == ["n1", "n2", "n3"]
    nodes = final["nodes"].values()
    (index,) = {node["applied_index"] for node in nodes}
    assert index >= final["index"] > 0
    assert len({node["digest"] for node in nodes}) == 1
    assert Counter(node["role"] for node in nodes) == {"leader": 1, "follower": 2}


def check_hub(keys: dict[str, Any], histories: dict[str, list[Event]]) -> None:
    for event in ok_of(histories["set"], "add"):
        found = keys[f"{event.key}-{event.value}"]
        assert (found["value"], found["version"]) == (event.value, event.extra["version"])
    for event in ok_of(histories["register"], "write"):
        versions = {kept["version"]: kept["value"] for kept in keys[event.key]["history"]}
        assert keys[event.key]["complete"] and versions[event.extra["version"]] == event.value
    for key in {event.key for event in histories["counter"]}:
        made = sorted(event.value for event in ok_of(histories["counter"], "increment") if event.key == key)
        assert made == list(range(1, keys[key]["value"] + 1))
    listed = ok_of(histories["set"], "read_all")
    assert any(event.value for event in listed) and all(event.value == sorted(event.value) for event in listed)


def check_log(workspace: dict[str, Any], events: list[Event]) -> None:
    log = workspace["log"]
    assert [record["log_index"] for record in log] == list(range(1, len(log) + 1))
    assert set(workspace["root"].values()) == {log[-1]["root"]}
    assert set(workspace["log_index"].values()) == {len(log)}
    by_key = {(record["client_id"], record["client_seq"]): record for record in log}
    changes = [event for event in events if event.kind == OK and event.op != "read_file"]
    assert len(changes) == len(by_key) == len(log), "every change of the workspace is in the history"
    ops = {"append": "write", "overwrite": "write"}
    for event in changes:
        record = by_key[event.extra["client_id"], event.extra["client_seq"]]
        assert record["op"] == ops.get(event.op, event.op)
        for name in ("log_index", "raft_index", "root"):
            assert record[name] == event.extra[name]
        if event.op in ("create", "mkdir", "unlink", "rmdir"):
            assert record["path"] == event.key
        elif event.op == "rename":
            assert (record["path"], record["target_path"]) == (event.extra["source"], event.key)
        else:
            assert (record["inode"], record["text"]) == (event.extra["inode"], event.value)
        if event.op == "append":
            assert record["append"] and record["applied_offset"] == event.extra["applied_offset"]


def check_files(workspace: dict[str, Any], events: list[Event]) -> None:
    trees = list(workspace["tree"].values())
    assert len(trees) == 3 and trees[0] == trees[1] == trees[2]
    assert set(DIRECTORIES) <= trees[0].keys()
    files = workspace["files"]
    assert files.keys() == {path for path, inode in trees[0].items() if inode["kind"] == "file"}
    assert all(trees[0][path]["blake3"] == file["blake3"] for path, file in files.items())
    for event in ok_of(events, "append"):
        assert files[event.key]["records"][event.extra["applied_offset"] // 32] == event.value
    last = {
        event.key: event.value for event in sorted(ok_of(events, "rename"), key=lambda e: int(e.extra["log_index"]))
    }
    assert last and all(files[path]["records"] == [token] for path, token in last.items())
    creations = Counter(event.key for event in ok_of(events, "create"))
    assert max(creations.values()) == 1
    assert {event.error for event in events if event.op == "create" and event.kind == FAIL} == {"EEXIST"}
    removed = ok_of(events, "unlink")
    assert removed and not {event.key for event in removed} & files.keys()
    contents = [event.value for event in ok_of(events, "read_file") if event.value]
    assert any(isinstance(value, list) for value in contents) and any(isinstance(value, str) for value in contents)


@pytest.mark.req("CH-5")
async def test_faults_become_unknowns_and_refusals_and_the_load_goes_on(cluster: Cluster, tmp_path: Path) -> None:
    broken = ("register", "files", "counter")
    with loads(cluster, tmp_path) as running:
        for number, workload in enumerate(broken):
            running.start(workload, 200 + number, **IMPATIENT)
        await eventually(running.have(lambda e: e.kind == OK, 50), "all are at work", 15)
        leader = await cluster.leader()
        cluster.pause(leader)
        await eventually(running.have(lambda e: e.kind == INFO, 3), "a frozen leader leaves outcomes open", 10)
        others = [name for name in cluster.plans if name != leader]
        cluster.kill(leader)
        cluster.kill(others[0])
        refused = running.have(lambda e: e.kind == FAIL and e.error == "NO_QUORUM", 3)
        await eventually(refused, "without a majority it is refused", 10)
        cluster.start(leader)
        cluster.start(others[0])
        healed_ns = time.monotonic_ns()
        await eventually(running.have(lambda e: e.kind == OK, 50, healed_ns), "they go on", 15)
        await running.end()
        for workload in broken:
            events = running.events(workload)
            generations = {event.process.rpartition(".")[2] for event in events if "-w" in event.process}
            assert len(generations) > 1
            print(workload, sorted(Counter((e.kind, e.error) for e in events if e.kind != "invoke").items()))


@pytest.mark.req("CH-5")
async def test_a_load_ends_in_time_while_nothing_answers(cluster: Cluster, tmp_path: Path) -> None:
    with loads(cluster, tmp_path) as running:
        running.start("set", 300, deadline_ms=2_500)
        await eventually(running.have(lambda e: e.kind == OK, 10), "it is at work", 15)
        for name in cluster.plans:
            cluster.pause(name)
        try:
            frozen_ns = time.monotonic_ns()
            await eventually(running.have(lambda e: e.kind == "invoke", 1, frozen_ns), "something is open", 10)
            await running.end()
        finally:
            for name in cluster.plans:
                cluster.resume(name)
        late = [event for event in running.events("set") if event.at_ns > frozen_ns and event.kind != "invoke"]
        assert late and any(event.kind == INFO for event in late)


async def test_names_that_other_runs_have_used_are_left_alone(cluster: Cluster) -> None:
    crew = Crew(LoadPlan("register", 400, str(cluster.client_file), ""), random.Random(1))
    try:
        who = await crew.new("setup")
        assert await free_epoch(who, "r400.") == 0
        for key in (b"r400.3-0", b"r400.12-1", b"r4000.77-1", b"r400.x"):
            await who.client.hub.set("metadata", key, b"1")
        assert await free_epoch(who, "r400.") == 13
    finally:
        await crew.close()


@pytest.mark.req("CH-5")
async def test_what_the_observer_can_not_see_is_a_problem(cluster: Cluster, tmp_path: Path) -> None:
    leader = await cluster.leader()
    (other, *_) = [name for name in cluster.plans if name != leader]
    cluster.kill(other)
    try:
        plan = ObserverPlan(str(cluster.client_file), str(tmp_path), (*cluster.plans, "n9"), rest_s=0.5)
        code, words = await observe(plan)
    finally:
        cluster.start(other)
    final = read_final(tmp_path)
    assert code == 1
    assert final["problems"] == words.splitlines()
    assert "n9: no node of this name is found" in words and f"{other} " in words
    assert "problem" in final["nodes"][other] and final["nodes"][leader]["role"] == "leader"
    cluster.pause(leader)
    try:
        plan = ObserverPlan(str(cluster.client_file), str(tmp_path), deadline_s=1.0, rest_s=0.5)
        code, words = await observe(plan)
    finally:
        cluster.resume(leader)
    assert code == 1 and "the final state could not be read" in words
    assert read_final(tmp_path)["problems"] == words.splitlines()
