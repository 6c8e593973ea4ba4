"""The bytes of a segment: file header, group header, record. Little-endian throughout.

Owns: every constant and structure of format version 1, and the CRC-32C that binds them.
Never: I/O, or a judgement about what damage means (scan.py).
Invariants:
- A group header verifies only at its own offset of its own segment: its CRC is seeded with the CRC of the
  segment's header and covers its offset, so stale or copied bytes never pass for it.
- `previous` repeats the CRC of the group header before it (of the segment header in the first group), so groups
  form a chain, and a segment header repeats where and with which CRC the segment before it ended.
- The record's CRC covers all of the record behind it, so that one record can be verified by itself when read back.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

import google_crc32c

from hypercluster.values import NO_INDEX, NO_TERM, Index, NodeId, Term

FORMAT_VERSION: Final = 1
SECTOR_BYTES: Final = 512  # groups begin on one, so that writing a group never rewrites a durable sector

SEGMENT_MAGIC: Final = b"HCWALSEG"
SEGMENT_HEADER_BYTES: Final = 512
# magic, version, 7 unused, number, capacity, first index, base index, base term, previous end, head end, previous chain
_SEGMENT: Final = struct.Struct("<8sB7xQQQQQQQI")
_SEGMENT_CRC_AT: Final = SEGMENT_HEADER_BYTES - 4

GROUP_MAGIC: Final = b"HCG1"
# magic, crc | body bytes, body crc, number, offset, durable offset, durable index, record count, previous
_GROUP: Final = struct.Struct("<4sIIIQQQQII")
GROUP_HEADER_BYTES: Final = _GROUP.size

# crc | payload bytes, kind, codec, flags, term, index
_RECORD: Final = struct.Struct("<IIBBHQQ")
_RECORD_BEHIND_CRC: Final = struct.Struct("<IBBHQQ")
RECORD_HEADER_BYTES: Final = _RECORD.size
_U32: Final = struct.Struct("<I")

CODEC_RAW: Final = 0
FLAG_VOTED: Final = 1


class RecordKind(IntEnum):
    ENTRY = 1
    TRUNCATE_FROM = 2  # index and everything above it are gone
    HARD_STATE = 3  # payload: the vote, present when FLAG_VOTED is set
    COMMIT = 4
    BASE = 5  # compaction: the base moved up to (index, term)
    RESET = 6  # the log became empty with base (index, term)
    SEALED = 7  # the last record of a segment: its successor has its name, so it can not be missing


class FormatError(Exception):
    """Bytes that do not verify. The message says what; the caller knows where."""


@dataclass(frozen=True, slots=True)
class SegmentHeader:
    number: int
    capacity_bytes: int
    first_index: Index  # of the next entry when the segment was made
    base_index: Index
    base_term: Term
    previous_end: int  # where the groups of segment number - 1 end; 0 in the first segment of a log
    previous_chain: int  # the CRC of the last group header there
    head_end: int  # everything below was synced before the segment got its name


@dataclass(frozen=True, slots=True)
class GroupHeader:
    crc: int
    body_bytes: int
    body_crc: int
    number: int
    offset: int
    durable_offset: int  # everything below it in this segment was synced when this group was written
    durable_index: Index  # and so was every entry up to this one
    record_count: int
    previous: int

    @property
    def end(self) -> int:
        return self.offset + GROUP_HEADER_BYTES + self.body_bytes


@dataclass(frozen=True, slots=True)
class Record:
    """One mutation. `head` is the encoded header; head + payload is the record on disk."""

    kind: RecordKind
    index: Index
    term: Term
    flags: int
    payload: bytes
    head: bytes

    @property
    def size_bytes(self) -> int:
        return RECORD_HEADER_BYTES + len(self.payload)

    @property
    def voted_for(self) -> NodeId | None:
        return NodeId(self.payload.decode()) if self.flags & FLAG_VOTED else None


def group_bytes(body_bytes: int) -> int:
    """What a group takes on disk: header, records, zeros up to the next sector."""
    return -(-(GROUP_HEADER_BYTES + body_bytes) // SECTOR_BYTES) * SECTOR_BYTES


def record(
    kind: RecordKind, index: Index = NO_INDEX, term: Term = NO_TERM, payload: bytes = b"", flags: int = 0
) -> Record:
    behind = _RECORD_BEHIND_CRC.pack(len(payload), kind, CODEC_RAW, flags, term, index)
    crc = google_crc32c.extend(google_crc32c.value(behind), payload)
    return Record(kind, index, term, flags, payload, _U32.pack(crc) + behind)


def hard_state_record(term: Term, voted_for: NodeId | None) -> Record:
    if voted_for is None:
        return record(RecordKind.HARD_STATE, term=term)
    return record(RecordKind.HARD_STATE, term=term, payload=voted_for.encode(), flags=FLAG_VOTED)


def decode_record(buffer: bytes, offset: int, end: int) -> Record:
    """The record at `offset` of `buffer`, which must end at or before `end`."""
    if offset + RECORD_HEADER_BYTES > end:
        raise FormatError("a record header runs past its group")
    crc, payload_bytes, kind, codec, flags, term, index = _RECORD.unpack_from(buffer, offset)
    payload_at = offset + RECORD_HEADER_BYTES
    if payload_at + payload_bytes > end:
        raise FormatError(f"a record of {payload_bytes} bytes runs past its group")
    head = bytes(buffer[offset:payload_at])
    payload = bytes(buffer[payload_at : payload_at + payload_bytes])
    if google_crc32c.extend(google_crc32c.value(head[4:]), payload) != crc:
        raise FormatError("a record's CRC-32C does not match")
    if codec != CODEC_RAW:
        raise FormatError(f"a record has codec {codec}, which this version does not know")
    try:
        known = RecordKind(kind)
        if flags & FLAG_VOTED:
            payload.decode()
    except ValueError as error:
        raise FormatError(f"a record of kind {kind} is malformed: {error}") from None
    return Record(known, Index(index), Term(term), flags, payload, head)


def encode_group(
    seed: int,
    *,
    body: bytes,
    number: int,
    offset: int,
    durable_offset: int,
    durable_index: Index,
    record_count: int,
    previous: int,
) -> tuple[int, bytes]:
    """(the header's CRC, header + body + padding). `seed` is the CRC of the segment header."""
    body += bytes(group_bytes(len(body)) - GROUP_HEADER_BYTES - len(body))
    body_crc = google_crc32c.value(body)
    fields = (len(body), body_crc, number, offset, durable_offset, durable_index, record_count, previous)
    packed = _GROUP.pack(GROUP_MAGIC, 0, *fields)
    crc: int = google_crc32c.extend(seed, packed[8:])
    return crc, GROUP_MAGIC + _U32.pack(crc) + packed[8:] + body


def decode_group_header(seed: int, buffer: bytes, offset: int) -> GroupHeader:
    """`buffer` holds the segment from its start."""
    packed = bytes(buffer[offset : offset + GROUP_HEADER_BYTES])
    if len(packed) < GROUP_HEADER_BYTES:
        raise FormatError("a group header runs past the end of the segment")
    magic, crc, *fields = _GROUP.unpack(packed)
    if magic != GROUP_MAGIC:
        raise FormatError("no group header")
    if google_crc32c.extend(seed, packed[8:]) != crc:
        raise FormatError("the CRC-32C of a group header does not match")
    body_bytes, body_crc, number, at, durable_offset, durable_index, record_count, previous = fields
    if at != offset:
        raise FormatError(f"a group header belongs at offset {at}")
    return GroupHeader(
        crc, body_bytes, body_crc, number, at, durable_offset, Index(durable_index), record_count, previous
    )


def check_group_body(header: GroupHeader, buffer: bytes) -> None:
    if header.end > len(buffer):
        raise FormatError("a group runs past the end of the segment")
    if google_crc32c.value(bytes(buffer[header.offset + GROUP_HEADER_BYTES : header.end])) != header.body_crc:
        raise FormatError("the CRC-32C of a group does not match")


def encode_segment_header(header: SegmentHeader) -> tuple[int, bytes]:
    """(its CRC, SEGMENT_HEADER_BYTES bytes)."""
    packed = _SEGMENT.pack(
        SEGMENT_MAGIC,
        FORMAT_VERSION,
        header.number,
        header.capacity_bytes,
        header.first_index,
        header.base_index,
        header.base_term,
        header.previous_end,
        header.head_end,
        header.previous_chain,
    )
    packed += bytes(_SEGMENT_CRC_AT - len(packed))
    crc: int = google_crc32c.value(packed)
    return crc, packed + _U32.pack(crc)


def decode_segment_header(packed: bytes) -> tuple[int, SegmentHeader]:
    if len(packed) < SEGMENT_HEADER_BYTES:
        raise FormatError("the segment is shorter than its header")
    if packed[:8] != SEGMENT_MAGIC:
        raise FormatError("not a segment: the magic bytes are missing")
    crc = _U32.unpack_from(packed, _SEGMENT_CRC_AT)[0]
    if google_crc32c.value(bytes(packed[:_SEGMENT_CRC_AT])) != crc:
        raise FormatError("the CRC-32C of the segment header does not match")
    _, version, number, capacity, first, base, base_term, previous_end, head_end, chain = _SEGMENT.unpack_from(packed)
    if version != FORMAT_VERSION:
        raise FormatError(f"format version {version}; this release reads {FORMAT_VERSION}")
    return crc, SegmentHeader(
        number, capacity, Index(first), Index(base), Term(base_term), previous_end, chain, head_end
    )
