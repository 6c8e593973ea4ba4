"""The op log of a workspace: one LogRecord per accepted operation, one LogBatch per entry (WS-36, WS-51).

Owns: the records of Family.OPLOG that begin with `W`: "W" workspace first_log_index -> LogBatch; "B" workspace -> the
bytes of those; and "F" workspace -> the first log_index kept, once some were removed: a scan from the beginning would
pass over all that was, for as long as the store has not compacted it. They are written here in protobuf's wire format
field by field, in order, so that their bytes are ours and frozen, and the command inside stays the bytes the client
sent (D-12).
Invariants: the records of a workspace cover its log_index without gap or overlap from the first one kept; a record is
never changed, only removed as a whole when the log is trimmed, TRIM_KEYS_MAX a command.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from struct import Struct
from typing import Final, NamedTuple

from blake3 import blake3

from hypercluster.limits import COMMAND_KEYS_MAX, HAZARD_WINDOW_OPS
from hypercluster.state_machine.context import Effects, OpContext
from hypercluster.state_machine.keys import number
from hypercluster.state_machine.outcome import FileOutcome
from hypercluster.state_machine.overlay import Overlay
from hypercluster.state_machine.store import Family, Reader
from hypercluster.state_machine.workspace.records import prefix_end
from hypercluster.state_machine.workspace.snapshots import flush_marks
from hypercluster.state_machine.workspace.state import flush_workspaces, open_workspace

SENDERS_CACHED_MAX: Final = 256  # about 1.5 KiB each at most
TRIM_KEYS_MAX: Final = COMMAND_KEYS_MAX - 2  # and the sum of bytes, and where the log begins

_WORKSPACE: Final = b"W"
_BYTES_KEPT: Final = b"B"
_KEPT_FROM: Final = b"F"
_FIXED64: Final = Struct("<Q")
_STAMP_AFTER: Final = 2 + 16 + 1  # op_id with tag and length, and the tag of committed_at

_VARINTS: Final = [bytes((value,)) for value in range(128)]


def _varint(value: int) -> bytes:
    if value < 128:
        return _VARINTS[value]
    if value < 16_384:
        return bytes((value & 127 | 128, value >> 7))
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def encode_log_record(ctx: OpContext, outcome: FileOutcome, reserved: bool = False) -> bytes:
    """LogRecord in the order of its field numbers; empty and zero fields are left out, as protobuf does. `reserved`:
    a reservation of the writer covered it."""
    op_id = blake3(ctx.id_seed + ctx.ordinal.to_bytes(4, "big") + b"op").digest(16)
    command = ctx.command
    parts = [
        b"\x08",
        _varint(outcome.log_index),
        b"\x12\x10",
        op_id,
        b"\x19",
        _FIXED64.pack(outcome.stamp_ns),
        b"\x22",
        _varint(len(ctx.client_id)),
        ctx.client_id,
        b"\x28",
        _varint(ctx.seq),
        _sender_fields(ctx.worker, ctx.origin),
        b"\x42",
        _varint(len(command)),
        command,
        b"\x4a\x20",
        outcome.root,
    ]
    if outcome.inode_id:
        parts += (b"\x52\x10", outcome.inode_id, b"\x59", _FIXED64.pack(outcome.inode_no))
    if outcome.applied_offset:
        parts += (b"\x60", _varint(outcome.applied_offset))
    parts += (b"\x68", _varint(ctx.index))
    if outcome.hazard is not None:
        kind, conflicting = outcome.hazard
        hazard = b"\x08" + _varint(kind) + b"\x10" + _varint(conflicting)
        parts += (b"\x72", _varint(len(hazard)), hazard)
    if reserved:
        parts.append(b"\x78\x01")
    return b"".join(parts)


@lru_cache(maxsize=SENDERS_CACHED_MAX)
def _sender_fields(worker: str, origin: bytes) -> bytes:
    """The same for every command of a run, and for most runs of a client."""
    parts: list[bytes] = []
    if worker:
        name = worker.encode()
        parts += (b"\x32", _varint(len(name)), name)
    if origin:
        parts += (b"\x3a", _varint(len(origin)), origin)
    return b"".join(parts)


def encode_log_batch(records: list[bytes]) -> bytes:
    parts: list[bytes] = []
    for record in records:
        parts += (b"\x0a", _varint(len(record)), record)
    return b"".join(parts)


def log_key(workspace_id: bytes, first_log_index: int) -> bytes:
    return _WORKSPACE + workspace_id + number(first_log_index)


def flush_log(overlay: Overlay, effects: Effects) -> dict[bytes, bytes]:
    """Once an entry, after its last command: writes what the workspaces keep as objects (header, Merkle records) and
    one op log record per workspace. Answers the LogBatch of each workspace, for fan-out."""
    workspaces = flush_workspaces(overlay)
    batches: dict[bytes, bytes] = {}
    for workspace_id, records in effects.log_records.items():
        batch = batches[workspace_id] = encode_log_batch(records)
        first = workspaces[workspace_id].header.log_index - len(records) + 1
        overlay.put_uncached(Family.OPLOG, log_key(workspace_id, first), batch)
        size_bytes = log_bytes(overlay, workspace_id) + len(batch)
        overlay.put(Family.OPLOG, _BYTES_KEPT + workspace_id, number(size_bytes))
    flush_marks(overlay, effects, workspaces)
    return batches


class LogSlicePart(NamedTuple):
    """One op log record: the batch as stored, and the log_index of its first operation."""

    first_index: int
    batch: bytes


def _bounds(reader: Reader, workspace_id: bytes) -> tuple[bytes, bytes]:
    """Between which keys the records are that are kept."""
    kept_from = reader.get(Family.OPLOG, _KEPT_FROM + workspace_id)
    first = 0 if kept_from is None else int.from_bytes(kept_from, "big")
    return log_key(workspace_id, first), prefix_end(_WORKSPACE + workspace_id)


def scan_log(reader: Reader, workspace_id: bytes, from_index: int) -> Iterator[LogSlicePart]:
    """Batches from the one that holds `from_index` on. Below what is kept it begins with the first kept one: compare
    `first_index` with what was asked for."""
    start, end = _bounds(reader, workspace_id)
    before = reader.scan(Family.OPLOG, start, log_key(workspace_id, from_index + 1), reverse=True)
    holding = next(iter(before), None)
    if holding is not None:
        start = holding[0]
    for key, batch in reader.scan(Family.OPLOG, start, end):
        yield LogSlicePart(int.from_bytes(key[-8:], "big"), batch)


def scan_log_back(reader: Reader, workspace_id: bytes) -> Iterator[LogSlicePart]:
    """All batches that are kept, the newest first."""
    start, end = _bounds(reader, workspace_id)
    for key, batch in reader.scan(Family.OPLOG, start, end, reverse=True):
        yield LogSlicePart(int.from_bytes(key[-8:], "big"), batch)


def log_floor(reader: Reader, workspace_id: bytes) -> int | None:
    """The lowest log_index kept; None if the log is empty."""
    start, end = _bounds(reader, workspace_id)
    first = next(iter(reader.scan(Family.OPLOG, start, end)), None)
    return None if first is None else int.from_bytes(first[0][-8:], "big")


def log_bytes(reader: Reader, workspace_id: bytes) -> int:
    """Of all records kept, uncompressed, keys not counted."""
    record = reader.get(Family.OPLOG, _BYTES_KEPT + workspace_id)
    return 0 if record is None else int.from_bytes(record, "big")


def read_batch(reader: Reader, workspace_id: bytes, log_index: int) -> LogSlicePart | None:
    """The record that holds an operation; None if it is not kept, or not there yet."""
    part = next(scan_log(reader, workspace_id, log_index), None)
    return part if part is not None and part.first_index <= log_index else None


def first_stamp_ns(batch: bytes) -> int:
    """committed_at of the first operation of a record, read from its place in our own encoding."""
    position = 1
    while batch[position] > 127:  # the length of the first LogRecord
        position += 1
    position += 2  # past it, and the tag of log_index
    while batch[position] > 127:
        position += 1
    return int(_FIXED64.unpack_from(batch, position + 1 + _STAMP_AFTER)[0])


def first_since(reader: Reader, workspace_id: bytes, stamp_ns: int, head: int) -> int:
    """The lowest log_index kept whose record began at the stamp or after it; head + 1 if there is none. Costs as many
    reads as the span from floor to head has binary digits."""
    low, high = log_floor(reader, workspace_id) or head + 1, head + 1
    while low < high:
        middle = (low + high) // 2
        part = read_batch(reader, workspace_id, middle)
        if part is None or first_stamp_ns(part.batch) >= stamp_ns:
            high = min(middle, part.first_index) if part is not None else middle
        else:
            low = middle + 1
    return low


def trim_limit(head: int) -> int:
    """The highest index below which records may go."""
    return head + 1 - HAZARD_WINDOW_OPS


def trim_log(overlay: Overlay, workspace_id: bytes, below_log_index: int) -> int:
    """Removes records that lie wholly below the index, at most TRIM_KEYS_MAX; answers how many. The last stays, and so
    do those that the next operation's hazards are judged by (WS-46)."""
    workspace = open_workspace(overlay, workspace_id)
    if workspace is None:
        return 0
    below_log_index = min(below_log_index, trim_limit(workspace.header.log_index))
    start, end = _bounds(overlay, workspace_id)
    gone: list[bytes] = []
    last = b""
    gone_bytes = last_bytes = 0
    for key, record in overlay.scan(Family.OPLOG, start, end):
        # A record ends where the next one begins.
        if int.from_bytes(key[-8:], "big") > below_log_index or len(gone) == TRIM_KEYS_MAX:
            break
        if last:
            gone.append(last)
            gone_bytes += last_bytes
        last, last_bytes = key, len(record)
    for key in gone:
        overlay.delete(Family.OPLOG, key)
    if gone:
        overlay.put(Family.OPLOG, _KEPT_FROM + workspace_id, last[-8:])
        # Of a log that began before bytes were counted, the first records are not in the sum.
        kept_bytes = max(0, log_bytes(overlay, workspace_id) - gone_bytes)
        overlay.put(Family.OPLOG, _BYTES_KEPT + workspace_id, number(kept_bytes))
    return len(gone)
