"""An event of an author's chain: its bytes, its hash, and its fields (HIS-1).

Owns: the strict reading of the signed bytes, cheapest questions first, and the hash.
Never: a signature (whoever lets an event in checks that, D-3), or a look at the chain.
Invariants: the hash is SHA-256 of the signed bytes as received; nothing is ever serialized again; the only errors of
`read_event` are MalformedError, TooLargeError and DepsTooLongError, each with the field and the limit.
"""

from __future__ import annotations

import hashlib
from typing import Final, NamedTuple

from google.protobuf.message import DecodeError

from hypercluster.errors import DepsTooLongError, MalformedError, TooLargeError
from hypercluster.limits import (
    HISTORY_CHANNEL_BYTES_MAX,
    HISTORY_DEPS_MAX,
    HISTORY_EVENT_BYTES_MAX,
)
from hypercluster.pb.v1.history_pb2 import HistoryEventBody

AUTHOR_BYTES: Final = 32
HASH_BYTES: Final = 32
SIGNATURE_BYTES: Final = 64
SEQ_MAX: Final = (1 << 63) - 1
NO_HASH: Final = bytes(HASH_BYTES)
STRUCTURAL_KINDS: Final = range(16)  # which no filter by channel leaves out (HIS-11)


class Event(NamedTuple):
    """`signed` and `signature` are the bytes as received; all else is read from them."""

    signed: bytes
    signature: bytes
    hash: bytes
    author: bytes
    seq: int
    prev: bytes
    deps: tuple[bytes, ...]
    kind: int
    channel: str
    payload: bytes
    timestamp_hint_ms: int


def read_event(signed: bytes, signature: bytes) -> Event:
    """The signature is looked at for its length alone."""
    if len(signed) > HISTORY_EVENT_BYTES_MAX:
        raise TooLargeError(
            f"event.signed has {len(signed)} bytes, limit HISTORY_EVENT_BYTES_MAX is {HISTORY_EVENT_BYTES_MAX}"
        )
    _exactly("event.signature", signature, SIGNATURE_BYTES)
    body = HistoryEventBody()
    try:
        body.ParseFromString(signed)
    except DecodeError as error:
        raise MalformedError("event.signed does not parse as protobuf") from error
    if len(body.deps) > HISTORY_DEPS_MAX:
        raise DepsTooLongError(f"event.deps holds {len(body.deps)}, limit HISTORY_DEPS_MAX is {HISTORY_DEPS_MAX}")
    body.DiscardUnknownFields()
    if body.ByteSize() != len(signed):
        raise MalformedError("event.signed holds fields this version does not know, or is not in its shortest encoding")
    _exactly("event.author", body.author, AUTHOR_BYTES)
    _exactly("event.prev", body.prev, HASH_BYTES)
    for number, dep in enumerate(body.deps):
        _exactly(f"event.deps[{number}]", dep, HASH_BYTES)
    if not 1 <= body.seq <= SEQ_MAX:
        raise MalformedError(f"event.seq is {body.seq}, must be 1 to {SEQ_MAX}")
    if len(body.channel.encode()) > HISTORY_CHANNEL_BYTES_MAX:
        raise TooLargeError(f"event.channel is over the limit HISTORY_CHANNEL_BYTES_MAX {HISTORY_CHANNEL_BYTES_MAX}")
    return Event(
        signed=signed,
        signature=signature,
        hash=event_hash(signed),
        author=body.author,
        seq=body.seq,
        prev=body.prev,
        deps=tuple(body.deps),
        kind=body.kind,
        channel=body.channel,
        payload=body.payload,
        timestamp_hint_ms=body.timestamp_hint_ms,
    )


def event_hash(signed: bytes) -> bytes:
    return hashlib.sha256(signed).digest()


def _exactly(field: str, value: bytes, size: int) -> None:
    if len(value) != size:
        raise MalformedError(f"{field} has {len(value)} bytes, must have {size}")
