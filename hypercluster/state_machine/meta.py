"""The single records of Family.META: where apply is, which cluster this is, floors and counters.

Owns: their keys and encodings. `APPLIED` is written with every entry, as its last change, and is the only record that
the digest does not cover (it holds the digest).
Invariants: every node that applied the same entries over the same genesis holds the same bytes here.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from hypercluster.errors import REJOIN, DamagedError, check
from hypercluster.state_machine.keys import scope_prefix
from hypercluster.state_machine.store import Change, Family, Reader
from hypercluster.values import NO_INDEX, NO_TERM, ZERO_DIGEST, ClusterId, Digest, HistoryId, Index, Nanos, Scope, Term

APPLIED = b"applied"
CLUSTER = b"cluster"
DEDUPE_FLOOR = b"dedupe_floor"
LANE_COUNT = b"lane_count"
VERSIONS_FLOOR = b"versions_floor"
LOCK_TOKEN = b"lock_token"  # of the newest grant of the cluster (D-10)
_SERVER_SEQ = b"server_seq/"

_APPLIED = struct.Struct(">QQQ32s")
_CLUSTER = struct.Struct(">16s16s")
_NUMBER = struct.Struct(">Q")


@dataclass(frozen=True, slots=True)
class AppliedRecord:
    index: Index
    term: Term
    last_stamp_ns: Nanos
    digest: Digest


NOTHING_APPLIED = AppliedRecord(NO_INDEX, NO_TERM, Nanos(0), ZERO_DIGEST)


def read_applied(reader: Reader) -> AppliedRecord:
    value = reader.get(Family.META, APPLIED)
    if value is None:
        return NOTHING_APPLIED
    if len(value) != _APPLIED.size:
        raise DamagedError(f"the applied record is {len(value)} bytes, must be {_APPLIED.size}. {REJOIN}")
    index, term, stamp_ns, digest = _APPLIED.unpack(value)
    return AppliedRecord(Index(index), Term(term), Nanos(stamp_ns), Digest(digest))


def applied_change(record: AppliedRecord) -> Change:
    value = _APPLIED.pack(record.index, record.term, record.last_stamp_ns, record.digest)
    return Change(Family.META, APPLIED, value)


def genesis(cluster_id: ClusterId, history_id: HistoryId) -> list[Change]:
    """What an empty store is given before its first entry: equal on every node of a new cluster (CL-15, D-17)."""
    check(len(cluster_id) == 16 and len(history_id) == 16, "cluster id and history id are 16 bytes each")
    return [Change(Family.META, CLUSTER, _CLUSTER.pack(cluster_id, history_id))]


def read_cluster(reader: Reader) -> tuple[ClusterId, HistoryId] | None:
    value = reader.get(Family.META, CLUSTER)
    if value is None:
        return None
    cluster_id, history_id = _CLUSTER.unpack(value)
    return ClusterId(cluster_id), HistoryId(history_id)


def server_seq_key(scope: Scope) -> bytes:
    return _SERVER_SEQ + scope_prefix(scope)


def read_counter(reader: Reader, key: bytes) -> int:
    """0 when it was never written."""
    value = reader.get(Family.META, key)
    return 0 if value is None else int(_NUMBER.unpack(value)[0])


def counter_change(key: bytes, value: int) -> Change:
    return Change(Family.META, key, _NUMBER.pack(value))
