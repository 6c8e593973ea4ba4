"""What a run of commands is to admission and batching: how large it is in an entry, and what is special about it.

Owns: the estimate of a group's bytes, and the look at its commands that both need.
Never: judges, or looks at anything but the run.
"""

from __future__ import annotations

from typing import NamedTuple

from hypercluster.state_machine.decoded import DecodedGroup, HubOp, Run

GROUP_FRAME_BYTES = 32  # tags and lengths of one group in an entry, rounded up


class RunKinds(NamedTuple):
    bulk: bool  # it puts chunks
    flush: bool  # it holds an fsync
    reclaims: bool  # it takes over locks


def group_bytes(group: DecodedGroup) -> int:
    """What the message takes in an entry, at most: many small ones are mostly the names of who sent them."""
    scope = group.scope
    names = len(group.principal) + len(scope.org) + len(scope.project) + len(group.worker)  # ASCII, by their patterns
    return len(group.submit) + names + GROUP_FRAME_BYTES


def kinds_of(run: Run) -> RunKinds:
    bulk = flush = reclaims = False
    for op in run.ops:
        if isinstance(op, HubOp):
            continue
        kind = op.WhichOneof("kind")
        if kind == "chunk_put":
            bulk = True
        elif kind == "file" and op.file.HasField("sync"):
            flush = True
        elif kind == "coordination" and op.coordination.HasField("lock_reclaim"):
            reclaims = True
    return RunKinds(bulk, flush, reclaims)
