"""The stored results of a run: what a retry is answered from (D-7).

Owns: the encoding of one record per run: where it was judged, a hash of each command's bytes, and the columns of its
outcomes; for seqs that were given up (WS-4), how many there are. A refusal is kept as reason, version and errno only;
"not yet" answers never come here.
Invariants: decode_run(encode_run(...)) yields the outcomes it was given, field by field; the caches hold these same
bytes, so a warm and a cold lane answer alike.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from blake3 import blake3

from hypercluster.errors import REJOIN, DamagedError
from hypercluster.state_machine.outcome import ABANDONED, OK, FileOutcome, HazardFound, LockGrant, RunResult
from hypercluster.values import Index

COMMAND_HASH_BYTES: Final = 16

_HEAD = struct.Struct(">QHB")  # index, count, which columns follow
_REASONS, _VERSIONS, _FIRST_VERSION, _FILES = 1, 2, 4, 8
_BURNED = 16  # no hashes and no columns: every command of the run was given up, whatever its bytes are (WS-4)
_NUMBER = struct.Struct(">Q")

_NO_FILE, _REFUSED, _ACCEPTED, _EXISTED, _LOCK, _HAZARDOUS = 0, 1, 2, 3, 4, 5
_REFUSAL = struct.Struct(">HQ")  # errno, present_index
# log_index, stamp, inode_no, applied_offset, present_index, lengths of root and inode id
_ACCEPTANCE = struct.Struct(">QQQQQBB")
_HAZARD = struct.Struct(">BQ")  # kind, log_index of the earlier operation
_GRANT = struct.Struct(">QBQQ")  # stamp, state, lock id, token


@dataclass(frozen=True, slots=True)
class StoredRun:
    """A decoded record: what its commands hashed to and what they were answered."""

    hashes: bytes
    result: RunResult
    burned: bool = False

    def matches(self, position: int, raw: bytes) -> bool:
        """Whether these are the bytes that the answer at `position` is about."""
        hashed = self.hashes[position * COMMAND_HASH_BYTES : (position + 1) * COMMAND_HASH_BYTES]
        return self.burned or hashed == command_hash(raw)


def command_hash(raw: bytes) -> bytes:
    return blake3(raw).digest(COMMAND_HASH_BYTES)


def encode_run(raws: Sequence[bytes], result: RunResult) -> bytes:
    """`raws` are the commands of `result`, one for each of its count."""
    columns = 0
    parts = [b"", *[blake3(raw).digest(COMMAND_HASH_BYTES) for raw in raws]]
    if result.reasons:
        columns |= _REASONS
        parts.append(bytes(result.reasons))
    versions = result.versions
    if versions:
        if versions == tuple(range(versions[0], versions[0] + result.count)):  # as a run of accepted hub commands is
            columns |= _FIRST_VERSION
            parts.append(_NUMBER.pack(versions[0]))
        else:
            columns |= _VERSIONS
            parts.append(struct.pack(f">{len(versions)}Q", *versions))
    if result.files:
        columns |= _FILES
        parts += [_encode_file(outcome) for outcome in result.files]
    parts[0] = _HEAD.pack(result.index, result.count, columns)
    return b"".join(parts)


def encode_burned(index: Index, count: int) -> bytes:
    """The record of `count` seqs that were given up unjudged."""
    return _HEAD.pack(index, count, _BURNED)


def run_count(record: bytes) -> int:
    """How many commands a record answers."""
    return int(_HEAD.unpack_from(record)[1])


def decode_run(first_seq: int, record: bytes) -> StoredRun:
    try:
        index, count, columns = _HEAD.unpack_from(record)
        if columns & _BURNED:
            return StoredRun(b"", RunResult(first_seq, count, Index(index), (ABANDONED,) * count), burned=True)
        position = _HEAD.size + COMMAND_HASH_BYTES * count
        hashes = record[_HEAD.size : position]
        reasons: tuple[int, ...] = ()
        if columns & _REASONS:
            reasons = tuple(record[position : position + count])
            position += count
        versions: Sequence[int] = ()
        if columns & _FIRST_VERSION:
            first = _NUMBER.unpack_from(record, position)[0]
            versions = tuple(range(first, first + count))
            position += _NUMBER.size
        elif columns & _VERSIONS:
            versions = struct.unpack_from(f">{count}Q", record, position)
            position += 8 * count
        files: tuple[FileOutcome | None, ...] = ()
        if columns & _FILES:
            files = _decode_files(record, position, reasons or (OK,) * count)
    except (struct.error, IndexError) as error:
        raise DamagedError(f"the stored results of seq {first_seq} do not decode. {REJOIN}") from error
    return StoredRun(hashes, RunResult(first_seq, count, Index(index), reasons, versions, files))


def _encode_file(outcome: FileOutcome | None) -> bytes:
    if outcome is None:
        return bytes((_NO_FILE,))
    if outcome.reason != OK:
        return bytes((_REFUSED,)) + _REFUSAL.pack(outcome.errno, outcome.present_index)
    if outcome.lock is not None:
        grant = outcome.lock
        return bytes((_LOCK,)) + _GRANT.pack(outcome.stamp_ns, grant.state, grant.lock_id, grant.token)
    hazard = outcome.hazard
    kind = _HAZARDOUS if hazard is not None else _EXISTED if outcome.existed else _ACCEPTED
    return b"".join(
        (
            bytes((kind,)),
            _ACCEPTANCE.pack(
                outcome.log_index,
                outcome.stamp_ns,
                outcome.inode_no,
                outcome.applied_offset,
                outcome.present_index,
                len(outcome.root),
                len(outcome.inode_id),
            ),
            outcome.root,
            outcome.inode_id,
            b"" if hazard is None else _HAZARD.pack(*hazard),
        )
    )


def _decode_files(record: bytes, position: int, reasons: Sequence[int]) -> tuple[FileOutcome | None, ...]:
    files: list[FileOutcome | None] = []
    for reason in reasons:
        kind = record[position]
        position += 1
        if kind == _NO_FILE:
            files.append(None)
        elif kind == _REFUSED:
            errno, present_index = _REFUSAL.unpack_from(record, position)
            position += _REFUSAL.size
            files.append(FileOutcome(reason, errno, present_index=present_index))
        elif kind == _LOCK:
            stamp_ns, state, lock_id, token = _GRANT.unpack_from(record, position)
            position += _GRANT.size
            files.append(FileOutcome(stamp_ns=stamp_ns, lock=LockGrant(state, lock_id, token)))
        else:
            log_index, stamp_ns, inode_no, offset, present_index, root_bytes, id_bytes = _ACCEPTANCE.unpack_from(
                record, position
            )
            position += _ACCEPTANCE.size
            id_start = position + root_bytes
            root, inode_id = record[position:id_start], record[id_start : id_start + id_bytes]
            position = id_start + id_bytes
            existed, hazard = kind == _EXISTED, None
            if kind == _HAZARDOUS:
                hazard = HazardFound._make(_HAZARD.unpack_from(record, position))
                position += _HAZARD.size
            files.append(
                FileOutcome(
                    OK,
                    0,
                    log_index,
                    stamp_ns,
                    root,
                    inode_id,
                    inode_no,
                    offset,
                    present_index,
                    (),
                    existed,
                    None,
                    hazard,
                )
            )
    return tuple(files)


def stored_form(outcome: FileOutcome) -> FileOutcome:
    """What a retry would be answered: the first answer says no more than that (D-7)."""
    if outcome.reason == OK:
        return outcome
    return FileOutcome(outcome.reason, outcome.errno, present_index=outcome.present_index)
