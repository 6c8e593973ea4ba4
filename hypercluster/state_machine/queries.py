"""Pure reads of the core's state, over any `Reader`.

Owns: what a hub read, an intent's status and the leader's upkeep ask. Reads of a workspace live in its package.
Never: how fresh the reader is: the shell decides that before it calls (CL-10).
Invariants: the same reader gives the same answer; nothing here looks into a cache of the machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from hypercluster.state_machine import versions
from hypercluster.state_machine.hub import HubValue, decode_value, decode_version, head_prefix
from hypercluster.state_machine.keys import prefix_end
from hypercluster.state_machine.lanes import oldest_lanes, read_lane
from hypercluster.state_machine.meta import DEDUPE_FLOOR, LANE_COUNT, read_cluster, read_counter, server_seq_key
from hypercluster.state_machine.oplog import HubLogOp, read_ops
from hypercluster.state_machine.outcome import FileOutcome, RunResult
from hypercluster.state_machine.store import Family, Reader
from hypercluster.values import ClientId, Index, Scope, ServerSeq

__all__ = [
    "HubLogOp",
    "HubVersionRecord",
    "IntentStatus",
    "Judgement",
    "dedupe_floor",
    "hub_get",
    "hub_list",
    "hub_version_steps",
    "hub_versions",
    "intent_status",
    "lane_count",
    "oldest_lanes",
    "read_cluster",
    "read_ops",
    "server_seq",
    "versions_backlog",
    "versions_floor",
]


@dataclass(frozen=True, slots=True)
class HubVersionRecord:
    """One version of a key; `version` is the server_seq of the operation, also of a deletion."""

    raft_index: Index
    ordinal: int
    deleted: bool
    payload: bytes
    version: int


class Judgement(Enum):
    """What is known of a command, by its key."""

    JUDGED = "judged"  # `result` says how
    NOT_FOUND = "not_found"  # not judged as of this state; it may still be
    FORGOTTEN = "forgotten"  # judged or passed over, and its result is no longer kept (D-7: UNKNOWN)


@dataclass(frozen=True, slots=True)
class IntentStatus:
    """`principal` and `scope` are the lane's: only they may be told (WS-4)."""

    judgement: Judgement
    principal: str = ""
    scope: Scope | None = None
    result: RunResult | None = None  # of this one command


def hub_get(reader: Reader, scope: Scope, namespace: str, key: bytes) -> HubValue | None:
    record = reader.get(Family.HUB, head_prefix(scope, namespace) + key)
    return None if record is None else decode_value(record)


def hub_list(
    reader: Reader, scope: Scope, namespace: str, prefix: bytes, after: bytes, count_max: int
) -> tuple[list[tuple[bytes, HubValue]], bool]:
    """(key, value) pairs whose keys begin with `prefix` and come after `after`, in byte order; whether more follow."""
    beginning = head_prefix(scope, namespace)
    start = beginning + max(prefix, after + b"\0" if after else b"")
    found: list[tuple[bytes, HubValue]] = []
    for key, record in reader.scan(Family.HUB, start, prefix_end(beginning + prefix)):
        if len(found) == count_max:
            return found, True
        found.append((key[len(beginning) :], decode_value(record)))
    return found, False


def hub_versions(
    reader: Reader, scope: Scope, namespace: str, key: bytes, at_index: Index | None, count_max: int
) -> list[HubVersionRecord]:
    """What the key held once `at_index` was applied (one version or none; HistoryGoneError below the floor), or
    without an index its newest versions, newest first."""
    head_key = head_prefix(scope, namespace) + key
    if at_index is None:
        return [_hub_version(found) for found in versions.newest(reader, Family.HUB, head_key, count_max)]
    found = versions.read_at(reader, Family.HUB, head_key, at_index)
    return [] if found is None else [_hub_version(found)]


def hub_version_steps(
    reader: Reader, scope: Scope, namespace: str, key: bytes, at_index: Index
) -> Iterator[HubVersionRecord | None]:
    """`hub_versions` at an index, in steps of one read: None for each later version, then the version, if there is one.
    For those who share their thread: the state may move on between two steps (versions.py)."""
    for found in versions.steps_to(reader, Family.HUB, head_prefix(scope, namespace) + key, at_index):
        yield None if found is None else _hub_version(found)


def server_seq(reader: Reader, scope: Scope) -> ServerSeq:
    """Of the newest accepted hub operation of the scope; 0 before the first."""
    return ServerSeq(read_counter(reader, server_seq_key(scope)))


def intent_status(reader: Reader, client_id: ClientId, seq: int) -> IntentStatus:
    lane = read_lane(reader, client_id)
    if lane is None:
        return IntentStatus(Judgement.NOT_FOUND)
    if seq > lane.last_seq:
        return IntentStatus(Judgement.NOT_FOUND, lane.principal, lane.scope)
    stored = lane.find(seq)
    if stored is None:
        return IntentStatus(Judgement.FORGOTTEN, lane.principal, lane.scope)
    return IntentStatus(Judgement.JUDGED, lane.principal, lane.scope, _one(stored.result, seq))


def dedupe_floor(reader: Reader) -> Index:
    return Index(read_counter(reader, DEDUPE_FLOOR))


def lane_count(reader: Reader) -> int:
    return read_counter(reader, LANE_COUNT)


def versions_floor(reader: Reader) -> Index:
    return versions.floor(reader)


def versions_backlog(reader: Reader) -> bool:
    """Whether the same floor must be proposed again, because one command did not remove all below it."""
    return versions.backlog(reader)


def _one(run: RunResult, seq: int) -> RunResult:
    place = seq - run.first_seq
    file: FileOutcome | None = run.files[place] if run.files else None
    return RunResult(
        seq,
        1,
        run.index,
        run.reasons[place : place + 1],
        run.versions[place : place + 1],
        () if file is None else (file,),
    )


def _hub_version(found: versions.Version) -> HubVersionRecord:
    if found.value is None:
        return HubVersionRecord(found.index, found.ordinal, True, b"", int.from_bytes(found.rest, "big"))
    version, payload = decode_version(found.value)
    return HubVersionRecord(found.index, found.ordinal, False, payload, version)
