"""Frames on the peer stream: several in one gRPC message, and how they are taken apart (SEC-3).

Owns: the encoding of `hypercluster.v1.PeerMessage`, written by hand because it runs for every frame and because a
parser would allocate before it knows how many frames there are.
Never: looks into a frame.
Invariants: `split(join(frames)) == frames`; whatever `split` accepts, the protobuf parser reads the same way; at most
PEER_MESSAGE_FRAMES_MAX frames of at most PEER_FRAME_BYTES_MAX come out of a message.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from hypercluster.errors import MalformedError
from hypercluster.limits import KIB, PEER_FRAME_BYTES_MAX, PEER_MESSAGE_FRAMES_MAX

# A frame has a tag byte and a length of at most 4 bytes before it.
FRAME_OVERHEAD_BYTES: Final = 5
PEER_MESSAGE_BYTES_MAX: Final = PEER_FRAME_BYTES_MAX + PEER_MESSAGE_FRAMES_MAX * FRAME_OVERHEAD_BYTES
# Frames join while the message stays below this: from here on, copying costs more than a message of its own.
JOIN_BYTES_MAX: Final = 64 * KIB
_TAG: Final = b"\x0a"
_TAG_BYTE: Final = 0x0A


def take(queue: deque[bytes], *, join: bool = True) -> tuple[bytes, int]:
    """Removes the next message's frames from a queue that is not empty: (message, bytes of its frames)."""
    frame = queue.popleft()
    total = len(frame)
    pieces = [_TAG, _varint(total), frame]
    if join:
        count = 1
        while queue and count < PEER_MESSAGE_FRAMES_MAX and total + len(queue[0]) <= JOIN_BYTES_MAX:
            frame = queue.popleft()
            total += len(frame)
            count += 1
            pieces += (_TAG, _varint(len(frame)), frame)
    return b"".join(pieces), total


def one(frame: bytes) -> bytes:
    """A message of one frame."""
    return b"".join((_TAG, _varint(len(frame)), frame))


def split(message: bytes) -> list[bytes]:
    """Raises MalformedError."""
    if len(message) > PEER_MESSAGE_BYTES_MAX:
        raise MalformedError(f"peer message: {len(message)} bytes, at most {PEER_MESSAGE_BYTES_MAX}")
    frames: list[bytes] = []
    offset = 0
    end = len(message)
    while offset < end:
        if message[offset] != _TAG_BYTE:
            raise MalformedError("peer message: unknown field")
        size, offset = _read_length(message, offset + 1)
        if size > PEER_FRAME_BYTES_MAX:
            raise MalformedError(f"peer frame: {size} bytes, at most {PEER_FRAME_BYTES_MAX}")
        if offset + size > end:
            raise MalformedError("peer message: cut short")
        if len(frames) == PEER_MESSAGE_FRAMES_MAX:
            raise MalformedError(f"peer message: more than {PEER_MESSAGE_FRAMES_MAX} frames")
        frames.append(message[offset : offset + size])
        offset += size
    return frames


def _varint(value: int) -> bytes:
    if value < 0x80:
        return bytes((value,))
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _read_length(message: bytes, offset: int) -> tuple[int, int]:
    value = 0
    for shift in (0, 7, 14, 21):
        if offset >= len(message):
            raise MalformedError("peer message: cut short")
        byte = message[offset]
        offset += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, offset
    raise MalformedError("peer message: a length of more than 4 bytes")
