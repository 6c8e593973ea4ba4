"""The file format of chunk segments: append-only records of content, each naming its BLAKE3 hash.

Owns: encoding and checking of segment headers and records, and the scan that finds the end of what is whole.
Never: decides which chunks live; keeps state.
Format 1: an 24-byte header (magic, version, segment number, CRC-32C), then records: magic, length, CRC-32C of
(length, hash, content), hash, content. All numbers big endian.
Invariants: a record is whole or it is not there: a torn one fails its CRC. `scan` never reads past the first
record that is not whole, because the length of a damaged record can not be trusted.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import google_crc32c

from hypercluster.errors import WrongDirectoryError, check
from hypercluster.limits import CHUNK_BYTES_MAX
from hypercluster.storage.disk import File
from hypercluster.values import ChunkHash

SEGMENT_MAGIC: Final = b"HCCHUNKS"
SEGMENT_VERSION: Final = 1
SEGMENT_HEADER: Final = struct.Struct(">8sIQ")
SEGMENT_HEADER_BYTES: Final = SEGMENT_HEADER.size + 4
RECORD_MAGIC: Final = 0x48434348
RECORD_HEADER: Final = struct.Struct(">III32s")
CHECKED: Final = struct.Struct(">I32s")
HASH_BYTES: Final = 32
SCAN_WINDOW_BYTES: Final = 16 * CHUNK_BYTES_MAX  # read at a time while segments are scanned
SUFFIX: Final = ".chunks"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a chunk's record lies. `length` is that of the content."""

    segment: int
    offset: int
    length: int

    @property
    def record_bytes(self) -> int:
        return RECORD_HEADER.size + self.length


def segment_name(number: int) -> str:
    return f"{number:08d}{SUFFIX}"


def segment_number(name: str) -> int | None:
    stem = name.removesuffix(SUFFIX)
    return int(stem) if stem != name and stem.isdigit() else None


def encode_segment_header(number: int) -> bytes:
    header = SEGMENT_HEADER.pack(SEGMENT_MAGIC, SEGMENT_VERSION, number)
    crc: int = google_crc32c.value(header)
    return header + crc.to_bytes(4, "big")


def segment_header_is_whole(file: File, path: str, number: int) -> bool:
    """False: torn or damaged, nothing in it can be used. A newer version raises WrongDirectoryError."""
    header = file.pread(SEGMENT_HEADER_BYTES, 0)
    if len(header) < SEGMENT_HEADER_BYTES or google_crc32c.value(header[:-4]).to_bytes(4, "big") != header[-4:]:
        return False
    magic, version, found = SEGMENT_HEADER.unpack_from(header)
    if magic == SEGMENT_MAGIC and version > SEGMENT_VERSION:
        raise WrongDirectoryError(
            f"{path} has chunk format {version}, this version knows {SEGMENT_VERSION}: start the newer version"
        )
    return bool(magic == SEGMENT_MAGIC and found == number)


def _record_crc(chunk_hash: bytes, content: bytes) -> int:
    crc: int = google_crc32c.extend(google_crc32c.value(CHECKED.pack(len(content), chunk_hash)), content)
    return crc


def encode_record(chunk_hash: ChunkHash, content: bytes) -> bytes:
    check(len(chunk_hash) == HASH_BYTES, "a chunk hash has 32 bytes")
    header = RECORD_HEADER.pack(RECORD_MAGIC, len(content), _record_crc(chunk_hash, content), chunk_hash)
    return header + content


def read_record(file: File, offset: int, length: int) -> tuple[ChunkHash, bytes] | None:
    """The record at `offset` with `length` bytes of content, or None when none is whole there."""
    return _parse(file.pread(RECORD_HEADER.size + length, offset), 0)


def _parse(raw: bytes, at: int) -> tuple[ChunkHash, bytes] | None:
    begin = at + RECORD_HEADER.size
    if len(raw) < begin:
        return None
    magic, length, crc, chunk_hash = RECORD_HEADER.unpack_from(raw, at)
    if magic != RECORD_MAGIC or length > CHUNK_BYTES_MAX:
        return None
    content = raw[begin : begin + length]
    if len(content) != length or _record_crc(chunk_hash, content) != crc:
        return None
    return ChunkHash(chunk_hash), content


def scan(file: File, number: int, start: int) -> Iterator[tuple[ChunkHash, bytes, Place]]:
    """Whole records from `start` on, up to the first that is not."""
    offset, window, at = start, b"", 0
    while True:
        if len(window) - at < RECORD_HEADER.size + CHUNK_BYTES_MAX:  # the next record may go on behind the window
            window, at = file.pread(SCAN_WINDOW_BYTES, offset), 0
        record = _parse(window, at)
        if record is None:
            return
        chunk_hash, content = record
        place = Place(number, offset, len(content))
        yield chunk_hash, content, place
        offset += place.record_bytes
        at += place.record_bytes
