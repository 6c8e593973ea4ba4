"""Records of locks in Family.COORDINATION, and their keys.

Owns: every key that begins with a workspace's id and `L`. Others of the family have other letters.
    "LI" lock_id -> whose it is and what it is on: written once, so a grant does not touch it
    "LT" target -> all that moves: the target's holders in the order of their grants, then its queue (`Table`)
    "LC" client handle target -> lock_id: the request of an owner for a target; there is one at most
    "LN" client -> how many requests the client has
    "LW" client handle -> lock_id, deadline, target: the wait of an owner that waits for one thing at a time (WS-47)
    "LA" -> how many requests the workspace has
Invariants: a lock_id is the stamp of the command that asked, so it is never given twice; each request has its "LI", its
"LC" and its row in one "LT", or none of them; granting a whole queue changes one record (D-4).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final, NamedTuple

from hypercluster.errors import REJOIN, DamagedError
from hypercluster.pb.v1 import coordination_command_pb2 as pb
from hypercluster.state_machine.coordination.events import LockRow
from hypercluster.state_machine.keys import number

SHARED: Final = int(pb.LOCK_KIND_SHARED)
EXCLUSIVE: Final = int(pb.LOCK_KIND_EXCLUSIVE)
PERMIT: Final = int(pb.LOCK_KIND_PERMIT)

QUEUED: Final = int(pb.LOCK_STATE_QUEUED)
HELD: Final = int(pb.LOCK_STATE_HELD)
GRACE: Final = int(pb.LOCK_STATE_GRACE)
FREE: Final = int(pb.LOCK_STATE_FREE)

LOCK: Final = b"LI"
TARGET: Final = b"LT"
OWNED: Final = b"LC"
COUNT: Final = b"LN"
WAIT: Final = b"LW"
ALL: Final = b"LA"

WORKSPACE_ID_BYTES: Final = 16

_ON_INODE, _ON_NAME = b"i", b"n"
_TABLE = struct.Struct(">HH")  # permits, how many of the rows are holders
_ROW = struct.Struct(">QQQB")  # lock_id, token, when, bits
_STATE_SHIFT, _STATE_BITS = 2, 7
_KIND_BITS = 3
_ONE_AT_A_TIME = 32
_ENTRY = struct.Struct(">16sQHHHH")  # client, handle, lengths of target, principal, worker, agent
_WAIT = struct.Struct(">QQ")  # lock_id, deadline; the target follows
_NUMBER = struct.Struct(">Q")


class Target(NamedTuple):
    """What a lock is on; one of the two is empty."""

    inode_id: bytes
    name: str

    def key(self) -> bytes:
        return _ON_INODE + self.inode_id if self.inode_id else _ON_NAME + self.name.encode()


class Request(NamedTuple):
    """The part of a lock or a wait that never changes: an "LI" record."""

    lock_id: int
    target: Target
    client_id: bytes
    handle_id: int
    principal: str
    worker: str
    agent: str


class Row(NamedTuple):
    """The part that moves: one place in a `Table`."""

    lock_id: int
    token: int  # 0 while it is queued
    when_ns: int  # granted, of a holder; of a waiter the end of its wait, 0: none
    kind: int
    state: int  # QUEUED, HELD or GRACE
    one_at_a_time: bool


class Wait(NamedTuple):
    """An "LW" record."""

    lock_id: int
    until_ns: int  # 0: no deadline
    target: Target


@dataclass(slots=True)
class Table:
    """An "LT" record: who holds a target and who waits for it."""

    permits: int  # of a semaphore; 0 for a lock
    holders: list[Row]
    queue: list[Row]

    def encode(self) -> bytes:
        parts = [_TABLE.pack(self.permits, len(self.holders))]
        for lock_id, token, when_ns, kind, state, one_at_a_time in (*self.holders, *self.queue):
            bits = kind | state << _STATE_SHIFT | (_ONE_AT_A_TIME if one_at_a_time else 0)
            parts.append(_ROW.pack(lock_id, token, when_ns, bits))
        return b"".join(parts)

    def __len__(self) -> int:
        return len(self.holders) + len(self.queue)


def decode_table(record: bytes) -> Table:
    try:
        permits, holders = _TABLE.unpack_from(record)
        rows = [_row(*fields) for fields in _ROW.iter_unpack(memoryview(record)[_TABLE.size :])]
    except struct.error as error:
        raise DamagedError(f"the record of a lock's target does not decode. {REJOIN}") from error
    return Table(permits, rows[:holders], rows[holders:])


def table_rows(record: bytes) -> int:
    return max(0, len(record) - _TABLE.size) // _ROW.size


def read_sole_holder(record: bytes) -> Row | None:
    """The holder of a target that is held exclusively, without a look at its queue."""
    try:
        row = _row(*_ROW.unpack_from(record, _TABLE.size)) if _TABLE.unpack_from(record)[1] else None
    except struct.error as error:
        raise DamagedError(f"the record of a lock's target does not decode. {REJOIN}") from error
    return row if row is not None and row.kind == EXCLUSIVE else None


def holds(record: bytes, token: int) -> bool:
    """Whether a present holder has this token."""
    return any(row.token == token for row in decode_table(record).holders)


def _row(lock_id: int, token: int, when_ns: int, bits: int) -> Row:
    return Row(lock_id, token, when_ns, bits & _KIND_BITS, bits >> _STATE_SHIFT & _STATE_BITS, bits >= _ONE_AT_A_TIME)


def encode_wait(request: Request, until_ns: int) -> bytes:
    return _WAIT.pack(request.lock_id, until_ns) + request.target.key()


def decode_wait(record: bytes) -> Wait:
    try:
        lock_id, until_ns = _WAIT.unpack_from(record)
    except struct.error as error:
        raise DamagedError(f"the record of a wait does not decode. {REJOIN}") from error
    return Wait(lock_id, until_ns, decode_target(record[_WAIT.size :]))


def encode_request(request: Request) -> bytes:
    parts = [request.target.key(), request.principal.encode(), request.worker.encode(), request.agent.encode()]
    return _ENTRY.pack(request.client_id, request.handle_id, *map(len, parts)) + b"".join(parts)


def decode_request(lock_id: int, record: bytes) -> Request:
    try:
        client_id, handle_id, *lengths = _ENTRY.unpack_from(record)
    except struct.error as error:
        raise DamagedError(f"the record of lock {lock_id} does not decode. {REJOIN}") from error
    parts = []
    position = _ENTRY.size
    for length in lengths:
        parts.append(record[position : position + length])
        position += length
    target, principal, worker, agent = parts
    return Request(
        lock_id, decode_target(target), client_id, handle_id, principal.decode(), worker.decode(), agent.decode()
    )


def decode_target(key: bytes) -> Target:
    return Target(key[1:], "") if key[:1] == _ON_INODE else Target(b"", key[1:].decode())


def lock_row(
    workspace_id: bytes, request: Request, row: Row, permits: int, *, state: int | None = None, position: int = 0
) -> LockRow:
    """A request as the world sees it; `state` in place of the row's own, once that has ended."""
    waits = row.state == QUEUED
    return LockRow(
        request.lock_id,
        workspace_id,
        request.target.inode_id,
        request.target.name,
        row.kind,
        row.state if state is None else state,
        row.token,
        request.client_id,
        request.handle_id,
        request.principal,
        request.worker,
        request.agent,
        request.lock_id,  # a lock's id is the stamp of its command
        0 if waits else row.when_ns,
        row.when_ns if waits else 0,
        permits,
        position,
    )


def lock_key(workspace_id: bytes, lock_id: int) -> bytes:
    return workspace_id + LOCK + number(lock_id)


def table_key(workspace_id: bytes, target: Target) -> bytes:
    return workspace_id + TARGET + target.key()


def client_prefix(workspace_id: bytes, client_id: bytes) -> bytes:
    """Of the client's "LC" records."""
    return workspace_id + OWNED + client_id


def owned_key(workspace_id: bytes, client_id: bytes, handle_id: int, target: Target) -> bytes:
    return client_prefix(workspace_id, client_id) + number(handle_id) + target.key()


def count_key(workspace_id: bytes, client_id: bytes) -> bytes:
    return workspace_id + COUNT + client_id


def wait_key(workspace_id: bytes, client_id: bytes, handle_id: int) -> bytes:
    return workspace_id + WAIT + client_id + number(handle_id)


def all_key(workspace_id: bytes) -> bytes:
    return workspace_id + ALL


def read_number_record(record: bytes | None) -> int:
    """A count or a lock_id that a record holds; 0 for none."""
    return 0 if record is None else int(_NUMBER.unpack(record)[0])
