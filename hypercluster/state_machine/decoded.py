"""An entry as the state machine reads it: every message parsed once, by whoever saw the bytes first.

Owns: `DecodedEntry` and its parts. The leader builds them at admission and proposes what it built; a follower
gets equal objects from the log's bytes (log/entry.py). Nothing here is ever written back into state: state holds
the bytes as they were received (D-12).
Invariants: `raws[i]` is the serialized command `ops[i]` was parsed from; a hub command is a `HubOp`, every other
command stays its message.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

from hypercluster.pb.v1.command_pb2 import Command
from hypercluster.values import ClientId, Index, Nanos, Scope, Seq

NO_PRECONDITION = -1
NO_STAMP = Nanos(0)


class EntryType(IntEnum):
    """The first byte of every entry; on disk and on the wire, never reused."""

    NO_OP = 0x00
    BATCH = 0x10
    CONFIG = 0x11


class HubOp(NamedTuple):
    """A hub command with its fields taken out of the message: reading them is most of what parsing costs."""

    namespace: str
    key: bytes
    op_type: int
    payload: bytes
    expected_version: int  # NO_PRECONDITION, or the version the key must have; 0 means "must not exist"


class Run(NamedTuple):
    """A Submit message: consecutive commands of one lane (D-7)."""

    client_id: ClientId
    first_seq: Seq
    floor: Seq
    basis: Index
    workspace_id: bytes
    origin: bytes  # Origin in its canonical encoding, or empty
    raws: tuple[bytes, ...]
    ops: tuple[HubOp | Command, ...]


class DecodedGroup(NamedTuple):
    """A run with what the leader knows of its sender; `submit` is the message exactly as received."""

    submit: bytes
    principal: str
    scope: Scope
    worker: str
    run: Run


@dataclass(frozen=True, slots=True)
class DecodedEntry:
    """`config` holds the serialized ConfigEntry of a CONFIG entry; only a BATCH has groups and a stamp."""

    kind: EntryType
    committed_at_ns: Nanos = NO_STAMP
    id_seed: bytes = b""
    command_count: int = 0
    groups: tuple[DecodedGroup, ...] = ()
    config: bytes = b""
