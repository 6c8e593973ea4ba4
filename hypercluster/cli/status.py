"""`hypercluster status`: one screen by which an operator knows.

Owns: asking every node for its own view, and what the views add up to.
Never: needs a quorum or a leader; a node that does not answer is a line of the table.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from dataclasses import dataclass
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from hypercluster.cli.connection import connection_options
from hypercluster.cli.words import age, count, percent_of, span_us
from hypercluster.client.nodes import Nodes
from hypercluster.client.settings import ClientSettings
from hypercluster.errors import HyperClusterError
from hypercluster.pb.v1.cluster_pb2 import NodeStatus

EXIT_UNHEALTHY = 1
LAG_NOTED_ENTRIES = 1_000
PIPE_COLUMNS = 200


@dataclass(frozen=True, slots=True)
class Seen:
    """One node: what it said (None: nothing), and its line's last column."""

    name: str
    address: str
    said: NodeStatus | None
    state: str


@dataclass(frozen=True, slots=True)
class Overview:
    leader: NodeStatus | None
    nodes: tuple[Seen, ...]
    voters: int
    voters_ok: int

    @property
    def health(self) -> str:
        if self.leader is None:
            return "no leader"
        return "healthy" if self.voters_ok == self.voters and not self.leader.refusing_writes else "degraded"


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of a table.")
@connection_options
def status(as_json: bool, settings: ClientSettings) -> int:
    """Show how the cluster and each of its nodes is.

    Every node is asked for its own view. Exit code 0 when the cluster is healthy, 1 when it is not.
    """
    overview = asyncio.run(look(settings))
    if as_json:
        click.echo(json.dumps(as_dict(overview), indent=2))
    else:
        # Into a pipe or a file nothing is folded at some terminal's width.
        show(overview, Console(highlight=False, width=None if sys.stdout.isatty() else PIPE_COLUMNS))
    return 0 if overview.health == "healthy" else EXIT_UNHEALTHY


async def look(settings: ClientSettings) -> Overview:
    """Asks the nodes it was told of, then those that they name."""
    nodes = Nodes(settings, random.Random())
    said: dict[str, NodeStatus | None] = {}
    try:
        wanted = list(settings.nodes)
        while wanted:
            answers = await asyncio.gather(*[_ask(nodes, address) for address in wanted])
            said.update(zip(wanted, answers, strict=True))
            named = {p.client_address for answer in answers if answer is not None for p in answer.peers}
            wanted = [address for address in sorted(named) if address and address not in said]
        return add_up(said, nodes.said)
    finally:
        await nodes.close()


async def _ask(nodes: Nodes, address: str) -> NodeStatus | None:
    try:
        return await nodes.status(address, 2.0)
    except HyperClusterError:
        return None


def add_up(said: dict[str, NodeStatus | None], words: dict[str, str]) -> Overview:
    """`words`: address -> why it did not answer."""
    answers = {answer.node_id: (address, answer) for address, answer in said.items() if answer is not None}
    leaders = [answer for _, answer in answers.values() if answer.role == "leader"]
    leader = max(leaders, key=lambda s: s.term, default=None)
    newest = leader or max((a for _, a in answers.values()), key=lambda s: s.term, default=None)
    nodes: list[Seen] = []
    silent = {address for address, answer in said.items() if answer is None}
    for member in newest.peers if newest is not None else ():
        found = answers.get(member.node_id)
        if found is None:
            silent.discard(member.client_address)
            why = words.get(member.client_address, "client address is not known")
            nodes.append(
                Seen(member.node_id, member.client_address, None, f"UNREACHABLE: {member.client_address} {why}")
            )
        else:
            nodes.append(Seen(member.node_id, found[0], found[1], _state(found[1], leader)))
    nodes += [
        Seen("?", address, None, f"UNREACHABLE: {address} {words.get(address, 'does not answer')}")
        for address in sorted(silent)
    ]
    voters = {p.node_id for p in newest.peers if p.suffrage == "voter"} if newest is not None else set()
    ok = sum(1 for seen in nodes if seen.name in voters and seen.state == "ok")
    return Overview(leader, tuple(nodes), len(voters), ok)


def _state(said: NodeStatus, leader: NodeStatus | None) -> str:
    if said.refusing_writes:
        return f"REFUSES WRITES: {said.refusing_writes}"
    if not said.leader:
        return "NO LEADER: read-only until a majority sees each other"
    if leader is not None and leader.commit_index > said.applied_index + LAG_NOTED_ENTRIES:
        return f"CATCHING UP: {count(leader.commit_index - said.applied_index)} entries behind"
    return "ok"


def show(overview: Overview, console: Console) -> None:
    leader = overview.leader
    named = next((s.said for s in overview.nodes if s.said is not None), None)
    cluster = named.cluster_id.hex()[:8] if named is not None else "unknown"
    head = [f"CLUSTER {cluster}", overview.health, f"{overview.voters_ok}/{overview.voters} voters"]
    if leader is not None:
        since = f", {age(time.time_ns() - leader.leader_since_ns)}" if leader.leader_since_ns else ""
        head += [f"leader {leader.node_id} (term {leader.term}{since})", f"log {count(leader.commit_index)}"]
        if leader.commit_p50_us:
            head.append(f"commit p50 {span_us(leader.commit_p50_us)}  p99 {span_us(leader.commit_p99_us)}")
    console.print("   ".join(head), soft_wrap=True)
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    for title in ("NODE", "ROLE", "MATCH", "LAG", "FSYNC p95", "DISK", "VERSION", "STATE"):
        right = title in ("MATCH", "LAG", "FSYNC p95")
        table.add_column(title, justify="right" if right else "left", no_wrap=title != "STATE", overflow="fold")
    last = leader.last_index if leader is not None else 0
    for seen in overview.nodes:
        said = seen.said
        if said is None:
            table.add_row(seen.name, "", "", "", "", "", "", seen.state)
            continue
        lag = max(0, last - said.durable_index) if leader is not None else 0
        used = said.disk_total_bytes - said.disk_free_bytes
        table.add_row(
            seen.name,
            said.role,
            count(said.durable_index),
            count(lag),
            span_us(said.fsync_p95_us),
            percent_of(used, said.disk_total_bytes),
            said.version,
            seen.state,
        )
    console.print(table)
    for seen in overview.nodes:
        for problem in seen.said.worker_problems if seen.said is not None else ():
            console.print(f"worker {problem}", soft_wrap=True, markup=False)


def as_dict(overview: Overview) -> dict[str, Any]:
    leader = overview.leader
    return {
        "health": overview.health,
        "leader": leader.node_id if leader is not None else None,
        "term": leader.term if leader is not None else None,
        "voters": overview.voters,
        "voters_ok": overview.voters_ok,
        "nodes": [_node_dict(seen) for seen in overview.nodes],
    }


def _node_dict(seen: Seen) -> dict[str, Any]:
    said = seen.said
    found: dict[str, Any] = {"node": seen.name, "address": seen.address, "state": seen.state}
    if said is None:
        return found
    numbers = (
        "term", "last_index", "durable_index", "commit_index", "applied_index", "base_index", "clock_skew_ms",
        "disk_free_bytes", "disk_total_bytes", "fsync_p95_us", "commit_p50_us", "commit_p99_us", "started_at_ns",
        "leader_since_ns", "workers_connected",
    )  # fmt: skip
    found |= {name: getattr(said, name) for name in numbers}
    found |= {
        "role": said.role,
        "leader": said.leader,
        "version": said.version,
        "refusing_writes": said.refusing_writes,
        "worker_problems": list(said.worker_problems),
    }
    found |= {k: getattr(said, k).hex() for k in ("digest", "cluster_id", "history_id")}
    return found
