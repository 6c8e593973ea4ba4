"""Keys and signatures of the authors of histories: Ed25519 (HIS-1, HIS-2).

Owns: which public keys may be enrolled, and the one check of an event's signature.
Never: who an author is; that is a record of the cluster's state.
Invariants: a key of small order is refused: under one, a signature can verify for any message. So is an encoding that
is not the shortest of its point, which would be a second name of the same author.
Source: RFC 8032, section 5.1.
"""

from __future__ import annotations

from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from hypercluster.errors import InvalidSignatureError, MalformedError

KEY_BYTES: Final = 32
_P: Final = 2**255 - 19
_D: Final = -121665 * pow(121666, _P - 2, _P) % _P
_ROOT_OF_MINUS_ONE: Final = pow(2, (_P - 1) // 4, _P)
_COFACTOR_DOUBLINGS: Final = 3

_Point = tuple[int, int]


def check_author_key(key: bytes) -> None:
    """Raises MalformedError for what is no point of the curve, another encoding of one, or one of small order."""
    if len(key) != KEY_BYTES:
        raise MalformedError(f"author has {len(key)} bytes, must be an Ed25519 public key of {KEY_BYTES}")
    point = _decompressed(key)
    for _ in range(_COFACTOR_DOUBLINGS):
        point = _doubled(point)
    if point == (0, 1):
        raise MalformedError("author is a key of small order")


def check_signature(author: bytes, signed: bytes, signature: bytes) -> None:
    """Raises InvalidSignatureError."""
    try:
        Ed25519PublicKey.from_public_bytes(author).verify(signature, signed)
    except (InvalidSignature, ValueError) as error:
        raise InvalidSignatureError(f"the signature is not one of author {author.hex()[:16]}…") from error


def _decompressed(key: bytes) -> _Point:
    number = int.from_bytes(key, "little")
    y, sign = number & (1 << 255) - 1, number >> 255
    if y >= _P:
        raise MalformedError("author is not the shortest encoding of its point")
    u, v = (y * y - 1) % _P, (_D * y * y + 1) % _P
    x = u * pow(v, 3, _P) * pow(u * pow(v, 7, _P), (_P - 5) // 8, _P) % _P
    if v * x * x % _P == -u % _P:
        x = x * _ROOT_OF_MINUS_ONE % _P
    if v * x * x % _P != u:
        raise MalformedError("author is no point of the curve")
    if x == 0 and sign:
        raise MalformedError("author is not the shortest encoding of its point")
    return (-x % _P if x & 1 != sign else x), y


def _doubled(point: _Point) -> _Point:
    x, y = point
    product = _D * x * x * y * y
    return (
        2 * x * y * pow(1 + product, _P - 2, _P) % _P,
        (y * y + x * x) * pow(1 - product, _P - 2, _P) % _P,
    )
