"""Reads of hub keys at every level, as the register's own workers and the readers beside them do them (CL-10).

Owns: the `read` operation of a key that holds a JSON number.
Invariants: a bounded-stale read goes to the next node each time; what it may not be older than stands in its invoke.
"""

from __future__ import annotations

import json
from typing import Any

from chaos.workloads.logical import LogicalClient
from chaos.workloads.operations import Answer, Operation
from hypercluster.client.hub import HubValue
from hypercluster.values import ReadLevel

NAMESPACE = "metadata"
LEVELS = {level.name.lower(): level for level in ReadLevel}


def read_key(key: str, level: str, min_index: int = 0) -> Operation:
    """`value` of the answer is a number, or null where there is no key."""

    async def run(who: LogicalClient) -> Answer:
        if level == "bounded_stale":
            who.client.nodes.next_reader()
        found = await who.client.hub.get(NAMESPACE, key.encode(), level=LEVELS[level], min_index=min_index)
        return Answer(number_in(found), freshness(found, level))

    return Operation("read", key, run, level=level, extra={"min_index": min_index} if min_index else {})


def number_in(found: HubValue) -> Any:
    return json.loads(found.payload) if found.found else None


def freshness(found: HubValue, level: str) -> dict[str, Any]:
    """4294967295 ms says that the node does not know how stale it is."""
    extra = {"version": found.version, "raft_index": found.raft_index, "node": found.node_id}
    if level == "bounded_stale":
        extra["staleness_ms"] = found.staleness_ms
    return extra


async def free_epoch(who: LogicalClient, prefix: str) -> int:
    """The first epoch whose keys, `<prefix><epoch>…`, nobody has used: other runs may have used the cluster."""
    highest = -1
    async for found in who.client.hub.list(NAMESPACE, prefix.encode()):
        epoch = found.key.decode()[len(prefix) :].partition("-")[0]
        if epoch.isdigit():
            highest = max(highest, int(epoch))
    return highest + 1
