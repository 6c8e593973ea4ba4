"""The payload of a Raft entry: type byte, codec byte, body.

Owns: the framing, when compression pays, and how far a payload may unfold. The body of a BATCH is an `EntryBatch`
message whose first three fields (the head) stand in a fixed order and are never compressed, so that a stamp can be
read without reading the batch: codec 0 is head ‖ groups, codec 1 is head ‖ zstd(groups).
Never: I/O, or a decision about what a command means.
Invariants: `decode_entry(encode_batch(e)) == e`; the leader applies the entry it built and parses nothing twice;
nothing is allocated by a length that was not compared with its limit first; whatever the bytes, decoding raises
only MalformedError or TooLargeError.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final

import zstandard
from google.protobuf.message import DecodeError

from hypercluster.errors import MalformedError, TooLargeError, check
from hypercluster.limits import ENTRY_BYTES_MAX
from hypercluster.pb.v1.entry_pb2 import EntryBatch, Group
from hypercluster.state_machine.decoded import DecodedEntry, DecodedGroup, EntryType, HubOp, Run
from hypercluster.state_machine.wire import read_run, varint
from hypercluster.values import Nanos, Scope

__all__ = [
    "DecodedEntry",
    "DecodedGroup",
    "EntryType",
    "HubOp",
    "Run",
    "batch_of",
    "decode_entry",
    "encode_batch",
    "encode_config",
    "encode_no_op",
    "entry_type",
    "stamp_end",
]

CODEC_PLAIN: Final = 0
CODEC_ZSTD: Final = 1

ID_SEED_BYTES: Final = 16
COMPRESS_BYTES_MIN: Final = 512  # below it a frame's own cost eats the gain
SAMPLE_BYTES: Final = 256
# 256 random bytes hold about 162 different values, text and packed records rarely more than 100.
SAMPLE_DISTINCT_MAX: Final = 128
ZSTD_LEVEL: Final = 1

_FRAME_BYTES = 2
_GROUPS_FIELD = b"\x22"
# The head: EntryBatch fields 1, 2 and 3 with their tags; command_count is a varint padded to three bytes.
_HEAD = struct.Struct("<BQBB16sB3B")
_STAMP_TAG, _SEED_TAG, _COUNT_TAG = 0x09, 0x12, 0x18
_COUNT_MAX = (1 << 21) - 1

_compressor = zstandard.ZstdCompressor(level=ZSTD_LEVEL)
_decompressor = zstandard.ZstdDecompressor(max_window_size=1 << 23)
_KINDS: Final = {int(kind): kind for kind in EntryType}


def batch_of(committed_at_ns: Nanos, id_seed: bytes, groups: Sequence[DecodedGroup]) -> DecodedEntry:
    """The entry a leader proposes, from what it admitted."""
    check(len(id_seed) == ID_SEED_BYTES, "id_seed must be 16 bytes")
    count = sum([len(group.run.ops) for group in groups])
    return DecodedEntry(EntryType.BATCH, committed_at_ns, id_seed, count, tuple(groups))


def encode_batch(entry: DecodedEntry) -> bytes:
    """The payload to propose. The bytes of each Submit are embedded as they were received."""
    check(entry.kind is EntryType.BATCH, "encode_batch takes a batch")
    parts: list[bytes] = []
    for group in entry.groups:
        message = Group(
            submit=group.submit,
            principal=group.principal,
            org=group.scope.org,
            project=group.scope.project,
            worker=group.worker,
        ).SerializeToString()
        parts += (_GROUPS_FIELD, varint(len(message)), message)
    body = b"".join(parts)
    check(len(body) + _FRAME_BYTES + _HEAD.size <= ENTRY_BYTES_MAX, "an entry is larger than ENTRY_BYTES_MAX")
    if _looks_compressible(body):
        packed = _compressor.compress(body)
        if len(packed) * 10 <= len(body) * 9:
            return b"".join((bytes((EntryType.BATCH, CODEC_ZSTD)), _encode_head(entry), packed))
    return b"".join((bytes((EntryType.BATCH, CODEC_PLAIN)), _encode_head(entry), body))


def _encode_head(entry: DecodedEntry) -> bytes:
    count = entry.command_count
    check(0 <= count <= _COUNT_MAX, "command_count does not fit its three bytes")
    low, middle, high = count & 0x7F | 0x80, count >> 7 & 0x7F | 0x80, count >> 14
    return _HEAD.pack(
        _STAMP_TAG, entry.committed_at_ns, _SEED_TAG, ID_SEED_BYTES, entry.id_seed, _COUNT_TAG, low, middle, high
    )


def encode_no_op() -> bytes:
    return bytes((EntryType.NO_OP, CODEC_PLAIN))


def encode_config(config: bytes) -> bytes:
    """`config` is a serialized ConfigEntry (QUO-1)."""
    return bytes((EntryType.CONFIG, CODEC_PLAIN)) + config


def entry_type(payload: bytes) -> EntryType:
    kind = _KINDS.get(payload[0]) if payload else None
    if kind is None:
        raise MalformedError(f"entry type {payload[:1].hex() or 'missing'} is not known")
    return kind


def decode_entry(payload: bytes) -> DecodedEntry:
    """Raises MalformedError or TooLargeError, and nothing else, on bytes that are no entry."""
    kind = entry_type(payload)
    body = _unpacked(payload, _HEAD.size if kind is EntryType.BATCH else 0)
    match kind:
        case EntryType.BATCH:
            return _decode_batch(body, _read_head(payload))
        case EntryType.CONFIG:
            return DecodedEntry(kind, config=body)
        case EntryType.NO_OP:
            if body:
                raise MalformedError(f"a no-op entry has {len(body)} bytes of body, limit 0")
            return DecodedEntry(kind)


def stamp_end(payload: bytes) -> int:
    """committed_at_ns + command_count: the next entry's stamp is at least this (D-5). 0 for entries without a stamp."""
    if entry_type(payload) is not EntryType.BATCH:
        return 0
    stamp_ns, count = _read_head(payload)
    return stamp_ns + count


def _read_head(payload: bytes) -> tuple[int, int]:
    """committed_at_ns and command_count."""
    if len(payload) < _FRAME_BYTES + _HEAD.size:
        raise MalformedError(f"a batch is {len(payload)} bytes, its head alone takes {_FRAME_BYTES + _HEAD.size}")
    stamp_tag, stamp_ns, seed_tag, seed_bytes, _, count_tag, low, middle, high = _HEAD.unpack_from(
        payload, _FRAME_BYTES
    )
    tags = (stamp_tag, seed_tag, seed_bytes, count_tag)
    if tags != (_STAMP_TAG, _SEED_TAG, ID_SEED_BYTES, _COUNT_TAG) or not low & middle & 0x80 or high & 0x80:
        raise MalformedError("a batch does not begin with committed_at_ns, id_seed and command_count")
    return stamp_ns, low & 0x7F | (middle & 0x7F) << 7 | high << 14


def _decode_batch(body: bytes, head: tuple[int, int]) -> DecodedEntry:
    batch = _parse_batch(body)
    if head != (batch.committed_at_ns, batch.command_count):  # protobuf takes the last of a repeated field
        raise MalformedError("EntryBatch repeats committed_at_ns or command_count behind its head")
    if len(batch.id_seed) != ID_SEED_BYTES:
        raise MalformedError(f"EntryBatch.id_seed is {len(batch.id_seed)} bytes, must be {ID_SEED_BYTES}")
    groups = tuple(
        [
            DecodedGroup(
                submit=group.submit,
                principal=group.principal,
                scope=Scope(group.org, group.project),
                worker=group.worker,
                run=read_run(group.submit),
            )
            for group in batch.groups
        ]
    )
    entry = batch_of(Nanos(batch.committed_at_ns), batch.id_seed, groups)
    if entry.command_count != batch.command_count:
        raise MalformedError(
            f"EntryBatch.command_count is {batch.command_count}, its groups hold {entry.command_count}"
        )
    return entry


def _parse_batch(body: bytes) -> EntryBatch:
    try:
        return EntryBatch.FromString(body)
    except DecodeError as error:
        raise MalformedError("EntryBatch does not parse as protobuf") from error


def _looks_compressible(body: bytes) -> bool:
    """A sample over the whole body, so that random values cost a few microseconds and no compression."""
    size = len(body)
    if size <= COMPRESS_BYTES_MIN:
        return False
    return len(set(body[:: size // SAMPLE_BYTES])) <= SAMPLE_DISTINCT_MAX


def _codec(payload: bytes) -> int:
    if len(payload) < _FRAME_BYTES:
        raise MalformedError("entry ends before its codec byte")
    if len(payload) > ENTRY_BYTES_MAX:
        raise TooLargeError(f"entry is {len(payload)} bytes, limit ENTRY_BYTES_MAX is {ENTRY_BYTES_MAX}")
    return payload[1]


def _unpacked(payload: bytes, plain_bytes: int) -> bytes:
    """The body of an entry; its first `plain_bytes` bytes are never compressed."""
    codec = _codec(payload)
    if codec == CODEC_PLAIN:
        return payload[_FRAME_BYTES:]
    if codec != CODEC_ZSTD:
        raise MalformedError(f"entry codec {codec} is not known")
    start = _FRAME_BYTES + plain_bytes
    frame = payload[start:]
    try:
        size = zstandard.frame_content_size(frame)
        if size > ENTRY_BYTES_MAX - start:
            raise TooLargeError(f"entry unfolds to {start + size} bytes, limit ENTRY_BYTES_MAX is {ENTRY_BYTES_MAX}")
        if size < 1:
            raise MalformedError("a compressed entry must name its unfolded size")
        unfolded = _decompressor.decompress(frame, max_output_size=size, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise MalformedError("entry does not decompress") from error
    if len(unfolded) != size:
        raise MalformedError(f"entry unfolds to {len(unfolded)} bytes and names {size}")
    return payload[_FRAME_BYTES:start] + unfolded
