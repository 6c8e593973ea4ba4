"""Read options and read states: from messages to node/reads.py and back.

Owns: the two conversions. Never: looks at the state.
"""

from __future__ import annotations

from hypercluster.errors import MalformedError
from hypercluster.node.reads import ReadPoint, ReadWish
from hypercluster.pb.v1 import read_pb2
from hypercluster.values import ReadLevel

_LEVELS = {int(level): level for level in ReadLevel}


def wish_of(options: read_pb2.ReadOptions) -> ReadWish:
    """Raises MalformedError."""
    level = _LEVELS.get(options.level)
    if level is None:
        raise MalformedError(f"read.level {options.level}: 0 linearizable, 1 leader-local or 2 bounded-stale")
    if options.cluster_id and len(options.cluster_id) != 16:
        raise MalformedError(f"read.cluster_id: {len(options.cluster_id)} bytes, expected 16 or none")
    return ReadWish(level, options.min_index, options.staleness_max_ms, options.cluster_id)


def state_of(point: ReadPoint) -> read_pb2.ReadState:
    return read_pb2.ReadState(
        applied_index=point.applied_index,
        term=point.term,
        staleness_ms=point.staleness_ms,
        node_id=point.node_id,
        history_id=point.history_id,
    )


def bounded(name: str, value: int, highest: int, default: int) -> int:
    """A count from a request: 0 means the default. Raises MalformedError."""
    if value > highest:
        raise MalformedError(f"{name} {value}: at most {highest}")
    return value or default
