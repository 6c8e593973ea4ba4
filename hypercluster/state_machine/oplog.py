"""The op log of a scope: every accepted hub operation, in server_seq order (HUB-2, HUB-12).

Owns: the "H" records of Family.OPLOG: "H" scope first_server_seq -> one entry's accepted operations of the scope. A
record embeds each Submit as it was received, with the ranges of its commands that were accepted, so an entry costs
one record and no command is encoded again (D-12).
Never: change; records are only appended, and later removed as a whole.
Invariants: the records of a scope cover its server_seq without gap or overlap from the lowest kept one.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from hypercluster.state_machine.decoded import DecodedGroup, HubOp
from hypercluster.state_machine.keys import number, prefix_end, scope_prefix
from hypercluster.state_machine.store import Change, Family, Reader
from hypercluster.state_machine.wire import read_run
from hypercluster.values import ClientId, Index, Nanos, Scope, Seq, ServerSeq, Term

_HUB: Final = b"H"
_VERSION: Final = 1
_HEAD = struct.Struct(">BQQQI")  # version, Raft index, term, the entry's stamp, groups
_GROUP = struct.Struct(">IHHII")  # ordinal of its first command, lengths of principal and worker, of Submit, ranges
_RANGE = struct.Struct(">HHQ")  # position of the first command, commands, server_seq of the first


class AcceptedGroup(NamedTuple):
    """A group's accepted hub commands as (position, count, first server_seq) ranges; `ordinal` of its command 0."""

    group: DecodedGroup
    ordinal: int
    ranges: Sequence[tuple[int, int, int]]


@dataclass(frozen=True, slots=True)
class HubLogOp:
    """One operation as it stands in the op log (HUB-1)."""

    server_seq: ServerSeq
    raft_index: Index
    term: Term
    stamp_ns: Nanos
    principal: str
    worker: str
    client_id: ClientId
    client_seq: Seq
    origin: bytes
    op: HubOp

    def op_id(self) -> bytes:
        return op_id(self.principal, command_id(self.client_id, self.client_seq), self.op.payload)


def command_id(client_id: ClientId, client_seq: int) -> bytes:
    """The idempotency key as bytes: what names a command for ever."""
    return client_id + number(client_seq)


def op_id(actor_id: str, command: bytes, payload: bytes) -> bytes:
    """SHA-256 over the length-prefixed actor id, command id and payload, lengths in four bytes (HUB-1, D-12)."""
    parts: list[bytes] = []
    for part in (actor_id.encode(), command, payload):
        parts += (len(part).to_bytes(4, "big"), part)
    return hashlib.sha256(b"".join(parts)).digest()


def accepted_ranges(
    reasons: Sequence[int], versions: Sequence[int], hub: Sequence[bool], start: int
) -> list[tuple[int, int, int]]:
    """The accepted hub commands of a run, as ranges of consecutive positions (the first is `start`) and server_seqs."""
    ranges: list[tuple[int, int, int]] = []
    for position, (reason, version, is_hub) in enumerate(zip(reasons, versions, hub, strict=True), start):
        if reason or not is_hub:
            continue
        if ranges:
            first, count, first_version = ranges[-1]
            if first + count == position and first_version + count == version:
                ranges[-1] = (first, count + 1, first_version)
                continue
        ranges.append((position, 1, version))
    return ranges


def encode_record(index: Index, term: Term, stamp_ns: int, groups: Sequence[AcceptedGroup]) -> bytes:
    parts = [_HEAD.pack(_VERSION, index, term, stamp_ns, len(groups))]
    for accepted in groups:
        group = accepted.group
        principal, worker = group.principal.encode(), group.worker.encode()
        parts += (
            _GROUP.pack(accepted.ordinal, len(principal), len(worker), len(group.submit), len(accepted.ranges)),
            principal,
            worker,
            group.submit,
        )
        parts += [_RANGE.pack(*found) for found in accepted.ranges]
    return b"".join(parts)


def record_change(scope: Scope, groups: Sequence[AcceptedGroup], record: bytes) -> Change:
    return Change(Family.OPLOG, record_key(scope, groups[0].ranges[0][2]), record)


def record_key(scope: Scope, first_server_seq: int) -> bytes:
    return _HUB + scope_prefix(scope) + number(first_server_seq)


def decode_record(record: bytes) -> Iterator[HubLogOp]:
    """The operations of one record, in server_seq order."""
    _, index, term, stamp_ns, group_count = _HEAD.unpack_from(record)
    position = _HEAD.size
    for _ in range(group_count):
        ordinal, principal_bytes, worker_bytes, submit_bytes, range_count = _GROUP.unpack_from(record, position)
        position += _GROUP.size
        principal = record[position : position + principal_bytes].decode()
        position += principal_bytes
        worker = record[position : position + worker_bytes].decode()
        position += worker_bytes
        run = read_run(record[position : position + submit_bytes])
        position += submit_bytes
        for _ in range(range_count):
            first, count, first_server_seq = _RANGE.unpack_from(record, position)
            position += _RANGE.size
            for offset in range(count):
                op = run.ops[first + offset]
                assert isinstance(op, HubOp)
                yield HubLogOp(
                    server_seq=ServerSeq(first_server_seq + offset),
                    raft_index=Index(index),
                    term=Term(term),
                    stamp_ns=Nanos(stamp_ns + ordinal + first + offset),
                    principal=principal,
                    worker=worker,
                    client_id=run.client_id,
                    client_seq=Seq(run.first_seq + first + offset),
                    origin=run.origin,
                    op=op,
                )


def read_ops(reader: Reader, scope: Scope, from_seq: int) -> Iterator[HubLogOp]:
    """Operations with server_seq >= from_seq, in order, as far as they are kept."""
    prefix = _HUB + scope_prefix(scope)
    start = prefix + number(from_seq)
    before = next(reader.scan(Family.OPLOG, prefix, start, reverse=True), None)
    if before is not None:  # the record that begins below may reach from_seq
        yield from (op for op in decode_record(before[1]) if op.server_seq >= from_seq)
    for _, record in reader.scan(Family.OPLOG, start, prefix_end(prefix)):
        yield from decode_record(record)
