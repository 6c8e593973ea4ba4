"""One segment of an archived op log: its form, its writing and its reading (WS-54).

Owns: the bytes. Never: which segments there are, or how long they stay.
Form: head; frames, each a codec byte and zstd of records (first log_index, length, LogBatch); index (for each frame the
log_index it begins with, offset, stored length); foot (offset and count of the index, last stamp, chain, and the BLAKE3
of frames, index, head and the rest of the foot, in this order).
Invariants: the chain goes over records, not over files: chain_k = BLAKE3(chain_{k-1}, first log_index, BLAKE3(record)),
so that segments can be joined without a break; a segment says what the chain was before its first record. It appears by
rename, synced, and is never changed.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from struct import Struct
from typing import Final

import zstandard
from blake3 import blake3

from hypercluster.errors import DamagedError, WrongDirectoryError
from hypercluster.limits import ENTRY_BYTES_MAX, KIB
from hypercluster.state_machine.workspace.oplog import first_stamp_ns
from hypercluster.storage.disk import Disk, File

MAGIC: Final = b"HCOPARCH"
VERSION: Final = 1
SUFFIX: Final = ".seg"
NEW: Final = ".new"
ZSTD: Final = 1
LEVEL: Final = 6
FRAME_BYTES: Final = 256 * KIB  # of records, before compression
FRAME_BYTES_MAX: Final = FRAME_BYTES + ENTRY_BYTES_MAX + KIB
FRAMES_MAX: Final = 1 << 20

_HEAD: Final = Struct(">8sB16s16sQQ32s")  # magic, version, history, workspace, first, last log_index, chain before
_RECORD: Final = Struct(">QI")
_FRAME: Final = Struct(">QQI")
_FOOT: Final = Struct(">QIQ32s32s")
_DIGEST_BYTES: Final = 32

Record = tuple[int, bytes]  # first log_index, LogBatch


@dataclass(frozen=True, slots=True)
class Segment:
    """What a segment says of itself. `last_index` is that of its last operation."""

    path: str
    history_id: bytes
    workspace_id: bytes
    first_index: int
    last_index: int
    chain_before: bytes
    chain_after: bytes
    last_stamp_ns: int
    size_bytes: int
    frames: tuple[tuple[int, int, int], ...]


def segment_name(first_index: int, last_index: int) -> str:
    return f"{first_index:020d}-{last_index:020d}{SUFFIX}"


def chain_start(history_id: bytes, workspace_id: bytes) -> bytes:
    return blake3(b"hypercluster/op log archive" + history_id + workspace_id).digest()


def chain_next(chain: bytes, first_index: int, batch: bytes) -> bytes:
    return blake3(chain + first_index.to_bytes(8, "big") + blake3(batch).digest()).digest()


def write_segment(
    disk: Disk,
    directory: str,
    history_id: bytes,
    workspace_id: bytes,
    chain_before: bytes,
    records: Iterable[Record],
    last_index: int,
) -> Segment:
    """`records` are consecutive, one at least; `last_index` is that of the last operation in them. Blocks; durable when
    it returns. OSError passes through, and leaves nothing that is taken for a segment."""
    writer = _Writer(disk, directory, history_id, workspace_id, chain_before)
    try:
        for first_index, batch in records:
            writer.add(first_index, batch)
        return writer.finish(last_index)
    finally:
        writer.close()


class _Writer:
    def __init__(self, disk: Disk, directory: str, history_id: bytes, workspace_id: bytes, chain_before: bytes) -> None:
        self._disk = disk
        self._directory = directory
        self._ids = history_id, workspace_id
        self._before = self._chain = chain_before
        self._path = os.path.join(directory, workspace_id.hex() + NEW)
        if disk.exists(self._path):
            disk.unlink(self._path)
        self._file = disk.open(self._path, create=True)
        self._offset = _HEAD.size
        self._hash = blake3()
        self._compressor = zstandard.ZstdCompressor(level=LEVEL)
        self._frame: list[bytes] = []
        self._frame_bytes = self._frame_first = self._first = self._stamp_ns = 0
        self._frames: list[tuple[int, int, int]] = []

    def add(self, first_index: int, batch: bytes) -> None:
        self._first = self._first or first_index
        self._frame_first = self._frame_first or first_index
        self._chain = chain_next(self._chain, first_index, batch)
        self._stamp_ns = first_stamp_ns(batch)
        self._frame += [_RECORD.pack(first_index, len(batch)), batch]
        self._frame_bytes += _RECORD.size + len(batch)
        if self._frame_bytes >= FRAME_BYTES:
            self._end_frame()

    def _end_frame(self) -> None:
        if self._frame:
            stored = bytes((ZSTD,)) + self._compressor.compress(b"".join(self._frame))
            self._frames.append((self._frame_first, self._offset, len(stored)))
            self._write(stored)
            self._frame, self._frame_bytes, self._frame_first = [], 0, 0

    def _write(self, content: bytes) -> None:
        self._file.pwrite(content, self._offset)
        self._hash.update(content)
        self._offset += len(content)

    def finish(self, last_index: int) -> Segment:
        self._end_frame()
        history_id, workspace_id = self._ids
        index_at = self._offset
        self._write(b"".join(_FRAME.pack(*frame) for frame in self._frames))
        head = _HEAD.pack(MAGIC, VERSION, history_id, workspace_id, self._first, last_index, self._before)
        self._file.pwrite(head, 0)
        self._hash.update(head)  # behind what it stands before, because it is known last
        foot = _FOOT.pack(index_at, len(self._frames), self._stamp_ns, self._chain, bytes(_DIGEST_BYTES))
        self._hash.update(foot[:-_DIGEST_BYTES])
        foot = foot[:-_DIGEST_BYTES] + self._hash.digest()
        self._file.pwrite(foot, self._offset)
        self._file.fsync()
        path = os.path.join(self._directory, segment_name(self._first, last_index))
        self._disk.rename(self._path, path)
        self._disk.fsync_dir(self._directory)
        return Segment(
            path,
            history_id,
            workspace_id,
            self._first,
            last_index,
            self._before,
            self._chain,
            self._stamp_ns,
            self._offset + _FOOT.size,
            tuple(self._frames),
        )

    def close(self) -> None:
        """Whether or not it came to its end. What counts is synced by then."""
        with contextlib.suppress(OSError):
            self._file.close()


def open_segment(disk: Disk, path: str) -> Segment:
    """Head, index and foot, without the frames. Raises DamagedError, or WrongDirectoryError for a newer version."""
    with contextlib.closing(disk.open(path)) as file:
        return _read_ends(file, path)


def _read_ends(file: File, path: str) -> Segment:
    size_bytes = file.size()
    head, foot = file.pread(_HEAD.size, 0), file.pread(_FOOT.size, max(0, size_bytes - _FOOT.size))
    if len(head) < _HEAD.size or len(foot) < _FOOT.size or not head.startswith(MAGIC):
        raise DamagedError(f"{path} is not a segment of an archive")
    _, version, history_id, workspace_id, first, last, before = _HEAD.unpack(head)
    if version > VERSION:
        raise WrongDirectoryError(f"{path} has format {version}, this version knows {VERSION}")
    index_at, count, stamp_ns, after, _ = _FOOT.unpack(foot)
    if count > FRAMES_MAX or index_at + count * _FRAME.size + _FOOT.size != size_bytes:
        raise DamagedError(f"{path} is cut short, or its foot is damaged")
    index = file.pread(count * _FRAME.size, index_at)
    frames = tuple(_FRAME.iter_unpack(index))
    return Segment(path, history_id, workspace_id, first, last, before, after, stamp_ns, size_bytes, frames)


def read_segment(disk: Disk, segment: Segment, from_index: int = 0) -> Iterator[Record]:
    """Records from the frame that holds `from_index` on. Raises DamagedError."""
    frames = segment.frames
    begin = max((place for place, frame in enumerate(frames) if frame[0] <= from_index), default=0)
    with contextlib.closing(disk.open(segment.path)) as file:
        for _, offset, length in frames[begin:]:
            yield from _read_frame(file.pread(length, offset), segment.path)


def _read_frame(stored: bytes, path: str) -> Iterator[Record]:
    if not stored or stored[0] != ZSTD:
        raise DamagedError(f"a frame of {path} has a codec this version does not know")
    try:
        frame = zstandard.ZstdDecompressor().decompress(stored[1:], max_output_size=FRAME_BYTES_MAX)
    except zstandard.ZstdError as error:
        raise DamagedError(f"a frame of {path} is damaged") from error
    position = 0
    while position < len(frame):
        if position + _RECORD.size > len(frame):
            raise DamagedError(f"a frame of {path} ends in the head of a record")
        first_index, length = _RECORD.unpack_from(frame, position)
        position += _RECORD.size
        batch = frame[position : position + length]
        if len(batch) != length:
            raise DamagedError(f"a frame of {path} ends in a record")
        position += length
        yield first_index, batch


def verify_segment(disk: Disk, segment: Segment) -> None:
    """Reads all of it: the hash of the file, and the chain over its records. Raises DamagedError."""
    with contextlib.closing(disk.open(segment.path)) as file:
        body_end, digest = segment.size_bytes - _FOOT.size, blake3()
        at = _HEAD.size
        while at < body_end:
            piece = file.pread(min(1 << 20, body_end - at), at)
            if not piece:
                break
            digest.update(piece)
            at += len(piece)
        digest.update(file.pread(_HEAD.size, 0))
        foot = file.pread(_FOOT.size, body_end)
        digest.update(foot[:-_DIGEST_BYTES])
    if digest.digest() != foot[-_DIGEST_BYTES:]:
        raise DamagedError(f"{segment.path} does not have its BLAKE3 hash")
    chain, next_index = segment.chain_before, segment.first_index
    for first_index, batch in read_segment(disk, segment):
        if first_index < next_index:
            raise DamagedError(f"{segment.path} holds record {first_index} after {next_index - 1}")
        chain, next_index = chain_next(chain, first_index, batch), first_index + 1
    if chain != segment.chain_after:
        raise DamagedError(f"the chain of {segment.path} breaks inside it")
