"""Reads a segment and says where it stops verifying, and whether that is a torn tail or damage (CL-3).

Owns: `scan_segment` and `judge`. Used by open and by read-only inspection.
Never: changes anything on disk.
How damage is judged: every group header carries its own offset and how far its segment was synced when it was
written. Where the chain breaks at X, everything behind X is searched for headers that verify by themselves:
- one that was written when X was already synced proves that durable bytes were lost: DamagedError;
- none, and X lies above the head of the segment, which was synced before it had a name: a torn tail.
A segment that is shorter than it was made, or that is not the newest and does not end where its successor says, was
damaged after it was synced. Bit rot in the newest sync of all can not be told from a torn write.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from hypercluster.limits import MIB
from hypercluster.storage.disk import Disk
from hypercluster.storage.wal.format import (
    GROUP_HEADER_BYTES,
    GROUP_MAGIC,
    SECTOR_BYTES,
    SEGMENT_HEADER_BYTES,
    FormatError,
    GroupHeader,
    Record,
    RecordKind,
    SegmentHeader,
    check_group_body,
    decode_group_header,
    decode_record,
    decode_segment_header,
)

SEGMENT_BYTES_MAX: Final = 1024 * MIB
_ZEROS: Final = bytes(1 * MIB)


@dataclass(frozen=True, slots=True)
class Damage:
    """`torn`: above everything known to be durable, so it may be cut off."""

    offset: int
    what: str
    torn: bool
    bytes_total: int  # from offset to the last byte that is not zero


@dataclass(frozen=True, slots=True)
class SegmentScan:
    header: SegmentHeader
    seed: int
    end: int  # of the last group that verifies
    chain: int
    joint: tuple[int, int]  # end and chain without the seal: what the successor's header repeats
    sealed: bool
    group_number: int
    last_group_records: int
    damage: Damage | None


OnGroup = Callable[[GroupHeader, list[Record]], None]


def read_segment(disk: Disk, path: str) -> bytes:
    """The whole file. Raises FormatError when it is larger than any segment."""
    file = disk.open(path)
    try:
        size = file.size()
        if size > SEGMENT_BYTES_MAX:
            raise FormatError(f"{size} bytes are more than a segment may have ({SEGMENT_BYTES_MAX})")
        return file.pread(size, 0)
    finally:
        file.close()


def last_nonzero(content: bytes, start: int) -> int:
    """The end of the last byte that is not zero, at least `start`."""
    end = len(content)
    while end - start >= len(_ZEROS) and content[end - len(_ZEROS) : end] == _ZEROS:
        end -= len(_ZEROS)
    return start + len(content[start:end].rstrip(b"\0"))


def scan_segment(content: bytes, number: int, on_group: OnGroup) -> SegmentScan:
    """Walks the groups. Raises FormatError when the header does not verify; `on_group` may raise it too, which makes
    that group the damage, never a torn tail: its bytes are what was written."""
    seed, header = decode_segment_header(content[:SEGMENT_HEADER_BYTES])
    if header.number != number:
        raise FormatError(f"the file is named segment {number} and says that it is segment {header.number}")
    offset = SEGMENT_HEADER_BYTES
    chain = seed
    group_number = 0
    last_records = 0
    what, misfit = "", False
    joint, sealed = (offset, chain), False
    while offset < header.capacity_bytes:
        try:
            group = decode_group_header(seed, content, offset)
            misfit = group.previous != chain or bool(group_number and group.number != group_number + 1)
            if misfit:
                raise FormatError("a group header does not continue the chain")
            check_group_body(group, content)
            misfit = True
            records = _records(group, content)
            if sealed:
                raise FormatError("a group behind the seal of the segment")
            on_group(group, records)
            misfit = False
        except FormatError as error:
            what = str(error)
            break
        offset, chain, group_number, last_records = group.end, group.crc, group.number, group.record_count
        sealed = any(one.kind is RecordKind.SEALED for one in records)
        joint = joint if sealed else (offset, chain)
    damage = _judge(content, header, seed, offset, what, misfit)
    return SegmentScan(header, seed, offset, chain, joint, sealed, group_number, last_records, damage)


def _records(group: GroupHeader, content: bytes) -> list[Record]:
    records: list[Record] = []
    at = group.offset + GROUP_HEADER_BYTES
    for _ in range(group.record_count):
        one = decode_record(content, at, group.end)
        records.append(one)
        at += one.size_bytes
    if content[at : group.end].strip(b"\0") or group.end - at >= SECTOR_BYTES:
        raise FormatError("a group holds bytes behind its last record")
    return records


def _judge(content: bytes, header: SegmentHeader, seed: int, offset: int, what: str, misfit: bool) -> Damage | None:
    end = last_nonzero(content, offset)
    if len(content) != header.capacity_bytes:
        return Damage(
            min(offset, len(content)),
            f"the file has {len(content)} bytes and was made with {header.capacity_bytes}",
            False,
            end - offset,
        )
    if misfit:
        return Damage(offset, what, False, end - offset)
    if offset < header.head_end:
        return Damage(offset, f"{what}, in the head of the segment", False, end - offset)
    if end == offset:
        return None
    later = witness(content, seed, offset)
    if later is not None:
        proof = f"{what}, and the group at offset {later} was written after this had been synced"
        return Damage(offset, proof, False, end - offset)
    return Damage(offset, what, True, end - offset)


def witness(content: bytes, seed: int, offset: int) -> int | None:
    """The offset of a group header behind `offset` which says that `offset` was already synced."""
    at = content.find(GROUP_MAGIC, offset + 1)
    while at >= 0:
        if at % SECTOR_BYTES == 0:
            try:
                if decode_group_header(seed, content, at).durable_offset > offset:
                    return at
            except FormatError:
                pass  # Not a header: the four bytes also occur in payloads.
        at = content.find(GROUP_MAGIC, at + 1)
    return None
