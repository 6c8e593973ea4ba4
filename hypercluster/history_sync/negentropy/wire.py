"""The bytes of a negentropy message, version 1 (NEG-1, NEG-6).

    message = 0x61, ranges          range = bound, mode, payload of the mode
    bound = timestamp (0: infinity, otherwise 1 + what it is above the bound before), prefix length, prefix

A range goes from the bound before it (at first: from the lowest item) to its own, which it leaves out. Varints have
seven bits a byte, the most significant first, and the high bit on all bytes but the last.
Owns: both directions of that, and every check a stranger's bytes need.
Never: a look at items; an allocation by a length that the message itself does not cover.
Invariants: `decode` raises MalformedError and nothing else, whatever it is given; what it accepts has bounds that never
decrease, and nothing behind the last one.
Source: github.com/hoytech/negentropy, docs/negentropy-protocol-v1.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from hypercluster.errors import MalformedError

VERSION: Final = 0x61
VERSIONS: Final = range(0x60, 0x70)  # what some version of the protocol may begin with
INFINITY: Final = (1 << 64) - 1  # as a timestamp: above all items
ID_BYTES: Final = 32
FINGERPRINT_BYTES: Final = 16
VARINT_BYTES_MAX: Final = 10

SKIP: Final = 0
FINGERPRINT: Final = 1
ID_LIST: Final = 2


class Bound(NamedTuple):
    """Items below it compare lower as (timestamp, id): the prefix stands for the least id that begins with it."""

    timestamp: int
    prefix: bytes = b""


class Range(NamedTuple):
    """`payload`: nothing, a fingerprint, or ids one behind the other."""

    end: Bound
    mode: int
    payload: bytes


TOP: Final = Bound(INFINITY)


def encode_varint(number: int) -> bytes:
    out = bytearray((number & 0x7F,))
    number >>= 7
    while number:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.reverse()
    return bytes(out)


class Writer:
    """Encodes the ranges of one message; the bounds of a message are each relative to the one before."""

    __slots__ = ("_timestamp",)

    def __init__(self) -> None:
        self._timestamp = 0

    def range(self, end: Bound, mode: int, payload: bytes = b"") -> bytes:
        """`payload` of ID_LIST: ids one behind the other; their count is put before them."""
        if end.timestamp == INFINITY:
            self._timestamp, timestamp = INFINITY, b"\0"
        else:
            timestamp = encode_varint(1 + end.timestamp - self._timestamp)
            self._timestamp = end.timestamp
        count = encode_varint(len(payload) // ID_BYTES) if mode == ID_LIST else b""
        return b"".join((timestamp, encode_varint(len(end.prefix)), end.prefix, bytes((mode,)), count, payload))


def decode(message: bytes) -> Iterator[Range]:
    """The ranges behind the version byte. Raises MalformedError, at the range that is wrong."""
    position, size = 1, len(message)
    before = Bound(0)
    while position < size:
        if before.timestamp == INFINITY:
            raise MalformedError(f"negentropy message: {size - position} bytes behind its last range")
        timestamp, position = _varint(message, position)
        if timestamp == 0:
            timestamp = INFINITY
        else:
            timestamp += before.timestamp - 1
            if timestamp >= INFINITY:
                raise MalformedError(f"negentropy message: bound {timestamp} is over the limit of {INFINITY - 1}")
        length, position = _varint(message, position)
        if length > ID_BYTES:
            raise MalformedError(f"negentropy message: a prefix of {length} bytes, limit is {ID_BYTES}")
        prefix, position = _take(message, position, length)
        end = Bound(timestamp, prefix)
        if end < before:
            raise MalformedError("negentropy message: its bounds decrease")
        before = end
        mode, position = _varint(message, position)
        count = 0
        if mode == FINGERPRINT:
            count = FINGERPRINT_BYTES
        elif mode == ID_LIST:
            ids, position = _varint(message, position)
            if ids > (size - position) // ID_BYTES:
                raise MalformedError(f"negentropy message: {ids} ids, but {size - position} bytes are left")
            count = ids * ID_BYTES
        elif mode != SKIP:
            raise MalformedError(f"negentropy message: mode {mode}, must be 0, 1 or 2")
        payload, position = _take(message, position, count)
        yield Range(end, mode, payload)


def _take(message: bytes, position: int, count: int) -> tuple[bytes, int]:
    taken = message[position : position + count]
    if len(taken) != count:
        raise MalformedError(f"negentropy message: ends {count - len(taken)} bytes too soon")
    return taken, position + count


def _varint(message: bytes, position: int) -> tuple[int, int]:
    number = 0
    for place in range(position, min(position + VARINT_BYTES_MAX, len(message))):
        byte = message[place]
        number = number << 7 | byte & 0x7F
        if byte < 0x80:
            if number > INFINITY:
                raise MalformedError(f"negentropy message: varint {number} is over the limit of {INFINITY}")
            return number, place + 1
    if len(message) - position >= VARINT_BYTES_MAX:
        raise MalformedError(f"negentropy message: a varint of more than {VARINT_BYTES_MAX} bytes")
    raise MalformedError("negentropy message: ends in a varint")
